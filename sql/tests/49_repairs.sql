begin;
select plan(42);
\ir fixtures.psql
\ir drafts.psql

-- Changes
select api.update_upload(:'org', :'id', '{"value_maps": {"building_type": {"Hut": "COMMERCIAL"}}, "edits": [{"position": 3, "column": 3, "value": "Austin"}, {"position": 4, "column": 4, "value": "TX"}],
                                          "skip": [5], "name": "March, repaired"}') as repaired \gset
select is((select jsonb_object_agg(k, :'repaired'::jsonb -> k) from unnest(array['name', 'valid_rows', 'invalid_rows', 'skipped_rows', 'value_maps']) k),
          '{"name": "March, repaired", "valid_rows": 5, "invalid_rows": 1, "skipped_rows": 1, "value_maps": {"building_type": {"Hut": "COMMERCIAL"}}}',
          'a value map, edits and skipped rows are judged at once');
select is((api.get_upload_rows(:'org', :'id') #> '{rows,3}')::jsonb - array['warnings', 'line', 'position'], jsonb_build_object(
              'cells', jsonb_build_array('d-4', '4 Congress Ave', '', 'TX', '78701', 'Hut', :'device', ''), 'edits', '{"3": "Austin"}'::jsonb, 'skipped', false, 'problems', '[]'::jsonb),
          'an edited row keeps the cells that were sent');
select is(pg_temp.rows(:'id', p_q => 'atlantis'), null, 'an edit replaces the text that is searched');
select is(pg_temp.rows(:'id', p_skipped => true), array[5], 'skipped rows can be listed');
savepoint before;
select api.create_upload(:'org', null, true, null, :'file') ->> 'id' as another \gset
select api.update_upload(:'org', :'another', '{"value_maps": {"building_type": {"Hut": "COMMERCIAL"}}, "edits": [{"position": 3, "column": 3, "value": "Austin"}],
    "columns": {"building_type": "Bldg"}, "skip": {"problem": "any"}}') is not null as changed \gset
select pg_temp.rows(:'another', p_skipped => true) as skipped_rows \gset
rollback to before;
select is(:'skipped_rows'::integer[], array[4, 5, 6], 'rows that a request repairs are not skipped for the problems that they had');
select is(api.update_upload(:'org', :'id', '{"unskip": [5], "edits": [{"position": 4, "column": 4, "value": null}]}') ->> 'invalid_rows', '3', 'a skipped row and an edit can be taken back');
select is(api.update_upload(:'org', :'id', '{"skip": {"problem": "unknown_device", "field": "device_ids"}}') ->> 'skipped_rows', '1', 'all rows with a problem can be skipped at once');
select is(api.update_upload(:'org', :'id', '{"columns": {"building_type": null}}')::jsonb #> '{columns,5}',
          '{"number": 6, "header": "Bldg", "field": null, "how": "given", "samples": ["Hut", "RESIDENTIAL", "Single Family"]}', 'the field of a column can be removed');
