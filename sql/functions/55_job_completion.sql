-- Chapter 55, job completion: counts changed items in their job and its report, whatever changed them (a response, a duplicate's response,
-- an expired lease), and ends the job with the last of them. The header of 55_outcomes.sql explains how its statements are planned.

-- The distinct jobs.
create or replace function app.distinct_ids(p_ids uuid[]) returns uuid[]
language plpgsql immutable
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
as $$
begin
    return array(select distinct id from unnest(p_ids) id order by id);
end;
$$;

-- Locks the jobs in the order of ids, so that two workers with items of the same jobs cannot deadlock; one by one, because the planner
-- would read all jobs in this order instead of sorting a few.
create or replace function app.lock_jobs(p_organization_id uuid, p_job_ids uuid[]) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_job_id uuid;
begin
    foreach v_job_id in array app.distinct_ids(p_job_ids) loop
        perform from public.batch_lookup_jobs where organization_id = p_organization_id and id = v_job_id for update;
    end loop;
end;
$$;

-- Locks those of the jobs that are not locked, and whose reports, which change with them, are not locked either; never waits. Returns them.
create or replace function app.lock_free_jobs(p_organization_id uuid, p_job_ids uuid[]) returns uuid[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_sort = off
as $$
declare
    v_job_ids uuid[];
    v_free    uuid[];
begin
    v_job_ids := array(select j.id
                         from public.batch_lookup_jobs j
                        where j.organization_id = p_organization_id and j.id = any (p_job_ids)
                          for update skip locked);
    v_free := array(select r.job_id
                      from public.incentive_reports r
                     where r.organization_id = p_organization_id and r.job_id = any (v_job_ids)
                       for update skip locked);
    -- The report of a cancelled job may have been deleted.
    return array(select u.id
                   from unnest(v_job_ids) u (id)
                  where u.id = any (v_free)
                     or not exists (select from public.incentive_reports r where r.organization_id = p_organization_id and r.job_id = u.id));
end;
$$;

-- Counts the outcomes of items by job. waiting: the positions of those that wait for a retry; null: none.
create or replace function app.counts_by_job(p_items public.lookup_queue_items[])
returns table (id uuid, processed integer, failed integer, waiting integer[], eligible integer, value numeric, conditional numeric)
language plpgsql stable
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
as $$
begin
    return query
    select i.job_id,
           count(*) filter (where i.status in ('completed', 'failed'))::integer,
           count(*) filter (where i.status = 'failed')::integer,
           array_agg(i.position) filter (where i.status = 'pending'),
           count(*) filter (where i.status = 'completed' and app.result_is_eligible(i.parsed_result))::integer,
           coalesce(sum(app.result_amount(i.parsed_result)) filter (where i.status = 'completed'), 0),
           coalesce(sum(app.result_conditional_amount(i.parsed_result)) filter (where i.status = 'completed'), 0)
      from unnest(p_items) i
     group by i.job_id;
end;
$$;

-- Applies changed items to their jobs, their reports, the webhooks and the ready list. Returns the jobs in which items have ended.
create or replace function app.publish_item_changes(
    p_organization_id uuid, p_items public.lookup_queue_items[], p_now timestamptz
) returns public.batch_lookup_jobs[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_sort = off
as $$
declare
    v_webhooks app.webhook_configs        := app.webhook_config_for(p_organization_id, app.webhook_events());
    v_retry_at timestamptz                := (select min(i.retry_at) from unnest(p_items) i);
    v_job_ids  uuid[]                     := array(select distinct i.job_id from unnest(p_items) i);
    v_jobs     public.batch_lookup_jobs[];
begin
    if v_webhooks.organization_id is not null then
        perform app.enqueue_item_webhooks(v_webhooks, p_organization_id, p_items, p_now);
    end if;
    -- A single job in which items have ended is locked by the UPDATE that counts them.
    if cardinality(v_job_ids) > 1 or v_retry_at is not null then
        perform app.lock_jobs(p_organization_id, v_job_ids);
    end if;
    v_jobs := app.advance_jobs(p_organization_id, p_items, p_now);
    if v_webhooks.organization_id is not null then
        perform app.enqueue_job_webhooks(v_webhooks, p_organization_id, p_items, p_now);
    end if;
    if v_retry_at is not null then
        perform app.mark_ready(p_organization_id, v_retry_at);
    end if;
    return v_jobs;
end;
$$;

-- One UPDATE for each job and one for its report, however many items there are. The flush with a job's last item ends the job, exactly
-- once, because the counters are compared under the job's row lock. Retries of a job that was cancelled meanwhile fail.
create or replace function app.advance_jobs(
    p_organization_id uuid, p_items public.lookup_queue_items[], p_now timestamptz
) returns public.batch_lookup_jobs[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_counts    record;
    v_cancelled integer;
    v_job       public.batch_lookup_jobs;
    v_jobs      public.batch_lookup_jobs[] := '{}';
begin
    for v_counts in select * from app.counts_by_job(p_items) loop
        v_cancelled := case when v_counts.waiting is null then 0
                            else app.cancel_retries(p_organization_id, v_counts.id, v_counts.waiting, p_now) end;
        if v_counts.processed + v_cancelled > 0 then
            v_job := app.advance_job(p_organization_id, v_counts.id, v_counts.processed + v_cancelled, v_counts.failed + v_cancelled, p_now);
            perform app.update_report(
                p_organization_id, v_job, p_now, v_counts.processed - v_counts.failed, v_counts.eligible, v_counts.value,
                v_counts.conditional, app.ended_as(v_job));
            v_jobs := v_jobs || v_job;
        end if;
    end loop;
    perform app.count_ended(p_organization_id, v_jobs, p_now);
    return v_jobs;
end;
$$;

-- Fails the items at these positions, which wait for a retry, if their job was cancelled: the cancel skipped them because they were locked.
create or replace function app.cancel_retries(p_organization_id uuid, p_job_id uuid, p_positions integer[], p_now timestamptz) returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if (select status from public.batch_lookup_jobs where organization_id = p_organization_id and id = p_job_id) <> 'cancelled' then
        return 0;
    end if;
    return app.cancel_items(p_organization_id, p_job_id, p_positions, p_now);
end;
$$;

-- The status of a job that has just ended, which app.update_report counts; else null.
create or replace function app.ended_as(p_job public.batch_lookup_jobs) returns text
language sql immutable
as $$
    select case when (p_job).status in ('completed', 'failed') then (p_job).status end
$$;

-- Counts those of the jobs that have ended. Together, because within a transaction, each change of a row leaves a version that the next one
-- has to skip.
create or replace function app.count_ended(p_organization_id uuid, p_jobs public.batch_lookup_jobs[], p_now timestamptz) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_ended constant text[] := array(select app.ended_as(j) from unnest(p_jobs) j where app.ended_as(j) is not null);
begin
    if v_ended <> '{}' then
        perform app.count_work(p_organization_id, 'job', v_ended, null, null, null, p_now);
    end if;
end;
$$;

-- Returns the job after the change, for app.count_ended.
create or replace function app.advance_job(
    p_organization_id uuid, p_job_id uuid, p_processed integer, p_failed integer, p_now timestamptz
) returns public.batch_lookup_jobs
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_job public.batch_lookup_jobs;
begin
    update public.batch_lookup_jobs j
       set processed_items = processed_items + p_processed,
           failed_items    = failed_items + p_failed,
           rate            = app.next_rate(row(j.*)::public.batch_lookup_jobs, p_processed, p_now),
           status          = case when status = 'cancelled' then status
                                  when processed_items + p_processed < total_items then 'processing'
                                  when failed_items + p_failed = total_items then 'failed'
                                  else 'completed' end,
           started_at      = coalesce(started_at, p_now),
           completed_at    = case when processed_items + p_processed = total_items then coalesce(completed_at, p_now) else completed_at end,
           updated_at      = p_now
     where organization_id = p_organization_id and id = p_job_id
 returning j.* into v_job;
    perform app.notify_change('UPDATE', 'batch_lookup_jobs', p_organization_id, p_job_id);
    return v_job;
end;
$$;
