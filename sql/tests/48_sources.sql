begin;
select plan(35);
\ir fixtures.psql

-- Names
select is(app.distinct_names(array['Phone', 'phone', '', 'Phone (2)', 'Phone']), array['Phone', 'phone (3)', 'Column 3', 'Phone (2)', 'Phone (4)'],
          'names that are equal or empty get a number, and those that are unique stay');
select is(app.distinct_names(array['status', 'city', 'item_id'], array['City', 'city (lookup)', 'Status'], 'lookup'), array['status (lookup)', 'city (lookup 2)', 'item_id'],
          'our columns yield to names that are taken');

-- A file
select '{"rows": [["Owner", "Deal ID", "Street", "City", "State", "ZIP", "Type", "Devices", "Owner", "Volume", "Note"],
    ["Kim", "d-1", "1 Congress Ave", "Austin", "Texas", "78701", "", "1", "Lee", "12.5", "=1+1"], [],
    ["Ada", "d-2", "2 Congress Ave", "Austin", "Atlantis", "78701", "", "1"],
    ["", "d-3", "3 Congress Ave", "Austin", "TX", "78701", "", "1", "", "007"]], "defaults": {"building_type": "RESIDENTIAL"}}' as file \gset
select api.create_batch_lookup(:'org', null, p_file => :'file', p_options => '{"on_invalid": "skip"}') ->> 'job_id' as job \gset
select is((select header from public.lookup_job_columns where job_id = :'job'),
          array['Owner', 'Deal ID', 'Street', 'City', 'State', 'ZIP', 'Type', 'Devices', 'Owner', 'Volume', 'Note'], 'the columns are kept in their order under their names');