select is(api.get_upload(:'org', :'id') ->> 'missing_fields', '["building_type"]', 'a field that no column has is missing');
select is(api.get_upload(:'org', :'id')::jsonb #>> '{problem_groups,0,examples,0,message}', 'row 2: there is no building_type, and no column for it', 'a missing field is a problem of every row');
select is(api.update_upload(:'org', :'id', '{"defaults": {"building_type": "RESIDENTIAL"}}') ->> 'missing_fields', '[]', 'a default can replace a column');
select is(api.update_upload(:'org', :'id', '{"columns": {"building_type": "bldg"}, "defaults": {"building_type": null}}')::jsonb #>> '{columns,5,field}', 'building_type', 'a column is named by its header');
select throws_ok(format($$ select api.update_upload(%L, %L, %L) $$, :'org', :'id', c), 'PT400', message, what)
  from (values ('{"colour": 1}', 'Unknown fields: colour', 'an unknown change is refused'),
               ('{"columns": {"colour": 1}}', 'There is no field colour', 'an unknown field is refused'),
               ('{"columns": {"city": 9}}', 'No column is called 9', 'an unknown column is refused'),
               ('{"columns": {"city": []}}', 'columns must be an object of fields and their columns, by name or by number, or null', 'a column is a name or a number'),
               ('{"defaults": {"city": {}}}', 'defaults must be an object of fields and their values', 'a default must be a value'),
               ('{"value_maps": {"city": {"a": "b"}}}', 'value_maps must be {field: {text: value}} for country_code, state_or_province_code, building_type or device_ids', 'only words of a vocabulary are mapped'),
               ('{"edits": [{"position": 7, "column": 1, "value": "x"}]}', 'edits must be for rows at positions from 0 to 6, not 7', 'an edit must be of an existing row'),
               ('{"skip": ["x"]}', 'skip must be an array of positions of rows, or {"problem": a code, "field": ...}', 'rows are skipped by their positions'),
               ('{"value_maps": {"building_type": {"Hut": {}}}}', 'value_maps must be {field: {text: value}} for country_code, state_or_province_code, building_type or device_ids', 'a word is mapped to a value'),
               ('{"skip": {"problem": 7}}', 'skip must be an array of positions of rows, or {"problem": a code, "field": ...}', 'a problem is given by its code'),
               (format('{"name": "%s"}', repeat('x', 201)), 'name must be a string of 1 to 200 characters', 'the name of a draft has at most 200 characters'),
               ('{"name": " "}', 'name must be a string of 1 to 200 characters', 'the name of a draft is not empty')) v (c, message, what);

-- Edits upon edits
select api.create_upload(:'org', pg_temp.items(700)) ->> 'id' as large \gset
create function pg_temp.long_edits(p_first integer, p_last integer) returns jsonb
language sql as $$
    select jsonb_build_object('edits', jsonb_agg(jsonb_build_object('position', n, 'column', 2, 'value', repeat('x', 32768)))) from generate_series(p_first, p_last) n
$$;
select lives_ok(format($$ select api.update_upload(%L, %L, pg_temp.long_edits(0, 299)) $$, :'org', :'large'), 'many long cells can be edited');
select throws_ok(format($$ select api.update_upload(%L, %L, pg_temp.long_edits(300, 699)) $$, :'org', :'large'), 'PT400',
    'edits must be at most 20 MB in all, including earlier ones', 'all edits together are limited to the size of a file');
select is(api.update_upload(:'org', :'id', '{"skip": [1.0, 2e0], "reuse_results": {"max_age_days": 30.0}}')::jsonb -> 'reuse_results', '{"max_age_days": 30}', 'a whole number may be written with a fraction of zero');

select api.update_upload(:'org', :'id', '{"unskip": [2, 5]}') is not null as taken_back \gset
select is(pg_temp.rows(:'id', null, 'any'), array[0, 2, 3, 4], 'a row that is no longer skipped has its warning again');
select is(pg_temp.rows(:'id', 'unknown_device'), array[5], 'a row that is no longer skipped has its problem again');
select api.update_upload(:'org', :'id', jsonb_build_object('edits', jsonb_build_array('{"position": 2, "column": 5, "value": "10001"}'::jsonb, '{"position": 2, "column": 5, "value": "78701"}'::jsonb, jsonb_build_object('position', 5, 'column', 7, 'value', :'device'::text))))
    is not null as edited \gset
select is(pg_temp.rows(:'id', 'unknown_device'), null, 'editing its cell removes the problem of a row');
select is(pg_temp.rows(:'id', null, 'any'), array[0, 3, 4], 'editing its cell removes the warning of a row, the last edit counting');
select api.update_upload(:'org', :'id', '{"skip": [0, 3, 4, 5, 6]}') is not null as left_out \gset
select is((api.update_upload(:'org', :'id', '{"unskip": {"problem": "any", "field": "address.state_or_province_code"}}') ->> 'skipped_rows', pg_temp.rows(:'id', p_skipped => true))::text,
          '(5,"{0,1,3,5,6}")', 'all skipped rows with a problem can be included again at once');
select is_empty(format($$ select from public.lookup_upload_rows where upload_id = %L and (is_skipped or edits - '2' <> '{}' or (problems is null) = (edits is not null)) $$, :'large'), 'the changes of a draft leave others alone');
select throws_ok(format($$ select api.update_upload(%L, %L, %L) $$, :'org', :'id', jsonb_build_object('edits', e)), 'PT400',
                 'edits must be an array of {"position": of the row, "column": its number, "value": a string, or null to undo the edit}', what)
  from (values ((select jsonb_agg('{"position": 0, "column": 1, "value": "x"}'::jsonb) from generate_series(1, 10001)), 'a change has 10,000 edits at most'),
               (jsonb_build_array(jsonb_build_object('position', 0, 'column', 1, 'value', repeat('x', 32769))), 'a cell has at most 32,768 characters'),
               ('[7]', 'an edit is an object'),
               ('[{"position": -1, "column": 1, "value": "x"}]', 'an edit has a position'),
               ('[{"position": 1, "value": "x"}]', 'an edit names its column'),
               ('[{"position": 1, "column": 1, "value": "x", "row": 2}]', 'an edit has no other members')) v (e, what);
select is(api.update_upload(:'org', :'id', format('{"name": "%s", "value_maps": {"building_type": {"Hut": null}}}', repeat('x', 200))::jsonb) ->> 'value_maps', '{}', 'the meaning of a word can be removed');
select is(api.update_upload(:'org', :'id', '{"name": "One"}') ->> 'name', 'One', 'one of several drafts can be renamed');

select api.create_upload(:'org', pg_temp.items(2), p_reuse_results => '{"max_age_days": 30}') ->> 'id' as reusing,
       pg_temp.submit(:'org', 2) as job, pg_temp.look_up(:'org', 2, 200, :'answer') as looked_up \gset
select is(api.update_upload(:'org', :'reusing', '{"name": "April"}') #>> '{estimate,known_already}', '2', 'renaming a draft updates how many results are known');

select * from finish();
rollback;
