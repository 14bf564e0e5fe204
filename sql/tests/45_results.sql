begin;
select plan(37);
\ir fixtures.psql
select pg_temp.submit(:'org', 7) as job \gset

-- Pages
select throws_ok(format($$ select api.list_batch_lookup_items(%L, %L, p_cursor => app.cursor(row('newest', 1, null, null, null, null, null))) $$, :'org', :'job'),
    'PT400', 'cursor does not belong to this list and sort order', 'a cursor of another list is refused');
select api.list_batch_lookup_items(:'org', :'job', p_limit => 4) as page \gset
select is(json_array_length(:'page'::json -> 'items'), 4, 'a page has at most its limit of items');
select is(json_array_length(api.list_batch_lookup_items(:'org', :'job', p_limit => 4, p_cursor => :'page'::json ->> 'next_cursor') -> 'items'), 3, 'the cursor of a page leads to the rest');
select is(api.list_batch_lookup_items(:'org', :'job', p_limit => 4, p_cursor => :'page'::json ->> 'next_cursor') ->> 'next_cursor', null, 'the last page has no cursor');
select is(api.list_batch_lookup_items(:'org', :'job', p_limit => 7) ->> 'next_cursor', null, 'a page that holds all items has no cursor');
select is(pg_temp.look_up(:'org', 2, 404), 2::bigint, 'two items are recorded as failed');
select is((api.list_batch_lookup_items(:'org', :'job', p_error_code => 'not_found') ->> 'total')::integer, 2, 'items are found by their error');
select is((api.list_batch_lookup_items(:'org', :'job', 'failed') ->> 'total')::integer, 2, 'the total counts the items of a status');

select is((api.list_batch_lookup_items(:'org', :'job', p_q => '3 CONGRESS') #>> '{items,0,reference_id}'), 'site-3', 'items are found by a part of their street, whatever its case');
select is((api.list_batch_lookup_items(:'org', :'job', p_q => 'site-', p_limit => 2) ->> 'total')::integer, 7, 'the total counts the items that have the text');
select is((api.list_batch_lookup_items(:'org', :'job', 'failed', p_q => 'austin') ->> 'total')::integer, 2, 'a text narrows the filter by status');
select is((api.list_batch_lookup_items(:'org', :'job', p_q => 'site\_') ->> 'total')::integer, 0, 'a text is searched for literally');
select throws_ok(format($$ select api.list_batch_lookup_items(%L, %L, p_q => repeat('x', 201)) $$, :'org', :'job'), 'PT400', 'q must be a text of at most 200 characters', 'a search text is limited in length');
select is(api.list_batch_lookup_items(:'org', :'job', 'completed')::jsonb, '{"items": [], "total": 0, "limit": 50, "offset": 0, "next_cursor": null}', 'a page without items has no cursor');
select is(array(select array(select i ->> 'reference_id' from json_array_elements(api.list_batch_lookup_items(:'org', :'job', s, 2, o) -> 'items') i)::text from (values (null, 3), (null, 6), ('failed', 1), ('pending', 3)) v (s, o)),
    '{"{site-4,site-5}","{site-7}","{site-2}","{site-6,site-7}"}', 'an offset counts the items of the filter, in the order of the upload');
select is((select json_object_keys(i) from json_array_elements(api.list_batch_lookup_items(:'org', :'job', p_limit => 1) -> 'items') i limit 1), 'id', 'an item of an upload without columns of its own has no source');
select is(json_array_length(api.list_batch_lookup_items(:'org', :'job', p_limit => 500) -> 'items'), 7, 'a page may have five hundred items');
select throws_ok(format('select api.list_batch_lookup_items(%L, %L, p_limit => 501)', :'org', :'job'), 'PT400', 'limit must be a whole number from 1 to 500', 'a page has no more items');
select throws_ok(format($$ select api.list_batch_lookup_items(%L, %L, 'lost') $$, :'org', :'job'), 'PT400', 'status must be one of pending, processing, completed, failed', 'an unknown status is not looked for');
select throws_ok(format($$ select api.list_batch_lookup_items(%L, %L, p_error_code => 'Not Found') $$, :'org', :'job'), 'PT400', 'error_code must consist of a-z, 0-9 and _, such as upstream_timeout', 'an error code has its form');

-- Files
select is((api.get_batch_lookup_results(:'org', :'job', p_limit => 6)).last_position, 5, 'a full piece says where the next one starts');
select is((api.get_batch_lookup_results(:'org', :'job', p_limit => 7)).last_position, null, 'a piece that holds all items is the last');
select is((api.get_batch_lookup_results(:'org', :'job', p_after => 3, p_limit => 7)).last_position, null, 'the last piece says that it is the last');
select is(array_length(string_to_array((api.get_batch_lookup_results(:'org', :'job')).lines, E'\r\n'), 1), 1 + 7 + 1, 'a file has a header and a line for each item');
select is(array_length(string_to_array((api.get_batch_lookup_results(:'org', :'job', p_after => 0)).lines, E'\r\n'), 1), 6 + 1, 'a piece after the first item has no header');
select throws_ok(format($$ select api.get_batch_lookup_results(%L, %L) $$, :'other_org', :'job'), 'PT404', 'Batch job not found', 'another organization cannot read the results');

-- One of two jobs
select api.create_batch_lookup(:'org', pg_temp.items(3, '{"metadata": {"owner": "Zoe"}}')) ->> 'job_id' as beside \gset
select pg_temp.look_up(:'org', 8, 404) as failed \gset
select is(array(select api.list_batch_lookup_items(:'org', j::uuid, p_error_code => 'not_found') ->> 'total' from unnest(array[:'job', :'beside']) j), '{7,3}', 'the errors of another job are not counted');
select is(array(select api.list_batch_lookup_items(:'org', j::uuid, p_q => 'zoe') ->> 'total' from unnest(array[:'job', :'beside']) j), '{0,3}', 'a text is searched for in the columns of the same job');

-- A line of each outcome
select pg_temp.submit(:'org', 3) as outcomes \gset
select pg_temp.look_up(:'org', 1, 200, :'answer'), pg_temp.look_up(:'org', 1, 200, '{"incentives": {"conditional_incentive_amount": 50, "total_incentive_amount": 6, "by_program": [
    {"program_id": "z", "program_name": "Zed", "total_incentive": 1}, {"program_id": "b", "program_name": "Bee", "total_incentive": 2}, {"program_id": "m", "program_name": "Em", "total_incentive": 3}]}}') \gset ended_
