begin;
select plan(73);
\ir fixtures.psql

-- The errors of one item: the valid one changed by p_change.
create function pg_temp.errors(p_change jsonb) returns text
language sql as $$ select app.problems_text(problems) from app.parse_batch_items(app.batch_request_items(pg_temp.items(1, p_change) -> 'items'), true) $$;

-- The errors of one item with its address changed by p_change.
create function pg_temp.address_errors(p_change jsonb) returns text
language sql as $$ select pg_temp.errors(jsonb_build_object('address', pg_temp.items(1) #> '{items,0,address}' || p_change)) $$;

create function pg_temp.warnings(p_state text, p_postal_code text, p_country text) returns text
language sql as $$
    select array_to_string(warnings, ';')
      from app.parse_batch_items(app.batch_request_items(pg_temp.items(1, jsonb_build_object('address', pg_temp.items(1) #> '{items,0,address}'
           || jsonb_build_object('state_or_province_code', p_state, 'postal_code', p_postal_code, 'country_code', p_country))) -> 'items'), true)
$$;

select is(pg_temp.errors('{}'), null, 'a valid item has no errors');
select is(pg_temp.errors('{"create_application": true, "webhook_custom_fields": {"deal": 1}}'), null, 'the optional fields are known');
select is(pg_temp.errors('{"create_application": null, "webhook_custom_fields": null}'), null, 'null means that a field is not given');
select is(pg_temp.errors('{"reference_id": null}'), 'Missing required fields: reference_id', 'the field reference_id is required');
select is(pg_temp.errors('{"reference_id": "  "}'), 'Missing required fields: reference_id', 'a blank field counts as missing');
select is(array(select pg_temp.address_errors(jsonb_build_object('street_1', b, 'city', b)) from unnest(array['', '  ', E'\t', E' \r\n', U&'\00A0', U&' \200B ', U&'\3000']) b),
    array_fill('Missing required fields: address.street_1, address.city'::text, array[7]), 'a street and a city of which nothing is to be seen count as missing');
select is(array(select pg_temp.address_errors(jsonb_build_object('street_1', t, 'city', t)) from unnest(array['É', ' 8', U&'\00A0Austin', U&'\6771\4EAC']) t),
    array_fill(null::text, array[4]), 'a street and a city of which anything is to be seen are not missing');
select is(pg_temp.address_errors(jsonb_build_object(f, ' ')), 'Missing required fields: address.' || f, f || ' counts as missing if it is blank')
  from unnest(array['state_or_province_code', 'postal_code', 'country_code']) f;
select is(pg_temp.errors(jsonb_build_object('zip', 1, 'a', 1, 'address', pg_temp.items(1) #> '{items,0,address}' || '{"zip": 1, "country": 1}')),
    'Unknown fields: a, address.country, address.zip, zip', 'unknown members of an item and of its address are named in their order');
select is(pg_temp.errors('{"building_type": " "}'), 'Missing required fields: building_type', 'a blank building type counts as missing');
select is(pg_temp.errors('{"address": null}'), 'Missing required fields: address', 'the field address is required');
select is(pg_temp.errors('{"address": "1 Main St"}'), 'address must be an object', 'an address must be an object');
select is(pg_temp.errors('{"address": {}}'),
    'Missing required fields: address.street_1, address.city, address.state_or_province_code, address.postal_code, address.country_code',
    'all missing fields are named together');
select is(pg_temp.address_errors('{"city": ""}'), 'Missing required fields: address.city', 'an error has the documented wording');
select is(pg_temp.errors('{"building_type": null, "device_ids": null}'), 'Missing required fields: building_type, device_ids', 'building type and devices are required');
select is(pg_temp.errors('{"reference_id": "ab"}'), 'reference_id must be a string of 3 to 256 characters and use only A-Z, a-z, 0-9 and . _ ~ -', 'an id has 3 characters');
select is(pg_temp.errors('{"reference_id": "a b c"}'), 'reference_id must be a string of 3 to 256 characters and use only A-Z, a-z, 0-9 and . _ ~ -', 'an id has no spaces');
select is(pg_temp.errors(jsonb_build_object('reference_id', repeat('x', 256))), null, 'an id has up to 256 characters');
select isnt(pg_temp.errors(jsonb_build_object('reference_id', repeat('x', 257))), null, 'an id has at most 256 characters');
select is(pg_temp.errors('{"reference_id": 12345}'), 'reference_id must be a string of 3 to 256 characters and use only A-Z, a-z, 0-9 and . _ ~ -', 'an id is a string');
select is(pg_temp.errors('{"building_type": "residential"}'), 'building_type must be one of RESIDENTIAL, MULTIFAMILY, MANUFACTURED_HOME, COMMERCIAL', 'building types are known');
select is(pg_temp.address_errors('{"country_code": "MX"}'), 'address.country_code must be US or CA', 'a country is US or CA');
select is(pg_temp.address_errors('{"state_or_province_code": "ZZ"}'), 'address.state_or_province_code ZZ is not a state or province of US', 'an unknown state is an error');
select is(pg_temp.address_errors('{"state_or_province_code": "ON"}'), 'address.state_or_province_code ON is not a state or province of US', 'a state of another country is an error');
select is(pg_temp.address_errors('{"state_or_province_code": "AE", "postal_code": "09012"}'), null, 'military regions are states');
select is(pg_temp.address_errors('{"postal_code": "7870"}'), 'address.postal_code 7870 is not a ZIP code (12345 or 12345-6789)', 'ZIP codes have five digits');
select is(pg_temp.address_errors('{"postal_code": "78701\u200b"}'), 'address.postal_code 78701<U+200B> is not a ZIP code (12345 or 12345-6789)',
          'invisible characters are shown');
select is(pg_temp.address_errors('{"postal_code": "78701-0001"}'), null, 'ZIP codes may have nine digits');
select is(pg_temp.address_errors('{"country_code": "CA", "state_or_province_code": "ON", "postal_code": "K1A 0B1"}'), null, 'Canadian codes have a space');
select is(pg_temp.address_errors('{"country_code": "CA", "state_or_province_code": "ON", "postal_code": "K1A0B1"}'), null, 'Canadian codes may have no space');
select is(pg_temp.address_errors('{"country_code": "CA", "state_or_province_code": "ON", "postal_code": "K1A-0B1"}'),
    'address.postal_code K1A-0B1 is not a Canadian postal code (A1A 1A1)', 'Canadian codes have no dash');
select is(pg_temp.address_errors('{"street_2": 5, "city": ["x"]}'),
    'address.street_2 must be a string of at most 500 characters; address.city must be a string of at most 500 characters', 'parts of an address are strings');
select is(pg_temp.address_errors(jsonb_build_object('city', v::jsonb)), 'address.city must be a string of at most 500 characters', 'a part of an address is a string, and not ' || v)
  from unnest(array['["Austin"]', '[]', '{"a": "Austin"}', 'true']) v;
select is(pg_temp.errors('{"device_ids": []}'), 'device_ids must be an array of 1 to 100 positive integers', 'device_ids must not be empty');
select is(pg_temp.errors('{"device_ids": [0]}'), 'device_ids must be an array of 1 to 100 positive integers', 'zero is not a device id');
select is(pg_temp.errors('{"device_ids": [1.5]}'), 'device_ids must be an array of 1 to 100 positive integers', 'a fraction is not a device id');
select is(pg_temp.errors('{"device_ids": ["1"]}'), 'device_ids must be an array of 1 to 100 positive integers', 'a string is not a device id');
select is(pg_temp.errors('{"device_ids": 1}'), 'device_ids must be an array of 1 to 100 positive integers', 'device_ids must be an array');
select is(pg_temp.errors('{"device_ids": [99999999999999999999]}'), 'device_ids must be an array of 1 to 100 positive integers', 'a huge number is not a device id');
select is(pg_temp.errors(jsonb_build_object('device_ids', array_fill((select min(id) from app.devices), array[100]))), null, 'an id may repeat, up to 100 ids');
select is(pg_temp.errors(jsonb_build_object('device_ids', array_fill((select min(id) from app.devices), array[101]))),
    'device_ids must be an array of 1 to 100 positive integers', 'device_ids has at most 100 ids');
select is(pg_temp.errors('{"device_ids": [999999999]}'), 'Unknown device_ids: 999999999', 'devices are in the catalogue');
select is((select app.problems_text(problems) from app.parse_batch_items(app.batch_request_items(pg_temp.items(1, '{"device_ids": [999999999]}') -> 'items'), false)), null, 'unknown devices pass when another provider knows them');
select is(pg_temp.errors('{"create_application": "yes", "webhook_custom_fields": []}'),
    'create_application must be true or false; webhook_custom_fields must be an object of at most 16,384 characters', 'the optional fields have types');
select is(pg_temp.errors('{"colour": "red"}'), 'Unknown fields: colour', 'an unknown field is an error');
select is(
    array(select app.problems_text(problems) from app.parse_batch_items(app.batch_request_items('[null, 1, "x", [], {}]'), true) order by position),
    array['An item must be an object', 'An item must be an object', 'An item must be an object', 'An item must be an object',
          'Missing required fields: reference_id, address, building_type, device_ids'], 'every item is checked, whatever its type');
select is(pg_temp.warnings('TX', '78701', 'US'), null, 'a ZIP code in its state is accepted');
select is(pg_temp.warnings('TX', '10001', 'US'), 'address.postal_code 10001 does not lie in TX', 'a ZIP code of another state is a warning');
select is(pg_temp.warnings('ON', 'V5K 0A1', 'CA'), 'address.postal_code V5K 0A1 does not lie in ON', 'a Canadian code of another province is a warning');

select throws_ok(
    format($$ select api.create_batch_lookup(%L, jsonb_set(pg_temp.items(3), '{items,2,reference_id}', '"site-1"')) $$, :'org'),
    'PT400', 'Duplicate reference_ids found in batch', 'a reference id appears once in a batch');

-- Responses stay small
select is(pg_temp.errors((select jsonb_object_agg('field' || lpad(n::text, 3, '0') || repeat('x', 200), n) from generate_series(1, 500) n)),
          (select 'Unknown fields: ' || string_agg('field' || lpad(n::text, 3, '0') || repeat('x', 92), ', ' order by n) from generate_series(1, 10) n),
          'up to ten unknown fields are named, with up to a hundred characters each');
select is(pg_temp.errors(jsonb_build_object('device_ids', (select jsonb_agg(n) from generate_series(900001, 900050) n))),
          (select 'Unknown device_ids: ' || string_agg(n::text, ', ' order by n) from generate_series(900001, 900010) n), 'up to ten unknown devices are named');
select is(json_array_length(app.invalid_items(array(select i from app.parse_batch_items(app.batch_request_items((select jsonb_agg('{}'::jsonb) from generate_series(1, 250))), true) i), null, null)),
          100, 'the first hundred invalid items are listed');
select is(cardinality(app.duplicate_reference_ids(array(select i from app.parse_batch_items(app.batch_request_items(
              (select jsonb_agg(pg_temp.items(1, jsonb_build_object('reference_id', 'deal-' || n % 200)) #> '{items,0}') from generate_series(1, 400) n)), true) i))),
          100, 'the first hundred repeated ids are listed');
select is(pg_temp.errors(jsonb_build_object('device_ids', (select jsonb_agg(1) from generate_series(1, 101)))),
          'device_ids must be an array of 1 to 100 positive integers', 'an item has at most a hundred devices');
select is(pg_temp.errors(jsonb_build_object('webhook_custom_fields', (repeat('{"a":', 64) || '1' || repeat('}', 64))::jsonb)),
          'webhook_custom_fields may have at most 64 levels', 'custom fields have at most 64 levels');
select is(pg_temp.errors(jsonb_build_object('webhook_custom_fields', (repeat('{"a":', 63) || '1' || repeat('}', 63))::jsonb)), null, 'fewer levels are kept');

-- A few bytes that would be megabytes as text
select throws_ok(
    format($$ select api.create_batch_lookup(%L, pg_temp.items(1, %L)) $$, :'org', jsonb_build_object(field, (select jsonb_agg(1e131071::numeric) from generate_series(1, 3)))),
    'PT400', 'The body contains a number that is out of range', 'a number out of range is refused before it becomes text: ' || field)
  from unnest(array['device_ids', 'reference_id']) field;

-- Problems by cell
create function pg_temp.parsed(p_items jsonb) returns app.batch_item[]
language sql as $$ select array(select i from app.parse_batch_items(app.batch_request_items(p_items), true) i) $$;

select is((app.invalid_items(pg_temp.parsed(pg_temp.items(1, '{"reference_id": "a b c", "building_type": "Single Family"}') -> 'items'), null, null) #> '{0,problems}')::jsonb,
          '[{"field": "reference_id", "column": null, "code": "invalid_reference_id", "value": "a b c", "suggestion": "a-b-c",
             "message": "reference_id must be a string of 3 to 256 characters and use only A-Z, a-z, 0-9 and . _ ~ -"},
            {"field": "building_type", "column": null, "code": "unknown_building_type", "value": "Single Family", "suggestion": "RESIDENTIAL",
             "message": "building_type must be one of RESIDENTIAL, MULTIFAMILY, MANUFACTURED_HOME, COMMERCIAL"}]',
          'each problem of an item has its field and what was probably meant');
select results_eq(
    $$ select p ->> 'column', p ->> 'message'
         from json_array_elements(app.invalid_items(pg_temp.parsed(jsonb_build_array(pg_temp.items(1) #> '{items,0}',
                  pg_temp.items(1, '{"reference_id": "a b", "building_type": "Castle", "device_ids": null}') #> '{items,0}'
                  || '{"address": {"street_1": "1 Elm St", "state_or_province_code": "TX", "postal_code": "1", "country_code": "US"}}')),
              array[2, 17], '{"city": {"place": 2, "header": "Town"}, "postal_code": {"place": 4, "header": "ZIP"}, "reference_id": {"place": 0, "header": "Deal"},
                              "building_type": {"header": "default_building_type"}}') #> '{0,problems}') p $$,
    $$ values ('3', 'column Town, row 17: the cell is empty'), (null, 'row 17: there is no device_ids, and no column for it'),
              ('1', 'column Deal, row 17: a b must have 3 to 256 characters and use only A-Z, a-z, 0-9 and . _ ~ -'),
              (null, 'default_building_type, row 17: Castle is not a building type (RESIDENTIAL, MULTIFAMILY, MANUFACTURED_HOME, COMMERCIAL)'),
              ('5', 'column ZIP, row 17: 1 is not a ZIP code (12345 or 12345-6789)') $$,
    'the problems of a file have their column and row');
select is(app.told_problem('{"code": "unknown_state", "field": "address.state_or_province_code", "value": "MA\u200b", "of": "US"}', 0, null, null) ->> 'message',
          'address.state_or_province_code MA<U+200B> is not a state or province of US', 'invisible characters are shown in each problem');
select results_eq(
    $$ select count(*), sum(json_array_length(i -> 'problems'))
         from json_array_elements(app.invalid_items(pg_temp.parsed((select jsonb_agg('{}'::jsonb) from generate_series(1, 250))), null, null)) i $$,
    $$ values (100::bigint, 100::bigint) $$, 'the first hundred problems are listed');
select is(app.problem_groups(pg_temp.parsed((select jsonb_agg(pg_temp.items(1, jsonb_build_object('reference_id', 'site-' || n, 'building_type', 'Hut ' || n % 2)) #> '{items,0}')
                                               from generate_series(1, 12) n) || '[{"reference_id": "x"}]'), false, null, null)::jsonb #> '{0}',
          jsonb_build_object('field', 'building_type', 'code', 'unknown_building_type', 'count', 12, 'examples', (
              select jsonb_agg(jsonb_build_object('position', n, 'line', null, 'value', 'Hut ' || (n + 1) % 2,
                                                  'message', 'building_type must be one of RESIDENTIAL, MULTIFAMILY, MANUFACTURED_HOME, COMMERCIAL') order by o)
                from (values (0, 1), (1, 2)) v (n, o))),
          'problems are counted by field and code, with examples of different values');
select is(app.problem_groups(pg_temp.parsed(pg_temp.items(2, '{"address": {"street_1": "1 Elm St", "city": "Austin", "state_or_province_code": "TX", "postal_code": "10001", "country_code": "US"}}')
                                            -> 'items'), true, array[2, 3], '{"postal_code": {"place": 4, "header": "ZIP"}}')::jsonb,
          '[{"field": "address.postal_code", "code": "postal_code_not_in_state", "count": 2, "examples": [
              {"position": 0, "line": 2, "value": "10001", "message": "ZIP: 10001 does not lie in TX"}]}]',
          'warnings are limited in the same way');
select is(array(select c from unnest(array['missing', 'unknown_field', 'not_an_object', 'invalid_text', 'invalid_reference_id', 'duplicate_reference_id', 'unknown_building_type',
                                           'unknown_country', 'unknown_state', 'invalid_postal_code', 'invalid_device_ids', 'unknown_device', 'not_a_boolean',
                                           'invalid_webhook_custom_fields', 'invalid_metadata', 'invalid_household', 'too_deep', 'rounded_by_spreadsheet', 'too_many_cells', 'row_too_large']) c
                 where app.problem_message(app.problem('x', c, '"7"', '7')) is null or app.cell_message(app.problem('x', c, '"7"', '7'), 'X', 0, null) is null),
          '{}', 'every code has a message for JSON and for files');

-- Households
select is(
    (select array_agg(app.problem_message(p) order by i.position) from app.parse_batch_items(app.batch_request_items(pg_temp.items(1, '{"household": {"size": 0}}') -> 'items'
                                           || (pg_temp.items(1, '{"household": "x", "reference_id": "other"}') -> 'items')), true) i, unnest(i.problems) p),
    array['household.size must be a whole number from 1 to 20', 'household must be an object with income, size, owner_status or tax_filing'],
    'the facts about a household have a form');
select is(
    array(select i.household from app.parse_batch_items(app.batch_request_items(pg_temp.items(1, '{"household": {"income": 60000, "size": null}}') -> 'items' || (pg_temp.items(1, '{"household": {"size": null}}') -> 'items')), true) i),
    array['{"income": 60000}'::jsonb, null], 'the given facts about a household are kept');

select * from finish();
rollback;
