-- Chapter 69, names: an index by which jobs are found by a part of their name.

create table app.job_names (
    organization_id uuid     not null,
    job_id          uuid     not null,
    parts           bigint[] not null,

    constraint job_names_pkey primary key (organization_id, job_id)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

create index job_names_parts_idx on app.job_names using gin (parts) with (fastupdate = off);

comment on table app.job_names is 'The index by which jobs are found by a part of their name; jobs without a name have no row. A row for the job 00000000-0000-0000-0000-000000000000 means that all jobs of the organization are indexed; until then, names are searched in the jobs. No foreign key: a row too many does no harm.';
comment on column app.job_names.parts is 'Every pair of adjacent characters in the name, by app.name_parts.';
