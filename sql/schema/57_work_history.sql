-- Chapter 57, work history: the outcomes of lookups, batches and webhooks, and pauses, counted minute by minute.

create table app.work_minutes (
    organization_id uuid             not null,
    minute          timestamptz      not null,
    kind            text             not null,
    outcome         text             not null,
    error_class     text             not null default '',
    recorder        integer          not null default 0,
    items           bigint           not null,
    latency_seconds double precision not null,
    latency_buckets bigint[]         not null,
    wait_seconds    double precision not null,
    wait_buckets    bigint[]         not null,

    constraint work_minutes_pkey primary key (organization_id, minute, kind, outcome, error_class, recorder),
    constraint work_minutes_kind_check check (kind in ('lookup', 'job', 'webhook', 'pause')),
    constraint work_minutes_items_check check (items > 0)
) with (fillfactor = 70);

create index work_minutes_recent_idx on app.work_minutes (minute) where recorder <> 0;
create index work_minutes_minute_idx on app.work_minutes (minute);

comment on table app.work_minutes is 'The outcomes of the work of each minute, kept for 30 days. Flushes add to the row of an outcome, rather than insert one for each item. No foreign key: its check would wait for a transaction that has locked the organization.';
comment on column app.work_minutes.minute is 'Beginning of the minute in which it was recorded.';
comment on column app.work_minutes.kind is 'lookup: of an item; job: a batch that ended; webhook: an attempt of a delivery; pause: of all lookups.';
comment on column app.work_minutes.outcome is 'Of lookups: completed, failed, retried (the item will be tried again), deduplicated (completed with the answer to another item). Of jobs: completed, failed, cancelled. Of webhooks: delivered, failed, retried. Of pauses: outage (the circuit breaker opened), retry_after.';
comment on column app.work_minutes.error_class is 'Of a lookup: its error code, such as upstream_timeout. Of a webhook: the class of the HTTP status, such as http_5xx, or the error class. Empty: none.';
comment on column app.work_minutes.recorder is 'Process id of the backend that counts in this row, so that none waits for another; 0: the minute is over, and its rows were merged and added to app.work_totals.';
comment on column app.work_minutes.items is 'Number of lookups, batches, attempts or pauses.';
comment on column app.work_minutes.latency_seconds is 'Sum of the latencies, in seconds.';
comment on column app.work_minutes.latency_buckets is 'Numbers of latencies up to 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30 and 60 seconds, and above.';
comment on column app.work_minutes.wait_seconds is 'Of items that ended: sum of the seconds from the upload until their last lookup began or, without an answer to it, until they ended.';
comment on column app.work_minutes.wait_buckets is 'Numbers of these waits up to 1, 5, 15, 60, 300, 900, 3600, 14400 and 86400 seconds, and above.';

create table app.work_totals (
    kind            text             not null,
    outcome         text             not null,
    error_class     text             not null,
    items           bigint           not null,
    latency_seconds double precision not null,
    latency_buckets bigint[]         not null,
    wait_seconds    double precision not null,
    wait_buckets    bigint[]         not null,

    constraint work_totals_pkey primary key (kind, outcome, error_class)
);

comment on table app.work_totals is 'Sums of all organizations since the installation, for counters that never decrease. Rows of app.work_minutes with a recorder other than 0 are not in them yet.';
