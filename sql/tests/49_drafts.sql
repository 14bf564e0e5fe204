begin;
select plan(53);
\ir fixtures.psql
select min(id) as device from app.devices \gset

-- A file of seven rows: two are fine, one has a warning, three have problems, and one repeats an id.
select jsonb_build_object('lines', '[1, 2, 3, 4, 5, 7, 8, 9]'::jsonb, 'notes', '[{"code": "encoding_assumed", "message": "So"}]'::jsonb, 'rows', jsonb_build_array(
    '["Deal ID", "Street", "City", "State", "ZIP", "Bldg", "Devices", "Owner"]'::jsonb,
    jsonb_build_array('d-1', '1 Congress Ave', 'Austin', 'TX', '78701', 'Single Family', :'device', 'Kim'),
    jsonb_build_array('d-2', '2 Congress Ave', 'Austin', 'TX', '78701', 'RESIDENTIAL', :'device', 'Lee'),
    jsonb_build_array('d-3', '3 Congress Ave', 'Austin', 'TX', '10001', 'RESIDENTIAL', :'device', 'Kim'),
    jsonb_build_array('d-4', '4 Congress Ave', '', 'TX', '78701', 'Hut', :'device', ''),
    jsonb_build_array('d-5', '5 Congress Ave', 'Austin', 'Atlantis', '78701', 'Hut', :'device', 'Ada'),
    jsonb_build_array('d-6', '6 Congress Ave', 'Austin', 'TX', '78701', 'RESIDENTIAL', '999999', ''),
    jsonb_build_array('d-1', '7 Congress Ave', 'Austin', 'TX', '78701', 'RESIDENTIAL', :'device', ''))) as file \gset
select api.create_upload(:'org', null, true, 'March', :'file') as draft \gset
select :'draft'::json ->> 'id' as id \gset

-- What is wrong
select is((select jsonb_object_agg(k, :'draft'::jsonb -> k)
             from unnest(array['name', 'status', 'job_id', 'total_rows', 'valid_rows', 'invalid_rows', 'skipped_rows', 'warning_rows', 'missing_fields', 'notes', 'estimate']) k),
          '{"name": "March", "status": "draft", "job_id": null, "total_rows": 7, "valid_rows": 3, "invalid_rows": 4, "skipped_rows": 0, "warning_rows": 2,
            "missing_fields": [], "notes": [{"code": "encoding_assumed", "message": "So"}], "estimate": {"lookups": 3, "seconds": null}}',
          'a draft counts its rows');
select is(:'draft'::jsonb #> '{columns,5}', '{"number": 6, "header": "Bldg", "field": "building_type", "how": "name", "samples": ["Hut", "RESIDENTIAL", "Single Family"]}',
          'a column is told with the field that it was taken for, and with its first values');
select results_eq(
    format($$ select g ->> 'field', g ->> 'code', (g ->> 'count')::integer, g #>> '{examples,0,line}', g #>> '{examples,0,message}'
                from json_array_elements(%L::json -> 'problem_groups') g $$, :'draft'),
    $$ values ('building_type', 'unknown_building_type', 2, '5', 'column Bldg, row 5: Hut is not a building type (RESIDENTIAL, MULTIFAMILY, MANUFACTURED_HOME, COMMERCIAL)'),
              ('address.city', 'missing', 1, '5', 'column City, row 5: the cell is empty'),
              ('address.state_or_province_code', 'unknown_state', 1, '7', 'column State, row 7: Atlantis is not a state or province of US'),
              ('device_ids', 'unknown_device', 1, '8', 'column Devices, row 8: there is no device 999999'),
              ('reference_id', 'duplicate_reference_id', 1, '9', 'column Deal ID, row 9: d-1 is also in row 2') $$,
    'the problems of all rows are grouped, in the words of a spreadsheet');
select is((select count(*) from public.lookup_queue_items), 0::bigint, 'a draft is not in the queue');

-- Rows
create function pg_temp.rows(p_id uuid, p_problem text default null, p_warning text default null, p_field text default null, p_q text default null, p_skipped boolean default null)
returns integer[]
language sql as $$
    select array_agg((r ->> 'position')::integer)
      from json_array_elements(api.get_upload_rows((select organization_id from public.lookup_uploads where id = p_id), p_id, p_problem, p_warning, p_field, p_q, p_skipped) -> 'rows') r
$$;
select is((api.get_upload_rows(:'org', :'id', 'missing') #> '{rows,0}')::jsonb, jsonb_build_object(
              'position', 3, 'line', 5, 'cells', jsonb_build_array('d-4', '4 Congress Ave', '', 'TX', '78701', 'Hut', :'device', ''), 'edits', '{}'::jsonb, 'skipped', false,
              'problems', '[{"field": "address.city", "column": 3, "code": "missing", "message": "column City, row 5: the cell is empty", "value": null, "suggestion": null},
                            {"field": "building_type", "column": 6, "code": "unknown_building_type", "value": "Hut", "suggestion": null,
                             "message": "column Bldg, row 5: Hut is not a building type (RESIDENTIAL, MULTIFAMILY, MANUFACTURED_HOME, COMMERCIAL)"}]'::jsonb, 'warnings', '[]'::jsonb),
          'a row is told as it was sent, with its problems');
