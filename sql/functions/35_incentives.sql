-- Chapter 35, incentives: the embedded provider. A lookup finds the site's utility, judges every tier of the utility's and the state's
-- programs for every device, and adds up what is eligible.

create or replace function app.dollars(p_amount numeric) returns text
language sql immutable
return to_char(p_amount, 'FM$999,999,999,990.009999');

-- 1 ton, 1,200 square feet, 7.4 kilowatts
create or replace function app.quantity(p_number numeric, p_unit text) returns text
language sql immutable
return trim(trailing '.' from to_char(p_number, 'FM999,999,999,990.999999')) || ' ' || case
    when p_number = 1 then replace(p_unit, '_', ' ')
    when p_unit = 'square_foot' then 'square feet'
    else replace(p_unit, '_', ' ') || 's'
end;

-- The utilities of a site, the one to choose first. The longest prefix of its postal code that is known in its state wins.
create or replace function app.find_utilities(p_country_code text, p_region_code text, p_postal_code text) returns app.utilities[]
language plpgsql stable
set search_path = ''
as $$
declare
    v_postal_code text   := case p_country_code when 'US' then left(p_postal_code, 5) else upper(replace(p_postal_code, ' ', '')) end;
    v_prefixes    text[] := array(select left(v_postal_code, n) from generate_series(1, length(v_postal_code)) n);
begin
    return array(
        select u
          from (select a.utility_key, a.rank
                  from app.utility_service_areas a
                  join app.utilities s on s.key = a.utility_key
                 where a.prefix = any (v_prefixes)
                   and s.country_code = p_country_code and s.region_code = p_region_code and s.retired_at is null
                 order by length(a.prefix) desc
                 fetch first 1 row with ties) nearest
          join app.utilities u on u.key = nearest.utility_key
         order by nearest.rank, u.name, u.key);
end;
$$;

-- The utility that a request chose out of the possible ones, or the first of them.
create or replace function app.choose_utility(p_utilities app.utilities[], p_choice jsonb) returns app.utilities
language plpgsql stable
set search_path = ''
as $$
declare
    v_utility app.utilities;
begin
    select (p_utilities[n]).* into v_utility
      from generate_subscripts(p_utilities, 1) n
     where p_choice is null
        or (p_utilities[n]).eiaid::text = p_choice ->> 'eiaid'
        or p_choice ->> 'eiaid' is null and lower((p_utilities[n]).name) = lower(p_choice ->> 'name')
     order by n
     limit 1;
    if not found then
        raise sqlstate 'PT400' using
            message    = 'The utility chosen does not serve this address',
            detail     = json_build_object('possible_utilities', app.utilities_json(p_utilities))::text,
            hint       = 'utility must be one of possible_utilities, such as {"eiaid": 16572} or {"name": "Eversource"}.',
            constraint = 'unknown_utility';
    end if;
    return v_utility;
end;
$$;

create or replace function app.utility_json(p_utility app.utilities) returns json
language sql immutable
return json_build_object('eiaid', (p_utility).eiaid, 'name', (p_utility).name);

create or replace function app.utilities_json(p_utilities app.utilities[]) returns json
language plpgsql immutable
set search_path = ''
as $$
begin
    return (select json_agg(app.utility_json(u)) from unnest(p_utilities) u);
end;
$$;

-- The id of the organization's customer of that reference_id, made when new.
create or replace function app.customer_id(p_organization_id uuid, p_reference_id text, p_now timestamptz) returns bigint
language plpgsql volatile
set search_path = ''
as $$
declare
    v_id bigint;
begin
    select id into v_id from app.customers where organization_id = p_organization_id and reference_id = p_reference_id;
    if not found then
        perform app.check_organization(p_organization_id);
        insert into app.customers (organization_id, reference_id, created_at)
        values (p_organization_id, p_reference_id, p_now)
            on conflict (organization_id, reference_id) do nothing
        returning id into v_id;
        -- Another lookup of the same customer was faster.
        if not found then
            select id into v_id from app.customers where organization_id = p_organization_id and reference_id = p_reference_id;
        end if;
    end if;
    return v_id;
end;
$$;

-- The programs that a customer of the utility may apply to, and why.
create or replace function app.find_programs(p_utility app.utilities) returns table (id text, name text, location text)
language plpgsql stable rows 10
set search_path = ''
as $$
begin
    return query
    select p.id, p.name, 'Location: ' || r.name
      from app.programs p
      join app.regions r on r.country_code = p.country_code and r.code = p.region_code
     where p.country_code = p_utility.country_code and p.region_code = p_utility.region_code
       and p.scope = 'state' and p.retired_at is null
     union all
    select p.id, p.name, 'Location: customer of ' || p_utility.name
      from app.program_utilities u
      join app.programs p on p.id = u.program_id
     where u.utility_key = p_utility.key and p.scope = 'utility' and p.retired_at is null;
