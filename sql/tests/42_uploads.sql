begin;
select plan(51);
\ir fixtures.psql

-- A dry run
select api.create_batch_lookup(:'org', pg_temp.items(100) || '{"dry_run": true}')::jsonb as report \gset
select is(:'report'::jsonb - 'estimated_duration_seconds',
          '{"dry_run": true, "valid": true, "total_items": 100, "valid_items": 100, "total_invalid": 0, "invalid_items": [], "duplicates": [], "warnings": [], "total_warnings": 0,
            "problem_groups": [], "warning_groups": [], "lookups": 100, "known_already": 0, "columns": [], "notes": []}',
          'a dry run of a good batch finds nothing');
select is(:'report'::jsonb ->> 'estimated_duration_seconds', null, 'a dry run has no estimate without a rate limit');
select is((select count(*) from public.batch_lookup_jobs where organization_id = :'org'), 0::bigint, 'a dry run stores nothing');
select api.update_settings('{"lookups_per_second": 20}') as settings \gset
select is(api.create_batch_lookup(:'org', pg_temp.items(100), p_options => '{"dry_run": true}') ->> 'estimated_duration_seconds', '5.0', 'a dry run estimates the seconds at the rate limit');
select pg_temp.submit(:'other_org', 40) as ahead \gset
select is(api.create_batch_lookup(:'org', pg_temp.items(100), p_options => '{"dry_run": true}') ->> 'estimated_duration_seconds', '10.0', 'the estimate uses the organization''s share while another has work');
select pg_temp.submit(:'other_org', 400) as more \gset
select is(api.create_batch_lookup(:'org', pg_temp.items(100), p_options => '{"dry_run": true}') ->> 'estimated_duration_seconds', '10.0', 'the estimate does not reveal how much others have open');
select pg_temp.submit(:'org', 40) as own \gset
select is(api.create_batch_lookup(:'org', pg_temp.items(100), p_options => '{"dry_run": true}') ->> 'estimated_duration_seconds', '14.0', 'the estimate counts what the organization has open');
select api.delete_batch_lookup(:'org', j.id) from (select j.id, api.cancel_batch_lookup(:'org', j.id) from public.batch_lookup_jobs j where j.organization_id = :'org') j \gset ignored_

-- Leaving out
select body as created from api.submit_batch_lookup(:'org', jsonb_set(jsonb_set(pg_temp.items(4), '{items,1,device_ids}', '[]'), '{items,2,reference_id}', '"site-1"'),
    p_options => '{"on_invalid": "skip", "name": "Spring"}', p_file => '{"lines": [2, 3, 5, 6]}') \gset
select is((:'created'::json -> 'invalid_items')::jsonb,
          '[{"index": 1, "record": 2, "line": 3, "error": "device_ids must be an array of 1 to 100 positive integers",
             "problems": [{"field": "device_ids", "column": null, "code": "invalid_device_ids", "message": "device_ids must be an array of 1 to 100 positive integers",
                           "value": "[]", "suggestion": null}]},
            {"index": 2, "record": 3, "line": 5, "error": "Duplicate reference_id site-1, as at index 0",
             "problems": [{"field": "reference_id", "column": null, "code": "duplicate_reference_id", "message": "Duplicate reference_id site-1, as at index 0",
                           "value": "site-1", "suggestion": null}]}]', 'skipped items are named by record and line');
select results_eq(
    format($$ select position, reference_id from public.lookup_queue_items where job_id = %L order by position $$, :'created'::json ->> 'job_id'),
    $$ values (0, 'site-1'), (1, 'site-4') $$, 'the valid items are stored, close together');
