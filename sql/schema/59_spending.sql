-- Chapter 59, spending: how many lookups are made, and how many may be.

create table public.lookup_usage (
    organization_id uuid    not null,
    day             date    not null,
    job_id          uuid    not null,
    lookups         integer not null,

    constraint lookup_usage_pkey primary key (organization_id, day, job_id),
    constraint lookup_usage_lookups_check check (lookups >= 0)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

comment on table public.lookup_usage is 'Lookups by day and job. A lookup counts as soon as a worker claims it, so that no limit can be exceeded, and no longer counts once the worker has released it unsent; each retry counts. Rows outlive their job: forever or, if job_retention_days is set, for that many days and at least 400.';
comment on column public.lookup_usage.day is 'Day of the claim, in UTC.';

create table app.job_budgets (
    organization_id    uuid    not null,
    job_id             uuid    not null,
    sample             integer,
    max_lookups        integer,
    when_limit_reached text    not null default 'fail',
    lookups            integer not null default 0,
    held_position      integer,

    constraint job_budgets_pkey primary key (organization_id, job_id),
    constraint job_budgets_job_fkey foreign key (organization_id, job_id) references public.batch_lookup_jobs (organization_id, id),
    constraint job_budgets_sample_check check (sample > 0),
    constraint job_budgets_max_lookups_check check (max_lookups > 0),
    constraint job_budgets_when_limit_reached_check check (when_limit_reached in ('fail', 'wait')),
    constraint job_budgets_lookups_check check (lookups >= 0)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 0);

comment on table app.job_budgets is 'What the upload of a job specified about its lookups: sample, max_lookups or when_limit_reached. Other jobs have no row.';
comment on column app.job_budgets.sample is 'Items that are looked up first; then the job is held until it is continued. null: no sample, or it was continued.';
comment on column app.job_budgets.max_lookups is 'Lookups that the job may make, retries included; null: no limit of its own.';
comment on column app.job_budgets.when_limit_reached is 'What the remaining items do at max_lookups, or at the monthly_lookups of the organization: fail or wait.';
comment on column app.job_budgets.lookups is 'Lookups counted so far, as in public.lookup_usage.';
comment on column app.job_budgets.held_position is 'Where claims resume when the job is continued: it is held, and has no row in app.queued_jobs. null: it is not held.';
