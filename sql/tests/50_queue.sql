begin;
select plan(39);
\ir fixtures.psql

-- Claims
select pg_temp.submit(:'org', 5) as job \gset
select results_eq(
    format($$ select request::jsonb ->> 'reference_id', start_in from api.claim_lookups(%L, 'first', 2) $$, :'org'),
    $$ values ('site-1', 0::double precision), ('site-2', 0) $$, 'a claim takes items in upload order');
select is(
    (select array_agg(status || coalesce(leased_by, '-') order by position) from public.lookup_queue_items where job_id = :'job'),
    array['processingfirst', 'processingfirst', 'pending-', 'pending-', 'pending-'], 'claimed items are leased to their worker');
select is(api.get_batch_lookup(:'org', :'job') ->> 'status', 'processing', 'the first claim starts the job');
select is(array(select request::jsonb ->> 'reference_id' from api.claim_lookups(:'org', 'second', 10)), array['site-3', 'site-4', 'site-5'], 'a claimed item is invisible to other workers');
select is_empty(format($$ select * from api.claim_lookups(%L, 'third', 10) $$, :'org'), 'an empty queue gives nothing');
select is((select count(distinct lease_token)::integer from public.lookup_queue_items where job_id = :'job'), 2, 'every claim has a lease of its own');
select is(
    (select request::jsonb from (select app.lookup_request(reference_id, address, building_type, device_ids, create_application, webhook_custom_fields) as request
                                   from public.lookup_queue_items where job_id = :'job' and position = 0) r) - array['device_ids'],
    '{"operation_type": "lookup", "reference_id": "site-1", "building_type": "RESIDENTIAL", "create_application": false,
      "address": {"street_1": "1 Congress Ave", "city": "Austin", "state_or_province_code": "TX", "postal_code": "78701", "country_code": "US"}}',
    'a request holds what the incentives API asks for');
select is_empty(format($$ select * from api.claim_lookups(%L, 'first', 10) $$, :'other_org'), 'another organization has nothing to claim');

-- Leases
select is(
    (select count(*)::integer from api.extend_leases(:'org', 'first', array(select id from public.lookup_queue_items where job_id = :'job' order by position),
        array(select lease_token from public.lookup_queue_items where job_id = :'job' order by position))), 5, 'leases that are held can be extended');
select is_empty(
    format($$ select * from api.extend_leases(%L, 'first', array(select id from public.lookup_queue_items where job_id = %L), array_fill(gen_random_uuid(), array[5])) $$, :'org', :'job'),
    'others cannot');
select is(
    api.release_lookups(:'org', 'first', array(select id from public.lookup_queue_items where job_id = :'job' and position < 2 order by position),
        array(select lease_token from public.lookup_queue_items where job_id = :'job' and position < 2 order by position)), 2, 'a claim can be given back');
select is(
    (select array_agg(status || retry_count order by position) from public.lookup_queue_items where job_id = :'job' and position < 2),
    array['pending0', 'pending0'], 'which counts no retry');
select is((select array_agg(organization_id) from api.ready_organizations() organization_id), array[:'org'::uuid], 'and puts the organization on the ready list');
select is(array(select request::jsonb ->> 'reference_id' from api.claim_lookups(:'org', 'third', 10)), array['site-1', 'site-2'], 'then they can be claimed again');

select pg_temp.turn_clock(clock_timestamp() + interval '61 seconds');
select is(app.expire_leases(:'org', app.clock()), 5, 'a silent worker''s leases expire');
select is(
    (select array_agg(distinct status || retry_count || coalesce(lease_token::text, '-')) from public.lookup_queue_items where job_id = :'job'),
    array['pending1-'], 'its items return to the queue with the attempt counted');
update public.lookup_queue_items set retry_count = 3 where job_id = :'job' and position = 0;
select count(*) from api.claim_lookups(:'org', 'fourth', 10) \gset claimed_
select pg_temp.turn_clock(app.clock() + interval '61 seconds');
select is(app.expire_leases(:'org', app.clock()), 5, 'leases expire again');
select is((select status || error_code || retry_count from public.lookup_queue_items where job_id = :'job' and position = 0), 'failedlease_expired3', 'after the last retry the item fails');
select is((select processed_items || '/' || failed_items from public.batch_lookup_jobs where id = :'job'), '1/1', 'and is counted');
select api.cancel_batch_lookup(:'org', :'job') as cancelled \gset

