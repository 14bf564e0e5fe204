begin;
select plan(26);
\ir fixtures.psql
select pg_temp.turn_clock('2026-11-20 12:00:00+00');

create function pg_temp.used(p_job_id uuid) returns bigint
language plpgsql as $$
begin
    return (select sum(lookups) from public.lookup_usage where job_id = p_job_id);
end;
$$;
select pg_temp.submit(:'org', 4) as job \gset
select pg_temp.look_up(:'org', 1, 200);
select is(pg_temp.look_up(:'org', 1, 500), 1::bigint, 'a lookup fails and will be repeated');
select is(pg_temp.used(:'job'), 2::bigint, 'a lookup counts, whatever its outcome');
select job_id, position, lease_token from api.claim_lookups(:'org', 'w', 1) \gset
select is(pg_temp.used(:'job'), 3::bigint, 'a claimed item counts, because its lookup may be under way');
select api.release_lookups(:'org', array[:'job_id'::uuid], array[:position], array[:'lease_token'::uuid]) as released \gset
select is(pg_temp.used(:'job'), 2::bigint, 'an item that was released unsent does not count');
select pg_temp.turn_clock('2026-11-21 12:00:00+00');
select is(pg_temp.look_up(:'org', 5, 200), 3::bigint, 'the other items are looked up');
select results_eq(
    format('select day, lookups from api.usage where job_id = %L order by day', :'job'), $$ values ('2026-11-20'::date, 2), ('2026-11-21', 3) $$,
    'lookups are counted by day, retries included');
select is((api.get_batch_lookup(:'org', :'job') ->> 'lookups')::integer, 5, 'a job says how many lookups it took');


