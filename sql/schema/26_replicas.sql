-- Chapter 26, replicas: up to where each organization has written, so that a replica serves it only once it has replayed that.

create unlogged table app.recent_writes (
    organization_id uuid        not null,
    wal_history     text        not null,
    lsn             pg_lsn      not null,
    written_at      timestamptz not null,

    constraint recent_writes_pkey primary key (organization_id)
) with (fillfactor = 50);

comment on table app.recent_writes is 'The position in the WAL up to which each organization has written; the row of app.installation_id() has one for all organizations together. Unlogged, so empty after a crash or a promotion: then that row is missing, too.';
comment on column app.recent_writes.wal_history is 'The cluster and timeline that lsn belongs to: see app.wal_history().';
comment on column app.recent_writes.lsn is 'A standby that has replayed the WAL up to here has the writes. FFFFFFFF/FFFFFFFF: a write may still be in progress.';
