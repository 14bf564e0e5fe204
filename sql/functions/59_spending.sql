-- Chapter 59, spending: samples, limits, and the count of lookups. Claims count, under the organization's row of the ready list, so that
-- no number of workers can exceed a limit. A job that reaches one leaves the queue: its items fail, or the job is held until it is continued.

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

-- How many lookups an organization may still make this month; null: any number.
create or replace function app.lookups_left(p_organization_id uuid, p_now timestamptz) returns bigint
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_limit integer := (select monthly_lookups from app.organizations where id = p_organization_id);
begin
    return case when v_limit is not null then greatest(v_limit - app.lookups_of_month(p_organization_id, p_now), 0) end;
end;
$$;

-- Whether an organization has jobs with a sample or a limit of their own.
create or replace function app.has_budgets(p_organization_id uuid) returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
begin
    perform from app.job_budgets where organization_id = p_organization_id limit 1;
    return found;
end;
$$;

-- Whether claims of an organization have more to mind than the limits of all.
create or replace function app.has_limits(p_organization_id uuid) returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
begin
    if app.has_budgets(p_organization_id) then
        return true;
    end if;
    perform from app.organizations where id = p_organization_id and monthly_lookups is not null;
    return found;
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

-- What a new job's upload said about lookups. The items of a sample are due in the order of their hashes, which is random, and the same for
-- the same file; claims never see the others.
create or replace function app.set_budget(p_organization_id uuid, p_job_id uuid, p_spending jsonb, p_now timestamptz) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_sample  integer := p_spending ->> 'sample';
    v_pending integer;
begin
    insert into app.job_budgets (organization_id, job_id, sample, max_lookups, when_limit_reached)
    values (p_organization_id, p_job_id, v_sample, (p_spending ->> 'max_lookups')::integer, coalesce(p_spending ->> 'when_limit_reached', 'fail'));
    v_pending := (select count(*) from public.lookup_queue_items where organization_id = p_organization_id and job_id = p_job_id and status = 'pending');
    if v_sample is null or v_pending <= v_sample then
        return;
    end if;
    delete from app.queued_jobs where organization_id = p_organization_id and job_id = p_job_id;
    update app.job_budgets set held_position = 0 where organization_id = p_organization_id and job_id = p_job_id;
    update public.lookup_queue_items i
       set retry_at = case when s.place <= v_sample then app.time_after(p_now, (s.place - v_sample) * interval '1 microsecond') end
      from (select position, row_number() over (order by md5(reference_id), position) as place
              from public.lookup_queue_items
             where organization_id = p_organization_id and job_id = p_job_id and status = 'pending') s
     where i.organization_id = p_organization_id and i.job_id = p_job_id and i.position = s.position
       and (s.place <= v_sample or i.retry_at is not null);
end;
$$;

-- Counts the lookups of a claim, whose leases come by job; answers the jobs that have none yet today. It waits for no row, because the claim
-- holds the rate limit, which all organizations share.
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
    -- The rows of jobs before that of the day, as in app.uncount_lookups.
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

-- Takes back the count of items that a worker has released unsent: it claimed them today or yesterday.
create or replace function app.uncount_lookups(p_organization_id uuid, p_items public.lookup_queue_items[]) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
    v_days    date[]    := array[(app.clock() at time zone 'UTC')::date, (app.clock() at time zone 'UTC')::date - 1];
    v_job     record;
    v_day     date;
    v_lookups integer;
    v_fewer   integer[] := '{0,0}';
    v_ended   integer[] := '{0,0}';
    v_place   integer;
