-- Chapter 80, webhooks: the config of an organization and its signing secrets.

create or replace function app.webhook_events() returns text[]
language sql immutable
return array['lookup.completed', 'lookup.failed', 'batch.completed', 'batch.failed', 'batch.cancelled'];

-- The members of a config that its owner may change.
create or replace function app.webhook_config_fields() returns text[]
language sql immutable
return array['url', 'events', 'field_names', 'bundle_items', 'enabled'];

-- A signing secret in the form of Standard Webhooks.
create or replace function app.webhook_secret_text(p_secret bytea) returns text
language sql immutable
return 'whsec_' || replace(encode(p_secret, 'base64'), E'\n', '');

create or replace function app.webhook_config_json(p_organization_id uuid, p_now timestamptz) returns json
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_config app.webhook_configs;
begin
    select * into v_config from app.webhook_configs where organization_id = p_organization_id;
    return json_build_object(
        'url', v_config.url,
        'events', coalesce(v_config.events, '{lookup.completed}'),
        'field_names', v_config.field_names,
        'bundle_items', coalesce(v_config.bundle_items, false),
        'enabled', v_config.url is not null and v_config.enabled,
        'disabled_at', app.rfc3339(v_config.disabled_at),
        'disabled_reason', v_config.disabled_reason,
        'failing_since', app.rfc3339(v_config.failing_since),
        'secrets', (select coalesce(json_agg(json_build_object('id', s.id, 'created_at', app.rfc3339(s.created_at),
                                                               'expires_at', app.rfc3339(s.expires_at)) order by s.created_at desc), '[]')
                      from app.webhook_secrets s
                     where s.organization_id = p_organization_id and (s.expires_at is null or s.expires_at > p_now)),
        'created_at', app.rfc3339(v_config.created_at),
        'updated_at', app.rfc3339(v_config.updated_at));
end;
$$;

create or replace function api.get_webhook_config(p_organization_id uuid default app.claimed_organization_id()) returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform app.authorize(p_organization_id, 'webhooks:read');
    return app.webhook_config_json(p_organization_id, app.clock());
end;
$$;

comment on function api.get_webhook_config(uuid) is 'The webhook config of an organization: {url, events, field_names, bundle_items, enabled, disabled_at, disabled_reason, failing_since, secrets, created_at, updated_at}; url null: none is set. Secrets appear by their ids only.';
grant execute on function api.get_webhook_config(uuid) to authenticated;

create or replace function app.webhook_config_with_secret(p_organization_id uuid, p_secret text, p_now timestamptz) returns json
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_config json := app.webhook_config_json(p_organization_id, p_now);
begin
    return case when p_secret is null then v_config
                else app.join_objects(v_config, json_build_object('signing_secret', p_secret)) end;
end;
$$;

-- A normalized URL: pasted ones often have white space around them, or their scheme in capitals.
create or replace function app.pasted_url(p_url text) returns text
language sql immutable
return (select coalesce(lower(substring(u.url from '^[A-Za-z]+:')), '') || regexp_replace(u.url, '^[A-Za-z]+:', '')
          from (select btrim(p_url, E' \t\r\n\u00A0\u200B\uFEFF') as url) u);

-- Errors in the changes of a config; null: none.
create or replace function app.webhook_config_errors(p_changes jsonb, p_allow_http boolean) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_unknown text := (select string_agg(left(k, 100), ', ')
                         from (select jsonb_object_keys(p_changes - app.webhook_config_fields()) limit 10) u (k));
begin
    return nullif(concat_ws('; ',
        'Unknown fields: ' || v_unknown,
        case when jsonb_typeof(p_changes -> 'url') not in ('string', 'null')
               or length(p_changes ->> 'url') > 2048
               or not app.is_web_address(p_changes ->> 'url')
               or not p_allow_http and p_changes ->> 'url' !~ '^https:'
             then 'url must be null or an HTTPS URL without user name and fragment, in ASCII, of at most 2,048 characters' end,
        case when not p_allow_http and app.web_port(p_changes ->> 'url') <> 443 and app.web_port(p_changes ->> 'url') < 1024
             then 'the port of url must be 443 or above 1023' end,
        case when app.text_array(p_changes -> 'events') is null and p_changes ? 'events' or not app.text_array(p_changes -> 'events') <@ app.webhook_events()
             then 'events must be an array that contains only ' || array_to_string(app.webhook_events(), ', ') end,
        case when app.text_array(p_changes -> 'field_names') is null and p_changes -> 'field_names' <> 'null'
               or cardinality(app.text_array(p_changes -> 'field_names')) > 100
             then 'field_names must be null or an array of at most 100 strings' end,
        case when jsonb_typeof(p_changes -> 'bundle_items') <> 'boolean' then 'bundle_items must be true or false' end,
        case when jsonb_typeof(p_changes -> 'enabled') <> 'boolean' then 'enabled must be true or false' end), '');
