-- Chapter 84, webhook history: lists deliveries, resends them, tests the receiver.

create or replace function app.webhook_delivery_json(p_delivery app.webhook_deliveries) returns json
language sql stable
as $$
    select json_build_object(
        'id', (p_delivery).id,
        'event', (p_delivery).event,
        'status', (p_delivery).status,
        'job_id', (p_delivery).job_id,
        'item_ids', (p_delivery).item_ids,
        'attempts', (p_delivery).attempts,
        'last_http_status', (p_delivery).last_http_status,
        'last_error', (p_delivery).last_error,
        'next_attempt_at', app.rfc3339((p_delivery).next_attempt_at),
        'created_at', app.rfc3339((p_delivery).created_at),
        'ended_at', app.rfc3339((p_delivery).ended_at)
    )
$$;

create or replace function api.list_webhook_deliveries(
    p_organization_id uuid    default app.claimed_organization_id(),
    p_status          text    default null,
    p_event           text    default null,
    p_job_id          uuid    default null,
    p_limit           integer default 20,
    p_offset          integer default 0,
    p_cursor          text    default null
) returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan set jit = off
as $$
declare
    v_cursor     app.page_cursor;
    v_deliveries app.webhook_deliveries[];
begin
    perform app.authorize(p_organization_id, 'webhooks:read');
    perform app.check_choice('status', p_status, array['pending', 'sending', 'delivered', 'failed']);
    perform app.check_choice('event', p_event, app.webhook_events() || 'webhook.test'::text);
    v_cursor := app.read_page(p_cursor, 'deliveries', p_limit, p_offset, 200);

    -- One more than requested, to see whether there is a next page.
    select coalesce(array_agg(row(d.*)::app.webhook_deliveries), '{}') into v_deliveries
      from (select *
              from app.webhook_deliveries
             where organization_id = p_organization_id and (p_status is null or status = p_status)
               and (p_event is null or event = p_event) and (p_job_id is null or job_id = p_job_id)
               and (p_cursor is null or id < v_cursor.id)
             order by id desc
             limit p_limit + 1 offset p_offset) d;
    return json_build_object(
        'deliveries', (select coalesce(json_agg(app.webhook_delivery_json(d) order by d.id desc), '[]') from unnest(v_deliveries[:p_limit]) d),
        'total', (select count(*)
                    from app.webhook_deliveries
                   where organization_id = p_organization_id and (p_status is null or status = p_status)
                     and (p_event is null or event = p_event) and (p_job_id is null or job_id = p_job_id)),
        'limit', p_limit,
        'offset', p_offset,
        'next_cursor', case when cardinality(v_deliveries) > p_limit
                            then app.cursor(row('deliveries', null, null, null, null, v_deliveries[p_limit].id, null)) end);
end;
$$;

comment on function api.list_webhook_deliveries(uuid, text, text, uuid, integer, integer, text) is 'The webhook deliveries of an organization, newest first: {deliveries, total, limit, offset, next_cursor}; p_cursor is the next_cursor of the page before. They are kept for 30 days. 400: an unknown status or event, limit not in 1 to 200, invalid_cursor, cursor_with_offset.';
grant execute on function api.list_webhook_deliveries(uuid, text, text, uuid, integer, integer, text) to authenticated;

create or replace function app.find_webhook_delivery(p_organization_id uuid, p_delivery_id uuid) returns app.webhook_deliveries
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_delivery app.webhook_deliveries;
begin
    select * into v_delivery
      from app.webhook_deliveries
     where organization_id = p_organization_id and id = p_delivery_id;
    if not found then
        perform app.refuse(
            404, 'webhook_delivery_not_found', 'Webhook delivery not found',
            app.hint_for_caller(null, 'select api.list_webhook_deliveries(organization) lists them.'));
    end if;
    return v_delivery;
end;
$$;

create or replace function api.get_webhook_delivery(
    p_organization_id uuid default app.claimed_organization_id(), p_delivery_id uuid default null
) returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_delivery    app.webhook_deliveries;
    v_field_names text[] := (select field_names from app.webhook_configs where organization_id = p_organization_id);
    v_body        json;
begin
    perform app.authorize(p_organization_id, 'webhooks:read');
    v_delivery := app.find_webhook_delivery(p_organization_id, p_delivery_id);
    v_body := (select b.body from app.webhook_bodies(p_organization_id, array[v_delivery], v_field_names) b);
    return app.join_objects(app.webhook_delivery_json(v_delivery), json_build_object(
        'body', v_body,
        'attempt_log', (select coalesce(json_agg(json_build_object(
                                   'attempt', a.attempt, 'attempted_at', app.rfc3339(a.attempted_at), 'latency_ms', a.latency_ms,
                                   'http_status', a.http_status, 'error_class', a.error_class, 'response_body', a.response_body)
                                   order by a.attempt), '[]')
                          from (select *
                                  from app.webhook_attempts w
                                 where w.organization_id = p_organization_id and w.delivery_id = p_delivery_id
                                 order by w.attempt desc
                                 limit 100) a)));
end;
$$;

