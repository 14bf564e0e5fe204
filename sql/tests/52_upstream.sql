begin;
select plan(22);
\ir fixtures.psql
select pg_temp.turn_clock(clock_timestamp());

create function pg_temp.unavailable() returns boolean
language sql as $$ select upstream_unavailable_since is not null from api.queue_health $$;

-- An outage
select pg_temp.submit(:'org', 30) as job \gset
select pg_temp.look_up(:'org', 9, 500);
select is(pg_temp.unavailable(), false, 'nine failures in a row are not yet an outage');
select pg_temp.look_up(:'org', 1, 200, '{}');
select pg_temp.look_up(:'org', 9, 500);
select is(pg_temp.unavailable(), false, 'an answer in between restarts the count');
select app.rfc3339(app.clock()) as began \gset
select pg_temp.look_up(:'org', 2, 500);
select is(app.rfc3339((api.get_queue_health() ->> 'upstream_unavailable_since')::timestamptz), :'began', 'ten signs of an outage in a row open the circuit breaker');
select is(api.get_batch_lookup(:'org', :'job') #>> '{upstream,unavailable_since}', :'began', 'the status of a job says since when the upstream has been unavailable');
select is((select array_agg(distinct retry_count order by retry_count) from public.lookup_queue_items where job_id = :'job' and status = 'pending'), array[0, 1], 'the retry that revealed the outage was not counted');
select is((select stopped from api.heartbeat('w')), true, 'workers learn that nothing may start');
select is_empty(format($$ select * from api.claim_lookups(%L, 'w', 5) $$, :'org'), 'nothing can be claimed');

select pg_temp.turn_clock(app.clock() + interval '1.1 seconds');
select is((select count(*)::integer from api.claim_lookups(:'org', 'w', 5)), 1, 'after a second, one lookup probes');
select is_empty(format($$ select * from api.claim_lookups(%L, 'w', 5) $$, :'org'), 'nothing else starts while the probe is under way');
select pg_temp.turn_clock(app.clock() + interval '32 seconds');
select is(pg_temp.look_up(:'org', 5, null, null, 'unreachable'), 1::bigint, 'if no answer comes, another one probes');
select pg_temp.turn_clock(app.clock() + interval '7 seconds');
select is_empty(format($$ select * from api.claim_lookups(%L, 'w', 5) $$, :'org'), 'the longer the outage, the later the next probe');
select pg_temp.turn_clock(app.clock() + interval '58 minutes');
select pg_temp.look_up(:'org', 5, null, null, 'unreachable');
select pg_temp.turn_clock(app.clock() + interval '31 seconds');
select is(pg_temp.look_up(:'org', 5, null, null, 'unreachable'), 1::bigint, 'in a long outage there is a probe at least every half minute');
select is((select count(*)::integer from public.lookup_queue_items where job_id = :'job' and (status = 'failed' or retry_count > 1)), 0, 'in an outage no item fails, and no retries are used up');
select pg_temp.turn_clock(app.clock() + interval '31 seconds');
select is(pg_temp.look_up(:'org', 5, 200, '{}'), 1::bigint, 'a probe is answered during an outage');
select is(pg_temp.unavailable(), false, 'an answer to a probe closes the circuit breaker');
select is((select count(*)::integer from api.claim_lookups(:'org', 'w', 30)), 28, 'all lookups continue immediately after an outage');
select api.cancel_batch_lookup(:'org', :'job') as cancelled \gset

-- Nobody there
select pg_temp.submit(:'other_org', 1) as job \gset
update public.lookup_queue_items set retry_count = 3 where job_id = :'job';
select pg_temp.look_up(:'other_org', 1, null, null, 'unreachable');
select is((select status from public.lookup_queue_items where job_id = :'job'), 'pending', 'no last attempt is lost to a service that is not there');
select is(pg_temp.unavailable(), true, 'an unreachable upstream on a last attempt is an outage, whatever the count');
select pg_temp.turn_clock(app.clock() + interval '1 hour 1 second');
select pg_temp.look_up(:'other_org', 1, null, null, 'unreachable');
select is((select status || ': ' || error_code from public.lookup_queue_items where job_id = :'job'), 'failed: upstream_unreachable', 'an outage that outlasts the maximum wait costs the last attempt');
select pg_temp.submit(:'other_org', 1) as job \gset
select pg_temp.look_up(:'other_org', 1, 200, '{}');

-- An operator's pause
select api.pause_lookups(60);
select is_empty(format($$ select * from api.claim_lookups(%L, 'w', 5) $$, :'org'), 'nothing can be claimed while an operator pauses the lookups');
select is((api.get_queue_health() ->> 'upstream_closed_until')::timestamptz > app.clock(), true, 'the health of the queue says until when');
select throws_ok('select api.pause_lookups(901)', 'PT400', 'seconds must be a whole number from 1 to 900', 'an operator cannot pause for longer than the maximum');

select * from finish();
rollback;