select is((select name from public.incentive_reports where id = (:'created'::json #>> '{report,id}')::uuid), 'Spring', 'the report has the name of the upload');
select throws_ok(
    format($$ select api.create_batch_lookup(%L, '[{}]', p_options => '{"on_invalid": "skip"}') $$, :'org'),
    'PT400', '1 item(s) failed validation', 'an upload without a valid item is refused');

-- Options
select throws_ok(format($$ select api.create_batch_lookup(%L, pg_temp.items(1), p_options => %L) $$, :'org', o), 'PT400', message, what)
  from (values ('{"lines": "x"}', 'Unknown options: lines', 'the notes of a file''s reader are not an option'),
               ('{"warnings": {"0": "x"}}', 'Unknown options: warnings', 'nobody can forge the warnings of the reader'),
               ('{"onInvalid": "skip"}', 'Unknown options: onInvalid', 'a misspelt option is refused'),
               ('[]', 'options must be a JSON object', 'options must be a JSON object'),
               ('{"name": 17}', 'name must be a string of 1 to 200 characters', 'the name must be a string'),
               ('{"dry_run": "yes"}', 'dry_run must be true or false', 'dry_run must be true or false'),
               ('{"on_invalid": true}', 'on_invalid must be one of reject, skip', 'on_invalid has one of two values'),
               (format('{"name": "%s"}', repeat('x', 201)), 'name must be a string of 1 to 200 characters', 'a name has at most 200 characters'),
               ('{"sample": 0}', 'sample must be a whole number from 1 to 10000', 'a sample has at least one site'),
               ('{"sample": 10001}', 'sample must be a whole number from 1 to 10000', 'a sample is no larger than a batch'),
               ('{"sample": "all"}', 'sample must be a whole number from 1 to 10000', 'a sample is counted'),
               ('{"max_lookups": 0}', 'max_lookups must be a whole number from 1 to 1000000', 'a limit allows at least one lookup'),
               ('{"max_lookups": 1000001}', 'max_lookups must be a whole number from 1 to 1000000', 'a limit has a maximum'),
               ('{"max_lookups": 2.5}', 'max_lookups must be a whole number from 1 to 1000000', 'a limit is a whole number of lookups'),
               ('{"when_limit_reached": "stop"}', 'when_limit_reached must be one of fail, wait', 'a limit fails or waits'),
               ('{"reuse_results": {"max_age_days": 3651}}', 'reuse_results must be an object {"max_age_days": a whole number from 1 to 3650}', 'results are reused for ten years at most'),
               ('{"reuse_results": {"days": 30}}', 'reuse_results must be an object {"max_age_days": a whole number from 1 to 3650}', 'the age of results to reuse has one name')) v (o, message, what);
select lives_ok(format($$ select api.create_batch_lookup(%L, pg_temp.items(1), p_options => %L) $$, :'org', o), 'an option may be as large as it is said to be: ' || left(o, 30))
  from (values (format('{"dry_run": true, "name": "%s"}', repeat('x', 200))), ('{"dry_run": true, "sample": 10000}'), ('{"dry_run": true, "max_lookups": 1000000}'),
               ('{"dry_run": true, "reuse_results": {"max_age_days": 3650}}')) v (o);
select lives_ok(format($$ select api.create_batch_lookup(%L, pg_temp.items(1), p_options => null) $$, :'org'), 'null options are accepted');

-- Files
select body as filed from api.submit_batch_lookup(:'org', null, p_file => '{"lines": [1, 2, 4], "notes": [{"code": "encoding_assumed", "message": "So"}], "rows": [
    ["Deal ID", "Street", "City", "State", "ZIP", "Building Type", "Devices"],
    ["d-1", "1 Congress Ave", "Austin", "TX", "78701", "RESIDENTIAL", "1"], ["d-2", "2 Congress Ave", "Austin", "Texas", "78701", "RESIDENTIAL", "1"]]}') \gset
select is((:'filed'::json -> 'warnings')::jsonb,
          '[{"index": 1, "record": 2, "line": 4, "reference_id": "d-2", "warnings": ["State: Texas was read as TX"],
             "details": [{"field": "address.state_or_province_code", "column": 4, "code": "value_recognized", "message": "State: Texas was read as TX", "was": "Texas", "now": "TX"}]}]',
          'corrections in a file are named by record and line, in words and in members');
select is((:'filed'::json -> 'notes')::jsonb, '[{"code": "encoding_assumed", "message": "So"}]', 'notes of the reader of a file are in the response');
select results_eq(
    format($$ select address ->> 'state_or_province_code', warnings from public.lookup_queue_items where job_id = %L order by position $$, :'filed'::json ->> 'job_id'),
    $$ values ('TX', null), ('TX', array['State: Texas was read as TX']) $$, 'corrections are stored with the item');
create function pg_temp.hint_of_refusal(p_organization_id uuid, p_file jsonb) returns text language plpgsql as $$
declare
    v_hint text;
begin
    perform api.create_batch_lookup(p_organization_id, null, p_file => p_file);
    return 'taken';
exception
    when sqlstate 'PT400' then
        get stacked diagnostics v_hint = pg_exception_hint;
        return v_hint;
