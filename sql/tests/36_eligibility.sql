begin;
select plan(128);
\ir lookups.psql

-- Amounts
select results_eq($$ select amount, details from pg_temp.results('[9003]') $$, $$ values (20.00, '$20.00') $$, 'a flat amount shows no calculation');
select results_eq($$ select amount, details from pg_temp.results('[9003, 9003]') $$, $$ values (40.00, '2 × $20.00 = $40.00') $$, 'a repeated device is a quantity');
select results_eq($$ select amount, details from pg_temp.results('[9003, 9003, 9003]') $$,
    $$ values (50.00, '3 × $20.00 = $60.00, capped at $50.00 for all devices together: $50.00') $$, 'a cap holds for all pieces together');
select results_eq($$ select amount, details from pg_temp.results('[9001, 9001]') $$,
    $$ values (500.00, '2 × 2.5 tons (typical) × $100.00 per ton = $500.00') $$, 'an amount per unit uses the typical size');
select results_eq($$ select amount, details, ignored from pg_temp.results('[9001]', '{"device_facts": {"9001": {"ton": 4}}}') $$,
    $$ values (400.00, '4 tons × $100.00 per ton = $400.00', '["Owner status: for a homeowner or a renter"]'::jsonb) $$, 'an amount per unit uses the size given in the request');
select results_eq($$ select amount, details, ignored from pg_temp.results('[9004]') $$,
    $$ values (2000.00, '30% of the typical cost of $9,000.00 = $2,700.00, capped at $2,000.00 for all devices together: $2,000.00', '["Cost: taken as $9,000.00"]'::jsonb) $$,
    'a percentage uses the typical cost');
select results_eq($$ select amount, details, ignored from pg_temp.results('[9004]', '{"device_facts": {"9004": {"cost": 1234.56}}}') $$,
    $$ values (370.37, '30% of the cost of $1,234.56 = $370.37', '[]'::jsonb) $$, 'a percentage uses the cost given in the request, to the cent');
select results_eq($$ select device, amount from pg_temp.results('[9002, 9001, 9002]', '{"device_facts": {"9001": {"ton": 1}}}') $$,
    $$ values (9002, 500.00), (9001, 100.00) $$, 'every device has its own result, in the order of the request');
