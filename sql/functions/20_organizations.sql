-- Chapter 20, organizations: the tenants, and the authentication of their members and API keys.

create or replace function app.check_organization_name(p_name text) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if coalesce(btrim(p_name), '') = '' or length(p_name) > 200 then
        perform app.refuse_option('name', 'a string of 1 to 200 characters');
    elsif p_name like 'clerk:%' then
        perform app.refuse(
            409, 'organization_of_clerk', 'Names that begin with clerk: are reserved for organizations created through Clerk',
            'Choose another name. With the id of the Clerk organization, its organization here gets that name.');
    end if;
end;
$$;

-- Operators choose names, and so do users of Clerk, who may create an organization with any slug: theirs begin with clerk:, so that the two
-- never collide. An organization created for a Clerk organization has the id that is computed from its claims.
create or replace function api.create_organization(p_name text, p_clerk_organization_id text default null) returns uuid
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now          timestamptz := app.clock();
    v_organization app.organizations;
begin
    perform app.check_organization_name(p_name);
    if p_clerk_organization_id !~ '^org_[0-9A-Za-z]{1,200}$' then
        perform app.refuse_option('clerk_organization_id', 'the id of a Clerk organization, such as org_2ab...');
    end if;
    -- The organization that its members created gets the name that the operator has now given it.
    update app.organizations
       set name = p_name
     where clerk_organization_id = p_clerk_organization_id and name like 'clerk:%'
       and not exists (select from app.organizations where name = p_name)
    returning * into v_organization;
    if found then
        perform app.audit(v_organization.id, 'organization.renamed', p_details => jsonb_build_object('name', jsonb_build_object('to', p_name)));
    end if;
    insert into app.organizations (id, name, clerk_organization_id, created_at)
    values (coalesce(app.organization_id_of_clerk(p_clerk_organization_id), app.uuid_v7(v_now)), p_name, p_clerk_organization_id, v_now)
    on conflict do nothing
    returning * into v_organization;
    if found then
        perform app.audit(v_organization.id, 'organization.created',
                          p_details => jsonb_strip_nulls(jsonb_build_object('name', p_name, 'clerk_organization_id', p_clerk_organization_id)));
        return v_organization.id;
    end if;
    select * into v_organization
      from app.organizations
     where name = p_name
       for update;
    if v_organization.clerk_organization_id is distinct from p_clerk_organization_id and p_clerk_organization_id is not null then
        perform app.link_organization(v_organization, p_clerk_organization_id);
    end if;
    return v_organization.id;
end;
$$;

comment on function api.create_organization(text, text) is 'The id of the organization of that name, which is created when new; for the Clerk organization where one is given. An organization that has been without one is linked to it; its members then need the claim organization_id in SQL. 400: invalid_name, invalid_clerk_organization_id. 409: the organization has another Clerk organization, or this one has another organization (organization_linked), or a name that begins with clerk: (organization_of_clerk).';

-- Whether an id is of version 8: computed from a Clerk id, which policies follow whatever the link says.
create or replace function app.is_of_clerk(p_id uuid) returns boolean
language sql immutable
return substr(p_id::text, 15, 1) = '8';

-- Whether an organization is linked to a Clerk organization other than the one that its id is computed from, as used to be possible.
create or replace function app.is_relinked(p_id uuid, p_clerk_organization_id text) returns boolean
language sql immutable
return app.is_of_clerk(p_id) and p_id is distinct from app.organization_id_of_clerk(p_clerk_organization_id);

-- A link is never replaced: the members of the former organization would keep their access. p_organization is null if no organization has
-- the name.
create or replace function app.link_organization(p_organization app.organizations, p_clerk_organization_id text) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if (p_organization).id is null or (p_organization).clerk_organization_id is not null or app.is_of_clerk((p_organization).id)
       or exists (select from app.organizations
                   where clerk_organization_id = p_clerk_organization_id or id = app.organization_id_of_clerk(p_clerk_organization_id)) then
        perform app.refuse(
            409, 'organization_linked', 'The organization or the Clerk organization is already linked to another one',
            'A link cannot be replaced. Create an organization with another name for this Clerk organization.');
    end if;
    update app.organizations set clerk_organization_id = p_clerk_organization_id where id = (p_organization).id;
    perform app.audit((p_organization).id, 'organization.linked', p_details => jsonb_build_object('clerk_organization_id', p_clerk_organization_id));
    raise log 'organization % was linked to Clerk''s %', (p_organization).id, p_clerk_organization_id;
end;
$$;

-- Named by its slug or, if another Clerk organization used that slug before, by its Clerk id.
create or replace function app.create_clerk_organization(p_clerk_organization_id text, p_slug text) returns uuid
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_id   uuid        := app.organization_id_of_clerk(p_clerk_organization_id);
    v_now  timestamptz := app.clock();
    v_name text;
