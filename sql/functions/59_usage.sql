-- Chapter 59, usage: the count of lookups, by day and job. Claims count while they hold the organization's row of the ready list, so that
-- no number of workers can exceed a limit.

create or replace function app.month_of(p_at timestamptz) returns date
language sql immutable
return date_trunc('month', p_at at time zone 'UTC')::date;

create or replace function app.next_month(p_at timestamptz) returns timestamptz
language sql immutable
return (app.month_of(p_at) + interval '1 month') at time zone 'UTC';

create or replace function app.lookups_of_month(p_organization_id uuid, p_now timestamptz) returns bigint
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_first date := app.month_of(p_now);
begin
    return (app.sum_usage(p_organization_id, v_first, 'infinity')).lookups;
end;
$$;

-- The lookups of a job, day by day until it ended: an organization may have thousands of other jobs a day.
create or replace function app.lookups_of_job(p_job public.batch_lookup_jobs) returns bigint
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_first date := (p_job.created_at at time zone 'UTC')::date;
    v_last  date := (coalesce(p_job.completed_at, app.clock()) at time zone 'UTC')::date;
begin
    return (select coalesce(sum(u.lookups), 0)
              from generate_series(0, v_last - v_first) n
             cross join lateral (select l.lookups
                                   from public.lookup_usage l
                                  where l.organization_id = p_job.organization_id and l.day = v_first + n and l.job_id = p_job.id
                                 offset 0) u);
end;
$$;

