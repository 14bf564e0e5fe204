begin;
select plan(86);
\ir fixtures.psql
\ir catalogue.psql
select pg_temp.import();
select pg_temp.turn_clock('2026-11-24 12:00:00+00');

-- A lookup of a home in Wyoming, changed by p_change; its address by p_address.
create function pg_temp.request(p_device_ids jsonb, p_change jsonb default '{}', p_address jsonb default '{}') returns jsonb
language sql as $$
    select jsonb_build_object(
        'reference_id', 'home-1',
        'address', '{"street_1": "1 Main St", "city": "Cheyenne", "state_or_province_code": "WY", "postal_code": "82007", "country_code": "US"}' || p_address,
        'building_type', 'RESIDENTIAL',
        'device_ids', p_device_ids) || p_change;
$$;

create function pg_temp.lookup(p_device_ids jsonb, p_change jsonb default '{}', p_address jsonb default '{}') returns jsonb
language sql as $$ select api.lookup_incentives((select id from app.organizations where name = 'Acme'), pg_temp.request(p_device_ids, p_change, p_address)) $$;

-- The results of a lookup, a row for each device and tier.
create function pg_temp.results(p_device_ids jsonb, p_change jsonb default '{}', p_address jsonb default '{}')
returns table (program text, device integer, tier text, eligible boolean, amount numeric, details text, failed jsonb, ignored jsonb, completed jsonb)
language sql as $$
    select p ->> 'program_id', (r ->> 'device_id')::integer, r ->> 'tier_id', (r ->> 'eligible')::boolean, (r ->> 'incentive_amount')::numeric,
           r ->> 'calculation_details', r -> 'failed_requirements', r -> 'ignored_requirements', r -> 'completed_requirements'
      from jsonb_array_elements(pg_temp.lookup(p_device_ids, p_change, p_address) #> '{incentives,by_program}') p
     cross join jsonb_array_elements(p -> 'device_tier_results') r
$$;

-- The documented answer
select pg_temp.lookup('[9001]') as answer \gset
select is(
    array(select json_object_keys(api.lookup_incentives(:'org', pg_temp.request('[9001]')))),
    array['customer_id', 'reference_id', 'address', 'building_type', 'utility', 'possible_utilities', 'programs_evaluated', 'incentives'],
    'the answer has the documented members, in order');
select is(
    :'answer'::jsonb - 'customer_id',
    '{"reference_id": "home-1", "building_type": "RESIDENTIAL",
      "address": {"street_1": "1 Main St", "city": "Cheyenne", "state_or_province_code": "WY", "postal_code": "82007", "country_code": "US"},
      "utility": {"eiaid": 90001, "name": "Plains Electric"}, "possible_utilities": [{"eiaid": 90001, "name": "Plains Electric"}],
      "programs_evaluated": 2,
      "incentives": {"total_incentive_amount": 250, "total_eligible_combinations": 1, "by_program": [
          {"program_id": "wy-rebates", "program_name": "Plains Rebates", "total_incentive": 250, "eligible_combinations": 1, "device_tier_results": [
              {"device_id": 9001, "device_name": "Small pump", "tier_id": "pump", "tier_name": "Pumps", "eligible": true, "incentive_amount": 250,
               "calculation_details": "2.5 tons (typical) × $100.00 per ton = $250.00", "failed_requirements": [],
               "ignored_requirements": ["Size: taken as 2.5 tons", "Owner status: for a homeowner or a renter"],
               "completed_requirements": ["Location: customer of Plains Electric", "Device category: Pump", "Building type: RESIDENTIAL",
                                          "Date: open from 2026-01-01 to 2027-06-30"]}]}]}}',
    'and says how the amount came about');
select is(pg_temp.lookup('[9001]', '{"address": {"street_1": " 1 Main St", "street_2": "Unit 5", "city": "Cheyenne", "state_or_province_code": "WY", "postal_code": "82007-1234", "country_code": "US"}}') #>> '{address,street_2}',
    'Unit 5', 'street_2 is kept');