end;
$$;

-- What a tier asks for, as far as a lookup can tell.
create or replace function app.check_requirements(
    p_tier app.program_tiers, p_device app.devices, p_category text, p_building_type text, p_date date,
    out failed text[], out completed text[]
)
language plpgsql stable
set search_path = ''
as $$
begin
    failed    := '{}';
    completed := '{}';
    if p_device.category_key <> all (p_tier.category_keys) then
        failed := failed || format('Device category: for %s, not for %s',
                                   (select string_agg(c.name, ' or ' order by c.name)
                                      from app.device_categories c
                                     where c.key = any (p_tier.category_keys)), p_category);
    elsif p_device.id <> all (p_tier.device_ids) then
        failed := failed || format('Device: not for %s', p_device.name);
    else
        completed := completed || format('Device category: %s', p_category);
    end if;
    if p_building_type <> all (p_tier.building_types) then
        failed := failed || format('Building type: for %s, not for %s', array_to_string(p_tier.building_types, ' or '), p_building_type);
    else
        completed := completed || format('Building type: %s', p_building_type);
    end if;
    if p_date < p_tier.start_date then
        failed := failed || format('Date: starts on %s', p_tier.start_date);
    elsif p_date > p_tier.end_date then
        failed := failed || format('Date: ended on %s', p_tier.end_date);
    else
        completed := completed || concat_ws(' ', 'Date: open', 'from ' || p_tier.start_date, 'to ' || p_tier.end_date);
    end if;
end;
$$;

-- The tiers of the utility's and the state's programs, judged for every device that they cover. A device that none covers is judged by
-- the nearest tier of every program, so that the answer can say why. Sizes and costs that the request does not tell are typical ones.
-- A cap holds for all devices of a tier together, in the order of the request.
create or replace function app.judge_tiers(
    p_utility app.utilities, p_building_type text, p_device_ids integer[], p_device_facts jsonb, p_date date
) returns setof app.judged_tier
language plpgsql stable
set search_path = ''
as $$
begin
    return query
    with request as (
        select d as device, c.name as category, c.typical_cost, count(*) as quantity, min(r.place) as place,
               coalesce(p_device_facts -> d.id::text, '{}') as facts
          from unnest(p_device_ids) with ordinality r (id, place)
          join app.devices d on d.id = r.id
          join app.device_categories c on c.key = d.category_key
         group by d.id, c.key
    ), candidate as (
        select p.id as program_id, p.name as program_name, p.location, t as tier, r.*,
               row_number() over (partition by p.id, (r.device).id order by (r.device).category_key = any (t.category_keys) desc, t.id) as distance,
               f.fits, bool_or(f.fits) over (partition by (r.device).id) as covered
          from app.find_programs(p_utility) p
          join app.program_tiers t on t.program_id = p.id
         cross join request r
         cross join lateral (
             select (r.device).category_key = any (t.category_keys) and coalesce((r.device).id = any (t.device_ids), true) as fits) f
    ), judged as (
        select c.*, coalesce(k.size, s.typical_size) as size, k.size is not null as size_known,
               coalesce(k.cost, c.typical_cost) as cost, k.cost is not null as cost_known, q.failed, q.completed
          from candidate c
         cross join lateral app.check_requirements(c.tier, c.device, c.category, p_building_type, p_date) q
          left join app.device_category_sizes s on s.category_key = (c.device).category_key and s.unit = (c.tier).unit
         cross join lateral (
             select (c.facts ->> (c.tier).unit)::numeric as size, (c.facts ->> 'cost')::numeric as cost) k
         where c.fits or not c.covered and c.distance = 1
    ), valued as (
        select j.*, round(j.quantity * case (j.tier).amount_type
                                           when 'flat'     then (j.tier).amount
                                           when 'per_unit' then (j.tier).amount * j.size
                                           when 'percent'  then (j.tier).amount / 100 * j.cost end, 2) as full_amount
          from judged j
    ), limited as (
        select v.*, case when v.failed = '{}' then least(v.full_amount, round(v.quantity * v.cost * (v.tier).cap_percent / 100, 2))
                         else 0 end as limited_amount
          from valued v
    )
    select l.program_id, l.program_name, l.location, l.tier, l.device, l.category, l.quantity, l.place, l.size, l.size_known, l.cost,
           l.cost_known, l.failed, l.completed, l.full_amount, l.limited_amount,
           case when (l.tier).cap is null then l.limited_amount
                else least(l.limited_amount, greatest((l.tier).cap - coalesce(sum(l.limited_amount) over earlier, 0), 0)) end
      from limited l
    window earlier as (partition by l.program_id, (l.tier).id order by l.place rows between unbounded preceding and 1 preceding);
end;
$$;

