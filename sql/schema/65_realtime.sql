-- Chapter 65, Realtime: a record of deleted rows.

create table app.deleted_rows (
    organization_id uuid        not null,
    table_name      text        not null,
    id              uuid        not null,
    deleted_at      timestamptz not null,

    constraint deleted_rows_pkey primary key (organization_id, table_name, id)
);

create index deleted_rows_deleted_at_idx on app.deleted_rows (deleted_at);

comment on table app.deleted_rows is 'Tombstones of deleted jobs and reports, kept for a day: subscribers that missed the notification find them among the changes.';
comment on column app.deleted_rows.table_name is 'batch_lookup_jobs or incentive_reports.';