-- Utilities
create function pg_temp.utilities(p_region text, p_postal_code text, p_country text default 'US') returns text
language sql as $$ select string_agg(u.key, ' ' order by n) from unnest(app.find_utilities(p_country, p_region, p_postal_code)) with ordinality as u (key, a, b, c, d, e, f, g, h, n) $$;

select is(pg_temp.utilities('WY', '82999'), 'wy-plains', 'a short prefix serves where there is no longer one');
select is(pg_temp.utilities('WY', '82001'), 'wy-city wy-plains', 'several utilities may serve a prefix, by their rank');
select is(pg_temp.utilities('WY', '82007'), 'wy-plains', 'the longest prefix wins');
select is(pg_temp.utilities('WY', '82007-1234'), 'wy-plains', 'a ZIP+4 is a ZIP');
select is(pg_temp.utilities('MT', '82007'), 'mt-plains', 'in the state of the site');
select is(pg_temp.utilities('MT', '82099'), 'mt-plains', 'another state''s longer prefix does not count');
select is(pg_temp.utilities('NS', 'B3H 4R2', 'CA'), 'ns-power', 'Canadian postal codes have prefixes too');
select is(pg_temp.utilities('NS', 'b3h4r2', 'CA'), 'ns-power', 'in either form');
select is(pg_temp.utilities('NS', 'B3J 4R2', 'CA'), null, 'but only their own');
select is(pg_temp.utilities('WY', '83001'), null, 'elsewhere there is none');
select is(pg_temp.lookup('[9001]', '{}', '{"postal_code": "82001"}') -> 'possible_utilities',
    '[{"eiaid": 90002, "name": "City Light"}, {"eiaid": 90001, "name": "Plains Electric"}]', 'all possible utilities are answered');
