begin;
select plan(35);
\ir fixtures.psql
\ir drafts.psql

-- What is wrong
select is((select jsonb_object_agg(k, :'draft'::jsonb -> k)
             from unnest(array['name', 'status', 'job_id', 'total_rows', 'valid_rows', 'invalid_rows', 'skipped_rows', 'warning_rows', 'missing_fields', 'notes', 'estimate']) k),
          '{"name": "March", "status": "draft", "job_id": null, "total_rows": 7, "valid_rows": 3, "invalid_rows": 4, "skipped_rows": 0, "warning_rows": 2,
            "missing_fields": [], "notes": [{"code": "encoding_assumed", "message": "So"}], "estimate": {"lookups": 3, "seconds": null, "known_already": 0}}',
          'a draft counts its rows');
select is(:'draft'::jsonb #> '{columns,5}', '{"number": 6, "header": "Bldg", "field": "building_type", "how": "name", "samples": ["Hut", "RESIDENTIAL", "Single Family"]}',
          'a column has the field assigned to it, and its first values');
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

select is_empty('select * from api.check_invariants()', 'an upload counts its rows');
update public.lookup_uploads set valid_rows = 1 where id = :'id';
select is((select rule from api.check_invariants()), 'an upload counts its rows', 'a wrong count is found');

-- JSON, and refusals
select is((select (d ->> 'total_rows', d ->> 'valid_rows', jsonb_path_query_array(d, '$.columns[*].header'))::text
             from api.create_upload(:'org', pg_temp.items(2, '{"metadata": {"city": "x", "owner": "Kim"}, "building_type": "Castle"}')) c, to_jsonb(c) d),
          '(2,0,"[""reference_id"", ""street_1"", ""city"", ""state_or_province_code"", ""postal_code"", ""country_code"", ""building_type"", ""device_ids"", ""owner"", ""metadata.city""]")',
          'items in JSON are rows with a column for each field and each member of their metadata');
select results_eq(
    format($$ select c ->> 'header', c ->> 'field' from json_array_elements(api.create_upload(%L, pg_temp.items(1, '{"household": {"income": 60000, "owner_status": "homeowner"}}')) -> 'columns') c
               where c ->> 'number' > '7' order by c ->> 'number' $$, :'other_org'),
    $$ values ('device_ids', 'device_ids'), ('household_income', 'household_income') $$, 'the household of an item in JSON is in columns, too');
select results_eq(
    format($$ select c ->> 'header', c ->> 'field' from json_array_elements(api.create_upload(%L, pg_temp.items(1, '{"address": "1 Elm St", "household": [1], "metadata": null}')) -> 'columns') c
               where c ->> 'number' > '7' order by c ->> 'number' $$, :'other_org'),
    $$ values ('address', null), ('household', null) $$, 'an address or a household that is not an object has a column, too');
select is(api.create_upload(:'org', null, true, null, '{"rows": [["Key", "Billing City", "Shipping City"], ["d-1", "Austin", "Boston"]]}')::jsonb #> '{columns,1}',
          '{"number": 2, "header": "Billing City", "field": null, "how": "ambiguous", "samples": ["Austin"]}', 'columns that match equally well are assigned to no field');
select throws_ok(format($$ select api.create_upload(%L, null, true, null, '{"rows": [["Key"]]}') $$, :'org'), 'PT400', 'A batch must have 1 to 10,000 items; this one has 0', 'a file without rows is no draft');
select throws_ok(format($$ select api.get_upload(%L, %L) $$, :'other_org', :'id'), 'PT404', 'Upload not found', 'the draft of another organization is not visible');
select throws_ok(format($$ select api.create_upload(%L, null, true, null, %L) $$, :'org', f::jsonb), 'PT400',
    'p_file must be {rows: [[cell, ...], ...], lines?: [number, ...], header_row?: number, notes?: [...], columns?, defaults?, value_maps?: {...}}', 'a file has its form: ' || f)
  from unnest(array['{"rows": [["Key"], ["a"]], "lines": ["x"]}', '{"rows": [["Key"], ["a"]], "lines": 7}', '{"rows": [["Key"], ["a"]], "lines": [1.5]}']) f;
select throws_ok(format($$ select api.create_upload(%L, null, true, null, jsonb_build_object('rows', (select jsonb_build_array(r.cells, r.cells) from (select jsonb_agg('c' || n) as cells from generate_series(1, 501) n) r))) $$, :'org'),
    'PT400', 'The header has 501 columns; a file may have 500', 'a file has a limited number of columns');
