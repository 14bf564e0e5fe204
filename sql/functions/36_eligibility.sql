-- Chapter 36, eligibility: evaluates every tier of the programs that a customer may apply to, for every device of a lookup.

create or replace function app.dollars(p_amount numeric) returns text
language sql immutable
return to_char(p_amount, 'FM$999,999,999,999,999,999,999,990.009999');

-- 1 ton, 1,200 square feet, 7.4 kilowatts
create or replace function app.quantity(p_number numeric, p_unit text) returns text
language sql immutable
return trim(trailing '.' from to_char(p_number, 'FM999,999,999,990.999999')) || ' ' || case
    when p_number = 1 then replace(p_unit, '_', ' ')
    when p_unit = 'square_foot' then 'square feet'
    else replace(p_unit, '_', ' ') || 's'
end;

-- The programs that a customer of the utility in that city may apply to, and the reason.
create or replace function app.find_programs(p_utility app.utilities, p_city text) returns table (id text, name text, location text)
language plpgsql stable rows 10
set search_path = pg_catalog, pg_temp
as $$
declare
    v_cities constant text[] := app.city_names(p_city);
begin
    return query
    select p.id, p.name, 'Location: ' || case when p.cities is not null then btrim(p_city) || ', ' else '' end || r.name
      from app.programs p
      join app.regions r on r.country_code = p.country_code and r.code = p.region_code
     where p.country_code = p_utility.country_code and p.region_code = p_utility.region_code
       and p.scope = 'state' and p.retired_at is null and (p.cities is null or p.cities && v_cities)
     union all
    select p.id, p.name, 'Location: customer of ' || p_utility.name
      from app.program_utilities u
      join app.programs p on p.id = u.program_id
     where u.utility_key = p_utility.key and p.scope = 'utility' and p.retired_at is null and (p.cities is null or p.cities && v_cities);
end;
$$;

-- Whether the household's income is within the limits; null: unknown. The limit of a larger household is never lower. If limits depend on
-- the county, only incomes below the lowest or above the highest of them are judged.
create or replace function app.income_is_within(p_limits jsonb, p_household jsonb) returns boolean
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_income  numeric := (p_household ->> 'income')::numeric;
    v_size    integer := (p_household ->> 'size')::integer;
    v_largest integer := (select max(k::integer) from jsonb_object_keys(p_limits) k where k ~ '^[0-9]+$');
    v_limits  jsonb   := coalesce(p_limits -> case when v_size is not null then least(v_size, v_largest)::text end,
                                  p_limits -> (p_household ->> 'tax_filing'));
begin
    return case when v_income <= (v_limits ->> 0)::numeric then true
                when v_income > (v_limits ->> 1)::numeric and (v_size <= v_largest or v_largest is null) then false end;
end;
$$;

