-- Chapter 57, work history: a flush adds its outcomes to rows that no other backend writes, so counting never waits. When the minute is
-- over, maintenance merges them into one row, and adds them to the totals of all organizations.

-- Upper bounds of the buckets, in seconds. Changing them takes a migration of what was counted.
create or replace function app.latency_bounds() returns double precision[]
language sql immutable
return '{0.05,0.1,0.25,0.5,1,2.5,5,10,30,60}'::double precision[];

create or replace function app.wait_bounds() returns double precision[]
language sql immutable
return '{1,5,15,60,300,900,3600,14400,86400}'::double precision[];

-- The bucket of a value, from 1; a bound belongs to the bucket below it. null: no value.
create or replace function app.bucket_of(p_value double precision, p_bounds double precision[]) returns integer
language sql immutable
return width_bucket(p_value - 1e-9, p_bounds) + 1;

create or replace function app.add_buckets(p_buckets bigint[], p_more bigint[]) returns bigint[]
language plpgsql immutable
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
as $$
begin
    return array(select coalesce(a.n, 0) + coalesce(a.more, 0) from unnest(p_buckets, p_more) with ordinality a (n, more, place) order by a.place);
end;
$$;

-- All buckets of these bounds, filled with the amounts for the given buckets; amounts for a null bucket are dropped.
create or replace function app.fill_buckets(p_buckets integer[], p_amounts bigint[], p_bounds double precision[]) returns bigint[]
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_filled bigint[] := array_fill(0::bigint, array[cardinality(p_bounds) + 1]);
begin
    for n in 1 .. coalesce(cardinality(p_buckets), 0) loop
        if p_buckets[n] is not null then
            v_filled[p_buckets[n]] := v_filled[p_buckets[n]] + p_amounts[n];
        end if;
    end loop;
    return v_filled;
end;
$$;

-- Sums several rows of buckets, given as an array of rows.
create or replace function app.sum_buckets(p_rows bigint[]) returns bigint[]
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return array(select sum(u.n)::bigint
                   from unnest(p_rows) with ordinality u (n, place)
                  group by (u.place - 1) % array_length(p_rows, 2)
                  order by (u.place - 1) % array_length(p_rows, 2));
end;
$$;

-- Counts items of one outcome. They are given in groups, as parallel arrays: the buckets of latency and wait, the number of items, and the
-- sums of both in seconds; null: not counted.
create or replace function app.add_work(
    p_organization_id uuid, p_kind text, p_outcome text, p_error_class text, p_latency_buckets integer[], p_wait_buckets integer[],
    p_items bigint[], p_latencies double precision[], p_waits double precision[], p_now timestamptz
) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_minute    timestamptz := date_trunc('minute', p_now, 'UTC');
    v_latencies bigint[]    := app.fill_buckets(p_latency_buckets, p_items, app.latency_bounds());
    v_waits     bigint[]    := app.fill_buckets(p_wait_buckets, p_items, app.wait_bounds());
    v_items     bigint           := 0;
    v_latency   double precision := 0;
    v_wait      double precision := 0;
begin
    for n in 1 .. cardinality(p_items) loop
        v_items := v_items + p_items[n];
        v_latency := v_latency + coalesce(p_latencies[n], 0);
        v_wait := v_wait + coalesce(p_waits[n], 0);
    end loop;
    insert into app.work_minutes as w (organization_id, minute, kind, outcome, error_class, recorder, items, latency_seconds, latency_buckets,
                                       wait_seconds, wait_buckets)
    values (p_organization_id, v_minute, p_kind, p_outcome, coalesce(p_error_class, ''), pg_backend_pid(), v_items, v_latency, v_latencies,
            v_wait, v_waits)
        on conflict (organization_id, minute, kind, outcome, error_class, recorder) do update
       set items           = w.items + excluded.items,
           latency_seconds = w.latency_seconds + excluded.latency_seconds,
           latency_buckets = app.add_buckets(w.latency_buckets, excluded.latency_buckets),
           wait_seconds    = w.wait_seconds + excluded.wait_seconds,
           wait_buckets    = app.add_buckets(w.wait_buckets, excluded.wait_buckets);
end;
$$;

