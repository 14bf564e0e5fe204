begin;
select plan(24);
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

select api.create_organization('Third') as third \gset
create function pg_temp.pruned(p_installation pg_lsn, p_writes pg_lsn[], p_history text default app.wal_history()) returns pg_lsn
language plpgsql as $$
declare
    v_ids uuid[] := array(select id from app.organizations order by name);
begin
    delete from app.recent_writes;
    insert into app.recent_writes values (app.installation_id(), p_history, p_installation, app.clock() - interval '1 day');
    insert into app.recent_writes select v_ids[n], case n when 3 then '1/1' else app.wal_history() end, lsn, app.clock() - interval '6 minutes' from unnest(p_writes) with ordinality w (lsn, n);
    perform app.prune_recent_writes(app.clock());
    return (select lsn from app.recent_writes);
end;
$$;
select is(pg_temp.pruned('0/100', '{0/150,0/200,0/900}'), '0/200'::pg_lsn, 'the installation keeps the latest position of what is pruned, but none of another cluster');
select is(pg_temp.pruned('0/200', '{0/200,0/150}'), '0/200'::pg_lsn, 'the installation keeps its own position when it is later');
select is(pg_temp.pruned('0/100', '{0/150}', '1/1'), '0/100'::pg_lsn, 'the position of an installation in another cluster is left alone');
select turn.now, pg_temp.turn_clock(turn.now) from (select app.clock() as now) turn \gset turned_
select api.note_write(:'org') as noted \gset
update app.recent_writes set written_at = app.clock() - interval '5 minutes';
select app.prune_recent_writes(app.clock()) as pruned \gset
select is((select count(*)::integer from app.recent_writes), 2, 'what is five minutes old stays');

-- What was noted before nobody knows
delete from app.recent_writes where organization_id = app.installation_id();
update app.recent_writes set lsn = '0/1';
select cmp_ok(pg_temp.written(:'org'), '>=', :'beginning'::pg_lsn, 'an organization that has a note may have written more, if the notes of others are lost');
delete from app.recent_writes where organization_id = app.installation_id();
update app.recent_writes set lsn = 'FFFFFFFF/FFFFFFFF';
select is(pg_temp.written(:'org'), 'FFFFFFFF/FFFFFFFF'::pg_lsn, 'a write that may be under way still may be, if the notes of others are lost');
select throws_ok('select api.note_write(null)', 'PT404', 'Organization not found', 'a write is that of an organization');

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
