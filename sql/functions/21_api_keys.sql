-- Chapter 21, API keys: create, list, rotate, revoke. The database never sees a key, only its hash.

-- p_uses: when each key was last used, {id: time}.
create or replace function app.api_key_json(p_key app.api_keys, p_uses jsonb) returns json
language sql stable
as $$
    select json_build_object(
        'id', (p_key).id,
        'organization_id', (p_key).organization_id,
        'name', (p_key).name,
        'prefix', (p_key).prefix,
        'last_four', (p_key).last_four,
        'scopes', (p_key).scopes,
        'allowed_networks', (p_key).allowed_networks,
        'created_at', app.rfc3339((p_key).created_at),
        'expires_at', app.rfc3339((p_key).expires_at),
        'last_used_at', p_uses -> (p_key).id::text,
        'revoked_at', app.rfc3339((p_key).revoked_at),
        'replaced_by', (p_key).replaced_by,
        'created_by', (p_key).created_by
    )
$$;

create or replace function app.uses_of_keys(p_organization_id uuid, p_api_key_ids uuid[]) returns jsonb
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (select coalesce(jsonb_object_agg(api_key_id, app.rfc3339(used_at)), '{}')
              from app.api_key_uses
             where organization_id = p_organization_id and api_key_id = any (p_api_key_ids));
end;
$$;

-- Nobody may grant scopes that they lack. p_granted null: the owner of the database, who may grant all scopes.
create or replace function app.check_scopes(p_scopes text[], p_granted text[]) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_scopes = '{}' or not p_scopes <@ app.all_scopes() then
        perform app.refuse(
            400, 'unknown_scope',
            case when p_scopes = '{}' then 'A key needs at least one scope'
                 else format('Unknown scopes: %s', left(array_to_string(array(select unnest(p_scopes) except select unnest(app.all_scopes())), ', '), 500)) end,
            format('The scopes are %s.', array_to_string(app.all_scopes(), ', ')));
    elsif not p_scopes <@ p_granted then
        perform app.refuse(
            403, 'insufficient_scope',
            format('You cannot manage keys with scopes that you lack: %s', array_to_string(array(select unnest(p_scopes) except select unnest(p_granted)), ', ')));
    end if;
end;
$$;

-- ::ffff:192.0.2.0/120 as 192.0.2.0/24, which is what callers from there appear as; other networks stay the same.
create or replace function app.plain_network(p_network cidr) returns cidr
language sql immutable
return case when p_network <<= '::ffff:0:0/96' then (substring(host(p_network) from '[0-9.]+$') || '/' || masklen(p_network) - 96)::cidr
            else p_network end;

-- A key created with another key gets no later expiry and no wider networks than that key, and by default the same. The creating key is
-- locked, so that whoever revokes it finds what it created; once revoked, it creates nothing, even if an API process still has it cached.
create or replace function app.check_key_limits(p_organization_id uuid, p_created_by text, inout p_expires_at timestamptz, inout p_networks cidr[])
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_maker app.api_keys;
begin
    select * into v_maker
      from app.api_keys
     where organization_id = p_organization_id and id::text = p_created_by
       for share;
    if v_maker.revoked_at is not null then
        perform app.refuse(401, 'invalid_api_key', 'Invalid API key');
    end if;
    p_expires_at := coalesce(p_expires_at, v_maker.expires_at);
    p_networks := case when p_networks is null then v_maker.allowed_networks
                       else array(select app.plain_network(n.network) from unnest(p_networks) n (network)) end;
    if p_expires_at > v_maker.expires_at
       or v_maker.allowed_networks is not null
          and exists (select from unnest(p_networks) n (network) where network <<= any (v_maker.allowed_networks) is not true) then
        perform app.refuse(
            403, 'key_limits_exceeded', 'A key can create only keys that expire no later and allow no other networks than its own',
            'Leave out expires_at and allowed_networks to inherit those of your key.');
    end if;
end;
$$;

