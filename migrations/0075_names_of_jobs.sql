-- A job is found by a part of its name without reading the names of all others. Maintenance takes the names of the jobs in that there are, some
-- minutes later, because calls that began before this create jobs without it.

create table app.job_names (
    organization_id uuid     not null,
    job_id          uuid     not null,
    parts           bigint[] not null,

    constraint job_names_pkey primary key (organization_id, job_id)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

create index job_names_parts_idx on app.job_names using gin (parts) with (fastupdate = off);

comment on table app.job_names is 'What the names of jobs consist of; jobs without a name have no row. The row of the job 00000000-0000-0000-0000-000000000000 says that those of all jobs of the organization are here: before that, names are looked for in the jobs. No foreign key: a row more does no harm.';
comment on column app.job_names.parts is 'Every two characters of the name that follow each other, of app.name_parts.';

insert into app.ended_changes (organization_id, id, change)
select id, gen_random_uuid(), 0 from app.organizations;

update app.maintenance_state set counts_from = clock_timestamp() + interval '2 minutes' where exists (select from app.organizations);
comment on column app.maintenance_state.counts_from is 'Organizations that have no totals yet, or whose names of jobs are not in app.job_names, are counted from then on.';
