begin;
select plan(17);
\ir fixtures.psql
\ir drafts.psql

select api.update_upload(:'org', :'id', '{"columns": {"building_type": "Bldg"}, "value_maps": {"building_type": {"Hut": "COMMERCIAL"}},
    "edits": [{"position": 3, "column": 3, "value": "Austin"}, {"position": 4, "column": 4, "value": "TX"}]}') is not null as repaired \gset
select throws_ok(format($$ select api.start_upload(%L, %L) $$, :'org', :'id'), 'PT400', '1 item(s) failed validation', 'a draft with problems is started only on request');
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
          format('(started,%s)', :'started'::json ->> 'job_id'), 'the list shows the batch of a started draft');

-- Memory
select api.create_organization('Initech') as third_org \gset
select is((api.create_upload(:'org', null, true, null, :'file')::jsonb #> '{value_maps}'), '{"building_type": {"Hut": "COMMERCIAL"}}', 'the words of an organization are recognized in its next file');
select is((api.create_upload(:'org', null, true, null, jsonb_set(:'file', '{value_maps}', '{"building_type": {"Shed": "COMMERCIAL"}}'))::jsonb #> '{value_maps}'),
          '{"building_type": {"Hut": "COMMERCIAL", "Shed": "COMMERCIAL"}}', 'words that come with a file are added to those of the organization');
select is((api.create_upload(:'org', null, true, null, :'file')::jsonb #>> '{columns,5,how}'), 'remembered', 'a column that was named is remembered by its header');
select is((api.create_upload(:'other_org', null, true, null, :'file')::jsonb #> '{value_maps}'), '{}', 'another organization has a memory of its own');

select api.create_upload(:'third_org', null, true, null, '{"rows": [["Deal ID", "Street", "City", "State", "ZIP", "Bldg", "", "Owner"], ["d-1", "1 Elm St", "Austin", "TX", "78701", "Hut", "1", "Kim"]]}') ->> 'id' as third \gset
select api.update_upload(:'third_org', :'third', '{"columns": {"device_ids": 7, "city": null}, "value_maps": {"building_type": {"Hut": "COMMERCIAL"}}, "defaults": {"city": "Austin"}}') ->> 'valid_rows' as valid, api.start_upload(:'third_org', :'third') is not null as third_started \gset
select results_eq(format($$ select name, field, values from app.column_memory where organization_id = %L order by name $$, :'third_org'),
    $$ values ('bldg', 'building_type', '{"Hut": "COMMERCIAL"}'::jsonb), ('city', null, '{}') $$, 'only assigned columns and the meanings of their words are remembered');
select is(array(select c ->> 'field' from json_array_elements(api.create_upload(:'third_org', null, true, null, '{"rows": [["Deal ID", "City", "ZIP"], ["d-1", "Austin", "78701"]]}') -> 'columns') c), array['reference_id', null, 'postal_code'],
    'a column that was ignored is ignored in the next file, too, while others are recognized by name');

select string_agg(md5(n::text), '') as long from generate_series(1, 300) n \gset
select api.create_upload(:'org', null, true, null, jsonb_set(jsonb_set(:'file', '{rows}', (:'file'::jsonb -> 'rows') - 7 - 6 - 5 - 4 - 3), '{rows,0,0}', to_jsonb(:'long'::text)) - 'lines')
    ->> 'id' as long_id \gset
select api.update_upload(:'org', :'long_id', '{"columns": {"reference_id": 1}}') ->> 'valid_rows' as valid \gset
select is((select array[:'valid', s.body ->> 'total_items', (select count(*)::text from app.column_memory where length(name) > 100)] from api.start_upload(:'org', :'long_id') s),
          '{2,2,0}', 'a draft is started whose column has a name that is too long to be remembered');

select api.delete_upload(:'org', :'id') is not null as deleted \gset
select is((select count(*) from public.lookup_queue_items where job_id = (:'started'::json ->> 'job_id')::uuid), 5::bigint, 'the batch outlives its draft');

select api.create_upload(:'org', null, true, null, :'file') ->> 'id' as again \gset
select api.update_upload(:'org', :'again', '{"skip": [0, 1, 2, 3, 4, 5, 6]}') ->> 'skipped_rows' as skipped \gset
select throws_ok(format($$ select api.start_upload(%L, %L) $$, :'org', :'again'), 'PT400', 'All rows of the upload are skipped', 'a draft whose rows are all skipped is not started');

insert into app.column_memory (organization_id, name, field, values, used_at)
select :'org', 'old' || n, 'city', '{}', app.clock() - n * interval '1 day' from generate_series(1, 1000) n;
select api.update_upload(:'org', :'again', '{"unskip": [0], "columns": {"city": "City"}}') is not null as repaired, api.start_upload(:'org', :'again') is not null as started_again \gset
select results_eq(
    format($$ select count(*)::integer, count(*) filter (where name = 'city')::integer, count(*) filter (where name = 'old1')::integer, count(*) filter (where name = 'old1000')::integer
                from app.column_memory where organization_id = %L $$, :'org'),
    $$ values (1000, 1, 1, 0) $$, 'the 1,000 columns that were used last are remembered');
select throws_ok(format($$ select api.start_upload(gen_random_uuid(), %L, p_idempotency_key => 'key') $$, :'again'), 'PT404', 'Organization not found',
    'an unknown organization starts no draft');

select * from finish();
rollback;