-- Counts outcomes, given as parallel arrays: error classes (null: none), seconds until the response, seconds of waiting before (null: not
-- counted).
create or replace function app.count_work(
    p_organization_id uuid, p_kind text, p_outcomes text[], p_error_classes text[], p_latencies double precision[], p_waits double precision[],
    p_now timestamptz
) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    perform app.add_work(p_organization_id, p_kind, g.outcome, g.error_class, array_agg(g.l), array_agg(g.w), array_agg(g.items),
                         array_agg(g.latency), array_agg(g.wait), p_now)
       from (select u.outcome, u.error_class, app.bucket_of(u.latency, app.latency_bounds()) as l, app.bucket_of(u.wait, app.wait_bounds()) as w,
                    count(*) as items, sum(u.latency) as latency, sum(u.wait) as wait
               from unnest(p_outcomes, p_error_classes, p_latencies, p_waits) u (outcome, error_class, latency, wait)
              group by 1, 2, 3, 4) g
      group by g.outcome, g.error_class;
end;
$$;

-- Counts a flush of lookups that all completed their items, without reading the items, which are large. A job's lookups in the same latency
-- bucket all count in the bucket of their mean wait.
create or replace function app.count_completed_lookups(
    p_organization_id uuid, p_jobs public.batch_lookup_jobs[], p_job_ids uuid[], p_latencies double precision[], p_now timestamptz
) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan set enable_hashjoin = on set enable_nestloop = off
as $$
declare
    v_buckets   integer[];
    v_waits_in  integer[];
    v_items     bigint[];
    v_latencies double precision[];
    v_waits     double precision[];
begin
    select array_agg(g.l), array_agg(app.bucket_of(g.wait / g.items, app.wait_bounds())), array_agg(g.items), array_agg(g.latency), array_agg(g.wait)
      into v_buckets, v_waits_in, v_items, v_latencies, v_waits
      from (select o.l, o.items, o.latency,
                    greatest(date_part('epoch', p_now - j.created_at) * o.items - coalesce(o.latency, 0), 0) as wait
               from (select u.job_id, app.bucket_of(u.latency, app.latency_bounds()) as l, count(*) as items, sum(u.latency) as latency
                       from unnest(p_job_ids, p_latencies) u (job_id, latency)
                      group by 1, 2) o
               join unnest(p_jobs) j on j.id = o.job_id) g;
    perform app.add_work(p_organization_id, 'lookup', 'completed', null, v_buckets, v_waits_in, v_items, v_latencies, v_waits, p_now);
end;
$$;

-- Counts any other flush: the items that it changed, and the outcomes that changed them.
create or replace function app.count_outcomes(
    p_organization_id uuid, p_outcomes app.lookup_outcome[], p_items public.lookup_queue_items[], p_now timestamptz
) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
set enable_hashjoin = on set enable_nestloop = off set enable_mergejoin = off
as $$
declare
    v_outcomes      text[];
    v_error_classes text[];
    v_latencies     double precision[];
    v_waits         double precision[];
begin
    select array_agg(case i.status when 'pending' then 'retried' else i.status end),
           array_agg(case when i.status <> 'completed' then o.error_code end),
           array_agg(o.latency),
           array_agg(case when i.status <> 'pending' then greatest(date_part('epoch', p_now - i.created_at) - coalesce(o.latency, 0), 0) end)
      into v_outcomes, v_error_classes, v_latencies, v_waits
      from unnest(p_items) i
      join unnest(p_outcomes) o on o.job_id = i.job_id and o.position = i.position;
    if v_outcomes is not null then
        perform app.count_work(p_organization_id, 'lookup', v_outcomes, v_error_classes, v_latencies, v_waits, p_now);
    end if;
end;
$$;

-- Counts items that ended, or will be retried, without a response from the incentives API.
create or replace function app.count_unanswered(
    p_organization_id uuid, p_items public.lookup_queue_items[], p_outcome text, p_error_class text, p_now timestamptz
) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if cardinality(p_items) > 0 then
        perform app.count_work(
            p_organization_id, 'lookup',
            array(select case when i.status = 'pending' then 'retried' else p_outcome end from unnest(p_items) i),
            array_fill(p_error_class, array[cardinality(p_items)]), null,
            array(select case when i.status <> 'pending' then greatest(date_part('epoch', p_now - i.created_at), 0) end from unnest(p_items) i),
            p_now);
    end if;
