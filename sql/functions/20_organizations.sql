-- Chapter 20, organizations: tenants and API keys.

create or replace function api.create_organization(p_name text, p_clerk_organization_id text default null) returns uuid
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_now timestamptz := app.clock();
begin
    insert into app.organizations (id, name, clerk_organization_id, created_at)
    values (app.uuid_v7(v_now), p_name, p_clerk_organization_id, v_now)
    on conflict (name) do update
       set clerk_organization_id = coalesce(excluded.clerk_organization_id, organizations.clerk_organization_id);
    return (select id from app.organizations where name = p_name);
end;
$$;

comment on function api.create_organization(text, text) is 'The id of the organization of that name, which is created when new, and linked to the Clerk organization where one is given. 409: another one is linked to that already.';

-- Named by its slug or, where another organization has that name, by its ids.
create or replace function app.create_clerk_organization(p_clerk_organization_id text, p_slug text) returns uuid
language plpgsql volatile
set search_path = ''
as $$
declare
    v_id   uuid        := app.organization_id_of_clerk(p_clerk_organization_id);
    v_now  timestamptz := app.clock();
    v_name text;
begin
    if not (select create_clerk_organizations from app.settings) then
        raise sqlstate 'PT403' using
            message    = 'This organization is not known here',
            hint       = 'Whoever runs this service has to create it first.',
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

-- Roles by Clerk's default names, with the older ones; a role of one's own may read.
create or replace function app.role_scopes(p_role text) returns text[]
language sql immutable
return case
    when p_role = 'admin' then app.all_scopes()
    when p_role in ('member', 'basic_member') then array(select s from unnest(app.all_scopes()) s where s not in ('keys:admin', 'webhooks:write'))
    else array(select s from unnest(app.all_scopes()) s where s like '%:read')
end;

create or replace function api.authenticate_clerk_member(p_clerk_organization_id text, p_slug text default null, p_role text default null) returns json
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_organization_id uuid := (select id from app.organizations where clerk_organization_id = p_clerk_organization_id);
begin
    return json_build_object(
        'organization_id', coalesce(v_organization_id, app.create_clerk_organization(p_clerk_organization_id, p_slug)),
        'scopes', app.role_scopes(p_role));
end;
$$;

comment on function api.authenticate_clerk_member(text, text, text) is 'Who a member of a Clerk organization works for, and what for they may by their role: {organization_id, scopes}. The organization is created when new, or refused by the setting create_clerk_organizations (403).';

create or replace function app.check_organization(p_organization_id uuid) returns void
language plpgsql stable
set search_path = ''
as $$
begin
    if not exists (select from app.organizations where id = p_organization_id) then
        raise sqlstate 'PT404' using message = 'Organization not found', constraint = 'organization_exists';
    end if;
end;
$$;

create or replace function app.api_key_json(p_key app.api_keys) returns json
language sql stable
return json_build_object(
    'id', (p_key).id,
    'organization_id', (p_key).organization_id,
    'name', (p_key).name,
    'prefix', (p_key).prefix,
    'last_four', (p_key).last_four,
    'scopes', (p_key).scopes,
    'created_at', app.rfc3339((p_key).created_at),
    'expires_at', app.rfc3339((p_key).expires_at),
    'last_used_at', app.rfc3339((p_key).last_used_at),
    'revoked_at', app.rfc3339((p_key).revoked_at)
);

create or replace function api.create_api_key(
    p_organization_id uuid,
    p_key_hash        bytea,
    p_prefix          text,
    p_last_four       text,
    p_name            text        default null,
    p_scopes          text[]      default null,
    p_expires_at      timestamptz default null
) returns json
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_now timestamptz := app.clock();
    v_key app.api_keys;
begin
    perform app.check_organization(p_organization_id);
    if not coalesce(p_scopes, '{}') <@ app.all_scopes() then
        raise sqlstate 'PT400' using
            message    = format('Unknown scopes: %s', array_to_string(array(select unnest(p_scopes) except select unnest(app.all_scopes())), ', ')),
            hint       = format('The scopes are %s.', array_to_string(app.all_scopes(), ', ')),
            constraint = 'unknown_scope';
    end if;

    insert into app.api_keys (id, organization_id, key_hash, prefix, last_four, name, scopes, expires_at, created_at)
    values (app.uuid_v7(v_now), p_organization_id, p_key_hash, p_prefix, p_last_four,
            coalesce(p_name, 'API key'), coalesce(p_scopes, app.all_scopes()), p_expires_at, v_now)
    returning * into v_key;
    return app.api_key_json(v_key);
end;
$$;

comment on function api.create_api_key(uuid, bytea, text, text, text, text[], timestamptz) is 'Stores a new API key by its hash (HMAC-SHA256) and answers it without any secret. No scopes: all of them. 400: an unknown scope. 404: no such organization.';

create or replace function api.authenticate_api_key(p_key_hash bytea) returns json
language plpgsql volatile security definer
set search_path = ''
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
    end if;

    -- Once a minute is precise enough, and spares every request a write.
    if v_key.last_used_at is null or v_key.last_used_at < v_now - interval '1 minute' then
        update app.api_keys set last_used_at = v_now where id = v_key.id;
    end if;
    return json_build_object('organization_id', v_key.organization_id, 'api_key_id', v_key.id, 'scopes', v_key.scopes);
end;
$$;

comment on function api.authenticate_api_key(bytea) is 'Who an API key, given by its hash, belongs to: {organization_id, api_key_id, scopes}. 401: unknown, revoked or expired.';