comment on function api.get_webhook_delivery(uuid, uuid) is 'One webhook delivery with its body and attempt_log, an entry for each of the last hundred attempts: time, latency in milliseconds, HTTP status or error_class, and the first 1,024 characters of the response. 404: webhook_delivery_not_found.';
grant execute on function api.get_webhook_delivery(uuid, uuid) to authenticated;

create or replace function api.resend_webhook_delivery(p_organization_id uuid, p_delivery_id uuid) returns json
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now      timestamptz := app.clock();
    v_delivery app.webhook_deliveries;
begin
    perform app.check_receiver(p_organization_id);
    perform from app.webhook_deliveries where organization_id = p_organization_id and id = p_delivery_id for update;
    v_delivery := app.find_webhook_delivery(p_organization_id, p_delivery_id);
    if v_delivery.status = 'sending' then
        perform app.refuse(409, 'webhook_delivery_in_progress', 'The delivery is being sent');
    end if;

    update app.webhook_deliveries
       set status = 'pending', retry_count = 0, next_attempt_at = v_now, ended_at = null
     where organization_id = p_organization_id and id = p_delivery_id
    returning * into v_delivery;
    perform app.wake_webhooks(p_organization_id, v_now);
    return app.webhook_delivery_json(v_delivery);
end;
$$;

comment on function api.resend_webhook_delivery(uuid, uuid) is 'Sends a delivery again with the same webhook-id, whatever its status, from the start of the retry schedule. 404: webhook_delivery_not_found. 409: webhook_delivery_in_progress, webhooks_disabled.';

create or replace function api.recover_webhook_deliveries(p_organization_id uuid, p_request jsonb) returns json
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now   timestamptz := app.clock();
    v_since timestamptz;
    v_count integer;
begin
    perform app.check_members(p_request, array['since']);
    v_since := app.read_timestamp('since', coalesce(nullif(p_request -> 'since', 'null'), '""'));
    perform app.check_receiver(p_organization_id);
    update app.webhook_deliveries
       set status = 'pending', retry_count = 0, next_attempt_at = v_now, ended_at = null
     where organization_id = p_organization_id and status = 'failed' and event <> 'webhook.test'
       and id >= app.uuid_v7_floor(v_since) and created_at >= v_since;
    get diagnostics v_count = row_count;
    perform app.wake_webhooks(p_organization_id, v_now);
    return json_build_object('recovered', v_count, 'since', app.rfc3339(v_since));
end;
$$;

comment on function api.recover_webhook_deliveries(uuid, jsonb) is 'Resends all deliveries of events since {"since": timestamp} that have failed, or happened while webhooks were disabled: {recovered, since}. 400: invalid_since. 409: webhooks_disabled.';

create or replace function app.check_receiver(p_organization_id uuid) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (select from app.webhook_configs where organization_id = p_organization_id and enabled and url is not null) then
        perform app.refuse(
            409, 'webhooks_disabled', 'Webhooks are not enabled',
            app.hint_for_caller('PUT /webhook-config with a url, or with {"enabled": true}.',
                                'Set a url, or enable them: select api.set_webhook_config(organization, ''{"enabled": true}'').'));
    end if;
end;
$$;

create or replace function api.start_webhook_test(p_organization_id uuid, p_sender text)
returns table (delivery_id uuid, lease_token uuid, body text, url text, secrets bytea[], event text, traceparent text)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    v_now      timestamptz := app.clock();
    v_config   app.webhook_configs;
    v_delivery app.webhook_deliveries;
begin
    -- Tests of an organization are serialized, so that concurrent ones cannot exceed the limit.
    select * into v_config from app.webhook_configs c where c.organization_id = p_organization_id and c.url is not null for no key update;
    if not found then
        perform app.refuse(
            409, 'webhook_url_missing', 'No webhook URL is set',
            app.hint_for_caller('PUT /webhook-config with a url.', 'Set one: select api.set_webhook_config(organization, ''{"url": "https://..."}'').'));
    end if;
    if (select count(*)
          from app.webhook_deliveries d
         where d.organization_id = p_organization_id and d.id >= app.uuid_v7_floor(v_now - interval '1 minute') and d.event = 'webhook.test') >= 10 then
        perform app.refuse(
            429, 'too_many_webhook_tests', 'Webhooks can be tested ten times a minute',
            'Try again in a minute.',
            json_build_object('retry_after', 60));
    end if;
    insert into app.webhook_deliveries as d
           (organization_id, id, event, status, data, lease_token, lease_expires_at, leased_by, created_at)
    values (p_organization_id, app.uuid_v7(v_now), 'webhook.test', 'sending', jsonb_build_object('message', 'A test of the webhook config'),
            gen_random_uuid(), v_now + app.webhook_lease(), p_sender, v_now)
    returning d.* into v_delivery;
    return query select * from app.webhook_requests(v_config, array[v_delivery], v_now);
end;
$$;

comment on function api.start_webhook_test(uuid, text) is 'Creates a delivery of the event webhook.test that is already claimed, in the form of api.claim_webhooks, for the caller to send and record. Works for disabled webhooks, too; ten times a minute at most. 409: webhook_url_missing. 429: too_many_webhook_tests.';
