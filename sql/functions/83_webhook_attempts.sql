-- Chapter 83, webhook attempts: records the outcomes of deliveries and the health of receivers.

create or replace function api.record_webhooks(
    p_organization_id uuid,
    p_delivery_ids    uuid[],
    p_lease_tokens    uuid[],
    p_http_statuses   integer[],
    p_error_classes   text[],
    p_latencies       double precision[],
    p_bodies          text[],
    p_retry_afters    double precision[]
) returns table (delivery_id uuid, verdict text)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp set lock_timeout = '200ms'
as $$
#variable_conflict use_column
declare
    v_now        timestamptz := app.clock();
    v_leases     uuid[]      := array(select d.lease_token from app.webhook_deliveries d
                                       where d.organization_id = p_organization_id and d.id = any (p_delivery_ids));
    -- Claimed before the config changed: their outcomes say nothing about its current receiver.
    v_former     uuid[]      := array(select d.id from app.webhook_deliveries d
                                       where d.organization_id = p_organization_id and d.id = any (p_delivery_ids)
                                         and d.lease_expires_at - app.webhook_lease()
                                             < (select c.updated_at from app.webhook_configs c where c.organization_id = p_organization_id));
    v_outcomes   app.webhook_outcome[];
    v_deliveries app.webhook_deliveries[];
begin
    -- A sender that lost a lease and got it again may report both attempts at once; one of them counts.
    v_outcomes := array(select distinct on (o.delivery_id) o::app.webhook_outcome
                          from unnest(p_delivery_ids, p_lease_tokens, p_http_statuses, p_error_classes, p_latencies, p_bodies, p_retry_afters)
                               o (delivery_id, lease_token, http_status, error_class, latency, body, retry_after)
                         order by o.delivery_id, o.http_status between 200 and 299 desc nulls last, o.lease_token = any (v_leases) desc nulls last);
    v_deliveries := app.apply_webhook_outcomes(p_organization_id, v_outcomes, v_now);

    insert into app.webhook_attempts (organization_id, delivery_id, attempt, attempted_at, latency_ms, http_status, error_class, response_body)
    select p_organization_id, d.id, d.attempts, v_now - app.seconds(greatest(o.latency, 0)), round(greatest(o.latency, 0) * 1000), o.http_status,
           o.error_class, left(o.body, 1024)
      from unnest(v_outcomes) o
      join unnest(v_deliveries) d on d.id = o.delivery_id;

    perform app.count_webhook_attempts(p_organization_id, v_deliveries, v_outcomes, v_now);
    perform app.update_receiver_health(p_organization_id, array(select d from unnest(v_deliveries) d where d.id <> all (v_former)), v_now);
    perform app.pause_webhooks(p_organization_id, v_deliveries, array(select o from unnest(v_outcomes) o where o.delivery_id <> all (v_former)), v_now);

    return query
    select o.delivery_id,
           case when o.delivery_id in (select d.id from unnest(v_deliveries) d) then 'accepted'
                when exists (select from app.webhook_deliveries d where d.organization_id = p_organization_id and d.id = o.delivery_id) then 'stale'
                else 'unknown' end
      from unnest(p_delivery_ids) o (delivery_id);
end;
$$;

comment on function api.record_webhooks(uuid, uuid[], uuid[], integer[], text[], double precision[], text[], double precision[]) is
'Records attempts as parallel arrays: delivery, lease token, HTTP status, error class (null if there was a response), latency in seconds, the beginning of the response, Retry-After in seconds. Any 2xx is success; 410 or five days of failures disable the config; other failures are retried as app.webhook_retry_schedule says. Returns a verdict for each delivery, as api.record_lookups does. 55P03 (lock_not_available): another transaction holds rows of the organization; try again later.';