create or replace function api.create_api_key(
    p_organization_id  uuid,
    p_key_hash         bytea,
    p_prefix           text,
    p_last_four        text,
    p_name             text        default null,
    p_scopes           text[]      default null,
    p_expires_at       timestamptz default null,
    p_allowed_networks cidr[]      default null,
    p_granted_scopes   text[]      default null,
    p_created_by       text        default null
) returns json
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now    timestamptz := app.clock();
    v_id     uuid        := app.uuid_v7(v_now);
    v_scopes text[]      := coalesce(p_scopes, p_granted_scopes, app.all_scopes());
    v_limits record;
    v_key    app.api_keys;
begin
    perform app.check_organization(p_organization_id);
    perform app.check_scopes(v_scopes, p_granted_scopes);
    if length(p_key_hash) is distinct from 32 then
        perform app.refuse_option('p_key_hash', 'the HMAC-SHA256 of the key, which python -m pyshell keys create makes');
    elsif p_prefix is null or p_prefix not in ('leap_live_', 'leap_test_') then
        perform app.refuse_option('p_prefix', 'one of leap_live_, leap_test_');
    elsif length(p_last_four) is distinct from 4 then
        perform app.refuse_option('p_last_four', 'the last four characters of the key');
    elsif p_expires_at <= v_now then
        perform app.refuse(400, 'invalid_expires_at', 'expires_at must be in the future');
    end if;

    v_limits := app.check_key_limits(p_organization_id, p_created_by, p_expires_at, p_allowed_networks);
    v_scopes := array(select s from unnest(app.all_scopes()) s where s = any (v_scopes));
    insert into app.api_keys (id, organization_id, key_hash, prefix, last_four, name, scopes, allowed_networks, expires_at, created_at, created_by)
    values (v_id, p_organization_id, p_key_hash, p_prefix, p_last_four, coalesce(p_name, 'API key'), v_scopes, v_limits.p_networks,
            v_limits.p_expires_at, v_now, p_created_by)
    returning * into v_key;
    perform app.audit(p_organization_id, 'api_key.created', p_created_by, v_key.id::text,
                      jsonb_build_object('name', v_key.name, 'prefix', v_key.prefix, 'last_four', v_key.last_four, 'scopes', v_key.scopes,
                                         'allowed_networks', v_key.allowed_networks, 'expires_at', app.rfc3339(v_key.expires_at)));
    raise log 'API key % of organization % was created', v_key.id, p_organization_id;
    return app.api_key_json(v_key, '{}');
end;
$$;

comment on function api.create_api_key(uuid, bytea, text, text, text, text[], timestamptz, cidr[], text[], text) is
'Stores a new API key by its hash (HMAC-SHA256), and returns it without any secret. No scopes: all of them, or those granted. 400: an unknown scope, expires_at in the past, a malformed hash, prefix or last four. 401: the key p_created_by has been revoked. 403: scopes beyond p_granted_scopes, which the creator has; a later expiry or other networks than those of the key whose id is p_created_by. 404: no such organization.';

-- The options in a request for a key; each member may be absent or null.
create or replace function app.api_key_options(p_request jsonb, out name text, out scopes text[], out expires_at timestamptz, out allowed_networks cidr[], out grace interval)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    perform app.check_strings('scopes', p_request -> 'scopes');
    perform app.check_strings('allowed_networks', p_request -> 'allowed_networks');
    if jsonb_typeof(p_request -> 'name') not in ('string', 'null') or btrim(p_request ->> 'name') = '' or length(p_request ->> 'name') > 200 then
        perform app.refuse_option('name', 'a string of 1 to 200 characters');
    elsif jsonb_typeof(p_request -> 'grace_seconds') not in ('number', 'null') then
        perform app.refuse_option('grace_seconds', 'a number from 0 to 2592000');
    elsif (p_request ->> 'grace_seconds')::numeric not between 0 and 2592000 then
        perform app.refuse_option('grace_seconds', 'a number from 0 to 2592000');
    end if;

    name := p_request ->> 'name';
    expires_at := app.read_timestamp('expires_at', p_request -> 'expires_at');
    grace := app.seconds(coalesce((p_request ->> 'grace_seconds')::double precision, 86400));
    if jsonb_typeof(p_request -> 'scopes') = 'array' then
        scopes := array(select jsonb_array_elements_text(p_request -> 'scopes'));
    end if;
    begin
        if jsonb_typeof(p_request -> 'allowed_networks') = 'array' then
            allowed_networks := array(select network(n::inet)::cidr from jsonb_array_elements_text(p_request -> 'allowed_networks') n);
        end if;
    exception
        when data_exception then
            perform app.refuse_option('allowed_networks', 'an array of networks such as 203.0.113.0/24 or 2001:db8::/32');
    end;
