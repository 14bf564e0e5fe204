begin;
select plan(28);
\ir fixtures.psql
select pg_temp.turn_clock('2026-11-24 12:00:30+00');

-- What is counted, without how long it took.
create function pg_temp.counted(p_kind text) returns table (outcome text, error_class text, items bigint)
language plpgsql as $$
#variable_conflict use_column
begin
    return query
    select outcome, error_class, sum(items)::bigint from api.work_history where kind = p_kind group by outcome, error_class order by 1, 2;
end;
$$;

select pg_temp.submit(:'org', 5) as job \gset
select pg_temp.turn_clock('2026-11-24 12:00:40+00');
select array_agg(job_id) as jobs, array_agg(position) as positions, array_agg(lease_token) as tokens from api.claim_lookups(:'org', 'w', 4) \gset
select count(*) from api.record_lookups(:'org', :'jobs', :'positions', :'tokens', '{200,200,500,404}', '{null,null,null,null}',
                                        array[:'answer', :'answer', null, '{}'], '{null,null,null,null}', '{0.02,0.25,0.3,99}') \gset recorded_
select results_eq($$ select * from pg_temp.counted('lookup') $$,
    $$ values ('completed', null, 2::bigint), ('failed', 'not_found', 1), ('retried', 'upstream_error', 1) $$, 'a flush is counted by outcome and error class');
select results_eq($$ select minute, latency_seconds, latency_buckets, wait_seconds, wait_buckets from api.work_history where outcome = 'completed' $$,
    $$ values ('2026-11-24 12:00+00'::timestamptz, 0.27::double precision, '{1,0,1,0,0,0,0,0,0,0,0}'::bigint[], 19.73::double precision, '{0,0,2,0,0,0,0,0,0,0}'::bigint[]) $$,
    'latencies and waits are counted in buckets');
select results_eq($$ select latency_buckets[11], wait_buckets[1] from api.work_history where outcome = 'failed' $$, $$ values (1::bigint, 1::bigint) $$,
    'values above all bounds are in the last bucket, and no wait is negative');
select results_eq($$ select wait_seconds from api.work_history where outcome = 'retried' $$, $$ values (0::double precision) $$, 'an item that is tried again has no wait yet');
select count(*) from api.record_lookups(:'org', :'jobs', :'positions', :'tokens', '{200,200,500,404}', '{null,null,null,null}',
                                        array[:'answer', :'answer', null, '{}'], '{null,null,null,null}', '{0.02,0.25,0.3,99}') \gset again_
select is((select sum(items) from pg_temp.counted('lookup')), 4::numeric, 'outcomes that change nothing are not counted again');
select pg_temp.look_up(:'org', 1, 200, :'answer');
select is((select items from pg_temp.counted('lookup') where outcome = 'completed'), 3::bigint, 'the next flush of a minute adds to it');
select is((select count(*) from app.work_minutes where outcome = 'completed'), 1::bigint, 'outcomes of a minute are added to the same row');
select is((select sum(n) from api.work_history, unnest(latency_buckets) n where outcome = 'completed'), 2::numeric, 'a lookup without a latency is in no bucket');

-- A worker may have several answers for an item: its lease expired before the first one was recorded, and it claimed the item again.
select pg_temp.turn_clock('2026-11-24 12:02:00+00');
select pg_temp.submit(:'org', 3) as job \gset
select array_agg(job_id) as jobs, array_agg(position) as positions, array_agg(lease_token) as tokens from api.claim_lookups(:'org', 'w', 10) where job_id = :'job' \gset
create function pg_temp.twice(a anyarray) returns anyarray language sql as $$ select a || a $$;
select results_eq(format($$ select position, verdict from api.record_lookups(%L, pg_temp.twice(%L::uuid[]), pg_temp.twice(%L::integer[]), pg_temp.twice(%L::uuid[]),
    '{200,200,500,200,500,500}', array_fill(null::text, array[6]), array[%5$L, %5$L, '{}', %5$L, '{}', '{}'], array_fill(null::float8, array[6]), '{1,1,1,2,2,2}') $$,
    :'org', :'jobs', :'positions', :'tokens', :'answer'),
    $$ select * from unnest('{0,1,2,0,1,2}'::integer[], array_fill('accepted'::text, array[6])) $$, 'each of several outcomes of an item is accepted');
