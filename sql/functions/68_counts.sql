-- Chapter 68, counts: totals for lists without counting all their rows. A transaction that ends or deletes jobs or reports adds a row with
-- the change, and maintenance adds these rows up.

-- Records a change in how many jobs and reports have ended with a status; null: no change.
create or replace function app.count_ended(p_organization_id uuid, p_change integer, p_job_status text, p_report_status text default null) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_id uuid := gen_random_uuid();
begin
    if p_job_status is not null or p_report_status is not null then
        insert into app.ended_changes (organization_id, id, change, job_status, report_status)
        values (p_organization_id, v_id, p_change, p_job_status, p_report_status);
    end if;
end;
$$;

-- How many jobs or reports have ended with a status; p_status null: with any. Returns null if the organization has not been counted yet.
create or replace function app.sum_ended(p_organization_id uuid, p_kind text, p_status text) returns bigint
language plpgsql stable
set search_path = pg_catalog, pg_temp set enable_seqscan = off
as $$
begin
    if not exists (select from app.ended_totals t where t.organization_id = p_organization_id and t.kind = p_kind) then
        return null;
    end if;
    return (select coalesce(sum(n.number), 0)
              from (select t.status, t.total as number
                      from app.ended_totals t
                     where t.organization_id = p_organization_id and t.kind = p_kind
                     union all
                    select case p_kind when 'jobs' then c.job_status else c.report_status end, c.change
                      from app.ended_changes c
                     where c.organization_id = p_organization_id) n
             where n.status is not null and (p_status is null or n.status = p_status));
end;
$$;

create or replace function app.count_open_jobs(p_organization_id uuid, p_status text default null) returns bigint
language plpgsql stable
set search_path = pg_catalog, pg_temp set enable_seqscan = off
as $$
begin
    return (select count(*)
              from public.batch_lookup_jobs
             where organization_id = p_organization_id and status in ('pending', 'processing') and (p_status is null or status = p_status));
end;
$$;

-- The number of jobs of an organization, with a status or all; open ones, which are few, are counted.
create or replace function app.count_jobs(p_organization_id uuid, p_status text) returns bigint
language plpgsql stable
set search_path = pg_catalog, pg_temp set jit = off
as $$
declare
    v_open  bigint := 0;
    v_ended bigint := 0;
begin
    if p_status is null or p_status in ('pending', 'processing') then
        v_open := app.count_open_jobs(p_organization_id, p_status);
    end if;
    if p_status is null or p_status not in ('pending', 'processing') then
        v_ended := app.sum_ended(p_organization_id, 'jobs', p_status);
        if v_ended is null then
            v_ended := (select count(*)
                          from public.batch_lookup_jobs
                         where organization_id = p_organization_id and completed_at is not null and (p_status is null or status = p_status));
        end if;
    end if;
    return v_open + v_ended;
end;
$$;

-- The number of reports of an organization, likewise: every open job has one, which is not deleted before the job has ended.
create or replace function app.count_reports(p_organization_id uuid, p_status text) returns bigint
language plpgsql stable
set search_path = pg_catalog, pg_temp set jit = off
as $$
declare
    v_ended bigint := app.sum_ended(p_organization_id, 'reports', p_status);
begin
    if v_ended is null then
        return (select count(*) from public.incentive_reports where organization_id = p_organization_id and (p_status is null or status = p_status));
    elsif p_status is null or p_status = 'processing' then
        v_ended := v_ended + app.count_open_jobs(p_organization_id);
    end if;
    return v_ended;
end;
$$;

-- Merges the changes of an organization into its totals. The first time, the totals are the current numbers minus those changes.
create or replace function app.add_up_ended(p_organization_id uuid) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp set jit = off
as $$
declare
    v_change   app.ended_changes;
    v_changes  app.ended_changes[] := '{}';
    v_kinds    text[];
    v_statuses text[];
    v_numbers  bigint[];
