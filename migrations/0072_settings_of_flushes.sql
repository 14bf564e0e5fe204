-- squawk-ignore-file ban-drop-function
-- A claim and a flush read the settings once.

drop function if exists app.hold_slots(uuid, integer);
drop function if exists app.lease_items(uuid, text, public.lookup_queue_items[], timestamptz, timestamptz);
drop function if exists app.apply_outcomes(uuid, app.lookup_outcome[], text[], jsonb[], public.lookup_leases[], boolean, timestamptz);