end;
$$;

-- Keys created concurrently may exceed the limit by a few: that is not worth a lock.
create or replace function app.check_api_key_count(p_organization_id uuid, p_limit integer, p_now timestamptz) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if (select count(*)
          from app.api_keys
         where organization_id = p_organization_id and revoked_at is null and (expires_at is null or expires_at > p_now)) >= p_limit then
        perform app.refuse(
            409, 'too_many_api_keys', format('The organization already has %s valid API keys', p_limit),
            'Revoke those that are not needed.');
    end if;
end;
$$;

create or replace function api.request_api_key(
    p_organization_id uuid,
    p_key_hash        bytea,
    p_prefix          text,
    p_last_four       text,
    p_request         jsonb,
    p_granted_scopes  text[],
    p_created_by      text default null
) returns json
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_options record;
    v_max     integer;
begin
    perform app.check_members(p_request, array['name', 'mode', 'scopes', 'expires_at', 'allowed_networks']);
    select max_api_keys into v_max from app.settings;
    perform app.check_api_key_count(p_organization_id, v_max, app.clock());
    v_options := app.api_key_options(p_request);
    return api.create_api_key(p_organization_id, p_key_hash, p_prefix, p_last_four, v_options.name, v_options.scopes,
                              v_options.expires_at, v_options.allowed_networks, p_granted_scopes, p_created_by);
end;
$$;

comment on function api.request_api_key(uuid, bytea, text, text, jsonb, text[], text) is 'api.create_api_key from a body {name, scopes, expires_at, allowed_networks}, all optional. 400: a member is invalid or unknown. 401: the key p_created_by has been revoked. 403: scopes beyond p_granted_scopes, or limits beyond those of the key p_created_by. 404: no such organization. 409 too_many_api_keys: it has max_api_keys (a setting) valid keys.';

create or replace function app.find_api_key(p_organization_id uuid, p_api_key_id uuid, p_granted_scopes text[]) returns app.api_keys
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_key app.api_keys;
begin
    select * into v_key
      from app.api_keys
     where organization_id = p_organization_id and id = p_api_key_id;
    if not found then
        perform app.refuse(
            404, 'api_key_not_found', 'API key not found',
            app.hint_for_caller(null, 'select api.list_api_keys(organization) lists those of an organization.'));
    end if;
    perform app.check_scopes(v_key.scopes, p_granted_scopes);
    return v_key;
end;
$$;

-- Makes every API process drop its cached credentials of the organization, and end what was begun with one that has ended.
create or replace function app.notify_credentials(p_organization_id uuid) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    perform pg_notify('batch_lookups_credentials', p_organization_id::text);
end;
$$;

comment on function app.notify_credentials(uuid) is 'Notifies the API, at the commit, that API keys of an organization have ended or changed.';

