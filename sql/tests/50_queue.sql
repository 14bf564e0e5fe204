begin;
select plan(49);
\ir fixtures.psql

-- Claims
select pg_temp.submit(:'org', 5) as job \gset
select results_eq(
    format($$ select request::jsonb ->> 'reference_id', start_in <= 0 from api.claim_lookups(%L, 'first', 2) $$, :'org'),
    $$ values ('site-1', true), ('site-2', true) $$, 'a claim takes items in upload order');
select is(
    (select array_agg(i.status || coalesce(l.worker, '-') order by i.position)
       from api.items i left join public.lookup_leases l on l.job_id = i.job_id and i.position <@ l.positions where i.job_id = :'job'),
    array['processingfirst', 'processingfirst', 'pending-', 'pending-', 'pending-'], 'claimed items are leased to their worker');
select is(api.get_batch_lookup(:'org', :'job') ->> 'status', 'processing', 'the first claim starts the job');
select is(array(select request::jsonb ->> 'reference_id' from api.claim_lookups(:'org', 'second', 10)), array['site-3', 'site-4', 'site-5'], 'a claimed item is invisible to other workers');
select is_empty(format($$ select * from api.claim_lookups(%L, 'third', 10) $$, :'org'), 'an empty queue gives nothing');
select is((select array_agg(positions order by positions) from public.lookup_leases where job_id = :'job'), array['{[0,2)}', '{[2,5)}']::int4multirange[], 'every claim has a lease of its own');
select is(
    (select request::jsonb from (select app.lookup_request(reference_id, address, building_type, device_ids, create_application, household) as request
                                   from public.lookup_queue_items where job_id = :'job' and position = 0) r) - array['device_ids'],
    '{"operation_type": "lookup", "reference_id": "site-1", "building_type": "RESIDENTIAL", "create_application": false,
      "address": {"street_1": "1 Congress Ave", "city": "Austin", "state_or_province_code": "TX", "postal_code": "78701", "country_code": "US"}}',
    'a request has what the incentives API requires');
select is_empty(format($$ select * from api.claim_lookups(%L, 'first', 10) $$, :'other_org'), 'another organization has nothing to claim');

-- Leases
create function pg_temp.leased(out jobs uuid[], out positions integer[], out tokens uuid[])
language sql as $$
    select array_agg(l.job_id order by p), array_agg(p order by p), array_agg(l.lease_token order by p)
      from public.lookup_leases l, unnest(l.positions) r, generate_series(lower(r), upper(r) - 1) p
$$;
select jobs, positions, tokens from pg_temp.leased() \gset
select pg_temp.turn_clock(clock_timestamp());
select is(
    (select count(*)::integer from api.extend_leases(:'org', :'jobs', :'positions', :'tokens')), 5, 'leases that are held can be extended');
select is((select min(expires_at) from public.lookup_leases), app.clock() + interval '1 minute', 'an extended lease is as long as a new one');
select is_empty(
    format($$ select * from api.extend_leases(%L, %L, %L, array_fill(gen_random_uuid(), array[5])) $$, :'org', :'jobs', :'positions'),
    'a lease cannot be extended with another token');
select is(api.release_lookups(:'org', (:'jobs'::uuid[])[:2], (:'positions'::integer[])[:2], (:'tokens'::uuid[])[:2]), 2, 'claimed items can be released');
select is(
    array(select position from api.extend_leases(:'org', :'jobs', :'positions', :'tokens') order by 1), array[2, 3, 4],
    'an item that was released is not held any more');
select is(api.release_lookups(:'org', :'jobs', :'positions', array_fill(gen_random_uuid(), array[5])), 0, 'nobody can release the items of another''s lease');
select is(
    (select array_agg(status || retry_count order by position) from public.lookup_queue_items where job_id = :'job' and position < 2),
    array['pending0', 'pending0'], 'a release returns items to the queue and counts no retry');
select is((select array_agg(organization_id) from api.ready_organizations() organization_id), array[:'org'::uuid], 'a release puts the organization on the ready list');
select is(array(select request::jsonb ->> 'reference_id' from api.claim_lookups(:'org', 'third', 10)), array['site-1', 'site-2'], 'released items can be claimed again');

select pg_temp.turn_clock(clock_timestamp() + interval '61 seconds');
select is(app.expire_leases(:'org', app.clock()), 5, 'a silent worker''s leases expire');
select is(
    (select array_agg(distinct status || retry_count) from api.items where job_id = :'job'),
    array['pending1'], 'items of an expired lease return to the queue with the attempt counted');
select is_empty('select from public.lookup_leases', 'an expired lease leaves no row behind');
update public.lookup_queue_items set retry_count = 3 where job_id = :'job' and position = 0;
select count(*) from api.claim_lookups(:'org', 'fourth', 10) \gset claimed_
select pg_temp.turn_clock(app.clock() + interval '61 seconds');
select is(app.expire_leases(:'org', app.clock()), 5, 'leases of the second attempt expire as well');
select is((select status || error_code || retry_count from public.lookup_queue_items where job_id = :'job' and position = 0), 'failedlease_expired3', 'after the last retry the item fails');
select is((select processed_items || '/' || failed_items from public.batch_lookup_jobs where id = :'job'), '1/1', 'an item whose last lease expired is counted as failed');
select api.cancel_batch_lookup(:'org', :'job') as cancelled \gset