begin
    if coalesce(p_clerk_organization_id, '') !~ '^org_[0-9A-Za-z]{1,200}$' then
        perform app.refuse_option('clerk_organization_id', 'the id of a Clerk organization, such as org_2ab...');
    end if;
    if (select create_clerk_organizations from app.settings) then
        foreach v_name in array array_remove(array[nullif(btrim(left(p_slug, 194)), ''), p_clerk_organization_id], null) loop
            insert into app.organizations (id, name, clerk_organization_id, created_at)
            values (v_id, left('clerk:' || v_name, 200), p_clerk_organization_id, v_now)
            on conflict do nothing;
            if found then
                perform app.audit(v_id, 'organization.created', 'system', p_details => jsonb_build_object('name', left('clerk:' || v_name, 200), 'clerk_organization_id', p_clerk_organization_id));
            end if;
            if exists (select from app.organizations where id = v_id and clerk_organization_id = p_clerk_organization_id) then
                return v_id;
            end if;
        end loop;
    end if;
    perform app.refuse(
        403, 'unknown_organization', 'This organization is not registered here',
        'The operator of this service must create it first.');
    return null;
end;
$$;

create or replace function app.all_scopes() returns text[]
language sql immutable
return array['jobs:read', 'jobs:write', 'reports:read', 'reports:write', 'incentives:write', 'applications:read',
             'applications:write', 'webhooks:read', 'webhooks:write', 'keys:admin'];

-- Clerk's default roles by their current and older names; custom roles may read.
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
    v_settings        app.settings;
begin
    if v_organization_id is null then
        v_organization_id := app.create_clerk_organization(p_clerk_organization_id, p_slug);
    end if;
    select * into v_settings from app.settings;
    return json_build_object(
        'organization_id', v_organization_id,
        'scopes', app.role_scopes(p_role),
        'requests_per_minute', v_settings.requests_per_minute,
        'organization_requests_per_minute', coalesce(v_settings.organization_requests_per_minute, 4 * v_settings.requests_per_minute));
end;
$$;

comment on function api.authenticate_clerk_member(text, text, text) is 'The organization and scopes of a Clerk member: {organization_id, scopes, requests_per_minute, organization_requests_per_minute (null: no limit)}. A new organization is created, or refused (403) if the setting create_clerk_organizations is false.';

create or replace function app.check_organization(p_organization_id uuid) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (select from app.organizations where id = p_organization_id) then
        perform app.refuse_organization();
    end if;
end;
$$;

-- Also for a violated foreign key to the organization, which may have been deleted after the snapshot.
create or replace function app.refuse_organization() returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    perform app.refuse(
        404, 'organization_not_found', 'Organization not found',
        app.hint_for_caller(null, 'For operators, select * from api.list_organizations() lists them.'));
end;
$$;

-- Once a minute is precise enough and saves a write per request. It never waits for another request with the same key.
create or replace function app.note_use_of_key(p_organization_id uuid, p_api_key_id uuid, p_now timestamptz) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_used_at timestamptz;
begin
    select used_at into v_used_at
      from app.api_key_uses
     where organization_id = p_organization_id and api_key_id = p_api_key_id;
    if v_used_at >= p_now - interval '1 minute' then
        return;
    end if;
    -- Recording this must not make the request wait for the disk or for a synchronous standby.
    perform set_config('synchronous_commit', 'off', true);
    if v_used_at is null then
        insert into app.api_key_uses (organization_id, api_key_id, used_at)
        values (p_organization_id, p_api_key_id, p_now)
        on conflict do nothing;
    else
        perform from app.api_key_uses where organization_id = p_organization_id and api_key_id = p_api_key_id for update skip locked;
        if found then
            update app.api_key_uses
               set used_at = p_now
             where organization_id = p_organization_id and api_key_id = p_api_key_id;
        end if;
    end if;
end;
$$;

create or replace function api.authenticate_api_key(p_key_hash bytea, p_client_address inet default null, p_previous_key_hash bytea default null) returns json
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := app.clock();
    v_key app.api_keys;
begin
    select * into v_key
      from app.api_keys
     where key_hash in (p_key_hash, p_previous_key_hash) and revoked_at is null and (expires_at is null or expires_at > v_now);
    if not found then
        perform app.refuse(401, 'invalid_api_key', 'Invalid API key');
    elsif v_key.allowed_networks is not null and p_client_address <<= any (v_key.allowed_networks) is not true then
        perform app.refuse(403, 'address_not_allowed', 'This API key may not be used from this address');
    end if;

    -- A read-only standby cannot record that the key was used.
    if not current_setting('transaction_read_only')::boolean then
        perform app.note_use_of_key(v_key.organization_id, v_key.id, v_now);
        if v_key.key_hash <> p_key_hash then
            update app.api_keys set key_hash = p_key_hash where id = v_key.id;
        end if;
    end if;
    return json_build_object(
        'organization_id', v_key.organization_id,
        'api_key_id', v_key.id,
        'scopes', v_key.scopes,
        'requests_per_minute', (select requests_per_minute from app.settings),
        'organization_requests_per_minute', (select coalesce(organization_requests_per_minute, 4 * requests_per_minute) from app.settings));
end;
$$;

comment on function api.authenticate_api_key(bytea, inet, bytea) is 'The organization and scopes of an API key, given by its hash: {organization_id, api_key_id, scopes, requests_per_minute, organization_requests_per_minute (null: no limit)}. p_previous_key_hash is the hash with the previous pepper, which p_key_hash then replaces. 401: unknown, revoked or expired. 403: not allowed from that address.';
