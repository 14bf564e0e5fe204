begin;
select plan(19);
\ir fixtures.psql
select pg_temp.submit(:'org', 3) as job \gset
select id as before from public.incentive_reports where job_id = :'job' \gset
select pg_temp.look_up(:'org', 3, 200, :'answer');
select pg_temp.submit(:'org', 4) as job \gset
select id as after from public.incentive_reports where job_id = :'job' \gset
select pg_temp.look_up(:'org', 1, 200, :'answer');
select pg_temp.look_up(:'org', 1, 200, '{"incentives": {"total_incentive_amount": 10}}');
select pg_temp.look_up(:'org', 1, 404);
select pg_temp.look_up(:'org', 1, 200, '{}');

select api.diff_incentive_reports(:'org', :'before', :'after') as diff \gset
select is(
    :'diff'::jsonb -> 'totals',
    '{"added": {"sites": 1, "difference": 0, "conditional_difference": 0}, "removed": {"sites": 1, "difference": -1200.50, "conditional_difference": 0},
      "changed": {"sites": 1, "difference": -1190.50, "conditional_difference": 0}, "unchanged": {"sites": 1, "difference": 0, "conditional_difference": 0}, "difference": -2391, "conditional_difference": 0}', 'the kinds of differences sum to the difference of the reports');
select is(
    array(select concat_ws(' ', d ->> 'reference_id', d ->> 'change') from json_array_elements(:'diff'::json -> 'differences') d),
    array['site-2 changed', 'site-3 removed', 'site-4 added'], 'sites are compared by their reference_id, and sorted by it');
select is(
    :'diff'::jsonb #> '{differences,0}',
    '{"reference_id": "site-2", "change": "changed", 
      "from": {"eligible": true, "total_incentive_amount": 1200.50, "conditional_incentive_amount": 0},
      "to": {"eligible": true, "total_incentive_amount": 10, "conditional_incentive_amount": 0},
      "difference": -1190.50, "conditional_difference": 0,
      "address": {"street_1": "2 Congress Ave", "city": "Austin", "state_or_province_code": "TX", "postal_code": "78701", "country_code": "US"}}',
    'a difference has the amounts of both reports');
select is(:'diff'::jsonb #> '{differences,1,to}', 'null', 'a site that was removed has nothing in the second report');
select is(array(select d ->> 'difference' from json_array_elements(api.diff_incentive_reports(:'org', :'before', :'after') -> 'differences') d), '{-1190.50,-1200.50,0.00}',
    'a site differs by its whole amount if only one of the reports has it');
select is(array(select d ->> 'difference' from json_array_elements(api.diff_incentive_reports(:'org', :'after', :'before', 'added') -> 'differences') d), '{1200.50}', 'an added site adds its whole amount');
select is(array(select d #>> '{address,street_1}' from json_array_elements(:'diff'::json -> 'differences') d), array['2 Congress Ave', '3 Congress Ave', '4 Congress Ave'],
    'a site has its address from the report that it is in');
select is(api.diff_incentive_reports(:'org', :'before', :'after', 'added') ->> 'total', '1', 'differences filter by their kind');
select api.diff_incentive_reports(:'org', :'before', :'after', p_limit => 2) ->> 'next_cursor' as cursor \gset
select is(api.diff_incentive_reports(:'org', :'before', :'after', p_cursor => :'cursor') #>> '{differences,0,reference_id}', 'site-4', 'the cursor of a page leads to the next one');
select is(api.diff_incentive_reports(:'org', :'before', :'after', p_limit => 3) ->> 'next_cursor', null, 'the last page has no cursor');
select throws_ok(format($$ select api.diff_incentive_reports(%L, %L, %L) $$, :'other_org', :'before', :'after'), 'PT404', 'Report not found', 'nobody else can compare reports');
select throws_ok(format($$ select api.diff_incentive_reports(%L, %L, null) $$, :'org', :'before'), 'PT404', 'Report not found', 'two reports are required');
select is((:'diff'::jsonb ->> 'total')::integer, json_array_length(:'diff'::json -> 'differences'), 'the total counts the differences');
select is(api.diff_incentive_reports(:'org', :'before', :'before')::jsonb - array['from', 'to'],
    '{"totals": {"added": {"sites": 0, "difference": 0, "conditional_difference": 0}, "removed": {"sites": 0, "difference": 0, "conditional_difference": 0}, 
                 "changed": {"sites": 0, "difference": 0, "conditional_difference": 0}, "unchanged": {"sites": 3, "difference": 0, "conditional_difference": 0}, "difference": 0, "conditional_difference": 0}, "differences": [], "total": 0, "limit": 100, "offset": 0, "next_cursor": null}', 'a report does not differ from itself');
select is(api.diff_incentive_reports(:'org', :'after', :'before')::jsonb #> '{totals,added}', '{"sites": 1, "difference": 1200.50, "conditional_difference": 0}', 'a site that is added adds its amount');
select is(array(select d ->> 'change' from json_array_elements(api.diff_incentive_reports(:'org', :'before', :'after', 'removed') -> 'differences') d), '{removed}', 'differences of one kind can be listed');

select pg_temp.submit(:'org', 2) as job \gset
select id as conditional from public.incentive_reports where job_id = :'job' \gset
select pg_temp.look_up(:'org', 1, 200, '{"incentives": {"total_incentive_amount": 1200.50, "conditional_incentive_amount": 801}}');
select pg_temp.look_up(:'org', 1, 200, '{"incentives": {"total_incentive_amount": 0, "conditional_incentive_amount": 50.25}}');
select api.diff_incentive_reports(:'org', :'before', :'conditional') as diff \gset
select is(
    (:'diff'::jsonb #> '{differences,0}') - 'address',
    '{"reference_id": "site-1", "change": "changed",
      "from": {"eligible": true, "total_incentive_amount": 1200.50, "conditional_incentive_amount": 0},
      "to": {"eligible": true, "total_incentive_amount": 1200.50, "conditional_incentive_amount": 801}, "difference": 0, "conditional_difference": 801}',
    'a site whose amount changed only under conditions has changed');
select is(:'diff'::jsonb #> '{totals,changed}', '{"sites": 2, "difference": -1200.50, "conditional_difference": 851.25}', 'what depends on conditions is summed separately');
select is(:'diff'::jsonb #>> '{totals,conditional_difference}', '851.25', 'the reports differ by the conditional amounts of all sites');

select * from finish();
rollback;
