begin;
select plan(7);
\ir fixtures.psql
select pg_temp.turn_clock(clock_timestamp() + interval '1 hour');

-- A worker that is heard of after its lease expired has a third of a lease to renew it
select api.heartbeat('living') as state, pg_temp.submit(:'org', 2) as job \gset
select count(*) from api.claim_lookups(:'org', 'living', 1) \gset claimed_
select count(*) from api.claim_lookups(:'org', 'silent', 1) \gset claimed_
-- Heartbeats in between, so that nobody takes it for an outage.
select $$ select pg_temp.turn_clock(app.clock() + interval '5 seconds'), (select limit_version from api.heartbeat('living')) $$ from generate_series(1, 13) \gexec
select is(app.expire_leases(:'org', app.clock()), 1, 'the lease of a silent worker expires');
select results_eq('select worker, is_overdue, expires_at - app.clock() from public.lookup_leases',
    $$ values ('living', true, interval '20 seconds') $$, 'that of a living one is overdue, and gets some more time');
select $$ select pg_temp.turn_clock(app.clock() + interval '5 seconds'), (select limit_version from api.heartbeat('living')) $$ from generate_series(1, 5) \gexec
select is(app.expire_leases(:'org', app.clock()), 1, 'an overdue lease expires');

-- After a time in which no worker could write
select pg_temp.submit(:'other_org', 1) as job \gset
select count(*) from api.claim_lookups(:'other_org', 'living', 1) \gset claimed_
select pg_temp.turn_clock(app.clock() + interval '2 minutes');
select api.heartbeat('another') as state \gset
select ok(app.expiry_is_suspended(app.clock()), 'no lease expires when workers come back from an outage of the database');
select is(app.expire_leases(:'other_org', app.clock()), 0, 'what a worker held before the outage does not expire');
select pg_temp.turn_clock(app.clock() + interval '61 seconds');
select ok(not app.expiry_is_suspended(app.clock()), 'a lease later, leases expire again');
select is(app.expire_leases(:'other_org', app.clock()), 1, 'what a worker held before the outage expires a lease later');

select * from finish();
rollback;
