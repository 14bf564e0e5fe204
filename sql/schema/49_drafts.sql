-- Chapter 49, drafts: uploads to be reviewed, repaired and started. The rows stay as uploaded; edits are stored beside them.

create table public.lookup_uploads (
    organization_id uuid        not null,
    id              uuid        not null,
    name            text,
    status          text        not null default 'draft',
    job_id          uuid,
    columns         jsonb       not null,
    defaults        jsonb       not null default '{}',
    value_maps      jsonb       not null default '{}',
    notes           jsonb       not null default '[]',
    check_devices   boolean     not null default true,
    total_rows      integer     not null,
    valid_rows      integer     not null default 0,
    invalid_rows    integer     not null default 0,
    skipped_rows    integer     not null default 0,
    warning_rows    integer     not null default 0,
    problem_groups  json        not null default '[]',
    warning_groups  json        not null default '[]',
    created_at      timestamptz not null,
    updated_at      timestamptz not null,
    expires_at      timestamptz not null,
    reuse_days      integer,
    known_rows      integer     not null default 0,

    constraint lookup_uploads_pkey primary key (organization_id, id),
    constraint lookup_uploads_organization_id_fkey foreign key (organization_id) references app.organizations (id),
    constraint lookup_uploads_status_check check (status in ('draft', 'started')),
    constraint lookup_uploads_job_check check ((status = 'started') = (job_id is not null)),
    constraint lookup_uploads_columns_check check (jsonb_typeof(columns) = 'array'),
    constraint lookup_uploads_counts_check check (valid_rows + invalid_rows + skipped_rows <= total_rows and total_rows between 1 and 10000)
);

create index lookup_uploads_newest_idx on public.lookup_uploads (organization_id, created_at desc, id desc);
create index lookup_uploads_expiry_idx on public.lookup_uploads (expires_at);

comment on table public.lookup_uploads is 'Drafts: uploads to be reviewed and repaired before they become a batch. They expire, whether or not they were started.';
comment on column public.lookup_uploads.status is 'draft; started: it has become a batch.';
comment on column public.lookup_uploads.job_id is 'The batch that it became, which may have been deleted since; null: it is still a draft.';
comment on column public.lookup_uploads.columns is 'An object for each column: {number, header, field, how, samples}, as in the HTTP API.';
comment on column public.lookup_uploads.defaults is '{field: value} for empty cells, and for fields without a column.';
comment on column public.lookup_uploads.value_maps is 'What the organization''s own words stand for: {field: {text in the file: value}}.';
comment on column public.lookup_uploads.notes is 'Assumptions about the whole file: [{code, message}].';
comment on column public.lookup_uploads.check_devices is 'Whether device ids must be in the catalogue.';
comment on column public.lookup_uploads.valid_rows is 'Rows that would be looked up. Valid, invalid and skipped rows add up to total_rows.';
comment on column public.lookup_uploads.warning_rows is 'Valid rows with warnings.';
comment on column public.lookup_uploads.problem_groups is 'The problems of all rows, grouped by field and code: [{field, code, count, examples}].';
comment on column public.lookup_uploads.expires_at is 'When the draft is deleted with its rows.';
comment on column public.lookup_uploads.reuse_days is 'Rows reuse results that are at most this many days old; null: all rows are looked up.';
comment on column public.lookup_uploads.known_rows is 'Valid rows for which there was such a result at updated_at.';

create table public.lookup_upload_rows (
    organization_id uuid    not null,
    upload_id       uuid    not null,
    position        integer not null,
    line            integer not null,
    cells           jsonb   not null,
    edits           jsonb,
    is_skipped      boolean not null default false,
    problems        jsonb[],
    warnings        jsonb[],

    constraint lookup_upload_rows_pkey primary key (organization_id, upload_id, position),
    constraint lookup_upload_rows_upload_fkey foreign key (organization_id, upload_id) references public.lookup_uploads (organization_id, id),
    constraint lookup_upload_rows_cells_check check (jsonb_typeof(cells) = 'array'),
    constraint lookup_upload_rows_edits_check check (jsonb_typeof(edits) = 'object')
) with (fillfactor = 70);

comment on table public.lookup_upload_rows is 'The rows of drafts, without the header and anything above it, empty rows and footers.';
comment on column public.lookup_upload_rows.position is 'Position among these rows, from 0.';
comment on column public.lookup_upload_rows.line is 'Line of the file, or row of the sheet, on which the row begins.';
comment on column public.lookup_upload_rows.cells is 'Cells as uploaded: one for each column or fewer.';
comment on column public.lookup_upload_rows.edits is 'Texts that replace cells: {number of the column, from 1: text}; null: none.';
comment on column public.lookup_upload_rows.problems is 'What is wrong with the row: {field, code, value, of}; null: it is valid or skipped.';
comment on column public.lookup_upload_rows.warnings is 'What was corrected or looks wrong: {field, code, was, now, ...}; null: nothing.';

create table app.column_memory (
    organization_id uuid        not null,
    name            text        not null,
    field           text,
    values          jsonb       not null default '{}',
    used_at         timestamptz not null,

    constraint column_memory_pkey primary key (organization_id, name),
    constraint column_memory_organization_id_fkey foreign key (organization_id) references app.organizations (id) on delete cascade,
    constraint column_memory_values_check check (jsonb_typeof(values) = 'object' and octet_length(values::text) <= 65536)
);

comment on table app.column_memory is 'What an organization specified about the columns of its drafts when it started them; applied to its next file with such a column.';
comment on column app.column_memory.name is 'The header, as app.plain_name leaves it.';
comment on column app.column_memory.field is 'The field that the column is for; null: none.';
comment on column app.column_memory.values is 'What the organization''s own words in the column stand for: {text: value}.';
