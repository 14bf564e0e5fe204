begin;
select plan(15);
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
select pg_temp.import('program_tiers', 1, '{"end_date": "2027-01-23"}');
select is_empty('select pg_temp.warnings()', 'an offer that will end is no warning by itself');
select is((select string_agg(d ->> 'warning' || ' ' || (d ->> 'explanation'), ', ') from json_array_elements(api.find_catalogue_warnings(60, 'test')) d),
    'ends soon on 2027-01-23', 'an offer that ends within so many days is told to who asks');
select is(api.find_catalogue_warnings(59, 'test')::text, '[]', 'an offer that ends later is not');
select is(api.find_catalogue_warnings(60, 'none')::text, '[]', 'warnings are of the catalogue that is asked for');
select throws_ok('select api.find_catalogue_warnings(-1)', 'PT400', 'days must be a whole number from 0 to 3650', 'days are counted forward');
select pg_temp.import('program_tiers', 2, '{"amount": "60"}');
select set_eq('select pg_temp.warnings()', array['never pays its amount wy-rebates lamp'], 'an amount above its cap is a warning');
select pg_temp.import('program_tiers', 1, '{"amount_type": "flat", "unit": null, "amount": "300", "shared_cap": "200"}');
select set_eq('select pg_temp.warnings()', array['never pays its amount wy-rebates pump'], 'an amount above its shared cap is a warning');
select pg_temp.import('program_tiers', 3, '{"amount": "0.3"}');
select set_eq('select pg_temp.warnings()', array['pays less than 1 percent wy-grant roof'], 'a fraction in place of a percentage is a warning');
select pg_temp.import('program_tiers', 2, '{"cap_percent": "0.5"}');
select set_eq('select pg_temp.warnings()', array['pays less than 1 percent wy-rebates lamp'], 'a fraction in place of a cap in percent is a warning');
select pg_temp.import('program_tiers', 3, null);
select set_eq('select pg_temp.warnings()', array['has no offer wy-grant'], 'a program without offers is a warning');
select pg_temp.import('utilities', 1, null);
select bag_has('select pg_temp.warnings()', $$ values ('has no customers wy-rebates') $$, 'a program without customers is a warning');
select pg_temp.import('program_utilities', 2, '{"program_id": "wy-rebates", "utility_key": "wy-city"}');
select api.import_catalogue('{"catalogue": "test"}' || jsonb_build_object('utilities', pg_temp.catalogue() -> 'utilities' #- '{1}'));
select set_eq('select pg_temp.warnings()', array['names a retired utility wy-rebates'], 'a utility that a program still names, and that is retired, is a warning');
select pg_temp.import();
select api.import_catalogue('{"catalogue": "test"}' || jsonb_build_object('device_categories', pg_temp.catalogue() -> 'device_categories' #- '{1}'));
select set_eq('select pg_temp.warnings()', array['names a retired category wy-rebates lamp'], 'a category that an offer still names, and that is retired, is a warning');

select * from finish();
rollback;
