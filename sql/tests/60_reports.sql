begin;
select plan(34);
\ir fixtures.psql

select pg_temp.submit(:'org', 3) as job \gset
select id as report from public.incentive_reports where job_id = :'job' \gset
select pg_temp.look_up(:'org', 1, 200, :'answer');
select is(
    (select status || ' ' || total_sites || ' ' || eligible_sites || ' ' || total_incentive_value from public.incentive_reports where id = :'report'),
    'processing 1 1 1200.50', 'a completed item is in the totals at once');
select results_eq(
    format($$ select reference_id, city, utility_eiaid, utility_name, eligible, total_incentive_amount, cardinality(device_categories) from public.incentive_report_sites where report_id = %L $$, :'report'),
    $$ values ('site-1', 'Austin', '1015', 'Austin Energy', true, 1200.50, 1) $$, 'a completed item becomes a site');
select results_eq(
    format($$ select program_id, program_name, total_incentive, eligible_combinations from public.incentive_report_site_programs where report_id = %L order by program_id $$, :'report'),
    $$ values ('7', 'Heat pumps', 800.00, 1), ('9', 'Water heaters', 400.50, 1) $$, 'a site has the programs that it is eligible for');
select pg_temp.look_up(:'org', 1, 200, '{"incentives": {"total_incentive_amount": 0, "total_eligible_combinations": 0, "by_program": []}}');
select pg_temp.look_up(:'org', 1, 404);
select is(
    (select status || ' ' || total_sites || ' ' || eligible_sites || ' ' || total_incentive_value from public.incentive_reports where id = :'report'),
    'complete 2 1 1200.50', 'failed items are not in the report, ineligible ones are');

-- Conditional amounts
select pg_temp.submit(:'org', 2) as conditional_job \gset
select pg_temp.look_up(:'org', 1, 200, '{"incentives": {"total_incentive_amount": 100, "conditional_incentive_amount": 800.25}}');
select pg_temp.look_up(:'org', 1, 200, '{"incentives": {"total_incentive_amount": 0, "conditional_incentive_amount": 50}}');
select is(
    (select (r.eligible_sites, r.total_incentive_value, r.conditional_incentive_amount, array_agg(s.conditional_incentive_amount order by s.position))::text
       from public.incentive_reports r
       join public.incentive_report_sites s on s.report_id = r.id
      where r.job_id = :'conditional_job'
      group by r.organization_id, r.id),
    '(1,100.00,850.25,"{800.25,50.00}")', 'amounts that depend on the household are summed separately');
select is_empty('select * from api.check_invariants()', 'a report adds up the amounts that depend on the household');

-- Answers of any kind
select pg_temp.submit(:'org', 5) as odd_job \gset
select pg_temp.look_up(:'org', 1, 200, r)
  from unnest(array['{"incentives": []}', '{"incentives": {"by_program": {"a": 1}}}', '{"incentives": {"by_program": [1, null, "x", []]}, "utility": "none"}',
                    '{"incentives": {"by_program": [{"program_id": {}, "program_name": [], "total_incentive": 5}], "total_incentive_amount": 5}}',
                    '{"incentives": {"by_program": [{"program_id": 1, "total_incentive": 2}, {"program_id": 1, "total_incentive": 3}]}}']) r;
select is((select status || total_sites || '/' || total_incentive_value from public.incentive_reports where job_id = :'odd_job'), 'complete5/5.00', 'whatever is usable in an odd answer is taken');
select is(
    (select sum(total_incentive) from public.incentive_report_site_programs p join public.incentive_reports r on r.id = p.report_id where r.job_id = :'odd_job' and program_id = '1'),
    5.00, 'a program that is named twice is one');

-- An answer that the tables could not hold
select pg_temp.submit(:'org', 2) as large_job \gset
select is(
    pg_temp.look_up(:'org', 1, 200, format('{"incentives": {"total_incentive_amount": 7, "by_program": [{"program_id": "%s", "total_incentive": 5}, {"program_id": "short", "total_incentive": 2}]}}',
                                           (select string_agg(md5(n::text), '') from generate_series(1, 100) n))),
    1::bigint, 'an answer is recorded whose program id is too long for an index');
