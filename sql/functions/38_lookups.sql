-- Chapter 38, lookups: POST /incentives, from the request through chapters 35 and 36 to the response and its log.

-- The utilities of the address: those found there by the customer's last lookup, else those in the catalogue.
create or replace function app.lookup_utilities(p_address jsonb, p_known_keys text[]) returns app.utilities[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_utilities app.utilities[] := app.utilities_of(p_known_keys);
begin
    if v_utilities = '{}' then
        v_utilities := app.find_utilities(p_address ->> 'country_code', p_address ->> 'state_or_province_code', p_address ->> 'postal_code');
    end if;
    if v_utilities = '{}' then
        perform app.refuse(
            404, 'no_utility', 'Program lookup failed - no utility found',
            'No utility of the catalogue serves this postal code in this state or province.');
    end if;
    return v_utilities;
end;
$$;

create or replace function app.connect_url(p_organization_id uuid, p_reference_id text, p_base text, p_for_item boolean) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_company text := (app.profile(p_organization_id)).company;
begin
    if v_company is null and p_for_item is not true then
        perform app.refuse(
            400, 'company_missing', 'Applications need the organization''s company, which is not set',
            app.hint_for_caller('Set it once: in the portal under Organization, or PATCH /organization with {"company": "acme"}.',
                                'Set it once: select api.update_organization(organization, ''{"company": "acme"}'').'));
    end if;
    return rtrim(p_base, '/') || '/' || v_company || '/refId/' || p_reference_id;
end;
$$;

create or replace function app.log_incentive_call(
    p_organization_id uuid, p_customer_id bigint, p_reference_id text, p_operation_type text, p_status integer, p_response text, p_now timestamptz
) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into app.incentive_calls (organization_id, id, customer_id, reference_id, operation_type, status, response, called_at)
    values (p_organization_id, app.uuid_v7(p_now), p_customer_id, left(p_reference_id, 500), left(p_operation_type, 100), p_status, p_response, p_now);
end;
$$;

-- Its queries are a few index lookups for any values: planning them for each call would take longer than running them.
create or replace function api.lookup_incentives(
    p_organization_id uuid default app.claimed_organization_id(), p_request jsonb default null,
    p_connect_url_base text default null, p_for_item boolean default false
) returns json
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set jit = off
as $$
declare
    v_now         timestamptz := app.clock();
    v_asked       record;
    v_item        app.batch_item;
    v_date        date;
    v_utilities   app.utilities[];
    v_utility     app.utilities;
    v_connect_url text;
    v_customer_id bigint;
    v_judged      app.judged_tier[];
    v_result      text;
begin
    perform app.authorize(p_organization_id, 'incentives:write');
    v_asked       := app.complete_lookup_request(p_organization_id, p_request);
    v_item        := app.parse_lookup_request(v_asked.request);
    v_date        := coalesce((v_asked.request ->> 'lookup_date')::date,
                              app.local_day(v_item.address ->> 'country_code', v_item.address ->> 'state_or_province_code', v_now));
    v_utilities   := app.lookup_utilities(v_item.address, v_asked.utility_keys);
    v_utility     := app.choose_utility(v_utilities, v_asked.request -> 'utility');
    if v_item.create_application then
        v_connect_url := app.connect_url(p_organization_id, v_item.reference_id, p_connect_url_base, p_for_item);
    end if;
    v_customer_id := app.customer_id(p_organization_id, v_item.reference_id, v_now);
    perform app.remember_lookup(p_organization_id, v_customer_id, v_item, v_utilities, v_utility);
    v_judged      := array(select j from app.judge_tiers(v_utility, v_item.building_type, v_item.device_ids, v_asked.request -> 'device_facts', v_date,
                                                                  v_asked.request -> 'household', v_item.address ->> 'city') j);

    v_result := json_build_object(
        'customer_id', v_customer_id,
        'reference_id', v_item.reference_id,
        'address', app.address_json(v_item.address),
        'building_type', v_item.building_type,
        'utility', app.utility_json(v_utility),
        'possible_utilities', app.utilities_json(v_utilities),
        'programs_evaluated', (select count(*) from app.find_programs(v_utility, v_item.address ->> 'city')),
        'incentives', app.incentives_json(v_judged));
    if v_item.create_application then
        perform app.file_applications(p_organization_id, v_customer_id, v_item.reference_id, v_result::jsonb, v_now);
    end if;
    if v_connect_url is not null then
        v_result := app.join_objects(v_result::json, json_build_object('connect_url', v_connect_url))::text;
    end if;
    if p_for_item is not true then
        perform app.enqueue_lookup_webhook(p_organization_id, v_item, v_result::json, v_now);
    end if;
    perform app.log_incentive_call(p_organization_id, v_customer_id, v_item.reference_id, v_asked.operation_type, 200, v_result, v_now);
    return v_result::json;
end;
$$;

comment on function api.lookup_incentives(uuid, jsonb, text, boolean) is
'The incentives of one site.

p_request is {reference_id, address, building_type, device_ids or device_names}, as in a batch; a repeated device is a quantity. The customer of that reference_id is created if new. Optional members:

- operation_type: lookup (default); refresh, the customer''s last lookup again, with its devices and, unless it has been retired, its utility; override, the same with other devices.
- utility: one of possible_utilities.
- lookup_date: a day (default: today at the site).
- device_facts: what is known about the devices, such as {"1": {"cost": 12000, "ton": 2.5}}: US dollars for one, size in a unit.
- household: what is known about the people at the site: {income (US dollars a year), size, owner_status (homeowner or renter), tax_filing (single, joint, separate, head_of_household, surviving_spouse)}, each of them optional. An offer that depends on an income that is not given, or that is for renters only when owner_status is not given, is conditional, and summed separately as conditional_incentive_amount.
- create_application: files an application for each eligible program, and returns its connect_url under p_connect_url_base.

p_for_item: the lookup of a batch item, which needs no company for its applications and sends no webhook of its own. Amounts in US dollars.

400: invalid_request, invalid_operation_type, unknown_device, unknown_utility, company_missing. 404: no_utility, customer_not_found, organization_not_found.';
grant execute on function api.lookup_incentives(uuid, jsonb, text, boolean) to authenticated;

create or replace function api.log_refused_lookup(p_organization_id uuid, p_request jsonb, p_status integer, p_response json) returns json
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := app.clock();
begin
    if exists (select from app.organizations where id = p_organization_id) then
        perform app.log_incentive_call(p_organization_id, null, p_request ->> 'reference_id', coalesce(p_request ->> 'operation_type', 'lookup'),
                                       p_status, p_response::text, v_now);
    end if;
    return json_build_object('logged', true);
end;
$$;

comment on function api.log_refused_lookup(uuid, jsonb, integer, json) is 'Logs a lookup that api.lookup_incentives refused, with its HTTP status and the answer.';

-- Deletes calls past their retention, up to p_limit of an organization at a time. Ids ascend with time, so the primary key finds them.
create or replace function app.prune_incentive_calls(p_organization_id uuid, p_now timestamptz, p_limit integer default 5000) returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_days  integer := (select incentive_call_retention_days from app.settings);
    v_first uuid    := app.uuid_v7_floor(p_now - make_interval(days => v_days));
    v_count integer;
begin
    delete from app.incentive_calls
     where organization_id = p_organization_id
       and id in (select id from app.incentive_calls where organization_id = p_organization_id and id < v_first order by id limit p_limit);
    get diagnostics v_count = row_count;
    return v_count;
end;
$$;
