-- Chapter 26, replicas: what an organization has recently written, which a replica must have before it serves that organization.

create unlogged table app.recent_writes (
    organization_id uuid        not null,
    wal_history     text        not null,
    lsn             pg_lsn      not null,
    written_at      timestamptz not null,

    constraint recent_writes_pkey primary key (organization_id)
) with (fillfactor = 50);

comment on table app.recent_writes is 'Up to where the WAL holds the writes of an organization; of all of them in the row of the installation. Empty after a crash or a promotion, when app.installation_id() has no row.';
comment on column app.recent_writes.wal_history is 'The cluster and timeline that lsn is a position of: see app.wal_history().';
comment on column app.recent_writes.lsn is 'A standby that has replayed this has the writes. FFFFFFFF/FFFFFFFF: one may still be under way.';