select is(
    pg_temp.look_up(:'org', 1, 200, (select jsonb_build_object('incentives', jsonb_build_object('by_program', jsonb_agg('{"program_id": "many", "eligible_combinations": 999999999}'::jsonb)))::text
                                       from generate_series(1, 3000))),
    1::bigint, 'an answer whose combinations no integer can hold is recorded');
select is(
    array(select p.program_id || ' ' || p.eligible_combinations
            from public.incentive_report_site_programs p join public.incentive_reports r on r.id = p.report_id where r.job_id = :'large_job' order by 1),
    array['many 1000000', 'short 0'], 'the report has what it can hold of such answers');

-- Outcomes of several batches at once
select is(array[app.eiaid('1015'), app.eiaid('PG&E'), app.eiaid(repeat('9', 15)), app.eiaid(repeat('9', 16))], '{1015,null,999999999999999,null}', 'a number of a utility has at most 15 digits');
select is(app.result_is_eligible('{"incentives": {"total_eligible_combinations": 1}}'), true, 'an answer with one eligible combination is eligible');
select is((select array_agg(length(program_id)) from app.result_programs((select jsonb_build_object('incentives', jsonb_build_object('by_program', jsonb_agg(jsonb_build_object('program_id', repeat('x', n), 'total_incentive', 1)))) from unnest(array[500, 501]) n))),
    '{500}', 'the id of a program has at most 500 characters');
select min(id) as device, min(category_key) as category from app.devices where id = (select min(id) from app.devices) \gset
select id as device2, category_key as category2 from app.devices where category_key <> :'category' order by id limit 1 \gset
savepoint before;
select api.create_batch_lookup(:'org', jsonb_build_object('items', (pg_temp.items(1, jsonb_build_object('device_ids', jsonb_build_array(:device, :device2))) -> 'items') || (pg_temp.items(3) -> 'items' -> 2) || (pg_temp.items(2, jsonb_build_object('device_ids', jsonb_build_array(:device2))) -> 'items' -> 1))) ->> 'job_id' as three,
       pg_temp.submit(:'org', 1) as one, pg_temp.submit(:'org', 1) as without_report \gset
select array_agg(job_id) as jobs, array_agg(position) as positions, array_agg(lease_token) as tokens, array_agg(case when position = 1 then 404 else 200 end) as statuses,
       array_agg(case when job_id = :'one' then '{"incentives": {"total_eligible_combinations": 1, "by_program": [{"program_id": "unpaid", "eligible_combinations": 1}]}}'
                      when position = 0 then format('{"incentives": {"total_incentive_amount": 100, "by_program": [{"program_id": "paid", "total_incentive": 100, "device_tier_results": [{"device_id": %s, "incentive_amount": 100}]}]}}', :device)
                      else '{}' end) as responses
  from api.claim_lookups(:'org', 'w', 10) \gset
select api.cancel_batch_lookup(:'org', :'without_report') as cancelled \gset
-- As if the catalogue had lost the device.
update public.lookup_queue_items set device_ids = '{0}' where organization_id = :'org' and job_id = :'one';
delete from public.incentive_reports where organization_id = :'org' and job_id = :'without_report';
select string_agg(verdict, ' ') as verdicts
  from api.record_lookups(:'org', :'jobs', :'positions', :'tokens', :'statuses', array_fill(null::text, array[5]), :'responses', array_fill(null::double precision, array[5])) \gset
select id as report_of_three, updated_at > created_at as is_updated from public.incentive_reports where organization_id = :'org' and job_id = :'three' \gset
select id as report_of_one from public.incentive_reports where organization_id = :'org' and job_id = :'one' \gset
select array_agg(concat_ws(' ', array_position(array[:'report_of_three', :'report_of_one']::uuid[], s.report_id), s.position, s.device_categories, s.category_amounts, s.eligible) order by s.report_id = :'report_of_one', s.position) as sites
  from public.incentive_report_sites s where s.organization_id = :'org' and s.report_id in (:'report_of_three', :'report_of_one') \gset
