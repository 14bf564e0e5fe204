-- Chapter 68, counts: how many ended jobs and reports an organization has, and how many lookups it made on each day.

create table app.ended_totals (
    organization_id uuid   not null,
    kind            text   not null,
    status          text   not null,
    total           bigint not null,

    constraint ended_totals_pkey primary key (organization_id, kind, status),
    constraint ended_totals_kind_check check (kind in ('jobs', 'reports'))
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 0);

comment on table app.ended_totals is 'How many ended jobs and reports an organization has, by status; the changes in app.ended_changes are not in them yet. An organization without a row has not been counted yet. No foreign key: maintenance, which writes the table, would wait for a transaction that has locked the organization.';

create table app.ended_changes (
    organization_id uuid    not null,
    id              uuid    not null,
    change          integer not null,
    job_status      text,
    report_status   text,

    constraint ended_changes_pkey primary key (organization_id, id)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 0);

comment on table app.ended_changes is 'Changes of app.ended_totals, one row each, so that nobody who ends or deletes a job waits; maintenance adds them up.';
comment on column app.ended_changes.change is 'How many jobs with job_status and reports with report_status there are more; negative: fewer.';

create table app.usage_days (
    organization_id uuid    not null,
    day             date    not null,
    lookups         bigint  not null,
    jobs            integer not null,

    constraint usage_days_pkey primary key (organization_id, day)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 0);

comment on table app.usage_days is 'Lookups by day: the sums of public.lookup_usage, including rows that were deleted. A row for the day -infinity means that the organization''s days have been added up. No foreign key: claims write the table, and its check would wait for a transaction that has locked the organization.';
comment on column app.usage_days.jobs is 'How many rows of public.lookup_usage for that day have lookups other than 0.';
