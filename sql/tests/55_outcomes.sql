begin;
select plan(37);
\ir fixtures.psql

create function pg_temp.item(p_job_id uuid, p_position integer default 0) returns public.lookup_queue_items
language plpgsql as $$
begin
    return (select row(i.*)::public.lookup_queue_items from public.lookup_queue_items i where job_id = p_job_id and position = p_position);
end;
$$;

-- Success
select pg_temp.submit(:'org', 1) as job \gset
select is(pg_temp.look_up(:'org', 1, 200, :'answer'), 1::bigint, 'an answer is accepted');
select is((pg_temp.item(:'job')).result::text, :'answer', 'the answer is kept as received');
select is((pg_temp.item(:'job')).status, 'completed', 'the item is completed');

-- Retries
select pg_temp.turn_clock(clock_timestamp());
select pg_temp.submit(:'org', 1) as job \gset
select is(pg_temp.look_up(:'org', 1, 500), 1::bigint, 'the outcome of a 500 is accepted');
select is((pg_temp.item(:'job')).status || (pg_temp.item(:'job')).retry_count, 'pending1', 'an item is tried again after a temporary failure');
select ok((pg_temp.item(:'job')).retry_at - app.clock() between interval '1 second' and interval '2 seconds', 'the first retry comes after about two seconds');
select is_empty(format($$ select * from api.claim_lookups(%L, 'w', 1) $$, :'org'), 'no item is claimed before its backoff has passed');
select is((select ready_at from app.organization_queue_state where organization_id = :'org'), (pg_temp.item(:'job')).retry_at, 'the ready list has the time of the retry');
select pg_temp.turn_clock(app.clock() + interval '3 seconds');
select is(pg_temp.look_up(:'org', 1, null, null, 'timeout'), 1::bigint, 'the item is claimed once its backoff has passed');
select ok((pg_temp.item(:'job')).retry_at - app.clock() between interval '2 seconds' and interval '4 seconds', 'each retry doubles the backoff');
select pg_temp.turn_clock(app.clock() + interval '5 seconds');
select pg_temp.look_up(:'org', 1, 200, 'no json');
select pg_temp.turn_clock(app.clock() + interval '9 seconds');
select is((pg_temp.item(:'job')).retry_count, 3, 'a lookup is tried again if its answer is not JSON');
select pg_temp.look_up(:'org', 1, null, null, 'timeout');
select is(
    (pg_temp.item(:'job')).status || ': ' || (pg_temp.item(:'job')).error_code || ': ' || (pg_temp.item(:'job')).error_message,
    'failed: upstream_timeout: The incentives service did not answer in time, after 4 attempts', 'after three retries the item fails, with a message');

-- What is not tried again
select pg_temp.submit(:'org', 3) as job \gset
select pg_temp.look_up(:'org', 1, 404, '{"error": "Program lookup failed - no utility found"}');
select is((pg_temp.item(:'job')).error_message, 'Program lookup failed - no utility found', 'a 4xx fails immediately, with the service''s own message');
select pg_temp.look_up(:'org', 1, 418, 'teapot');
select is((pg_temp.item(:'job', 1)).error_message, 'The incentives service refused the request (HTTP 418)', 'a failure without a message of the service has one of ours');

-- Waiting
select pg_temp.look_up(:'org', 1, 429, null, null, 30);
select is((pg_temp.item(:'job', 2)).status || (pg_temp.item(:'job', 2)).retry_count, 'pending0', 'a 429 with Retry-After costs no retry');
select pg_temp.submit(:'other_org', 1) as other_job \gset
select is_empty(format($$ select * from api.claim_lookups(%L, 'w', 1) $$, :'other_org'), 'a Retry-After pauses the lookups of all organizations');
select is((select paused_for from api.heartbeat('w')), 30::double precision, 'the pause lasts as long as the Retry-After says');
select pg_temp.turn_clock(app.clock() + interval '31 seconds');
select is(pg_temp.look_up(:'other_org', 1, 503), 1::bigint, 'lookups continue once the pause has passed');
select is((select status || retry_count from public.lookup_queue_items where job_id = :'other_job'), 'pending1', 'a 429 without Retry-After is a retry like others');

-- The fence
select pg_temp.submit(:'org', 3) as job \gset
select pg_temp.look_up(:'org', 1, 200, '{}');
select array_agg(job_id) as jobs, array_agg(position) as positions, array_agg(lease_token) as tokens from api.claim_lookups(:'org', 'lost', 3) \gset
select pg_temp.turn_clock(app.clock() + interval '61 seconds');
select app.expire_leases(:'org', app.clock()) as expired \gset
select array_agg(lease_token) as new_tokens from api.claim_lookups(:'org', 'new', 2) \gset
select is(pg_temp.record(:'org', :'jobs', :'positions', :'tokens', 500), 'stale,stale,stale', 'a failure that comes after the lease is stale');
select is(
    pg_temp.record(:'org', :'jobs', :'positions', :'tokens', 200, '{}'), 'accepted,accepted,accepted',
    'a success is accepted, whether the item was claimed again or waits');
