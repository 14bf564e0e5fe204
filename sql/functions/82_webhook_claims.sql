-- Chapter 82, webhook claims: the ready list, and leases of deliveries for senders.

create or replace function api.ready_webhooks(
    p_limit              integer default 100,
    p_except             uuid[]  default '{}',
    out organization_ids uuid[],
    out next_ready_in    double precision
)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := app.clock();
begin
    if app.is_node() then
        select r.organization_ids, extract(epoch from r.next_ready_at - v_now) into organization_ids, next_ready_in
          from app.find_ready_here('app.webhook_queue_state', 'app.webhook_wakeups', p_limit, p_except, v_now) r;
        return;
    end if;
    organization_ids := array(select r.organization_id
                                from (select q.organization_id, q.served_at from app.webhook_queue_state q where q.ready_at <= v_now
                                       union
                                      select w.organization_id, coalesce(q.served_at, '-infinity')
                                        from app.webhook_wakeups w
                                        left join app.webhook_queue_state q on q.organization_id = w.organization_id
                                       where w.ready_at <= v_now) r
                               where r.organization_id <> all (p_except)
                               order by r.served_at, r.organization_id
                               limit p_limit);
    next_ready_in := extract(epoch from least((select min(ready_at) from app.webhook_queue_state where ready_at > v_now),
                                              (select min(ready_at) from app.webhook_wakeups where ready_at > v_now)) - v_now);
end;
$$;

comment on function api.ready_webhooks(integer, uuid[]) is 'Organizations with deliveries to claim, least recently served first, except those given; and the seconds until there are more (null: none known). At a node of a cluster: only for the organizations whose rows it has.';

create or replace function api.claim_webhooks(p_organization_id uuid, p_sender text, p_limit integer)
returns table (delivery_id uuid, lease_token uuid, body text, url text, secrets bytea[], event text, traceparent text)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp set lock_timeout = '50ms'
as $$
#variable_conflict use_column
declare
    v_now        timestamptz := app.clock();
    v_config     app.webhook_configs;
    v_deliveries app.webhook_deliveries[] := '{}';
begin
    -- Locked so that api.release_lost_webhooks can wait for it.
    select * into v_config
      from app.webhook_configs c
     where c.organization_id = p_organization_id and c.enabled and c.url is not null
       for key share;
    if found and not exists (select from app.webhook_queue_state s where s.organization_id = p_organization_id and s.paused_until > v_now) then
        v_deliveries := app.lease_webhooks(p_organization_id, p_sender, p_limit, v_now);
    end if;
    begin
        return query select * from app.webhook_requests(v_config, v_deliveries, v_now);
    exception
        when data_exception or program_limit_exceeded or out_of_memory then
            return query select * from app.buildable_requests(p_organization_id, v_config, v_deliveries, v_now);
    end;

    -- Last, so that flushes of lookups find the organization's row free.
    if p_organization_id is not null and cardinality(v_deliveries) < p_limit then
        if app.expire_webhook_leases(p_organization_id, v_now) > 0 then
            -- They are due immediately, and this claim has missed them.
            perform pg_notify('webhooks_ready', p_organization_id::text);
        end if;
        perform app.settle_webhooks(p_organization_id);
    end if;
    if v_deliveries <> '{}' and app.hold_webhook_queue(p_organization_id) then
        update app.webhook_queue_state set served_at = v_now where organization_id = p_organization_id;
    end if;
end;
$$;

comment on function api.claim_webhooks(uuid, text, integer) is
'Claims up to p_limit deliveries of an organization for a sender, for 60 seconds: the body to POST to url, signed with every one of secrets, with the trace context of the job, if it has one. Fewer if fewer are due, none while the receiver has asked for a pause or the config is disabled. 404: organization_not_found. 55P03 (lock_not_available): another transaction holds rows of the organization; try again later.';

-- How long a sender holds a delivery.
create or replace function app.webhook_lease() returns interval
language sql immutable
return interval '60 seconds';

