-- Chapter 35, incentives: the embedded provider. A lookup finds the site's utility and the organization's customer; chapter 36 judges
-- the programs.

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
    v_item        app.batch_item;
    v_address     jsonb;
    v_date        date;
    v_utilities   app.utilities[];
    v_utility     app.utilities;
    v_customer_id bigint;
    v_judged      app.judged_tier[];
begin
    perform app.authorize(p_organization_id);
    v_item        := app.parse_lookup_request(p_request);
    v_address     := v_item.address;
    v_date        := coalesce((p_request ->> 'lookup_date')::date, (v_now at time zone 'UTC')::date);
    v_utilities   := app.find_utilities(v_address ->> 'country_code', v_address ->> 'state_or_province_code', v_address ->> 'postal_code');
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
