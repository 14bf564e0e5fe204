-- Chapter 56, duplicates: results that are already known.

create table app.known_jobs (
    organization_id uuid    not null,
    job_id          uuid    not null,
    completed_items integer not null,

    constraint known_jobs_pkey primary key (organization_id, job_id)
);

comment on table app.known_jobs is 'Jobs whose results app.known_results has. Both are written when an upload asks for reuse_results, and never by a flush.';
comment on column app.known_jobs.completed_items is 'How many items had been completed then; if there are more by now, the job is read again.';

create table app.known_results (
    organization_id   uuid        not null,
    deduplication_key uuid        not null,
    job_id            uuid        not null,
    position          integer     not null,
    looked_up_at      timestamptz not null,

    constraint known_results_pkey primary key (organization_id, deduplication_key, job_id, position)
);

create index known_results_job_idx on app.known_results (organization_id, job_id);

comment on table app.known_results is 'Completed items by their deduplication key, each with an answer of its own: a later item that asks the same question can be given it. Deleted with the job.';
comment on column app.known_results.looked_up_at is 'When the incentives API gave the answer.';

create table app.known_organizations (
    organization_id uuid        not null,
    read_until      timestamptz not null default '-infinity',

    constraint known_organizations_pkey primary key (organization_id)
);

comment on table app.known_organizations is 'Organizations that have asked for reuse_results, for which maintenance reads on.';
comment on column app.known_organizations.read_until is 'app.known_results has all jobs that ended more than an hour before.';