select is((pg_temp.lookup('[9002, 9001, 9003, 9004]') #>> '{incentives,total_incentive_amount}')::numeric, 2520.00, 'the total adds up all programs');
select is((pg_temp.lookup('[9002, 9001, 9003, 9004]') #>> '{incentives,total_eligible_combinations}')::integer, 4, 'the total counts all eligible combinations');
select is(jsonb_path_query_array(pg_temp.lookup('[9001, 9003, 9004]'), '$.incentives.by_program[*].program_id'), '["wy-grant", "wy-rebates"]', 'the program that pays most comes first');

select is(array[app.quantity(1, 'ton'), app.quantity(1.0, 'square_foot'), app.quantity(1200, 'square_foot'), app.quantity(7.4, 'kilowatt_hour'), app.quantity(0.5, 'ton')],
    array['1 ton', '1 square foot', '1,200 square feet', '7.4 kilowatt hours', '0.5 tons'], 'a size is told in words');
select pg_temp.import('program_tiers', 1, '{"cap": "600", "cap_percent": "5"}');
select results_eq($$ select amount, details from pg_temp.results('[9001]', '{"device_facts": {"9001": {"ton": 8}}}') $$,
    $$ values (400.00, '8 tons × $100.00 per ton = $800.00, at most 5% of the typical cost of $8,000.00: $400.00') $$, 'a cap in percent of the cost holds for a device');
select is((select ignored ->> 1 from pg_temp.results('[9001]', '{"device_facts": {"9001": {"ton": 8}}}')), 'Owner status: for a homeowner or a renter', 'a size given in the request is not listed as assumed');
select results_eq($$ select device, amount, details from pg_temp.results('[9001, 9002]', '{"device_facts": {"9001": {"ton": 8}, "9002": {"ton": 8, "cost": 10000}}}') $$,
    $$ values (9001, 400.00, '8 tons × $100.00 per ton = $800.00, at most 5% of the typical cost of $8,000.00: $400.00'),
              (9002, 200.00, '8 tons × $100.00 per ton = $800.00, at most 5% of the cost of $10,000.00, capped at $600.00 for all devices together: $200.00') $$,
    'a cap in dollars leaves the later devices what the earlier ones did not use');
select is(pg_temp.lookup('[9001, 9002]', '{"device_facts": {"9001": {"ton": 8, "cost": 100.1}, "9002": {"ton": 8, "cost": 100.1}}}') #>> '{incentives,total_incentive_amount}', '10.02',
    'a cap in percent of the cost is rounded to cents for each device');
select pg_temp.import('program_tiers', 1, '{"cap": "250"}');
select results_eq($$ select device, amount from pg_temp.results('[9001, 9002]') $$, $$ values (9001, 250.00), (9002, 0.00) $$, 'a cap that is used up leaves nothing');
select pg_temp.import('program_tiers', 3, '{"amount": "0.3333"}');
select is((select amount from pg_temp.results('[9004]')), 30.00::numeric, 'an amount is rounded to cents');
select pg_temp.import();

-- As an earlier release could leave it.
delete from app.device_category_sizes where category_key = 'test_pump';
select results_eq($$ select eligible, amount, details, failed, ignored ->> 0 from pg_temp.results('[9001]') $$,
    $$ values (false, 0.00, 'Not eligible', '["Size: not given (ton), and there is no typical one"]'::jsonb, 'Owner status: for a homeowner or a renter') $$,
    'an offer by a size that is not known pays nothing');
select results_eq($$ select eligible, amount from pg_temp.results('[9001]', '{"device_facts": {"9001": {"ton": 4}}}') $$, $$ values (true, 400.00) $$,
    'an offer by a size given only in the request pays by that');
select pg_temp.import();

select pg_temp.import('program_tiers', 1, '{"amount": "5000"}');
select is((select details from pg_temp.results('[9001]', '{"device_facts": {"9001": {"ton": 1e9}}}')), '1,000,000,000 tons × $5,000.00 per ton = $5,000,000,000,000.00',
    'an amount keeps all its digits, however large it is');
select pg_temp.import();

select pg_temp.import('program_tiers', 2, '{"other_requirements": "an energy audit first"}');
select is((select ignored from pg_temp.results('[9003]')), '["Other requirements: an energy audit first"]', 'requirements that no lookup checks are listed');
select pg_temp.import();

-- Alternatives: a fourth tier beside the one of $100 per ton, $250 for the small pump.
create function pg_temp.import_tier(p_cells jsonb) returns json
language sql as $$
    select pg_temp.import('program_tiers', 4, '{"program_id": "wy-rebates", "id": "better", "name": "Better pumps", "category_keys": "test_pump", "amount_type": "flat", "amount": "900"}' || p_cells) $$;

select pg_temp.import_tier('{}');
select results_eq($$ select tier, eligible, amount, details from pg_temp.results('[9001]') $$,
    $$ values ('better', true, 900.00, '$900.00'),
              ('pump', true, 0.00, '2.5 tons (typical) × $100.00 per ton = $250.00, not in addition to another offer') $$,
    'a device gets the offer of a program that pays most');
select is((pg_temp.lookup('[9001, 9002]') #>> '{incentives,total_incentive_amount}')::numeric, 1800.00, 'each device of a program gets an offer');
select pg_temp.import_tier('{"amount": "100"}');
select is((pg_temp.lookup('[9001]') #>> '{incentives,total_incentive_amount}')::numeric, 250.00, 'an offer that pays less is not the better one, whatever their ids');
select pg_temp.import_tier('{"cap": "200"}');
select is((pg_temp.lookup('[9001]') #>> '{incentives,total_incentive_amount}')::numeric, 250.00, 'an offer that pays less under its cap is not the better one');
select pg_temp.import_tier('{"amount": "250", "cap": "250"}');
select results_eq($$ select device, tier, amount from pg_temp.results('[9001, 9002]') where amount > 0 $$, $$ values (9001, 'pump', 250.00), (9002, 'pump', 250.00) $$,
    'among offers that pay the same for a device, the one with the largest cap counts');
select pg_temp.import_tier('{"amount": "250", "shared_cap": "250"}');
select results_eq($$ select device, tier, amount from pg_temp.results('[9001, 9002]') where amount > 0 $$, $$ values (9001, 'pump', 250.00), (9002, 'pump', 250.00) $$,
    'among offers that pay the same for a device, the one with the largest shared cap counts');
select pg_temp.import_tier('{"cap": "900"}');
select results_eq($$ select device, tier, amount, details from pg_temp.results('[9001, 9002]') $$,
    $$ values (9001, 'better', 900.00, '$900.00'),
              (9001, 'pump', 0.00, '2.5 tons (typical) × $100.00 per ton = $250.00, not in addition to another offer'),
              (9002, 'better', 0.00, '$900.00, not in addition to another offer'),
              (9002, 'pump', 250.00, '2.5 tons (typical) × $100.00 per ton = $250.00') $$,
    'a device gets the next best offer where the cap of the best one is used up');
select pg_temp.import_tier('{"cap": "1100"}');
select results_eq($$ select device, tier, amount from pg_temp.results('[9001, 9002]') where amount > 0 $$, $$ values (9001, 'better', 900.00), (9002, 'pump', 250.00) $$,
    'an offer that pays more than the cap of another leaves is the better one');
select pg_temp.import_tier('{"cap": "1200"}');
select results_eq($$ select device, tier, amount from pg_temp.results('[9001, 9002]') where amount > 0 $$, $$ values (9001, 'better', 900.00), (9002, 'better', 300.00) $$,
    'what the cap of an offer leaves may still be more than another offer pays');
select pg_temp.import_tier('{"shared_cap": "900"}');
select results_eq($$ select device, tier, amount from pg_temp.results('[9001, 9002]') where amount > 0 $$, $$ values (9001, 'better', 900.00), (9002, 'pump', 250.00) $$,
    'a device gets the next best offer where a shared cap is used up');
select pg_temp.import_tier('{"cap": "900", "income_requirement": "Poor", "income_limits": "1:50000"}');
select is(array[i ->> 'total_incentive_amount', i ->> 'conditional_incentive_amount', m ->> 'total_incentive_amount'], '{500.00,650.00,1150.00}',
    'what is conditional is paid to a household that meets the conditions, together with the next best offers')
  from (select pg_temp.lookup('[9001, 9002]') -> 'incentives' as i,
               pg_temp.lookup('[9001, 9002]', '{"household": {"income": 1, "size": 1}}') -> 'incentives' as m) l;
select pg_temp.import_tier('{"amount": "300", "cap": "300", "income_requirement": "Poor", "income_limits": "1:50000"}');
select is(array[i ->> 'total_incentive_amount', i ->> 'conditional_incentive_amount', m ->> 'total_incentive_amount'], '{650.00,50.00,700.00}',
    'a conditional offer uses nothing of its cap for a device for which another offer pays more')
  from (select pg_temp.lookup('[9002, 9001]', '{"device_facts": {"9002": {"ton": 4}}}') -> 'incentives' as i,
               pg_temp.lookup('[9002, 9001]', '{"device_facts": {"9002": {"ton": 4}}, "household": {"income": 1, "size": 1}}') -> 'incentives' as m) l;
select pg_temp.import_tier('{"income_requirement": "Poor"}');
select is((pg_temp.lookup('[9001]') -> 'incentives') - 'by_program', '{"total_incentive_amount": 250, "total_eligible_combinations": 1, "conditional_incentive_amount": 650}',
    'the conditional amount is what a better offer pays more');
select pg_temp.import_tier('{"income_requirement": "Poor", "amount": "100"}');
select is(pg_temp.lookup('[9001]') -> 'incentives' -> 'conditional_incentive_amount', '0', 'a worse offer adds nothing to the conditional amount');
select pg_temp.import();

-- Shared caps: the offers for pumps ($250), lamps ($20) and a tank ($900) of one program pay at most $1,000 together.
create function pg_temp.import_shared(p_pump jsonb default '{}', p_lamp jsonb default '{}', p_tank jsonb default '{}', p_cap text default '1000') returns json
language sql as $$
    select api.import_catalogue(jsonb_set(jsonb_set(jsonb_set(pg_temp.catalogue(),
        '{program_tiers,0}', pg_temp.catalogue() #> '{program_tiers,0}' || jsonb_build_object('shared_cap', p_cap) || p_pump),
        '{program_tiers,1}', pg_temp.catalogue() #> '{program_tiers,1}' || jsonb_build_object('shared_cap', p_cap) || p_lamp),
        '{program_tiers,3}', jsonb_build_object('program_id', 'wy-rebates', 'id', 'tank', 'name', 'Tanks', 'category_keys', 'test_roof',
                                                'amount_type', 'flat', 'amount', '900', 'shared_cap', p_cap) || p_tank)) $$;
create function pg_temp.totals(p_device_ids jsonb) returns table (total numeric, conditional numeric)
language sql as $$
    select (p ->> 'total_incentive')::numeric, (p ->> 'conditional_incentive_amount')::numeric
      from jsonb_array_elements(pg_temp.lookup(p_device_ids) #> '{incentives,by_program}') p
     where p ->> 'program_id' = 'wy-rebates' $$;

select pg_temp.import_shared();
select results_eq($$ select tier, amount, details from pg_temp.results('[9004, 9003, 9001]') where program = 'wy-rebates' $$,
    $$ values ('tank', 900.00, '$900.00'), ('lamp', 20.00, '$20.00'),
              ('pump', 80.00, '2.5 tons (typical) × $100.00 per ton = $250.00, capped at $1,000.00 together with other offers of the program: $80.00') $$,
    'a shared cap leaves later devices what earlier ones of other offers did not use');
select results_eq($$ select * from pg_temp.totals('[9001, 9002]') $$, $$ values (500.00, null::numeric) $$, 'below a shared cap everything is paid');
select pg_temp.import_shared(p_cap => '250');
select results_eq($$ select tier, amount from pg_temp.results('[9001, 9003]') where program = 'wy-rebates' $$, $$ values ('pump', 250.00), ('lamp', 0.00) $$,
    'a shared cap that is used up leaves nothing');
select pg_temp.import_shared(p_tank => '{"cap": "950"}');
select results_eq($$ select device, amount, details from pg_temp.results('[9001, 9004, 9004]') where program = 'wy-rebates' $$,
    $$ values (9001, 250.00, '2.5 tons (typical) × $100.00 per ton = $250.00'),
              (9004, 750.00, '2 × $900.00 = $1,800.00, capped at $950.00 for all devices together and $1,000.00 together with other offers of the program: $750.00') $$,
    'an offer can have a cap of its own beside the shared one');
select pg_temp.import_shared(p_lamp => '{"shared_cap": "10"}');
select results_eq($$ select tier, amount from pg_temp.results('[9003, 9004, 9001]') where program = 'wy-rebates' $$,
    $$ values ('lamp', 10.00), ('tank', 900.00), ('pump', 100.00) $$, 'offers with another shared cap do not share this one');
select pg_temp.import_shared(p_tank => '{"income_requirement": "Poor"}');
select results_eq($$ select * from pg_temp.totals('[9004, 9001]') $$, $$ values (250.00, 750.00) $$, 'under a shared cap certain amounts come before conditional ones');
select pg_temp.import_shared(p_pump => '{"income_requirement": "Poor"}', p_tank => '{"income_requirement": "Poor"}');
select results_eq($$ select * from pg_temp.totals('[9003, 9004, 9001]') $$, $$ values (20.00, 980.00) $$, 'conditional amounts share the rest of a cap');
select pg_temp.import_shared(p_pump => '{"income_requirement": "Poor"}', p_tank => '{"category_keys": "test_pump", "amount": "200"}', p_cap => '240');
select results_eq($$ select * from pg_temp.totals('[9001]') $$, $$ values (200.00, 40.00) $$,
    'under a shared cap a conditional amount replaces the certain one of the same device');
select pg_temp.import_shared(p_pump => '{"income_requirement": "Poor"}', p_tank => '{"category_keys": "test_pump", "amount": "200"}', p_cap => '470');
select results_eq($$ select * from pg_temp.totals('[9001, 9002]') $$, $$ values (400.00, 70.00) $$,
    'conditional amounts of several devices are no more than a shared cap leaves');
select pg_temp.import_shared(p_cap => '240', p_pump => '{"cap": "200"}', p_tank => '{"category_keys": "test_pump", "amount": "230"}');
select results_eq($$ select tier, amount from pg_temp.results('[9001, 9003]') where program = 'wy-rebates' $$,
    $$ values ('pump', 0.00), ('tank', 230.00), ('lamp', 10.00) $$, 'an offer that is not the best for a device uses nothing of a shared cap');
select pg_temp.import();

-- Exclusions: a tier of the state's grant pays for pumps, and excludes the utility's rebates.
create function pg_temp.import_grant(p_cells jsonb) returns json
language sql as $$ select pg_temp.import_tier('{"program_id": "wy-grant", "id": "pump", "excludes": "wy-rebates"}' || p_cells) $$;

select pg_temp.import_grant('{}');
select results_eq($$ select program, eligible, amount, failed from pg_temp.results('[9001]') where tier = 'pump' $$,
    $$ values ('wy-grant', true, 900.00, '[]'::jsonb), ('wy-rebates', false, 0.00, '["Other programs: not in addition to Wyoming Grant"]'::jsonb) $$,
    'an offer is not paid in addition to one of a program that excludes it');
select is((pg_temp.lookup('[9001, 9003]') #>> '{incentives,total_incentive_amount}')::numeric, 920.00, 'for another device, the excluded program pays');
select is((select failed from pg_temp.results('[9001]', '{"building_type": "COMMERCIAL"}') where program = 'wy-rebates'),
    '["Building type: for RESIDENTIAL or MULTIFAMILY, not for COMMERCIAL", "Other programs: not in addition to Wyoming Grant"]',
    'an excluded offer names its other failed requirements, too');
select pg_temp.import_grant('{"building_types": "COMMERCIAL"}');
select is((pg_temp.lookup('[9001]') #>> '{incentives,total_incentive_amount}')::numeric, 250.00, 'an offer that is not open excludes no other');
select pg_temp.import_grant('{"amount": "0"}');
select is((pg_temp.lookup('[9001]') #>> '{incentives,total_incentive_amount}')::numeric, 250.00, 'an offer that pays nothing excludes no other');
select pg_temp.import_grant('{"income_requirement": "Poor"}');
select is((pg_temp.lookup('[9001]') -> 'incentives') - 'by_program', '{"total_incentive_amount": 250, "total_eligible_combinations": 1, "conditional_incentive_amount": 650}',
    'a conditional offer counts only what it pays beyond the offers that it would exclude');
select pg_temp.import_grant('{"income_requirement": "Poor", "amount": "100"}');
select is(pg_temp.lookup('[9001]') -> 'incentives' -> 'conditional_incentive_amount', '0', 'a conditional offer that excludes more than it pays adds nothing');
select api.import_catalogue(jsonb_set(jsonb_set(pg_temp.catalogue(), '{program_tiers,0,income_requirement}', '"Not rich"'),
    '{program_tiers,3}', '{"program_id": "wy-grant", "id": "pump", "name": "Pumps", "category_keys": "test_pump", "amount_type": "flat", "amount": "900", "income_requirement": "Poor", "excludes": "wy-rebates"}'));
select results_eq($$ select (i ->> 'total_incentive_amount')::numeric, (i ->> 'conditional_incentive_amount')::numeric from (select pg_temp.lookup('[9001]') -> 'incentives' as i) l $$,
    $$ values (0.00, 900.00) $$, 'an offer that depends on the income is not added to another one that excludes it');
select is((select details from pg_temp.results('[9001]') where program = 'wy-rebates'),
    '2.5 tons (typical) × $100.00 per ton = $250.00, not in addition to another offer', 'a conditional offer says that another one excludes it');
select pg_temp.import_grant('{"cap": "900"}');
select results_eq($$ select program, device, amount from pg_temp.results('[9001, 9002]') where amount > 0 $$, $$ values ('wy-grant', 9001, 900.00), ('wy-rebates', 9002, 250.00) $$,
    'an offer excludes no other for a device for which its cap leaves nothing');
select pg_temp.import_grant('{"shared_cap": "900"}');
select results_eq($$ select program, device, amount from pg_temp.results('[9001, 9002]') where amount > 0 $$, $$ values ('wy-grant', 9001, 900.00), ('wy-rebates', 9002, 250.00) $$,
    'an offer excludes no other for a device for which its shared cap leaves nothing');
-- The grant's offer for pumps excludes the rebates, and the grant has a better one that doesn't.
select api.import_catalogue(jsonb_insert(pg_temp.change(pg_temp.catalogue(), 'program_tiers', 4,
        '{"program_id": "wy-grant", "id": "pump", "name": "Pumps", "category_keys": "test_pump", "amount_type": "flat", "amount": "900", "excludes": "wy-rebates"}'),
    '{program_tiers,-1}', '{"program_id": "wy-grant", "id": "better", "name": "Better pumps", "category_keys": "test_pump", "amount_type": "flat", "amount": "1000"}', true));
select results_eq($$ select tier, amount from pg_temp.results('[9001]') $$, $$ values ('better', 1000.00), ('pump', 0.00), ('pump', 250.00) $$,
    'an offer that is replaced by a better one of its program excludes no other');
select api.import_catalogue(jsonb_insert(jsonb_insert(jsonb_set(pg_temp.catalogue(), '{program_tiers,0,excludes}', '"wy-bonus"'),
        '{programs,-1}', '{"id": "wy-bonus", "name": "Wyoming Bonus", "authority": "Wyoming", "authority_type": "state", "country_code": "US", "region_code": "WY", "scope": "state", "source": "test"}', true),
    '{program_tiers,-1}', '{"program_id": "wy-bonus", "id": "pump", "name": "Pumps", "category_keys": "test_pump", "amount_type": "flat", "amount": "70"}', true));
select results_eq($$ select program, amount from pg_temp.results('[9001]') $$, $$ values ('wy-rebates', 250.00), ('wy-bonus', 0.00) $$,
    'an offer excludes one of another program');
select api.import_catalogue(jsonb_insert(jsonb_insert(pg_temp.change(pg_temp.change(pg_temp.catalogue(), 'program_tiers', 1, '{"excludes": "wy-bonus"}'), 'program_tiers', 4,
            '{"program_id": "wy-grant", "id": "pump", "name": "Pumps", "category_keys": "test_pump", "amount_type": "flat", "amount": "900", "excludes": "wy-rebates"}'),
        '{programs,-1}', '{"id": "wy-bonus", "name": "Wyoming Bonus", "authority": "Wyoming", "authority_type": "state", "country_code": "US", "region_code": "WY", "scope": "state", "source": "test"}', true),
    '{program_tiers,-1}', '{"program_id": "wy-bonus", "id": "pump", "name": "Pumps", "category_keys": "test_pump", "amount_type": "flat", "amount": "70"}', true));
select results_eq($$ select program, amount from pg_temp.results('[9001]') $$, $$ values ('wy-grant', 900.00), ('wy-bonus', 70.00), ('wy-rebates', 0.00) $$,
    'an offer that another one excludes excludes no other');
select api.import_catalogue(jsonb_insert(jsonb_insert(pg_temp.change(pg_temp.change(pg_temp.catalogue(), 'program_tiers', 1, '{"excludes": "wy-bonus"}'), 'program_tiers', 4,
            '{"program_id": "wy-grant", "id": "pump", "name": "Pumps", "category_keys": "test_pump", "device_ids": "9002", "amount_type": "flat", "amount": "900", "excludes": "wy-rebates"}'),
        '{programs,-1}', '{"id": "wy-bonus", "name": "Wyoming Bonus", "authority": "Wyoming", "authority_type": "state", "country_code": "US", "region_code": "WY", "scope": "state", "source": "test"}', true),
    '{program_tiers,-1}', '{"program_id": "wy-bonus", "id": "pump", "name": "Pumps", "category_keys": "test_pump", "amount_type": "flat", "amount": "70"}', true));
select results_eq($$ select device, program, amount from pg_temp.results('[9001, 9002]') where amount > 0 order by 1, 2 $$,
    $$ values (9001, 'wy-rebates', 250.00), (9002, 'wy-bonus', 70.00), (9002, 'wy-grant', 900.00) $$, 'an offer excluded for one device excludes others for another device');
select set_eq($$ select program from pg_temp.results('[9001]') $$, array['wy-rebates', 'wy-bonus'], 'a device that a tier covers is not judged by tiers for other devices of its category');
select pg_temp.import('program_tiers', 3, '{"category_keys": "test_lamp"}');
select set_eq($$ select program || ' ' || tier from pg_temp.results('[9004]') $$, array['wy-grant roof', 'wy-rebates lamp'], 'a device that no tier covers is judged by the first one of every program');
select pg_temp.import();

-- Programs for lamps, each of which excludes the next.
create function pg_temp.chain(p_count integer) returns text[]
language plpgsql as $$
begin
    perform api.import_catalogue(pg_temp.catalogue() || (
        select jsonb_build_object(
                   'programs', jsonb_agg(pg_temp.catalogue() #> '{programs,1}' || jsonb_build_object('id', 'wy-' || n)),
                   'program_utilities', '[]'::jsonb,
                   'program_tiers', jsonb_agg(pg_temp.catalogue() #> '{program_tiers,1}' || jsonb_build_object('program_id', 'wy-' || n)
                                              || case when n < p_count then jsonb_build_object('excludes', 'wy-' || n + 1) else '{}' end))
          from generate_series(1, p_count) n));
    return array(select program from pg_temp.results('[9003]') where amount > 0 order by program);
end;
$$;
select is(pg_temp.chain(6), '{wy-1,wy-3,wy-5}', 'an offer excludes others where those that would exclude it are excluded');
select pg_temp.import();

-- Programs for pumps with a conditional offer each, beside the rebate of $250 for one.
create function pg_temp.conditional_offers(p_offers jsonb, p_device_ids jsonb default '[9001]') returns text
language plpgsql as $$
begin
    perform api.import_catalogue(pg_temp.catalogue() || (
        select jsonb_build_object(
                   'programs', pg_temp.catalogue() -> 'programs' || jsonb_agg(distinct pg_temp.catalogue() #> '{programs,1}' || jsonb_build_object('id', o ->> 'program_id')),
                   'program_tiers', pg_temp.catalogue() -> 'program_tiers' || jsonb_agg(
                       '{"id": "pump", "name": "Pumps", "category_keys": "test_pump", "amount_type": "flat", "income_requirement": "Poor"}' || o))
          from jsonb_array_elements(p_offers) o));
    return (select concat_ws(' ', i ->> 'conditional_incentive_amount', ':',
                             (select string_agg(concat_ws(' ', p ->> 'program_id', p ->> 'conditional_incentive_amount'), ', ' order by p ->> 'program_id')
                                from jsonb_array_elements(i -> 'by_program') p where p ->> 'conditional_incentive_amount' <> '0.00'))
              from (select pg_temp.lookup(p_device_ids) -> 'incentives') u (i));
end;
$$;
select is(pg_temp.conditional_offers('[{"program_id": "wy-1", "amount": "500", "excludes": "wy-rebates"}, {"program_id": "wy-2", "amount": "900", "excludes": "wy-rebates"}]'),
    '1150.00 : wy-1 500.00, wy-2 650.00', 'what two conditional offers exclude is deducted once');
select is(pg_temp.conditional_offers('[{"program_id": "wy-1", "amount": "150", "excludes": "wy-rebates"}, {"program_id": "wy-2", "amount": "200", "excludes": "wy-rebates"}]', '[9001, 9002]'),
    '200.00 : wy-1 200.00', 'what a conditional offer excludes beyond its own amount is deducted from the next one, for each device');
select is(pg_temp.conditional_offers('[{"program_id": "wy-1", "amount": "900"}, {"program_id": "wy-2", "amount": "100", "excludes": "wy-rebates"}]'),
    '900.00 : wy-1 900.00', 'what a conditional offer excludes is not deducted from one that does not exclude it');
select is(pg_temp.conditional_offers('[{"program_id": "wy-1", "amount": "900", "excludes": "wy-rebates|wy-rebates"}]'), '650.00 : wy-1 650.00',
    'a program that is named twice is excluded once');
select is(pg_temp.conditional_offers('[{"program_id": "wy-1", "amount": "900", "excludes": "wy-2"}, {"program_id": "wy-2", "amount": "500", "excludes": "wy-3 wy-rebates"},
                                       {"program_id": "wy-3", "amount": "70"}]'),
    '970.00 : wy-1 900.00, wy-3 70.00', 'a conditional offer that another one excludes excludes no other');
select is(pg_temp.conditional_offers('[{"program_id": "wy-1", "amount": "900"}, {"program_id": "wy-1", "id": "small", "amount": "100", "excludes": "wy-rebates"}]'),
    '900.00 : wy-1 900.00', 'a conditional offer that a better one of its program replaces excludes no other');
select pg_temp.conditional_offers('[{"program_id": "wy-aid", "amount": "10", "excludes": "wy-rebates"},
                                    {"program_id": "wy-z", "amount": "20", "income_requirement": null, "excludes": "wy-rebates"}]');
update app.programs set name = id where id in ('wy-aid', 'wy-z');
select is((select failed from pg_temp.results('[9001]') where program = 'wy-rebates'), '["Other programs: not in addition to wy-z"]',
    'an offer that is excluded names the program that certainly excludes it');
select api.import_catalogue(jsonb_insert(pg_temp.change(pg_temp.catalogue(), 'program_tiers', 4,
        '{"program_id": "wy-grant", "id": "pump", "name": "Pumps", "category_keys": "test_pump", "amount_type": "flat", "amount": "300", "cap": "300", "excludes": "wy-rebates"}'),
    '{program_tiers,-1}', '{"program_id": "wy-grant", "id": "large", "name": "Large pumps", "category_keys": "test_pump", "device_ids": "9002", "amount_type": "flat", "amount": "1000"}', true));
select results_eq($$ select device, program, tier, amount from pg_temp.results('[9002, 9001]') where amount > 0 order by 1, 2 $$,
    $$ values (9001, 'wy-grant', 'pump', 300.00), (9002, 'wy-grant', 'large', 1000.00), (9002, 'wy-rebates', 'pump', 250.00) $$,
    'an offer whose cap a better offer leaves to the next device excludes others there');
select api.import_catalogue(pg_temp.change(pg_temp.change(pg_temp.catalogue(), 'program_tiers', 1, '{"cap": "250"}'), 'program_tiers', 4,
    '{"program_id": "wy-grant", "id": "pump", "name": "Pumps", "category_keys": "test_pump", "device_ids": "9001", "amount_type": "flat", "amount": "900", "excludes": "wy-rebates"}'));
select results_eq($$ select device, program, amount from pg_temp.results('[9001, 9002]') where amount > 0 order by 1, 2 $$,
    $$ values (9001, 'wy-grant', 900.00), (9002, 'wy-rebates', 250.00) $$, 'the cap of an offer that is excluded for one device is left to the next one');
select pg_temp.conditional_offers('[{"program_id": "wy-1", "amount": "900", "income_requirement": null, "device_ids": "9001", "excludes": "wy-2"},
                                    {"program_id": "wy-2", "amount": "300", "cap": "300", "income_requirement": null, "excludes": "wy-rebates"}]');
select results_eq($$ select device, program, amount from pg_temp.results('[9001, 9002]') where amount > 0 order by 1, 2 $$,
    $$ values (9001, 'wy-1', 900.00), (9001, 'wy-rebates', 250.00), (9002, 'wy-2', 300.00) $$,
    'an offer that is excluded for one device leaves its cap to the next one, and excludes others there');
select pg_temp.import();

-- Households
create function pg_temp.household(p_household jsonb, p_devices jsonb default '[9001]') returns jsonb
language sql as $$ select pg_temp.lookup(p_devices, jsonb_build_object('household', p_household)) -> 'incentives' $$;
create function pg_temp.verdict(p_household jsonb) returns text
language sql as $$
    select case when i ->> 'total_incentive_amount' <> '0.00' then 'eligible' when i ? 'conditional_incentive_amount' then 'conditional' else 'not eligible' end
      from pg_temp.household(p_household) i $$;

select pg_temp.import('program_tiers', 1, '{"income_requirement": "80% of the median", "income_limits": "1:50000 2:60000-70000 joint:90000", "owner_statuses": "homeowner"}');
select is(
    pg_temp.lookup('[9001]') -> 'incentives',
    '{"total_incentive_amount": 0, "total_eligible_combinations": 0, "by_program": [
        {"program_id": "wy-rebates", "program_name": "Plains Rebates", "total_incentive": 0, "eligible_combinations": 0, "device_tier_results": [
            {"device_id": 9001, "device_name": "Small pump", "tier_id": "pump", "tier_name": "Pumps", "eligible": false, "incentive_amount": 0,
             "calculation_details": "2.5 tons (typical) × $100.00 per ton = $250.00, if the household is eligible", "failed_requirements": [],
             "ignored_requirements": ["Size: taken as 2.5 tons", "Owner status: for a homeowner"],
             "completed_requirements": ["Location: customer of Plains Electric", "Device category: Pump", "Building type: RESIDENTIAL",
                                        "Date: open from 2026-01-01 to 2027-06-30"],
             "conditional": true, "conditional_requirements": ["Income: 80% of the median"], "conditional_incentive_amount": 250}],
         "conditional_incentive_amount": 250}],
      "conditional_incentive_amount": 250}',
    'an offer that depends on an income that is not given is conditional, and not in the total');
select is(pg_temp.household('{"income": 50000, "size": 1, "owner_status": "homeowner"}') -> 'conditional_incentive_amount', null, 'nothing is conditional once all facts are given');
select results_eq(
    $$ select eligible, amount, failed, ignored, completed -> 3, completed -> 4, completed -> 5
         from pg_temp.results('[9001]', '{"household": {"income": 50000, "size": 1, "owner_status": "homeowner"}}') $$,
    $$ values (true, 250.00, '[]'::jsonb, '["Size: taken as 2.5 tons"]'::jsonb, '"Date: open from 2026-01-01 to 2027-06-30"'::jsonb, '"Owner status: homeowner"'::jsonb,
                '"Income: 80% of the median"'::jsonb) $$,
    'given facts are judged, and no longer ignored');
select results_eq(
    $$ select eligible, failed from pg_temp.results('[9001]', '{"household": {"income": 50001, "size": 1, "owner_status": "renter"}}') $$,
    $$ values (false, '["Owner status: for a homeowner, not for a renter", "Income: 80% of the median"]'::jsonb) $$, 'requirements that are not met are named');
select is(pg_temp.verdict(h::jsonb), v, format('an offer by size is %s for a household of %s', v, h))
  from (values ('{"income": 60000, "size": 2}', 'eligible'), ('{"income": 70000, "size": 2}', 'conditional'), ('{"income": 70001, "size": 2}', 'not eligible'),
               ('{"income": 60000, "size": 5}', 'eligible'), ('{"income": 90000, "size": 5}', 'conditional'), ('{"income": 60000}', 'conditional'),
               ('{"size": 2}', 'conditional'), ('{"income": 90000, "tax_filing": "single"}', 'conditional'), ('{"owner_status": "renter"}', 'not eligible')) t (h, v);
select pg_temp.import('program_tiers', 1, '{"income_requirement": "A used car", "income_limits": "single:75000 joint:150000"}');
select is(pg_temp.verdict(h::jsonb), v, format('an offer by tax filing is %s for a household of %s', v, h))
  from (values ('{"income": 75000, "tax_filing": "single"}', 'eligible'), ('{"income": 75001, "tax_filing": "single"}', 'not eligible'),
               ('{"income": 75001, "tax_filing": "joint"}', 'eligible'), ('{"income": 1, "tax_filing": "separate"}', 'conditional')) t (h, v);
select pg_temp.import('program_tiers', 1, '{"income_requirement": "Enrolled in an aid program"}');
select is(pg_temp.verdict('{"income": 1, "size": 1}'), 'conditional', 'an offer without a table of limits stays conditional');
select pg_temp.import('program_tiers', 1, '{"owner_statuses": "renter"}');
select results_eq($$ select (i ->> 'total_incentive_amount')::numeric, (i ->> 'conditional_incentive_amount')::numeric,
                            i #> '{by_program,0,device_tier_results,0,conditional_requirements}', i #> '{by_program,0,device_tier_results,0,ignored_requirements}'
                       from pg_temp.household('{"size": 2}') i $$,
    $$ values (0.00, 250.00, '["Owner status: for a renter"]'::jsonb, '["Size: taken as 2.5 tons"]'::jsonb) $$,
    'an offer for renters alone is conditional unless the owner status is given');
select is(pg_temp.verdict('{"owner_status": "renter"}'), 'eligible', 'an offer for renters alone is for a household that rents');
select is(pg_temp.verdict('{"owner_status": "homeowner"}'), 'not eligible', 'an offer for renters alone is not for a household that owns');
select pg_temp.import('program_tiers', 2, '{"income_requirement": "Poor", "cap": "50"}');
select is((pg_temp.household(null, '[9003, 9003, 9003]') ->> 'conditional_incentive_amount')::numeric, 50.00, 'a cap limits conditional amounts, too');
select is(pg_temp.household('{}', '[9001, 9003]') - 'by_program', '{"total_incentive_amount": 250, "total_eligible_combinations": 1, "conditional_incentive_amount": 20}',
    'conditional amounts are separate from certain ones');
select pg_temp.import();

-- Requirements
create function pg_temp.on_day(p_day text) returns text
language sql as $$ select string_agg(eligible || coalesce(' ' || (failed ->> 0), ''), ', ') from pg_temp.results('[9001]', jsonb_build_object('lookup_date', p_day)) $$;

select is(pg_temp.on_day('2025-12-31'), 'false Date: starts on 2026-01-01', 'a program that has not begun pays nothing');
select is(pg_temp.on_day('2026-01-01'), 'true', 'a program pays on its first day');
select is(pg_temp.on_day('2027-06-30'), 'true', 'a program pays on its last day');
select is(pg_temp.on_day('2027-07-01'), 'false Date: ended on 2027-06-30', 'a program that has ended pays nothing');
select pg_temp.turn_clock('2027-07-01 03:00:00+00');
select is(pg_temp.on_day(null), 'true', 'a program is open in the evening of its last day at the site, whatever the day in UTC');
select pg_temp.turn_clock('2027-07-01 06:30:00+00');
select is(pg_temp.on_day(null), 'false Date: ended on 2027-06-30', 'a lookup without a date is for today at the site');
select results_eq($$ select amount, details from pg_temp.results('[9001]') $$,
    $$ values (0.00, 'Not eligible; otherwise 2.5 tons (typical) × $100.00 per ton = $250.00') $$, 'an ineligible combination adds nothing, but says what it would pay');
select is(pg_temp.lookup('[9001]') #> '{incentives,total_eligible_combinations}', '0', 'a combination that is not eligible does not count');
select pg_temp.turn_clock('2026-11-24 12:00:00+00');
select is((select failed from pg_temp.results('[9001]', '{"building_type": "COMMERCIAL"}')),
    '["Building type: for RESIDENTIAL or MULTIFAMILY, not for COMMERCIAL"]', 'a building type that does not match is named');
select is((select eligible from pg_temp.results('[9001]', '{"building_type": "MULTIFAMILY"}')), true, 'a tier for several building types takes each of them');
select is((select eligible from pg_temp.results('[9003]', '{"building_type": "COMMERCIAL"}')), true, 'a tier without building types takes all');
select is((select failed from pg_temp.results('[9001]', '{"building_type": "COMMERCIAL", "lookup_date": "2030-01-01"}')),
    '["Building type: for RESIDENTIAL or MULTIFAMILY, not for COMMERCIAL", "Date: ended on 2027-06-30"]', 'every requirement that failed is named');
select is((select completed from pg_temp.results('[9001]', '{"building_type": "COMMERCIAL", "lookup_date": "2030-01-01"}')),
    '["Location: customer of Plains Electric", "Device category: Pump"]', 'every requirement that was met is named');
select results_eq($$ select program, device, tier, eligible from pg_temp.results('[9001, 9003]') $$,
    $$ values ('wy-rebates', 9001, 'pump', true), ('wy-rebates', 9003, 'lamp', true) $$, 'a device is judged by the tiers of its category');
select is((select count(*)::integer from pg_temp.results('[9004]', '{}', '{"postal_code": "82001"}')), 1, 'the state''s programs are for the customers of every utility');
select results_eq($$ select program, eligible, failed from pg_temp.results('[9001]', '{}', '{"postal_code": "82001"}') $$,
    $$ values ('wy-grant', false, '["Device category: for Roof, not for Pump"]'::jsonb) $$, 'every program says that it has no tier for a device');
select is((select details || ignored from pg_temp.results('[9001]', '{}', '{"postal_code": "82001"}')), 'Not eligible[]', 'a device without a tier gets no calculation');
select pg_temp.import('program_tiers', 3, '{"category_keys": "test_roof test_lamp"}');
select is((select failed from pg_temp.results('[9001]', '{}', '{"postal_code": "82001"}')), '["Device category: for Lamp or Roof, not for Pump"]',
    'all categories of a tier are named where none is that of the device');
select pg_temp.import();
select is(pg_temp.lookup('[9001]', '{"address": {"street_1": "1", "city": "Helena", "state_or_province_code": "MT", "postal_code": "82007", "country_code": "US"}}') -> 'incentives',
    '{"total_incentive_amount": 0, "total_eligible_combinations": 0, "by_program": []}', 'a utility without programs gets an empty answer');

select pg_temp.import('program_tiers', 1, '{"device_ids": "9002"}');
select is((select eligible from pg_temp.results('[9002]')), true, 'a tier may be for some devices of its category');
select results_eq($$ select program, eligible, failed from pg_temp.results('[9001]') where program = 'wy-rebates' $$,
    $$ values ('wy-rebates', false, '["Device: not for Small pump"]'::jsonb) $$, 'a tier for some devices of its category refuses the others');
select pg_temp.import('program_tiers', 1, '{"category_keys": "test_lamp test_pump", "unit": null, "amount_type": "flat"}');
select is((select count(*)::integer from pg_temp.results('[9001]')), 1, 'a tier may be for several categories');
select is((select count(*)::integer from pg_temp.results('[9003]')), 2, 'a device may have several tiers');
select pg_temp.import('programs', 2, '{"cities": "Saint_Paul St._Cloud Fort_Wayne Mount_Vernon East_St._Louis Stockton"}');
select is(array(select c from unnest(array['ST PAUL', 'St.Paul', 'Saint-Paul', 'Saint Cloud', 'Ft. Wayne', 'mt vernon', 'East Saint Louis', 'Stockton', 'Paul', 'Saintockton', 'Wayne']) c
                 where pg_temp.lookup('[9004]', '{}', jsonb_build_object('city', c)) -> 'programs_evaluated' = '2'),
    array['ST PAUL', 'St.Paul', 'Saint-Paul', 'Saint Cloud', 'Ft. Wayne', 'mt vernon', 'East Saint Louis', 'Stockton'],
    'a city is found by its name with the word for saint, fort or mount written out or not');
select is(array[(select completed ->> 0 from pg_temp.results('[9004]', '{}', '{"city": "Stockton"}')), (select completed ->> 0 from pg_temp.results('[9003]', '{}', '{"city": "Stockton"}') where eligible)],
    '{"Location: Stockton, Wyoming",Location: customer of Plains Electric}', 'the program of a city says that it is one');
select pg_temp.import('programs', 1, '{"cities": "Stockton"}');
select is(array(select pg_temp.lookup('[9003]', '{}', jsonb_build_object('city', c)) #>> '{incentives,total_incentive_amount}' from unnest(array['Stockton', 'Cheyenne']) c), '{20.00,0.00}',
    'a utility''s program for some cities pays in these only');
select pg_temp.import();
select is((select completed ->> 0 from pg_temp.results('[9004]')), 'Location: Wyoming', 'the program of a state says that it is one');
savepoint sizes;
insert into app.device_category_sizes select (jsonb_populate_record(s, '{"unit": "kilowatt", "typical_size": 9}')).* from app.device_category_sizes s where s.category_key = 'test_pump';
select results_eq($$ select amount, details from pg_temp.results('[9001]') $$, $$ values (250.00, '2.5 tons (typical) × $100.00 per ton = $250.00') $$, 'a tier goes by the typical size in its own unit');
rollback to sizes;
savepoint retired;
update app.programs set retired_at = now() where id = 'wy-rebates';
select is(pg_temp.lookup('[9003]') -> 'programs_evaluated', '1', 'a utility''s program that is retired is not evaluated');
rollback to retired;
select api.import_catalogue(pg_temp.catalogue() || '{"programs": [], "program_utilities": [], "program_tiers": []}');
select is(pg_temp.lookup('[9001]') -> 'programs_evaluated', '0', 'a retired program is not evaluated');
select api.import_catalogue(pg_temp.catalogue() || '{"programs": [], "program_utilities": [], "program_tiers": [], "utilities": [], "utility_service_areas": []}');
select throws_ok($$ select pg_temp.lookup('[9001]') $$, 'PT404', 'Program lookup failed - no utility found', 'a retired utility serves nobody');
select pg_temp.import();

select * from finish();
rollback;
