begin;
select plan(38);
\ir fixtures.psql
\ir catalogue.psql
select pg_temp.turn_clock('2026-11-24 12:00:00+00');

create function pg_temp.warnings() returns setof text
language sql as $$
    select concat_ws(' ', d ->> 'warning', d ->> 'program_id', d ->> 'tier_id') from json_array_elements(api.find_catalogue_warnings()) d where d ->> 'catalogue' = 'test'
$$;

select pg_temp.import();
select is_empty('select pg_temp.warnings()', 'a sound catalogue has no warnings');
select pg_temp.import('program_tiers', 1, '{"end_date": "2026-11-23"}');
select set_eq('select pg_temp.warnings()', array['ended wy-rebates pump'], 'an offer that has ended is a warning');
select pg_temp.import('program_tiers', 1, '{"end_date": "2026-11-24"}');
select is_empty('select pg_temp.warnings()', 'an offer that ends today has not ended, and ending soon is reported only on request');
select pg_temp.import('program_tiers', 1, '{"start_date": "2026-11-25"}');
select set_eq('select pg_temp.warnings()', array['not started wy-rebates pump'], 'an offer that starts tomorrow is a warning');
select pg_temp.import('program_tiers', 1, '{"start_date": "2026-11-24"}');
select is_empty('select pg_temp.warnings()', 'an offer that starts today causes no warning');
select pg_temp.import('program_tiers', 1, '{"end_date": "2027-01-23"}');
select is_empty('select pg_temp.warnings()', 'an offer that will end causes no warning by default');
select is((select string_agg(d ->> 'warning' || ' ' || (d ->> 'explanation'), ', ') from json_array_elements(api.find_catalogue_warnings(60, 'test')) d),
    'ends soon on 2027-01-23', 'an offer that ends within so many days is reported on request');
select is(api.find_catalogue_warnings(59, 'test')::text, '[]', 'an offer that ends later is not');
select is(api.find_catalogue_warnings(60, 'none')::text, '[]', 'warnings are those of the requested catalogue');
select throws_ok('select api.find_catalogue_warnings(-1)', 'PT400', 'days must be a whole number from 0 to 3650', 'days are counted forward');
select pg_temp.import('program_tiers', 2, '{"amount": "60"}');
select set_eq('select pg_temp.warnings()', array['never pays its amount wy-rebates lamp'], 'an amount above its cap is a warning');
select pg_temp.import('program_tiers', 1, '{"amount_type": "flat", "unit": null, "amount": "300", "shared_cap": "200"}');
select set_eq('select pg_temp.warnings()', array['never pays its amount wy-rebates pump'], 'an amount above its shared cap is a warning');
select pg_temp.import('program_tiers', 2, '{"amount": "60", "cap": "50", "shared_cap": "70"}');
select is((select string_agg(d ->> 'explanation', ', ') from json_array_elements(api.find_catalogue_warnings(0, 'test')) d), '$60.00 is capped at $50.00',
    'an amount is compared with the lower of two caps');
select pg_temp.import('program_tiers', 2, '{"amount": "50"}');
select is_empty('select pg_temp.warnings()', 'an amount as large as its cap causes no warning');
select pg_temp.import('program_tiers', 3, '{"amount": "0.3"}');
select set_eq('select pg_temp.warnings()', array['pays less than 1 percent wy-grant roof'], 'a fraction in place of a percentage is a warning');
select pg_temp.import('program_tiers', 3, '{"amount": "1"}');
select is_empty('select pg_temp.warnings()', 'an amount of 1 percent causes no warning');
select pg_temp.import('program_tiers', 2, '{"cap_percent": "0.5"}');
select set_eq('select pg_temp.warnings()', array['pays less than 1 percent wy-rebates lamp'], 'a fraction in place of a cap in percent is a warning');
select pg_temp.import('program_tiers', 3, '{"cap_percent": "0.3"}');
select set_eq('select pg_temp.warnings()', array['pays less than 1 percent wy-grant roof'], 'a fraction is a warning even if the other percentage is correct');
select pg_temp.import('program_tiers', 3, '{"amount": "0"}');
select set_eq('select pg_temp.warnings()', array['pays nothing wy-grant roof'], 'an amount of 0 is a warning, but not the one about fractions');
select pg_temp.import('program_tiers', 1, '{"amount": "3201"}');
select is((select string_agg(concat_ws(' ', d ->> 'warning', d ->> 'explanation'), ', ') from json_array_elements(api.find_catalogue_warnings(0, 'test')) d),
    'pays more than the device costs $8,003.00 of a typical cost of $8,000.00', 'an amount for a device of typical size above its typical cost is a warning');
