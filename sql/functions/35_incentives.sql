-- Chapter 35, incentives: the embedded provider. A lookup finds the utility of the site and the customer of the organization; chapter 36
-- evaluates the programs, chapters 37 and 38 put it together.

-- The utilities of a site, the default first: those of the longest known prefix of its postal code in its state.
create or replace function app.find_utilities(p_country_code text, p_region_code text, p_postal_code text) returns app.utilities[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_postal_code text   := case p_country_code when 'US' then left(p_postal_code, 5) else upper(replace(p_postal_code, ' ', '')) end;
    v_prefixes    text[] := array(select left(v_postal_code, n) from generate_series(1, length(v_postal_code)) n);
begin
    return array(
        select row(u.*)::app.utilities
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

-- The utility that the request chose from the possible ones, or the first of them.
create or replace function app.choose_utility(p_utilities app.utilities[], p_choice jsonb) returns app.utilities
language plpgsql stable
set search_path = pg_catalog, pg_temp
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
        perform app.refuse(
            400, 'unknown_utility', 'The chosen utility does not serve this address',
            'utility must be one of possible_utilities, such as {"eiaid": 16572} or {"name": "Eversource"}.',
            json_build_object('possible_utilities', app.utilities_json(p_utilities)));
    end if;
    return v_utility;
end;
$$;

create or replace function app.utility_json(p_utility app.utilities) returns json
language sql immutable
as $$
    select json_build_object('eiaid', (p_utility).eiaid, 'name', (p_utility).name)
$$;

create or replace function app.utilities_json(p_utilities app.utilities[]) returns json
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (select json_agg(app.utility_json(u)) from unnest(p_utilities) u);
end;
$$;

-- A valid address; only street_2 may be missing.
create or replace function app.address_json(p_address jsonb) returns json
language sql immutable
return case when p_address ? 'street_2' then json_build_object(
    'street_1', p_address -> 'street_1',
    'street_2', p_address -> 'street_2',
    'city', p_address -> 'city',
    'state_or_province_code', p_address -> 'state_or_province_code',
    'postal_code', p_address -> 'postal_code',
    'country_code', p_address -> 'country_code')
else json_build_object(
    'street_1', p_address -> 'street_1',
    'city', p_address -> 'city',
    'state_or_province_code', p_address -> 'state_or_province_code',
    'postal_code', p_address -> 'postal_code',
    'country_code', p_address -> 'country_code') end;

-- The utilities that an earlier lookup found, without retired ones; none if the first, the customer's own, is retired: then the catalogue
-- decides who serves the customer now, such as the utility that it was merged into.
create or replace function app.utilities_of(p_keys text[]) returns app.utilities[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return array(select row(u.*)::app.utilities
                   from unnest(p_keys) with ordinality k (key, place)
                   join app.utilities u on u.key = k.key and u.retired_at is null
                  where exists (select from app.utilities o where o.key = p_keys[1] and o.retired_at is null)
                  order by k.place);
end;
$$;

-- The id of the customer with that reference_id, who is created if new.
create or replace function app.customer_id(p_organization_id uuid, p_reference_id text, p_now timestamptz) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
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
        -- A concurrent lookup has just created the customer.
        if not found then
            select id into v_id from app.customers where organization_id = p_organization_id and reference_id = p_reference_id;
        end if;
    end if;
    return v_id;
end;
$$;

-- Stores what the next refresh of the customer looks up again.
create or replace function app.remember_lookup(
    p_organization_id uuid, p_customer_id bigint, p_item app.batch_item, p_utilities app.utilities[], p_utility app.utilities
) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_keys text[] := array(select u.key from unnest(p_utilities) with ordinality u order by u.key <> p_utility.key, u.ordinality);
begin
    update app.customers c
       set address       = p_item.address,
           building_type = p_item.building_type,
           device_ids    = p_item.device_ids,
           utility_keys  = v_keys
     where c.organization_id = p_organization_id and c.id = p_customer_id
       and (c.address, c.building_type, c.device_ids, c.utility_keys)
           is distinct from (p_item.address, p_item.building_type, p_item.device_ids, v_keys);
end;
$$;