begin
    if app.sum_ended(p_organization_id, 'jobs', null) is null then
        -- A single statement, so that it sees each change together with its effect.
        select array_agg(n.kind), array_agg(n.status), array_agg(n.number)
          into v_kinds, v_statuses, v_numbers
          from (select 'jobs' as kind, j.status, 1 as number
                  from public.batch_lookup_jobs j
                 where j.organization_id = p_organization_id and j.completed_at is not null
                 union all
                select 'reports', r.status, 1
                  from public.incentive_reports r
                 where r.organization_id = p_organization_id and r.completed_at is not null
                 union all
                select u.kind, u.status, -c.change
                  from app.ended_changes c
                 cross join unnest('{jobs,reports}'::text[], array[c.job_status, c.report_status]) u (kind, status)
                 where c.organization_id = p_organization_id and u.status is not null
                 union all
                select u.kind, u.status, 0 from unnest('{jobs,reports}'::text[], '{completed,complete}'::text[]) u (kind, status)) n;
    else
        -- Skip changes that are locked, as by a deletion of the organization until its commit.
        for v_change in
            delete from app.ended_changes
             where organization_id = p_organization_id
               and id in (select id from app.ended_changes where organization_id = p_organization_id for update skip locked)
         returning *
        loop
            v_changes := v_changes || v_change;
        end loop;
        if v_changes = '{}' then
            return;
        end if;
        select array_agg(u.kind), array_agg(u.status), array_agg(c.change)
          into v_kinds, v_statuses, v_numbers
          from unnest(v_changes) c
         cross join unnest('{jobs,reports}'::text[], array[c.job_status, c.report_status]) u (kind, status);
    end if;
    insert into app.ended_totals as t (organization_id, kind, status, total)
    select p_organization_id, u.kind, u.status, sum(u.number)
      from unnest(v_kinds, v_statuses, v_numbers) u (kind, status, number)
     where u.status is not null
     group by u.kind, u.status
        on conflict (organization_id, kind, status) do update
       set total = t.total + excluded.total;
end;
$$;

-- The lookups from one day to before another, and the number of rows of public.lookup_usage that they span.
create or replace function app.sum_usage(p_organization_id uuid, p_from date, p_before date, out lookups bigint, out jobs bigint)
language plpgsql stable
set search_path = pg_catalog, pg_temp set enable_seqscan = off
as $$
begin
    if exists (select from app.usage_days d where d.organization_id = p_organization_id and d.day = '-infinity') then
        select coalesce(sum(d.lookups), 0), coalesce(sum(d.jobs), 0) into lookups, jobs
          from app.usage_days d
         where d.organization_id = p_organization_id and d.day >= p_from and d.day < p_before;
    else
        select coalesce(sum(u.lookups), 0), count(*) into lookups, jobs
          from public.lookup_usage u
         where u.organization_id = p_organization_id and u.day >= p_from and u.day < p_before and u.lookups > 0;
    end if;
end;
$$;

-- Sums up the days of an organization, once. The locks keep lookups of the last days from being counted or taken back meanwhile.
create or replace function app.add_up_usage(p_organization_id uuid, p_now timestamptz) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp set lock_timeout = '20ms' set jit = off
as $$
declare
    v_days    date[];
    v_lookups bigint[];
    v_jobs    integer[];
begin
    perform from app.organization_queue_state where organization_id = p_organization_id for update;
    if not found then
        return;
    end if;
    perform from public.lookup_usage where organization_id = p_organization_id and day > (p_now at time zone 'UTC')::date - 3 for update;
    select array_agg(n.day), array_agg(n.lookups), array_agg(n.jobs)
      into v_days, v_lookups, v_jobs
      from (select u.day, sum(u.lookups) as lookups, count(*) filter (where u.lookups > 0) as jobs
              from public.lookup_usage u
             where u.organization_id = p_organization_id
             group by u.day) n;
    insert into app.usage_days as d (organization_id, day, lookups, jobs)
    select p_organization_id, u.day, u.lookups, u.jobs
      from unnest(v_days || date '-infinity', v_lookups || 0::bigint, v_jobs || 0) u (day, lookups, jobs)
        on conflict (organization_id, day) do update
       set lookups = excluded.lookups, jobs = excluded.jobs;
end;
$$;

-- Deletes up to p_limit rows of public.lookup_usage whose jobs were deleted, once they are older than the job retention and than 400 days;
-- their sums stay. If jobs are kept forever, so are these rows. Returns how many.
create or replace function app.prune_usage(p_organization_id uuid, p_now timestamptz, p_limit integer default 1000) returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp set enable_seqscan = off
as $$
declare
    v_retention integer := (select job_retention_days from app.settings);
    v_before    date    := (p_now at time zone 'UTC')::date - greatest(v_retention, 400);
    v_day       date;
    v_days      date[]  := '{}';
