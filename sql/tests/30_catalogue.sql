begin;
select plan(36);
\ir catalogue.psql

-- Importing
select is(
    (select string_agg(format('%s %s %s %s', key, value ->> 'rows', value ->> 'changed', value ->> 'retired'), ', ' order by key)
       from jsonb_each(pg_temp.import()::jsonb)),
    'device_categories 3 3 0, device_category_sizes 2 2 0, devices 4 4 0, program_tiers 3 3 0, program_utilities 1 1 0, programs 2 2 0, '
    'utilities 4 4 0, utility_service_areas 7 7 0', 'an import adds every row and counts them');
create function pg_temp.imports() returns setof app.audit_events language sql as
    $$ select * from app.audit_events where organization_id = app.installation_id() and action = 'catalogue.imported' and target_id = 'test' order by id desc $$;
select is((select details from pg_temp.imports()),
    '{"device_categories": {"changed": 3, "retired": 0}, "device_category_sizes": {"changed": 2, "retired": 0}, "devices": {"changed": 4, "retired": 0}, "program_tiers": {"changed": 3, "retired": 0},
      "program_utilities": {"changed": 1, "retired": 0}, "programs": {"changed": 2, "retired": 0}, "utilities": {"changed": 4, "retired": 0},
      "utility_service_areas": {"changed": 7, "retired": 0}}', 'an import is recorded with what it changed in each file');
select is((select sum((value ->> 'changed')::integer + (value ->> 'retired')::integer)::integer from json_each(pg_temp.import())), 0,
    'the same import again changes nothing');
select api.import_catalogue(jsonb_set(pg_temp.catalogue(), '{devices,0,name}', '"Trial pump"'), true) as tried \gset
select is((select count(*) from pg_temp.imports())::integer, 1, 'an import that changes nothing is not recorded, nor is a dry run');
select is((select concat(category_keys, owner_statuses, building_types) from app.program_tiers where program_id = 'wy-rebates' and id = 'pump'),
    '{test_pump}{homeowner,renter}{RESIDENTIAL,MULTIFAMILY}', 'lists are separated by spaces or bars');
select is((select app.iso_date(start_date) || ' ' || app.iso_date(end_date) from app.program_tiers where program_id = 'wy-rebates' and id = 'pump'),
    '2026-01-01 2027-06-30', 'a year begins on its first day, a month ends on its last');
select is((select source_date from app.utilities where key = 'wy-plains'), date '2026-05-01', 'a source may be dated to the month');
select is((select count(*)::integer from app.programs where catalogue = 'starter' and retired_at is not null), 0, 'another catalogue''s rows stay');

select is((pg_temp.import('devices', 1, '{"name": "Tiny pump"}') -> 'devices' ->> 'changed')::integer, 1, 'a changed row is updated');
select is((select name from app.devices where id = 9001), 'Tiny pump', 'a changed row has the values of the file');
select is((select details from pg_temp.imports() limit 1), '{"devices": {"changed": 1, "retired": 0}}', 'an import is recorded with the files that it changed, and with no others');

