begin;
select plan(15);
\ir catalogue.psql

-- Export
select pg_temp.import();
select api.export_catalogue('test')::text as exported \gset
select is(array(select json_object_keys(:'exported'::json)), array['catalogue', 'device_categories', 'device_category_sizes', 'devices', 'utilities',
    'utility_service_areas', 'programs', 'program_utilities', 'program_tiers'], 'an export has the files in the order in which they refer to each other');
select is(array(select json_object_keys(:'exported'::json #> '{program_tiers,0}')), array(select name from app.catalogue_columns() where file = 'program_tiers'),
    'a row of an export has all columns in their order');
select is(:'exported'::jsonb #> '{program_tiers,2}' @> '{"id": "pump", "owner_statuses": "homeowner renter", "start_date": "2026-01-01", "end_date": "2027-06-30", "cap": null}', true,
    'lists and dates are exported in the form of the files');
select is(app.catalogue_cell('limits', app.income_limits('10:90000 2:71550-80000 joint:150000')), '2:71550-80000 10:90000 joint:150000', 'income limits are exported in the form of the files');
select is((api.import_catalogue(:'exported', true) ->> 'total_differences')::integer, 0, 'an export imported again changes nothing');
select is((api.import_catalogue(api.export_catalogue('starter')::jsonb, true) ->> 'total_differences')::integer, 0, 'an export of the starter catalogue imported again changes nothing');
select pg_temp.import('devices', 1, null);
select ok(not api.export_catalogue('test')::jsonb -> 'devices' @> '[{"id": "9001"}]', 'retired rows are not exported');
select is((api.import_catalogue(:'exported') #>> '{devices,changed}')::integer, 1, 'an earlier export undoes an import');
select throws_ok($$ select api.export_catalogue('none') $$, 'PT404', 'There is no catalogue with this name', 'an unknown catalogue is not exported');

-- Dry run
select is(
    api.import_catalogue(pg_temp.change(pg_temp.change(pg_temp.change(pg_temp.catalogue(), 'program_tiers', 1, '{"amount": "150", "end_date": ""}'),
        'devices', 5, '{"id": "9005", "category_key": "test_lamp", "name": "Floor lamp"}'), 'utilities', 3, null)
        #- '{utility_service_areas,5}' #- '{utility_service_areas,3}', true)::jsonb -> 'differences',
    '[{"file": "devices", "key": "9005", "change": "added", "before": null,
       "after": {"id": "9005", "category_key": "test_lamp", "name": "Floor lamp", "catalogue": "test"}},
      {"file": "utilities", "key": "mt-plains", "change": "retired", "after": null,
       "before": {"key": "mt-plains", "name": "Plains Electric", "country_code": "US", "region_code": "MT", "source": "test", "catalogue": "test"}},
      {"file": "utility_service_areas", "key": "820 mt-plains", "change": "retired", "after": null,
       "before": {"prefix": "820", "utility_key": "mt-plains", "rank": "1", "catalogue": "test"}},
      {"file": "utility_service_areas", "key": "82007 mt-plains", "change": "retired", "after": null,
       "before": {"prefix": "82007", "utility_key": "mt-plains", "rank": "1", "catalogue": "test"}},
      {"file": "program_tiers", "key": "wy-rebates pump", "change": "changed", "before": {"amount": "100", "end_date": "2027-06-30"}, "after": {"amount": "150", "end_date": null}}]',
    'a dry run says what would be added, retired and changed, cell by cell');
select is((select amount::integer || ' ' || app.iso_date(end_date) from app.program_tiers where program_id = 'wy-rebates' and id = 'pump'), '100 2027-06-30', 'a dry run changes nothing');
select is(
    api.import_catalogue(jsonb_set(jsonb_build_object('devices', pg_temp.catalogue() -> 'devices'), '{catalogue}', '"other"'), true)::jsonb #> '{differences,0}',
    '{"file": "devices", "key": "9001", "change": "changed", "before": {"catalogue": "test"}, "after": {"catalogue": "other"}}',
    'a dry run says whose rows would be taken over');
select throws_ok($$ select api.import_catalogue(pg_temp.change(pg_temp.catalogue(), 'device_categories', 1, '{"typical_cost": "x"}'), true) $$, 'PT400',
    'device_categories.csv, line 2: typical_cost "x" is not a number', 'a dry run refuses what an import refuses');

-- List
select is(
    (select c -> 'files' from jsonb_array_elements(api.list_catalogues()::jsonb -> 'catalogues') c where c ->> 'catalogue' = 'test'),
    '{"device_categories": {"rows": 3, "retired": 0}, "devices": {"rows": 4, "retired": 0}, "utilities": {"rows": 4, "retired": 0},
      "utility_service_areas": {"rows": 7, "retired": 0}, "programs": {"rows": 2, "retired": 0}, "program_tiers": {"rows": 3, "retired": 0}}',
    'a catalogue is listed with its rows');
select api.import_catalogue(pg_temp.catalogue() #- '{program_tiers,2}' #- '{programs,1}');
select is(
    (select c #>> '{files,programs}' from jsonb_array_elements(api.list_catalogues()::jsonb -> 'catalogues') c where c ->> 'catalogue' = 'test'),
    '{"rows": 1, "retired": 1}', 'retired rows are counted separately');

select * from finish();
rollback;
