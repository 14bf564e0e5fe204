-- squawk-ignore-file ban-drop-function, require-concurrent-index-creation, constraint-missing-not-valid
-- Items can be given the result of an earlier one that asked the same question.

alter table public.lookup_queue_items
    add column reused_from_job_id uuid,
    add column reused_from_position integer,
    add constraint lookup_queue_items_reused_check
        check ((reused_from_job_id is null) = (reused_from_position is null) and (reused_from_job_id is null or status = 'completed'));

comment on column public.lookup_queue_items.reused_from_job_id is 'With reuse_results: the job of the item whose answer this one was given, which may have been deleted since; null: it has its own.';
comment on column public.lookup_queue_items.reused_from_position is 'Place of that item in its job.';

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

drop function if exists app.store_batch(uuid, app.batch_item[], text, uuid);
drop function if exists app.upload_options(jsonb, jsonb);