-- The ready list
select is_empty(format($$ select * from api.claim_lookups(%L, 'w', 1) $$, :'org'), 'a cancelled job leaves nothing to claim');
select is((select ready_at from app.organization_queue_state where organization_id = :'org'), null, 'an empty claim takes the organization off the list');
select pg_temp.submit(:'other_org', 1) as other_job, pg_temp.submit(:'org', 4) as job \gset
select is((select array_agg(o) from api.ready_organizations() o), array[:'other_org'::uuid, :'org'::uuid], 'the organization that has waited longest comes first');
select is((select array_agg(o) from api.ready_organizations(1) o), array[:'other_org'::uuid], 'the ready list can be limited');

-- Fair between batches
select pg_temp.submit(:'org', 2) as late_job \gset
select is(
    array(select case job_id when :'job' then 'early' else 'late' end from api.claim_lookups(:'org', 'w', 4) order by 1),
    array['early', 'early', 'late', 'late'], 'open batches take turns');
select is(array(select case job_id when :'job' then 'early' else 'late' end from api.claim_lookups(:'org', 'w', 4)), array['early', 'early'], 'jobs take turns until one has no more items');

-- How far claims have come
select pg_temp.submit(:'org', 6) as job \gset
select job_id, position, lease_token as token from api.claim_lookups(:'org', 'w', 1) \gset
select count(*) from api.claim_lookups(:'org', 'w', 2) \gset claimed_
select is((select next_position || '/' || end_position from app.queued_jobs where job_id = :'job'), '3/6', 'the next claim skips what was claimed');
select api.release_lookups(:'org', array[:'job_id'::uuid], array[:position], array[:'token'::uuid]) as released \gset
select is(array(select request::jsonb ->> 'reference_id' from api.claim_lookups(:'org', 'w', 2)), array['site-1', 'site-4'], 'a claim does not skip an item that was returned');
select api.cancel_batch_lookup(:'org', :'job') as cancelled \gset
select is((select count(*)::integer from api.items where job_id = :'job' and status = 'processing'), 4, 'a cancel does not affect items in flight');
select is_empty(format('select from app.queued_jobs where organization_id = %L', :'org'), 'nothing more is claimed of a cancelled job');

select pg_temp.submit(:'org', 3) as job \gset
select count(*) from api.claim_lookups(:'org', 'w', 2) \gset claimed_
select pg_temp.submit(:'org', 3) as late_job \gset
select is(array_agg(next_rank), array[2, 2]::bigint[], 'a new batch starts at the rank that the others have reached') from app.queued_jobs where organization_id = :'org';
select is((select count(*)::integer from api.claim_lookups(:'org', 'w', 10)), 4, 'a claim of everything skips nothing');
select is_empty(format('select from app.queued_jobs where organization_id = %L', :'org'), 'a job stays in the queue until nothing more of it can be claimed');
select is_empty('select * from api.check_invariants()', 'the invariants hold after claims, releases and expiries');
select api.cancel_batch_lookup(:'org', :'job') as cancelled, api.cancel_batch_lookup(:'org', :'late_job') as cancelled_too \gset

-- Pacing
select api.update_settings('{"lookups_per_second": 10}') as settings, pg_temp.turn_clock(app.clock() + interval '1 hour'), pg_temp.submit(:'other_org', 30) as paced_job \gset
select is(
    array(select round(start_in::numeric, 3) from api.claim_lookups(:'other_org', 'w', 3)), array[0.000, 0.102, 0.203],
    'every lookup has its slot under a rate limit');
select is((select count(*)::integer from api.claim_lookups(:'other_org', 'w', 100)), 7, 'slots are given out at most a second ahead');
select is((select count(*)::integer from api.claim_lookups(:'other_org', 'w', 100)), 0, 'nothing is claimed once the rate limit has no slot left');
select is((select ready_at <= app.clock() from app.organization_queue_state where organization_id = :'other_org'), true, 'an organization without a slot stays on the ready list');
select is((select round(paced.paused_for::numeric, 3) from api.heartbeat('w') paced), 0.015, 'a worker learns when the next slot is free');
select pg_temp.turn_clock(app.clock() + interval '0.5 second');
select is((select count(*)::integer from api.claim_lookups(:'other_org', 'w', 100)), 5, 'half a second frees half of the slots');
select api.update_settings('{"lookups_per_second": null}') as settings \gset

-- Checking in
select is((select max_in_flight from api.heartbeat('w')), 50, 'one worker has all of max_in_flight');
select is((select max_in_flight from api.heartbeat('v')), 25, 'two workers share max_in_flight');
select max_in_flight as share from api.heartbeat('u') \gset
select is(array[:share, (select max_in_flight from api.heartbeat('v')), (select max_in_flight from api.heartbeat('w'))], array[17, 17, 16],
    'what cannot be shared evenly goes to the first workers, one more each');
select pg_temp.turn_clock(app.clock() + interval '16 seconds');
select is((select max_in_flight from api.heartbeat('w')), 50, 'workers that have been silent for 15 seconds have no share');
select results_eq(
    $$ select lookup_timeout, lease_seconds, max_response_bytes, lookups_per_second from api.heartbeat('w') $$,
    $$ values (30::double precision, 60::double precision, 1048576, null::double precision) $$, 'a worker learns the settings that concern it');
select is((select together from api.heartbeat('w')), not app.is_distributed(), 'on one PostgreSQL, one claim may be for several organizations');

select * from finish();
rollback;
