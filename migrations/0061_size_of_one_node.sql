-- squawk-ignore-file ban-drop-function, require-concurrent-index-creation
-- Checks are given how the queue stands instead of finding it out each for itself. What is old, or recent, is found without reading all.

drop function if exists app.diagnose_queue();
drop function if exists app.diagnose_transactions();
drop function if exists app.prune_audit_events(timestamptz);
drop function if exists app.prune_deleted_rows(timestamptz);

create index idempotency_keys_created_at_idx on app.idempotency_keys (created_at);
create index work_minutes_minute_idx on app.work_minutes (minute);
