begin;
select plan(53);
\ir catalogue.psql

-- Importing
select is(
    (select string_agg(format('%s %s %s %s', key, value ->> 'rows', value ->> 'changed', value ->> 'retired'), ', ' order by key)
       from jsonb_each(pg_temp.import()::jsonb)),
    'device_categories 3 3 0, device_category_sizes 2 2 0, devices 4 4 0, program_tiers 3 3 0, program_utilities 1 1 0, programs 2 2 0, '
    'utilities 4 4 0, utility_service_areas 7 7 0', 'an import adds every row and counts them');
select is((select sum((value ->> 'changed')::integer + (value ->> 'retired')::integer)::integer from json_each(pg_temp.import())), 0,
    'the same import again changes nothing');
select is((select concat(category_keys, owner_statuses, building_types) from app.program_tiers where program_id = 'wy-rebates' and id = 'pump'),
    '{test_pump}{homeowner,renter}{RESIDENTIAL,MULTIFAMILY}', 'lists stand apart by spaces or bars');
select is((select start_date || ' ' || end_date from app.program_tiers where program_id = 'wy-rebates' and id = 'pump'),
    '2026-01-01 2027-06-30', 'a year begins on its first day, a month ends on its last');
select is((select source_date from app.utilities where key = 'wy-plains'), date '2026-05-01', 'a source may be dated to the month');
select is((select count(*)::integer from app.programs where catalogue = 'starter' and retired_at is not null), 0, 'another catalogue''s rows stay');

select is((pg_temp.import('devices', 1, '{"name": "Tiny pump"}') -> 'devices' ->> 'changed')::integer, 1, 'a changed row is updated');
select is((select name from app.devices where id = 9001), 'Tiny pump', 'to what the file says');

