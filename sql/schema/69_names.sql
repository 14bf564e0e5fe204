-- Chapter 69, names: the parts of a job's name by which it is found.

create table app.job_names (
    organization_id uuid     not null,
    job_id          uuid     not null,
    parts           bigint[] not null,

    constraint job_names_pkey primary key (organization_id, job_id)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

create index job_names_parts_idx on app.job_names using gin (parts) with (fastupdate = off);

comment on table app.job_names is 'What the names of jobs consist of; jobs without a name have no row. The row of the job 00000000-0000-0000-0000-000000000000 says that those of all jobs of the organization are here: before that, names are looked for in the jobs. No foreign key: a row more does no harm.';
comment on column app.job_names.parts is 'Every two characters of the name that follow each other, of app.name_parts.';
