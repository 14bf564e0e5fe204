-- Chapter 81, the webhook outbox: stores deliveries in the transaction that makes their event true, and builds their bodies.

-- The organization's config if it has a URL and wants one of the events, else nulls. Events of a disabled config are kept as failed
-- deliveries, so that they can be recovered.
create or replace function app.webhook_config_for(p_organization_id uuid, p_events text[]) returns app.webhook_configs
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_config app.webhook_configs;
begin
    select * into v_config
      from app.webhook_configs
     where organization_id = p_organization_id and url is not null and events && p_events;
    return v_config;
end;
$$;

-- The initial status of a delivery: pending and due immediately or, if the config is disabled, failed, to be sent by
-- api.recover_webhook_deliveries.
create or replace function app.delivery_start(
    p_is_enabled boolean, p_now timestamptz, out status text, out next_attempt_at timestamptz, out last_error text, out ended_at timestamptz
)
language sql immutable
return row(case when p_is_enabled then 'pending' else 'failed' end,
           case when p_is_enabled then p_now end,
           case when not p_is_enabled then 'disabled' end,
           case when not p_is_enabled then p_now end);

-- Enqueues lookup.* events for the items that a flush ended. It runs before the flush locks its jobs, because it takes the longest and does
-- not need them. Ended items never change, so a delivery only references its items.
create or replace function app.enqueue_item_webhooks(
    p_config app.webhook_configs, p_organization_id uuid, p_items public.lookup_queue_items[], p_now timestamptz
) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_config.bundle_items then
        insert into app.webhook_deliveries
               (organization_id, id, event, job_id, item_ids, positions, bundled, status, next_attempt_at, last_error, created_at, ended_at)
        select p_organization_id, app.uuid_v7(p_now), e.event, e.job_id, array_agg(e.id order by e.position), array_agg(e.position order by e.position), true,
               o.status, o.next_attempt_at, o.last_error, p_now, o.ended_at
          from app.delivery_start(p_config.enabled, p_now) o
         -- At most a hundred items, or fewer with a megabyte of responses: a sender has many deliveries in memory.
         cross join (select 'lookup.' || i.status as event, i.job_id, i.id, i.position,
                            (row_number() over before - 1) / 100 as hundred,
                            sum(coalesce(octet_length(i.result::text), pg_column_size(i.parsed_result), 0)) over before / (1024 * 1024) as megabyte
                  from unnest(p_items) i
                 where 'lookup.' || i.status = any (p_config.events)
                window before as (partition by i.job_id, i.status order by i.position)) e
         group by e.event, e.job_id, e.hundred, e.megabyte, o.status, o.next_attempt_at, o.last_error, o.ended_at;
    else
        insert into app.webhook_deliveries
               (organization_id, id, event, job_id, item_ids, positions, status, next_attempt_at, last_error, created_at, ended_at)
        select p_organization_id, app.uuid_v7(p_now), 'lookup.' || i.status, i.job_id, array[i.id], array[i.position],
               o.status, o.next_attempt_at, o.last_error, p_now, o.ended_at
          from app.delivery_start(p_config.enabled, p_now) o
         cross join unnest(p_items) i
         where 'lookup.' || i.status = any (p_config.events);
    end if;
end;
$$;

-- Enqueues batch.* events for the jobs that the flush ended, then notifies the sender about all new deliveries.
create or replace function app.enqueue_job_webhooks(
    p_config app.webhook_configs, p_organization_id uuid, p_items public.lookup_queue_items[], p_now timestamptz
) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_job_ids uuid[] := array(select distinct i.job_id from unnest(p_items) i where i.status in ('completed', 'failed'));
    v_job     public.batch_lookup_jobs;
    v_woken   boolean := false;
begin
    for v_job in
        select *
          from public.batch_lookup_jobs
         where organization_id = p_organization_id and id = any (v_job_ids) and status in ('completed', 'failed')
    loop
        if 'batch.' || v_job.status = any (p_config.events) then
            perform app.add_webhook(p_organization_id, 'batch.' || v_job.status, v_job.id, app.job_json(v_job)::jsonb, p_now);
            v_woken := p_config.enabled;
        end if;
    end loop;
    if p_config.enabled and not v_woken and exists (select from unnest(p_items) i where 'lookup.' || i.status = any (p_config.events)) then
        perform app.wake_webhooks(p_organization_id, p_now);
    end if;
