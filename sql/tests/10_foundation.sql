begin;
select plan(31);

select matches(app.uuid_v7()::text, '^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$', 'an id is a version 7 UUID');
select is(
    left(replace(app.uuid_v7('2026-11-24 10:00:00.123+00')::text, '-', ''), 12),
    lpad(to_hex((extract(epoch from timestamptz '2026-11-24 10:00:00.123+00') * 1000)::bigint), 12, '0'),
    'an id starts with its Unix milliseconds');
select ok(app.uuid_v7('2026-11-24 10:00:00+00') < app.uuid_v7('2026-11-24 10:00:00.001+00'), 'ids sort by time');
select is(
    (select array_agg(n order by app.numbered_uuid_v7(app.uuid_v7('2026-11-24 10:00:00+00'), n)) from generate_series(0, 16383) n),
    (select array_agg(n) from generate_series(0, 16383) n), 'ids created together sort by their numbers');
select matches(app.numbered_uuid_v7(app.uuid_v7(), 9999)::text, '^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$', 'ids created together are version 7 UUIDs');

select is((select count(*)::integer from app.regions where country_code = 'CA'), 13, 'Canada has 13 provinces and territories');
select is((select count(*)::integer from app.regions where country_code = 'US'), 62, 'the United States has 50 states, a district, 8 territories and 3 military regions');
select ok((select zip3 @> 787 from app.regions where code = 'TX'), 'Austin''s ZIP codes lie in Texas');

select is((api.get_settings() ->> 'lookups_per_second')::numeric, 20::numeric, 'the default rate limit is 20 lookups a second');
select is(api.get_settings() ->> 'internal_key', null, 'the internal key is not among the settings that can be read');
select is(api.update_settings('{"lookups_per_second": 5, "max_retries": 1}') ->> 'lookups_per_second', '5', 'an update returns the changed setting');
select is((select max_retries from app.settings), 1, 'several settings change in one update');
select is(api.update_settings('{"lookups_per_second": null}') ->> 'lookups_per_second', null, 'null as a rate limit means no limit');
select throws_ok($$ select api.update_settings('{"speed": 5}') $$, 'PT400', 'Unknown settings: speed', 'an unknown setting is refused');
select throws_ok($$ select api.update_settings('{"max_in_flight": 0}') $$, 'PT400', 'max_in_flight must be a whole number from 1 to 10000', 'a value out of range is refused');
select throws_ok($$ select api.update_settings('{"max_in_flight": "many"}') $$, 'PT400', 'max_in_flight must be a whole number from 1 to 10000', 'a value of the wrong type is refused');
select throws_ok(format('select api.update_settings(%L)', value), 'PT400', message, value || ' is refused with what it may be')
  from (values ('{"lookups_per_second": -1}', 'lookups_per_second must be a number from 0.001 to 100000, or null'),
               ('{"max_retries": null}', 'max_retries must be a whole number from 0 to 20'),
               ('{"max_retries": 1, "lease_seconds": {}}', 'lease_seconds must be a number from 1 to 3600'),
               ('{"job_retention_days": 0}', 'job_retention_days must be a whole number from 1 to 36500, or null'),
               ('{"max_open_items": 99999999999}', 'max_open_items must be a whole number from 1 to 1000000000'),
               ('{"record_all_attempts": "perhaps"}', 'record_all_attempts must be true or false')) bad (value, message);
select is_empty($$ select attname from pg_attribute where attrelid = 'app.settings'::regclass and attnum > 0 and not attisdropped
                      and attname not in ('singleton', 'internal_key', 'updated_at') and app.setting_form(attname) !~ 'number (from .* to .*|above .*)|true or false' $$,
    'the type of every setting is known');

select is_empty($$
    select s.key
      from json_each(api.get_settings()) s
     cross join lateral (select case json_typeof(s.value) when 'boolean' then to_jsonb(not (s.value #>> '{}')::boolean) when 'null' then '1'
                                                          else to_jsonb((s.value #>> '{}')::numeric + 1) end as value) c
     where s.key <> 'updated_at' and (api.update_settings(jsonb_build_object(s.key, c.value)) -> s.key)::jsonb is distinct from c.value $$,
    'every setting can be changed');

-- Days are subtracted from the time, and limits are multiplied.
select api.create_organization('Acme') as org \gset
select api.create_api_key(:'org', sha256('secret'), 'leap_live_', 'cret', 'first') as key \gset
select is_empty($$
    select s.key
      from json_each(api.get_settings()) s
     where json_typeof(s.value) <> 'boolean' and s.key <> 'updated_at' and app.setting_form(s.key) !~ ' from \S+ to [0-9]+' $$,
    'every numeric setting has a maximum');
select is_empty($$
    select s.key
      from json_each(api.get_settings()) s
     cross join lateral (select substring(app.setting_form(s.key) from ' to ([0-9]+)') as greatest) c
     where c.greatest is not null and api.update_settings(jsonb_build_object(s.key, c.greatest::numeric)) ->> s.key is distinct from c.greatest $$,
    'every setting accepts its maximum');
select lives_ok($$ select api.run_maintenance() $$, 'maintenance works with the maximum of every setting');
select lives_ok($$ select api.prune_expired() $$, 'expired rows are deleted with the maximum of every setting');
select is(api.authenticate_api_key(sha256('secret')) ->> 'organization_requests_per_minute', '100000000',
    'a key is recognized with the maximum of every setting');
select api.update_settings('{"organization_requests_per_minute": null}') as settings \gset
select is(api.authenticate_api_key(sha256('secret')) ->> 'organization_requests_per_minute', '400000000',
    'the limit of an organization is four times the maximum of a key');
select matches(api.create_batch_lookup(:'org', '[{"reference_id": "deal-001", "building_type": "RESIDENTIAL", "device_ids": [1],
                                                  "address": {"street_1": "1 Main St", "city": "Oakland", "state_or_province_code": "CA",
                                                              "postal_code": "94601", "country_code": "US"}}]', false)::text, '"pending"',
    'a batch is stored with the maximum of every setting');

select * from finish();
rollback;
