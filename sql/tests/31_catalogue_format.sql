begin;
select plan(62);
\ir catalogue.psql
select pg_temp.import();

create function pg_temp.refuses(p_file text, p_line integer, p_cells jsonb, p_error text, p_description text) returns text
language sql as $$
    select throws_ok(format('select pg_temp.import(%L, %s, %L)', p_file, p_line, p_cells), 'PT400',
                     format('%s.csv, line %s: %s', p_file, p_line + 1, p_error), p_description);
$$;

select pg_temp.refuses('devices', 2, '{"id": "twelve"}', 'id "twelve" is not a positive integer', 'a wrong id is refused by file and line');
select pg_temp.refuses('devices', 2, '{"id": "0"}', 'id "0" is not a positive integer', 'zero is not an id');
select pg_temp.refuses('devices', 2, '{"id": "12345678901"}', 'id "12345678901" is not a positive integer', 'a huge number is not an id');
select pg_temp.refuses('devices', 2, '{"name": " "}', 'name is missing', 'a blank cell counts as empty');
select pg_temp.refuses('devices', 2, '{"id": "9001"}', '9001 is there twice', 'a key may occur only once');
select pg_temp.refuses('devices', 2, '{"category_key": "test_boat"}', 'category_key "test_boat" is not in device_categories', 'a device needs its category');
select throws_ok(format($$ select api.import_catalogue(jsonb_set(pg_temp.catalogue(), '{devices}', (select jsonb_agg(d || %L) from jsonb_array_elements(pg_temp.catalogue() -> 'devices') d))) $$, c),
                 'PT400', 'devices.csv, line 1: unknown column "colour"; the columns are id, category_key, name', d)
  from (values ('{"colour": "red"}', 'an unknown column is refused once, however many rows have it'),
               ('{"colour": ""}', 'an unknown column is refused even if it is empty')) v (c, d);
select pg_temp.refuses('device_categories', 1, '{"typical_cost": "much"}', 'typical_cost "much" is not a number', 'a cost is a number');
select pg_temp.refuses('device_categories', 1, '{"typical_cost": "$1,500.00"}', 'typical_cost "$1,500.00" is not a number: write 1500.00', 'the error about a number of a spreadsheet says how to write it');
select pg_temp.refuses('device_categories', 1, '{"typical_cost": "1.500,00"}', 'typical_cost "1.500,00" is not a number', 'no number is guessed from another notation');
select pg_temp.refuses('device_categories', 1, '{"typical_cost": "0"}', 'typical_cost must be more than 0', 'a cost is more than zero');
select pg_temp.refuses('utilities', 1, '{"region_code": "ON"}', 'ON is not a state or province of US', 'a utility lies in a state of its country');
select pg_temp.refuses('utilities', 1, '{"source_date": "2026-02-30"}', 'source_date "2026-02-30" is not a date (2023-05-31, 2023-05 or 2023)', 'a date must exist in the calendar');
select pg_temp.refuses('utilities', 1, jsonb_build_object('source_date', d), format('source_date "%s" is not a date (2023-05-31, 2023-05 or 2023)%s', d, ': write ' || should_be),
                       'a date of a spreadsheet is told as it should be: ' || d)
  from (values ('11/30/2026', '2026-11-30'), ('30.11.2026', '2026-11-30'), ('3/4/26', '2026-03-04 or 2026-04-03'), ('2026-1-5 00:00', '2026-01-05'),
               ('31/31/2026', null)) v (d, should_be);
select throws_ok(
    $$ select pg_temp.import('devices', 2, '{"_line": "17", "id": "twelve"}') $$, 'PT400', 'devices.csv, line 17: id "twelve" is not a positive integer',
    'an error names the line of the file where a row says it');
select throws_ok(
    $$ select api.import_catalogue('{"catalogue": "test", "utility_service_areas": [{"prefix": "10", "utility_key": "ma-eversource", "rank": "2"}]}'
           || jsonb_build_object('utilities', jsonb_build_array(jsonb_build_object('key', 'ma-eversource', 'name', 'Eversource', 'country_code', 'US', 'region_code', 'MA', 'source', 'test')))) $$,
    'PT400', 'utility_service_areas.csv, line 2: prefix "10" begins no ZIP code of MA, but "010" does: a spreadsheet drops leading zeros',
    'a prefix without its leading zero is refused');