end;
$$;

-- Whether a URL has a host (a name or an address) and a valid port, is ASCII, and has no user name and no fragment.
create or replace function app.is_web_address(p_url text) returns boolean
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_parts text[] := regexp_match(p_url, '^https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?(?:[/?][!"$-~]*)?$');
begin
    return case
        when p_url is null then null
        when v_parts is null or v_parts[2]::integer not between 1 and 65535 then false
        when v_parts[1] like '[%' then family(btrim(v_parts[1], '[]')::inet) = 6
        else true end;
exception
    when invalid_text_representation then
        return false;
end;
$$;

-- The explicit port of a URL; null: none.
create or replace function app.web_port(p_url text) returns integer
language sql immutable
return substring(p_url from '^https?://(?:[^/?\[]+|\[[^\]]*\]):([0-9]{1,5})(?:[/?]|$)')::integer;

create or replace function api.set_webhook_config(
    p_organization_id uuid, p_changes jsonb, p_allow_http boolean default false, p_actor text default null
) returns json
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now     timestamptz := app.clock();
    v_errors  text;
    v_enabled boolean     := coalesce(p_changes -> 'enabled' = 'true', false);
    v_secret  text;
begin
    if jsonb_typeof(p_changes) is distinct from 'object' then
        perform app.refuse(400, 'invalid_webhook_config', 'The body must be a JSON object');
    end if;
    perform app.check_json(p_changes, 64 * 1024);
    if jsonb_typeof(p_changes -> 'url') = 'string' then
        p_changes := p_changes || jsonb_build_object('url', app.pasted_url(p_changes ->> 'url'));
    end if;
    v_errors := app.webhook_config_errors(p_changes, p_allow_http);
    if v_errors is not null then
        perform app.refuse(
            400, 'invalid_webhook_config', v_errors,
            case when v_errors like 'Unknown fields: %' then format('The fields are %s.', array_to_string(app.webhook_config_fields(), ', ')) end);
    end if;
    perform app.check_organization(p_organization_id);

    insert into app.webhook_configs (organization_id, created_at, updated_at)
    values (p_organization_id, v_now, v_now)
    on conflict (organization_id) do nothing;
    update app.webhook_configs
       set url             = case when p_changes ? 'url' then p_changes ->> 'url' else url end,
           events          = coalesce(app.text_array(p_changes -> 'events'), events),
           field_names     = case when p_changes ? 'field_names' then app.text_array(p_changes -> 'field_names') else field_names end,
           bundle_items    = coalesce((p_changes ->> 'bundle_items')::boolean, bundle_items),
           enabled         = coalesce((p_changes ->> 'enabled')::boolean, enabled),
           disabled_at     = case when coalesce((p_changes ->> 'enabled')::boolean, enabled) then null else coalesce(disabled_at, v_now) end,
           disabled_reason = case when coalesce((p_changes ->> 'enabled')::boolean, enabled) then null else coalesce(disabled_reason, 'requested') end,
           failing_since   = case when v_enabled or p_changes ? 'url' then null else failing_since end,
           updated_at      = v_now
     where organization_id = p_organization_id;
    if not exists (select from app.webhook_secrets where organization_id = p_organization_id) then
        v_secret := app.add_webhook_secret(p_organization_id, v_now);
    end if;
    -- Waiting deliveries may be sent now. A pause was requested by the previous receiver, so it ends.
    perform app.wake_webhooks(p_organization_id, v_now);
    if v_enabled or p_changes ? 'url' then
        update app.webhook_queue_state set paused_until = '-infinity' where organization_id = p_organization_id;
    end if;
    perform app.audit(p_organization_id, 'webhooks.changed', p_actor, p_details => jsonb_build_object('changed', app.member_names(p_changes)));
    return app.webhook_config_with_secret(p_organization_id, v_secret, v_now);
end;
$$;

comment on function api.set_webhook_config(uuid, jsonb, boolean, text) is
'Changes the members of the webhook config that the object names: url (HTTPS, or null for none), events, field_names (members of webhook_custom_fields to send, null: all), bundle_items, enabled. Returns the config, with signing_secret if it has just been created; it is never shown again. enabled true resumes deliveries, pending ones included. p_allow_http is for development. 400: invalid_webhook_config. 404: organization_not_found.';

