-- The function that counts outcomes for the history of work no longer has the name of the one that counts lookups against limits.

-- squawk-ignore-file ban-drop-function
drop function if exists app.count_lookups(uuid, app.lookup_outcome[], public.lookup_queue_items[], timestamptz);
