-- squawk-ignore-file ban-drop-function
-- Outcomes are applied as a set of items, and need of the settings how often a lookup is tried and the waits in between.

drop function if exists app.is_final(text, integer, app.settings);
drop function if exists app.retry_backoff(integer, app.settings);
drop function if exists app.apply_outcomes(uuid, app.lookup_outcome[], text[], jsonb[], public.lookup_leases[], boolean, timestamptz);