select results_eq($$ select outcome, items, latency_seconds from api.work_history where minute = '2026-11-24 12:02+00' order by outcome $$,
    $$ values ('completed', 2::bigint, 3::double precision), ('retried', 1, 2) $$, 'several outcomes of an item are counted once, with the answer that it has');
select results_eq(format($$ select position, attempt, latency_ms from public.lookup_attempts where job_id = %L $$, :'job'), $$ values (2, 1, 2000) $$,
    'the outcome that changed an item is the attempt that is kept');

select api.cancel_batch_lookup(:'org', :'job');
delete from app.work_minutes where minute = '2026-11-24 12:02+00';

-- Batches, pauses, leases that expired, duplicates, webhooks.
select pg_temp.turn_clock('2026-11-24 12:05:00+00');
select pg_temp.look_up(:'org', 5, 200, :'answer');
select api.cancel_batch_lookup(:'org', pg_temp.submit(:'org', 2)) as cancelled \gset
select results_eq($$ select * from pg_temp.counted('job') $$, $$ values ('cancelled', null, 1::bigint), ('completed', null, 1) $$, 'batches are counted when they end');
select pg_temp.submit(:'other_org', 2) as other_job \gset
select pg_temp.look_up(:'other_org', 1, 429, null, null, 30);
select pg_temp.turn_clock('2026-11-24 12:06:00+00');
select pg_temp.look_up(:'other_org', 10, null, null, 'dns') from generate_series(1, 5);
select results_eq($$ select * from pg_temp.counted('pause') $$, $$ values ('retry_after', null, 1::bigint) $$, 'a pause is counted when it begins');
select api.resume_lookups();
update app.settings set outage_failures = 1;
select pg_temp.turn_clock('2026-11-24 12:10:00+00');
select pg_temp.look_up(:'other_org', 10, null, null, 'dns') from generate_series(1, 2);
select results_eq($$ select * from pg_temp.counted('pause') $$, $$ values ('outage', null, 1::bigint), ('retry_after', null, 1) $$, 'an outage is counted once, when the circuit breaker opens');
select api.cancel_batch_lookup(:'other_org', :'other_job'), api.resume_lookups();

select api.update_settings('{"deduplicate_seconds": 3600}') as settings \gset
select pg_temp.submit(:'org', 1) as job \gset
select pg_temp.submit(:'org', 1) as duplicate \gset
select pg_temp.look_up(:'org', 1, 200, :'answer');
select is((select items from pg_temp.counted('lookup') where outcome = 'deduplicated'), 1::bigint, 'an item that gets the answer to another one is counted as deduplicated');
select api.update_settings('{"deduplicate_seconds": null}') as settings \gset

-- The minute is over.
create temp table before on commit drop as select kind, outcome, error_class, sum(items) as items, sum(latency_seconds) as latency_seconds from app.work_minutes group by 1, 2, 3;
insert into app.work_minutes select organization_id, minute, kind, outcome, error_class, recorder + 1, items, 1, latency_buckets, 0, wait_buckets
  from app.work_minutes where outcome = 'completed' and kind = 'lookup' and minute = '2026-11-24 12:00+00';
select app.complete_work_minutes('2026-11-24 12:05+00');
select results_eq($$ select items, latency_seconds, latency_buckets from app.work_minutes where outcome = 'completed' and kind = 'lookup' and minute = '2026-11-24 12:00+00' $$,
    $$ values (6::bigint, 1.27::double precision, '{2,0,2,0,0,0,0,0,0,0,0}'::bigint[]) $$, 'the rows that backends made in a minute become one');
select app.complete_work_minutes('infinity'), app.complete_work_minutes('infinity');
select results_eq($$ select t.items - b.items from app.work_totals t join before b using (kind, outcome, error_class) where t.items <> b.items $$,
    $$ values (3::numeric) $$, 'every minute is added to the totals once');
select is_empty($$ select * from app.work_minutes where recorder <> 0 $$, 'no backend counts in a minute that is over');

-- Sums, whenever the rows of a minute are merged.
create function pg_temp.look_up_in(p_organization_id uuid, p_limit integer, p_latency double precision) returns bigint
language plpgsql as $$
begin
    return (select count(*)
              from (select array_agg(job_id) as jobs, array_agg(position) as positions, array_agg(lease_token) as tokens, count(*)::integer as n
                      from api.claim_lookups(p_organization_id, 'tester', p_limit)) c
             cross join lateral api.record_lookups(p_organization_id, c.jobs, c.positions, c.tokens, array_fill(200, array[n]), array_fill(null::text, array[n]),
                   array_fill('{}'::text, array[n]), array_fill(null::float8, array[n]), array_fill(p_latency, array[n])) r);
