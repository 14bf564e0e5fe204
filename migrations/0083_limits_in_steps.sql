-- They answer what they did now: whether it was all, and how many items.

-- squawk-ignore-file ban-drop-function
drop function if exists app.stop_at_limits(uuid, boolean, timestamptz);
drop function if exists app.fail_at_limit(uuid, uuid, timestamptz);
