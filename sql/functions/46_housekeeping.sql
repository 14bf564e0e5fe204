-- Chapter 46, housekeeping: retries failed items, deletes ended jobs on request or after their retention.

-- Locks a job, which must have ended with nothing in flight.
create or replace function app.lock_ended_job(p_organization_id uuid, p_job_id uuid) returns public.batch_lookup_jobs
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_job  public.batch_lookup_jobs := app.lock_job(p_organization_id, p_job_id);
    v_open integer                  := v_job.total_items - v_job.processed_items;
begin
    if v_open > 0 then
        raise sqlstate 'PT409' using
            message    = format('The job %s; %s unfinished', case v_job.status when 'cancelled' then 'was cancelled' else 'is still ' || v_job.status end,
                                case v_open when 1 then '1 item is' else v_open || ' items are' end),
            hint       = 'Cancel it, or wait until it has finished.',
            constraint = 'job_not_ended';
    end if;
    return v_job;
end;
$$;

-- The uploaded items, for another job.
create or replace function app.uploaded_item(p_item public.lookup_queue_items, p_position integer) returns app.batch_item
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_item app.batch_item;
begin
    v_item.position              := p_position;
    v_item.reference_id          := p_item.reference_id;
    v_item.address               := p_item.address;
    v_item.building_type         := p_item.building_type;
    v_item.device_ids            := p_item.device_ids;
    v_item.create_application    := p_item.create_application;
    v_item.webhook_custom_fields := p_item.webhook_custom_fields;
    v_item.warnings              := p_item.warnings;
    return v_item;
end;
$$;

create or replace function api.retry_batch_lookup(
    p_organization_id uuid default app.claimed_organization_id(), p_job_id uuid default null, p_error_code text default null
) returns json
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_job   public.batch_lookup_jobs;
    v_items app.batch_item[];
    v_retry uuid;
begin
    perform app.authorize(p_organization_id, 'jobs:write');
    perform app.check_item_filter(null, p_error_code);
    v_job := app.lock_ended_job(p_organization_id, p_job_id);
    v_retry := (select id
                  from public.batch_lookup_jobs
                 where organization_id = p_organization_id and retry_of_job_id = p_job_id and status in ('pending', 'processing')
                 limit 1);
    if v_retry is not null then
        raise sqlstate 'PT409' using
            message    = 'The failed items of this job are already being retried',
            detail     = json_build_object('job_id', v_retry),
            constraint = 'retry_in_progress';
    end if;

    v_items := array(select app.uploaded_item(i, (row_number() over (order by i.position) - 1)::integer)
                       from app.find_items(p_organization_id, p_job_id, '{}', 'failed', p_error_code, -1, null) i
                      order by i.position);
    if v_items = '{}' then
        raise sqlstate 'PT409' using message = 'No item of this job failed' || coalesce(' with error_code ' || p_error_code, ''), constraint = 'no_failed_items';
    end if;
    return app.join_objects(app.store_batch(p_organization_id, v_items, left(v_job.name, 192) || ' (retry)', p_job_id), json_build_object(
        'total_invalid', 0, 'invalid_items', '[]'::json, 'warnings', app.item_warnings(v_items, null, null), 'notes', '[]'::json, 'retry_of_job_id', p_job_id));
end;
$$;

comment on function api.retry_batch_lookup(uuid, uuid, text) is 'Makes a new job of the items of an ended one that failed, all or those with p_error_code, and answers it like create_batch_lookup, with retry_of_job_id. 404: no such job. 409: job_not_ended, retry_in_progress, no_failed_items. 429: too_many_open_items.';
grant execute on function api.retry_batch_lookup(uuid, uuid, text) to authenticated;

create or replace function app.delete_job(p_organization_id uuid, p_job_id uuid) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from app.webhook_deliveries where organization_id = p_organization_id and job_id = p_job_id and data is null;
    delete from app.queued_jobs where organization_id = p_organization_id and job_id = p_job_id;
    delete from public.lookup_queue_items where organization_id = p_organization_id and job_id = p_job_id;
    delete from public.batch_lookup_jobs where organization_id = p_organization_id and id = p_job_id;
    perform app.announce('DELETE', 'batch_lookup_jobs', p_organization_id, p_job_id);
end;
$$;

create or replace function api.delete_batch_lookup(
    p_organization_id uuid default app.claimed_organization_id(), p_job_id uuid default null, p_include_report boolean default false
) returns json
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_job public.batch_lookup_jobs;
begin
    perform app.authorize(p_organization_id, 'jobs:write');
    v_job := app.lock_ended_job(p_organization_id, p_job_id);
    perform app.delete_job(p_organization_id, p_job_id);
    if p_include_report then
        perform app.delete_report(p_organization_id, v_job.report_id);
    end if;
    return json_build_object('message', 'Job deleted successfully', 'job_id', p_job_id);
end;
$$;

comment on function api.delete_batch_lookup(uuid, uuid, boolean) is 'Deletes an ended job with its items. Its report, with addresses and amounts of its own, stays unless p_include_report. 404: no such job. 409 job_not_ended: not yet.';
grant execute on function api.delete_batch_lookup(uuid, uuid, boolean) to authenticated;

-- Deletes whole jobs, the oldest first, about ten thousand items per run; the next run continues. Answers the number of deleted jobs.
create or replace function app.prune_jobs(p_now timestamptz, p_items integer default 10000) returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_ended_before    timestamptz := p_now - make_interval(days => (select job_retention_days from app.settings));
    v_organization_id uuid;
    v_job             record;
    v_jobs            integer := 0;
    v_items           integer := 0;
begin
    if v_ended_before is null then
        return 0;
    end if;
    for v_organization_id in select id from app.organizations order by id loop
        for v_job in
            select id, total_items
              from public.batch_lookup_jobs
             where organization_id = v_organization_id and completed_at < v_ended_before and processed_items = total_items
             order by completed_at
             limit 100
               for update skip locked
        loop
            if v_items > 0 and v_items + v_job.total_items > p_items then
                return v_jobs;
            end if;
            perform app.delete_job(v_organization_id, v_job.id);
            v_jobs  := v_jobs + 1;
            v_items := v_items + v_job.total_items;
        end loop;
    end loop;
    return v_jobs;
end;
$$;