select array_agg(concat_ws(' ', array_position(array[:'report_of_three', :'report_of_one']::uuid[], p.report_id), p.position, p.program_id, p.total_incentive, p.eligible_combinations) order by p.report_id = :'report_of_one') as programs
  from public.incentive_report_site_programs p where p.organization_id = :'org' and p.report_id in (:'report_of_three', :'report_of_one') \gset

-- A report that was deleted after sites were added to it
delete from public.incentive_reports where organization_id = :'org' and id = :'report_of_one';
select row(j.*)::public.batch_lookup_jobs as job_of_one from public.batch_lookup_jobs j where j.organization_id = :'org' and j.id = :'one' \gset
select app.update_report(:'org', :'job_of_one', app.clock(), 1) \gset late_
select (select array_agg(distinct report_id) from public.incentive_report_sites where organization_id = :'org' and report_id in (:'report', :'report_of_three', :'report_of_one')) as sites_of,
       (select array_agg(distinct report_id) from public.incentive_report_site_programs where organization_id = :'org' and report_id in (:'report', :'report_of_three', :'report_of_one')) as programs_of \gset
rollback to before;
select is(:'verdicts'::text, 'accepted accepted accepted accepted accepted', 'an answer is recorded although the report of its batch is gone');
select is(:'sites'::text[], array['1 0 {ground_source_heat_pump,heat_pump} {0.00,100.00} t', '1 2 {ground_source_heat_pump} {0.00} f', '2 0 {} {} t'],
    'each site has the categories of its own devices, with what is paid for them');
select ok(:'is_updated', 'a report that grows has been updated');
select is(:'programs'::text[], array['1 0 paid 100.00 0', '2 0 unpaid 0.00 1'], 'each site has its own programs, even one that pays nothing');
select is(array[:'sites_of', :'programs_of']::text[], array_fill((select array_agg(u order by u)::text from unnest(array[:'report', :'report_of_three']::uuid[]) u), array[2]), 'sites that were added to a report while it was deleted are deleted, and no others');

-- Reading
select is((api.list_incentive_reports(:'org') ->> 'total')::integer, 4, 'the list counts the organization''s reports');
select is((api.list_incentive_reports(:'org', 'processing') ->> 'total')::integer, 0, 'the list of reports filters by status');
select is(api.list_incentive_reports(:'other_org')::jsonb, '{"reports": [], "total": 0, "limit": 20, "offset": 0, "next_cursor": null}', 'another organization has none');
savepoint before;
select pg_temp.submit(:'other_org', 1) as of_another \gset
select array_agg(id order by id) as reports from public.incentive_reports where organization_id = :'org' \gset
update public.incentive_reports r set created_at = u.created_at
  from unnest(:'reports'::uuid[], '{2026-01-02Z,2026-01-03Z,2026-01-04Z,2026-01-05Z}'::timestamptz[]) u (id, created_at) where r.organization_id = :'org' and r.id = u.id;
update public.incentive_reports set created_at = '2026-01-03Z' where organization_id = :'other_org';
select array_agg(concat_ws(' ', l ->> 'total', (select string_agg(array_position(:'reports'::uuid[], (r ->> 'id')::uuid)::text, ',' order by n) from json_array_elements(l -> 'reports') with ordinality r (r, n)))) as filtered
  from unnest(array['2026-01-03Z', null, '2026-01-03Z', null]::timestamptz[], array['2026-01-04Z', '2026-01-03Z', null, null]::timestamptz[], array[null, null, null, 'complete']) f (since, until, status)
 cross join lateral api.list_incentive_reports(:'org', f.status, p_report_type => 'bulk_lookup', p_created_from => f.since, p_created_before => f.until) l \gset