end;
$$;

-- Enqueues the event of a job that ended without a last item, by a cancel, or ended anew with a late success.
create or replace function app.enqueue_job_webhook(p_organization_id uuid, p_job_id uuid, p_now timestamptz) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_job    public.batch_lookup_jobs := app.find_job(p_organization_id, p_job_id);
    v_config app.webhook_configs      := app.webhook_config_for(p_organization_id, array['batch.' || v_job.status]);
begin
    if v_config.organization_id is not null then
        perform app.add_webhook(p_organization_id, 'batch.' || v_job.status, p_job_id, app.job_json(v_job)::jsonb, p_now);
    end if;
end;
$$;

-- Enqueues lookup.completed for a single lookup (POST /incentives).
create or replace function app.enqueue_lookup_webhook(p_organization_id uuid, p_item app.batch_item, p_result json, p_now timestamptz) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_config app.webhook_configs := app.webhook_config_for(p_organization_id, array['lookup.completed']);
begin
    if v_config.organization_id is not null then
        perform app.add_webhook(p_organization_id, 'lookup.completed', null, jsonb_build_array(jsonb_build_object(
            'job_id', null, 'item_id', null, 'status', 'completed', 'reference_id', p_item.reference_id, 'address', p_item.address,
            'building_type', p_item.building_type, 'device_ids', p_item.device_ids, 'result', p_result, 'error_code', null,
            'error_message', null, 'processed_at', app.rfc3339(p_now), 'webhook_custom_fields', p_item.webhook_custom_fields)), p_now);
    end if;
end;
$$;

create or replace function app.add_webhook(p_organization_id uuid, p_event text, p_job_id uuid, p_data jsonb, p_now timestamptz) returns uuid
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_id    uuid := app.uuid_v7(p_now);
    v_start record;
begin
    select o.* into v_start
      from app.delivery_start((select c.enabled from app.webhook_configs c where c.organization_id = p_organization_id), p_now) o;
    insert into app.webhook_deliveries (organization_id, id, event, job_id, data, status, next_attempt_at, last_error, created_at, ended_at)
    values (p_organization_id, v_id, p_event, p_job_id, p_data, v_start.status, v_start.next_attempt_at, v_start.last_error, p_now, v_start.ended_at);
    if v_start.status = 'pending' then
        perform app.wake_webhooks(p_organization_id, p_now);
    end if;
    return v_id;
end;
$$;

create or replace function app.allowed_fields(p_fields jsonb, p_names text[]) returns jsonb
language sql immutable
return case when jsonb_typeof(p_fields) is distinct from 'object' then '{}'
            when p_names is null then p_fields
            else (select coalesce(jsonb_object_agg(f.key, f.value), '{}') from jsonb_each(p_fields) f where f.key = any (p_names)) end;

-- An item of a batch in the body of its webhook.
create or replace function app.webhook_item(p_item public.lookup_queue_items, p_field_names text[]) returns json
language sql stable
as $$
    select json_build_object(
        'job_id', (p_item).job_id,
        'item_id', (p_item).id,
        'status', (p_item).status,
        'reference_id', (p_item).reference_id,
        'address', app.address_json((p_item).address),
        'building_type', (p_item).building_type,
        'device_ids', (p_item).device_ids,
        'result', app.item_result(p_item),
        'error_code', (p_item).error_code,
        'error_message', (p_item).error_message,
        'processed_at', app.rfc3339((p_item).processed_at),
        'webhook_custom_fields', case when (p_item).webhook_custom_fields is null then '{}'
                                      else app.allowed_fields((p_item).webhook_custom_fields, p_field_names) end)
$$;

create or replace function app.webhook_message(p_event text, p_at timestamptz, p_data json) returns json
language sql stable
return json_build_object('type', p_event, 'timestamp', app.rfc3339(p_at), 'data', p_data);