-- 2 × 3 tons (typical) × $1,000.00 per ton = $6,000.00, capped at $5,000.00: $5,000.00
create or replace function app.calculation_details(p_judged app.judged_tier) returns text
language plpgsql immutable
set search_path = ''
as $$
declare
    v_tier  app.program_tiers := p_judged.tier;
    v_times text              := case when p_judged.quantity > 1 then p_judged.quantity || ' × ' else '' end;
    v_cost  text              := format('the %scost of %s', case when p_judged.cost_known then '' else 'typical ' end, app.dollars(p_judged.cost));
    v_full  text;
begin
    v_full := v_times || case v_tier.amount_type
        when 'flat'     then app.dollars(v_tier.amount)
        when 'per_unit' then format('%s%s × %s per %s', app.quantity(p_judged.size, v_tier.unit),
                                    case when p_judged.size_known then '' else ' (typical)' end,
                                    app.dollars(v_tier.amount), replace(v_tier.unit, '_', ' '))
        when 'percent'  then format('%s%% of %s', trim_scale(v_tier.amount), v_cost) end;
    if p_judged.quantity > 1 or v_tier.amount_type <> 'flat' then
        v_full := v_full || ' = ' || app.dollars(p_judged.full_amount);
    end if;

    return case when p_judged.failed <> '{}' then 'Not eligible; otherwise ' || v_full
                else concat(v_full,
                    case when p_judged.limited_amount < p_judged.full_amount
                         then format(', at most %s%% of %s%s', trim_scale(v_tier.cap_percent), v_times, v_cost) end,
                    case when p_judged.amount < p_judged.limited_amount
                         then format(', capped at %s for all devices together', app.dollars(v_tier.cap)) end,
                    case when p_judged.amount < p_judged.full_amount then ': ' || app.dollars(p_judged.amount) end) end;
end;
$$;

create or replace function app.judged_tier_json(p_judged app.judged_tier) returns json
language plpgsql immutable
set search_path = ''
as $$
declare
    v_tier app.program_tiers := p_judged.tier;
    v_fits boolean           := (p_judged.device).category_key = any (v_tier.category_keys);
begin
    return json_build_object(
        'device_id', (p_judged.device).id,
        'device_name', (p_judged.device).name,
        'tier_id', v_tier.id,
        'tier_name', v_tier.name,
        'eligible', p_judged.failed = '{}',
        'incentive_amount', p_judged.amount,
        'calculation_details', case when v_fits then app.calculation_details(p_judged) else 'Not eligible' end,
        'failed_requirements', p_judged.failed,
        'ignored_requirements', case when v_fits then array_remove(array[
            case when v_tier.amount_type = 'per_unit' and not p_judged.size_known
                 then format('Size: taken as %s', app.quantity(p_judged.size, v_tier.unit)) end,
            case when (v_tier.amount_type = 'percent' or v_tier.cap_percent is not null) and not p_judged.cost_known
                 then format('Cost: taken as %s', app.dollars(p_judged.cost)) end,
            'Owner status: for a ' || array_to_string(v_tier.owner_statuses, ' or a ')], null) else '{}' end,
        'completed_requirements', p_judged.location || p_judged.completed);
end;
$$;

create or replace function app.incentives_json(p_judged app.judged_tier[]) returns json
language plpgsql immutable
set search_path = ''
as $$
begin
    return (
        with program as (
            select j.program_id, j.program_name, sum(j.amount) as amount, count(*) filter (where j.failed = '{}') as eligible,
                   json_agg(app.judged_tier_json(j) order by j.place, (j.tier).id) as results
              from unnest(p_judged) j
             group by j.program_id, j.program_name
        )
        select json_build_object(
                   'total_incentive_amount', coalesce(sum(p.amount), 0),
                   'total_eligible_combinations', coalesce(sum(p.eligible), 0),
                   'by_program', coalesce(json_agg(json_build_object(
                       'program_id', p.program_id,
                       'program_name', p.program_name,
                       'total_incentive', p.amount,
                       'eligible_combinations', p.eligible,
                       'device_tier_results', p.results) order by p.amount desc, p.program_name, p.program_id), '[]'))
          from program p);
end;
$$;

-- What is wrong with the members that only a single lookup has; null: nothing. Chapter 41 knows the rest.
create or replace function app.lookup_request_errors(p_request jsonb) returns text
language plpgsql immutable
set search_path = ''
as $$
declare
    v_facts jsonb := coalesce(nullif(p_request -> 'device_facts', 'null'), '{}');