update public.lookup_queue_items set warnings = '{one,two}', device_ids = '{1,2}' where job_id = :'outcomes' and position = 0;
create function pg_temp.cells(p_job_id uuid, p_status text) returns text
language plpgsql as $$
declare
    v_item public.lookup_queue_items;
begin
    select * into v_item from public.lookup_queue_items where job_id = p_job_id and position = case p_status when 'first' then 0 when 'second' then 1 else 2 end;
    return array_to_string(array(select coalesce(c.cell, '-') from unnest(app.result_cells(v_item, null)) with ordinality c (cell, n) where c.n not in (10, 20, 21) order by c.n), '|');
end;
$$;
select is(array(select pg_temp.cells(:'outcomes', p) from unnest(array['first', 'second', 'third']) p), array[
    'site-1|completed|1 Congress Ave|-|Austin|TX|78701|US|RESIDENTIAL|1015|Austin Energy|true|1200.50|Heat pumps; Water heaters|-|-|one; two|0|0.00',
    'site-2|completed|2 Congress Ave|-|Austin|TX|78701|US|RESIDENTIAL|-|-|true|6.00|Zed; Bee; Em|-|-|-|0|50.00',
    'site-3|pending|3 Congress Ave|-|Austin|TX|78701|US|RESIDENTIAL|-|-|-|-|-|-|-|-|0|-'], 'a line has what its item came to');
update public.lookup_queue_items set parsed_result = null where job_id = :'outcomes';
select matches(pg_temp.cells(:'outcomes', 'first'), 'true.1200.50', 'a result that is kept as text is read from there');
select is(app.workbook_row(string_to_array('-1 0 1 2.50 3 4 5 6 7 8 9 true false - 01 1. .5 1e5 trueish +1 123456789012345 1234567890123456 x 1 ', ' '), array_fill(false, array[23]) || '{t,f}'::boolean[]),
    '[-1,0,1,2.50,3,4,5,6,7,8,9,true,false,"-","01","1.",".5","1e5","trueish","+1",123456789012345,"1234567890123456","x","1",""]' || E'\n', 'a row of a workbook has numbers where nothing is lost, and not in columns of text');

-- Large results: 110 of 100 KB
select pg_temp.submit(:'other_org', 110) as large \gset
select is(pg_temp.look_up(:'other_org', 110, 200, jsonb_build_object('x', repeat('x', 100000))::text), 110::bigint, 'large answers are recorded');
select api.list_batch_lookup_items(:'other_org', :'large', p_limit => 500) as page \gset
select ok(json_array_length(:'page'::json -> 'items') between 80 and 90 and length(:'page') < 9000000, 'a page ends at 8 MB');
select is(json_array_length(:'page'::json -> 'items')
          + json_array_length(api.list_batch_lookup_items(:'other_org', :'large', p_limit => 500, p_cursor => :'page'::json ->> 'next_cursor') -> 'items'),
          110, 'the cursor of a page that was cut leads to the rest');
select ok(length(lines) < 9000000 and last_position between 80 and 90, 'a piece of results ends at 8 MB, too')
  from api.get_batch_lookup_results(:'other_org', :'large', 'ndjson');
select is((api.get_batch_lookup_results(:'other_org', :'large')).last_position, null, 'lines without the results are one piece');
select throws_ok(
    format($$ select api.get_batch_lookup(%L, %L, true) $$, :'other_org', :'large'), 'PT400',
    'The job has too many or too large items for one response: include_items returns up to 500 items and 8 MB', 'a job does not include more than 8 MB of items');

select * from finish();
rollback;
