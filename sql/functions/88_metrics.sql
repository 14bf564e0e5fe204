-- Chapter 88, metrics: what Prometheus scrapes about all organizations together. It locks nothing, and reads only what is open and what was
-- counted in the last minutes, however large the tables are.

-- What was counted since the installation, by kind, outcome and error class. The sums of buckets are written out: each scrape adds up
-- thousands of rows.
create or replace function app.sum_work() returns table (
    kind text, outcome text, error_class text, items bigint, latency_seconds double precision, latency_buckets bigint[], wait_seconds double precision,
    wait_buckets bigint[]
)
language plpgsql stable
set search_path = pg_catalog, pg_temp set jit = off set enable_seqscan = off
as $$
begin
    return query
    select w.kind, w.outcome, w.error_class, sum(w.items)::bigint, sum(w.latency_seconds),
           array[sum(w.latency_buckets[1]), sum(w.latency_buckets[2]), sum(w.latency_buckets[3]), sum(w.latency_buckets[4]),
                 sum(w.latency_buckets[5]), sum(w.latency_buckets[6]), sum(w.latency_buckets[7]), sum(w.latency_buckets[8]),
                 sum(w.latency_buckets[9]), sum(w.latency_buckets[10]), sum(w.latency_buckets[11])]::bigint[],
           sum(w.wait_seconds),
           array[sum(w.wait_buckets[1]), sum(w.wait_buckets[2]), sum(w.wait_buckets[3]), sum(w.wait_buckets[4]), sum(w.wait_buckets[5]),
                 sum(w.wait_buckets[6]), sum(w.wait_buckets[7]), sum(w.wait_buckets[8]), sum(w.wait_buckets[9]), sum(w.wait_buckets[10])]::bigint[]
      from (select t.* from app.work_totals t
             union all
            select m.kind, m.outcome, m.error_class, m.items, m.latency_seconds, m.latency_buckets, m.wait_seconds, m.wait_buckets
              from app.work_minutes m
             where m.recorder <> 0) w
     group by w.kind, w.outcome, w.error_class
     order by w.kind, w.outcome, w.error_class;
end;
$$;

-- Since when the oldest item that a claim could take now has been ready; null: none. Nothing is ready in an outage or a pause, or for an
-- organization whose month is used up: that one is not on the ready list before the next month. The months of those on the list are checked
-- from the oldest item on, usually for one organization only. Ids of jobs ascend with their uploads, so usually one job is read; of items
-- that wait for a retry, the first of each organization that has been on the ready list for longer.
create or replace function app.oldest_ready_since(p_now timestamptz) returns timestamptz
language plpgsql stable
set search_path = pg_catalog, pg_temp set jit = off set enable_seqscan = off
as $$
declare
    v_upstream app.upstream;
    v_settings app.settings;
    v_limited  uuid[];
    v_waiting  record;
    v_new      timestamptz;
    v_retry    timestamptz;
begin
    select * into v_upstream from app.upstream_state;
    select * into v_settings from app.settings;
    if app.closed_until(v_upstream, p_now) > p_now or app.is_outage(v_upstream, v_settings, p_now) then
        return null;
    end if;
    v_limited := array(select id from app.organizations where monthly_lookups is not null);
    for v_waiting in
        select q.organization_id, q.job_id
          from app.queued_jobs q
         where q.organization_id <> all (v_limited)
            or q.organization_id in (select s.organization_id from app.organization_queue_state s where s.ready_at <= p_now
                                      union all
                                     select k.organization_id from app.queue_wakeups k where k.ready_at <= p_now)
         order by q.job_id
    loop
        if app.lookups_left(v_waiting.organization_id, p_now) is distinct from 0 then
            select created_at into v_new
              from public.batch_lookup_jobs
             where organization_id = v_waiting.organization_id and id = v_waiting.job_id and processed_items < total_items;
            exit when found;
        end if;
    end loop;
    for v_waiting in
        select l.organization_id, r.retry_at
          from (select s.organization_id from app.organization_queue_state s where s.ready_at <= p_now and s.ready_at < coalesce(v_new, 'infinity')
                 union
                select k.organization_id from app.queue_wakeups k where k.ready_at <= p_now and k.ready_at < coalesce(v_new, 'infinity')) l
         cross join lateral (select i.retry_at
                               from public.lookup_queue_items i
                              where i.organization_id = l.organization_id and i.status = 'pending' and i.retry_at is not null and i.retry_at <= p_now
                              order by i.retry_at
                              limit 1) r
         order by r.retry_at
    loop
        if app.lookups_left(v_waiting.organization_id, p_now) is distinct from 0 then
            v_retry := v_waiting.retry_at;
            exit;
        end if;
    end loop;
    return least(v_new, v_retry);
end;
$$;

-- The age in seconds of the oldest item that could be looked up now, and the longest time since an organization with something to claim was
-- served.
create or replace function app.measure_waits(p_now timestamptz, out oldest_ready_age double precision, out longest_unserved double precision)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    oldest_ready_age := date_part('epoch', p_now - app.oldest_ready_since(p_now));
    longest_unserved := date_part('epoch', p_now - (select min(r.since)
                                                     from (select greatest(s.ready_at, s.served_at) as since
                                                             from app.organization_queue_state s
                                                            where s.ready_at <= p_now
                                                            union all
                                                           select greatest(w.ready_at, q.served_at)
                                                             from app.queue_wakeups w
                                                             left join app.organization_queue_state q on q.organization_id = w.organization_id
                                                            where w.ready_at <= p_now) r));