-- The key to change, on behalf of somebody with these scopes; null: the owner of the database. p_maker, the key that creates its successor,
-- is locked with it, in the order of ids, as when both are revoked.
create or replace function app.lock_api_key(p_organization_id uuid, p_api_key_id uuid, p_granted_scopes text[], p_maker text default null)
returns app.api_keys
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    perform
       from app.api_keys
      where organization_id = p_organization_id and id::text in (p_api_key_id::text, p_maker)
      order by id
        for update;
    return app.find_api_key(p_organization_id, p_api_key_id, p_granted_scopes);
end;
$$;

create or replace function api.get_api_key(p_organization_id uuid, p_api_key_id uuid, p_granted_scopes text[] default null) returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return app.api_key_json(app.find_api_key(p_organization_id, p_api_key_id, p_granted_scopes), app.uses_of_keys(p_organization_id, array[p_api_key_id]));
end;
$$;

comment on function api.get_api_key(uuid, uuid, text[]) is 'One API key, without the key. 403: it has scopes beyond p_granted_scopes. 404: no such key in this organization.';

create or replace function api.list_api_keys(
    p_organization_id uuid, p_limit integer default 20, p_offset integer default 0, p_cursor text default null, p_granted_scopes text[] default null
) returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_cursor app.page_cursor := app.read_page(p_cursor, 'api_keys', p_limit, p_offset, 200);
    v_keys   app.api_keys[];
    v_total  bigint;
    v_uses   jsonb;
begin
    select coalesce(array_agg(row(k.*)::app.api_keys), '{}') into v_keys
      from (select *
              from app.api_keys
             where organization_id = p_organization_id and (p_granted_scopes is null or scopes <@ p_granted_scopes)
               and (p_cursor is null or (created_at, id) < (v_cursor.created_at, v_cursor.id))
             order by created_at desc, id desc
             limit p_limit + 1 offset p_offset) k;
    select count(*) into v_total
      from app.api_keys
     where organization_id = p_organization_id and (p_granted_scopes is null or scopes <@ p_granted_scopes);
    v_uses := app.uses_of_keys(p_organization_id, array(select id from unnest(v_keys)));
    return json_build_object(
        'api_keys', (select coalesce(json_agg(app.api_key_json(k, v_uses) order by k.created_at desc, k.id desc), '[]') from unnest(v_keys[:p_limit]) k),
        'total', v_total,
        'limit', p_limit,
        'offset', p_offset,
        'next_cursor', case when cardinality(v_keys) > p_limit
                            then app.cursor(row('api_keys', null, null, null, v_keys[p_limit].created_at, v_keys[p_limit].id, null)) end);
end;
$$;

comment on function api.list_api_keys(uuid, integer, integer, text, text[]) is 'The API keys of an organization, within p_granted_scopes, newest first, revoked and expired ones included: {api_keys, total, limit, offset, next_cursor}; p_cursor is the next_cursor of the page before. 400: limit not in 1 to 200, invalid_cursor, cursor_with_offset.';

create or replace function api.rotate_api_key(
    p_organization_id uuid,
    p_api_key_id      uuid,
    p_key_hash        bytea,
    p_last_four       text,
    p_request         jsonb  default '{}',
    p_granted_scopes  text[] default null,
    p_created_by      text   default null
) returns json
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now     timestamptz  := app.clock();
    v_old     app.api_keys := app.lock_api_key(p_organization_id, p_api_key_id, p_granted_scopes, p_created_by);
    v_options record;
    v_max     integer;
    v_ends_at timestamptz;
    v_new     json;
