-- squawk-ignore-file ban-drop-column, ban-drop-function
-- Outcomes go from function to function without their answers, which stay in two arrays.

alter type app.lookup_outcome drop attribute result;
alter type app.lookup_outcome drop attribute response;
alter type app.lookup_outcome add attribute number integer;

comment on type app.lookup_outcome is 'What came of one lookup, judged by app.retry_policy: complete, retry, wait (with the pause asked for) or fail; latency is in seconds. Its answer is in the arrays of the flush, at its number.';

drop function if exists app.classify_outcomes(uuid[], integer[], uuid[], integer[], text[], text[], double precision[], double precision[]);
drop function if exists app.apply_outcomes(uuid, app.lookup_outcome[], public.lookup_leases[], boolean, timestamptz);
drop function if exists app.mend_expired_items(uuid, app.lookup_outcome[], public.lookup_queue_items[], timestamptz);
