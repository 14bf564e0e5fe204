-- Chapter 37, lookup requests: completes a request of POST /incentives from the organization's profile and the customer's last lookup.

create or replace function app.profile(p_organization_id uuid) returns app.incentive_profiles
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_profile app.incentive_profiles;
begin
    select * into v_profile from app.incentive_profiles where organization_id = p_organization_id;
    return v_profile;
end;
$$;

create or replace function app.profile_json(p_organization_id uuid) returns json
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_profile app.incentive_profiles := app.profile(p_organization_id);
begin
    return (select json_build_object('id', id, 'name', name, 'company', v_profile.company, 'device_names', coalesce(v_profile.device_names, '{}'))
              from app.organizations
             where id = p_organization_id);
end;
$$;

create or replace function api.get_organization(p_organization_id uuid default app.claimed_organization_id()) returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform app.authorize(p_organization_id, 'jobs:read');
    perform app.check_organization(p_organization_id);
    return app.profile_json(p_organization_id);
end;
$$;

comment on function api.get_organization(uuid) is
'The organization: {id, name, company, device_names}. company is its part of a connect_url; device_names its own names of devices with their ids. 404: no such organization.';
grant execute on function api.get_organization(uuid) to authenticated;

-- The map with its names in lower case; null: not a map. p_with_null: a name may map to null, for no device.
create or replace function app.parse_device_names(p_names jsonb, p_with_null boolean default false) returns jsonb
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if jsonb_typeof(p_names) is distinct from 'object'
       or exists (select
                    from jsonb_each(p_names) n
                   where btrim(n.key) = '' or length(n.key) > 200
                      or n.value::text not in (select id::text from app.devices) and not (p_with_null and n.value = 'null')) then
        return null;
    end if;
    return (select coalesce(jsonb_object_agg(lower(btrim(n.key)), n.value), '{}') from jsonb_each(p_names) n);
end;
$$;

create or replace function api.update_organization(
    p_organization_id uuid default app.claimed_organization_id(), p_changes jsonb default null, p_actor text default null
) returns json
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now     timestamptz := app.clock();
    v_names   jsonb;
    v_changes jsonb;
    v_removed text[];
begin
    perform app.authorize(p_organization_id, 'keys:admin');
    perform app.check_organization(p_organization_id);
    perform app.check_json(p_changes, 128 * 1024);
    v_names   := app.parse_device_names(p_changes -> 'device_names');
    v_changes := app.parse_device_names(p_changes -> 'device_name_changes', true);
    if jsonb_typeof(p_changes) is distinct from 'object' or p_changes = '{}'
       or p_changes - array['company', 'device_names', 'device_name_changes'] <> '{}' then
        perform app.refuse(
            400, 'invalid_organization', 'The body must be an object with company, device_names or device_name_changes',
            '{"company": "acme", "device_names": {"Split system": 1}}');
    elsif jsonb_typeof(p_changes -> 'company') not in ('string', 'null') or p_changes ->> 'company' !~ '^[A-Za-z0-9._~-]{1,100}$' then
        perform app.refuse(400, 'invalid_organization', 'company must be null, or 1 to 100 characters of A-Z, a-z, 0-9 and . _ ~ -',
                           '{"company": "acme"}');
    elsif p_changes ? 'device_names' and v_names is null then
        perform app.refuse(400, 'invalid_organization', 'device_names must map names of 1 to 200 characters to device ids',
                           '{"device_names": {"Split system": 1}}');
    elsif p_changes ? 'device_name_changes' and v_changes is null then
        perform app.refuse(400, 'invalid_organization', 'device_name_changes must map names of 1 to 200 characters to device ids or null',
                           '{"device_name_changes": {"Split system": 1, "Old name": null}}');
    end if;
    v_changes := coalesce(v_changes, '{}');
    v_removed := array(select key from jsonb_each(v_changes) where value = 'null');
    insert into app.incentive_profiles as p (organization_id, company, device_names, updated_at)
    values (p_organization_id, p_changes ->> 'company', (coalesce(v_names, '{}') || v_changes) - v_removed, v_now)
        on conflict (organization_id) do update
       set company      = case when p_changes ? 'company' then excluded.company else p.company end,
           device_names = case when p_changes ? 'device_names' then excluded.device_names
                               else (p.device_names || v_changes) - v_removed end,
           updated_at   = excluded.updated_at
    returning p.device_names into v_names;
    if length(v_names::text) > 100000 then
        perform app.refuse(400, 'invalid_organization', 'device_names may have at most 100,000 characters in all');
    end if;
    perform app.audit(p_organization_id, 'organization.changed', p_actor, p_details => jsonb_build_object('changed', app.member_names(p_changes)));
    return app.profile_json(p_organization_id);
