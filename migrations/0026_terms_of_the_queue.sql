-- squawk-ignore-file renaming-column, renaming-object, ban-drop-view
-- The queue's columns, and a setting, have the names that its functions and the glossary have for them.

drop view if exists api.queue_health;

alter table app.settings rename column outage_patience_seconds to max_outage_wait_seconds;
alter table app.settings rename constraint settings_outage_patience_seconds_check to settings_max_outage_wait_seconds_check;

alter table app.upstream_state rename column failures_in_a_row to consecutive_failures;
alter table app.upstream_state rename constraint upstream_state_failures_in_a_row_check to upstream_state_consecutive_failures_check;
alter table app.upstream_state rename column in_flight_limit to concurrency_limit;
alter table app.upstream_state rename constraint upstream_state_in_flight_limit_check to upstream_state_concurrency_limit_check;

alter table public.lookup_queue_items rename column work_key to deduplication_key;
alter index public.lookup_queue_items_work_idx rename to lookup_queue_items_deduplication_idx;
comment on column public.lookup_queue_items.deduplication_key is 'Items with the same key ask the same question; null: looked up in any case.';