select pg_temp.import('program_tiers', 1, '{"amount": "3200"}');
select is_empty('select pg_temp.warnings()', 'an offer of as much as a device costs causes no warning');
select pg_temp.import('program_tiers', 1, '{"amount": "3201", "cap_percent": "100"}');
select is_empty('select pg_temp.warnings()', 'an offer of at most the cost of a device does not pay more, whatever its amount');
select pg_temp.import('program_tiers', 3, '{"amount": "100", "cap": null}');
select set_eq('select pg_temp.warnings()', array['pays all without a cap wy-grant roof'], 'an offer of the whole cost without a cap is a warning');
select pg_temp.import('program_tiers', 3, '{"amount": "100", "cap": null, "cap_percent": "50"}');
select is_empty('select pg_temp.warnings()', 'an offer of the whole cost that is capped at a part of it causes no warning');
select pg_temp.import('program_tiers', 2, '{"amount_type": "percent", "amount": "100"}');
select is_empty('select pg_temp.warnings()', 'an offer of the whole cost with a cap causes no warning');
select pg_temp.import('program_tiers', 3, '{"amount": "100", "cap": null, "shared_cap": "2000"}');
select is_empty('select pg_temp.warnings()', 'an offer of the whole cost with a shared cap causes no warning');
select pg_temp.import('program_tiers', 3, '{"amount": "99", "cap": null}');
select is_empty('select pg_temp.warnings()', 'an offer of less than the whole cost needs no cap');
select pg_temp.import('program_tiers', 3, null);
select set_eq('select pg_temp.warnings()', array['has no offer wy-grant'], 'a program without offers is a warning');
select pg_temp.import('utilities', 1, null);
select set_eq('select pg_temp.warnings()', array['has no customers wy-rebates'], 'a program without customers is one warning, whatever its utilities served');
select pg_temp.import('program_utilities', 2, '{"program_id": "wy-rebates", "utility_key": "wy-city"}');
select api.import_catalogue('{"catalogue": "test"}' || jsonb_build_object('utilities', pg_temp.catalogue() -> 'utilities' #- '{1}'));
select set_eq('select pg_temp.warnings()', array['names a retired utility wy-rebates'], 'a utility that a program still names, and that is retired, is a warning');
delete from app.utility_service_areas where utility_key = 'wy-plains';
select set_eq('select pg_temp.warnings()', array['names a retired utility wy-rebates', 'reaches no address wy-rebates'],
    'a program of which only a retired utility has postal codes reaches no address');
select pg_temp.import();
delete from app.utility_service_areas where utility_key = 'wy-plains';
select set_eq('select pg_temp.warnings()', array['reaches no address wy-rebates'], 'a program of utilities without a postal code is a warning');
select pg_temp.import('programs', 2, '{"source_date": "2024-11-24"}');
select is_empty('select pg_temp.warnings()', 'facts of 730 days ago are not old');
select pg_temp.import('programs', 2, '{"source_date": "2024-11-23"}');
select set_eq('select pg_temp.warnings()', array['is old wy-grant'], 'facts of more than 730 days ago are a warning');
select pg_temp.import('programs', 2, '{"source_date": "2026-11-25"}');
select is_empty('select pg_temp.warnings()', 'facts of tomorrow are not old');
select api.import_catalogue(pg_temp.change(pg_temp.change(pg_temp.catalogue(), 'programs', 2, '{"source_date": "2020"}'), 'program_tiers', 3, '{"amount": "0"}'));
update app.programs set retired_at = '2026-11-24' where id = 'wy-grant';
select is_empty('select pg_temp.warnings()', 'a program that is retired has no warnings');
select pg_temp.import();
select api.import_catalogue('{"catalogue": "test"}' || jsonb_build_object('device_categories', pg_temp.catalogue() -> 'device_categories' #- '{1}'));
select set_eq('select pg_temp.warnings()', array['names a retired category wy-rebates lamp'], 'a category that an offer still names, and that is retired, is a warning');
select pg_temp.import();
delete from app.device_category_sizes where category_key = 'test_pump';
select is((select string_agg(concat_ws(' ', d ->> 'warning', d ->> 'explanation'), ', ') from json_array_elements(api.find_catalogue_warnings(0, 'test')) d),
    'has no typical size test_pump has none for ton', 'an offer by a size that has no typical value is a warning');

select * from finish();
rollback;