with recursive page as (
    select 1 as n, api.list_incentive_reports(:'org', p_limit => 1) as body
     union all
    select n + 1, api.list_incentive_reports(:'org', p_limit => 1, p_cursor => body ->> 'next_cursor') from page where body ->> 'next_cursor' is not null and n < 9
)
select string_agg(array_position(:'reports'::uuid[], (body #>> '{reports,0,id}')::uuid)::text, ',' order by n) as pages from page \gset
rollback to before;
select is(:'filtered'::text[], array['1 2', '1 1', '3 4,3,2', '4 4,3,2,1'], 'the list of reports filters by time, and the total counts what it has');
select is(:'pages'::text, '4,3,2,1', 'page after page, an organization lists its own reports, the newest first');
savepoint before;
select updated_at as was_updated from public.incentive_reports where organization_id = :'org' and id = :'report' \gset
select r ->> 'description' as was from api.get_incentive_report(:'org', :'report') r \gset
select array[r ->> 'name', (r ->> 'description' = :'was')::text] as renamed from api.update_incentive_report(:'org', :'report', '{"name": " North "}') r \gset
select array[r ->> 'name', r ->> 'description'] as described from api.update_incentive_report(:'org', :'report', '{"description": "Homes"}') r \gset
select count(*) as with_that_name, bool_and(updated_at > :'was_updated') as is_updated from public.incentive_reports where organization_id = :'org' and name = 'North' \gset
select count(*) as sites from public.incentive_report_sites where organization_id = :'org' and report_id <> :'report' \gset kept_
select count(*) as programs from public.incentive_report_site_programs where organization_id = :'org' and report_id <> :'report' \gset kept_
select api.delete_incentive_report(:'org', :'report') as deleted \gset
select (select count(*) from public.incentive_report_sites where organization_id = :'org') = :kept_sites as has_sites,
       (select count(*) from public.incentive_report_site_programs where organization_id = :'org') = :kept_programs as has_programs \gset
rollback to before;
select is(:with_that_name, 1, 'a change of a report leaves the others as they are');
select ok(:'is_updated', 'a report whose name changes has been updated');
select is(array[:kept_sites > 0, :kept_programs > 0, :'has_sites', :'has_programs'], '{t,t,t,t}', 'a report is deleted with its sites and programs, and those of others are kept');
select is(array[:'renamed'::text, :'described'], '{"{North,true}","{North,Homes}"}', 'a report keeps its name or description when only the other changes');
select is(
    array(select s ->> 'reference_id' from json_array_elements(api.get_incentive_report(:'org', :'report') -> 'sites') s), array['site-1', 'site-2'], 'a report lists its sites');
select is(
    (api.get_incentive_report(:'org', :'report', 1) #> '{sites,0,programs,0}')::jsonb,
    '{"program_id": "7", "program_name": "Heat pumps", "total_incentive": 800.00, "eligible_combinations": 1}', 'a report lists the programs of a site, the largest first');
select throws_ok(format($$ select api.get_incentive_report(%L, %L) $$, :'other_org', :'report'), 'PT404', 'Report not found', 'another organization''s report is not found');

-- A late success of a cancelled job whose report was deleted
select pg_temp.submit(:'org', 2) as late_job \gset
select array_agg(job_id) as jobs, array_agg(position) as positions, array_agg(lease_token) as tokens from api.claim_lookups(:'org', 'tester', 2) \gset
select api.cancel_batch_lookup(:'org', :'late_job');
select app.expire_leases(:'org', app.clock() + interval '1 day');
select report_id as late_report from public.batch_lookup_jobs where id = :'late_job' \gset
select api.delete_incentive_report(:'org', :'late_report');
select is(pg_temp.record(:'org', :'jobs', :'positions', :'tokens', 200, :'answer'), 'accepted,accepted', 'a late success is accepted although the report was deleted');
select is((select count(*) from public.incentive_report_sites where report_id = :'late_report')
          + (select count(*) from public.incentive_report_site_programs where report_id = :'late_report'), 0::bigint,
    'a late success leaves no site of a deleted report');
select is((select count(*) from api.check_invariants()), 0::bigint, 'reports and jobs agree with their items');

select * from finish();
rollback;