-- Counts the lookups of a claim, whose leases are ordered by job; returns the jobs that have none yet today. It waits for no row, because
-- the claim holds the rate limit, which all organizations share.
create or replace function app.count_lookups(p_organization_id uuid, p_leases public.lookup_leases[], p_now timestamptz) returns uuid[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp set lock_timeout = '1ms' set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
    v_day     date      := (p_now at time zone 'UTC')::date;
    v_lease   public.lookup_leases;
    v_job_ids uuid[]    := '{}';
    v_lookups integer[] := '{}';
    v_claimed integer   := 0;
    v_counted integer;
    v_new     uuid[]    := '{}';
begin
    foreach v_lease in array p_leases loop
        v_job_ids := v_job_ids || v_lease.job_id;
        v_lookups := v_lookups || app.count_positions(v_lease.positions);
        v_claimed := v_claimed + v_lookups[cardinality(v_lookups)];
    end loop;
    -- Lock the rows of jobs before that of the day, as in app.uncount_lookups.
    for n in 1 .. cardinality(v_job_ids) loop
        insert into public.lookup_usage as u (organization_id, day, job_id, lookups)
        values (p_organization_id, v_day, v_job_ids[n], v_lookups[n])
            on conflict (organization_id, day, job_id) do update
           set lookups = u.lookups + excluded.lookups
        returning lookups into v_counted;
        if v_counted = v_lookups[n] then
            v_new := v_new || v_job_ids[n];
        end if;
    end loop;
    insert into app.usage_days as d (organization_id, day, lookups, jobs)
    values (p_organization_id, v_day, v_claimed, cardinality(v_new))
        on conflict (organization_id, day) do update
       set lookups = d.lookups + excluded.lookups, jobs = d.jobs + excluded.jobs;
    update app.job_budgets
       set lookups = lookups + v_lookups[array_position(v_job_ids, job_id)]
     where organization_id = p_organization_id and job_id = any (v_job_ids);
    return v_new;
end;
$$;

-- The day (UTC) of a claim, from the token of its lease. Tokens of earlier releases contain no time and count as today's.
create or replace function app.claimed_on(p_lease_token uuid) returns date
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    return ((case substr(p_lease_token::text, 15, 1)
                  when '7' then to_timestamp(('x' || translate(left(p_lease_token::text, 13), '-', ''))::bit(48)::bigint / 1000.0)
                  else app.clock() end) at time zone 'UTC')::date;
end;
$$;

-- Reverts the count of items that a worker has released unsent: their jobs, and the day on which each was claimed, because lookups count in
-- that month.
create or replace function app.uncount_lookups(p_organization_id uuid, p_job_ids uuid[], p_days date[]) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
    v_claimed record;
    v_lookups integer;
    v_days    date[]    := '{}';
    v_fewer   integer[] := '{}';
    v_ended   integer[] := '{}';
begin
    for v_claimed in
        select i.job_id, i.day, count(*)::integer as items from unnest(p_job_ids, p_days) i (job_id, day) group by i.job_id, i.day order by i.job_id, i.day
    loop
        select lookups into v_lookups
          from public.lookup_usage
         where organization_id = p_organization_id and day = v_claimed.day and job_id = v_claimed.job_id and lookups > 0
           for update;
        continue when not found;
        update public.lookup_usage
           set lookups = greatest(lookups - v_claimed.items, 0)
         where organization_id = p_organization_id and day = v_claimed.day and job_id = v_claimed.job_id;
        update app.job_budgets
           set lookups = greatest(lookups - least(v_lookups, v_claimed.items), 0)
         where organization_id = p_organization_id and job_id = v_claimed.job_id;
        v_days := v_days || v_claimed.day;
        v_fewer := v_fewer || least(v_lookups, v_claimed.items);
        v_ended := v_ended || (v_lookups <= v_claimed.items)::integer;
    end loop;
    update app.usage_days d
       set lookups = d.lookups - u.fewer, jobs = d.jobs - u.ended
      from (select day, sum(fewer) as fewer, sum(ended) as ended from unnest(v_days, v_fewer, v_ended) n (day, fewer, ended) group by day) u
     where d.organization_id = p_organization_id and d.day = u.day;
end;
$$;

create or replace function api.get_usage(
    p_organization_id uuid        default app.claimed_organization_id(),
    p_created_from    timestamptz default null,
    p_created_before  timestamptz default null,
    p_limit           integer     default 100,
    p_offset          integer     default 0,
    p_cursor          text        default null
) returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan set jit = off
as $$
declare
    v_now    timestamptz := app.clock();
    v_from   date        := coalesce((p_created_from at time zone 'UTC' + interval '1 day' - interval '1 microsecond')::date, '-infinity');
    v_before date        := coalesce((p_created_before at time zone 'UTC' - interval '1 microsecond')::date + 1, 'infinity');
    v_cursor app.page_cursor;
    v_rows   public.lookup_usage[];
    v_total  record;
    v_usage  json;
    v_limit  integer;
begin
    perform app.authorize(p_organization_id, 'jobs:read');
    v_cursor := app.read_page(p_cursor, 'usage', p_limit, p_offset, 500);
    select coalesce(array_agg(row(u.*)::public.lookup_usage), '{}') into v_rows
      from (select u.*
              from public.lookup_usage u
             where u.organization_id = p_organization_id and u.day >= v_from and u.day < v_before and u.lookups > 0
               and (p_cursor is null or (u.day, u.job_id) < ((v_cursor.created_at at time zone 'UTC')::date, v_cursor.id))
             order by u.day desc, u.job_id desc
             limit p_limit + 1 offset p_offset) u;
    v_total := app.sum_usage(p_organization_id, v_from, v_before);
    select coalesce(json_agg(json_build_object(
                         'day', u.day, 'job_id', u.job_id, 'name', j.name, 'lookups', u.lookups, 'total_items', j.total_items,
                         'created_at', app.rfc3339(j.created_at))
                             order by u.day desc, u.job_id desc), '[]')
      into v_usage
      from unnest(v_rows[:p_limit]) u
      left join public.batch_lookup_jobs j on j.organization_id = p_organization_id and j.id = u.job_id;
    select monthly_lookups into v_limit from app.organizations where id = p_organization_id;
    return json_build_object(
        'usage', v_usage,
        'lookups', v_total.lookups,
        'month', json_build_object(
            'month', to_char(app.month_of(v_now), 'YYYY-MM'),
            'lookups', app.lookups_of_month(p_organization_id, v_now),
            'limit', v_limit),
        'total', v_total.jobs,
        'limit', p_limit,
        'offset', p_offset,
        'next_cursor', case when cardinality(v_rows) > p_limit
                            then app.cursor(row('usage', null, null, null, v_rows[p_limit].day::timestamp at time zone 'UTC', v_rows[p_limit].job_id, null)) end);
end;
$$;

comment on function api.get_usage(uuid, timestamptz, timestamptz, integer, integer, text) is
'The lookups of an organization by day (UTC) and batch, newest first: {usage: [{day, job_id, name (null: none, or the batch was deleted), lookups, total_items and created_at of the batch (null: it was deleted)}], lookups (of all these days), month: {month, lookups, limit (null: none)}, total, limit, offset, next_cursor}. Each attempt counts, including retries. Optional: days that begin at or after p_created_from and before p_created_before. 400: limit not in 1 to 500, invalid_cursor, cursor_with_offset.';
grant execute on function api.get_usage(uuid, timestamptz, timestamptz, integer, integer, text) to authenticated;
