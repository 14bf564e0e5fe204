begin;
select plan(17);
\ir fixtures.psql

create function pg_temp.written(p_organization_id uuid) returns pg_lsn
language sql as $$ select written from api.read_position(p_organization_id) $$;

create function pg_temp.make_it_older() returns void
language sql as $$ update app.recent_writes set written_at = written_at - interval '6 minutes' $$;

-- In this test's transaction, without any record of earlier writes
select pg_current_wal_insert_lsn() as beginning \gset
select cmp_ok(pg_temp.written(:'org'), '>=', :'beginning'::pg_lsn, 'where nothing is known, everything counts as written up to now');
select pg_temp.written(:'org') as known \gset
select matches((select wal_history from api.read_position(:'org')), '^\d+/1$', 'a position belongs to a cluster and its timeline');

-- Writes
select pg_temp.submit(:'org', 1) as job \gset
select is(pg_temp.written(:'org'), :'known'::pg_lsn, 'a write by SQL is not recorded');
select api.note_write(:'org') as noted \gset
select cmp_ok(pg_temp.written(:'org'), '>', :'known'::pg_lsn, 'a recorded write has to be replayed');
select is(pg_temp.written(:'other_org'), :'known'::pg_lsn, 'the write of one organization does not count for another');
select cmp_ok((select lsn from api.read_position(:'org')), '>=', '0/1'::pg_lsn, 'the primary tells its own position');
select pg_temp.written(:'org') as written \gset
select pg_temp.submit(:'org', 1) as job \gset
select api.note_write(:'org') as noted \gset
select cmp_ok(pg_temp.written(:'org'), '>', :'written'::pg_lsn, 'the latest write counts');

-- Writes that may not have ended
select api.note_write(:'other_org', false) as noted \gset
select written_at from app.recent_writes where organization_id = :'other_org' \gset
select api.note_write(:'other_org') as noted \gset
select is(pg_temp.written(:'other_org'), 'FFFFFFFF/FFFFFFFF'::pg_lsn, 'while a write may be in progress, no replica has it');
select is((select written_at from app.recent_writes where organization_id = :'other_org'), :'written_at'::timestamptz, 'a known write does not prolong an unknown one');

-- Pruning
select pg_temp.written(:'org') as written \gset
select app.prune_recent_writes(app.clock()) as pruned \gset
select is((select count(*)::integer from app.recent_writes), 3, 'recent writes are not pruned');
select pg_temp.make_it_older();
select app.prune_recent_writes(app.clock()) as pruned \gset
select results_eq('select organization_id from app.recent_writes', $$ values (app.installation_id()) $$, 'old writes are pruned');
select cmp_ok(pg_temp.written(:'org'), '>=', :'written'::pg_lsn, 'a pruned write still has to be replayed');
select cmp_ok(pg_temp.written(:'other_org'), '<=', pg_current_wal_insert_lsn(), 'a write that may have been in progress has ended when it is pruned');
select is((app.run_maintenance() ->> 'skipped')::boolean, false, 'maintenance prunes when nothing is old, too');

-- Another cluster
select api.note_write(:'org') as noted \gset
update app.recent_writes set wal_history = '1/1', lsn = 'FFFFFFF0/0';
select cmp_ok(pg_temp.written(:'org'), '<=', pg_current_wal_insert_lsn(), 'positions of another cluster do not count');
select is((select count(*)::integer from app.recent_writes where organization_id = app.installation_id() and wal_history <> '1/1'), 1, 'the record of writes starts again there');

-- Replicas
select results_eq(
    format($$ select l.has_written, l.lag, l.replayed from api.read_position(%L) p, api.replica_lag(p.wal_history, p.written, p.lsn, p.read_at) l $$, :'org'),
    $$ values (null::boolean, null::double precision, null::pg_lsn) $$, 'the primary is not a replica of itself');

select * from finish();
rollback;
