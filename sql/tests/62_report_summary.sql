begin;
select plan(8);
\ir fixtures.psql
select pg_temp.submit(:'org', 3) as job \gset
select id as report from public.incentive_reports where job_id = :'job' \gset
select pg_temp.look_up(:'org', 2, 200, :'answer') as recorded \gset
select pg_temp.look_up(:'org', 1, 200, '{}') as recorded \gset
update public.incentive_report_sites set state_or_province_code = 'CA' where report_id = :'report' and position = 1;
select api.get_incentive_report_summary(:'org', :'report') as summary \gset

select is(array(select json_object_keys(:'summary')), array['report', 'by_state', 'by_utility', 'by_program', 'by_device_category'],
    'a summary has its parts in order');
select is(:'summary'::json #>> '{report,total_incentive_value}', '2401.00', 'a summary tells what the report sums to');
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
select api.create_batch_lookup(:'org', pg_temp.items(1)) #>> '{report,id}' as new_report \gset
select is(api.get_incentive_report_summary(:'org', :'new_report')::jsonb - 'report',
    '{"by_state": [], "by_utility": [], "by_program": [], "by_device_category": []}', 'a report without sites has no sums');
select throws_ok(format('select api.get_incentive_report_summary(%L, %L)', :'other_org', :'report'), 'PT404', 'Report not found',
    'another organization gets no summary');

select * from finish();
rollback;
