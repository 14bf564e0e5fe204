-- Chapter 92, invariants: statements that are true at any time. All functions are stable: they see the database as of the start of the
-- query, even while workers run. On a cluster, that holds only at the node that has the rows.

-- Compares a job with its items, its report and the report's sites. The full join never becomes a nested loop, whatever the statistics say.
create or replace function app.job_violations(p_organization_id uuid, p_job public.batch_lookup_jobs)
returns table (job_id uuid, item_id uuid, rule text, details text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_report        public.incentive_reports;
    v_has_report    boolean;
    v_in_flight     int4multirange := app.positions_in_flight(p_organization_id, p_job.id);
    v_leased        bigint;
    v_next_position integer;
    v_budget        app.job_budgets;
    v_used          bigint         := app.lookups_of_job(p_job);
    v_keeps_name    boolean        := p_job.name is not null and app.keeps_names(p_organization_id);
    v_seen          record;
begin
    -- The report of a job that has ended may have been deleted.
    select * into v_report
      from public.incentive_reports r
     where r.organization_id = p_organization_id and r.job_id = p_job.id;
    v_has_report := found;
    v_leased := (select sum(app.count_positions(l.positions))
                   from public.lookup_leases l
                  where l.organization_id = p_organization_id and l.job_id = p_job.id);
    select * into v_budget from app.job_budgets b where b.organization_id = p_organization_id and b.job_id = p_job.id;
    v_next_position := coalesce(
        (select q.next_position from app.queued_jobs q where q.organization_id = p_organization_id and q.job_id = p_job.id),
        v_budget.held_position, p_job.total_items);
    select count(i.id) as items,
           count(*) filter (where i.status in ('completed', 'failed')) as ended,
           count(*) filter (where i.status = 'failed') as failures,
           count(*) filter (where i.status = 'pending') as pending,
           count(*) filter (where i.status = 'pending' and i.retry_at is null and i.position <@ v_in_flight
                                  and (i.position < v_next_position or v_budget.held_position is not null)) as in_flight,
           (array_agg(i.id) filter (where i.status = 'pending' and i.retry_at is null and i.position < v_next_position
                                          and not i.position <@ v_in_flight))[1] as lost,
           count(s.item_id) as sites,
           count(*) filter (where s.eligible) as eligible,
           coalesce(sum(s.total_incentive_amount), 0) as value,
           coalesce(sum(s.conditional_incentive_amount), 0) as conditional,
           (array_agg(coalesce(i.id, s.item_id)) filter (where (i.status is not distinct from 'completed') <> (s.item_id is not null) or i.id <> s.item_id))[1] as misplaced,
           (array_agg(i.id) filter (where i.answer_to <> i.reference_id))[1] as mistaken
      into v_seen
      from (select id, status, position, retry_at, reference_id, coalesce(result ->> 'reference_id', parsed_result ->> 'reference_id') as answer_to
              from public.lookup_queue_items
             where organization_id = p_organization_id and lookup_queue_items.job_id = p_job.id) i
      full join (select *
                   from public.incentive_report_sites
                  where organization_id = p_organization_id and report_id = p_job.report_id) s on s.position = i.position;

    return query
    select p_job.id, v.item_id, v.rule, v.details
      from (values
           (v_seen.items <> p_job.total_items, null::uuid, 'every item is there',
            format('%s of %s items', v_seen.items, p_job.total_items)),
           ((p_job.processed_items, p_job.failed_items) is distinct from (v_seen.ended, v_seen.failures), null, 'a job counts its items',
            format('processed %s and failed %s, but %s and %s by count', p_job.processed_items, p_job.failed_items, v_seen.ended, v_seen.failures)),
           (case when p_job.status in ('pending', 'processing') then v_seen.ended = v_seen.items
                 when p_job.status = 'cancelled' then v_seen.pending > v_seen.in_flight
                 else v_seen.ended < v_seen.items end, null, 'a job is open while it has open items',
            format('%s with %s of %s items ended', p_job.status, v_seen.ended, v_seen.items)),
           (v_seen.lost is not null, v_seen.lost, 'a pending item is scheduled, leased, or still to be claimed', 'unreachable: not scheduled, not leased, behind next_position'),
           (coalesce(v_leased, 0) <> v_seen.in_flight, null, 'a leased item is pending, and leased once',
            format('%s items are leased, %s are in flight', v_leased, v_seen.in_flight)),
           (v_has_report and v_seen.misplaced is not null, v_seen.misplaced, 'a completed item has its site, and no other item has one',
            format('%s sites, %s completed items', v_seen.sites, v_seen.ended - v_seen.failures)),
           (v_seen.mistaken is not null, v_seen.mistaken, 'an item has its own answer', 'the reference_id of its result is another''s'),
           (v_budget.lookups <> v_used, null, 'a budget counts the lookups of its job',
            format('%s, but %s by lookup_usage', v_budget.lookups, v_used)),
           (v_budget.lookups > v_budget.max_lookups, null, 'a job keeps to its max_lookups', format('%s of %s', v_budget.lookups, v_budget.max_lookups)),
           (exists (select from app.known_results k
                     where k.organization_id = p_organization_id and k.job_id = p_job.id
                       and not exists (select from public.lookup_queue_items i
                                        where i.organization_id = k.organization_id and i.job_id = k.job_id and i.position = k.position
                                          and i.status = 'completed' and i.processed_at = k.looked_up_at and i.reused_from_job_id is null)),
            null, 'a known result is a completed item''s own', 'app.known_results names an item without one'),
           (v_keeps_name and not exists (select from app.job_names n where n.organization_id = p_organization_id and n.job_id = p_job.id),
            null, 'a job is found by its name', 'app.job_names lacks it'),
           (v_has_report and (v_report.total_sites, v_report.eligible_sites, v_report.total_incentive_value, v_report.conditional_incentive_amount)
                             is distinct from (v_seen.sites, v_seen.eligible, v_seen.value, v_seen.conditional),
            null, 'a report adds up its sites',
            format('(%s, %s, %s, %s), but (%s, %s, %s, %s) by its sites', v_report.total_sites, v_report.eligible_sites,
                   v_report.total_incentive_value, v_report.conditional_incentive_amount, v_seen.sites, v_seen.eligible, v_seen.value, v_seen.conditional)),
           ((v_has_report or p_job.completed_at is null) and v_report.status is distinct from case when p_job.completed_at is null then 'processing' when v_seen.sites > 0 then 'complete' else 'error' end,
            null, 'a report closes with its job', format('%s while the job is %s', coalesce(v_report.status, 'no report'), p_job.status))
           ) v (violated, item_id, rule, details)
     where v.violated;
end;
$$;

-- A lease outlives its expiry by a few minutes at most: maintenance runs every minute, by pg_cron or by a worker.
create or replace function app.queue_violations(p_organization_id uuid, p_now timestamptz)
returns table (job_id uuid, item_id uuid, rule text, details text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_listed_at timestamptz := app.listed_ready_at(p_organization_id);
begin
    return query
    select l.job_id, null::uuid, 'an expired lease returns to the queue', format('expired at %s, held by %s', app.rfc3339(l.expires_at), l.worker)
      from public.lookup_leases l
     where l.organization_id = p_organization_id and l.expires_at < p_now - interval '5 minutes';

    if v_listed_at <= p_now or v_listed_at > p_now and app.lookups_left(p_organization_id, p_now) = 0 then
        return;
    end if;
    return query
    select i.job_id, i.id, 'an organization with work is on the ready list', format('ready since %s, listed from %s', app.rfc3339(i.ready_at), coalesce(app.rfc3339(v_listed_at), 'never'))
      from (select * from (select j.id as job_id, null::uuid as id, j.created_at as ready_at
                             from app.queued_jobs r
                             join public.batch_lookup_jobs j on j.organization_id = r.organization_id and j.id = r.job_id
                            where r.organization_id = p_organization_id
                            limit 1) new
             union all
            select * from (select w.job_id, w.id, w.retry_at
                             from public.lookup_queue_items w
                            where w.organization_id = p_organization_id and w.status = 'pending' and w.retry_at < 'infinity'
                            order by w.retry_at
                            limit 1) waiting
             union all
            select * from (select l.job_id, null::uuid, l.expires_at
                             from public.lookup_leases l
                            where l.organization_id = p_organization_id
                            order by l.expires_at
                            limit 1) leased) i
     where v_listed_at is null or v_listed_at > i.ready_at;
end;
$$;

create or replace function app.upload_violations(p_organization_id uuid, p_updated_since timestamptz)
returns table (job_id uuid, item_id uuid, rule text, details text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select u.job_id, null::uuid, 'an upload counts its rows',
           format('upload %s: %s valid, %s invalid, %s skipped, but %s, %s, %s by count',
                  u.id, u.valid_rows, u.invalid_rows, u.skipped_rows, r.valid, r.invalid, r.skipped)
      from public.lookup_uploads u
     cross join lateral (select count(*) filter (where not w.is_skipped and w.problems is null) as valid,
                                count(*) filter (where not w.is_skipped and w.problems is not null) as invalid,
                                count(*) filter (where w.is_skipped) as skipped
                           from public.lookup_upload_rows w
                          where w.organization_id = u.organization_id and w.upload_id = u.id) r
     where u.organization_id = p_organization_id and u.updated_at >= p_updated_since
       and ((u.valid_rows, u.invalid_rows, u.skipped_rows) is distinct from (r.valid, r.invalid, r.skipped)
            or u.total_rows <> r.valid + r.invalid + r.skipped);
end;
$$;

-- Those of some organizations that have something to check, which most have not; asks for all of them at once.
create or replace function app.organizations_to_check(p_organization_ids uuid[], p_updated_since timestamptz) returns uuid[]
language plpgsql stable
set search_path = pg_catalog, pg_temp set enable_seqscan = off
as $$
begin
    return array(select j.organization_id
                   from public.batch_lookup_jobs j
                  where j.organization_id = any (p_organization_ids) and j.status in ('pending', 'processing')
                  union
                 select j.organization_id
                   from public.batch_lookup_jobs j
                  where j.organization_id = any (p_organization_ids) and j.completed_at >= p_updated_since - interval '1 hour'
                  union
                 select q.organization_id from app.queued_jobs q where q.organization_id = any (p_organization_ids)
                  union
                 select l.organization_id from public.lookup_leases l where l.organization_id = any (p_organization_ids)
                  union
                 select u.organization_id
                   from public.lookup_uploads u
                  where u.organization_id = any (p_organization_ids) and u.updated_at >= p_updated_since);
end;
$$;

-- Checks the jobs updated since then that are open, or have ended since, or were cancelled shortly before with lookups in flight; stops
-- after p_until.
create or replace function app.find_violations_here(p_organization_ids uuid[], p_updated_since timestamptz, p_until timestamptz)
returns table (organization_id uuid, job_id uuid, item_id uuid, rule text, details text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now             timestamptz := app.clock();
    v_organization_id uuid;
    v_job             public.batch_lookup_jobs;
begin
    foreach v_organization_id in array p_organization_ids loop
        for v_job in
            select *
              from public.batch_lookup_jobs j
             where j.organization_id = v_organization_id and j.status in ('pending', 'processing') and j.updated_at >= p_updated_since
             union all
            select *
              from public.batch_lookup_jobs j
             where j.organization_id = v_organization_id and j.completed_at >= p_updated_since - interval '1 hour' and j.updated_at >= p_updated_since
        loop
            exit when clock_timestamp() > p_until;
            return query
            select v_organization_id, v.* from app.job_violations(v_organization_id, v_job) v;
        end loop;
        return query
        select v_organization_id, v.* from app.queue_violations(v_organization_id, v_now) v;
        return query
        select v_organization_id, v.* from app.upload_violations(v_organization_id, p_updated_since) v;
        if p_updated_since = '-infinity' then
            return query
            select v_organization_id, v.* from app.counter_violations(v_organization_id) v;
        end if;
    end loop;
end;
$$;

-- The same, wherever the rows of the organizations are. The check runs where the rows are, because remotely each of its statements would
-- see another snapshot.
create or replace function app.find_violations(p_organization_ids uuid[], p_updated_since timestamptz, p_until timestamptz)
returns table (organization_id uuid, job_id uuid, item_id uuid, rule text, details text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_answers json[];
    v_error   text;
begin
    if not app.spans_nodes() then
        return query
        select * from app.find_violations_here(p_organization_ids, p_updated_since, p_until);
        return;
    end if;
    return query
    select * from app.find_violations_here(app.organizations_here(p_organization_ids), p_updated_since, p_until);
    select array_agg(a.result::json) filter (where a.success), string_agg(a.result, '; ') filter (where not a.success)
      into v_answers, v_error
      from app.ask_other_nodes(
               format('select coalesce(json_agg(v), ''[]'') from app.find_violations_here(app.organizations_here(%L), %L, %L) v',
                      p_organization_ids, p_updated_since, p_until)) a;
    if v_error is not null then
        raise exception 'A node of the cluster cannot be checked: %', v_error;
    end if;
    return query
    select v.*
      from unnest(v_answers) a
     cross join json_to_recordset(a) v (organization_id uuid, job_id uuid, item_id uuid, rule text, details text);
end;
$$;

create or replace function api.check_invariants(p_updated_since timestamptz default '-infinity')
returns table (organization_id uuid, job_id uuid, item_id uuid, rule text, details text)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_organization_ids uuid[] := array(select id from app.organizations order by id);
begin
    return query
    select * from app.find_violations(v_organization_ids, p_updated_since, 'infinity');
end;
$$;

comment on function api.check_invariants(timestamptz) is
'Violated invariants: no rows when the database is consistent, also while workers run. Counts every item and site of the jobs updated since p_updated_since (default: of all jobs). For a schedule: select * from api.check_invariants(now() - interval ''10 minutes'').';

-- For run_maintenance, every ten minutes: checks the jobs updated since the last time, for at most five seconds, for organizations with
-- activity since then and some others in turn. Violations are counted until they are repaired; meanwhile, all organizations are checked.
create or replace function app.count_violations(p_now timestamptz) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_state app.maintenance_state;
    v_since timestamptz;
    v_count integer;
    v_ids   uuid[];
begin
    select * into v_state from app.maintenance_state;
    if v_state.checked_at between p_now - interval '10 minutes' and p_now then
        return;
    end if;
    v_since := case when v_state.violations > 0 then v_state.checked_since else v_state.checked_at - interval '10 minutes' end;
    if v_state.violations = 0 and v_since > '-infinity' then
        v_ids := app.organizations_in_turn('checks', 10, 144);
        perform app.end_turn('checks', v_ids[cardinality(v_ids)]);
        v_ids := array(select distinct organization_id from app.work_minutes where minute >= v_since - interval '1 minute'
                        union
                       select unnest(v_ids)
                        order by 1);
    else
        v_ids := array(select id from app.organizations order by id);
    end if;
    if v_since > '-infinity' then
        v_ids := app.organizations_to_check(v_ids, v_since);
    end if;
    v_count := (select count(*) from app.find_violations(v_ids, v_since, clock_timestamp() + interval '5 seconds'));
    update app.maintenance_state
       set checked_at    = p_now,
           checked_since = v_since,
           violations    = v_count;
end;
$$;
