begin;
select plan(27);
\ir fixtures.psql

-- A dry run
select api.create_batch_lookup(:'org', pg_temp.items(100) || '{"dry_run": true}')::jsonb as report \gset
select is(:'report'::jsonb - 'estimated_duration_seconds',
          '{"dry_run": true, "valid": true, "total_items": 100, "valid_items": 100, "total_invalid": 0, "invalid_items": [], "duplicates": [], "warnings": []}',
          'a dry run of a good batch finds nothing');
select is(:'report'::jsonb ->> 'estimated_duration_seconds', null, 'and cannot tell how long without a pace it would take');
select is((select count(*) from public.batch_lookup_jobs where organization_id = :'org'), 0::bigint, 'and stores nothing');
select api.update_settings('{"lookups_per_second": 20}') as settings \gset
select is(api.create_batch_lookup(:'org', pg_temp.items(100), p_options => '{"dry_run": true}') ->> 'estimated_duration_seconds', '5.0', 'with one it can');
select pg_temp.submit(:'other_org', 40) as ahead \gset
select is(api.create_batch_lookup(:'org', pg_temp.items(100), p_options => '{"dry_run": true}') ->> 'estimated_duration_seconds', '7.0', 'what waits already comes first');

-- Leaving out
select body as created from api.submit_batch_lookup(:'org', jsonb_set(jsonb_set(pg_temp.items(4), '{items,1,device_ids}', '[]'), '{items,2,reference_id}', '"site-1"'),
    p_options => '{"on_invalid": "skip", "name": "Spring"}', p_lines => array[2, 3, 5, 6], p_warnings => '{"3": "mended"}') \gset
select is((:'created'::json -> 'invalid_items')::jsonb,
          '[{"index": 1, "record": 2, "line": 3, "error": "device_ids must be an array of 1 to 100 positive integers"},
            {"index": 2, "record": 3, "line": 5, "error": "Duplicate reference_id site-1, as at index 0"}]', 'what is left out is named by record and line');
select is((:'created'::json -> 'warnings')::jsonb, '[{"index": 3, "record": 4, "line": 6, "reference_id": "site-4", "warnings": ["mended"]}]', 'so is what was mended');
select results_eq(
    format($$ select position, reference_id, warnings from public.lookup_queue_items where job_id = %L order by position $$, :'created'::json ->> 'job_id'),
    $$ values (0, 'site-1', null::text[]), (1, 'site-4', array['mended']) $$, 'the others are stored, close together');
select is((select name from public.incentive_reports where id = (:'created'::json #>> '{report,id}')::uuid), 'Spring', 'the report has the name of the upload');
select throws_ok(
    format($$ select api.create_batch_lookup(%L, '[{}]', p_options => '{"on_invalid": "skip"}') $$, :'org'),
    'PT400', '1 item(s) failed validation', 'nothing to store is a refusal');

-- Options
select throws_ok(format($$ select api.create_batch_lookup(%L, pg_temp.items(1), p_options => %L) $$, :'org', o), 'PT400', message, what)
  from (values ('{"lines": "x"}', 'Unknown options: lines', 'what the reader of a file notes is no option'),
               ('{"warnings": {"0": "x"}}', 'Unknown options: warnings', 'so nobody can forge it'),
               ('{"onInvalid": "skip"}', 'Unknown options: onInvalid', 'nor does a misspelt option go unnoticed'),
               ('[]', 'options must be a JSON object', 'options are an object'),
               ('{"name": 17}', 'name must be a string of 1 to 200 characters', 'a name is a text'),
               ('{"dry_run": "yes"}', 'dry_run must be true or false', 'a dry run is asked for or not'),
               ('{"on_invalid": true}', 'on_invalid must be one of reject, skip', 'and what to do with invalid items is one of two things')) v (o, message, what);
select lives_ok(format($$ select api.create_batch_lookup(%L, pg_temp.items(1), p_options => null) $$, :'org'), 'none are none');
select throws_ok(
    format($$ select api.submit_batch_lookup(%L, pg_temp.items(1), p_warnings => '[]') $$, :'org'),
    'PT400', 'warnings must be a JSON object of indexes and texts', 'warnings are texts by index');

-- Requests that are repeated
select status as status1, replayed as replayed1, body as body1 from api.submit_batch_lookup(:'org', pg_temp.items(1), true, '{}', 'key', 'a') \gset
select status as status2, replayed as replayed2, body as body2 from api.submit_batch_lookup(:'org', pg_temp.items(1), true, '{}', 'key', 'a') \gset
select is(array[:'status1', :'replayed1', :'status2', :'replayed2'], array['201', 'f', '201', 't'], 'a request is done once');
select is(:'body2'::text, :'body1'::text, 'and answered alike');
select throws_ok(
    format($$ select api.submit_batch_lookup(%L, pg_temp.items(2), true, '{}', 'key', 'b') $$, :'org'),
    'PT422', 'This Idempotency-Key was used for another request', 'its key belongs to it');
select isnt((select body ->> 'job_id' from api.submit_batch_lookup(:'other_org', pg_temp.items(1), true, '{}', 'key', 'a')), :'body1'::json ->> 'job_id', 'and to its organization');
select is(array_agg(distinct body ->> 'job_id'), array[min(body ->> 'job_id')], 'without a fingerprint, one is made of the request')
  from generate_series(1, 2), api.submit_batch_lookup(:'org', pg_temp.items(1), true, '{}', 'second-key');
select throws_ok(
    format($$ select api.submit_batch_lookup(%L, pg_temp.items(2), true, '{}', 'second-key') $$, :'org'),
    'PT422', 'This Idempotency-Key was used for another request', 'so that another one is noticed');
select is((select status from api.submit_batch_lookup(:'org', pg_temp.items(1), true, '{"dry_run": true}')), 200, 'a dry run is a status of its own');
select throws_ok(
    format($$ select api.submit_batch_lookup(%L, pg_temp.items(1), true, '{}', 'a b', 'b') $$, :'org'), 'PT400', null, 'a key has a form');

select * from finish();
rollback;