end;
$$;
select pg_temp.turn_clock('2026-11-24 12:30:00+00');
select pg_temp.submit(:'other_org', 6) as job \gset
select pg_temp.turn_clock('2026-11-24 12:30:10+00');
select pg_temp.look_up_in(:'other_org', 2, 1);
select pg_temp.look_up_in(:'other_org', 1, 2);
create temp view minute as select items, latency_seconds, latency_buckets, wait_seconds, wait_buckets from app.work_minutes where minute = '2026-11-24 12:30+00' and outcome = 'completed';
select results_eq('select * from minute', $$ values (3::bigint, 4::float8, '{0,0,0,0,2,1,0,0,0,0,0}'::bigint[], 26::float8, '{0,0,3,0,0,0,0,0,0,0}'::bigint[]) $$,
    'flushes of a minute add up, with their latencies, waits and buckets');
select app.complete_work_minutes('2026-11-24 12:31+00');
create temp table totals on commit drop as table app.work_totals;
select pg_temp.turn_clock('2026-11-24 12:30:40+00');
select pg_temp.look_up_in(:'other_org', 1, 3);
select app.complete_work_minutes('2026-11-24 12:30+00');
select is((select count(*) from minute), 2::bigint, 'the minute that has just begun is not completed');
select app.complete_work_minutes('2026-11-24 12:31+00', :'org');
select is((select count(*) from minute), 2::bigint, 'the minutes of one organization are completed without those of the others');
select app.complete_work_minutes('2026-11-24 12:31+00', :'other_org');
select results_eq('select * from minute', $$ values (4::bigint, 7::float8, '{0,0,0,0,2,1,1,0,0,0,0}'::bigint[], 63::float8, '{0,0,3,1,0,0,0,0,0,0}'::bigint[]) $$,
    'what is recorded after its minute was completed is added to it');
select results_eq($$ select t.items - b.items, t.latency_seconds - b.latency_seconds, t.wait_seconds - b.wait_seconds,
                            array(select x - y from unnest(t.latency_buckets, b.latency_buckets) u (x, y)), array(select x - y from unnest(t.wait_buckets, b.wait_buckets) u (x, y))
                       from app.work_totals t join totals b using (kind, outcome, error_class) where kind = 'lookup' and outcome = 'completed' $$,
    $$ values (1::bigint, 3::float8, 37::float8, '{0,0,0,0,0,0,1,0,0,0,0}'::bigint[], '{0,0,0,1,0,0,0,0,0,0}'::bigint[]) $$,
    'what is added to a minute is added to the totals once');

select pg_temp.turn_clock('2026-12-24 12:01:00+00');
select api.run_maintenance() as ran \gset
select is((select min(minute) from app.work_minutes), '2026-11-24 12:05+00'::timestamptz, 'minutes are kept for 30 days');
select ok((select sum(items) from app.work_totals where kind = 'lookup' and outcome = 'completed') >= 6, 'totals are kept forever');
insert into app.work_minutes (organization_id, minute, kind, outcome, error_class, recorder, items, latency_seconds, latency_buckets, wait_seconds, wait_buckets)
select o, m, 'lookup', 'completed', '', r, 1, 0, app.fill_buckets(null, null, app.latency_bounds()), 0, app.fill_buckets(null, null, app.wait_bounds())
  from unnest(array[:'org', :'other_org']::uuid[]) o, unnest('{2026-10-01 00:02+00,2026-10-01 00:01+00,2026-10-01 00:03+00}'::timestamptz[]) m, generate_series(0, 1) r;
select is(app.prune_work_minutes(:'org', '2026-12-01 00:00+00', 2), 2, 'a step deletes so many minutes at most');
select results_eq(format($$ select minute, recorder from app.work_minutes where organization_id = %L and minute < '2026-11-01' order by 1, 2 $$, :'org'),
    $$ select * from (values ('2026-10-01 00:01+00'::timestamptz, 1), ('2026-10-01 00:02+00', 1), ('2026-10-01 00:03+00', 0), ('2026-10-01 00:03+00', 1)) v $$,
    'the oldest minutes are deleted first, and none that is not complete');
select is((select count(*) from app.work_minutes where organization_id = :'other_org' and minute < '2026-11-01'), 6::bigint, 'the minutes of another organization are kept');

select * from finish();
rollback;
