-- Chapter 36, eligibility: evaluates every tier of the programs that a customer may apply to, for every device of a lookup.

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

-- The programs that a customer of the utility may apply to, and why.
create or replace function app.find_programs(p_utility app.utilities) returns table (id text, name text, location text)
language plpgsql stable rows 10
set search_path = pg_catalog, pg_temp
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

-- The requirements of a tier, as far as a lookup knows whether they are met.
create or replace function app.check_requirements(
    p_tier app.program_tiers, p_device app.devices, p_category text, p_building_type text, p_date date,
    out failed text[], out completed text[]
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
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

-- The tiers of the utility's and the state's programs, evaluated for every device that they cover. A device that none covers is evaluated
-- by the nearest tier of every program, so that the answer can say why. Sizes and costs that the request lacks are typical ones. A cap
-- limits all devices of a tier together, in the order of the request.
create or replace function app.judge_tiers(
    p_utility app.utilities, p_building_type text, p_device_ids integer[], p_device_facts jsonb, p_date date
) returns setof app.judged_tier
language plpgsql stable
set search_path = pg_catalog, pg_temp
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
set search_path = pg_catalog, pg_temp
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
set search_path = pg_catalog, pg_temp
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
        'incentive_amount', round(p_judged.amount, 2),
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
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        with program as (
            select j.program_id, j.program_name, round(sum(j.amount), 2) as amount, count(*) filter (where j.failed = '{}') as eligible,
                   json_agg(app.judged_tier_json(j) order by j.place, (j.tier).id) as results
              from unnest(p_judged) j
             group by j.program_id, j.program_name
        )
        select json_build_object(
                   'total_incentive_amount', coalesce(sum(p.amount), 0.00),
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
