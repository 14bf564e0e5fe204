-- What was spent is told from a row for each day. Maintenance adds the days of each organization up once, some minutes later, because calls that
-- began before this count lookups without it.

create table app.usage_days (
    organization_id uuid    not null,
    day             date    not null,
    lookups         bigint  not null,
    jobs            integer not null,

    constraint usage_days_pkey primary key (organization_id, day)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 0);

comment on table app.usage_days is 'Lookups by day: the sums of public.lookup_usage, also of rows that were deleted. A row of the day -infinity says that the days of the organization have been added up. No foreign key: claims write it, and its check would wait for whoever holds the organization.';
comment on column app.usage_days.jobs is 'How many rows of the day public.lookup_usage has whose lookups are not 0.';

insert into app.ended_changes (organization_id, id, kind, status, change)
select id, gen_random_uuid(), 'jobs', 'completed', 0 from app.organizations;

update app.maintenance_state set counts_from = clock_timestamp() + interval '2 minutes' where exists (select from app.organizations);

comment on table public.lookup_usage is 'Lookups by day and job. A lookup counts as soon as a worker claims it, so that no limit can be exceeded, and no more once the worker has given it back unsent; each retry counts. Kept when the job is deleted; where job_retention_days is set, for as many days, and 400 at least.';