begin
    for v_job in select i.job_id, count(*)::integer as items from unnest(p_items) i group by i.job_id order by i.job_id loop
        foreach v_day in array v_days loop
            select lookups into v_lookups
              from public.lookup_usage
             where organization_id = p_organization_id and day = v_day and job_id = v_job.job_id
               for update;
            exit when found;
        end loop;
        if v_lookups > 0 then
            update public.lookup_usage
               set lookups = greatest(lookups - v_job.items, 0)
             where organization_id = p_organization_id and day = v_day and job_id = v_job.job_id;
            v_place := array_position(v_days, v_day);
            v_fewer[v_place] := v_fewer[v_place] + least(v_lookups, v_job.items);
            v_ended[v_place] := v_ended[v_place] + (v_lookups <= v_job.items)::integer;
        end if;
        update app.job_budgets
           set lookups = greatest(lookups - v_job.items, 0)
         where organization_id = p_organization_id and job_id = v_job.job_id;
    end loop;
    update app.usage_days d
       set lookups = d.lookups - u.fewer, jobs = d.jobs - u.ended
      from unnest(v_days, v_fewer, v_ended) u (day, fewer, ended)
     where d.organization_id = p_organization_id and d.day = u.day and u.fewer > 0;
end;
$$;

-- Those of the items of a claim that the limits of their jobs leave room for. The others are due at once; the next claim finds the limits
-- reached, and stops their jobs.
create or replace function app.within_budgets(p_organization_id uuid, p_items public.lookup_queue_items[], p_now timestamptz) returns public.lookup_queue_items[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp set lock_timeout = '1ms'
as $$
declare
    v_job record;
begin
    for v_job in
        select b.job_id, array_agg(i.position) as positions
          from (select u.job_id, u.position, row_number() over (partition by u.job_id order by u.position) as place from unnest(p_items) u) i
          join app.job_budgets b on b.organization_id = p_organization_id and b.job_id = i.job_id
         where i.place > b.max_lookups - b.lookups
         group by b.job_id
    loop
        update public.lookup_queue_items
           set retry_at = p_now
         where organization_id = p_organization_id and job_id = v_job.job_id and position = any (v_job.positions);
        p_items := array(select i from unnest(p_items) i where i.job_id <> v_job.job_id or i.position <> all (v_job.positions));
    end loop;
    return p_items;
end;
$$;

-- Stops the jobs that have reached a limit, their own or the month's. The caller holds the queue, so that nothing is claimed meanwhile.
create or replace function app.stop_at_limits(p_organization_id uuid, p_is_month_spent boolean, p_now timestamptz) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_job record;
begin
    for v_job in
        select j.id, b.max_lookups <= b.lookups as is_spent, coalesce(b.when_limit_reached, 'fail') as when_limit_reached
          from public.batch_lookup_jobs j
          left join app.job_budgets b on b.organization_id = j.organization_id and b.job_id = j.id
         where j.organization_id = p_organization_id and j.status in ('pending', 'processing') and (p_is_month_spent or b.max_lookups <= b.lookups)
    loop
        if v_job.when_limit_reached = 'fail' then
            perform app.fail_at_limit(p_organization_id, v_job.id, p_now);
        elsif v_job.is_spent then
            perform app.hold_job(p_organization_id, v_job.id);
        end if;
    end loop;
end;
$$;

-- Fails the items of a job that are not in flight. Later retries of those that are fail at the next claim.
create or replace function app.fail_at_limit(p_organization_id uuid, p_job_id uuid, p_now timestamptz) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_next_position integer;
    v_item          public.lookup_queue_items;
    v_items         public.lookup_queue_items[] := '{}';
begin
    delete from app.queued_jobs where organization_id = p_organization_id and job_id = p_job_id returning next_position into v_next_position;
    v_next_position := coalesce(
        v_next_position, (select held_position from app.job_budgets where organization_id = p_organization_id and job_id = p_job_id));
    update app.job_budgets set held_position = null where organization_id = p_organization_id and job_id = p_job_id and held_position is not null;
    -- The leases as the statement sees the items: what a recorder gives back meanwhile is in one of them.
    for v_item in
        update public.lookup_queue_items i
           set status        = 'failed',
               retry_at      = null,
               error_code    = 'lookup_limit_reached',
               error_message = 'The lookups that were allowed are used up',
               processed_at  = p_now
         where i.organization_id = p_organization_id and i.job_id = p_job_id and i.status = 'pending'
           and (i.retry_at is not null or i.position >= v_next_position)
           and not i.position <@ (select coalesce(range_agg(r), '{}')
                                    from public.lookup_leases l
                                   cross join unnest(l.positions) r
                                   where l.organization_id = p_organization_id and l.job_id = p_job_id)
     returning i.*
    loop
        v_items := v_items || v_item;
    end loop;
    if cardinality(v_items) > 0 then
        perform app.publish_item_changes(p_organization_id, v_items, p_now);
    end if;
end;
$$;

-- Holds a job until it is continued: claims see neither its new items nor those that wait for a retry.
create or replace function app.hold_job(p_organization_id uuid, p_job_id uuid) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_next_position integer;
begin
    delete from app.queued_jobs where organization_id = p_organization_id and job_id = p_job_id returning next_position into v_next_position;
    update app.job_budgets b
       set held_position = coalesce(v_next_position, (select total_items from public.batch_lookup_jobs where organization_id = p_organization_id and id = p_job_id))
     where b.organization_id = p_organization_id and b.job_id = p_job_id and b.held_position is null;
    update public.lookup_queue_items
       set retry_at = 'infinity'
     where organization_id = p_organization_id and job_id = p_job_id and status = 'pending' and retry_at < 'infinity';
    if v_next_position is not null or found then
        perform app.notify_change('UPDATE', 'batch_lookup_jobs', p_organization_id, p_job_id);
    end if;
end;
$$;

-- Stops the jobs of an organization that have reached a limit, and returns how many of p_limit items a claim may take. The caller holds the
-- queue. Once the month is spent, the organization is not ready before the next one.
create or replace function app.keep_limits(p_organization_id uuid, p_limit integer, p_now timestamptz) returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_left     bigint := app.lookups_left(p_organization_id, p_now);
    v_ready_at timestamptz;
begin
    perform app.stop_at_limits(p_organization_id, coalesce(v_left = 0, false), p_now);
    if v_left = 0 then
        delete from app.queue_wakeups where organization_id = p_organization_id;
        v_ready_at := case when app.next_ready_at(p_organization_id, p_now) is not null then app.next_month(p_now) end;
        update app.organization_queue_state
           set ready_at = v_ready_at
         where organization_id = p_organization_id;
    end if;
    return least(p_limit, v_left);
end;
$$;

-- What a job waits for: continue (its sample is done) or lookup_limit; null: it does not wait, or its last lookups are under way.
create or replace function app.job_waits_for(p_job public.batch_lookup_jobs) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_budget app.job_budgets;
begin
    if p_job.status not in ('pending', 'processing') then
        return null;
    end if;
    select * into v_budget from app.job_budgets where organization_id = p_job.organization_id and job_id = p_job.id;
    if v_budget.when_limit_reached = 'wait' and app.lookups_left(p_job.organization_id, app.clock()) = 0 then
        return 'lookup_limit';
    elsif v_budget.held_position is null or app.is_busy(p_job.organization_id, p_job.id) then
        return null;
    end if;
    return case when v_budget.max_lookups <= v_budget.lookups then 'lookup_limit' else 'continue' end;
end;
$$;

-- The same for an item that is pending and not in flight.
create or replace function app.item_is_held(p_item public.lookup_queue_items, p_now timestamptz) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_budget app.job_budgets;
begin
    select * into v_budget from app.job_budgets where organization_id = p_item.organization_id and job_id = p_item.job_id;
    if v_budget.max_lookups <= v_budget.lookups or app.lookups_left(p_item.organization_id, p_now) = 0 then
        return 'lookup_limit';
    end if;
    return case when v_budget.held_position is not null and coalesce(p_item.retry_at, 'infinity') = 'infinity' then 'continue' end;
end;
$$;

-- Whether any item of a held job is in flight, or will be without further ado.
create or replace function app.is_busy(p_organization_id uuid, p_job_id uuid) returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return exists (select from public.lookup_leases where organization_id = p_organization_id and job_id = p_job_id and not isempty(positions))
           or exists (select from public.lookup_queue_items
                       where organization_id = p_organization_id and job_id = p_job_id and status = 'pending' and retry_at < 'infinity');
end;
$$;

create or replace function api.continue_batch_lookup(
    p_organization_id uuid default app.claimed_organization_id(), p_job_id uuid default null, p_max_lookups integer default null
) returns json
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now      timestamptz := app.clock();
    v_job      public.batch_lookup_jobs;
    v_budget   app.job_budgets;
    v_position integer;
begin
    perform app.authorize(p_organization_id, 'jobs:write');
    perform app.find_job(p_organization_id, p_job_id);
    perform app.hold_queue(p_organization_id);
    v_job := app.lock_job(p_organization_id, p_job_id);
    select * into v_budget from app.job_budgets where organization_id = p_organization_id and job_id = p_job_id;
    if v_budget.held_position is null or app.job_waits_for(v_job) is null then
        perform app.refuse(409, 'job_not_waiting', 'The job does not wait to be continued', 'Its waiting_for says when it does.');
    elsif p_max_lookups < 1 then
        perform app.refuse_option('max_lookups', 'a whole number from 1 to 2147483647');
    elsif coalesce(p_max_lookups, v_budget.max_lookups) <= v_budget.lookups then
        perform app.refuse(
            409, 'lookup_limit_reached', format('The job has made %s of the lookups that it may make', v_budget.lookups),
            'Pass a greater max_lookups.');
    end if;
    update app.job_budgets
       set held_position = null, max_lookups = coalesce(p_max_lookups, max_lookups)
     where organization_id = p_organization_id and job_id = p_job_id;
    update public.lookup_queue_items
       set retry_at = v_now
     where organization_id = p_organization_id and job_id = p_job_id and status = 'pending' and retry_at = 'infinity';
    v_position := (select min(position)
                     from public.lookup_queue_items
                    where organization_id = p_organization_id and job_id = p_job_id and status = 'pending' and retry_at is null
                      and position >= v_budget.held_position);
    if v_position is not null then
        perform app.queue_job(p_organization_id, p_job_id, v_position, v_job.total_items);
    end if;
    perform app.mark_ready(p_organization_id, v_now);
    perform app.notify_change('UPDATE', 'batch_lookup_jobs', p_organization_id, p_job_id);
    return app.job_progress_json(v_job);
end;
$$;

comment on function api.continue_batch_lookup(uuid, uuid, integer) is
'Goes on with a job whose waiting_for is continue, after its sample, or lookup_limit, with a greater p_max_lookups, and returns the job. 404: no such job. 409: job_not_waiting, lookup_limit_reached. 400: invalid_max_lookups.';
grant execute on function api.continue_batch_lookup(uuid, uuid, integer) to authenticated;

create or replace function api.set_monthly_lookups(p_organization_id uuid, p_lookups integer) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform app.check_organization(p_organization_id);
    if p_lookups < 0 then
        perform app.refuse_option('monthly_lookups', 'a whole number from 0 to 2147483647');
    end if;
    update app.organizations set monthly_lookups = p_lookups where id = p_organization_id;
    perform app.mark_ready(p_organization_id, app.clock());
end;
$$;

comment on function api.set_monthly_lookups(uuid, integer) is
'For operators: how many lookups an organization may make in a calendar month (UTC), all its batches together; null: any number. At the limit, the other items of its batches fail with lookup_limit_reached, or wait for the next month or a higher limit, as when_limit_reached of each batch says. Effective at once. 404: no such organization. 400: invalid_monthly_lookups.';

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
    select coalesce(json_agg(json_build_object('day', u.day, 'job_id', u.job_id, 'name', j.name, 'lookups', u.lookups)
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
'Lookups of an organization by day (UTC) and batch, newest first: {usage: [{day, job_id, name (null: none, or the batch was deleted), lookups}], lookups (of all these days), month: {month, lookups, limit (null: none)}, total, limit, offset, next_cursor}. Each attempt counts, retries too. Optional: days that begin at or after p_created_from and before p_created_before. 400: limit not in 1 to 500, invalid_cursor, cursor_with_offset.';
grant execute on function api.get_usage(uuid, timestamptz, timestamptz, integer, integer, text) to authenticated;