select is((pg_temp.import('program_tiers', 2, null) -> 'program_tiers' ->> 'retired')::integer, 1, 'a missing tier counts as retired');
select is_empty($$ select from app.program_tiers where program_id = 'wy-rebates' and id = 'lamp' $$, 'a missing tier is no longer in its program');
select is((pg_temp.import('utility_service_areas', 1, null) -> 'utility_service_areas' ->> 'retired')::integer, 1, 'a missing service area is removed');
select is((pg_temp.import('device_category_sizes', 2, null) -> 'device_category_sizes' ->> 'retired')::integer, 1, 'a missing typical size is removed');
select is((api.import_catalogue(pg_temp.catalogue() || '{"program_tiers": []}' #- '{programs,1}') #>> '{programs,retired}')::integer, 1, 'a missing program is retired');
select isnt((select retired_at from app.programs where id = 'wy-grant'), null, 'a retired program has the time of its retirement');
select is((pg_temp.import() #>> '{programs,changed}')::integer, 1, 'a program that comes back counts as changed');
select is((select retired_at from app.programs where id = 'wy-grant'), null, 'a program that comes back is open again');
select is((pg_temp.import('devices', 4, null) #>> '{devices,retired}')::integer, 1, 'a missing device is retired');
select isnt((select id from app.devices where id = 9004), null, 'a retired device keeps its row');
select is((api.import_catalogue(pg_temp.catalogue() - array['programs', 'program_utilities', 'program_tiers']) -> 'programs')::text, null,
    'rows of an absent file are not changed');
select is((select count(*)::integer from app.programs where catalogue = 'test' and retired_at is null), 2, 'the rows of an absent file stay open');

select is((pg_temp.import('utilities', 4, null) #>> '{utilities,retired}')::integer, 1, 'a missing utility is retired');
select is((pg_temp.import('utilities', 4, null) #>> '{utilities,retired}')::integer, 0, 'a utility is retired once');
select is((api.import_catalogue('{"catalogue": "test"}' || jsonb_build_object('device_categories', pg_temp.catalogue() -> 'device_categories' #- '{2}')) #>> '{device_categories,retired}')::integer, 1,
    'a missing category is retired');
select is((api.import_catalogue('{"catalogue": "test"}' || jsonb_build_object('device_categories', pg_temp.catalogue() -> 'device_categories' #- '{2}')) #>> '{device_categories,retired}')::integer, 0,
    'a category is retired once');
select pg_temp.import() is not null as restored \gset

-- Two catalogues
select api.import_catalogue(jsonb_set(pg_temp.change(pg_temp.catalogue(), 'devices', 1, '{"name": "Red pump"}'), '{catalogue}', '"other"'));
select is((select catalogue || ' ' || name from app.devices where id = 9001), 'other Red pump', 'a row belongs to the catalogue that had it last');
select is((pg_temp.import('devices', 1, null) #>> '{devices,retired}')::integer, 0, 'the one that had it before no longer retires it');
select api.import_catalogue(jsonb_set(pg_temp.catalogue(), '{catalogue}', '"other"'));
select is((select sum((value ->> 'changed')::integer)::integer from json_each(api.import_catalogue(jsonb_set(pg_temp.catalogue(), '{catalogue}', '"starter"')))), 0,
    'the starter catalogue takes no row from another');

-- The whole of a source
select pg_temp.import() is not null as restored \gset
create function pg_temp.import_whole(p_source text) returns json
language sql as $$
    select api.import_catalogue(jsonb_strip_nulls(jsonb_build_object('source', p_source)) || jsonb_build_object('catalogue', 'whole', 'programs', jsonb_build_array(
               pg_temp.catalogue() #> '{programs,1}' || '{"id": "wy-loan", "source": "tests of Wyoming"}'), 'program_tiers', '[]'::jsonb));
$$;
select is((pg_temp.import_whole(null) #>> '{programs,retired}')::integer, 0, 'a catalogue that is not the whole of a source leaves the programs of others alone');
select is((pg_temp.import_whole('tes') #>> '{programs,retired}')::integer, 2, 'the whole of a source retires programs of other catalogues from there that it lacks');
select set_eq($$ select concat_ws(' ', id, case when retired_at is null then 'open' else 'retired' end) from app.programs where catalogue = 'whole' $$,
    array['wy-loan open', 'wy-rebates retired', 'wy-grant retired'], 'programs of a source belong to the catalogue that is the whole of it, and those of other sources do not');

-- The starter catalogue
select ok((select count(*) >= 14 from app.device_categories where catalogue = 'starter'), 'the starter catalogue has at least 14 device categories');
select is_empty($$ select c.key from app.device_categories c where not exists (select from app.devices d where d.category_key = c.key) $$, 'every device category has a device');
select is_empty(
    $$ select a.prefix, u.key
         from app.utility_service_areas a
         join app.utilities u on u.key = a.utility_key
         join app.regions r on r.country_code = u.country_code and r.code = u.region_code
        where u.catalogue = 'starter' and length(a.prefix) >= 3 and not r.zip3 @> left(a.prefix, 3)::integer $$,
    'service areas of the starter catalogue lie in the states of their utilities');

select * from finish();
rollback;
