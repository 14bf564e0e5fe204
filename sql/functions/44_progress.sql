-- Chapter 44, progress: one job with its rate and estimated end.

-- Items looked up per second, from the job's start to its end.
create or replace function app.job_rate(p_job public.batch_lookup_jobs) returns double precision
language sql stable
as $$
    select p_job.processed_items / nullif(greatest(extract(epoch from p_job.completed_at - p_job.started_at), 0), 0)::double precision
$$;

-- The share of its value that a moving average retains after a time, with a time constant of half a minute.
create or replace function app.rate_decay(p_time interval) returns double precision
language sql immutable
return exp(-least(greatest(extract(epoch from p_time)::double precision, 0) / 30, 50));

-- The rate of a job once p_processed more items have ended: an exponentially weighted moving average, which soon forgets an idle period.
-- During the job's first half minute, it is the mean since the start.
create or replace function app.next_rate(p_job public.batch_lookup_jobs, p_processed integer, p_now timestamptz) returns double precision
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (coalesce(p_job.rate, 0) * (1 - app.rate_decay(greatest(p_job.updated_at - p_job.started_at, interval '50 milliseconds')))
                                    * app.rate_decay(p_now - p_job.updated_at)
            + p_processed / 30.0::double precision)
           / (1 - app.rate_decay(greatest(p_now - p_job.started_at, interval '50 milliseconds')));
end;
$$;

-- Reads only the job's row, the state of the upstream, the clock and, for errors_by_code, the index of failed items, so that the response
-- stays the same until the job changes.
create or replace function app.job_progress_json(p_job public.batch_lookup_jobs) returns json
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_remaining integer          := p_job.total_items - p_job.processed_items;
    v_job       json             := app.job_json(p_job);
    v_waits     boolean          := v_job ->> 'waiting_for' is not null;
    v_looked_up public.batch_lookup_jobs := p_job;
    v_rate      double precision;
    v_seconds   double precision;
    v_ends_at   timestamptz;
    v_errors    json             := '{}';
begin
    if p_job.failed_items > 0 then
        v_errors := (select json_object_agg(e.error_code, e.items order by e.error_code)
                       from (select error_code, count(*) as items
                               from public.lookup_queue_items
                              where organization_id = p_job.organization_id and job_id = p_job.id and status = 'failed'
                              group by error_code) e);
    end if;
    -- Items that a cancel ended were not looked up.
    v_looked_up.processed_items := p_job.processed_items - coalesce((v_errors ->> 'job_cancelled')::integer, 0);
    v_rate := case when v_waits then null
                   when v_remaining > 0 then p_job.rate
                   else app.job_rate(v_looked_up) end;
    v_seconds := case when v_remaining > 0 and v_rate > 0 then least(v_remaining / v_rate, 1e9) end;
    -- No lookup ends while the incentives API wants a pause.
    v_ends_at := greatest(p_job.updated_at, (select paused_until from app.upstream_state)) + app.seconds(v_seconds);
    return app.join_objects(v_job, json_build_object(
        'rate', round(v_rate::numeric, 2),
        -- No estimate rather than one in the past.
        'estimated_completion_at', case when v_ends_at > app.clock() then app.rfc3339(v_ends_at) end,
        'errors_by_code', v_errors,
        'poll_after_ms', case when v_remaining = 0 then null
                              when v_waits then 5000
                              when v_seconds is null then 1000
                              else least(greatest(round(v_seconds * 50 / 250) * 250, 250), 5000) end,
        'retry_of_job_id', p_job.retry_of_job_id,
        'lookups', app.lookups_of_job(p_job)));
end;
$$;

create or replace function api.get_batch_lookup(
    p_organization_id uuid default app.claimed_organization_id(), p_job_id uuid default null, p_include_items boolean default false
) returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_job      public.batch_lookup_jobs;
    v_items    text[];
    v_has_more boolean;
begin
    perform app.authorize(p_organization_id, 'jobs:read');
    v_job := app.find_job(p_organization_id, p_job_id);
    if not p_include_items then
        return app.job_progress_json(v_job);
    end if;
    v_has_more := v_job.total_items > 500;
    if not v_has_more then
        select p.items, p.has_more into v_items, v_has_more
          from app.read_items(p_organization_id, p_job_id, 'json', null, null, -1, 500, 0) p;
    end if;
    if v_has_more then
        perform app.refuse(
            400, 'too_many_items',
            'The job has too many or too large items for one response: include_items returns up to 500 items and 8 MB',
            app.hint_for_caller('GET /batch-lookups/{job_id}/items lists them page by page, GET /batch-lookups/{job_id}/results as one file.',
                                'Select from api.items, or read page by page with api.list_batch_lookup_items.'));
    end if;
    return app.join_objects(app.job_progress_json(v_job), json_build_object('items', format('[%s]', array_to_string(v_items, ','))::json));
end;
$$;

comment on function api.get_batch_lookup(uuid, uuid, boolean) is 'One job with its counts, and its items when asked; rate (items a second: a moving average over half a minute, of the whole job once it has ended; null while waiting_for is not), estimated_completion_at, errors_by_code and poll_after_ms (when to ask again; null: it has ended). 400 too_many_items: p_include_items returns up to 500 items and 8 MB. 404: no such job in this organization.';
grant execute on function api.get_batch_lookup(uuid, uuid, boolean) to authenticated;