-- Stores a new current secret and returns it.
create or replace function app.add_webhook_secret(p_organization_id uuid, p_now timestamptz) returns text
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_secret bytea := sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));
begin
    insert into app.webhook_secrets (organization_id, id, secret, created_at)
    values (p_organization_id, app.uuid_v7(p_now), v_secret, p_now);
    return app.webhook_secret_text(v_secret);
end;
$$;

create or replace function api.rotate_webhook_secret(p_organization_id uuid, p_request jsonb default '{}', p_actor text default null) returns json
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now     timestamptz := app.clock();
    v_overlap jsonb       := coalesce(nullif(p_request -> 'overlap_seconds', 'null'), '86400');
    v_ends_at timestamptz;
    v_secret  text;
begin
    perform app.check_members(p_request, array['overlap_seconds']);
    if jsonb_typeof(v_overlap) <> 'number' or v_overlap < '0' or v_overlap > '604800' then
        perform app.refuse_option('overlap_seconds', 'a number from 0 to 604800');
    end if;
    perform app.lock_webhook_config(p_organization_id);
    delete from app.webhook_secrets where organization_id = p_organization_id and expires_at <= v_now;
    if (select count(*) from app.webhook_secrets where organization_id = p_organization_id) >= 5 then
        perform app.refuse(409, 'too_many_secrets', 'Five secrets are already valid', 'Wait until a rotated one expires.');
    end if;

    v_ends_at := v_now + app.seconds(v_overlap::double precision);
    update app.webhook_secrets
       set expires_at = v_ends_at
     where organization_id = p_organization_id and expires_at is null;
    v_secret := app.add_webhook_secret(p_organization_id, v_now);
    perform app.audit(p_organization_id, 'webhooks.secret_rotated', p_actor);
    return app.webhook_config_with_secret(p_organization_id, v_secret, v_now);
end;
$$;

comment on function api.rotate_webhook_secret(uuid, jsonb, text) is
'Creates a new signing secret and returns the config with it as signing_secret, which is never shown again. Deliveries are also signed with the previous secret for {"overlap_seconds": ...} (0 to 604800, default: one day), so that receivers can switch. 400: invalid_overlap_seconds. 404: webhook_config_not_found. 409: too_many_secrets.';

create or replace function app.lock_webhook_config(p_organization_id uuid) returns app.webhook_configs
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_config app.webhook_configs;
begin
    select * into v_config from app.webhook_configs where organization_id = p_organization_id for no key update;
    if not found then
        perform app.refuse(
            404, 'webhook_config_not_found', 'Webhooks are not configured',
            app.hint_for_caller('PUT /webhook-config with a url first.',
                                'Set a url first: select api.set_webhook_config(organization, ''{"url": "https://..."}'').'));
    end if;
    return v_config;
end;
$$;

-- Fails pending deliveries that no longer have a config, so that they do not wait for another receiver: including those that were being
-- sent, or created, when it was deleted.
create or replace function app.fail_undeliverable(p_organization_id uuid, p_now timestamptz) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    update app.webhook_deliveries
       set status          = 'failed',
           next_attempt_at = null,
           last_error      = 'The webhook config was deleted',
           ended_at        = p_now
     where organization_id = p_organization_id
       and id = any (array(select d.id
                             from app.webhook_deliveries d
                            where d.organization_id = p_organization_id and d.status = 'pending'
                              and not exists (select from app.webhook_configs c where c.organization_id = p_organization_id)
                              for update of d skip locked));
end;
$$;

create or replace function api.delete_webhook_config(p_organization_id uuid, p_actor text default null) returns json
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform app.lock_webhook_config(p_organization_id);
    delete from app.webhook_configs where organization_id = p_organization_id;
    perform app.fail_undeliverable(p_organization_id, app.clock());
    perform app.settle_webhooks(p_organization_id);
    perform app.audit(p_organization_id, 'webhooks.deleted', p_actor);
    return json_build_object('message', 'Webhook config deleted');
end;
$$;

comment on function api.delete_webhook_config(uuid, text) is 'Deletes the webhook config with its secrets; pending deliveries fail. 404: webhook_config_not_found.';

-- Stops deliveries until the organization enables them again; pending ones stay pending.
create or replace function app.disable_webhooks(p_organization_id uuid, p_reason text, p_now timestamptz) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    update app.webhook_configs
       set enabled         = false,
           disabled_at     = p_now,
           disabled_reason = p_reason,
           updated_at      = p_now
     where organization_id = p_organization_id and enabled;
    if found then
        perform app.audit(p_organization_id, 'webhooks.disabled', 'system', p_details => jsonb_build_object('reason', p_reason));
    end if;
end;
$$;