-- The requirements of a tier: those not met, those met, and those that the lookup does not say enough about. Unless told otherwise, a
-- household is assumed to own its home: otherwise offers for owners and offers for renters would be added up.
create or replace function app.check_requirements(
    p_tier app.program_tiers, p_device app.devices, p_category text, p_building_type text, p_date date, p_household jsonb,
    out failed text[], out completed text[], out conditions text[]
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_is_within boolean;
begin
    failed     := '{}';
    completed  := '{}';
    conditions := '{}';
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
        failed := failed || format('Date: starts on %s', app.iso_date(p_tier.start_date));
    elsif p_date > p_tier.end_date then
        failed := failed || format('Date: ended on %s', app.iso_date(p_tier.end_date));
    else
        completed := completed || concat_ws(' ', 'Date: open', 'from ' || app.iso_date(p_tier.start_date), 'to ' || app.iso_date(p_tier.end_date));
    end if;
    if p_household ->> 'owner_status' <> all (p_tier.owner_statuses) then
        failed := failed || format('Owner status: for a %s, not for a %s', array_to_string(p_tier.owner_statuses, ' or a '), p_household ->> 'owner_status');
    elsif p_tier.owner_statuses is not null and p_household ->> 'owner_status' is not null then
        completed := completed || format('Owner status: %s', p_household ->> 'owner_status');
    elsif 'homeowner' <> all (p_tier.owner_statuses) then
        conditions := conditions || format('Owner status: for a %s', array_to_string(p_tier.owner_statuses, ' or a '));
    end if;
    if p_tier.income_requirement is not null then
        v_is_within := app.income_is_within(p_tier.income_limits, p_household);
        if v_is_within then
            completed := completed || format('Income: %s', p_tier.income_requirement);
        elsif not v_is_within then
            failed := failed || format('Income: %s', p_tier.income_requirement);
        else
            conditions := conditions || format('Income: %s', p_tier.income_requirement);
        end if;
    end if;
end;
$$;

-- The tiers of the utility's and the state's programs, evaluated for every device that they cover, before they are paid. A device that none
-- covers is evaluated by the nearest tier of every program, so that the response can say why. Missing sizes and costs are assumed to be
-- typical.
create or replace function app.find_offers(
    p_utility app.utilities, p_building_type text, p_device_ids integer[], p_device_facts jsonb, p_date date, p_household jsonb, p_city text
) returns setof app.judged_tier
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    with request as (
        select row(d.*)::app.devices as device, c.name as category, c.typical_cost, count(*) as quantity, min(r.place) as place,
               coalesce(p_device_facts -> d.id::text, '{}') as facts
          from unnest(p_device_ids) with ordinality r (id, place)
          join app.devices d on d.id = r.id
          join app.device_categories c on c.key = d.category_key
         group by d.id, c.key
    ), candidate as (
        select p.id as program_id, p.name as program_name, p.location, row(t.*)::app.program_tiers as tier, r.*,
               row_number() over (partition by p.id, (r.device).id order by (r.device).category_key = any (t.category_keys) desc, t.id) as distance,
               f.fits, bool_or(f.fits) over (partition by (r.device).id) as covered
          from app.find_programs(p_utility, p_city) p
          join app.program_tiers t on t.program_id = p.id
         cross join request r
         cross join lateral (
             select (r.device).category_key = any (t.category_keys) and coalesce((r.device).id = any (t.device_ids), true) as fits) f
    ), judged as (
        select c.*, coalesce(k.size, s.typical_size) as size, k.size is not null as size_known,
               coalesce(k.cost, c.typical_cost) as cost, k.cost is not null as cost_known, q.completed, q.conditions,
               case when c.fits and (c.tier).unit is not null and coalesce(k.size, s.typical_size) is null
                    then q.failed || format('Size: not given (%s), and there is no typical one', (c.tier).unit) else q.failed end as failed
          from candidate c
         cross join lateral app.check_requirements(c.tier, c.device, c.category, p_building_type, p_date, p_household) q
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
    )
    select v.program_id, v.program_name, v.location, v.tier, v.device, v.category, v.quantity, v.place, v.size, v.size_known, v.cost,
           v.cost_known, v.failed, v.completed, v.full_amount,
           case when v.failed = '{}' then least(v.full_amount, round(v.quantity * v.cost * (v.tier).cap_percent / 100, 2)) else 0 end, 0.00,
           v.conditions, 0.00
      from valued v;
end;
$$;

-- In the order in which they are paid: device by device, in the order of the request; each program after those that exclude it; of the
-- program's offers first the one that pays most, and of equal ones the one with the largest cap.
create or replace function app.in_order_of_payment(p_offers app.judged_tier[]) returns app.judged_tier[]
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return array(
        with recursive exclusion as materialized (
            select distinct (o.device).id as device_id, o.program_id, e.program_id as excluded_id
              from unnest(p_offers) o
             cross join unnest((o.tier).excludes) e (program_id)
        ), chain as (
            -- The limit is for chains without an end, which an import refuses.
            select x.device_id, x.excluded_id as program_id, 1 as length from exclusion x
             union
            select x.device_id, x.excluded_id, c.length + 1
              from chain c
              join exclusion x on x.device_id = c.device_id and x.program_id = c.program_id
             where c.length < 100
        )
        select row(o.*)::app.judged_tier
          from unnest(p_offers) o
          left join (select device_id, program_id, max(length) as length from chain group by device_id, program_id) c
            on c.device_id = (o.device).id and c.program_id = o.program_id
         order by o.place, coalesce(c.length, 0), o.program_id, least(o.limited_amount, (o.tier).cap, (o.tier).shared_cap) desc,
                  (o.tier).cap desc, (o.tier).shared_cap desc, (o.tier).id);
end;
$$;

-- The keys of what was paid under the cap of an offer and under its shared cap (null: it has none), and of a program that is excluded for a
-- device.
create or replace function app.cap_of(p_offer app.judged_tier) returns text
language sql immutable
as $$ select (p_offer).program_id || ' ' || ((p_offer).tier).id $$;

create or replace function app.shared_cap_of(p_offer app.judged_tier) returns text
language sql immutable
as $$ select (p_offer).program_id || '|' || ((p_offer).tier).shared_cap $$;

create or replace function app.exclusion_of(p_device app.devices, p_program_id text) returns text
language sql immutable
as $$ select (p_device).id || ' ' || p_program_id $$;

-- What the caps leave of an offer. p_spent: what has been paid, by offer and by shared cap. p_replaced: what would not be paid then.
create or replace function app.payable(p_offer app.judged_tier, p_spent jsonb, p_replaced app.judged_tier default null) returns numeric
language sql immutable
as $$
    select least((p_offer).limited_amount,
                 ((p_offer).tier).cap - coalesce((p_spent ->> app.cap_of(p_offer))::numeric, 0),
                 ((p_offer).tier).shared_cap - coalesce((p_spent ->> app.shared_cap_of(p_offer))::numeric, 0)
                 + case when ((p_replaced).tier).shared_cap = ((p_offer).tier).shared_cap then (p_replaced).amount else 0 end)
$$;

-- p_spent with the amount of an offer in place of p_replaced.
create or replace function app.spend(
    p_spent jsonb, p_offer app.judged_tier, p_amount numeric, p_replaced app.judged_tier default null
) returns jsonb
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_own    text    := app.cap_of(p_offer);
    v_shared text    := app.shared_cap_of(p_offer);
    v_saved  numeric := case when (p_replaced.tier).shared_cap = (p_offer.tier).shared_cap then p_replaced.amount else 0 end;
begin
    return p_spent || jsonb_build_object(v_own, coalesce((p_spent ->> v_own)::numeric, 0) + p_amount)
        || case when v_shared is null then '{}'
                else jsonb_build_object(v_shared, coalesce((p_spent ->> v_shared)::numeric, 0) + p_amount - v_saved) end;
end;
$$;

-- The place of the offer, certain or conditional, of which the caps leave most; null: none is open.
create or replace function app.best_offer(
    p_offers app.judged_tier[], p_first integer, p_last integer, p_is_conditional boolean, p_spent jsonb,
    p_replaced app.judged_tier default null
) returns integer
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_best   integer;
    v_amount numeric;
    v_most   numeric;
begin
    for v_place in p_first .. p_last loop
        continue when p_offers[v_place].failed <> '{}' or (p_offers[v_place].conditions <> '{}') <> p_is_conditional;
        v_amount := app.payable(p_offers[v_place], p_spent, p_replaced);
        if v_best is null or v_amount > v_most then
            v_best := v_place;
            v_most := v_amount;
        end if;
    end loop;
    return v_best;
end;
$$;

-- p_excluded with what an offer excludes for its device: device and program, with the name of the first program that excludes it.
create or replace function app.exclude(p_excluded jsonb, p_offer app.judged_tier) returns jsonb
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if (p_offer.tier).excludes is null then
        return p_excluded;
    end if;
    return p_excluded || (select jsonb_object_agg(k.key, least(p_excluded ->> k.key, p_offer.program_name))
                            from (select app.exclusion_of(p_offer.device, e.program_id) as key
                                    from unnest((p_offer.tier).excludes) e (program_id)) k);
end;
$$;

-- Tiers of a program are alternatives for a device: the one of which the caps leave most is paid, of equal ones the one with the largest
-- cap; the others pay nothing. A cap limits all devices of a tier together, in the order of the request, and a shared cap all tiers of the
-- program that have it. For a device that a tier pays for, the programs that it excludes pay nothing and exclude nothing themselves.
create or replace function app.pay_offers(p_offers app.judged_tier[]) returns app.judged_tier[]
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_offers   app.judged_tier[] := app.in_order_of_payment(p_offers);
    -- Where the offers of each program for each device end.
    v_lasts    integer[]         := array(select max(o.ordinality)
                                            from unnest(v_offers) with ordinality o
                                           group by (o.device).id, o.program_id
                                           order by 1);
    v_spent    jsonb             := '{}';
    v_excluded jsonb             := '{}';
    v_first    integer           := 1;
    v_last     integer;
    v_best     integer;
    v_name     text;
begin
    foreach v_last in array v_lasts loop
        v_name := v_excluded ->> app.exclusion_of(v_offers[v_last].device, v_offers[v_last].program_id);
        v_best := case when v_name is null then app.best_offer(v_offers, v_first, v_last, false, v_spent) end;
        if v_best is not null then
            v_offers[v_best].amount := app.payable(v_offers[v_best], v_spent);
            v_spent := app.spend(v_spent, v_offers[v_best], v_offers[v_best].amount);
            if v_offers[v_best].amount > 0 then
                v_excluded := app.exclude(v_excluded, v_offers[v_best]);
            end if;
        end if;
        for v_place in v_first .. v_last loop
            if v_name is not null then
                v_offers[v_place].failed := v_offers[v_place].failed || format('Other programs: not in addition to %s', v_name);
            end if;
            if v_name is not null or v_offers[v_place].conditions = '{}' and v_place is distinct from v_best then
                v_offers[v_place].limited_amount := 0;
            end if;
        end loop;
        v_first := v_last + 1;
    end loop;
    return app.pay_conditional_offers(v_offers, v_lasts, v_spent, v_excluded);
end;
$$;

-- What conditional tiers would pay if all conditions were met, where they would be preferred to what is certain; of shared caps, they get
-- what that leaves. They exclude only what is conditional, too.
create or replace function app.pay_conditional_offers(
    p_offers app.judged_tier[], p_lasts integer[], p_spent jsonb, p_excluded jsonb
) returns app.judged_tier[]
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_offers   app.judged_tier[] := p_offers;
    v_spent    jsonb             := p_spent;
    v_excluded jsonb             := '{}';
    v_first    integer           := 1;
    v_last     integer;
    v_key      text;
    v_paid     integer;
    v_certain  app.judged_tier;
    v_best     integer;
    v_amount   numeric;
begin
    foreach v_last in array p_lasts loop
        v_key := app.exclusion_of(v_offers[v_last].device, v_offers[v_last].program_id);
        v_paid := null;
        v_certain := null;
        for v_place in v_first .. v_last loop
            if v_offers[v_place].amount > 0 then
                v_paid := v_place;
                v_certain := v_offers[v_place];
            elsif p_excluded ? v_key and not v_excluded ? v_key
                  and cardinality(v_offers[v_place].failed) = 1 and v_offers[v_place].full_amount > 0 then
                -- What excludes it may be excluded then.
                v_excluded := app.exclude(v_excluded, v_offers[v_place]);
            end if;
        end loop;
        v_best := case when not v_excluded ? v_key then app.best_offer(v_offers, v_first, v_last, true, v_spent, v_certain) end;
        if v_best is not null then
            v_amount := app.payable(v_offers[v_best], v_spent, v_certain);
            if v_amount > coalesce(v_certain.amount, 0) or v_amount = v_certain.amount and v_best < v_paid then
                v_offers[v_best].conditional_amount := v_amount;
                v_spent := app.spend(v_spent, v_offers[v_best], v_amount, v_certain);
                v_excluded := app.exclude(v_excluded, v_offers[v_best]);
            elsif v_certain.amount > 0 then
                v_best := null;
            end if;
        end if;
        if v_certain.amount > 0 and v_best is null and not v_excluded ? v_key then
            v_excluded := app.exclude(v_excluded, v_certain);
        end if;
        for v_place in v_first .. v_last loop
            if v_offers[v_place].conditions <> '{}' and v_place is distinct from v_best then
                v_offers[v_place].limited_amount := 0;
            end if;
        end loop;
        v_first := v_last + 1;
    end loop;
    return v_offers;
end;
$$;

create or replace function app.judge_tiers(
    p_utility app.utilities, p_building_type text, p_device_ids integer[], p_device_facts jsonb, p_date date, p_household jsonb default null,
    p_city text default null
) returns setof app.judged_tier
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select *
      from unnest(app.pay_offers(array(
           select o from app.find_offers(p_utility, p_building_type, p_device_ids, p_device_facts, p_date, p_household, p_city) o)));
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
    v_amount numeric          := p_judged.amount + p_judged.conditional_amount;
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

    return case when p_judged.failed <> '{}' then concat('Not eligible', '; otherwise ' || v_full)
                when p_judged.limited_amount = 0 and p_judged.full_amount > 0 then v_full || ', not in addition to another offer'
                else concat(v_full,
                    case when p_judged.limited_amount < p_judged.full_amount
                         then format(', at most %s%% of %s%s', trim_scale(v_tier.cap_percent), v_times, v_cost) end,
                    case when v_amount < p_judged.limited_amount
                         then ', capped at ' || array_to_string(array[
                             app.dollars(v_tier.cap) || ' for all devices together',
                             app.dollars(v_tier.shared_cap) || ' together with other offers of the program'], ' and ') end,
                    case when v_amount < p_judged.full_amount then ': ' || app.dollars(v_amount) end,
                    case when p_judged.conditions <> '{}' then ', if the household is eligible' end) end;
end;
$$;

create or replace function app.judged_tier_json(p_judged app.judged_tier) returns json
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_tier app.program_tiers := p_judged.tier;
    v_fits boolean           := (p_judged.device).category_key = any (v_tier.category_keys);
    v_json json;
begin
    v_json := json_build_object(
        'device_id', (p_judged.device).id,
        'device_name', (p_judged.device).name,
        'tier_id', v_tier.id,
        'tier_name', v_tier.name,
        'eligible', p_judged.failed = '{}' and p_judged.conditions = '{}',
        'incentive_amount', round(p_judged.amount, 2),
        'calculation_details', case when v_fits then app.calculation_details(p_judged) else 'Not eligible' end,
        'failed_requirements', p_judged.failed,
        'ignored_requirements', case when v_fits then array_remove(array[
            case when v_tier.amount_type = 'per_unit' and not p_judged.size_known
                 then 'Size: taken as ' || app.quantity(p_judged.size, v_tier.unit) end,
            case when (v_tier.amount_type = 'percent' or v_tier.cap_percent is not null) and not p_judged.cost_known
                 then format('Cost: taken as %s', app.dollars(p_judged.cost)) end,
            case when not array_to_string(p_judged.failed || p_judged.completed || p_judged.conditions, ' ') ~ '\mOwner status: '
                 then 'Owner status: for a ' || array_to_string(v_tier.owner_statuses, ' or a ') end,
            'Other requirements: ' || v_tier.other_requirements], null) else '{}' end,
        'completed_requirements', p_judged.location || p_judged.completed);
    if p_judged.failed = '{}' and p_judged.conditions <> '{}' then
        v_json := app.join_objects(v_json, json_build_object(
            'conditional', true,
            'conditional_requirements', p_judged.conditions,
            'conditional_incentive_amount', round(p_judged.conditional_amount, 2)));
    end if;
    return v_json;
end;
$$;

-- What depends on facts that the lookup does not give is summed separately, if there is any: by how much it exceeds what is certain of the
-- same program, and of those that it excludes.
create or replace function app.with_conditional_amount(p_json json, p_amount numeric) returns json
language sql immutable
return case when p_amount is null then p_json
            else app.join_objects(p_json, json_build_object('conditional_incentive_amount', round(p_amount, 2))) end;

create or replace function app.incentives_json(p_judged app.judged_tier[]) returns json
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        with paid as (
            select j.program_id, (j.device).id as device_id, sum(j.amount) as certain, sum(j.conditional_amount) as conditional,
                   bool_or(j.failed = '{}' and j.conditions <> '{}') as is_conditional
              from unnest(p_judged) j
             group by j.program_id, (j.device).id
        ), displaced as (
            -- What a program pays is deducted once, whoever excludes it: from the one that gains most, and the rest from the next.
            select x.program_id, x.device_id, greatest(o.certain - coalesce(sum(greatest(p.conditional - p.certain, 0)) over earlier, 0), 0) as amount
              from (select distinct j.program_id, (j.device).id as device_id, e.program_id as excluded_id
                      from unnest(p_judged) j
                     cross join unnest((j.tier).excludes) e (program_id)
                     where j.conditional_amount > 0) x
              join paid p on p.program_id = x.program_id and p.device_id = x.device_id
              join paid o on o.program_id = x.excluded_id and o.device_id = x.device_id
            window earlier as (partition by o.program_id, o.device_id order by p.conditional - p.certain desc, p.program_id
                               rows between unbounded preceding and 1 preceding)
        ), conditional as (
            select p.program_id, greatest(p.conditional - p.certain - coalesce(sum(d.amount), 0), 0) as amount
              from paid p
              left join displaced d on d.program_id = p.program_id and d.device_id = p.device_id
             where p.is_conditional
             group by p.program_id, p.device_id, p.conditional, p.certain
        ), program as (
            select j.program_id, j.program_name, round(sum(j.amount), 2) as amount,
                   count(*) filter (where j.failed = '{}' and j.conditions = '{}') as eligible,
                   (select sum(c.amount) from conditional c where c.program_id = j.program_id) as conditional_amount,
                   json_agg(app.judged_tier_json(j) order by j.place, (j.tier).id) as results
              from unnest(p_judged) j
             group by j.program_id, j.program_name
        )
        select app.with_conditional_amount(
                   json_build_object(
                       'total_incentive_amount', coalesce(sum(p.amount), 0.00),
                       'total_eligible_combinations', coalesce(sum(p.eligible), 0),
                       'by_program', coalesce(json_agg(app.with_conditional_amount(
                           json_build_object(
                               'program_id', p.program_id,
                               'program_name', p.program_name,
                               'total_incentive', p.amount,
                               'eligible_combinations', p.eligible,
                               'device_tier_results', p.results),
                           p.conditional_amount) order by p.amount desc, p.program_name, p.program_id), '[]')),
                   sum(p.conditional_amount))
          from program p);
end;
$$;
