-- Chapter 58, attempts: the history of an item, unless it is a single success.

create table public.lookup_attempts (
    organization_id uuid        not null,
    job_id          uuid        not null,
    position        integer     not null,
    attempt         integer     not null,
    outcome         text        not null,
    worker          text,
    latency_ms      integer,
    http_status     integer,
    error_code      text,
    error_message   text,
    recorded_at     timestamptz not null,

    constraint lookup_attempts_pkey primary key (organization_id, job_id, position, attempt),
    constraint lookup_attempts_attempt_check check (attempt > 0),
    constraint lookup_attempts_outcome_check check (outcome in ('complete', 'retry', 'wait', 'fail')),
    constraint lookup_attempts_latency_check check (latency_ms >= 0),
    constraint lookup_attempts_error_check check ((outcome = 'complete') = (error_code is null and error_message is null))
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

create index lookup_attempts_recorded_idx on public.lookup_attempts (organization_id, recorded_at);

comment on table public.lookup_attempts is 'Attempts of the items whose first lookup did not succeed or, with the setting record_all_attempts, of all items. Deleted with the job, or after attempt_retention_days. No foreign key: its check would wait for a flush that has locked the job.';
comment on column public.lookup_attempts.position is 'Position of the item in the upload, from 0.';
comment on column public.lookup_attempts.attempt is 'Number of the recorded attempt of this item, from 1.';
comment on column public.lookup_attempts.outcome is 'complete; retry: the item is tried again; wait: the same, without using up a retry; fail: it failed permanently.';
comment on column public.lookup_attempts.worker is 'The worker that looked it up; null: its lease no longer existed.';
comment on column public.lookup_attempts.latency_ms is 'Milliseconds from the request to the response or failure; null: not known.';
comment on column public.lookup_attempts.http_status is 'HTTP status of the response; null: there was none.';
comment on column public.lookup_attempts.error_code is 'The error code in app.retry_policy, or lease_expired; null: a success.';
comment on column public.lookup_attempts.recorded_at is 'When the outcome was recorded.';