select is(array(select api.list_batch_lookup_items(:'org', :'job', p_q => t) #>> '{items,0,reference_id}' from unnest(array['LEE', '007', '=1+', 'owner', 'Kim", "d']) t),
          array['d-1', 'd-3', 'd-1', null, null], 'items are found by the contents of their cells, not by the names of columns');
select is(api.explain_item(:'org', :'job', 1) ->> 'source', '{ "Owner" : "", "Deal ID" : "d-3", "Street" : "3 Congress Ave", "City" : "Austin", "State" : "TX", "ZIP" : "78701", "Type" : "", "Devices" : "1", "Owner (2)" : "", "Volume" : "007", "Note" : null }',
          'one item shows its row, in the order of the columns');
select results_eq(
    format($$ select position, reference_id, source ->> 'State', source ->> 'Owner', source ->> 'Volume' from api.items where job_id = %L order by position $$, :'job'),
    $$ values (0, 'd-1', 'Texas', 'Kim', '12.5'), (1, 'd-3', 'TX', '', '007') $$, 'each item has its own row of the file, even if others were skipped');
select is((select string_agg(k, ',') from api.items i, json_object_keys(i.source) k where job_id = :'job' and position = 0),
          'Owner,Deal ID,Street,City,State,ZIP,Type,Devices,Owner (2),Volume,Note', 'the source in SQL keeps the order of the columns');
select is(split_part((api.get_batch_lookup_results(:'org', :'job')).lines, E'\r\n', 1),
          'Owner,Deal ID,Street,City,State,ZIP,Type,Devices,Owner,Volume,Note,reference_id,status,street_1,street_2,city (lookup),state_or_province_code,postal_code,country_code,'
          'building_type,device_ids,utility_eiaid,utility_name,eligible,total_incentive_amount,programs,error_code,error_message,warnings,retry_count,processed_at,item_id,conditional_incentive_amount',
          'the columns of the file come first in their order, then ours, with clashing names marked');
select is(left(split_part((api.get_batch_lookup_results(:'org', :'job')).lines, E'\r\n', 2), 89),
          'Kim,d-1,1 Congress Ave,Austin,Texas,78701,,1,Lee,12.5,"''=1+1",d-1,pending,1 Congress Ave,', 'the cells of the file are returned as they were, except formulas');
select is(left(split_part((api.get_batch_lookup_results(:'org', :'job')).lines, E'\r\n', 3), 62),
          ',d-3,3 Congress Ave,Austin,TX,78701,,1,,007,,d-3,pending,3 Con', 'a short row is filled up');
select is(split_part((api.get_batch_lookup_results(:'org', :'job', p_layout => 'plain')).lines, E'\r\n', 1), array_to_string(app.result_columns(), ','), 'the plain layout has only our columns');
select is((split_part((api.get_batch_lookup_results(:'org', :'job', 'ndjson')).lines, E'\n', 1)::json #>> '{source,Owner (2)}'), 'Lee', 'in NDJSON an item has its source');
select is((split_part((api.get_batch_lookup_results(:'org', :'job', 'ndjson', p_layout => 'plain')).lines, E'\n', 1)::json ->> 'source'), null, 'in plain NDJSON an item has no source');
select is((split_part((api.get_batch_lookup_results(:'org', :'job', 'xlsx')).lines, E'\n', 2)::jsonb) #>> '{}' like '["Kim", "d-1", "1 Congress Ave", "Austin", "Texas", "78701", "", "1", "Lee", 12.5, "=1+1", "d-1",%', true,
          'for a workbook numbers are numbers, and ZIP codes and ids text');
select is((app.text_columns(row(:'org', :'job', h.header, h.header, true)::public.lookup_job_columns))[:6], array[true, true, true, false, false, false],
          'numbers of telephones and accounts stay text in a workbook')
  from (values (array['Owner phone', 'Account No.', 'meter_number', 'Amount paid', 'Siding', 'Units'])) h (header);
select is((split_part((api.get_batch_lookup_results(:'org', :'job', 'xlsx', p_after => 0)).lines, E'\n', 1)::jsonb) -> 9, '"007"', 'a number that would lose its zeros stays text');
select throws_ok(format($$ select api.get_batch_lookup_results(%L, %L, p_layout => 'wide') $$, :'org', :'job'), 'PT400', 'layout must be one of append, plain', 'other layouts are refused');

-- Uploads without columns of their own
select api.create_batch_lookup(:'org', null, p_file => '{"rows": [["street_1", "reference_id", "city", "state_or_province_code", "postal_code", "building_type", "device_ids"],
    ["1 Congress Ave", "d-1", "Austin", "TX", "78701", "RESIDENTIAL", "1"]]}') ->> 'job_id' as plain_job \gset
select pg_temp.submit(:'org', 1) as json_job \gset
select is_empty(format($$ select from public.lookup_item_sources where job_id in (%L, %L) $$, :'plain_job', :'json_job'), 'nothing is kept of our own columns alone or of plain items');
select is(split_part((api.get_batch_lookup_results(:'org', :'plain_job')).lines, E'\r\n', 1),
          'street_1,reference_id,city,state_or_province_code,postal_code,building_type,device_ids,status,street_2,country_code,'
          'utility_eiaid,utility_name,eligible,total_incentive_amount,programs,error_code,error_message,warnings,retry_count,processed_at,item_id,conditional_incentive_amount',
          'a file with only our columns gets them back in its order');
select alike(split_part((api.get_batch_lookup_results(:'org', :'plain_job')).lines, E'\r\n', 2), '1 Congress Ave,d-1,Austin,TX,78701,RESIDENTIAL,1,pending,,US,%', 'the cells follow the order of the header');
select is((split_part((api.get_batch_lookup_results(:'org', :'plain_job', 'ndjson')).lines, E'\n', 1)::json ->> 'source'), null, 'in NDJSON an item of a file with only our columns has no source');

-- Metadata
select api.create_batch_lookup(:'org', jsonb_set(pg_temp.items(3, '{"metadata": {"id": 7, "tags": ["a"]}}'), '{items,1,metadata}', '{"zone": "north", "id": null}') #- '{items,2,metadata}')
       ->> 'job_id' as meta \gset
select results_eq(
    format($$ select position, source::jsonb from api.items where job_id = %L order by position $$, :'meta'),
    $$ values (0, '{"id": 7, "tags": ["a"]}'::jsonb), (1, '{"zone": "north", "id": null}'), (2, null) $$, 'the metadata of items is returned');
select is((api.list_batch_lookup_items(:'org', :'meta', p_q => 'NORTH') #>> '{items,0,position}'), '1', 'items are found by their metadata');
select is(array(select (api.explain_item(:'org', :'meta', n) ->> 'source')::jsonb from generate_series(1, 2) n), array['{"zone": "north", "id": null}', null]::jsonb[],
          'one item shows its metadata, if it has any');
select is(left((api.get_batch_lookup_results(:'org', :'meta')).lines, 38), 'id,tags,zone,reference_id,status,stree', 'the members of metadata become columns');
select is(left(split_part((api.get_batch_lookup_results(:'org', :'meta')).lines, E'\r\n', 2), 15), '7,"[""a""]",,si', 'a member of the metadata becomes a cell');
select throws_ok(format($$ select api.create_batch_lookup(%L, pg_temp.items(1, %L)) $$, :'org', jsonb_build_object('metadata', m)), 'PT400', '1 item(s) failed validation', what)
  from (values ('"x"'::jsonb, 'metadata must be an object'), (jsonb_build_object('x', repeat('ä', 2048)), 'metadata must be of 4 KB at most')) v (m, what);
select throws_ok(
    format($$ select api.create_batch_lookup(%L, (select jsonb_agg(pg_temp.items(2) -> 'items' -> 0 || jsonb_build_object('reference_id', 'site-' || n, 'metadata', jsonb_build_object('m' || n, 1))) from generate_series(1, 501) n)) $$, :'org'),
    'PT400', 'The metadata of all items has 501 different members; a batch may have 500', 'metadata may have 500 members');

-- Retried and deleted
select pg_temp.look_up(:'org', 1, 200, :'answer'), pg_temp.look_up(:'org', 100, 404);
select api.retry_batch_lookup(:'org', :'job') ->> 'job_id' as retry \gset
select results_eq(
    format($$ select position, reference_id, source ->> 'Deal ID', source ->> 'Volume' from api.items where job_id = %L order by position $$, :'retry'),
    $$ values (0, 'd-3', 'd-3', '007') $$, 'a retried item keeps its row');
select is((split_part((api.get_batch_lookup_results(:'org', :'job', 'xlsx')).lines, E'\n', 2)::jsonb) #> '{24}', '1200.50', 'amounts are numbers in a workbook');
select api.delete_batch_lookup(:'org', :'job') is not null as deleted \gset
select is_empty(format($$ select job_id from public.lookup_item_sources where job_id = %L union all select job_id from public.lookup_job_columns where job_id = %L $$, :'job', :'job'),
    'the sources of a job are deleted with it');

select performs_ok($$ select app.text_columns(row(null, null, h.names, h.names, true)::public.lookup_job_columns)
                        from (select array_agg(repeat('ab12', 500) || n) from generate_series(1, 100) n) h (names) $$, 2000,
                   'a name is compared once with the known ones, however many columns a workbook has');
select performs_ok($$ select count(*) from generate_series(1, 200) g where app.source_contains((select jsonb_agg(n) from generate_series(1, 500) n), repeat('É', 20000) || g) $$,
                   5000, 'a text is searched for once in a row, not in each of its cells');
select performs_ok($$ select app.distinct_names(array_fill(repeat('a', 2000), array[500])) $$, 2000, 'the numbering of five hundred columns with the same name does not start from 2 each time');

select * from finish();
rollback;
