begin;
select plan(14);
\ir lookups.psql

select ok(api.list_devices()::jsonb -> 'devices' @> '[{"id": 9001, "name": "Small pump", "category_key": "test_pump", "category_name": "Pump"}]', 'a device is listed with its category');
select is(array(select d ->> 'id' from json_array_elements(api.list_devices('test_pump') -> 'devices') d), array['9001', '9002'], 'devices filter by category, in the order of their ids');
select is(api.list_devices('none')::jsonb, '{"devices": []}', 'an unknown category has no devices');
select is(
    (select c from jsonb_array_elements(api.list_device_categories()::jsonb -> 'device_categories') c where c ->> 'key' = 'test_pump'),
    '{"key": "test_pump", "name": "Pump", "typical_cost": 8000, "sizes": [{"unit": "ton", "typical_size": 2.5}]}', 'a category is listed with its cost and sizes');
select is(
    (select c -> 'sizes' from jsonb_array_elements(api.list_device_categories()::jsonb -> 'device_categories') c where c ->> 'key' = 'test_lamp'),
    '[]', 'a category may have no sizes');
select pg_temp.import('devices', 1, null);
select ok(not api.list_devices()::jsonb -> 'devices' @> '[{"id": 9001}]', 'a retired device is not listed');

select is(
    api.list_regions('CA')::jsonb #> '{regions,0}',
    '{"country_code": "CA", "country_name": "Canada", "state_or_province_code": "AB", "name": "Alberta"}', 'a province is listed under the names of an address');
select is(
    array(select distinct r ->> 'country_name' from json_array_elements(api.list_regions() -> 'regions') r order by 1), array['Canada', 'United States'],
    'regions of both countries are listed');
select throws_ok($$ select api.list_regions('MX') $$, 'PT400', 'country_code must be one of US, CA', 'there is no other country');

select is(
    api.find_utilities('82007')::jsonb,
    '{"postal_code": "82007", "utilities": [
        {"eiaid": 90001, "name": "Plains Electric", "country_code": "US", "state_or_province_code": "WY"},
        {"eiaid": null, "name": "Plains Electric", "country_code": "US", "state_or_province_code": "MT"}]}',
    'the utilities of a ZIP code start with those of its own state');
select is(
    array(select u ->> 'name' from json_array_elements(api.find_utilities('82001-1234') -> 'utilities') u limit 2), array['City Light', 'Plains Electric'],
    'within a state, the one that a lookup chooses comes first');
select is(api.find_utilities('b3h4r2') #>> '{utilities,0,name}', 'Bluenose Power', 'Canadian postal codes have utilities too');
select is(api.find_utilities('00100')::jsonb -> 'utilities', '[]', 'a code that the catalogue does not know has none');
select throws_ok(
    $$ select api.find_utilities('8200') $$, 'PT400', 'postal_code must be a ZIP code (12345 or 12345-6789) or a Canadian postal code (A1A 1A1)',
    'half a ZIP code is refused');

select * from finish();
rollback;