select is((pg_temp.import('program_tiers', 2, null) -> 'program_tiers' ->> 'retired')::integer, 1, 'a tier that is gone is taken away');
select is_empty($$ select from app.program_tiers where program_id = 'wy-rebates' and id = 'lamp' $$, 'from its program');
select is((pg_temp.import('utility_service_areas', 1, null) -> 'utility_service_areas' ->> 'retired')::integer, 1, 'so is a service area');
select is((pg_temp.import('device_category_sizes', 2, null) -> 'device_category_sizes' ->> 'retired')::integer, 1, 'and a size');
select is((api.import_catalogue(pg_temp.catalogue() || '{"program_tiers": []}' #- '{programs,1}') #>> '{programs,retired}')::integer, 1, 'a program that is gone is retired');
select isnt((select retired_at from app.programs where id = 'wy-grant'), null, 'with the time');
select is((pg_temp.import() #>> '{programs,changed}')::integer, 1, 'one that comes back');
select is((select retired_at from app.programs where id = 'wy-grant'), null, 'is open again');
select is((pg_temp.import('devices', 4, null) #>> '{devices,retired}')::integer, 1, 'a device that is gone is retired');
select isnt((select id from app.devices where id = 9004), null, 'and stays a known id');
select is((api.import_catalogue(pg_temp.catalogue() - array['programs', 'program_utilities', 'program_tiers']) -> 'programs')::text, null,
    'a file that is absent is left as it is');
select is((select count(*)::integer from app.programs where catalogue = 'test' and retired_at is null), 2, 'with its rows');

-- Two catalogues
select api.import_catalogue(jsonb_set(pg_temp.change(pg_temp.catalogue(), 'devices', 1, '{"name": "Red pump"}'), '{catalogue}', '"other"'));
select is((select catalogue || ' ' || name from app.devices where id = 9001), 'other Red pump', 'a row belongs to the catalogue that had it last');
select is((pg_temp.import('devices', 1, null) #>> '{devices,retired}')::integer, 0, 'the one that had it before no longer retires it');
select api.import_catalogue(jsonb_set(pg_temp.catalogue(), '{catalogue}', '"other"'));
select is((select sum((value ->> 'changed')::integer)::integer from json_each(api.import_catalogue(pg_temp.catalogue() - 'catalogue'))), 0,
    'the starter catalogue takes no row from another');

-- Rows that are not valid
create function pg_temp.refuses(p_file text, p_line integer, p_cells jsonb, p_error text, p_description text) returns text
language sql as $$
    select throws_ok(format('select pg_temp.import(%L, %s, %L)', p_file, p_line, p_cells), 'PT400',
                     format('The catalogue has 1 error(s), the first in %s.csv, line %s: %s', p_file, p_line + 1, p_error), p_description);
$$;

select pg_temp.refuses('devices', 2, '{"id": "twelve"}', 'id "twelve" is not a positive integer', 'a wrong id is refused by file and line');
select pg_temp.refuses('devices', 2, '{"id": "0"}', 'id "0" is not a positive integer', 'zero is no id');
select pg_temp.refuses('devices', 2, '{"id": "12345678901"}', 'id "12345678901" is not a positive integer', 'nor is a huge number');
select pg_temp.refuses('devices', 2, '{"name": " "}', 'name is missing', 'a blank cell is an empty one');
select pg_temp.refuses('devices', 2, '{"id": "9001"}', '9001 is there twice', 'a key may be there once');
select pg_temp.refuses('devices', 2, '{"category_key": "test_boat"}', 'category_key "test_boat" is not in device_categories', 'a device needs its category');
select pg_temp.refuses('devices', 2, '{"colour": "red"}', 'unknown column "colour"', 'an unknown column is refused');
select pg_temp.refuses('device_categories', 1, '{"typical_cost": "much"}', 'typical_cost "much" is not a number', 'a cost is a number');
select pg_temp.refuses('device_categories', 1, '{"typical_cost": "0"}', 'typical_cost must be more than 0', 'more than nothing');
select pg_temp.refuses('utilities', 1, '{"region_code": "ON"}', 'ON is not a state or province of US', 'a utility lies in a state of its country');
select pg_temp.refuses('utilities', 1, '{"source_date": "2026-02-30"}', 'source_date "2026-02-30" is not a date (2023-05-31, 2023-05 or 2023)', 'a date is one of the calendar');
select pg_temp.refuses('utility_service_areas', 1, '{"prefix": "8x"}', 'prefix "8x" is not the beginning of a postal code', 'a prefix begins a postal code');
select pg_temp.refuses('utility_service_areas', 1, '{"utility_key": "wy-none"}', 'utility_key "wy-none" is not in utilities', 'a service area needs its utility');
select pg_temp.refuses('programs', 2, '{"scope": "city"}', 'scope "city" is none of state, utility', 'a scope is one of two');
select pg_temp.refuses('programs', 1, '{"scope": "state"}', 'a program of scope state has no rows in program_utilities', 'a program of the state names no utilities');
select pg_temp.refuses('programs', 2, '{"scope": "utility"}', 'a program of scope utility needs a row in program_utilities', 'another one does');
select pg_temp.refuses('program_tiers', 1, '{"amount_type": "per_unit", "unit": null}', 'unit goes with amount_type per_unit, and only with it', 'an amount per unit needs the unit');
select pg_temp.refuses('program_tiers', 1, '{"unit": "kilowatt"}', 'device_category_sizes has no kilowatt for test_pump', 'a unit needs a typical size');
select pg_temp.refuses('program_tiers', 3, '{"amount": "101"}', 'a percent amount must be at most 100', 'a share is at most the whole');
select pg_temp.refuses('program_tiers', 3, '{"cap_percent": "150"}', 'cap_percent must be at most 100', 'a cap in percent too');
select pg_temp.refuses('program_tiers', 1, '{"end_date": "2025"}', 'end_date is before start_date', 'a program ends after it begins');
select pg_temp.refuses('program_tiers', 1, '{"category_keys": "test_pump test_boat"}', 'category_keys "test_boat" is not in device_categories', 'every value of a list is checked');
select pg_temp.refuses('program_tiers', 1, '{"device_ids": "9001 77777777"}', 'device_ids "77777777" is not in devices', 'devices of a tier are known');
select pg_temp.refuses('program_tiers', 1, '{"building_types": "CASTLE"}', 'building_types "CASTLE" is none of RESIDENTIAL, MULTIFAMILY, MANUFACTURED_HOME, COMMERCIAL', 'building types too');
select throws_ok($$ select api.import_catalogue('[]') $$, 'PT400', 'A catalogue must be an object of files', 'a catalogue is an object');
select throws_ok($$ select api.import_catalogue('{"boats": []}') $$, 'PT400', 'Unknown files in the catalogue: boats', 'of known files');
select throws_ok($$ select api.import_catalogue('{"devices": [1]}') $$, 'PT400', 'Each file of a catalogue must be an array of objects', 'of rows');

-- The starter catalogue
select ok((select count(*) >= 14 from app.device_categories where catalogue = 'starter'), 'the starter catalogue has at least 14 device categories');
select is_empty($$ select c.key from app.device_categories c where not exists (select from app.devices d where d.category_key = c.key) $$, 'each with devices');
select is_empty(
    $$ select a.prefix, u.key
         from app.utility_service_areas a
         join app.utilities u on u.key = a.utility_key
         join app.regions r on r.country_code = u.country_code and r.code = u.region_code
        where u.catalogue = 'starter' and length(a.prefix) >= 3 and not r.zip3 @> left(a.prefix, 3)::integer $$,
    'its service areas lie in the states of their utilities');

select * from finish();
rollback;
