-- Chapter 20, organizations: the tenants, and the authentication of their members and API keys.

create or replace function api.create_organization(p_name text, p_clerk_organization_id text default null) returns uuid
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := app.clock();
begin
    if coalesce(btrim(p_name), '') = '' or length(p_name) > 200 then
        perform app.refuse_option('name', 'a string of 1 to 200 characters');
    end if;
    insert into app.organizations (id, name, clerk_organization_id, created_at)
    values (app.uuid_v7(v_now), p_name, p_clerk_organization_id, v_now)
    on conflict (name) do update
       set clerk_organization_id = coalesce(excluded.clerk_organization_id, organizations.clerk_organization_id);
    return (select id from app.organizations where name = p_name);
end;
$$;

comment on function api.create_organization(text, text) is 'The id of the organization with that name, which is created if it is new, and linked to the Clerk organization if one is given. 400: invalid_name. 409: that Clerk organization is linked to another one.';

-- Named after its slug, with its id added if another organization has that name.
create or replace function app.create_clerk_organization(p_clerk_organization_id text, p_slug text) returns uuid
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_id   uuid        := app.organization_id_of_clerk(p_clerk_organization_id);
    v_now  timestamptz := app.clock();
    v_name text;
begin
    if not (select create_clerk_organizations from app.settings) then
        raise sqlstate 'PT403' using
            message    = 'This organization is not registered here',
            hint       = 'The operator of this service must create it first.',
            constraint = 'unknown_organization';
    end if;
    foreach v_name in array array_remove(array[nullif(btrim(left(p_slug, 200)), ''), p_clerk_organization_id, v_id::text], null) loop
        insert into app.organizations (id, name, clerk_organization_id, created_at)
        values (v_id, v_name, p_clerk_organization_id, v_now)
        on conflict do nothing;
        exit when exists (select from app.organizations where id = v_id);
    end loop;
    return v_id;
end;
$$;

create or replace function app.all_scopes() returns text[]
language sql immutable
return array['jobs:read', 'jobs:write', 'reports:read', 'reports:write', 'incentives:write', 'applications:read',
             'applications:write', 'webhooks:read', 'webhooks:write', 'keys:admin'];

-- Clerk's default roles under their current and their older names; custom roles may read.
create or replace function app.role_scopes(p_role text) returns text[]
language sql immutable
return case
    when p_role = 'admin' then app.all_scopes()
    when p_role in ('member', 'basic_member') then array(select s from unnest(app.all_scopes()) s where s not in ('keys:admin', 'webhooks:write'))
    else array(select s from unnest(app.all_scopes()) s where s like '%:read')
end;

create or replace function api.authenticate_clerk_member(p_clerk_organization_id text, p_slug text default null, p_role text default null) returns json
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_organization_id uuid := (select id from app.organizations where clerk_organization_id = p_clerk_organization_id);
begin
    return json_build_object(
        'organization_id', coalesce(v_organization_id, app.create_clerk_organization(p_clerk_organization_id, p_slug)),
        'scopes', app.role_scopes(p_role),
        'requests_per_minute', (select requests_per_minute from app.settings));
end;
$$;

comment on function api.authenticate_clerk_member(text, text, text) is 'The organization and scopes of a Clerk member: {organization_id, scopes, requests_per_minute (null: no limit)}. A new organization is created, or refused (403) if the setting create_clerk_organizations is false.';

create or replace function app.check_organization(p_organization_id uuid) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (select from app.organizations where id = p_organization_id) then
        raise sqlstate 'PT404' using message = 'Organization not found', constraint = 'organization_not_found';
    end if;
end;
$$;

create or replace function api.authenticate_api_key(p_key_hash bytea, p_client_address inet default null) returns json
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := app.clock();
    v_key app.api_keys;
begin
    select * into v_key
      from app.api_keys
     where key_hash = p_key_hash and revoked_at is null and (expires_at is null or expires_at > v_now);
    if not found then
        raise sqlstate 'PT401' using message = 'Invalid API key', constraint = 'invalid_api_key';
    elsif v_key.allowed_networks is not null and p_client_address <<= any (v_key.allowed_networks) is not true then
        raise sqlstate 'PT403' using message = 'This API key may not be used from this address', constraint = 'address_not_allowed';
    end if;

    -- Once a minute is precise enough and saves a write per request. A read-only standby cannot record the use.
    if (v_key.last_used_at is null or v_key.last_used_at < v_now - interval '1 minute') and not current_setting('transaction_read_only')::boolean then
        update app.api_keys
           set last_used_at = v_now
         where id = (select id from app.api_keys where id = v_key.id for update skip locked);
    end if;
    return json_build_object(
        'organization_id', v_key.organization_id,
        'api_key_id', v_key.id,
        'scopes', v_key.scopes,
        'requests_per_minute', (select requests_per_minute from app.settings));
end;
$$;

comment on function api.authenticate_api_key(bytea, inet) is 'The organization and scopes of an API key, given by its hash: {organization_id, api_key_id, scopes, requests_per_minute (null: no limit)}. 401: unknown, revoked or expired. 403: not allowed from that address.';
