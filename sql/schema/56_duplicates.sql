-- Chapter 56, duplicates: results that later items with the same question can reuse.

create table app.known_jobs (
    organization_id uuid    not null,
    job_id          uuid    not null,
    completed_items integer not null,

    constraint known_jobs_pkey primary key (organization_id, job_id)
);

comment on table app.known_jobs is 'Jobs whose results app.known_results has. Both are written when an upload uses reuse_results, and by maintenance; never by a flush.';
comment on column app.known_jobs.completed_items is 'Completed items when the job was read; if there are more now, it is read again.';

create table app.known_results (
    organization_id   uuid        not null,
    deduplication_key uuid        not null,
    job_id            uuid        not null,
    position          integer     not null,
    looked_up_at      timestamptz not null,

    constraint known_results_pkey primary key (organization_id, deduplication_key, job_id, position)
);

create index known_results_job_idx on app.known_results (organization_id, job_id);

comment on table app.known_results is 'Completed items by their deduplication key, for later items with the same question (reuse_results). Copied answers are left out. Deleted with the job.';
comment on column app.known_results.looked_up_at is 'When the incentives API gave the answer.';

create table app.known_organizations (
    organization_id uuid        not null,
    read_until      timestamptz not null default '-infinity',

    constraint known_organizations_pkey primary key (organization_id)
);

comment on table app.known_organizations is 'Organizations that have used reuse_results: maintenance reads their new results.';
comment on column app.known_organizations.read_until is 'app.known_results has the results of all jobs that ended more than an hour before this time.';