begin
    perform app.check_members(p_request, array['grace_seconds', 'expires_at']);
    -- During the grace period, each key may have its successor beside it.
    select 2 * max_api_keys into v_max from app.settings;
    perform app.check_api_key_count(p_organization_id, v_max, v_now);
    v_options := app.api_key_options(p_request);
    if v_old.revoked_at is not null or v_old.expires_at <= v_now or v_old.replaced_by is not null then
        perform app.refuse(
            409, 'api_key_inactive',
            case when v_old.revoked_at is not null then 'The key has been revoked'
                  when v_old.replaced_by is not null then 'The key has already been rotated'
                  else format('The key expired at %s', app.rfc3339(v_old.expires_at)) end,
            'Create a new key instead.');
    end if;

    v_new := api.create_api_key(p_organization_id, p_key_hash, v_old.prefix, p_last_four, v_old.name, v_old.scopes,
                                coalesce(v_options.expires_at, v_old.expires_at), v_old.allowed_networks, p_granted_scopes, p_created_by);
    -- A new key inherits limits that it is not given; a successor with limits that the old key lacks would fail where that one works.
    if v_old.allowed_networks is null and v_new ->> 'allowed_networks' is not null
       or coalesce(v_options.expires_at, v_old.expires_at) is null and v_new ->> 'expires_at' is not null then
        perform app.refuse(
            403, 'key_limits_exceeded', 'A key can rotate only keys that expire no later and allow no other networks than its own',
            'Rotate it with a key that lacks these limits.');
    end if;
    v_ends_at := v_now + v_options.grace;
    update app.api_keys
       set replaced_by = (v_new ->> 'id')::uuid,
           expires_at  = least(expires_at, v_ends_at)
     where organization_id = p_organization_id and id = p_api_key_id;
    perform app.audit(p_organization_id, 'api_key.rotated', p_created_by, p_api_key_id::text, jsonb_build_object('replaced_by', v_new -> 'id'));
    perform app.notify_credentials(p_organization_id);
    return v_new;
end;
$$;

comment on function api.rotate_api_key(uuid, uuid, bytea, text, jsonb, text[], text) is
'Replaces a key with a new one with the same name, scopes and networks; the old one keeps working for grace_seconds (default: one day; at most 30 days). 400: a member is invalid. 401: the key p_created_by has been revoked. 403: its scopes are beyond p_granted_scopes, or its expiry or networks beyond those of the key p_created_by. 404: no such key. 409: it has expired, was revoked or was already rotated, or twice max_api_keys are valid.';

-- A key and, with p_include_created, all keys created with it, directly or indirectly.
create or replace function api.revoke_api_key(
    p_organization_id uuid,
    p_api_key_id      uuid,
    p_granted_scopes  text[]  default null,
    p_include_created boolean default false,
    p_actor           text    default null
) returns json
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now   timestamptz  := app.clock();
    v_key   app.api_keys := app.lock_api_key(p_organization_id, p_api_key_id, p_granted_scopes);
    v_ids   uuid[]       := array[p_api_key_id];
    v_known integer;
begin
    -- Repeat until no more are found: each key may have created another before it was locked.
    while p_include_created and v_known is distinct from cardinality(v_ids) loop
        v_known := cardinality(v_ids);
        v_ids := array(
            with recursive made as (
                select p_api_key_id as id
                union
                select k.id
                  from made m
                  join app.api_keys k on k.organization_id = p_organization_id and k.created_by = m.id::text
            )
            select id from made);
        perform from app.api_keys where organization_id = p_organization_id and id = any (v_ids) order by id for update;
    end loop;
    v_ids := array(select id from app.api_keys where organization_id = p_organization_id and id = any (v_ids) and revoked_at is null order by id for update);
    update app.api_keys
       set revoked_at = v_now
     where organization_id = p_organization_id and id = any (v_ids);
    perform app.audit(p_organization_id, 'api_key.revoked', p_actor, id::text) from unnest(v_ids) id;
    perform app.notify_credentials(p_organization_id);
    raise log 'API keys % of organization % were revoked', v_ids, p_organization_id;
    return app.api_key_json(app.find_api_key(p_organization_id, v_key.id, p_granted_scopes), app.uses_of_keys(p_organization_id, array[v_key.id]));
end;
$$;

comment on function api.revoke_api_key(uuid, uuid, text[], boolean, text) is 'Revokes a key immediately and permanently, with p_include_created also the keys created with it, and returns it; a second call changes nothing. 403: its scopes are beyond p_granted_scopes. 404: no such key in this organization.';