select pg_temp.refuses('utility_service_areas', 1, '{"prefix": "8x"}', 'prefix "8x" is not the beginning of a postal code', 'a prefix begins a postal code');
select pg_temp.refuses('utility_service_areas', 1, '{"utility_key": "wy-none"}', 'utility_key "wy-none" is not in utilities', 'a service area needs its utility');
select pg_temp.refuses('programs', 2, '{"scope": "city"}', 'scope "city" is not one of state, utility', 'a scope is one of two');
select pg_temp.refuses('programs', 1, '{"scope": "state"}', 'a program of scope state has no rows in program_utilities', 'a program of the state names no utilities');
select pg_temp.refuses('programs', 2, '{"scope": "utility"}', 'a program of scope utility needs a row in program_utilities', 'a program of a utility names its utilities');
select pg_temp.refuses('program_tiers', 1, '{"amount_type": "per_unit", "unit": null}', 'unit goes with amount_type per_unit, and only with it', 'an amount per unit needs the unit');
select pg_temp.refuses('program_tiers', 1, '{"unit": "kilowatt"}', 'device_category_sizes has no kilowatt for test_pump', 'a unit needs a typical size');
select pg_temp.refuses('program_tiers', 1, '{"income_requirement": "x", "income_limits": "1:62600, 2:71550"}',
    'income_limits "1:62600, 2:71550" is not a list of limits by household size or tax filing (1:62600 2:71550-80000 joint:150000)', 'income limits have a form');
select pg_temp.refuses('program_tiers', 1, '{"income_limits": "1:62600"}', 'income_limits go with an income_requirement', 'income limits need words');
select is(app.income_limits('1:62600 2:71550-80000 joint:150000'), '{"1": [62600, 62600], "2": [71550, 80000], "joint": [150000, 150000]}', 'a limit may have a lowest and a highest value');
select ok(app.income_limits('1:62600 1:71550') is null and app.income_limits('2:80000-71550') is null, 'a size has one limit, whose lowest value is not above its highest');
select pg_temp.refuses('program_tiers', 3, '{"amount": "101"}', 'a percent amount must be at most 100', 'a percentage is at most 100');
select pg_temp.refuses('program_tiers', 3, '{"cap_percent": "150"}', 'cap_percent must be at most 100', 'a cap in percent is at most 100');
select pg_temp.refuses('program_tiers', 3, '{"shared_cap": "0"}', 'shared_cap must be more than 0', 'a shared cap is more than nothing');
select pg_temp.refuses('program_tiers', 1, '{"end_date": "2025"}', 'end_date is before start_date', 'a program ends after it begins');
select pg_temp.refuses('program_tiers', 1, '{"category_keys": "test_pump test_boat"}', 'category_keys "test_boat" is not in device_categories', 'every value of a list is checked');
select pg_temp.refuses('program_tiers', 1, '{"device_ids": "9001 77777777"}', 'device_ids "77777777" is not in devices', 'devices of a tier must exist');
select pg_temp.refuses('program_tiers', 1, '{"device_ids": "9001 9003"}', 'device 9003 is of none of the categories test_pump', 'devices of a tier must belong to its categories');
select pg_temp.refuses('program_tiers', 1, '{"device_ids": "14"}', 'device 14 is of none of the categories test_pump', 'devices from another catalogue must belong to the categories of a tier, too');
select pg_temp.refuses('program_tiers', 1, '{"building_types": "CASTLE"}', 'building_types "CASTLE" is not one of RESIDENTIAL, MULTIFAMILY, MANUFACTURED_HOME, COMMERCIAL', 'building types of a tier must exist');
select pg_temp.refuses('program_tiers', 1, '{"excludes": "wy-none"}', 'excludes "wy-none" is not in programs', 'a tier can exclude existing programs only');
select pg_temp.refuses('program_tiers', 1, '{"excludes": "wy-rebates"}', 'excludes its own program, whose offers are alternatives anyway', 'a tier cannot exclude its own program');
select throws_ok($$ select api.import_catalogue(jsonb_set(jsonb_set(jsonb_set(pg_temp.catalogue(), '{program_tiers,0,excludes}', '"wy-grant"'),
                                                          '{program_tiers,2,excludes}', '"wy-rebates"'), '{program_tiers,2,category_keys}', '"test_pump test_roof"')) $$, 'PT400',
    'The catalogue has 2 errors, the first in program_tiers.csv, line 2: wy-rebates and wy-grant exclude each other', 'two programs cannot exclude each other');