begin
    if v_retention is null or not exists (select from app.usage_days where organization_id = p_organization_id and day = '-infinity') then
        return 0;
    end if;
    for v_day in
        delete from public.lookup_usage
         where organization_id = p_organization_id
           and ctid = any (array(select u.ctid
                                   from public.lookup_usage u
                                  where u.organization_id = p_organization_id and u.day < v_before
                                    and not exists (select from public.batch_lookup_jobs j
                                                     where j.organization_id = p_organization_id and j.id = u.job_id)
                                  order by u.day
                                  limit p_limit
                                    for update skip locked))
     returning day
    loop
        v_days := v_days || v_day;
    end loop;
    update app.usage_days d
       set jobs = d.jobs - u.jobs
      from (select n.day, count(*)::integer as jobs from unnest(v_days) n (day) group by n.day) u
     where d.organization_id = p_organization_id and d.day = u.day;
    return cardinality(v_days);
end;
$$;

-- For run_maintenance, for at most a second. Nothing is counted for the first time in the minutes after a migration: calls that began
-- before it change jobs without recording it.
create or replace function app.add_up_counts(p_now timestamptz) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp set enable_seqscan = off
as $$
declare
    v_until           timestamptz := clock_timestamp() + interval '1 second';
    v_may_begin       boolean     := (select counts_from <= clock_timestamp() from app.maintenance_state);
    v_organization_id uuid;
begin
    -- Organizations where nothing has ended since have nothing new to delete either.
    for v_organization_id in select distinct organization_id from app.ended_changes loop
        -- What is added here to one that is being deleted would stay.
        if not app.is_distributed() then
            perform from app.organizations where id = v_organization_id for key share skip locked;
            continue when not found;
        end if;
        if v_may_begin or app.sum_ended(v_organization_id, 'jobs', null) is not null then
            perform app.add_up_ended(v_organization_id);
        end if;
        if v_may_begin and not exists (select from app.usage_days where organization_id = v_organization_id and day = '-infinity') then
            begin
                perform app.add_up_usage(v_organization_id, p_now);
            exception
                when lock_not_available then null;
            end;
        end if;
        if v_may_begin then
            perform app.keep_names(v_organization_id);
        end if;
        perform app.prune_usage(v_organization_id, p_now);
        exit when clock_timestamp() > v_until;
    end loop;
end;
$$;

-- Counters that differ from the rows that they count. Sums of days include rows that may have been deleted. Too slow for every ten minutes.
create or replace function app.counter_violations(p_organization_id uuid)
returns table (job_id uuid, item_id uuid, rule text, details text)
language plpgsql stable
set search_path = pg_catalog, pg_temp set jit = off
as $$
begin
    return query
    select null::uuid, null::uuid, 'ended batches and reports are counted', format('%s %s: %s, but %s by count', n.kind, n.status, sum(n.told), sum(n.there))
      from (select t.kind, t.status, t.total as told, 0 as there from app.ended_totals t where t.organization_id = p_organization_id
             union all
            select 'jobs', c.job_status, c.change, 0 from app.ended_changes c where c.organization_id = p_organization_id and c.job_status is not null
             union all
            select 'reports', c.report_status, c.change, 0 from app.ended_changes c where c.organization_id = p_organization_id and c.report_status is not null
             union all
            select 'jobs', j.status, 0, 1 from public.batch_lookup_jobs j where j.organization_id = p_organization_id and j.completed_at is not null
             union all
            select 'reports', r.status, 0, 1 from public.incentive_reports r where r.organization_id = p_organization_id and r.completed_at is not null) n
     where exists (select from app.ended_totals t where t.organization_id = p_organization_id)
     group by n.kind, n.status
    having sum(n.told) <> sum(n.there);
    return query
    select null::uuid, null::uuid, 'days add up the lookups of their jobs',
           format('%s: %s lookups of %s jobs, but %s of %s by lookup_usage', app.iso_date(coalesce(d.day, u.day)), d.lookups, d.jobs, u.lookups, u.jobs)
      from (select * from app.usage_days where organization_id = p_organization_id) d
      full join (select l.day, sum(l.lookups) as lookups, count(*) as jobs
                   from public.lookup_usage l
                  where l.organization_id = p_organization_id and l.lookups > 0
                  group by l.day) u on u.day = d.day
     where exists (select from app.usage_days m where m.organization_id = p_organization_id and m.day = '-infinity')
       and (d.jobs is distinct from coalesce(u.jobs, 0) or d.lookups < u.lookups);
end;
$$;
