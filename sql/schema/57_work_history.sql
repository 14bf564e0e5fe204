-- Chapter 57, work history: how many lookups, webhooks and pauses there were, counted by the database itself.

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

comment on table app.work_minutes is 'What came of the work of each minute, kept for 30 days. One row for each flush''s outcomes to count in, never one for each item. No foreign key: its check would wait for whoever holds the organization.';
comment on column app.work_minutes.minute is 'The beginning of the minute in which it was recorded.';
comment on column app.work_minutes.kind is 'lookup: of an item; job: a batch that ended; webhook: an attempt at a delivery; pause: of all lookups.';
comment on column app.work_minutes.outcome is 'Of lookups: completed, failed, retried (it will be tried again), deduplicated (answered from a duplicate). Of jobs: completed, failed, cancelled. Of webhooks: delivered, failed, retried. Of pauses: outage (the circuit breaker opened), retry_after.';
comment on column app.work_minutes.error_class is 'The error code of a lookup, such as upstream_timeout; http_4xx, http_5xx or the class of the error of a webhook; empty: none.';
comment on column app.work_minutes.recorder is 'The process id of the backend that counts here, so that none waits for another; 0: the minute is over, and counted in app.work_totals.';
comment on column app.work_minutes.items is 'How many.';
comment on column app.work_minutes.latency_seconds is 'Sum of how long the answers took, in seconds.';
comment on column app.work_minutes.latency_buckets is 'How many answers took up to 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30 and 60 seconds, and longer.';
comment on column app.work_minutes.wait_seconds is 'Of items that ended: sum of the seconds from the upload until the lookup that ended them began.';
comment on column app.work_minutes.wait_buckets is 'How many items waited up to 1, 5, 15, 60, 300, 900, 3600, 14400 and 86400 seconds, and longer.';

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

comment on table app.work_totals is 'The sums of all organizations since the installation, for counters that never go back. What app.work_minutes has with a recorder comes on top.';
