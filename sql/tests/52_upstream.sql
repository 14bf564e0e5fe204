begin;
select plan(22);
\ir fixtures.psql
select pg_temp.turn_clock(clock_timestamp());

create function pg_temp.unavailable() returns boolean
language sql as $$ select upstream_unavailable_since is not null from api.queue_health $$;

-- An outage
select pg_temp.submit(:'org', 30) as job \gset
select pg_temp.look_up(:'org', 9, 500);
select is(pg_temp.unavailable(), false, 'nine failures in a row are no outage yet');
select pg_temp.look_up(:'org', 1, 200, '{}');
select pg_temp.look_up(:'org', 9, 500);
select is(pg_temp.unavailable(), false, 'an answer in between begins the count anew');
select app.rfc3339(app.clock()) as began \gset
select pg_temp.look_up(:'org', 2, 500);
select is(app.rfc3339((api.get_queue_health() ->> 'upstream_unavailable_since')::timestamptz), :'began', 'ten signs of an outage in a row open the circuit breaker');
select is(api.get_batch_lookup(:'org', :'job') #>> '{upstream,unavailable_since}', :'began', 'the status of a job says since when the upstream is unavailable');
select is((select array_agg(distinct retry_count order by retry_count) from public.lookup_queue_items where job_id = :'job' and status = 'pending'), array[0, 1], 'the retry that revealed it was not counted');
select is((select stopped from api.heartbeat('w')), true, 'workers hear that nothing may start');
select is_empty(format($$ select * from api.claim_lookups(%L, 'w', 5) $$, :'org'), 'nothing can be claimed');

select pg_temp.turn_clock(app.clock() + interval '1.1 seconds');
select is((select count(*)::integer from api.claim_lookups(:'org', 'w', 5)), 1, 'after a second, one lookup tries');
select is_empty(format($$ select * from api.claim_lookups(%L, 'w', 5) $$, :'org'), 'others wait for its answer');
select pg_temp.turn_clock(app.clock() + interval '32 seconds');
select is(pg_temp.look_up(:'org', 5, null, null, 'unreachable'), 1::bigint, 'when none comes, another one tries');
select pg_temp.turn_clock(app.clock() + interval '7 seconds');
select is_empty(format($$ select * from api.claim_lookups(%L, 'w', 5) $$, :'org'), 'the longer it lasts, the later the next try');
select pg_temp.turn_clock(app.clock() + interval '58 minutes');
select pg_temp.look_up(:'org', 5, null, null, 'unreachable');
select pg_temp.turn_clock(app.clock() + interval '31 seconds');
select is(pg_temp.look_up(:'org', 5, null, null, 'unreachable'), 1::bigint, 'a long outage is probed every half minute at least');
select is((select count(*)::integer from public.lookup_queue_items where job_id = :'job' and (status = 'failed' or retry_count > 1)), 0, 'nothing fails, nothing is used up');
select pg_temp.turn_clock(app.clock() + interval '31 seconds');
select is(pg_temp.look_up(:'org', 5, 200, '{}'), 1::bigint, 'a probe may be answered during an outage');
select is(pg_temp.unavailable(), false, 'an answer to a probe closes the circuit breaker');
select is((select count(*)::integer from api.claim_lookups(:'org', 'w', 30)), 28, 'all lookups go on at once after an outage');
select api.cancel_batch_lookup(:'org', :'job') as cancelled \gset

-- Nobody there
select pg_temp.submit(:'other_org', 1) as job \gset
update public.lookup_queue_items set retry_count = 3 where job_id = :'job';
select pg_temp.look_up(:'other_org', 1, null, null, 'unreachable');
select is((select status from public.lookup_queue_items where job_id = :'job'), 'pending', 'no last attempt is lost to a service that is not there');
select is(pg_temp.unavailable(), true, 'an unreachable upstream is an outage, whatever the count');
select pg_temp.turn_clock(app.clock() + interval '1 hour 1 second');
select pg_temp.look_up(:'other_org', 1, null, null, 'unreachable');
select is((select status || ': ' || error_code from public.lookup_queue_items where job_id = :'job'), 'failed: upstream_unreachable', 'one that outlasts the patience fails it');
select pg_temp.submit(:'other_org', 1) as job \gset
select pg_temp.look_up(:'other_org', 1, 200, '{}');

-- An operator's pause
select api.pause_lookups(60);
select is_empty(format($$ select * from api.claim_lookups(%L, 'w', 5) $$, :'org'), 'nothing can be claimed while an operator pauses the lookups');
select is((api.get_queue_health() ->> 'upstream_closed_until')::timestamptz > app.clock(), true, 'the queue says until when');
select throws_ok('select api.pause_lookups(901)', 'PT400', 'seconds must be a whole number from 1 to 900', 'no pause is longer than the longest');

select * from finish();
rollback;