begin
    return nullif(concat_ws('; ',
        case when p_request ->> 'operation_type' <> 'lookup' then 'operation_type must be lookup' end,
        case when jsonb_typeof(p_request -> 'utility') not in ('object', 'null') then 'utility must be an object with eiaid or name' end,
        case when p_request ->> 'lookup_date' !~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}$' or app.catalogue_date(p_request ->> 'lookup_date') is null
              and p_request ->> 'lookup_date' is not null then 'lookup_date must be a date such as 2026-05-31' end,
        case when jsonb_typeof(v_facts) <> 'object' then 'device_facts must be an object of objects'
             when exists (select
                            from jsonb_each(v_facts) d (id, facts)
                           cross join lateral jsonb_each(case jsonb_typeof(d.facts) when 'object' then d.facts else '{"": null}' end) f (name, value)
                           where case jsonb_typeof(f.value) when 'number' then f.value <= '0' or f.value > '1e9' else true end)
             then 'device_facts must hold, for a device id, numbers above 0 and up to 1,000,000,000, such as {"1": {"cost": 12000, "ton": 2.5}}' end), '');
end;
$$;

-- The request as a batch item, checked.
create or replace function app.parse_lookup_request(p_request jsonb) returns app.batch_item
language plpgsql stable
set search_path = ''
as $$
declare
    v_item    app.batch_item;
    v_errors  text;
    v_unknown integer[];
begin
    if jsonb_typeof(p_request) is distinct from 'object' then
        raise sqlstate 'PT400' using message = 'The body must be a JSON object', constraint = 'invalid_request';
    end if;
    select * into v_item
      from app.parse_batch_items(jsonb_build_array(p_request - array['operation_type', 'utility', 'lookup_date', 'device_facts']), false);
    v_errors := nullif(concat_ws('; ', v_item.errors, app.lookup_request_errors(p_request)), '');
    if v_errors is not null then
        raise sqlstate 'PT400' using message = v_errors, constraint = 'invalid_request';
    end if;

    v_unknown := array(select unnest(v_item.device_ids) except select id from app.devices order by 1);
    if v_unknown <> '{}' then
        raise sqlstate 'PT400' using
            message    = format('Unknown device_ids: %s', array_to_string(v_unknown, ', ')),
            detail     = json_build_object('unknown_device_ids', v_unknown)::text,
            constraint = 'unknown_device';
    end if;
    return v_item;
end;
$$;

-- Its queries are a few index lookups whatever the values are: planning them anew for each call would take longer than running them.
create or replace function api.lookup_incentives(p_organization_id uuid, p_request jsonb) returns json
language plpgsql volatile security definer
set search_path = '' set plan_cache_mode = force_generic_plan
as $$
declare
    v_now         timestamptz    := app.clock();
    v_item        app.batch_item := app.parse_lookup_request(p_request);
    v_address     jsonb          := v_item.address;
    v_date        date           := coalesce((p_request ->> 'lookup_date')::date, (v_now at time zone 'UTC')::date);
    v_utilities   app.utilities[];
    v_utility     app.utilities;
    v_customer_id bigint;
    v_judged      app.judged_tier[];
begin
    v_utilities := app.find_utilities(v_address ->> 'country_code', v_address ->> 'state_or_province_code', v_address ->> 'postal_code');
    if v_utilities = '{}' then
        raise sqlstate 'PT404' using
            message    = 'Program lookup failed - no utility found',
            hint       = 'No utility of the catalogue serves this postal code in this state or province.',
            constraint = 'no_utility';
    end if;
    v_utility     := app.choose_utility(v_utilities, nullif(p_request -> 'utility', 'null'));
    v_customer_id := app.customer_id(p_organization_id, v_item.reference_id, v_now);
    v_judged      := array(select j from app.judge_tiers(v_utility, v_item.building_type, v_item.device_ids, p_request -> 'device_facts', v_date) j);

    return json_build_object(
        'customer_id', v_customer_id,
        'reference_id', v_item.reference_id,
        'address', json_strip_nulls(json_build_object(
            'street_1', v_address -> 'street_1',
            'street_2', v_address -> 'street_2',
            'city', v_address -> 'city',
            'state_or_province_code', v_address -> 'state_or_province_code',
            'postal_code', v_address -> 'postal_code',
            'country_code', v_address -> 'country_code')),
        'building_type', v_item.building_type,
        'utility', app.utility_json(v_utility),
        'possible_utilities', app.utilities_json(v_utilities),
        'programs_evaluated', (select count(*) from app.find_programs(v_utility)),
        'incentives', app.incentives_json(v_judged));
end;
$$;

comment on function api.lookup_incentives(uuid, jsonb) is
'The incentives of one site: {reference_id, address, building_type, device_ids}, as in a batch; a device_id that repeats is a quantity. Optional: utility, one of possible_utilities; lookup_date, a day (default: today in UTC); device_facts, what is known of devices, such as {"1": {"cost": 12000, "ton": 2.5}} (US dollars for one, size in a unit). Amounts in US dollars. The customer of that reference_id is made when new. 400: invalid_request, unknown_device, unknown_utility. 404: no_utility, organization_exists.';
