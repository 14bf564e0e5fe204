begin;
select plan(52);
\ir lookups.psql

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
    'the answer explains how the amount was calculated');
select is(pg_temp.lookup('[9001]', '{"address": {"street_1": " 1 Main St", "street_2": "Unit 5", "city": "Cheyenne", "state_or_province_code": "WY", "postal_code": "82007-1234", "country_code": "US"}}') #>> '{address,street_2}',
    'Unit 5', 'the answer keeps the second line of the address');

-- Utilities
create function pg_temp.utilities(p_region text, p_postal_code text, p_country text default 'US') returns text
language sql as $$ select string_agg(u.key, ' ' order by n) from unnest(app.find_utilities(p_country, p_region, p_postal_code)) with ordinality as u (key, a, b, c, d, e, f, g, h, n) $$;

select is(pg_temp.utilities('WY', '82999'), 'wy-plains', 'a short prefix applies where there is no longer one');
select is(pg_temp.utilities('WY', '82001'), 'wy-city wy-plains', 'several utilities may serve a prefix, in the order of their rank');
select is(pg_temp.utilities('WY', '82007'), 'wy-plains', 'the longest prefix wins');
select is(pg_temp.utilities('WY', '82007-1234'), 'wy-plains', 'a ZIP+4 is a ZIP');
select is(pg_temp.utilities('MT', '82007'), 'mt-plains', 'the same prefix in another state has that state''s utility');
select is(pg_temp.utilities('MT', '82099'), 'mt-plains', 'another state''s longer prefix does not count');
select is(pg_temp.utilities('NS', 'B3H 4R2', 'CA'), 'ns-power', 'Canadian postal codes have prefixes too');
select is(pg_temp.utilities('NS', 'b3h4r2', 'CA'), 'ns-power', 'Canadian postal codes work without the space, in lower case');
select is(pg_temp.utilities('NS', 'B3J 4R2', 'CA'), null, 'a Canadian prefix serves its own postal codes only');
select is(pg_temp.utilities('WY', '83001'), null, 'a postal code that nobody serves has no utility');
select is(pg_temp.lookup('[9001]', '{}', '{"postal_code": "82001"}') -> 'possible_utilities',
    '[{"eiaid": 90002, "name": "City Light"}, {"eiaid": 90001, "name": "Plains Electric"}]', 'all possible utilities are returned');
select is(pg_temp.lookup('[9001]', '{}', '{"postal_code": "82001"}') #>> '{utility,name}', 'City Light', 'the first possible utility is chosen');
select is(pg_temp.lookup('[9001]', '{}', '{"postal_code": "82001"}') -> 'programs_evaluated', '1', 'another utility has other programs');
select is(pg_temp.lookup('[9001]', '{"utility": {"eiaid": 90001}}', '{"postal_code": "82001"}') #>> '{utility,name}', 'Plains Electric', 'a request chooses a utility by its EIA number');
select is(pg_temp.lookup('[9001]', '{"utility": {"eiaid": "90001"}}', '{"postal_code": "82001"}') #>> '{utility,name}', 'Plains Electric', 'the EIA number may be a string');
select is(pg_temp.lookup('[9001]', '{"utility": {"eiaid": null, "name": "plains ELECTRIC"}}', '{"postal_code": "82001"}') #>> '{utility,name}', 'Plains Electric', 'a request chooses a utility by its name');
select throws_ok($$ select pg_temp.lookup('[9001]', '{"utility": {"eiaid": 5}}') $$, 'PT400', 'The chosen utility does not serve this address', 'a utility from elsewhere is refused');
select throws_ok($$ select pg_temp.lookup('[9001]', '{"reference_id": "home-9"}', '{"postal_code": "83001"}') $$, 'PT404', 'Program lookup failed - no utility found', 'an address without a utility is not found');
select is_empty($$ select from app.customers where reference_id = 'home-9' $$, 'a lookup that fails creates no customer');
create function pg_temp.known(p_keys text[]) returns text
language sql as $$ select string_agg(u.key, ' ' order by n) from unnest(app.utilities_of(p_keys)) with ordinality as u (key, a, b, c, d, e, f, g, h, n) $$;
select is(array[pg_temp.known('{wy-city,wy-plains}'), pg_temp.known('{wy-plains,wy-city}')], '{wy-city wy-plains,wy-plains wy-city}', 'the utilities of the last lookup keep their order');
update app.utilities set retired_at = '2020-01-01' where key = 'wy-city';
select is(array[pg_temp.known('{wy-plains,wy-city}'), pg_temp.known('{wy-city,wy-plains}'), pg_temp.utilities('WY', '82001')], '{wy-plains,null,wy-plains}',
    'a retired utility is no longer possible, and its customer''s utilities are looked up again');
update app.utilities set retired_at = null, name = case key when 'wy-city' then 'Zephyr Light' else name end where key like 'wy-%';
update app.utility_service_areas set rank = 1 where prefix = '820';
select is(pg_temp.utilities('WY', '82001'), 'wy-plains wy-city', 'utilities of equal rank are sorted by name');
select pg_temp.import();

-- Customers
select is((pg_temp.lookup('[9001]') ->> 'customer_id'), :'answer'::jsonb ->> 'customer_id', 'a customer is known by its reference_id');
select isnt(pg_temp.lookup('[9001]', '{"reference_id": "home-2"}') ->> 'customer_id', :'answer'::jsonb ->> 'customer_id', 'another reference_id is another customer');
select isnt(api.lookup_incentives(:'other_org', pg_temp.request('[9001]')) ->> 'customer_id', :'answer'::jsonb ->> 'customer_id', 'the same reference_id is another customer in another organization');
select is((select count(*)::integer from app.customers), 3, 'each customer is kept once');
select pg_temp.lookup('[9003]', '{"reference_id": "home-2"}') as other_answer \gset
select is((select array_agg(device_ids order by reference_id) from app.customers where organization_id = :'org'), '{{9001},{9003}}', 'a lookup is remembered for its own customer');
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
select pg_temp.refuses('[9001]', '{"operation_type": "destroy"}', 'operation_type must be one of lookup, refresh, override', 'an unknown operation is refused');
select lives_ok($$ select pg_temp.lookup('[9001]', '{"operation_type": "lookup", "create_application": false, "webhook_custom_fields": {"deal": 1}, "utility": null, "lookup_date": null, "device_facts": null}') $$,
    'the optional fields may be there, or null');
select pg_temp.refuses('[9001]', jsonb_build_object('lookup_date', d), 'lookup_date must be a date such as 2026-05-31', format('a date is not %s', d))
  from unnest(array['"2026-02-30"', '"2026"', '5', '"tomorrow"']::jsonb[]) d;
select pg_temp.refuses('[9001]', '{"utility": "City Light"}', 'utility must be an object with eiaid or name', 'a utility is chosen with an object');
select pg_temp.refuses('[9001]', '{"device_facts": [1]}', 'device_facts must be an object of objects', 'facts must be an object');
select pg_temp.refuses('[9001]', jsonb_build_object('device_facts', f),
    'device_facts must map each device id to numbers above 0 and up to 1,000,000,000, such as {"1": {"cost": 12000, "ton": 2.5}}', format('facts are not %s', f))
  from unnest(array['{"9001": 5}', '{"9001": {"ton": "5"}}', '{"9001": {"ton": 0}}', '{"9001": {"cost": -1}}', '{"9001": {"cost": 1e10}}']::jsonb[]) f;

select * from finish();
rollback;