select is(pg_temp.lookup('[9001]', '{}', '{"postal_code": "82001"}') #>> '{utility,name}', 'City Light', 'the first of them is the one');
select is(pg_temp.lookup('[9001]', '{}', '{"postal_code": "82001"}') -> 'programs_evaluated', '1', 'another utility has other programs');
select is(pg_temp.lookup('[9001]', '{"utility": {"eiaid": 90001}}', '{"postal_code": "82001"}') #>> '{utility,name}', 'Plains Electric', 'unless the request names another by its EIA number');
select is(pg_temp.lookup('[9001]', '{"utility": {"eiaid": "90001"}}', '{"postal_code": "82001"}') #>> '{utility,name}', 'Plains Electric', 'be it a string');
select is(pg_temp.lookup('[9001]', '{"utility": {"eiaid": null, "name": "plains electric"}}', '{"postal_code": "82001"}') #>> '{utility,name}', 'Plains Electric', 'or by its name');
select throws_ok($$ select pg_temp.lookup('[9001]', '{"utility": {"eiaid": 5}}') $$, 'PT400', 'The utility chosen does not serve this address', 'a utility from elsewhere is refused');
select throws_ok($$ select pg_temp.lookup('[9001]', '{"reference_id": "home-9"}', '{"postal_code": "83001"}') $$, 'PT404', 'Program lookup failed - no utility found', 'an address without a utility is not found');
select is_empty($$ select from app.customers where reference_id = 'home-9' $$, 'a lookup that fails makes no customer');

-- Amounts
select results_eq($$ select amount, details from pg_temp.results('[9003]') $$, $$ values (20.00, '$20.00') $$, 'a flat amount');
select results_eq($$ select amount, details from pg_temp.results('[9003, 9003]') $$, $$ values (40.00, '2 × $20.00 = $40.00') $$, 'a repeated device is a quantity');
select results_eq($$ select amount, details from pg_temp.results('[9003, 9003, 9003]') $$,
    $$ values (50.00, '3 × $20.00 = $60.00, capped at $50.00 for all devices together: $50.00') $$, 'a cap holds for all pieces together');
select results_eq($$ select amount, details from pg_temp.results('[9001, 9001]') $$,
    $$ values (500.00, '2 × 2.5 tons (typical) × $100.00 per ton = $500.00') $$, 'an amount per unit goes by the typical size');
select results_eq($$ select amount, details, ignored from pg_temp.results('[9001]', '{"device_facts": {"9001": {"ton": 4}}}') $$,
    $$ values (400.00, '4 tons × $100.00 per ton = $400.00', '["Owner status: for a homeowner or a renter"]'::jsonb) $$, 'or by the size that the request tells');
select results_eq($$ select amount, details, ignored from pg_temp.results('[9004]') $$,
    $$ values (2000.00, '30% of the typical cost of $9,000.00 = $2,700.00, capped at $2,000.00 for all devices together: $2,000.00', '["Cost: taken as $9,000.00"]'::jsonb) $$,
    'a percentage goes by the typical cost');
select results_eq($$ select amount, details, ignored from pg_temp.results('[9004]', '{"device_facts": {"9004": {"cost": 1234.56}}}') $$,
    $$ values (370.37, '30% of the cost of $1,234.56 = $370.37', '[]'::jsonb) $$, 'or by the cost that the request tells, to the cent');
select results_eq($$ select device, amount from pg_temp.results('[9002, 9001, 9002]', '{"device_facts": {"9001": {"ton": 1}}}') $$,
    $$ values (9002, 500.00), (9001, 100.00) $$, 'each device has its own result, in the order of the request');
select is((pg_temp.lookup('[9002, 9001, 9003, 9004]') #>> '{incentives,total_incentive_amount}')::numeric, 2520.00, 'the total adds up all programs');
select is((pg_temp.lookup('[9002, 9001, 9003, 9004]') #>> '{incentives,total_eligible_combinations}')::integer, 4, 'and all eligible combinations');
select is(jsonb_path_query_array(pg_temp.lookup('[9001, 9003, 9004]'), '$.incentives.by_program[*].program_id'), '["wy-grant", "wy-rebates"]', 'the program that pays most comes first');

select pg_temp.import('program_tiers', 1, '{"cap": "600", "cap_percent": "5"}');
select results_eq($$ select amount, details from pg_temp.results('[9001]', '{"device_facts": {"9001": {"ton": 8}}}') $$,
    $$ values (400.00, '8 tons × $100.00 per ton = $800.00, at most 5% of the typical cost of $8,000.00: $400.00') $$, 'a cap in percent of the cost holds for a device');
select is((select ignored ->> 1 from pg_temp.results('[9001]', '{"device_facts": {"9001": {"ton": 8}}}')), 'Owner status: for a homeowner or a renter', 'of which the size is known');
select results_eq($$ select device, amount, details from pg_temp.results('[9001, 9002]', '{"device_facts": {"9001": {"ton": 8}, "9002": {"ton": 8, "cost": 10000}}}') $$,
    $$ values (9001, 400.00, '8 tons × $100.00 per ton = $800.00, at most 5% of the typical cost of $8,000.00: $400.00'),
              (9002, 200.00, '8 tons × $100.00 per ton = $800.00, at most 5% of the cost of $10,000.00, capped at $600.00 for all devices together: $200.00') $$,
    'a cap in dollars leaves the later devices what the earlier ones did not use');
select pg_temp.import('program_tiers', 3, '{"amount": "0.3333"}');
select is((select amount from pg_temp.results('[9004]')), 30.00::numeric, 'an amount is rounded to cents');
select pg_temp.import();

-- Requirements
create function pg_temp.on_day(p_day text) returns text
language sql as $$ select string_agg(eligible || coalesce(' ' || (failed ->> 0), ''), ', ') from pg_temp.results('[9001]', jsonb_build_object('lookup_date', p_day)) $$;

select is(pg_temp.on_day('2025-12-31'), 'false Date: starts on 2026-01-01', 'a program that has not begun');
select is(pg_temp.on_day('2026-01-01'), 'true', 'its first day');
select is(pg_temp.on_day('2027-06-30'), 'true', 'its last day');
select is(pg_temp.on_day('2027-07-01'), 'false Date: ended on 2027-06-30', 'and a program that has ended');
select pg_temp.turn_clock('2027-07-01 03:00:00+00');
select is(pg_temp.on_day(null), 'false Date: ended on 2027-06-30', 'without a date it is today, in UTC');
select results_eq($$ select amount, details from pg_temp.results('[9001]') $$,
    $$ values (0.00, 'Not eligible; otherwise 2.5 tons (typical) × $100.00 per ton = $250.00') $$, 'what is not eligible adds nothing, but says what it would be');
select is(pg_temp.lookup('[9001]') #> '{incentives,total_eligible_combinations}', '0', 'nor does it count');
select pg_temp.turn_clock('2026-11-24 12:00:00+00');
select is((select failed from pg_temp.results('[9001]', '{"building_type": "COMMERCIAL"}')),
    '["Building type: for RESIDENTIAL or MULTIFAMILY, not for COMMERCIAL"]', 'a building type that does not fit is named');
select is((select eligible from pg_temp.results('[9001]', '{"building_type": "MULTIFAMILY"}')), true, 'one of several will do');
select is((select eligible from pg_temp.results('[9003]', '{"building_type": "COMMERCIAL"}')), true, 'a tier without building types takes all');
select is((select failed from pg_temp.results('[9001]', '{"building_type": "COMMERCIAL", "lookup_date": "2030-01-01"}')),
    '["Building type: for RESIDENTIAL or MULTIFAMILY, not for COMMERCIAL", "Date: ended on 2027-06-30"]', 'each requirement that failed is named');
select is((select completed from pg_temp.results('[9001]', '{"building_type": "COMMERCIAL", "lookup_date": "2030-01-01"}')),
    '["Location: customer of Plains Electric", "Device category: Pump"]', 'and each that did not');
select results_eq($$ select program, device, tier, eligible from pg_temp.results('[9001, 9003]') $$,
    $$ values ('wy-rebates', 9001, 'pump', true), ('wy-rebates', 9003, 'lamp', true) $$, 'a device is judged by the tiers of its category');
select is((select count(*)::integer from pg_temp.results('[9004]', '{}', '{"postal_code": "82001"}')), 1, 'the state''s programs are for the customers of every utility');
select results_eq($$ select program, eligible, failed from pg_temp.results('[9001]', '{}', '{"postal_code": "82001"}') $$,
    $$ values ('wy-grant', false, '["Device category: for Roof, not for Pump"]'::jsonb) $$, 'a device that no tier is for is told so by every program');
select is((select details || ignored from pg_temp.results('[9001]', '{}', '{"postal_code": "82001"}')), 'Not eligible[]', 'in few words');
select is(pg_temp.lookup('[9001]', '{"address": {"street_1": "1", "city": "Helena", "state_or_province_code": "MT", "postal_code": "82007", "country_code": "US"}}') -> 'incentives',
    '{"total_incentive_amount": 0, "total_eligible_combinations": 0, "by_program": []}', 'where there are no programs the answer is empty');

select pg_temp.import('program_tiers', 1, '{"device_ids": "9002"}');
select is((select eligible from pg_temp.results('[9002]')), true, 'a tier may be for some devices of its category');
select results_eq($$ select program, eligible, failed from pg_temp.results('[9001]') where program = 'wy-rebates' $$,
    $$ values ('wy-rebates', false, '["Device: not for Small pump"]'::jsonb) $$, 'then not for the others');
select pg_temp.import('program_tiers', 1, '{"category_keys": "test_lamp test_pump", "unit": null, "amount_type": "flat"}');
select is((select count(*)::integer from pg_temp.results('[9001]')), 1, 'a tier may be for several categories');
select is((select count(*)::integer from pg_temp.results('[9003]')), 2, 'and a device may have several tiers');
select api.import_catalogue(pg_temp.catalogue() || '{"programs": [], "program_utilities": [], "program_tiers": []}');
select is(pg_temp.lookup('[9001]') -> 'programs_evaluated', '0', 'a retired program is not evaluated');
select api.import_catalogue(pg_temp.catalogue() || '{"programs": [], "program_utilities": [], "program_tiers": [], "utilities": [], "utility_service_areas": []}');
select throws_ok($$ select pg_temp.lookup('[9001]') $$, 'PT404', 'Program lookup failed - no utility found', 'a retired utility serves nobody');
select pg_temp.import();

-- Customers
select is((pg_temp.lookup('[9001]') ->> 'customer_id'), :'answer'::jsonb ->> 'customer_id', 'a customer is known by its reference_id');
select isnt(pg_temp.lookup('[9001]', '{"reference_id": "home-2"}') ->> 'customer_id', :'answer'::jsonb ->> 'customer_id', 'another reference_id is another customer');
select isnt(api.lookup_incentives(:'other_org', pg_temp.request('[9001]')) ->> 'customer_id', :'answer'::jsonb ->> 'customer_id', 'so is another organization''s');
select is((select count(*)::integer from app.customers), 3, 'each is kept once');
select throws_ok($$ select api.lookup_incentives(gen_random_uuid(), pg_temp.request('[9001]')) $$, 'PT404', 'Organization not found', 'a customer needs an organization');

-- Requests that are not valid
create function pg_temp.refuses(p_device_ids jsonb, p_change jsonb, p_error text, p_description text) returns text
language sql as $$ select throws_ok(format('select pg_temp.lookup(%L, %L)', p_device_ids, p_change), 'PT400', p_error, p_description) $$;

select throws_ok(format('select api.lookup_incentives(%L, %L)', :'org', b), 'PT400', 'The body must be a JSON object', format('a request is not %s', b))
  from unnest(array['[]', 'null', '"x"', '5']) b;
select pg_temp.refuses('[9001, 777777, 777776]', '{}', 'Unknown device_ids: 777776, 777777', 'unknown devices are named');
select pg_temp.refuses('[]', '{}', null, 'a request names devices');
select pg_temp.refuses('[9001]', '{"building_type": null}', 'Missing required fields: building_type', 'what batch items must have, a request must have');
select pg_temp.refuses('[9001]', '{"color": "red"}', 'Unknown fields: color', 'unknown fields are refused');
select pg_temp.refuses('[9001]', '{"operation_type": "destroy"}', 'operation_type must be lookup', 'an unknown operation is refused');
select lives_ok($$ select pg_temp.lookup('[9001]', '{"operation_type": "lookup", "create_application": false, "webhook_custom_fields": {"deal": 1}, "utility": null, "lookup_date": null, "device_facts": null}') $$,
    'the optional fields may be there, or null');
select pg_temp.refuses('[9001]', jsonb_build_object('lookup_date', d), 'lookup_date must be a date such as 2026-05-31', format('a date is not %s', d))
  from unnest(array['"2026-02-30"', '"2026"', '5', '"tomorrow"']::jsonb[]) d;
select pg_temp.refuses('[9001]', '{"utility": "City Light"}', 'utility must be an object with eiaid or name', 'a utility is chosen by an object');
select pg_temp.refuses('[9001]', '{"device_facts": [1]}', 'device_facts must be an object of objects', 'facts are an object');
select pg_temp.refuses('[9001]', jsonb_build_object('device_facts', f),
    'device_facts must hold, for a device id, numbers above 0 and up to 1,000,000,000, such as {"1": {"cost": 12000, "ton": 2.5}}', format('facts are not %s', f))
  from unnest(array['{"9001": 5}', '{"9001": {"ton": "5"}}', '{"9001": {"ton": 0}}', '{"9001": {"cost": -1}}', '{"9001": {"cost": 1e300}}']::jsonb[]) f;

select * from finish();
rollback;
