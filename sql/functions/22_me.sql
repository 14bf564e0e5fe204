-- Chapter 22, me: what callers can learn about themselves.

-- The API key or the user that p_caller names: their id, as in app.api_keys.created_by; null: a service of the operator.
create or replace function app.caller_json(p_organization_id uuid, p_caller text) returns json
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_key app.api_keys;
begin
    select * into v_key
      from app.api_keys
     where organization_id = p_organization_id and id::text = p_caller;
    return json_build_object(
        'type', case when v_key.id is not null then 'api_key' when p_caller is not null then 'user' else 'service' end,
        'id', p_caller,
        'name', v_key.name,
        'expires_at', app.rfc3339(v_key.expires_at));
end;
$$;

create or replace function api.get_me(
    p_organization_id uuid default app.claimed_organization_id(), p_scopes text[] default null, p_caller text default null
) returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_claims       jsonb;
    v_organization app.organizations;
    v_settings     app.settings;
begin
    -- Every role has this scope, and the shell has checked the scopes of its callers.
    perform app.authorize(p_organization_id, 'jobs:read');
    perform app.check_organization(p_organization_id);
    v_claims := nullif(current_setting('request.jwt.claims', true), '')::jsonb;
    select * into v_organization from app.organizations where id = p_organization_id;
    select * into v_settings from app.settings;
    return json_build_object(
        'organization', json_build_object('id', v_organization.id, 'name', v_organization.name),
        'caller', app.caller_json(p_organization_id, app.acting_caller(p_caller)),
        'scopes', coalesce(p_scopes, app.scopes_of_claims(v_claims), '{}'),
        'limits', json_build_object(
            'requests_per_minute', v_settings.requests_per_minute,
            'items_per_batch', 10000,
            'open_items', v_settings.max_open_items));
end;
$$;

comment on function api.get_me(uuid, text[], text) is
'The caller: {organization {id, name}, caller {type (api_key, user or service), id, name, expires_at}, scopes, limits}. limits: requests_per_minute of one key or user (null: none), items_per_batch, and open_items that the organization may have in all its jobs. The shell gives p_scopes and p_caller, the id of the key or of the user; of a member, the claims say who it is and, without p_scopes, those. 404: no such organization.';
grant execute on function api.get_me(uuid, text[], text) to authenticated;