select is_empty('select from public.lookup_leases', 'recorded outcomes leave no lease behind');
select is(pg_temp.record(:'org', :'jobs', :'positions', :'tokens', 200, '{}'), 'stale,stale,stale', 'an outcome that is recorded again is stale');
select is(
    pg_temp.record(:'org', (:'jobs'::uuid[])[:2], (:'positions'::integer[])[:2], :'new_tokens', 200, '{}'), 'stale,stale',
    'outcomes of the newer claim are stale');
select is((select status || processed_items || '/' || failed_items from public.batch_lookup_jobs where id = :'job'), 'completed3/0', 'nothing is counted twice') ;
select is((select count(*)::integer from public.incentive_report_sites s join public.batch_lookup_jobs j on j.report_id = s.report_id where j.id = :'job'), 3, 'no item is in the report twice');
select is(pg_temp.record(:'org', array[gen_random_uuid()], array[0], array[gen_random_uuid()], 200, '{}'), 'unknown', 'an item that does not exist is unknown');
select is(pg_temp.record(:'other_org', array[:'job'::uuid], array[0], array[gen_random_uuid()], 200, '{}'), 'unknown', 'the job of another organization is unknown');
select pg_temp.submit(:'org', 1) as job \gset
select is(pg_temp.record(:'org', array[:'job'::uuid], array[0], array[gen_random_uuid()], 200, '{}'), 'stale', 'an outcome for an item that nobody claimed is stale');
select is((select position from api.claim_lookups(:'org', 'w', 1)), 0, 'an item that nobody claimed is claimed in its turn');
select api.cancel_batch_lookup(:'org', :'job') as cancelled \gset

select pg_temp.submit(:'org', 1) as job \gset
select lease_token as lost_token from api.claim_lookups(:'org', 'lost', 1) \gset
select pg_temp.turn_clock(app.clock() + interval '61 seconds');
select app.expire_leases(:'org', app.clock()) as expired \gset
select api.record_lookups(:'org', array[:'job', :'job']::uuid[], '{0,0}', array[:'lost_token', :'lost_token']::uuid[], '{200,500}', '{null,null}', '{"{}",null}', '{null,null}');
select is((pg_temp.item(:'job')).status, 'completed', 'an item that waits again is completed by a late success, also one with a failure beside it');

-- A cancel after the lease has expired
select api.create_organization('Cancelled') as cancelled_org \gset
select pg_temp.submit(:'cancelled_org', 3) as job, pg_temp.turn_clock(app.clock() + interval '1 second') \gset
select array_agg(job_id) as jobs, array_agg(position) as positions, array_agg(lease_token) as tokens from api.claim_lookups(:'cancelled_org', 'lost', 2) \gset
select pg_temp.turn_clock(app.clock() + interval '61 seconds');
select app.expire_leases(:'cancelled_org', app.clock()) as expired, api.cancel_batch_lookup(:'cancelled_org', :'job') as cancelled \gset
select is(
    array[pg_temp.record(:'cancelled_org', :'jobs', :'positions', :'tokens', 200, :'answer'),
          pg_temp.record(:'cancelled_org', array[:'job'::uuid], '{2}', (:'tokens'::uuid[])[1:1], 200, '{}')],
    '{"accepted,accepted",stale}', 'a late success of a cancelled item is kept, as it was paid for, but only if a lookup of it had been started');
select is(
    (select concat_ws(' ', j.status, j.processed_items, j.failed_items, r.status, r.total_sites)
       from public.batch_lookup_jobs j join public.incentive_reports r on r.organization_id = j.organization_id and r.job_id = j.id where j.id = :'job'),
    'cancelled 3 1 complete 2', 'a late success counts in its job, which stays cancelled, and in its report');
select is_empty('select * from api.check_invariants()', 'the counters add up after late successes');

-- Ending a pause early
select api.create_organization('Patient') as patient_org \gset
select pg_temp.submit(:'patient_org', 1) as job \gset
select pg_temp.look_up(:'patient_org', 1, 429, null, null, 86400);
select is((select round(paused_for::numeric) from api.heartbeat('w')), 900::numeric, 'a pause lasts a quarter of an hour at most');
select pg_temp.turn_clock(app.clock() + interval '2 seconds');
select is_empty(format($$ select * from api.claim_lookups(%L, 'w', 1) $$, :'patient_org'), 'an item that was refused waits like all others');
select api.resume_lookups();
select is(pg_temp.look_up(:'patient_org', 1, 200, '{}'), 1::bigint, 'an operator can end a pause before its time');

select * from finish();
rollback;