end;
$$;

-- Completes the minutes before p_before: merges the rows of several backends, and adds them to the totals. Rows that a transaction has
-- locked are left for the next time.
create or replace function app.complete_work_minutes(p_before timestamptz, p_organization_id uuid default null) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off
as $$
declare
    v_organization_id uuid;
    v_row             app.work_minutes;
    v_rows            app.work_minutes[] := '{}';
begin
    for v_organization_id in
        select distinct m.organization_id
          from app.work_minutes m
         where m.recorder <> 0 and m.minute < p_before and (p_organization_id is null or m.organization_id = p_organization_id)
    loop
        for v_row in
            delete from app.work_minutes
             where organization_id = v_organization_id
               and (minute, kind, outcome, error_class, recorder) in
                   (select minute, kind, outcome, error_class, recorder
                      from app.work_minutes
                     where organization_id = v_organization_id and recorder <> 0 and minute < p_before
                       for update skip locked)
         returning *
        loop
            v_rows := v_rows || v_row;
        end loop;
    end loop;

    insert into app.work_minutes as w (organization_id, minute, kind, outcome, error_class, items, latency_seconds, latency_buckets, wait_seconds,
                                       wait_buckets)
    select r.organization_id, r.minute, r.kind, r.outcome, r.error_class, sum(r.items), sum(r.latency_seconds),
           app.sum_buckets(array_agg(r.latency_buckets)), sum(r.wait_seconds), app.sum_buckets(array_agg(r.wait_buckets))
      from unnest(v_rows) r
     group by r.organization_id, r.minute, r.kind, r.outcome, r.error_class
        on conflict (organization_id, minute, kind, outcome, error_class, recorder) do update
       set items           = w.items + excluded.items,
           latency_seconds = w.latency_seconds + excluded.latency_seconds,
           latency_buckets = app.add_buckets(w.latency_buckets, excluded.latency_buckets),
           wait_seconds    = w.wait_seconds + excluded.wait_seconds,
           wait_buckets    = app.add_buckets(w.wait_buckets, excluded.wait_buckets);

    insert into app.work_totals as t (kind, outcome, error_class, items, latency_seconds, latency_buckets, wait_seconds, wait_buckets)
    select r.kind, r.outcome, r.error_class, sum(r.items), sum(r.latency_seconds), app.sum_buckets(array_agg(r.latency_buckets)),
           sum(r.wait_seconds), app.sum_buckets(array_agg(r.wait_buckets))
      from unnest(v_rows) r
     group by r.kind, r.outcome, r.error_class
        on conflict (kind, outcome, error_class) do update
       set items           = t.items + excluded.items,
           latency_seconds = t.latency_seconds + excluded.latency_seconds,
           latency_buckets = app.add_buckets(t.latency_buckets, excluded.latency_buckets),
           wait_seconds    = t.wait_seconds + excluded.wait_seconds,
           wait_buckets    = app.add_buckets(t.wait_buckets, excluded.wait_buckets);
end;
$$;

-- For run_maintenance: the same, unless a total is locked, as by a deletion of an organization until its commit. The next run does it then.
create or replace function app.try_to_complete_work_minutes(p_before timestamptz) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp set lock_timeout = '20ms'
as $$
begin
    perform app.complete_work_minutes(p_before);
exception
    when lock_not_available then null;
end;
$$;

-- Deletes the minutes of an organization that are older than 30 days, up to p_limit.
create or replace function app.prune_work_minutes(p_organization_id uuid, p_now timestamptz, p_limit integer default 5000) returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_count integer;
begin
    delete from app.work_minutes
     where organization_id = p_organization_id
       and ctid = any (array(select ctid
                               from app.work_minutes
                              where organization_id = p_organization_id and minute < p_now - interval '30 days' and recorder = 0
                              order by minute
                              limit p_limit
                                for update skip locked));
    get diagnostics v_count = row_count;
    return v_count;
end;
$$;