end;
$$;

comment on function api.update_organization(uuid, jsonb, text) is
'Changes company, device_names or both, and returns the organization as api.get_organization does. device_names replaces the whole map; device_name_changes sets the names it contains, and removes those whose value is null. 400 invalid_organization, such as for an unknown device id. 404: no such organization.';
grant execute on function api.update_organization(uuid, jsonb, text) to authenticated;

-- Ids of device names: the organization's own names take precedence over the catalogue's. A repeated name is a quantity, like a repeated
-- id.
create or replace function app.resolve_device_names(p_organization_id uuid, p_names jsonb) returns jsonb
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_own     jsonb := coalesce((app.profile(p_organization_id)).device_names, '{}');
    v_ids     jsonb;
    v_unknown text[];
begin
    if jsonb_typeof(p_names) is distinct from 'array' or jsonb_array_length(p_names) not between 1 and 100
       or exists (select from jsonb_array_elements(p_names) n where jsonb_typeof(n) <> 'string') then
        perform app.refuse(400, 'invalid_request', 'device_names must be an array of 1 to 100 names');
    end if;
    select jsonb_agg(f.id order by n.place), array_agg(distinct left(n.name, 100)) filter (where f.id is null) into v_ids, v_unknown
      from jsonb_array_elements_text(p_names) with ordinality n (name, place)
     cross join lateral (
           select coalesce(v_own -> lower(btrim(n.name)),
                           (select to_jsonb(min(id)) from app.devices where lower(name) = lower(btrim(n.name)) and retired_at is null)) as id) f;
    if v_unknown is not null then
        perform app.refuse(
            400, 'unknown_device', format('Unknown device_names: %s', array_to_string(v_unknown, ', ')),
            'Use names of the organization''s device_names or of the catalogue''s devices.',
            json_build_object('unknown_device_names', v_unknown));
    end if;
    return v_ids;
end;
$$;