select is(pg_temp.rows(:'id'), array[0, 1, 2, 3, 4, 5, 6], 'rows come in the order of the file');
select is(pg_temp.rows(:'id', 'any'), array[3, 4, 5, 6], 'rows with any problem can be asked for');
select is(pg_temp.rows(:'id', 'unknown_building_type', null, 'building_type'), array[3, 4], 'rows with one problem can be asked for');
select is(pg_temp.rows(:'id', null, 'any'), array[0, 2], 'rows with warnings can be asked for');
select is(pg_temp.rows(:'id', p_q => 'KIM'), array[0, 2], 'rows are found by a text in any cell');
select is((api.get_upload_rows(:'org', :'id', p_limit => 2, p_cursor => api.get_upload_rows(:'org', :'id', p_limit => 3) ->> 'next_cursor') #>> '{rows,1,position}'), '4',
          'a cursor leads to the next page');
select is((api.get_upload_rows(:'org', :'id', p_q => 'nothing'))::jsonb, '{"rows": [], "total": 0, "limit": 100, "offset": 0, "next_cursor": null}', 'no row is an empty page');

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
select is(pg_temp.rows(:'id', p_skipped => true), array[5], 'skipped rows can be asked for');
select is(api.update_upload(:'org', :'id', '{"unskip": [5], "edits": [{"position": 4, "column": 4, "value": null}]}') ->> 'invalid_rows', '3', 'a skipped row and an edit can be taken back');
select is(api.update_upload(:'org', :'id', '{"skip": {"problem": "unknown_device", "field": "device_ids"}}') ->> 'skipped_rows', '1', 'all rows with a problem can be skipped at once');
select is(api.update_upload(:'org', :'id', '{"columns": {"building_type": null}}')::jsonb #> '{columns,5}',
          '{"number": 6, "header": "Bldg", "field": null, "how": "given", "samples": ["Hut", "RESIDENTIAL", "Single Family"]}', 'a column can be taken from its field');
select is(api.get_upload(:'org', :'id') ->> 'missing_fields', '["building_type"]', 'a field that no column has is missing');
select is(api.get_upload(:'org', :'id')::jsonb #>> '{problem_groups,0,examples,0,message}', 'row 2: no column has the building_type', 'a missing field is a problem of every row');
select is(api.update_upload(:'org', :'id', '{"defaults": {"building_type": "RESIDENTIAL"}}') ->> 'missing_fields', '[]', 'a default stands in for a column');
select is(api.update_upload(:'org', :'id', '{"columns": {"building_type": "bldg"}, "defaults": {"building_type": null}}')::jsonb #>> '{columns,5,field}', 'building_type', 'a column is named by its header');
select throws_ok(format($$ select api.update_upload(%L, %L, %L) $$, :'org', :'id', c), 'PT400', message, what)
  from (values ('{"colour": 1}', 'Unknown fields: colour', 'a change that nobody knows is refused'),
               ('{"columns": {"colour": 1}}', 'There is no field colour', 'a field that is none is refused'),
               ('{"columns": {"city": 9}}', 'No column is called 9', 'a column that is none is refused'),
               ('{"columns": {"city": []}}', 'columns must be an object of fields and their columns, by name or by number, or null', 'a column is a name or a number'),
               ('{"defaults": {"city": {}}}', 'defaults must be an object of fields and their values', 'a default is a value'),
               ('{"value_maps": {"city": {"a": "b"}}}', 'value_maps must be {field: {text: value}} for country_code, state_or_province_code, building_type or device_ids', 'only words of a vocabulary are mapped'),
               ('{"edits": [{"position": 7, "column": 1, "value": "x"}]}', 'edits must be an array of {"position": of the row, "column": its number, "value": a string, or null to take the edit back}', 'an edit is of a row that exists'),
               ('{"skip": ["x"]}', 'skip must be an array of positions of rows, or {"problem": a code, "field": ...}', 'rows are skipped by their positions'),
               ('{"name": " "}', 'name must be a string of 1 to 200 characters', 'the name of a draft is not empty')) v (c, message, what);

select is_empty('select * from api.check_invariants()', 'an upload counts its rows');
update public.lookup_uploads set valid_rows = 1 where id = :'id';
select is((select rule from api.check_invariants()), 'an upload counts its rows', 'a wrong count is found');

-- Start
select api.update_upload(:'org', :'id', '{"edits": [{"position": 4, "column": 4, "value": "TX"}], "unskip": [5]}') \gset
select throws_ok(format($$ select api.start_upload(%L, %L) $$, :'org', :'id'), 'PT400', '1 item(s) failed validation', 'a draft with problems is not started unasked');
select body as started, status as http from api.start_upload(:'org', :'id', '{"skip_invalid": true}', 'key-1') \gset
select results_eq(
    format($$ select i.reference_id, i.building_type, i.address ->> 'city', s.cells ->> 7
                from public.lookup_queue_items i left join public.lookup_item_sources s using (organization_id, job_id, position) where i.job_id = %L order by i.position $$, :'started'::json ->> 'job_id'),
    $$ values ('d-1', 'RESIDENTIAL', 'Austin', 'Kim'), ('d-2', 'RESIDENTIAL', 'Austin', 'Lee'), ('d-3', 'RESIDENTIAL', 'Austin', 'Kim'), ('d-4', 'COMMERCIAL', 'Austin', ''),
              ('d-5', 'COMMERCIAL', 'Austin', 'Ada') $$,
    'the batch has the valid rows as they were repaired, and their own columns');
select is((select (:'http', s.replayed, s.body ->> 'job_id')::text from api.start_upload(:'org', :'id', '{"skip_invalid": true}', 'key-1') s),
          format('(201,t,%s)', :'started'::json ->> 'job_id'), 'a start that is repeated with its key answers the same');
select throws_ok(format($$ select api.start_upload(%L, %L) $$, :'org', :'id'), 'PT409', 'The upload has already been started', 'a draft becomes one batch');
select throws_ok(format($$ select api.update_upload(%L, %L, '{"name": "x"}') $$, :'org', :'id'), 'PT409', 'The upload has already been started', 'what was started does not change');
select is((select (u ->> 'status', u ->> 'job_id')::text from json_array_elements(api.list_uploads(:'org', 'started') -> 'uploads') u),
          format('(started,%s)', :'started'::json ->> 'job_id'), 'the list shows what became of a draft');

-- Memory
select is((api.create_upload(:'org', null, true, null, :'file')::jsonb #> '{value_maps}'), '{"building_type": {"Hut": "COMMERCIAL"}}', 'the next file of the organization finds its own words known');
select is((api.create_upload(:'org', null, true, null, :'file')::jsonb #>> '{columns,5,how}'), 'remembered', 'a column that was named is remembered by its header');
select is((api.create_upload(:'other_org', null, true, null, :'file')::jsonb #> '{value_maps}'), '{}', 'another organization has a memory of its own');

-- JSON, and refusals
select is((select (d ->> 'total_rows', d ->> 'valid_rows', jsonb_path_query_array(d, '$.columns[*].header'))::text
             from api.create_upload(:'org', pg_temp.items(2, '{"metadata": {"city": "x", "owner": "Kim"}, "building_type": "Castle"}')) c, to_jsonb(c) d),
          '(2,0,"[""reference_id"", ""street_1"", ""city"", ""state_or_province_code"", ""postal_code"", ""country_code"", ""building_type"", ""device_ids"", ""owner"", ""metadata.city""]")',
          'items in JSON are rows with a column for each field and each member of their metadata');
select is(api.create_upload(:'org', null, true, null, '{"rows": [["Key", "Billing City", "Shipping City"], ["d-1", "Austin", "Boston"]]}')::jsonb #> '{columns,1}',
          '{"number": 2, "header": "Billing City", "field": null, "how": "ambiguous", "samples": ["Austin"]}', 'columns that fit equally well wait to be named');
select throws_ok(format($$ select api.create_upload(%L, null, true, null, '{"rows": [["Key"]]}') $$, :'org'), 'PT400', 'A batch must have 1 to 10,000 items; this one has 0', 'a file without rows is no draft');
select throws_ok(format($$ select api.get_upload(%L, %L) $$, :'other_org', :'id'), 'PT404', 'Upload not found', 'nobody sees the draft of another organization');
select api.update_settings('{"max_open_uploads": 1}') as settings \gset
select throws_ok(format($$ select api.create_upload(%L, pg_temp.items(1)) $$, :'other_org'), 'PT409', 'The organization has 1 drafts already', 'an organization has a limited number of drafts');

-- The end
select is(api.delete_upload(:'org', :'id') ->> 'message', 'Upload deleted successfully', 'an upload can be deleted');
select is((select count(*) from public.lookup_queue_items where job_id = (:'started'::json ->> 'job_id')::uuid), 5::bigint, 'the batch outlives its draft');
select pg_temp.turn_clock(now() + interval '15 days');
select is(api.list_uploads(:'other_org') ->> 'total', '0', 'a draft is gone after two weeks');
select is(app.prune_expired(), 5, 'retention deletes what has expired');
select is_empty('select from public.lookup_uploads union all select from public.lookup_upload_rows', 'an expired draft takes its rows along');

select * from finish();
rollback;