-- A catalogue with programs for lamps, each of which excludes the next that it names.
create function pg_temp.excluding(p_name text, p_excludes jsonb) returns jsonb
language sql as $$
    select jsonb_build_object(
               'catalogue', p_name,
               'programs', jsonb_agg(pg_temp.catalogue() #> '{programs,1}' || jsonb_build_object('id', e.key)),
               'program_tiers', jsonb_agg(jsonb_build_object('program_id', e.key, 'id', 'lamp', 'name', 'Lamps', 'category_keys', 'test_lamp', 'amount_type', 'flat',
                                                             'amount', '10', 'excludes', e.value)))
      from jsonb_each_text(p_excludes) e $$;
select throws_ok($$ select api.import_catalogue(pg_temp.excluding('circle', '{"a": "b", "b": "c", "c": "a"}')) $$, 'PT400',
    'The catalogue has 3 errors, the first in program_tiers.csv, line 2: a and b and c exclude each other', 'three programs cannot exclude each other in a circle');
select api.import_catalogue(pg_temp.excluding('one', '{"a": "b", "b": null}')) is not null as imported \gset
select throws_ok($$ select api.import_catalogue(pg_temp.excluding('two', '{"c": "a", "b": "c"}')) $$, 'PT400',
    'The catalogue has 2 errors, the first in program_tiers.csv, line 2: b and a and c exclude each other', 'programs cannot exclude each other by way of another catalogue');
select lives_ok($$ select api.import_catalogue(pg_temp.excluding('two', '{"a": null, "b": "a"}'), true) $$, 'a program that is taken over excludes what it excludes in the new catalogue');
update app.programs set catalogue = 'starter' where catalogue = 'one';
select api.import_catalogue(pg_temp.excluding('two', '{"a": null, "b": "a"}')) is not null as imported \gset
select lives_ok($$ select api.import_catalogue(pg_temp.excluding('starter', '{"a": "b", "b": null}'), true) $$,
    'rows of the starter catalogue for programs taken over by another one exclude nothing');
select throws_ok($$ select api.import_catalogue(pg_temp.catalogue() - 'program_tiers' #- '{device_category_sizes,0}') $$, 'PT400',
    'device_category_sizes.csv, line 1: there must be a ton for test_pump, by which wy-rebates pays', 'a typical size that an offer needs stays');
select throws_ok($$ select api.import_catalogue('{"catalogue": "two", "device_category_sizes": []}' || jsonb_build_object('device_categories', pg_temp.catalogue() -> 'device_categories')) $$, 'PT400',
    'device_category_sizes.csv, line 1: there must be a ton for test_pump, by which wy-rebates pays', 'a catalogue that takes a category over must have the typical sizes that offers of others need');
select lives_ok($$ select api.import_catalogue(jsonb_set(pg_temp.excluding('two', '{"a": null}'), '{program_tiers,0}',
        '{"program_id": "a", "id": "pump", "name": "Pumps", "category_keys": "test_pump", "amount_type": "per_unit", "amount": "5", "unit": "ton"}') || '{"device_category_sizes": []}', true) $$,
    'an offer may use a typical size of another catalogue');
select throws_ok($$ select api.import_catalogue('[]') $$, 'PT400', 'A catalogue must be an object of files', 'a catalogue is an object');
select throws_ok($$ select api.import_catalogue('{"boats": []}') $$, 'PT400', 'Unknown files in the catalogue: boats', 'a catalogue holds known files only');
select throws_ok($$ select api.import_catalogue('{"devices": [1]}') $$, 'PT400', 'Each file of a catalogue must be an array of objects', 'a file of a catalogue is an array of rows');
select throws_ok($$ select api.import_catalogue('{"devices": []}') $$, 'PT400', 'catalogue must be the name of the catalogue', 'a catalogue has a name');
select throws_ok(format($$ select api.import_catalogue(pg_temp.catalogue() || jsonb_build_object('source', %L::jsonb)) $$, v), 'PT400',
    'source must be a prefix of the source of the programs', 'a catalogue takes over no programs of every source: ' || v)
  from unnest(array['""', '" "', '["x"]', 'null']) v;

-- Rows of another catalogue
select throws_ok($$ select pg_temp.import('devices', 5, '{"id": "14", "category_key": "test_lamp", "name": "Floor lamp"}') $$, 'PT400',
    'devices.csv, line 6: id 14 is a device of insulation in the catalogue "starter", and ids never change their meaning',
    'the id of another catalogue''s device means the same');
select throws_ok($$ select api.import_catalogue(jsonb_set(pg_temp.catalogue(), '{catalogue}', '"other"') - array['programs', 'program_utilities']
                                                #- '{program_tiers,2}' #- '{program_tiers,1}') $$, 'PT400',
    'program_tiers.csv, line 2: program_id "wy-rebates" is of the catalogue "test", so it needs a row in programs, too',
    'a tier of another catalogue''s program is refused');
select lives_ok($$ select api.import_catalogue(jsonb_set(pg_temp.catalogue(), '{catalogue}', '"starter"') - 'programs') $$,
    'the starter catalogue may have tiers of a program that another one has taken over');

select * from finish();
rollback;