-- Pages
update public.batch_lookup_jobs set name = 'Homes' where id = :'job';
select is(
    (select (u -> 'lookups')::text || (u #>> '{month,lookups}') || (u ->> 'total') || (u #>> '{usage,0,day}') || (u #>> '{usage,0,name}') from api.get_usage(:'org', p_limit => 1) u),
    '5522026-11-21Homes', 'the newest day comes first, with the sums of all');
select is(
    (select (u #>> '{usage,0,day}') || (u #>> '{usage,0,lookups}') || (u ->> 'next_cursor' is null)
       from api.get_usage(:'org', p_limit => 1) f cross join api.get_usage(:'org', p_limit => 1, p_cursor => f ->> 'next_cursor') u),
    '2026-11-202true', 'a cursor leads to the day before, and the last page has none');
select is((api.get_usage(:'org', p_created_from => '2026-11-21Z') -> 'lookups')::text, '3', 'a range of days has the sums of these days');
select is(
    (select array[u ->> 'total_items', u ->> 'created_at'] from (select api.get_usage(:'org') #> '{usage,0}' as u) u),
    (select array[j ->> 'total_items', j ->> 'created_at'] from api.get_batch_lookup(:'org', :'job') j), 'a row describes its job');

-- Released after midnight
select pg_temp.turn_clock('2026-11-21 23:59:50+00'), pg_temp.submit(:'org', 5) as job \gset
select array_agg(job_id) as jobs, array_agg(position) as positions, array_agg(lease_token) as tokens from api.claim_lookups(:'org', 'w', 4) \gset old_
select pg_temp.turn_clock('2026-11-22 00:00:10+00'), pg_temp.submit(:'org', 1) as other_job \gset
select array_agg(job_id) as jobs, array_agg(position) as positions, array_agg(lease_token) as tokens from api.claim_lookups(:'org', 'w', 9) \gset
select api.release_lookups(:'org', :'old_jobs', :'old_positions', :'old_tokens') as released \gset
select is(pg_temp.used(:'job'), 1::bigint, 'items claimed on two days are uncounted on both, once');
select api.release_lookups(:'org', :'jobs', :'positions', :'tokens') as released \gset
select results_eq(
    format('select d.lookups, d.jobs, u.lookups from app.usage_days d join public.lookup_usage u using (organization_id, day) where u.job_id = %L order by d.day', :'job'),
    $$ values (3::bigint, 1, 0), (0, 0, 0) $$, 'an item claimed before midnight and released after it does not count, either');

-- Released by a machine that was suspended over a weekend
select api.create_batch_lookup(:'org', pg_temp.items(2), p_options => '{"max_lookups": 9}') ->> 'job_id' as job \gset
select array_agg(job_id) as jobs, array_agg(position) as positions, array_agg(lease_token) as tokens from api.claim_lookups(:'org', 'w', 10) \gset old_
select pg_temp.turn_clock('2026-11-25 08:00:00+00');
select api.release_lookups(:'org', :'old_jobs', :'old_positions', :'old_tokens') as released \gset
select is_empty('select * from api.check_invariants()', 'an item released days later keeps the limit of its batch and its usage consistent');

-- Released beside another batch
select api.create_batch_lookup(:'org', pg_temp.items(2), p_options => '{"max_lookups": 9}') ->> 'job_id' as first_job,
       api.create_batch_lookup(:'org', pg_temp.items(3), p_options => '{"max_lookups": 9}') ->> 'job_id' as second_job \gset
select array_agg(job_id) as jobs, array_agg(position) as positions, array_agg(lease_token) as tokens
  from api.claim_lookups(:'org', 'w', 100) where job_id = :'second_job' \gset
select api.release_lookups(:'org', :'jobs', :'positions', :'tokens') as released \gset
select is(
    (select array_agg(array[b.lookups, pg_temp.used(b.job_id)] order by b.lookups) from app.job_budgets b where b.job_id in (:'first_job', :'second_job')),
    '{{0,0},{2,2}}', 'items released by one batch do not change the count of another');
select is_empty('select * from api.check_invariants()', 'usage adds up after one of several batches released its items');

-- Released by a worker that stops while they are under way
select pg_temp.submit(:'org', 3) as job \gset
select array_agg(job_id) as jobs, array_agg(position) as positions, array_agg(lease_token) as tokens
  from api.claim_lookups(:'org', 'w', 10) where job_id = :'job' \gset
select api.release_lookups(:'org', :'jobs', :'positions', :'tokens', p_were_sent => true) as released \gset
select is(array[:released, pg_temp.used(:'job')], array[3, 3]::bigint[], 'an item that was released after its lookup was sent counts');

-- Released after the month has ended
select pg_temp.turn_clock('2026-11-30 23:59:55+00'), pg_temp.submit(:'other_org', 10) as job \gset
select array_agg(job_id) as jobs, array_agg(position) as positions, array_agg(lease_token) as tokens from api.claim_lookups(:'other_org', 'w', 4) \gset
select pg_temp.turn_clock('2026-12-01 00:00:05+00'), api.set_monthly_lookups(:'other_org', 4);
select count(*) as claimed from api.claim_lookups(:'other_org', 'w', 4) \gset
select api.release_lookups(:'other_org', :'jobs', :'positions', :'tokens') as released \gset
select is(
    (select array_agg(format('%s %s', app.iso_date(u.day), u.lookups) order by u.day) from public.lookup_usage u where u.job_id = :'job'),
    '{2026-11-30 0,2026-12-01 4}', 'an item claimed in one month and released in the next does not count in the first');
select is((select count(*)::integer from api.claim_lookups(:'other_org', 'w', 9)), 0, 'items released from the month before do not add lookups to this month');

-- Released in part
select api.create_organization('Initech') as initech \gset
select api.set_monthly_lookups(:'initech', 50), pg_temp.turn_clock('2026-12-03 23:59:50+00'),
       api.create_batch_lookup(:'initech', pg_temp.items(5), p_options => '{"max_lookups": 90}') ->> 'job_id' as job \gset
select is(api.get_batch_lookup(:'initech', :'job') ->> 'lookups', '0', 'a job says that it took no lookups yet');
select array_agg(job_id) as jobs, array_agg(position) as positions, array_agg(lease_token) as tokens from api.claim_lookups(:'initech', 'w', 4) \gset
select api.release_lookups(:'initech', (:'jobs'::uuid[])[:1], (:'positions'::integer[])[:1], (:'tokens'::uuid[])[:1]) as released \gset
select is(
    (select array[u ->> 'lookups', u ->> 'total', u #>> '{usage,0,lookups}', u #>> '{month,lookups}', u #>> '{month,limit}'] from api.get_usage(:'initech') u),
    '{3,1,3,3,50}', 'a batch that released some of its items still counts with the others, within the limit of its organization');

-- Released after midnight under tokens of an earlier release, which do not say when they were claimed
update public.lookup_leases set lease_token = '00000000-0000-4000-8000-000000000001' where organization_id = :'initech';
select array_fill('00000000-0000-4000-8000-000000000001'::uuid, array[4]) as old_tokens, pg_temp.turn_clock('2026-12-04 00:00:05+00') \gset
select array_agg(job_id) as new_jobs, array_agg(position) as new_positions, array_agg(lease_token) as new_tokens from api.claim_lookups(:'initech', 'w', 1) \gset
select api.release_lookups(:'initech', :'jobs', :'positions', :'old_tokens') as released \gset
create function pg_temp.counts(p_organization_id uuid) returns text
language plpgsql as $$
begin
    return (select string_agg(format('%s: %s of %s', app.iso_date(day), lookups, jobs), ', ' order by day) from app.usage_days where organization_id = p_organization_id)
           || (select ', within limits: ' || sum(lookups) from app.job_budgets where organization_id = p_organization_id);
end;
$$;
select is(
    array[:'released', pg_temp.used(:'job')::text, pg_temp.counts(:'initech')], '{3,3,"2026-12-03: 3 of 1, 2026-12-04: 0 of 0, within limits: 3"}',
    'items whose day is unknown never make the lookups of a day fewer than none');
select api.release_lookups(:'initech', :'new_jobs', :'new_positions', :'new_tokens') as released \gset
select is(array[:'released', pg_temp.used(:'job')::text, pg_temp.counts(:'initech')], '{1,3,"2026-12-03: 3 of 1, 2026-12-04: 0 of 0, within limits: 3"}', 'a batch leaves the count of a day once');

-- Several batches on a day
select pg_temp.look_up(:'initech', 9), pg_temp.submit(:'initech', 2) as second_job \gset
select pg_temp.look_up(:'initech', 9), pg_temp.turn_clock('2026-12-05 00:00:00+00'), pg_temp.submit(:'initech', 1) as third_job \gset
select pg_temp.look_up(:'initech', 9) as looked_up \gset
create function pg_temp.pages(p_organization_id uuid) returns text[]
language plpgsql as $$
declare
    v_page   json := api.get_usage(p_organization_id, p_limit => 1);
    v_pages  text[] := '{}';
begin
    for n in 1 .. 9 loop
        v_pages := v_pages || array(select concat_ws(' ', u ->> 'day', u ->> 'job_id', u ->> 'lookups', u ->> 'total_items') from json_array_elements(v_page -> 'usage') u);
        exit when v_page ->> 'next_cursor' is null;
        v_page := api.get_usage(p_organization_id, p_limit => 1, p_cursor => v_page ->> 'next_cursor');
    end loop;
    return v_pages;
end;
$$;
select is(
    pg_temp.pages(:'initech'),
    array['2026-12-05 ' || :'third_job' || ' 1 1', '2026-12-04 ' || :'second_job' || ' 2 2', '2026-12-04 ' || :'job' || ' 5 5', '2026-12-03 ' || :'job' || ' 3 5'],
    'each batch of a day is on one page, the newest first, and describes its own job');
select is(
    array(select u ->> 'job_id' from json_array_elements(api.get_usage(:'initech') -> 'usage') u), array[:'third_job', :'second_job', :'job', :'job'],
    'a page has the newest batch of a day first');
select is(
    (select array[u #>> '{usage,0,day}', u ->> 'lookups', u ->> 'total'] from api.get_usage(:'initech', p_created_before => '2026-12-05Z') u),
    '{2026-12-04,10,3}', 'usage before a day has neither its rows nor their sums');

select * from finish();
rollback;
