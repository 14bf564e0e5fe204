-- Chapter 68, counts: what lists tell of all their rows without counting them. A transaction that ends or deletes jobs or reports adds a row
-- that says so, and maintenance adds these rows up.

-- Counts a change of how many jobs or reports (p_kind) have ended with a status.
create or replace function app.count_ended(p_organization_id uuid, p_kind text, p_status text, p_change integer) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_status is not null and p_change <> 0 then
        insert into app.ended_changes (organization_id, id, kind, status, change)
        values (p_organization_id, gen_random_uuid(), p_kind, p_status, p_change);
    end if;
end;
$$;

-- How many jobs or reports have ended with a status; null: with any. null: the organization has not been counted yet.
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
                    select c.status, c.change
                      from app.ended_changes c
                     where c.organization_id = p_organization_id and c.kind = p_kind) n
             where p_status is null or n.status = p_status);
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

-- The jobs of an organization, those with a status or all; open ones, which are few, are counted.
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

-- The reports of an organization, likewise: every open job has one, which is not deleted before the job has ended.
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

-- Takes the changes of an organization into its totals. The first time, the totals are what there is without those changes.
create or replace function app.add_up_ended(p_organization_id uuid) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp set jit = off
as $$
declare
    v_change   app.ended_changes;
    v_kinds    text[]   := '{}';
    v_statuses text[]   := '{}';
    v_numbers  bigint[] := '{}';
begin
    if app.sum_ended(p_organization_id, 'jobs', null) is null then
        -- In one statement, so that it sees each change together with what was changed.
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
                select c.kind, c.status, -c.change
                  from app.ended_changes c
                 where c.organization_id = p_organization_id
                 union all
                select u.kind, u.status, 0 from unnest('{jobs,reports}'::text[], '{completed,complete}'::text[]) u (kind, status)) n;
    else
        for v_change in delete from app.ended_changes where organization_id = p_organization_id returning * loop
            v_kinds := v_kinds || v_change.kind;
            v_statuses := v_statuses || v_change.status;
            v_numbers := v_numbers || v_change.change;
        end loop;
    end if;
    insert into app.ended_totals as t (organization_id, kind, status, total)
    select p_organization_id, u.kind, u.status, sum(u.number)
      from unnest(v_kinds, v_statuses, v_numbers) u (kind, status, number)
     group by u.kind, u.status
        on conflict (organization_id, kind, status) do update
       set total = t.total + excluded.total;
end;
$$;

-- Of run_maintenance, for a second at most. Nothing is counted for the first time in the minutes after a migration: calls that began before it
-- change jobs without a word.
create or replace function app.add_up_counts() returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp set enable_seqscan = off
as $$
declare
    v_until           timestamptz := clock_timestamp() + interval '1 second';
    v_may_begin       boolean     := (select counts_from <= clock_timestamp() from app.maintenance_state);
    v_organization_id uuid;
begin
    for v_organization_id in select distinct organization_id from app.ended_changes loop
        if v_may_begin or app.sum_ended(v_organization_id, 'jobs', null) is not null then
            perform app.add_up_ended(v_organization_id);
        end if;
        exit when clock_timestamp() > v_until;
    end loop;
end;
$$;

-- Counters that differ from what there is. It counts, so it is no check for every ten minutes.
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
            select c.kind, c.status, c.change, 0 from app.ended_changes c where c.organization_id = p_organization_id
             union all
            select 'jobs', j.status, 0, 1 from public.batch_lookup_jobs j where j.organization_id = p_organization_id and j.completed_at is not null
             union all
            select 'reports', r.status, 0, 1 from public.incentive_reports r where r.organization_id = p_organization_id and r.completed_at is not null) n
     where exists (select from app.ended_totals t where t.organization_id = p_organization_id)
     group by n.kind, n.status
    having sum(n.told) <> sum(n.there);
end;
$$;
