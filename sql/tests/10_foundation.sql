begin;
select plan(16);

select matches(app.uuid_v7()::text, '^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$', 'an id is a version 7 UUID');
select is(
    left(replace(app.uuid_v7('2026-11-24 10:00:00.123+00')::text, '-', ''), 12),
    lpad(to_hex((extract(epoch from timestamptz '2026-11-24 10:00:00.123+00') * 1000)::bigint), 12, '0'),
    'an id starts with its Unix milliseconds');
select ok(app.uuid_v7('2026-11-24 10:00:00+00') < app.uuid_v7('2026-11-24 10:00:00.001+00'), 'ids sort by time');
select is(
    (select array_agg(n order by app.numbered_uuid_v7(app.uuid_v7('2026-11-24 10:00:00+00'), n)) from generate_series(0, 16383) n),
    (select array_agg(n) from generate_series(0, 16383) n), 'ids made together sort by their numbers');
select matches(app.numbered_uuid_v7(app.uuid_v7(), 9999)::text, '^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$', 'ids made together are UUIDs of version 7');

select is((select count(*)::integer from app.regions where country_code = 'CA'), 13, 'Canada has 13 provinces and territories');
select is((select count(*)::integer from app.regions where country_code = 'US'), 62, 'the United States have 50 states, a district, 8 territories and 3 military regions');
select ok((select zip3 @> 787 from app.regions where code = 'TX'), 'Austin''s ZIP codes lie in Texas');

select is((api.get_settings() ->> 'lookups_per_second')::numeric, 20::numeric, 'the default pace is 20 lookups a second');
select is(api.get_settings() ->> 'internal_key', null, 'the internal key is no setting to read');
select is(api.update_settings('{"lookups_per_second": 5, "max_retries": 1}') ->> 'lookups_per_second', '5', 'an update answers the changed setting');
select is((select max_retries from app.settings), 1, 'several settings change in one update');
select is(api.update_settings('{"lookups_per_second": null}') ->> 'lookups_per_second', null, 'null as a rate limit means no limit');
select throws_ok($$ select api.update_settings('{"speed": 5}') $$, 'PT400', 'Unknown settings: speed', 'an unknown setting is refused');
select throws_ok($$ select api.update_settings('{"max_in_flight": 0}') $$, 'PT400', 'A setting has an invalid value: new row for relation "settings" violates check constraint "settings_max_in_flight_check"', 'a value out of range is refused');
select throws_ok($$ select api.update_settings('{"max_in_flight": "many"}') $$, 'PT400', 'A setting has an invalid value: invalid input syntax for type integer: "many"', 'a value of the wrong type is refused');

select * from finish();
rollback;
