-- squawk-ignore-file ban-drop-function
-- A statement of a claim or of a flush names one table.

drop function if exists app.advance_job(uuid, uuid, integer, integer, timestamptz);
drop function if exists app.advance_jobs(uuid, public.lookup_queue_items[], timestamptz);
drop function if exists app.complete_items(uuid, uuid, integer[], text[], jsonb[], timestamptz);
drop function if exists app.count_completed_lookups(uuid, uuid[], double precision[], timestamptz);
drop function if exists app.count_items(public.lookup_queue_items[]);
drop function if exists app.count_lookups(uuid, public.lookup_leases[], timestamptz);
drop function if exists app.free_plans();
drop function if exists app.has_attempts(uuid, uuid[], app.outage_signs);
drop function if exists app.lease_items(uuid, text, public.lookup_queue_items[], timestamptz);
drop function if exists app.publish_item_changes(uuid, public.lookup_queue_items[], timestamptz);
drop function if exists app.start_jobs(uuid, public.lookup_queue_items[], timestamptz);
drop function if exists app.update_report(uuid, uuid, timestamptz, integer, integer, numeric, numeric, text);