select throws_ok(format($$ select api.create_upload(%L, (select jsonb_build_array(jsonb_object_agg('k' || n, n)) from generate_series(1, 494) n)) $$, :'org'), 'PT400',
                 'All items together have 501 different members; an upload may have 500', 'a draft of JSON has no more columns than one of a file');
select throws_ok(format($$ select api.create_upload(%L, jsonb_build_array(jsonb_build_object('metadata', jsonb_build_object(repeat('k', 65536), 1)))) $$, :'org'), 'PT400',
                 'The names of all columns have 65616 bytes; they may have 65,536', 'column names of a JSON draft are no longer than those of a file');
select is((select array[d -> 'defaults', d -> 'missing_fields']
             from to_jsonb(api.create_upload(:'other_org', null, true, null,
                                             '{"rows": [["Key", "Street", "City", "State", "ZIP"], ["d-1", "1 Elm St", "Austin", "TX", "78701"]],
                                               "columns": {"reference_id": "Key"}, "defaults": {"building_type": "RESIDENTIAL", "device_ids": "1"}}')) d),
          array['{"building_type": "RESIDENTIAL", "device_ids": "1"}', '[]']::jsonb[], 'a draft keeps the defaults that came with the file');
select api.update_settings('{"max_open_uploads": 1}') as settings \gset
select throws_ok(format($$ select api.create_upload(%L, pg_temp.items(1)) $$, :'org'), 'PT409', 'The organization already has 3 drafts', 'an organization has a limited number of drafts');

-- The end
select is(api.delete_upload(:'org', :'id') ->> 'message', 'Upload deleted successfully', 'an upload can be deleted');
select is(array(select count(*)::integer from public.lookup_upload_rows where organization_id = :'org' group by upload_id order by 1), array[1, 2],
          'the other drafts keep their rows');
select is((select count(*) from public.lookup_upload_rows where organization_id = :'org' and upload_id = :'id'), 0::bigint, 'a deleted draft leaves no rows');
select pg_temp.turn_clock(now() + interval '15 days');
select is(api.list_uploads(:'org') ->> 'total', '0', 'a draft is gone after two weeks');
select is(app.prune_expired(), 5, 'retention deletes what has expired');
select is_empty('select 1 from public.lookup_uploads union all select 1 from public.lookup_upload_rows', 'an expired draft is deleted with its rows');


-- Its limits
select api.update_settings('{"max_open_uploads": 1}') as settings \gset
select throws_ok($$ select api.create_upload(gen_random_uuid(), pg_temp.items(1)) $$, 'PT404', 'Organization not found', 'a draft needs an organization');
select is(json_array_length(api.create_upload(:'org', (select jsonb_build_array(jsonb_object_agg('k' || n, n)) from generate_series(1, 493) n)) -> 'columns'), 500,
          'a draft of JSON may have 500 columns');
select pg_temp.turn_clock((select expires_at from public.lookup_uploads where organization_id = :'org'));
select lives_ok(format($$ select api.create_upload(%L, pg_temp.items(3)) $$, :'org'), 'a draft that expires now no longer counts as open');
select api.update_settings('{"max_open_uploads": 20}') as settings \gset
select app.prune_uploads(app.clock()) as pruned, api.create_upload(:'org', pg_temp.items(3)) is not null as second, api.create_upload(:'org', pg_temp.items(3)) is not null as third \gset
select pg_temp.turn_clock(now() + interval '60 days');
select is(app.prune_uploads(app.clock(), 6), 2, 'retention deletes drafts up to a number of rows');
select is(app.prune_uploads(app.clock(), 1), 1, 'retention deletes one draft, however many rows it has');

-- Options in a body
select is((select array[api.create_upload(:'org', b) ->> 'name', api.create_upload(:'org', b, p_name => 'May') ->> 'name', api.create_upload(:'org', b) #>> '{reuse_results,max_age_days}']
             from (select pg_temp.items(1) || '{"name": "April", "reuse_results": {"max_age_days": 7}, "labels": null, "dry_run": false}') u (b)),
          '{April,May,7}', 'a body may name the draft and reuse results');
select throws_ok(format('select api.create_upload(%L, %L, p_name => %L)', :'org', pg_temp.items(1) || '{"max_lookups": 3, "labels": {"team": "north"}, "dry_run": true}', 'May'), 'PT400',
                 'Options that only a start has: dry_run, labels, max_lookups', 'a draft does not forget a limit of lookups, which only a start has');
select throws_ok(format('select api.create_upload(%L, %L)', :'org', pg_temp.items(1) || jsonb_build_object('name', v::jsonb)), 'PT400', 'name must be a string of 1 to 200 characters', 'a body names no draft ' || v)
  from unnest(array['5', '" "']) v;

select * from finish();
rollback;
