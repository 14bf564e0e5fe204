begin;
select plan(22);
\ir fixtures.psql
\ir drafts.psql

-- Rows
select is((api.get_upload_rows(:'org', :'id', 'missing') #> '{rows,0}')::jsonb, jsonb_build_object(
              'position', 3, 'line', 5, 'cells', jsonb_build_array('d-4', '4 Congress Ave', '', 'TX', '78701', 'Hut', :'device', ''), 'edits', '{}'::jsonb, 'skipped', false,
              'problems', '[{"field": "address.city", "column": 3, "code": "missing", "message": "column City, row 5: the cell is empty", "value": null, "suggestion": null},
                            {"field": "building_type", "column": 6, "code": "unknown_building_type", "value": "Hut", "suggestion": null,
                             "message": "column Bldg, row 5: Hut is not a building type (RESIDENTIAL, MULTIFAMILY, MANUFACTURED_HOME, COMMERCIAL)"}]'::jsonb, 'warnings', '[]'::jsonb),
          'a row is shown as it was sent, with its problems');
select is(pg_temp.rows(:'id'), array[0, 1, 2, 3, 4, 5, 6], 'rows come in the order of the file');
select is(pg_temp.rows(:'id', 'any'), array[3, 4, 5, 6], 'rows with any problem can be listed');
select is(api.get_upload_rows(:'org', :'id', 'duplicate_reference_id') #>> '{rows,0,problems,0,message}', 'column Deal ID, row 9: d-1 is also in row 2',
          'a row that repeats an id names the other one by its line in the file');
select is(pg_temp.rows(:'id', 'unknown_building_type', null, 'building_type'), array[3, 4], 'rows with one kind of problem can be listed');
select is(pg_temp.rows(:'id', null, 'any'), array[0, 2], 'rows with warnings can be listed');
select is(pg_temp.rows(:'id', p_q => 'KIM'), array[0, 2], 'rows are found by a text in any cell');
select is((api.get_upload_rows(:'org', :'id', p_limit => 2, p_cursor => api.get_upload_rows(:'org', :'id', p_limit => 3) ->> 'next_cursor') #>> '{rows,1,position}'), '4',
          'a cursor leads to the next page');
select throws_ok(format($$ select api.get_upload_rows(%L, %L, p_q => repeat('x', 201)) $$, :'org', :'id'), 'PT400', 'q must be a text of at most 200 characters', 'a search text for cells is limited in length');
select is((api.get_upload_rows(:'org', :'id', p_q => 'nothing'))::jsonb, '{"rows": [], "total": 0, "limit": 100, "offset": 0, "next_cursor": null}', 'without matching rows the page is empty');

select is((api.get_upload_rows(:'org', :'id', p_offset => 2147483647)) #>> '{rows}', '[]', 'a page after the last row is empty, however far after');
select is((api.get_upload_rows(:'org', :'id', p_limit => 7)) ->> 'next_cursor', null, 'the last page of rows has no cursor');

-- One of two drafts
create function pg_temp.read(p_organization_id uuid, p_id uuid) returns text
language sql as $$
    select concat_ws(' ', r ->> 'total', json_array_length(r -> 'rows')) from api.get_upload_rows(p_organization_id, p_id) r
$$;
select pg_temp.read(:'org', :'id') as alone, api.create_upload(:'org', null, true, null, :'file') ->> 'id' as twin \gset
select is(pg_temp.read(:'org', :'id'), :'alone', 'the rows of another draft are not read');
select api.delete_upload(:'org', :'twin') is not null as deleted \gset
select is(pg_temp.read(:'org', :'id'), :'alone', 'the rows of another draft are not deleted');

-- Lists
select pg_temp.turn_clock(now() + interval '1 hour');
select api.create_upload(:'org', pg_temp.items(1), p_name => 'a') ->> 'id' as a, api.create_upload(:'org', pg_temp.items(1), p_name => 'b') ->> 'id' as b \gset
create function pg_temp.uploads(p_organization_id uuid, p_status text default null, p_limit integer default 20, p_cursor text default null) returns text[]
language sql as $$
    select array_agg(u ->> 'id') from json_array_elements(api.list_uploads(p_organization_id, p_status, p_limit, 0, p_cursor) -> 'uploads') u
$$;
select is(pg_temp.uploads(:'org'), array[greatest(:'a'::text, :'b'), least(:'a'::text, :'b'), :'id'], 'uploads are listed newest first, and by their ids if created at the same time');
select is(pg_temp.uploads(:'org', null, 2), array[greatest(:'a'::text, :'b'), least(:'a'::text, :'b')], 'a page of uploads has the newest');
select is(pg_temp.uploads(:'org', null, 2, api.list_uploads(:'org', null, 1) ->> 'next_cursor'), array[least(:'a'::text, :'b'), :'id'], 'a cursor leads to the following uploads');
select is(api.list_uploads(:'org', null, 3) ->> 'next_cursor', null, 'the last page of uploads has no cursor');
select api.start_upload(:'org', :'a') is not null as started \gset
select is(pg_temp.uploads(:'org', 'started'), array[:'a'], 'uploads can be listed by status');
select is((select array[l ->> 'total', json_array_length(l -> 'uploads')::text] from api.list_uploads(:'org', 'draft', 1) l), '{2,1}', 'the total counts the uploads of that status on all pages');
select throws_ok(format($$ select api.list_uploads(%L, 'lost') $$, :'org'), 'PT400', 'status must be one of draft, started', 'uploads have no other status');
select pg_temp.turn_clock((select expires_at from public.lookup_uploads where id = :'b'));
select is((api.list_uploads(:'org'))::jsonb, '{"uploads": [], "total": 0, "limit": 20, "offset": 0, "next_cursor": null}', 'an upload that expires now is no longer listed');

select * from finish();
rollback;
