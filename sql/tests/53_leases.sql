begin;
select plan(24);
\ir fixtures.psql
select pg_temp.turn_clock(clock_timestamp() + interval '1 hour');

-- A worker that sends a heartbeat after its lease expired has a third of a lease to renew it
select api.heartbeat('living') as state, pg_temp.submit(:'org', 2) as job \gset
select count(*) from api.claim_lookups(:'org', 'living', 1) \gset claimed_
select count(*) from api.claim_lookups(:'org', 'silent', 1) \gset claimed_
-- Heartbeats in between, so that this does not count as an outage.
select $$ select pg_temp.turn_clock(app.clock() + interval '5 seconds'), (select limit_version from api.heartbeat('living')) $$ from generate_series(1, 13) \gexec
select is(app.expire_leases(:'org', app.clock()), 1, 'the lease of a silent worker expires');
select results_eq(
    format('select status, retry_count, error_code, error_message, processed_at from public.lookup_queue_items where organization_id = %L and job_id = %L and retry_at is not null', :'org', :'job'),
    $$ values ('pending', 1, null::text, null::text, null::timestamptz) $$, 'an item whose lease expired waits for its next attempt, without an error');
select results_eq('select worker, is_overdue, expires_at - app.clock() from public.lookup_leases',
    $$ values ('living', true, interval '20 seconds') $$, 'the lease of a living worker is overdue, and gets some more time');
select $$ select pg_temp.turn_clock(app.clock() + interval '5 seconds'), (select limit_version from api.heartbeat('living')) $$ from generate_series(1, 5) \gexec
select is(app.expire_leases(:'org', app.clock()), 1, 'an overdue lease expires');

-- After a period in which no worker could write
select pg_temp.submit(:'other_org', 1) as job \gset
select count(*) from api.claim_lookups(:'other_org', 'living', 1) \gset claimed_
select pg_temp.turn_clock(app.clock() + interval '2 minutes');
select api.heartbeat('another') as state \gset
select ok(app.expiry_is_suspended(app.clock()), 'no lease expires just after workers return from an outage of the database');
select is(app.expire_leases(:'other_org', app.clock()), 0, 'what a worker held before the outage does not expire');
select pg_temp.turn_clock(app.clock() + interval '61 seconds');
select ok(not app.expiry_is_suspended(app.clock()), 'a lease later, leases expire again');
select is(app.expire_leases(:'other_org', app.clock()), 1, 'what a worker held before the outage expires a lease later');

-- A worker that never received its claim
select pg_temp.submit(:'other_org', 6) as job \gset
select api.claim_lookups(:'other_org', 'another', 1) as claimed \gset
select lease_token as heard from api.claim_lookups(:'other_org', 'living', 2) limit 1 \gset
select count(*) from api.claim_lookups(:'other_org', 'living', 3) \gset unheard_
select is(api.release_lost_claims(:'other_org', 'living', array[:'heard'::uuid]), 3, 'what a worker holds without knowing it is released');
select results_eq(
    format('select worker, app.count_positions(positions) from public.lookup_leases where organization_id = %L order by worker', :'other_org'),
    $$ values ('another', 1), ('living', 2) $$, 'a worker keeps the leases that it knows of, and others keep theirs');
select results_eq(
    format('select distinct retry_count, count(*) over () from public.lookup_queue_items where job_id = %L and retry_at <= app.clock() and status = %L', :'job', 'pending'),
    $$ values (0, 3::bigint) $$, 'a released item is ready again, and no retry is counted');
select is(api.release_lost_claims(:'other_org', 'living', array[:'heard'::uuid]), 0, 'released items are not released again');
select is(api.release_lost_claims(gen_random_uuid(), 'living', '{}'), 0, 'nothing is leased of an organization that has been deleted');


-- A worker that renews an overdue lease
select pg_temp.submit(:'org', 1) is not null as submitted, (select limit_version from api.heartbeat('living')) as version \gset
select job_id as job, position, lease_token as token from api.claim_lookups(:'org', 'living', 1) \gset
select $$ select pg_temp.turn_clock(app.clock() + interval '5 seconds'), (select limit_version from api.heartbeat('living')) $$ from generate_series(1, 13) \gexec
select app.expire_leases(:'org', app.clock()) as expired \gset
select count(*) as extended from api.extend_leases(:'org', array[:'job'::uuid], array[:position], array[:'token'::uuid]) \gset
select $$ select pg_temp.turn_clock(app.clock() + interval '5 seconds'), (select limit_version from api.heartbeat('living')) $$ from generate_series(1, 13) \gexec
select is(array[:expired, :extended, app.expire_leases(:'org', app.clock())], '{0,1,0}', 'a lease that was overdue and then renewed gets some more time again');

