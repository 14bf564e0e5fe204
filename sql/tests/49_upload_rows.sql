begin;
select plan(9);
\ir fixtures.psql
\ir drafts.psql

-- Rows
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
select throws_ok(format($$ select api.get_upload_rows(%L, %L, p_q => repeat('x', 201)) $$, :'org', :'id'), 'PT400', 'q must be a text of at most 200 characters', 'a text to look for in cells has an end');
select is((api.get_upload_rows(:'org', :'id', p_q => 'nothing'))::jsonb, '{"rows": [], "total": 0, "limit": 100, "offset": 0, "next_cursor": null}', 'no row is an empty page');

select * from finish();
rollback;
