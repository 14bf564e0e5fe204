begin;
select plan(14);
\ir fixtures.psql
select pg_temp.turn_clock('2026-11-27 12:00:00Z');

-- A worker's measurements half a second later, under the current version of the limit; returns its share afterwards.
create function pg_temp.measure(
    p_latency double precision, p_overloads integer default 0, p_outcomes integer default 50, p_usage double precision default 1,
    p_organizations integer default 2, p_answers integer default null
) returns integer
language plpgsql as $$
begin
    perform pg_temp.turn_clock(app.clock() + interval '0.5 second');
    return (select max_in_flight
              from api.heartbeat('w', 100, (select limit_version from app.upstream_state), p_organizations, p_outcomes,
                                 coalesce(p_answers, p_outcomes - p_overloads), p_overloads, p_latency, p_outcomes * coalesce(p_latency, 0.1),
                                 p_overloads * coalesce(p_latency, 0.1), p_usage));
end;
$$;

select is(pg_temp.measure(0.2), 50, 'on a new database, the first latency measured is the usual one');
select pg_temp.turn_clock(app.clock() + interval '31 seconds');
select is(pg_temp.measure(0.2), 25, 'half a minute later, a trial with half as many lookups shows whether latency depends on their number');
select is(pg_temp.measure(0.2), 50, 'a trial that did not help is undone, and the limit is restored');
select is(pg_temp.measure(0.2, 20), 30, 'more 429, 503 and time-outs than usual begin a trial with fewer concurrent lookups');
select is(pg_temp.measure(0.2, 0), 35, 'if fewer help, the lower limit stays, and grows by its square root');
select is(pg_temp.measure(0.2, 20), 21, 'the next trial starts from there');
select is(pg_temp.measure(0.2, 20), 35, 'if fewer do not help, the limit is restored');
select is(pg_temp.measure(0.2, 21), 41, 'the same share of failures is usual from now on');
select is(pg_temp.measure(0.6), 20, 'latency of more than twice the usual begins a trial');
select is(pg_temp.measure(0.6), 41, 'a service that became slower gets the limit back');
select is(pg_temp.measure(null, 0, 50, 1, 2, 0), 41, 'without any answer, nothing changes');
update app.upstream_state set concurrency_limit = 1, base_latency = 0.003;
select is(pg_temp.measure(0.6), 2, 'one lookup at a time shows the usual latency, whatever it is');
update app.upstream_state set concurrency_limit = 20, base_overload = 0, base_latency = 0.6;
select pg_temp.submit(:'org', 1) as job, pg_temp.submit(:'other_org', 1) as other_job \gset
select count(*) from api.claim_lookups(:'org', 'w', 1) \gset claimed_
select count(*) from api.claim_lookups(:'other_org', 'w', 1) \gset claimed_
select is(pg_temp.measure(0.6, 50, 50, 1, 1), 20, 'failures of one organization are no sign of overload while another one''s lookups run');
select max_in_flight as share from api.heartbeat('new') \gset
select is(:share, 10, 'workers share the limit');

select * from finish();
rollback;
