begin;
select plan(12);
\ir fixtures.psql
select pg_temp.submit(:'org', 3) as job \gset
select id as report from public.incentive_reports where job_id = :'job' \gset
select pg_temp.look_up(:'org', 2, 200, :'answer') as recorded \gset
select pg_temp.look_up(:'org', 1, 200, '{}') as recorded \gset
update public.incentive_report_sites set state_or_province_code = 'CA' where report_id = :'report' and position = 1;
select api.get_incentive_report_summary(:'org', :'report') as summary \gset

select is(array(select json_object_keys(:'summary')), array['report', 'by_state', 'by_utility', 'by_program', 'by_device_category'],
    'a summary has its parts in order');
select is(:'summary'::json #>> '{report,total_incentive_value}', '2401.00', 'a summary has the sums of the report');
select is((:'summary'::json -> 'by_state')::jsonb,
    '[{"country_code": "US", "state_or_province_code": "TX", "name": "Texas", "sites": 2, "eligible_sites": 1, "total_incentive_value": 1200.50},
      {"country_code": "US", "state_or_province_code": "CA", "name": "California", "sites": 1, "eligible_sites": 1, "total_incentive_value": 1200.50}]',
    'sites are summed by state, of equal values the one with more sites first');
select is((:'summary'::json -> 'by_utility')::jsonb,
    '[{"eiaid": 1015, "name": "Austin Energy", "sites": 2, "eligible_sites": 2, "total_incentive_value": 2401.00},
      {"eiaid": null, "name": null, "sites": 1, "eligible_sites": 0, "total_incentive_value": 0}]',
    'sites are summed by utility, those without one together');
select is((:'summary'::json -> 'by_program')::jsonb,
    '[{"program_id": "7", "program_name": "Heat pumps", "eligible_sites": 2, "total_incentive_value": 1600.00},
      {"program_id": "9", "program_name": "Water heaters", "eligible_sites": 2, "total_incentive_value": 801.00}]',
    'a site counts in every program that it is eligible for');
select is((select sum((c ->> 'sites')::integer)::integer from json_array_elements(:'summary'::json -> 'by_device_category') c), 3,
    'a site counts in every device category that it asks about');

-- The order
select pg_temp.submit(:'org', 4) as tied \gset
select report_id as tied_report from public.batch_lookup_jobs where id = :'tied' \gset
select pg_temp.look_up(:'org', 1, 200, format('{"utility": {"eiaid": %1$s, "name": "%2$s"}, "incentives": {"total_incentive_amount": %3$s, "total_eligible_combinations": 1,
           "by_program": [{"program_id": %4$s, "program_name": "P", "total_incentive": %3$s, "eligible_combinations": 1}]}}', eiaid, name, amount, program))
  from (values (1, 'Austin Energy', 1200, 7), (2, 'Zilker Power', 600, 9), (2, 'Zilker Power', 600, 9), (3, 'Bluebonnet', 1300, 8)) v (eiaid, name, amount, program);
update public.incentive_report_sites i
   set state_or_province_code = s.state
  from (values (0, 'TX'), (1, 'MO'), (2, 'MS'), (3, 'CA')) s (position, state)
 where i.organization_id = :'org' and i.report_id = :'tied_report' and i.position = s.position;
select api.get_incentive_report_summary(:'org', :'tied_report') as tied_summary \gset
select is(array(select s ->> 'name' from json_array_elements(:'tied_summary'::json -> 'by_state') s), '{California,Texas,Mississippi,Missouri}', 'states are sorted by value, and those with equal value and sites by name');
select is(array(select s ->> 'name' from json_array_elements(:'tied_summary'::json -> 'by_utility') s), array['Bluebonnet', 'Zilker Power', 'Austin Energy'], 'utilities are sorted by value, and of equal values the one with more sites comes first');
select is(array(select s ->> 'program_id' from json_array_elements(:'tied_summary'::json -> 'by_program') s), '{8,9,7}', 'programs are sorted by value, and of equal values the one with more sites comes first');
update public.incentive_report_sites i
   set device_categories = s.categories, category_amounts = s.amounts
  from (values (0, '{a,c}'::text[], '{600,5}'::numeric[]), (1, '{b,c}', '{300,0}'), (2, '{b}', '{300}'), (3, '{}', '{}')) s (position, categories, amounts)
 where i.organization_id = :'org' and i.report_id = :'tied_report' and i.position = s.position;
select is(array(select concat_ws(' ', c ->> 'key', c ->> 'sites', c ->> 'eligible_sites') from json_array_elements(api.get_incentive_report_summary(:'org', :'tied_report') -> 'by_device_category') c),
    array['b 2 2', 'a 1 1', 'c 2 1'], 'device categories are sorted by value, then by sites, and a site that is paid nothing for one is not eligible in it');

-- A report without sites, and another organization
select api.create_batch_lookup(:'org', pg_temp.items(1)) #>> '{report,id}' as new_report \gset
select is(api.get_incentive_report_summary(:'org', :'new_report')::jsonb - 'report',
    '{"by_state": [], "by_utility": [], "by_program": [], "by_device_category": []}', 'a report without sites has no sums');
select throws_ok(format('select api.get_incentive_report_summary(%L, %L)', :'other_org', :'report'), 'PT404', 'Report not found',
    'another organization gets no summary');

select * from finish();
rollback;