-- The bodies to POST. A delivery has the same body in every attempt, unless field_names changes.
create or replace function app.webhook_bodies(p_organization_id uuid, p_deliveries app.webhook_deliveries[], p_field_names text[])
returns table (delivery_id uuid, body json)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select d.id, app.webhook_message(d.event, d.created_at, case when d.event not like 'lookup.%' then app.in_documented_order(d.data)
                                                                 when d.bundled then json_build_object('items', w.items)
                                                                 else w.items[1] end)
      from unnest(p_deliveries) d
     cross join lateral (
           select array_agg(l.item order by l.n) as items
             from (select p.n, i.item
                     from unnest(d.positions) with ordinality p (position, n)
                    cross join lateral (
                          select app.webhook_item(row(q.*)::public.lookup_queue_items, p_field_names) as item
                            from public.lookup_queue_items q
                           where q.organization_id = p_organization_id and q.job_id = d.job_id and q.position = p.position
                          offset 0) i
                    where d.data is null
                    union all
                   select e.n, app.in_documented_order(
                              jsonb_set(e.item, '{webhook_custom_fields}', app.allowed_fields(e.item -> 'webhook_custom_fields', p_field_names)))
                     from jsonb_array_elements(case when d.event like 'lookup.%' then d.data end) with ordinality e (item, n)) l) w;
end;
$$;

-- Marks the organization as having deliveries from p_at on. It waits for no row: if the organization's row of the ready list is locked, or
-- does not exist yet, it adds a wake-up, as uploads do in the lookups' queue.
create or replace function app.wake_webhooks(p_organization_id uuid, p_at timestamptz) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    perform from app.webhook_queue_state where organization_id = p_organization_id for update skip locked;
    if found then
        update app.webhook_queue_state
           set ready_at = p_at
         where organization_id = p_organization_id and (ready_at is null or ready_at > p_at);
        if not found then
            return;
        end if;
    else
        insert into app.webhook_wakeups (organization_id, id, ready_at) values (p_organization_id, gen_random_uuid(), p_at);
    end if;
    perform pg_notify('webhooks_ready', p_organization_id::text);
end;
$$;

-- Locks the organization's row of the ready list, if nobody else holds it.
create or replace function app.hold_webhook_queue(p_organization_id uuid) returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (select from app.webhook_queue_state where organization_id = p_organization_id) then
        begin
            insert into app.webhook_queue_state (organization_id) values (p_organization_id) on conflict do nothing;
        exception
            when foreign_key_violation then perform app.refuse_organization();
        end;
    end if;
    perform from app.webhook_queue_state where organization_id = p_organization_id for update skip locked;
    return found;
end;
$$;

-- After a claim that found nothing (more): consumes the wake-ups and computes when the next delivery is due. The row is locked first and
-- the deliveries are read last, in a separate statement, as in the lookups' queue. If the row is locked, the organization stays on the list
-- as it is.
create or replace function app.settle_webhooks(p_organization_id uuid) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_state    app.webhook_queue_state;
    v_ready_at timestamptz;
begin
    if not app.hold_webhook_queue(p_organization_id) then
        return;
    end if;
    select * into v_state from app.webhook_queue_state where organization_id = p_organization_id;
    delete from app.webhook_wakeups where organization_id = p_organization_id;
    if exists (select from app.webhook_configs where organization_id = p_organization_id and enabled and url is not null) then
        v_ready_at := least(
            (select min(next_attempt_at) from app.webhook_deliveries where organization_id = p_organization_id and status = 'pending'),
            (select min(lease_expires_at) from app.webhook_deliveries where organization_id = p_organization_id and status = 'sending'));
        -- By itself, the end of a pause makes nothing due.
        v_ready_at := case when v_ready_at is not null then greatest(v_ready_at, v_state.paused_until) end;
    else
        perform app.fail_undeliverable(p_organization_id, app.clock());
    end if;
    if v_ready_at is distinct from v_state.ready_at then
        update app.webhook_queue_state set ready_at = v_ready_at where organization_id = p_organization_id;
    end if;
end;
$$;
