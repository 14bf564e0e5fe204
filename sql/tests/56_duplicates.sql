begin;
select plan(18);
\ir fixtures.psql
select pg_temp.turn_clock(clock_timestamp());

-- A batch of items at the streets given.
create function pg_temp.submit_streets(p_organization_id uuid, variadic p_streets text[]) returns uuid
language sql as $$
    select (api.create_batch_lookup(p_organization_id, jsonb_build_object('items', jsonb_agg(
               i.item || jsonb_build_object('address', i.item -> 'address' || jsonb_build_object('street_1', s.street)) order by s.n))) ->> 'job_id')::uuid
      from unnest(p_streets) with ordinality s (street, n)
     cross join lateral (select pg_temp.items(s.n::integer) -> 'items' -> (s.n::integer - 1) as item) i
$$;
create function pg_temp.statuses(p_job_id uuid) returns text
language sql as $$ select string_agg(status || coalesce(' ' || (result ->> 'deduplicated'), ''), ', ' order by position) from public.lookup_queue_items where job_id = p_job_id $$;

select pg_temp.submit_streets(:'org', '1 Main St', '1 Main St') as job \gset
select is((select count(*)::integer from api.claim_lookups(:'org', 'w', 10)), 2, 'without the setting every item is looked up');
select api.cancel_batch_lookup(:'org', :'job') as cancelled, api.update_settings('{"deduplicate_seconds": 3600}') as settings \gset

-- In one batch
select pg_temp.submit_streets(:'org', '1 Main St.', '2 Main St', '1  MAIN ST') as job \gset
select is(pg_temp.look_up(:'org', 10, 200, :'answer'), 2::bigint, 'the same address twice is looked up once');
select is(pg_temp.statuses(:'job'), 'completed, completed, completed true', 'duplicates of one batch are answered twice by one lookup');
select is((select result ->> 'reference_id' from public.lookup_queue_items where job_id = :'job' and position = 2), 'site-3', 'under its own reference');
select is((select status || total_sites from public.incentive_reports where job_id = :'job'), 'complete3', 'the report has all of them');
select is_empty('select * from api.check_invariants()', 'the counters add up');

-- Across batches
select pg_temp.submit_streets(:'org', '2 main st', '3 Main St') as second_job \gset
select is(pg_temp.statuses(:'second_job'), 'completed true, pending', 'what was answered lately is answered at once');
select pg_temp.turn_clock(app.clock() + interval '1 second');
select pg_temp.submit_streets(:'org', '3 Main St') as third_job \gset
select is(pg_temp.look_up(:'org', 10, 200, :'answer'), 1::bigint, 'what another batch has open is waited for');
select is((select status from public.batch_lookup_jobs where id = :'third_job'), 'completed', 'a job of duplicates alone ends with the lookup of the first');
select pg_temp.submit_streets(:'other_org', '3 Main St') as other_job \gset
select is(pg_temp.look_up(:'other_org', 10, 200, '{}'), 1::bigint, 'another organization''s answer is its own');

-- When the first one fails
select pg_temp.submit_streets(:'org', '4 Main St', '4 Main St') as job \gset
select is(pg_temp.look_up(:'org', 10, 404), 1::bigint, 'a lookup that fails');
select pg_temp.turn_clock(app.clock() + interval '10 minutes');
select is(pg_temp.look_up(:'org', 10, 200, '{}'), 1::bigint, 'is tried with the next one');
select is(pg_temp.statuses(:'job'), 'failed, completed', 'a duplicate is looked up itself when the first one failed');

-- Before the claims have come to it
select pg_temp.submit_streets(:'org', '5 Main St', '6 Main St', '7 Main St', '5 Main St') as job \gset
select is(pg_temp.look_up(:'org', 1, 404), 1::bigint, 'a lookup that fails early');
select pg_temp.turn_clock(app.clock() + interval '10 minutes');
select is(
    array(select position from api.claim_lookups(:'org', 'w', 1) union all select position from api.claim_lookups(:'org', 'w', 10)), array[1, 2, 3],
    'leaves its duplicate to be claimed in its turn, once');
select is_empty('select * from api.check_invariants()', 'the invariants hold while duplicates wait');
select api.cancel_batch_lookup(:'org', :'job') as cancelled \gset

-- Time passes
select pg_temp.turn_clock(app.clock() + interval '2 hours');
select api.run_maintenance() as ran \gset
select pg_temp.submit_streets(:'org', '1 Main St') as job \gset
select is(pg_temp.look_up(:'org', 10, 200, '{}'), 1::bigint, 'an old answer is not used any more');
select is_empty('select * from api.check_invariants()', 'the invariants hold after duplicates were answered');

select * from finish();
rollback;