end;
$$;
select results_eq(
    format($$ select code, pg_temp.hint_of_refusal(%L, jsonb_build_object(
                  'notes', jsonb_build_array(1, jsonb_build_object('code', code, 'message', 'B2 has no result')),
                  'rows', '[["Deal ID", "Street", "City", "State", "ZIP", "Building Type", "Devices"], ["d-3", "#N/A", "Austin", "TX", "78701", "RESIDENTIAL", "1"]]'::jsonb))
                from unnest(array['encoding_assumed', 'formulas_without_results']) code $$, :'org'),
    $$ values ('encoding_assumed', ''), ('formulas_without_results', 'B2 has no result') $$,
    'if items lack the results of formulas, the refusal says why');
select throws_ok(format($$ select api.create_batch_lookup(%L, null, p_file => %L) $$, :'org', f), 'PT400', message, 'a file must have its form: ' || what)
  from (values ('{"rows": 1}', 'p_file must be {rows: [[cell, ...], ...], lines?: [number, ...], header_row?: number, notes?: [...], columns?, defaults?, value_maps?: {...}}', 'rows are an array'),
               ('{"rows": [{}]}', 'p_file must be {rows: [[cell, ...], ...], lines?: [number, ...], header_row?: number, notes?: [...], columns?, defaults?, value_maps?: {...}}', 'each row is an array'),
               ('{"rows": [], "lines": ["x"]}', 'p_file must be {rows: [[cell, ...], ...], lines?: [number, ...], header_row?: number, notes?: [...], columns?, defaults?, value_maps?: {...}}', 'lines are numbers'),
               ('{"rows": [], "lines": [-9999999999]}', 'p_file must be {rows: [[cell, ...], ...], lines?: [number, ...], header_row?: number, notes?: [...], columns?, defaults?, value_maps?: {...}}', 'lines are counted'),
               ('{"rows": [], "lines": [[1]]}', 'p_file must be {rows: [[cell, ...], ...], lines?: [number, ...], header_row?: number, notes?: [...], columns?, defaults?, value_maps?: {...}}', 'a line is a number, not an array'),
               ('{"rows": [], "header_row": [1]}', 'p_file must be {rows: [[cell, ...], ...], lines?: [number, ...], header_row?: number, notes?: [...], columns?, defaults?, value_maps?: {...}}', 'the header row is one number'),
               ('{"rows": [], "notes": {}}', 'p_file must be {rows: [[cell, ...], ...], lines?: [number, ...], header_row?: number, notes?: [...], columns?, defaults?, value_maps?: {...}}', 'notes are an array'),
               ('{"rows": [], "columns": []}', 'p_file must be {rows: [[cell, ...], ...], lines?: [number, ...], header_row?: number, notes?: [...], columns?, defaults?, value_maps?: {...}}', 'columns are an object'),
               ('{"rows": [], "defaults": {"reference_id": "row"}}', 'default_reference_id must be a text with {line}, which tells the rows apart, such as row-{line}', 'a default reference_id must distinguish the rows'),
               (format('{"rows": [], "defaults": {"city": "%s"}}', repeat('x', 2048)), 'defaults must be at most 2,048 bytes altogether', 'every row gets the defaults'),
               (format('{"rows": [], "value_maps": {"city": {"a": "%s"}}}', repeat('x', 2048)), 'value_maps must be of values of at most 2,048 bytes each', 'many rows may get one value'),
               ('{"rows": []}', 'Columns are missing: reference_id, street_1, city, state_or_province_code, postal_code, building_type, device_ids', 'there is a header')) v (f, message, what);

-- Whole numbers
select is(api.create_batch_lookup(:'org', pg_temp.items(2) || '{"reuse_results": {"max_age_days": 30.0}, "sample": 1.0, "max_lookups": 2.0}') ->> 'total_items', '2',
          'a whole number may be written with a fraction of zero');
select is((select array_agg(i ->> 'line')
             from json_array_elements(api.create_batch_lookup(:'org', null, p_options => '{"dry_run": true}', p_file => '{"rows": [["Deal ID"], ["d-1"], ["d-2"]], "header_row": 1.0, "lines": [3.0, 5e0, 7.0],
                                                               "defaults": {"street_1": "1 Elm St", "city": "Boston", "state_or_province_code": "MA", "postal_code": "02134", "building_type": "HUT", "device_ids": "1"}}') -> 'invalid_items') i),
          array['5', '7'], 'lines of a file may be written as decimal numbers, too');

select * from finish();
rollback;