end;
$$;

-- Deliveries that are due, for receivers that are enabled and have not asked for a pause.
create or replace function app.measure_webhooks(
    p_now timestamptz, out due bigint, out oldest_due_age double precision, out enabled bigint, out failing bigint, out disabled bigint
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_ready           uuid[] := array(select q.organization_id from app.webhook_queue_state q where q.ready_at <= p_now
                                       union
                                      select k.organization_id from app.webhook_wakeups k where k.ready_at <= p_now);
    v_organization_id uuid;
    v_due             record;
begin
    due := 0;
    for v_organization_id in
        select c.organization_id
          from app.webhook_configs c
          left join app.webhook_queue_state s on s.organization_id = c.organization_id
         where c.organization_id = any (v_ready) and c.enabled and not coalesce(s.paused_until > p_now, false)
    loop
        select count(*) as deliveries, max(date_part('epoch', p_now - d.next_attempt_at)) as age into v_due
          from (select w.next_attempt_at
                  from app.webhook_deliveries w
                 where w.organization_id = v_organization_id and w.status = 'pending' and w.next_attempt_at <= p_now
                 order by w.next_attempt_at
                 limit 1000) d;
        due := due + v_due.deliveries;
        oldest_due_age := greatest(oldest_due_age, v_due.age);
    end loop;
    select count(*) filter (where c.enabled and c.failing_since is null), count(*) filter (where c.enabled and c.failing_since is not null),
           count(*) filter (where not c.enabled)
      into enabled, failing, disabled
      from app.webhook_configs c
     where c.url is not null;
end;
$$;

-- PostgreSQL itself. Only a superuser or a member of pg_read_all_stats sees how long sessions of other roles have been running.
create or replace function app.measure_database() returns json
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return json_build_object(
        'read_only', pg_is_in_recovery() or current_setting('default_transaction_read_only') = 'on',
        'now', date_part('epoch', clock_timestamp()),
        'oldest_xmin_age', greatest((select coalesce(max(date_part('epoch', clock_timestamp() - a.xact_start)), 0)
                                       from pg_stat_activity a
                                      where a.datname = current_database() and a.pid <> pg_backend_pid() and a.backend_type = 'client backend'
                                        and coalesce(a.backend_xmin, a.backend_xid) is not null),
                                    (select coalesce(max(date_part('epoch', clock_timestamp() - p.prepared)), 0) from pg_prepared_xacts p
                                      where p.database = current_database())),
        'notify_queue_ratio', pg_notification_queue_usage(),
        'dead_rows', (select json_object_agg(c.relname, pg_stat_get_dead_tuples(c.oid) order by c.relname)
                        from pg_class c
                       where c.relnamespace in ('app'::regnamespace, 'public'::regnamespace) and c.relkind = 'r'
                         and c.relname in ('batch_lookup_jobs', 'lookup_queue_items', 'lookup_leases', 'incentive_reports', 'organization_queue_state',
                                           'queue_wakeups', 'queued_jobs', 'rate_limit', 'upstream_state', 'webhook_deliveries', 'work_minutes')));
end;
$$;

create or replace function api.get_metrics() returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set jit = off set enable_seqscan = off
as $$
declare
    v_now      timestamptz := app.clock();
    v_health   record;
    v_waits    record;
    v_webhooks record;
    v_work     json;
    v_used     numeric;
    v_jobs     json;
begin
    if app.is_node() then
        return app.ask_coordinator('select api.get_metrics()');
    end if;
    select * into v_health from api.queue_health;
    v_waits := app.measure_waits(v_now);
    v_webhooks := app.measure_webhooks(v_now);
    v_work := (select json_agg(w) from app.sum_work() w);
    v_used := (select sum(w.items)
                 from app.work_minutes w
                where w.recorder <> 0 and w.minute = date_trunc('minute', v_now - interval '1 minute', 'UTC') and w.kind = 'lookup'
                  and w.outcome <> 'deduplicated') / 60 / v_health.lookups_per_second;
    v_jobs := (select json_build_object('pending', count(*) filter (where j.status = 'pending'),
                                        'processing', count(*) filter (where j.status = 'processing'))
                 from public.batch_lookup_jobs j
                where j.status in ('pending', 'processing'));
    return json_build_object(
        'migration', (select max(name) from app.schema_migrations),
        'latency_bounds', app.latency_bounds(),
        'wait_bounds', app.wait_bounds(),
        'work', coalesce(v_work, '[]'),
        'pace_used', v_used,
        'queue', row_to_json(v_health),
        'open_jobs', v_jobs,
        'oldest_ready_age', v_waits.oldest_ready_age,
        'longest_unserved', v_waits.longest_unserved,
        'webhooks', to_json(v_webhooks),
        'maintenance', (select json_build_object('age', date_part('epoch', v_now - nullif(m.ran_at, '-infinity')), 'violations', m.violations,
                                                 'checked_age', date_part('epoch', v_now - nullif(m.checked_at, '-infinity')))
                          from app.maintenance_state m),
        'database', app.measure_database());
end;
$$;

comment on function api.get_metrics() is 'What /metrics shows about all organizations, as one object: counters since the installation (work), the queue''s health, ages in seconds, and the state of PostgreSQL. Read-only and without a lock.';
