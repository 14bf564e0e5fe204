begin;
select plan(30);
\ir fixtures.psql
select pg_temp.turn_clock('2030-01-01T00:00:00Z');
select api.update_settings('{"lookups_per_second": 20}') as settings \gset

-- When a block starts and ends, in seconds from now.
create function pg_temp.block(p_block json) returns numeric[]
language sql as $$
    select array[round(extract(epoch from (p_block ->> 'first_at')::timestamptz - app.clock()), 3), round(extract(epoch from (p_block ->> 'ends_at')::timestamptz - app.clock()), 3)] $$;

-- Blocks
select is(pg_temp.block(app.give_block(4)), array[0.100, 0.303], 'a block starts once it can have reached its node, and has room for its slots');
select is(pg_temp.block(app.give_block(10)), array[0.303, 0.811], 'the next block starts where it ends');
select is(pg_temp.block(app.give_block(100)), array[0.811, 1.014], 'blocks are given out at most a second ahead');
select is(pg_temp.block(app.give_block(5)), array[1.014, 1.014], 'a second that is full has no block');
select is((select round(paused_for::numeric, 3) from api.heartbeat('w')), 0.014, 'a worker at the coordinator learns when there will be one');
select pg_temp.turn_clock(app.clock() + interval '10 seconds');
select is(pg_temp.block(app.give_block(1)), array[0.100, 0.151], 'slots that nobody took are lost');
update app.slot_blocks set next_slot_at = app.clock() + interval '1 hour';
select is(pg_temp.block(app.give_block(1)), array[0.000, 0.051], 'a slot from before the clock was set back does not count');

-- Slots of a block of four tenths of a second with four slots, which started so long ago
create function pg_temp.slots(p_ago interval, p_slots integer) returns text
language sql as $$
    select slots || ' in ' || round(extract(epoch from first_at - app.clock()), 3)
      from app.slots_of_block('100 milliseconds', app.clock() - p_ago, app.clock() - p_ago + interval '400 milliseconds', p_slots, app.clock()) $$;
select is(pg_temp.slots('-0.2 seconds', 10), '4 in 0.200', 'a block in the future has all of its slots');
select is(pg_temp.slots('0 seconds', 3), '3 in 0.000', 'no more slots are given out than are wanted');
select is(pg_temp.slots('0.15 seconds', 10), '2 in 0.050', 'slots that are past are lost');
select is(pg_temp.slots('0.35 seconds', 10), '0 in 0.050', 'the last slot of a block may be past');
select is(pg_temp.slots('0.4 seconds', 10), '0 in 0.000', 'a block in the past has no slots');
select is(pg_temp.slots('-1 hour', 10), '0 in 0.000', 'a block from before the clock was set back has no slots');

-- The size of the next block, at ten slots a second: useful slots, size of the last block, slots left of that
create function pg_temp.size(p_useful integer, p_last integer, p_left integer) returns integer
language sql as $$ select app.next_block_size(p_useful, p_last, app.clock(), app.clock() + p_left * interval '0.1 seconds', '0.1 seconds') $$;
select is(pg_temp.size(7, 1, 0), 7, 'a block has as many slots as can be used');
select is(pg_temp.size(1, 1, 0), 2, 'a block is twice as large as the last one if that was used up');
select is(pg_temp.size(1, 2, 0), 3, 'a block with more slots than can be used lasts at most a quarter of a second');
select is(pg_temp.size(1, 2, 1), 1, 'a block has only the slots that can be used if some of the last one were left');

-- Clocks
create function pg_temp.ahead(p_asked double precision, p_told double precision, p_heard double precision) returns double precision
language sql as $$ select extract(epoch from app.clock_difference(to_timestamp(p_asked), to_timestamp(p_told), to_timestamp(p_heard)))::double precision $$;
select is(pg_temp.ahead(10, 10.01, 10.02), 0::double precision, 'clocks count as equal if the coordinator''s time lies between request and response');
select is(pg_temp.ahead(12, 10, 12.5), 2::double precision, 'this clock is ahead if the coordinator''s time lies before the request');
select is(pg_temp.ahead(10, 13, 10.5), -2.5::double precision, 'this clock is behind if the coordinator''s time lies after the response');

-- Notifications from another node
select app.hear_of_upstream(app.clock() + interval '1 minute', null, null);
select app.hear_of_upstream(app.clock() + interval '10 seconds', null, null);
select is((select paused_for from api.heartbeat('w')), 60::double precision, 'the longer of two pauses reported by nodes counts');
select app.hear_of_upstream('-infinity', app.clock(), app.clock() + interval '1 second');
select results_eq(
    $$ select round(paused_for::numeric, 3), stopped from api.heartbeat('w') $$, $$ values (1.000, true) $$,
    'an outage of another node is one here, with its first probe');
select app.hear_of_upstream(app.clock() - interval '1 second', null, null);
select is((select stopped from api.heartbeat('w')), true, 'a pause reported by a node that does not know of an outage does not end it');
select app.hear_of_upstream(null, '-infinity', null);
select is((select stopped from api.heartbeat('w')), false, 'an outage is over here when it is at another node');
update app.upstream_state set consecutive_failures = 3;
select app.hear_of_upstream(app.clock() - interval '1 second', null, null);
select is((select consecutive_failures from app.upstream_state), 3, 'a pause of another node does not end the count of failures');
select bag_eq(
    $$ select v.news, app.is_news(u, v.upstream)
         from app.upstream_state s
        cross join lateral (select row(s.*)::app.upstream) b (u)
        cross join lateral (values ('nothing', u),
                                   ('a longer pause', jsonb_populate_record(u, '{"paused_until": "2030-01-01T00:02:00Z"}')),
                                   ('an outage', jsonb_populate_record(u, '{"unavailable_since": "2030-01-01T00:00:00Z"}')),
                                   ('an answer', jsonb_populate_record(u, '{"consecutive_failures": 1}'))) v (news, upstream) $$,
    $$ values ('nothing', false), ('a longer pause', true), ('an outage', true), ('an answer', false) $$,
    'other nodes are notified of pauses and outages');

select is(app.part_of_node(50), 50, 'a single PostgreSQL has the whole concurrency limit');

-- The state of each node
insert into app.workers (id, started_at, seen_at) values ('silent', app.clock() - interval '1 hour', app.clock() - interval '16 seconds');
update app.upstream_state set concurrency_limit = 1000, unavailable_since = '2030-01-01T00:00:00Z';
select is((app.state_of_node() ->> 'workers')::integer, 1, 'a node counts the workers of the last 15 seconds');
select is((app.state_of_node() ->> 'concurrency_limit')::double precision, (select max_in_flight::double precision from app.settings),
    'a node runs no more concurrent lookups than its part');
select is((app.state_of_node() ->> 'unavailable_since')::timestamptz, '2030-01-01T00:00:00Z', 'a node reports since when its circuit breaker has been open');

select * from finish();
rollback;