-- The ready list
select is_empty(format($$ select * from api.claim_lookups(%L, 'w', 1) $$, :'org'), 'a cancelled job leaves nothing to claim');
select is((select ready_at from app.organization_queue_state where organization_id = :'org'), null, 'an empty claim takes the organization off the list');
select pg_temp.submit(:'other_org', 1) as other_job, pg_temp.submit(:'org', 4) as job \gset
select is((select array_agg(o) from api.ready_organizations() o), array[:'other_org'::uuid, :'org'::uuid], 'who waited longest comes first');
select is((select array_agg(o) from api.ready_organizations(1) o), array[:'other_org'::uuid], 'the list can be cut');

-- Fair between batches
select pg_temp.submit(:'org', 2) as late_job \gset
select is(
    array(select case job_id when :'job' then 'early' else 'late' end from api.claim_lookups(:'org', 'w', 4) order by 1),
    array['early', 'early', 'late', 'late'], 'open batches take turns');
select is(array(select case job_id when :'job' then 'early' else 'late' end from api.claim_lookups(:'org', 'w', 4)), array['early', 'early'], 'until one has no more');

-- Where a claim begins
select pg_temp.submit(:'org', 6) as job \gset
select item_id as item, lease_token as token from api.claim_lookups(:'org', 'w', 1) \gset
select count(*) from api.claim_lookups(:'org', 'w', 2) \gset claimed_
select is(
    (select q.first_rank from app.organization_queue_state q where q.organization_id = :'org'),
    (select queue_rank from public.lookup_queue_items where job_id = :'job' and position = 1), 'the next claim passes over what was claimed');
select api.release_lookups(:'org', 'w', array[:'item'::uuid], array[:'token'::uuid]) as released \gset
select is(array(select request::jsonb ->> 'reference_id' from api.claim_lookups(:'org', 'w', 2)), array['site-1', 'site-4'], 'but not over what came back');
select api.cancel_batch_lookup(:'org', :'job') as cancelled \gset

select app.settle_queue(:'org', app.clock()) as settled \gset
select is(q.first_rank, q.served_rank, 'when nothing is ready, it begins where the last one stood')
  from app.organization_queue_state q
 where q.organization_id = :'org';
select pg_temp.submit(:'org', 3) as job \gset
select count(*) from api.claim_lookups(:'org', 'w', 2) \gset claimed_
select pg_temp.submit(:'org', 3) as late_job \gset
select is(
    (select q.first_rank from app.organization_queue_state q where q.organization_id = :'org'),
    (select queue_rank from public.lookup_queue_items where job_id = :'job' and position = 0), 'a new batch does not send it back to the start');
select is((select count(*)::integer from api.claim_lookups(:'org', 'w', 10)), 4, 'and is not passed over');
select api.cancel_batch_lookup(:'org', :'job') as cancelled, api.cancel_batch_lookup(:'org', :'late_job') as cancelled_too \gset

-- Pacing
select api.update_settings('{"lookups_per_second": 10}') as settings, pg_temp.turn_clock(app.clock() + interval '1 hour'), pg_temp.submit(:'other_org', 30) as paced_job \gset
select is(
    array(select round(start_in::numeric, 3) from api.claim_lookups(:'other_org', 'w', 3)), array[0.000, 0.102, 0.203],
    'a pace gives every lookup its slot');
select is((select count(*)::integer from api.claim_lookups(:'other_org', 'w', 100)), 7, 'slots are given out a second ahead at most');
select is((select count(*)::integer from api.claim_lookups(:'other_org', 'w', 100)), 0, 'then none');
select is((select ready_at <= app.clock() from app.organization_queue_state where organization_id = :'other_org'), true, 'which does not take the organization off the list');
select is((select round(paced.paused_for::numeric, 3) from api.check_in('w') paced), 0.015, 'a worker hears when the next slot can be had');
select pg_temp.turn_clock(app.clock() + interval '0.5 second');
select is((select count(*)::integer from api.claim_lookups(:'other_org', 'w', 100)), 5, 'half a second frees half of the slots');
select api.update_settings('{"lookups_per_second": null}') as settings \gset

-- Checking in
select is((select max_in_flight from api.check_in('w')), 50, 'one worker has all of max_in_flight');
select is((select max_in_flight from api.check_in('v')), 25, 'two workers share it');
select results_eq(
    $$ select lookup_timeout, lease_seconds, max_response_bytes, lookups_per_second from api.check_in('w') $$,
    $$ values (30::double precision, 60::double precision, 1048576, null::double precision) $$, 'a worker hears the settings that concern it');

select * from finish();
rollback;