-- One statement for all attempts. The lease token is the fencing token: an attempt under a lost lease matches no row, unless it succeeded
-- and the delivery has not ended.
create or replace function app.apply_webhook_outcomes(p_organization_id uuid, p_outcomes app.webhook_outcome[], p_now timestamptz)
returns app.webhook_deliveries[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_waits      interval[]         := array(select wait from app.webhook_retry_schedule order by failures);
    v_ids        uuid[]             := array(select o.delivery_id from unnest(p_outcomes) o);
    v_jitters    double precision[] := array(select 0.8 + random() * 0.4 from unnest(p_outcomes));
    v_delivery   app.webhook_deliveries;
    v_deliveries app.webhook_deliveries[] := '{}';
begin
    for v_delivery in
        with attempt as materialized (
            select o.delivery_id, o.lease_token, o.http_status, o.error_class,
                   'HTTP ' || o.http_status::text
                   || case when o.http_status in (301, 302, 303, 307, 308)
                           then ': redirects are not followed' || coalesce('; ' || nullif(left(o.body, 500), ''), '') else '' end as answer,
                   app.webhook_pause(o.retry_after) as pause,
                   coalesce(o.http_status between 200 and 299, false) as succeeded, v_jitters[o.n] as jitter
              from unnest(p_outcomes) with ordinality o (delivery_id, lease_token, http_status, error_class, latency, body, retry_after, n)
        )
        update app.webhook_deliveries d
           set status           = case when a.succeeded then 'delivered'
                                       when app.webhook_is_final(d.event, d.retry_count, a.http_status, v_waits) then 'failed'
                                       else 'pending' end,
               attempts         = d.attempts + 1,
               lost_leases      = 0,
               retry_count      = d.retry_count
                                  + case when a.succeeded or app.webhook_is_final(d.event, d.retry_count, a.http_status, v_waits) then 0 else 1 end,
               next_attempt_at  = case when not a.succeeded and not app.webhook_is_final(d.event, d.retry_count, a.http_status, v_waits)
                                       then app.time_after(p_now, greatest(a.jitter * v_waits[d.retry_count + 1], a.pause)) end,
               lease_token      = null,
               lease_expires_at = null,
               leased_by        = null,
               last_http_status = a.http_status,
               last_error       = case when not a.succeeded then coalesce(a.error_class, a.answer) end,
               ended_at         = case when a.succeeded or app.webhook_is_final(d.event, d.retry_count, a.http_status, v_waits) then p_now end
          from attempt a
         where d.organization_id = p_organization_id and d.id = any (v_ids) and d.id = a.delivery_id
           and (d.status = 'sending' and d.lease_token = a.lease_token
                or d.status in ('pending', 'sending') and a.succeeded)
     returning d.*
    loop
        v_deliveries := v_deliveries || v_delivery;
    end loop;
    return v_deliveries;
end;
$$;

-- Counts attempts in the work history.
create or replace function app.count_webhook_attempts(
    p_organization_id uuid, p_deliveries app.webhook_deliveries[], p_outcomes app.webhook_outcome[], p_now timestamptz
) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_outcomes      text[];
    v_error_classes text[];
    v_latencies     double precision[];
begin
    select array_agg(case d.status when 'pending' then 'retried' else d.status end),
           array_agg(case when d.status <> 'delivered' then coalesce(o.error_class, 'http_' || o.http_status / 100 || 'xx') end),
           array_agg(greatest(o.latency, 0))
      into v_outcomes, v_error_classes, v_latencies
      from unnest(p_deliveries) d
      join unnest(p_outcomes) o on o.delivery_id = d.id;
    if v_outcomes is not null then
        perform app.count_work(p_organization_id, 'webhook', v_outcomes, v_error_classes, v_latencies, null, p_now);
    end if;
end;
$$;

-- The pause that Retry-After asks for, at most a day; null: none.
create or replace function app.webhook_pause(p_retry_after double precision) returns interval
language sql immutable
return case when p_retry_after > 0 then app.seconds(least(p_retry_after, 86400)) end;

-- Whether another failure ends the delivery.
create or replace function app.webhook_is_final(p_event text, p_retry_count integer, p_http_status integer, p_waits interval[]) returns boolean
language sql immutable
return coalesce(p_http_status = 410, false) or p_event = 'webhook.test' or p_retry_count >= cardinality(p_waits);

-- Updates the health of the receiver: one success clears it, only failures for five days disable it. Tests don't count.
create or replace function app.update_receiver_health(p_organization_id uuid, p_deliveries app.webhook_deliveries[], p_now timestamptz) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_succeeded boolean := exists (select from unnest(p_deliveries) d where d.status = 'delivered' and d.event <> 'webhook.test');
    v_failed    boolean := exists (select from unnest(p_deliveries) d where d.status <> 'delivered' and d.event <> 'webhook.test');
begin
    if v_succeeded then
        update app.webhook_configs set failing_since = null where organization_id = p_organization_id and failing_since is not null;
    elsif v_failed then
        update app.webhook_configs set failing_since = p_now where organization_id = p_organization_id and failing_since is null;
    end if;
    if exists (select from unnest(p_deliveries) d where d.last_http_status = 410) then
        perform app.disable_webhooks(p_organization_id, 'gone', p_now);
    elsif v_failed and exists (select from app.webhook_configs where organization_id = p_organization_id and failing_since <= p_now - interval '5 days') then
        perform app.disable_webhooks(p_organization_id, 'failing', p_now);
    end if;
end;
$$;

-- Puts retries on the ready list. A Retry-After with 429 or 503 pauses all deliveries to this receiver.
create or replace function app.pause_webhooks(
    p_organization_id uuid, p_deliveries app.webhook_deliveries[], p_outcomes app.webhook_outcome[], p_now timestamptz
) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_retry_at timestamptz := (select min(d.next_attempt_at) from unnest(p_deliveries) d);
    v_pause    timestamptz;
begin
    if v_retry_at is null then
        return;
    end if;
    perform app.wake_webhooks(p_organization_id, v_retry_at);
    v_pause := (select p_now + max(app.webhook_pause(o.retry_after))
                  from unnest(p_outcomes) o
                 where o.http_status in (429, 503));
    if v_pause is not null then
        insert into app.webhook_queue_state as q (organization_id, paused_until)
        values (p_organization_id, v_pause)
        on conflict (organization_id) do update
           set paused_until = greatest(q.paused_until, excluded.paused_until);
    end if;
end;
$$;
