begin;
select plan(62);
\ir lookups.psql

create function pg_temp.ask(p_request jsonb) returns jsonb
language sql as $$ select api.lookup_incentives((select id from app.organizations where name = 'Acme'), p_request) $$;
create function pg_temp.devices(p_answer jsonb) returns integer[]
language sql as $$
    select array_agg(distinct (r ->> 'device_id')::integer) from jsonb_path_query(p_answer, '$.incentives.by_program[*].device_tier_results[*]') r
$$;

-- The profile
select is(api.get_organization(:'org')::jsonb - 'id', '{"name": "Acme", "company": null, "device_names": {}}', 'an organization begins without a profile');
select is(
    api.update_organization(:'org', '{"company": "acme", "device_names": {" Little One ": 9001}}')::jsonb - 'id',
    '{"name": "Acme", "company": "acme", "device_names": {"little one": 9001}}', 'an update returns company and device names');
select is(api.update_organization(:'org', '{"company": null}')::jsonb #> '{device_names}', '{"little one": 9001}', 'a change keeps what it does not name');
select throws_ok(format('select api.update_organization(%L, %L)', :'org', c), 'PT400', m, format('a profile is not %s', c))
  from (values
        ('The body must be an object with company, device_names or device_name_changes', array['{}', '[]', '{"name": "x"}']),
        ('company must be null, or 1 to 100 characters of A-Z, a-z, 0-9 and . _ ~ -', array['{"company": "a b"}', '{"company": 5}']),
        ('device_names must map names of 1 to 200 characters to device ids',
         array['{"device_names": {"x": 777777}}', '{"device_names": {"x": "9001"}}', '{"device_names": null}', '{"device_names": {" ": 9001}}', format('{"device_names": {"%s": 9001}}', repeat('x', 201))]),
        ('device_name_changes must map names of 1 to 200 characters to device ids or null',
         array['{"device_name_changes": {"x": 777777}}', '{"device_name_changes": null}'])) r (m, cs), unnest(cs) c;
select is(
    api.update_organization(:'org', '{"device_name_changes": {"Wee one": 9001, "nobody knows": null}}')::jsonb -> 'device_names',
    '{"wee one": 9001, "little one": 9001}', 'a change of some names keeps the others');
select is(api.update_organization(:'org', '{"device_name_changes": {"WEE ONE": null}}')::jsonb -> 'device_names', '{"little one": 9001}', 'a name that is changed to null is removed');
select is(octet_length(api.update_organization(:'other_org', jsonb_build_object('device_names', (select jsonb_object_agg(lpad(n::text, 200, 'x'), 9001) from generate_series(1, 400) n)))::jsonb ->> 'device_names'), 84000, 'names of 200 characters are accepted');
select throws_ok(format($$ select api.update_organization(%L, %L) $$, :'other_org', (select jsonb_build_object('device_name_changes', jsonb_object_agg(lpad(n::text, 200, 'y'), 9001)) from generate_series(1, 100) n)), 'PT400',
    'device_names may have at most 100,000 characters in all', 'the names of an organization are limited in total, even when they are added bit by bit');
savepoint names;
select throws_ok(format($$ select api.update_organization(%L, %L) $$, :'other_org', (select jsonb_build_object('device_names', jsonb_object_agg(lpad(n::text, case n when 1 then 191 else 190 end, 'y'), 9001)) from generate_series(1, 500) n)), 'PT400',
    'device_names may have at most 100,000 characters in all', 'very many names at once are refused for their length, not for their form');
select throws_ok(format($$ select api.update_organization(%L, %L) $$, :'other_org', (select jsonb_build_object('device_names', jsonb_object_agg(lpad(n::text, 200, 'y'), 9001)) from generate_series(1, 700) n)), 'PT413',
    'The body may have at most 131,072 bytes', 'names beyond the size of a body are not read');
select is(octet_length(api.update_organization(:'other_org', jsonb_build_object('device_names', (select jsonb_object_agg(lpad(n::text, 190, 'x'), 9001) from generate_series(1, 500) n)))::jsonb ->> 'device_names'),
    100000, 'names may have 100,000 characters in all');
select is(api.update_organization(:'other_org', '{"company": "globex", "device_names": {"small": 9001}, "device_name_changes": {"big": 9002}}')::jsonb - array['id', 'name'], '{"company": "globex", "device_names": {"small": 9001, "big": 9002}}',
    'device_names replaces what there was, and changes come on top of it');
select is(api.update_organization(:'other_org', '{"company": null, "device_names": {}}')::jsonb - array['id', 'name'], '{"company": null, "device_names": {}}', 'an organization can give up its company and its names');
rollback to names;
select throws_ok($$ select api.get_organization(gen_random_uuid()) $$, 'PT404', 'Organization not found', 'an unknown organization has no profile');

-- Names of devices
select is(pg_temp.devices(pg_temp.ask(pg_temp.request('[9001]') - 'device_ids' || '{"device_names": ["LITTLE ONE"]}')), '{9001}', 'an organization''s own name is a device');
select is(
    pg_temp.ask(pg_temp.request('[9001]') - 'device_ids' || '{"device_names": ["little one", "small pump"]}') -> 'incentives',
    pg_temp.lookup('[9001, 9001]') -> 'incentives', 'the catalogue''s name is a device, too, and a repeated name is a quantity');
select throws_ok(
    $$ select pg_temp.ask(pg_temp.request('[9001]') - 'device_ids' || '{"device_names": ["little one", "big one"]}') $$,
    'PT400', 'Unknown device_names: big one', 'an unknown name is named');
savepoint catalogue;
insert into app.devices select (jsonb_populate_record(d, '{"id": 9099}')).* from app.devices d where id = 9001;
select is(app.resolve_device_names(:'other_org', '["small pump"]'), '[9001]', 'a name that several devices have is the first one');
update app.devices set retired_at = now() where id = 9001;
select is(app.resolve_device_names(:'other_org', '["small pump"]'), '[9099]', 'a name is not that of a retired device');
rollback to catalogue;
select is((select count(*)::integer from (select app.resolve_device_names(:'other_org', '["small pump"]')) n), 1, 'another organization has the catalogue''s names');
select throws_ok(format($$ select app.resolve_device_names(%L, '["little one"]') $$, :'other_org'), 'PT400', 'Unknown device_names: little one', 'another organization does not have this one''s device names');
select throws_ok($$ select pg_temp.lookup('[9001]', '{"device_names": ["small pump"]}') $$, 'PT400', 'Provide either device_ids or device_names, not both', 'ids together with names are refused');
select throws_ok(format($$ select pg_temp.ask(pg_temp.request('[9001]') - 'device_ids' || jsonb_build_object('device_names', %L::jsonb)) $$, n), 'PT400', 'device_names must be an array of 1 to 100 names', d)
  from (values ('"small pump"', 'device_names must be an array'), ('[]', 'there is at least one of device_names'), ('["small pump", 9001]', 'each of device_names is a string'),
               ((select jsonb_agg('small pump'::text)::text from generate_series(1, 101)), 'there are at most a hundred of device_names')) v (n, d);
select is(app.resolve_device_names(:'org', (select jsonb_agg(case n when 1 then 'Large pump' else ' LITTLE one ' end) from generate_series(1, 100) n)),
    (select jsonb_agg(case n when 1 then 9002 else 9001 end) from generate_series(1, 100) n), 'a hundred names are looked up, each in its place');
select throws_ok(format($$ select app.resolve_device_names(%L, %L) $$, :'org', jsonb_build_array('big one', repeat('x', 101), 'big one')), 'PT400', 'Unknown device_names: big one, ' || repeat('x', 100),
    'each unknown name is named once, and a long one in part');

-- Refresh and override
select throws_ok($$ select pg_temp.ask('{"operation_type": "refresh", "reference_id": "home-7"}') $$, 'PT404', 'This reference_id has not been looked up yet', 'a refresh needs a lookup before it');
select pg_temp.lookup('[9001]', '{"reference_id": "home-7", "utility": {"eiaid": 90001}}', '{"postal_code": "82001"}') as first \gset
select is(pg_temp.ask('{"operation_type": "refresh", "reference_id": "home-7"}') - 'possible_utilities', :'first'::jsonb - 'possible_utilities', 'a refresh returns the same as the lookup, with its utility and devices');
delete from app.utility_service_areas where prefix = '82001';
select is(
    pg_temp.ask('{"operation_type": "refresh", "reference_id": "home-7"}') -> 'possible_utilities',
    '[{"eiaid": 90001, "name": "Plains Electric"}, {"eiaid": 90002, "name": "City Light"}]', 'a refresh keeps the utilities of the first lookup even if the ZIP code has others now');
select is(pg_temp.devices(pg_temp.ask('{"operation_type": "refresh", "reference_id": "home-7", "device_ids": [9002]}')), '{9001}', 'devices named in a refresh are ignored');
select is(pg_temp.devices(pg_temp.ask('{"operation_type": "refresh", "reference_id": "home-7", "device_names": ["nobody knows"]}')), '{9001}', 'names of devices in a refresh are not looked at, either');
select throws_ok(format($$ select api.lookup_incentives(%L, '{"operation_type": "refresh", "reference_id": "home-7"}') $$, :'other_org'), 'PT404', 'This reference_id has not been looked up yet', 'nobody refreshes a customer of another organization');
savepoint moved;
select is(
    pg_temp.ask(pg_temp.request('[9001]', '{"operation_type": "refresh", "reference_id": "home-7"}') - 'device_ids') -> 'possible_utilities',
    '[{"eiaid": 90001, "name": "Plains Electric"}]', 'a refresh with another address looks for the utilities there');
rollback to moved;
select is(pg_temp.ask('{"operation_type": "override", "reference_id": "home-7", "device_ids": [9002]}') -> 'utility', :'first'::jsonb -> 'utility', 'an override keeps the utility');
select is((select device_ids from app.customers where reference_id = 'home-7'), '{9002}', 'an override replaces the devices of the customer');
select throws_ok($$ select pg_temp.ask('{"operation_type": "override", "reference_id": "home-7"}') $$, 'PT400', 'An override needs device_ids or device_names', 'an override must name devices');

select api.import_catalogue(jsonb_set(jsonb_set(jsonb_set(pg_temp.catalogue() - array['programs', 'program_utilities', 'program_tiers'],
    '{utilities,0}', '{"key": "wy-union", "name": "Union Electric", "country_code": "US", "region_code": "WY", "source": "test"}'),
    '{utility_service_areas,0}', '{"prefix": "82001", "utility_key": "wy-union", "rank": "1"}'),
    '{utility_service_areas,1}', '{"prefix": "82001", "utility_key": "wy-city", "rank": "2"}') #- '{utility_service_areas,4}');
select is(pg_temp.ask('{"operation_type": "refresh", "reference_id": "home-7"}') #>> '{utility,name}', 'Union Electric',
    'a customer whose utility was merged into another is refreshed as a customer of that one');

-- Households
select throws_ok(format('select pg_temp.ask(pg_temp.request(''[9001]'') || jsonb_build_object(''household'', %L::jsonb))', h), 'PT400', m, 'a household has its form: ' || h)
  from (values ('[]', 'household must be an object with income, size, owner_status or tax_filing'),
               ('{"pets": 2}', 'household must be an object with income, size, owner_status or tax_filing'),
               ('{"income": "much"}', 'household.income must be a number of US dollars a year from 0 to 1,000,000,000'),
               ('{"income": -1}', 'household.income must be a number of US dollars a year from 0 to 1,000,000,000'),
               ('{"size": 0}', 'household.size must be a whole number from 1 to 20'),
               ('{"size": 2.5}', 'household.size must be a whole number from 1 to 20'),
               ('{"size": "2"}', 'household.size must be a whole number from 1 to 20'),
               ('{"owner_status": "guest"}', 'household.owner_status must be one of homeowner, renter'),
               ('{"tax_filing": "late"}', 'household.tax_filing must be one of single, joint, separate, head_of_household, surviving_spouse')) v (h, m);
select is(array(select app.household_error(h) from unnest(array[null, 'null', '{}', '{"income": 0}', '{"income": 1e9}', '{"size": 1, "owner_status": "renter"}', '{"size": 20, "tax_filing": "head_of_household"}']::jsonb[]) h), array_fill(null::text, array[7]),
    'a household may have all incomes and sizes up to the limits');
select is(app.household_error('{"income": 1000000001}'), 'household.income must be a number of US dollars a year from 0 to 1,000,000,000', 'an income has a limit');
select lives_ok($$ select pg_temp.ask(pg_temp.request('[9001]', '{"household": {"income": null, "size": null, "owner_status": null, "tax_filing": null}}')) $$,
    'each fact about a household may be null');

select * from finish();
rollback;
