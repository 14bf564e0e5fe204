-- Chapter 40, batch lookups: a job is an upload, an item is one site to look up.

create table public.batch_lookup_jobs (
    organization_id uuid        not null,
    id              uuid        not null,
    name            text,
    status          text        not null default 'pending',
    total_items     integer     not null,
    processed_items integer     not null default 0,
    failed_items    integer     not null default 0,
    report_id       uuid        not null,
    created_at      timestamptz not null,
    started_at      timestamptz,
    completed_at    timestamptz,
    updated_at      timestamptz not null,
    retry_of_job_id uuid,
    rate            double precision,

    constraint batch_lookup_jobs_pkey primary key (organization_id, id),
    constraint batch_lookup_jobs_organization_id_fkey foreign key (organization_id) references app.organizations (id),
    constraint batch_lookup_jobs_status_check check (status in ('pending', 'processing', 'completed', 'failed', 'cancelled')),
    constraint batch_lookup_jobs_total_check check (total_items > 0),
    constraint batch_lookup_jobs_counters_check check (failed_items >= 0 and failed_items <= processed_items and processed_items <= total_items),
    constraint batch_lookup_jobs_ended_check check ((status in ('pending', 'processing')) = (completed_at is null)),
    constraint batch_lookup_jobs_outcome_check check (
        case status
            when 'pending'    then processed_items = 0
            when 'processing' then processed_items < total_items
            when 'completed'  then processed_items = total_items and failed_items < total_items
            when 'failed'     then failed_items = total_items
            else true
        end)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 0);

create index batch_lookup_jobs_newest_idx on public.batch_lookup_jobs (organization_id, created_at desc, id desc);
create index batch_lookup_jobs_open_idx on public.batch_lookup_jobs (organization_id, id) where status in ('pending', 'processing');
create index batch_lookup_jobs_ended_idx on public.batch_lookup_jobs (organization_id, completed_at) where completed_at is not null;
create index batch_lookup_jobs_unusual_idx on public.batch_lookup_jobs (organization_id, status, created_at desc, id desc)
    where status in ('failed', 'cancelled');

comment on table public.batch_lookup_jobs is 'One row per uploaded batch. Published for Supabase Realtime, so it has no array, json or point column and keeps the default replica identity.';
comment on column public.batch_lookup_jobs.processed_items is 'Items that have ended, completed and failed together.';
comment on column public.batch_lookup_jobs.completed_at is 'When the job ended, whether completed, failed or cancelled; null: it is open.';
comment on column public.batch_lookup_jobs.rate is 'Items that end per second, as of updated_at: a moving average over half a minute; null: none has ended.';
comment on column public.batch_lookup_jobs.retry_of_job_id is 'The job whose failed items this one retries, which may have been deleted since; null: it is not a retry.';

create table public.lookup_queue_items (
    organization_id       uuid        not null,
    id                    uuid        not null,
    job_id                uuid        not null,
    position              integer     not null,
    status                text        not null default 'pending',
    reference_id          text        not null,
    address               jsonb       not null,
    building_type         text        not null,
    device_ids            integer[]   not null,
    create_application    boolean     not null default false,
    webhook_custom_fields jsonb,
    warnings              text[],
    retry_count           integer     not null default 0,
    retry_at              timestamptz,
    parsed_result         jsonb,
    error_code            text,
    error_message         text,
    created_at            timestamptz not null,
    processed_at          timestamptz,
    deduplication_key     uuid,
    result                json,
    reused_from_job_id    uuid,
    reused_from_position  integer,
    household             jsonb,

    constraint lookup_queue_items_pkey primary key (organization_id, job_id, position),
    constraint lookup_queue_items_job_fkey foreign key (organization_id, job_id) references public.batch_lookup_jobs (organization_id, id),
    constraint lookup_queue_items_status_check check (status in ('pending', 'completed', 'failed')),
    constraint lookup_queue_items_retry_check check (retry_at is null or status = 'pending'),
    constraint lookup_queue_items_ended_check check ((status in ('completed', 'failed')) = (processed_at is not null)),
    constraint lookup_queue_items_outcome_check check ((status = 'completed') = (result is not null or parsed_result is not null) and (status = 'failed') = (error_code is not null and error_message is not null and processed_at is not null)),
    constraint lookup_queue_items_reused_check check ((reused_from_job_id is null) = (reused_from_position is null) and (reused_from_job_id is null or status = 'completed'))
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

create index lookup_queue_items_waiting_idx on public.lookup_queue_items (organization_id, retry_at)
    where status = 'pending' and retry_at is not null;
create index lookup_queue_items_failed_idx on public.lookup_queue_items (organization_id, job_id, error_code)
    where status = 'failed';
create index lookup_queue_items_deduplication_idx on public.lookup_queue_items (organization_id, deduplication_key) where deduplication_key is not null;

comment on table public.lookup_queue_items is 'One row per site of a batch: what to look up, and the result. Written at the upload, for each retry and at the end; the first claim writes nothing here.';
comment on column public.lookup_queue_items.id is 'For users. The queue names an item by its job and position, so id has no index.';
comment on column public.lookup_queue_items.position is 'Position in the upload, from 0.';
comment on column public.lookup_queue_items.status is 'pending until the item ends, even while it is being looked up. api.items and the HTTP API call it processing while public.lookup_leases has it.';
comment on column public.lookup_queue_items.retry_at is 'When a waiting item is due; infinity: its job is held; null: it is not waiting.';
comment on column public.lookup_queue_items.result is 'The answer of the incentives API, stored as received; a copied answer has the reference_id of its own item and is marked as deduplicated.';
comment on column public.lookup_queue_items.parsed_result is 'The parsed answer, in an item that functions pass on to be recorded. Null in the table, except in rows older than the column result.';
comment on column public.lookup_queue_items.deduplication_key is 'Items with the same key ask the same question. null: deduplication was off at the upload, the item creates an application, or its answer is a copy.';
comment on column public.lookup_queue_items.reused_from_job_id is 'The job whose result reuse_results gave to this item, which may have been deleted since; null: none was reused.';
comment on column public.lookup_queue_items.reused_from_position is 'Position in that job of the item with the reused result.';
comment on column public.lookup_queue_items.household is 'What is known about the people at the site: {income, size, owner_status, tax_filing}, as in POST /incentives; null: nothing.';
comment on column public.lookup_queue_items.warnings is 'What looks wrong with the input but did not prevent the lookup.';

create type app.cell_notes as (
    warnings jsonb[],
    problems jsonb[]
);

comment on type app.cell_notes is 'Findings about a row of a file. warnings: {field, code, message, was, now} for what was corrected; problems: {field, code, value, of} for what is wrong. null: nothing.';

create type app.batch_item as (
    position              integer,
    reference_id          text,
    address               jsonb,
    building_type         text,
    device_ids            integer[],
    create_application    boolean,
    webhook_custom_fields jsonb,
    warnings              text[],
    problems              jsonb[],
    details               jsonb[],
    household             jsonb
);

comment on type app.batch_item is 'An item of an upload as the validator reads it. problems: {field, code, value, ...}, null: it is valid; details: its warnings as {field, code, was, now, ...}.';
