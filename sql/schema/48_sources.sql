-- Chapter 48, sources: the columns or metadata of an upload that are not ours, to be returned with the results.

create table public.lookup_job_columns (
    organization_id uuid   not null,
    job_id          uuid   not null,
    header          text[] not null,
    names           text[] not null,
    has_cells       boolean not null default true,

    constraint lookup_job_columns_pkey primary key (organization_id, job_id),
    constraint lookup_job_columns_job_fkey foreign key (organization_id, job_id) references public.batch_lookup_jobs (organization_id, id),
    constraint lookup_job_columns_count_check check (cardinality(header) between 1 and 500 and cardinality(names) = cardinality(header))
);

comment on table public.lookup_job_columns is 'The columns of the file that a batch was uploaded as, or the members of its items'' metadata; a batch with neither has no row.';
comment on column public.lookup_job_columns.header is 'Names as in the file, in its order.';
comment on column public.lookup_job_columns.names is 'The same names, made non-empty and unique, as members of a JSON object must be.';
comment on column public.lookup_job_columns.has_cells is 'false: the file had only our fields, under our names, so only their order is kept.';

create table public.lookup_item_sources (
    organization_id uuid    not null,
    job_id          uuid    not null,
    position        integer not null,
    cells           jsonb   not null,

    constraint lookup_item_sources_pkey primary key (organization_id, job_id, position),
    constraint lookup_item_sources_job_fkey foreign key (organization_id, job_id) references public.lookup_job_columns (organization_id, job_id),
    constraint lookup_item_sources_cells_check check (jsonb_typeof(cells) in ('array', 'object'))
);

comment on table public.lookup_item_sources is 'The uploaded row or the metadata of each item, in a table of its own because the queue never reads it. Written once at the upload, deleted with the job.';
comment on column public.lookup_item_sources.position is 'Position of the item in the upload, from 0.';
comment on column public.lookup_item_sources.cells is 'The cells of the row, an array with one for each column or fewer; or the metadata, an object.';