-- Two statements with an array of ids between them: in a join, a planner without statistics of this organization would compare every id
-- with all of its rows.
create or replace function app.lease_webhooks(p_organization_id uuid, p_sender text, p_limit integer, p_now timestamptz)
returns app.webhook_deliveries[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_token      uuid        := gen_random_uuid();
    v_expires_at timestamptz := p_now + app.webhook_lease();
    v_due        uuid[];
    v_delivery   app.webhook_deliveries;
    v_deliveries app.webhook_deliveries[] := '{}';
begin
    v_due := array(select id
                     from app.webhook_deliveries
                    where organization_id = p_organization_id and status = 'pending' and next_attempt_at <= p_now
                    order by next_attempt_at
                    limit p_limit
                      for update skip locked);
    for v_delivery in
        update app.webhook_deliveries
           set status           = 'sending',
               next_attempt_at  = null,
               lease_token      = v_token,
               lease_expires_at = v_expires_at,
               leased_by        = p_sender
         where organization_id = p_organization_id and id = any (v_due)
     returning *
    loop
        v_deliveries := v_deliveries || v_delivery;
    end loop;
    return v_deliveries;
end;
$$;

create or replace function app.webhook_requests(p_config app.webhook_configs, p_deliveries app.webhook_deliveries[], p_now timestamptz)
returns table (delivery_id uuid, lease_token uuid, body text, url text, secrets bytea[], event text, traceparent text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    v_secrets bytea[];
begin
    -- The newest first, because some receivers check only the first signature.
    v_secrets := array(select s.secret
                         from app.webhook_secrets s
                        where s.organization_id = p_config.organization_id and (s.expires_at is null or s.expires_at > p_now)
                        order by s.expires_at desc nulls first);
    return query
    select d.id, d.lease_token, b.body::text, p_config.url, v_secrets, d.event, t.traceparent
      from unnest(p_deliveries) d
      join app.webhook_bodies(p_config.organization_id, p_deliveries, p_config.field_names) b on b.delivery_id = d.id
      left join unnest(app.traces_of(p_config.organization_id, array(select u.job_id from unnest(p_deliveries) u))) t on t.job_id = d.job_id
     order by d.id;
end;
$$;

-- One by one, so that a delivery whose body cannot be built fails alone.
create or replace function app.buildable_requests(
    p_organization_id uuid, p_config app.webhook_configs, p_deliveries app.webhook_deliveries[], p_now timestamptz
) returns table (delivery_id uuid, lease_token uuid, body text, url text, secrets bytea[], event text, traceparent text)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    v_delivery app.webhook_deliveries;
    v_problem  text;
begin
    foreach v_delivery in array p_deliveries loop
        begin
            return query select * from app.webhook_requests(p_config, array[v_delivery], p_now);
        exception
            when data_exception or program_limit_exceeded or out_of_memory then
                v_problem := sqlerrm;
                update app.webhook_deliveries
                   set status           = 'failed',
                       lease_token      = null,
                       lease_expires_at = null,
                       leased_by        = null,
                       last_http_status = null,
                       last_error       = 'The body cannot be built: ' || v_problem,
                       ended_at         = p_now
                 where organization_id = p_organization_id and id = v_delivery.id;
        end;
    end loop;
end;
$$;

-- Deliveries of a silent sender become due again immediately. Whether they were sent is unknown, and the receiver has not failed, so this
-- does not count as an attempt, however often senders crash. In case one of them causes the crashes, from the second time on they wait,
-- twice as long each time up to a quarter of an hour, and with jitter, so that they are claimed separately and the others get through. A
-- test is not sent again, because somebody is waiting for its result.
create or replace function app.expire_webhook_leases(p_organization_id uuid, p_now timestamptz) returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_ids   uuid[];
    v_times timestamptz[];
    v_count integer;
begin
    select array_agg(e.id), array_agg(p_now + app.seconds(case when e.lost_leases > 0 then least(900, 10 * 2 ^ least(e.lost_leases - 1, 10)) * (0.5 + random()) else 0 end))
      into v_ids, v_times
      from (select id, lost_leases
              from app.webhook_deliveries
             where organization_id = p_organization_id and status = 'sending' and lease_expires_at < p_now
               for update skip locked) e;
    update app.webhook_deliveries d
       set status           = case when d.event = 'webhook.test' then 'failed' else 'pending' end,
           next_attempt_at  = case when d.event <> 'webhook.test' then w.due_at end,
           lost_leases      = d.lost_leases + 1,
           lease_token      = null,
           lease_expires_at = null,
           leased_by        = null,
           last_http_status = null,
           last_error       = 'The sender ended before it could tell the outcome',
           ended_at         = case when d.event = 'webhook.test' then p_now end
      from unnest(v_ids, v_times) w (id, due_at)
     where d.organization_id = p_organization_id and d.id = any (v_ids) and d.id = w.id;
    get diagnostics v_count = row_count;
    return v_count;
end;
$$;

create or replace function api.release_lost_webhooks(p_organization_id uuid, p_sender text, p_delivery_ids uuid[]) returns integer
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp set lock_timeout = '50ms'
as $$
declare
    v_now   timestamptz := app.clock();
    v_count integer;
begin
    -- Once this is locked, a claim whose caller is gone has ended.
    perform from app.webhook_configs where organization_id = p_organization_id for update;
    update app.webhook_deliveries
       set status = 'pending', next_attempt_at = v_now, lease_token = null, lease_expires_at = null, leased_by = null
     where organization_id = p_organization_id and status = 'sending' and leased_by = p_sender and id <> all (p_delivery_ids);
    get diagnostics v_count = row_count;
    if v_count > 0 then
        perform app.wake_webhooks(p_organization_id, v_now);
    end if;
    return v_count;
end;
$$;

comment on function api.release_lost_webhooks(uuid, text, uuid[]) is 'Releases deliveries that a sender holds without knowing it, because the connection broke before it received its claim: all but those given. Returns how many. 55P03 (lock_not_available): another transaction holds rows of the organization; try again later.';

-- For run_maintenance: leases, the ready list, and what is older than 30 days, up to p_limit deliveries. It takes the organizations with
-- webhooks in turn, and stays at one that has more to delete; every run handles expired leases. It waits for no row, because it already
-- holds rows of the lookups' queue, for which others may wait while they hold a row of this one.
create or replace function app.maintain_webhooks(p_now timestamptz, p_limit integer default 10000) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp set enable_seqscan = off
as $$
declare
    v_organization_ids uuid[]  := array(select organization_id from app.webhook_queue_state
                                         union
                                        select organization_id from app.webhook_wakeups
                                         order by organization_id);
    v_first            uuid    := app.uuid_v7_floor(p_now - interval '30 days');
    v_left             integer := p_limit;
    v_organization_id  uuid;
    v_count            integer;
    v_after            uuid;
begin
    v_organization_ids := app.in_turn('webhooks', v_organization_ids, greatest(20, cardinality(v_organization_ids) / 10));
    foreach v_organization_id in array v_organization_ids loop
        delete from app.webhook_deliveries
         where organization_id = v_organization_id
           and id = any (array(select id
                                 from app.webhook_deliveries
                                where organization_id = v_organization_id and id < v_first
                                order by id
                                limit v_left
                                  for update skip locked));
        get diagnostics v_count = row_count;
        v_left := v_left - v_count;
        exit when v_left = 0;
        v_after := v_organization_id;
    end loop;
    perform app.end_turn('webhooks', v_after);
    v_organization_ids := array(select unnest(v_organization_ids)
                                 union
                                -- A delivery that was claimed while its organization was deleted may be left.
                                select d.organization_id
                                  from app.webhook_deliveries d
                                 where d.status = 'sending' and d.lease_expires_at < p_now
                                   and d.organization_id in (select o.id from app.organizations o)
                                 order by 1);
    foreach v_organization_id in array v_organization_ids loop
        perform app.expire_webhook_leases(v_organization_id, p_now);
    end loop;
    foreach v_organization_id in array v_organization_ids loop
        perform app.settle_webhooks(v_organization_id);
    end loop;
    perform pg_notify('webhooks_ready', '');
end;
$$;
