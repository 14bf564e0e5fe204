-- squawk-ignore-file ban-drop-function
-- app.counts_by_job returns the positions of the items that wait, in place of their number.

drop function if exists app.counts_by_job(public.lookup_queue_items[]);
drop function if exists app.waiting_positions(public.lookup_queue_items[]);