-- The request with device names resolved; a refresh or an override is completed from the customer's last lookup.
create or replace function app.complete_lookup_request(
    p_organization_id uuid, p_request jsonb, out request jsonb, out operation_type text, out utility_keys text[]
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_customer app.customers;
begin
    if jsonb_typeof(p_request) is distinct from 'object' then
        perform app.refuse(400, 'invalid_request', 'The body must be a JSON object');
    end if;
    perform app.check_json(p_request);
    -- A null member counts as absent.
    request        := (select coalesce(jsonb_object_agg(m.key, m.value), '{}') from jsonb_each(p_request) m where m.value <> 'null');
    operation_type := coalesce(request ->> 'operation_type', 'lookup');
    perform app.check_choice('operation_type', operation_type, array['lookup', 'refresh', 'override']);
    if request ?& array['device_ids', 'device_names'] then
        perform app.refuse(400, 'invalid_request', 'Provide either device_ids or device_names, not both');
    elsif request ? 'device_names' and operation_type <> 'refresh' then
        request := request || jsonb_build_object('device_ids', app.resolve_device_names(p_organization_id, request -> 'device_names'));
    end if;
    request := request - array['operation_type', 'device_names'];

    if operation_type in ('refresh', 'override') then
        select * into v_customer
          from app.customers
         where organization_id = p_organization_id and reference_id = request ->> 'reference_id';
        if v_customer.device_ids is null then
            perform app.refuse(
                404, 'customer_not_found', 'This reference_id has not been looked up yet',
                'Look it up first, with operation_type lookup.');
        elsif operation_type = 'override' and not request ? 'device_ids' then
            perform app.refuse(400, 'invalid_request', 'An override needs device_ids or device_names');
        end if;
        utility_keys := case when coalesce(request -> 'address', v_customer.address) = v_customer.address then v_customer.utility_keys end;
        request      := jsonb_build_object('address', v_customer.address, 'building_type', v_customer.building_type)
                     || case operation_type when 'override' then request
                                            else request || jsonb_build_object('device_ids', v_customer.device_ids) end;
    end if;
end;
$$;

-- What is wrong with the facts about a household, each of which may be absent or null; null: nothing.
create or replace function app.household_error(p_household jsonb) returns text
language sql immutable
return case when p_household is null or p_household = 'null' then null
            when jsonb_typeof(p_household) <> 'object' or p_household - array['income', 'size', 'owner_status', 'tax_filing'] <> '{}'
            then 'household must be an object with income, size, owner_status or tax_filing'
            when coalesce(p_household -> 'income', 'null') <> 'null'
                 and not (jsonb_typeof(p_household -> 'income') = 'number' and p_household -> 'income' >= '0' and p_household -> 'income' <= '1e9')
            then 'household.income must be a number of US dollars a year from 0 to 1,000,000,000'
            when coalesce(p_household -> 'size', 'null') <> 'null' and (p_household -> 'size')::text !~ '^([1-9]|1[0-9]|20)$'
            then 'household.size must be a whole number from 1 to 20'
            when p_household ->> 'owner_status' not in ('homeowner', 'renter')
            then 'household.owner_status must be one of homeowner, renter'
            when p_household ->> 'tax_filing' not in ('single', 'joint', 'separate', 'head_of_household', 'surviving_spouse')
            then 'household.tax_filing must be one of single, joint, separate, head_of_household, surviving_spouse' end;

-- The facts that are given; null: none.
create or replace function app.household(p_household jsonb) returns jsonb
language sql immutable
return nullif(case jsonb_typeof(p_household) when 'object' then jsonb_strip_nulls(p_household) end, '{}');

-- Errors in the members that only single lookups have; null: none. Chapter 41 checks the others.
create or replace function app.lookup_request_errors(p_request jsonb) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_facts jsonb := coalesce(nullif(p_request -> 'device_facts', 'null'), '{}');
begin
    return nullif(concat_ws('; ',
        case when jsonb_typeof(p_request -> 'utility') not in ('object', 'null') then 'utility must be an object with eiaid or name' end,
        case when p_request ->> 'lookup_date' !~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}$' or app.catalogue_date(p_request ->> 'lookup_date') is null
              and p_request ->> 'lookup_date' is not null then 'lookup_date must be a date such as 2026-05-31' end,
        case when jsonb_typeof(v_facts) <> 'object' then 'device_facts must be an object of objects'
             when exists (select
                            from jsonb_each(v_facts) d (id, facts)
                           cross join lateral jsonb_each(case jsonb_typeof(d.facts) when 'object' then d.facts else '{"": null}' end) f (name, value)
                           where case jsonb_typeof(f.value) when 'number' then f.value <= '0' or f.value > '1e9' else true end)
             then 'device_facts must map each device id to numbers above 0 and up to 1,000,000,000, such as {"1": {"cost": 12000, "ton": 2.5}}' end,
        app.household_error(p_request -> 'household')), '');
end;
$$;

-- The completed and validated request, as a batch item.
create or replace function app.parse_lookup_request(p_request jsonb) returns app.batch_item
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_item    app.batch_item;
    v_errors  text;
    v_unknown integer[];
begin
    select * into v_item
      from app.parse_batch_items(array[p_request - array['utility', 'lookup_date', 'device_facts', 'household']], false);
    v_errors := nullif(concat_ws('; ', case when p_request ? 'metadata' then 'Unknown fields: metadata' end, app.problems_text(v_item.problems), app.lookup_request_errors(p_request)), '');
    if v_errors is not null then
        perform app.refuse(400, 'invalid_request', v_errors);
    end if;

    v_unknown := array(select unnest(v_item.device_ids) except select id from app.devices order by 1);
    if v_unknown <> '{}' then
        perform app.refuse(
            400, 'unknown_device', format('Unknown device_ids: %s', array_to_string(v_unknown, ', ')),
            p_members => json_build_object('unknown_device_ids', v_unknown));
    end if;
    return v_item;
end;
$$;