-- A worker that renews what it holds
select api.create_organization('Initech') as initech \gset
select pg_temp.submit(:'initech', 3) as job \gset
select array_agg(job_id) as jobs, array_agg(position order by position) as positions, array_agg(lease_token) as tokens from api.claim_lookups(:'initech', 'living', 2) \gset
select count(*) from api.claim_lookups(:'initech', 'another', 1) \gset claimed_
select pg_temp.record(:'initech', (:'jobs'::uuid[])[:1], (:'positions'::integer[])[:1], (:'tokens'::uuid[])[:1], 200, '{}') as recorded \gset
select $$ select pg_temp.turn_clock(app.clock() + interval '5 seconds'), (select limit_version from api.heartbeat('living')) $$ from generate_series(1, 6) \gexec
select is_empty(format('select from api.extend_leases(%L, %L, %L, %L)', :'other_org', :'jobs', :'positions', :'tokens'), 'nobody renews a lease of another organization');
select results_eq(
    format('select position, expires_in from api.extend_leases(%L, %L, %L, %L)', :'initech', :'jobs', :'positions', :'tokens'), 'values (1, 60::double precision)',
    'a worker that renews a lease learns what it still holds under it, and for how long');
select results_eq(
    format('select worker, expires_at - app.clock() from public.lookup_leases where organization_id = %L order by worker', :'initech'),
    $$ values ('another', interval '30 seconds'), ('living', interval '60 seconds') $$, 'renewing a lease renews no other one of its job');
select $$ select pg_temp.turn_clock(app.clock() + interval '5 seconds'), (select limit_version from api.heartbeat('another')) $$ from generate_series(1, 7) \gexec
select app.expire_leases(:'initech', app.clock()) as expired \gset
select results_eq(
    format('select worker, is_overdue, expires_at - app.clock() from public.lookup_leases where organization_id = %L order by worker', :'initech'),
    $$ values ('another', true, interval '20 seconds'), ('living', false, interval '25 seconds') $$, 'more time for a lease that is overdue changes no other one of its job');

-- A worker that records some items of two jobs
select is(
    array[app.count_positions('{}'), app.count_positions('{[3,4)}'), app.count_positions('{[0,2),[5,9)}')], '{0,1,6}', 'a lease may have no items, and its items may be apart');
select api.create_organization('Hooli') as hooli \gset
select pg_temp.submit(:'hooli', 1) as one, pg_temp.submit(:'hooli', 2) as two \gset
select array_agg(c.job_id order by c.position) as jobs, array_agg(c.position order by c.position) as positions, array_agg(c.lease_token order by c.position) as tokens
  from api.claim_lookups(:'hooli', 'living', 9) c where c.job_id = :'one' or c.position = 1 \gset
select pg_temp.record(:'hooli', :'jobs', :'positions', :'tokens', 200, '{}') as recorded \gset
select results_eq(
    format('select job_id, positions from public.lookup_leases where organization_id = %L', :'hooli'), format($$ values (%L::uuid, '{[0,1)}'::int4multirange) $$, :'two'),
    'a lease keeps an item that is under way, although one at the same place of another job has ended');

-- The last attempt
select api.create_organization('Umbrella') as umbrella \gset
select api.update_settings('{"max_retries": 1}') as settings, pg_temp.submit(:'umbrella', 1) as last_job \gset
select count(*) from api.claim_lookups(:'umbrella', 'silent', 9) \gset claimed_
select $$ select pg_temp.turn_clock(app.clock() + interval '5 seconds'), (select limit_version from api.heartbeat('another')) $$ from generate_series(1, 13) \gexec
select app.expire_leases(:'umbrella', app.clock()) as expired \gset
select count(*) from api.claim_lookups(:'umbrella', 'silent', 9) \gset claimed_
select $$ select pg_temp.turn_clock(app.clock() + interval '5 seconds'), (select limit_version from api.heartbeat('another')) $$ from generate_series(1, 13) \gexec
select pg_temp.submit(:'umbrella', 1) as beside, app.expire_leases(:'umbrella', app.clock()) as expired \gset
select results_eq(
    format('select status, retry_count, retry_at, error_code, error_message, processed_at = app.clock() from public.lookup_queue_items where organization_id = %L and job_id = %L', :'umbrella', :'last_job'),
    $$ values ('failed', 1, null::timestamptz, 'lease_expired', 'The lookup was started 2 times and never came to an end', true) $$, 'an item whose last lease expired fails, and says how often it was tried');
select results_eq(
    format('select status, retry_count, retry_at from public.lookup_queue_items where organization_id = %L and job_id = %L', :'umbrella', :'beside'),
    $$ values ('pending', 0, null::timestamptz) $$, 'an expired lease concerns no item of another job');
select results_eq(
    format($$ select outcome, sum(items)::integer, sum(wait_seconds) from api.work_history where organization_id = %L and error_class = 'lease_expired' group by 1 order by 1 $$, :'umbrella'),
    $$ values ('failed', 1, 130::float8), ('retried', 1, 0) $$, 'the work history has each attempt whose lease expired, and how long the item waited that failed');

select api.update_settings('{"max_retries": 0}') as settings, pg_temp.submit(:'umbrella', 1) as last_job \gset
select count(*) from api.claim_lookups(:'umbrella', 'silent', 9) \gset claimed_
select $$ select pg_temp.turn_clock(app.clock() + interval '5 seconds'), (select limit_version from api.heartbeat('another')) $$ from generate_series(1, 13) \gexec
select app.expire_leases(:'umbrella', app.clock()) as expired \gset
select is((select error_message from public.lookup_queue_items where job_id = :'last_job'), 'The lookup was started once and never came to an end', 'without retries, an item whose lease expired was tried once');

select * from finish();
rollback;
