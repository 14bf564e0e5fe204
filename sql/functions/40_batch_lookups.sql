-- Chapter 40, batch lookups: stores a batch as a job with its items and its report; lists and cancels jobs.

create or replace function app.store_batch(
    p_organization_id uuid, p_items app.batch_item[], p_name text default null, p_retry_of_job_id uuid default null,
    p_spending jsonb default '{}', p_labels jsonb default '{}'
) returns json
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now    timestamptz := app.clock();
    v_job    public.batch_lookup_jobs;
    v_report public.incentive_reports;
    v_reused integer;
    v_answer json;
begin
    insert into public.batch_lookup_jobs (organization_id, id, name, total_items, report_id, retry_of_job_id, created_at, updated_at)
    values (p_organization_id, app.uuid_v7(v_now), p_name, cardinality(p_items), app.uuid_v7(v_now), p_retry_of_job_id, v_now, v_now)
    returning * into v_job;
    v_report := app.create_report(p_organization_id, v_job);
    perform app.keep_name(p_organization_id, v_job.id, p_name);
    -- First, because a batch whose results are all known ends below, and its webhook includes them.
    perform app.store_labels(p_organization_id, v_job.id, p_labels);
    perform app.enqueue_items(p_organization_id, v_job.id, p_items, v_now);
    perform app.notify_change('INSERT', 'batch_lookup_jobs', p_organization_id, v_job.id);
    perform app.notify_change('INSERT', 'incentive_reports', p_organization_id, v_report.id);
    if p_spending ? 'reuse_days' then
        v_reused := app.reuse_results(p_organization_id, v_job.id, p_items, (p_spending ->> 'reuse_days')::integer, v_now);
    end if;
    -- After the reuse, whose results are marked as such and counted by a dry run.
    perform app.defer_duplicates(p_organization_id, v_job.id, v_now);
    if p_spending ?| array['sample', 'max_lookups', 'when_limit_reached'] then
        perform app.set_budget(p_organization_id, v_job.id, p_spending, v_now);
    end if;

    -- Some or all of its items may have been answered.
    v_job    := app.find_job(p_organization_id, v_job.id);
    v_report := app.find_report(p_organization_id, v_report.id);
    v_answer := json_build_object(
        'job_id', v_job.id,
        'status', v_job.status,
        'total_items', v_job.total_items,
        'created_at', app.rfc3339(v_job.created_at),
        'report', json_build_object(
            'id', v_report.id,
            'name', v_report.name,
            'description', v_report.description,
            'status', v_report.status,
            'report_type', v_report.report_type,
            'total_sites', v_report.total_sites,
            'created_at', app.rfc3339(v_report.created_at)),
        -- Clients compare this text: {job_id} is literal, not a placeholder.
        'message', format('Batch job created with %s items. Report is available immediately and sites will be added as processing completes. '
                          'Poll GET /batch-lookups/{job_id} for job status.', v_job.total_items));
    return case when v_reused is null then v_answer else app.join_objects(v_answer, json_build_object('reused_items', v_reused)) end;
end;
$$;

create or replace function app.find_job(p_organization_id uuid, p_job_id uuid) returns public.batch_lookup_jobs
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_job public.batch_lookup_jobs;
begin
    select * into v_job
      from public.batch_lookup_jobs
     where organization_id = p_organization_id and id = p_job_id;
    if not found then
        perform app.refuse(
            404, 'job_not_found', 'Batch job not found',
            app.hint_for_caller(null, 'select organization_id, id, name from api.jobs lists them.'));
    end if;
    return v_job;
end;
$$;

create or replace function app.find_item(p_organization_id uuid, p_job_id uuid, p_position integer) returns public.lookup_queue_items
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_item public.lookup_queue_items;
begin
    select * into v_item
      from public.lookup_queue_items
     where organization_id = p_organization_id and job_id = p_job_id and position = p_position;
    if not found then
        perform app.refuse(404, 'item_not_found', 'The job has no item at this position', 'Positions count from 0.');
    end if;
    return v_item;
end;
$$;

-- Locks the job before a change.
create or replace function app.lock_job(p_organization_id uuid, p_job_id uuid) returns public.batch_lookup_jobs
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    perform from public.batch_lookup_jobs where organization_id = p_organization_id and id = p_job_id for update;
    return app.find_job(p_organization_id, p_job_id);
end;
$$;

-- The counters and the leased items come from one snapshot, so that the four counts always sum to the total.
create or replace function app.job_json(p_job public.batch_lookup_jobs) returns json
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_processing integer := 0;
    v_wait       record  := app.job_waits_for(p_job);
begin
    if p_job.processed_items < p_job.total_items then
        v_processing := app.count_positions(app.positions_in_flight(p_job.organization_id, p_job.id));
    end if;
    return json_build_object(
        'id', p_job.id,
        'organization_id', p_job.organization_id,
        'status', p_job.status,
        'total_items', p_job.total_items,
        'processed_items', p_job.processed_items,
        'failed_items', p_job.failed_items,
        'report_id', p_job.report_id,
        'created_at', app.rfc3339(p_job.created_at),
        'started_at', app.rfc3339(p_job.started_at),
        'completed_at', app.rfc3339(p_job.completed_at),
        'item_counts', json_build_object(
            'pending', p_job.total_items - p_job.processed_items - v_processing,
            'processing', v_processing,
            'completed', p_job.processed_items - p_job.failed_items,
            'failed', p_job.failed_items),
        'name', p_job.name,
        'upstream', json_build_object(
            'unavailable_since', case when p_job.completed_at is null then (select app.rfc3339(unavailable_since) from app.upstream_state) end,
            'paused_until', case when p_job.completed_at is null
                                 then (select app.rfc3339(paused_until) from app.upstream_state where paused_until > app.clock()) end),
        'labels', app.labels_json(p_job.organization_id, p_job.id),
        'waiting_for', v_wait.reason,
        'waiting_until', app.rfc3339(v_wait.until));
end;
$$;

create or replace function app.item_status(p_item public.lookup_queue_items, p_in_flight int4multirange) returns text
language sql immutable
as $$
    select case when (p_item).position <@ p_in_flight then 'processing' else (p_item).status end
$$;

-- The response with its members in their original order, unless it was recorded before that order was kept.
create or replace function app.item_result(p_item public.lookup_queue_items) returns json
language sql immutable
as $$
    select coalesce((p_item).result, (p_item).parsed_result::json)
$$;

-- The item with its parsed response in place of the text: the steps after recording read figures from it. As a single row constructor,
-- which the planner inlines, it costs a third of a call.
create or replace function app.with_parsed_result(p_item public.lookup_queue_items, p_parsed_result jsonb) returns public.lookup_queue_items
language sql immutable
as $$
    select row(
        (p_item).organization_id, (p_item).id, (p_item).job_id, (p_item).position, (p_item).status, (p_item).reference_id, (p_item).address,
        (p_item).building_type, (p_item).device_ids, (p_item).create_application, (p_item).webhook_custom_fields, (p_item).warnings,
        (p_item).retry_count, (p_item).retry_at, p_parsed_result, (p_item).error_code, (p_item).error_message, (p_item).created_at,
        (p_item).processed_at, (p_item).deduplication_key, null, (p_item).reused_from_job_id, (p_item).reused_from_position,
        (p_item).household)::public.lookup_queue_items
$$;

create or replace function app.item_json(p_item public.lookup_queue_items, p_in_flight int4multirange) returns json
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return json_build_object(
        'id', p_item.id,
        'job_id', p_item.job_id,
        'status', app.item_status(p_item, p_in_flight),
        'reference_id', p_item.reference_id,
        'address', app.address_json(p_item.address),
        'building_type', p_item.building_type,
        'device_ids', p_item.device_ids,
        'result', app.item_result(p_item),
        'error_code', p_item.error_code,
        'error_message', p_item.error_message,
        'warnings', coalesce(p_item.warnings, '{}'),
        'retry_count', p_item.retry_count,
        'created_at', app.rfc3339(p_item.created_at),
        'processed_at', app.rfc3339(p_item.processed_at),
        'reused_from', case when p_item.reused_from_job_id is not null
                            then json_build_object('job_id', p_item.reused_from_job_id, 'position', p_item.reused_from_position) end,
        'position', p_item.position,
        'household', p_item.household);
end;
$$;

-- p_ids: restricts the list to these jobs; null: all jobs.
create or replace function app.job_matches(
    p_job public.batch_lookup_jobs, p_status text, p_name text, p_created_from timestamptz, p_created_before timestamptz, p_ids uuid[]
) returns boolean
language sql immutable
as $$
    select (p_status is null or (p_job).status = p_status)
       and (p_name is null or strpos(lower((p_job).name), lower(p_name)) > 0)
       and (p_created_from is null or (p_job).created_at >= p_created_from)
       and (p_created_before is null or (p_job).created_at < p_created_before)
       and (p_ids is null or (p_job).id = any (p_ids))
$$;

create or replace function api.list_batch_lookups(
    p_organization_id uuid        default app.claimed_organization_id(),
    p_status          text        default null,
    p_limit           integer     default 20,
    p_offset          integer     default 0,
    p_cursor          text        default null,
    p_name            text        default null,
    p_created_from    timestamptz default null,
    p_created_before  timestamptz default null,
    p_labels          jsonb       default null
) returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan set jit = off
as $$
declare
    v_cursor app.page_cursor;
    v_ids    uuid[];
    v_named  uuid[];
    v_jobs   public.batch_lookup_jobs[];
    v_total  bigint;
begin
    perform app.authorize(p_organization_id, 'jobs:read');
    perform app.check_search('name', p_name);
    perform app.check_choice('status', p_status, array['pending', 'processing', 'completed', 'failed', 'cancelled']);
    v_cursor := app.read_page(p_cursor, 'jobs', p_limit, p_offset, 200);
    v_ids := app.jobs_with_labels(p_organization_id, p_labels);
    if p_name is not null then
        v_named := app.jobs_named(p_organization_id, p_name);
        v_ids := case when v_ids is null or v_named is null then coalesce(v_ids, v_named)
                      else array(select unnest(v_ids) intersect select unnest(v_named)) end;
    end if;
    select coalesce(array_agg(row(j.*)::public.batch_lookup_jobs), '{}') into v_jobs
      from (select j.*
              from public.batch_lookup_jobs j
             where organization_id = p_organization_id
               and app.job_matches(row(j.*)::public.batch_lookup_jobs, p_status, p_name, p_created_from, p_created_before, v_ids)
               and (p_cursor is null or (created_at, id) < (v_cursor.created_at, v_cursor.id))
             order by created_at desc, id desc
             limit p_limit + 1 offset p_offset) j;
    if p_name is null and p_created_from is null and p_created_before is null and v_ids is null then
        v_total := app.count_jobs(p_organization_id, p_status);
    else
        select count(*) into v_total
          from public.batch_lookup_jobs j
         where organization_id = p_organization_id
           and app.job_matches(row(j.*)::public.batch_lookup_jobs, p_status, p_name, p_created_from, p_created_before, v_ids);
    end if;
    return json_build_object(
        'jobs', (select coalesce(json_agg(app.job_json(j) order by j.created_at desc, j.id desc), '[]') from unnest(v_jobs[:p_limit]) j),
        'total', v_total,
        'limit', p_limit,
        'offset', p_offset,
        'next_cursor', case when cardinality(v_jobs) > p_limit
                            then app.cursor(row('jobs', null, null, null, v_jobs[p_limit].created_at, v_jobs[p_limit].id, null)) end);
end;
$$;

comment on function api.list_batch_lookups(uuid, text, integer, integer, text, text, timestamptz, timestamptz, jsonb) is 'The jobs of an organization, newest first: {jobs, total, limit, offset, next_cursor}; p_cursor is the next_cursor of the page before. Optional: status; a part of the name, without wildcards and ignoring case; created from and before; labels that a job must all have, such as {"team": "north"}. 400: an unknown status, limit not in 1 to 200, invalid_cursor, cursor_with_offset, invalid_name, invalid_labels.';
grant execute on function api.list_batch_lookups(uuid, text, integer, integer, text, text, timestamptz, timestamptz, jsonb) to authenticated;

-- Fails what is still pending and not in flight in a job that is being cancelled: items that wait and items that were never claimed. The
-- caller has locked the job, so no item is waited for: a locked one is being recorded, and the recorder sees that the job was cancelled.
-- Returns how many items it ended.
create or replace function app.cancel_pending_items(p_organization_id uuid, p_job_id uuid, p_now timestamptz) returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_next_position integer;
    v_positions     integer[];
begin
    -- From here on, claims skip the job.
    delete from app.queued_jobs where organization_id = p_organization_id and job_id = p_job_id returning next_position into v_next_position;
    v_next_position := coalesce(
        v_next_position, (select held_position from app.job_budgets where organization_id = p_organization_id and job_id = p_job_id));
    update app.job_budgets set held_position = null where organization_id = p_organization_id and job_id = p_job_id and held_position is not null;
    -- Read the leases in the same snapshot as the items: what a recorder returns meanwhile is still in one of them.
    v_positions := array(
        select i.position
          from public.lookup_queue_items i
         where i.organization_id = p_organization_id and i.job_id = p_job_id and i.status = 'pending'
           and (i.retry_at is not null or i.position >= v_next_position)
           and not i.position <@ (select coalesce(range_agg(r), '{}')
                                    from public.lookup_leases l
                                   cross join unnest(l.positions) r
                                   where l.organization_id = p_organization_id and l.job_id = p_job_id)
           for update of i skip locked);
    return app.cancel_items(p_organization_id, p_job_id, v_positions, p_now);
end;
$$;

create or replace function app.cancel_items(p_organization_id uuid, p_job_id uuid, p_positions integer[], p_now timestamptz) returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_first integer;
    v_last  integer;
    v_count integer;
begin
    select min(p), max(p) into v_first, v_last from unnest(p_positions) p;
    update public.lookup_queue_items
       set status        = 'failed',
           retry_at      = null,
           error_code    = 'job_cancelled',
           error_message = 'Job cancelled',
           processed_at  = p_now
     where organization_id = p_organization_id and job_id = p_job_id and position between v_first and v_last
       and position = any (p_positions) and status = 'pending';
    get diagnostics v_count = row_count;
    return v_count;
end;
$$;

create or replace function api.cancel_batch_lookup(
    p_organization_id uuid default app.claimed_organization_id(), p_job_id uuid default null
) returns json
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now       timestamptz;
    v_job       public.batch_lookup_jobs;
    v_cancelled integer;
    v_items     public.lookup_queue_items[];
begin
    perform app.authorize(p_organization_id, 'jobs:write');
    -- A claim may take items of a sample anywhere in the job, and turn duplicates that have waited into new items: the lock prevents both.
    if exists (select from app.job_budgets where organization_id = p_organization_id and job_id = p_job_id)
       or exists (select from public.lookup_queue_items
                   where organization_id = p_organization_id and job_id = p_job_id and status = 'pending' and retry_at is not null
                     and position >= (select next_position from app.queued_jobs where organization_id = p_organization_id and job_id = p_job_id)) then
        perform app.hold_queue(p_organization_id);
    end if;
    v_job := app.lock_job(p_organization_id, p_job_id);
    if v_job.status not in ('pending', 'processing') then
        perform app.refuse(
            409, 'job_ended',
            format('The job has already %s', case v_job.status when 'cancelled' then 'been cancelled' else v_job.status end),
            'Only a pending or processing job can be cancelled.');
    end if;

    v_now := app.clock();
    v_cancelled := app.cancel_pending_items(p_organization_id, p_job_id, v_now);
    update public.batch_lookup_jobs
       set status          = 'cancelled',
           processed_items = processed_items + v_cancelled,
           failed_items    = failed_items + v_cancelled,
           completed_at    = v_now,
           updated_at      = v_now
     where organization_id = p_organization_id and id = p_job_id
    returning * into v_job;
    perform app.count_work(p_organization_id, 'job', array['cancelled'], null, null, null, v_now);
    perform app.update_report(p_organization_id, v_job, v_now, p_job_status => 'cancelled');
    perform app.notify_change('UPDATE', 'batch_lookup_jobs', p_organization_id, p_job_id);
    perform app.enqueue_job_webhook(p_organization_id, p_job_id, v_now);
    -- Duplicates in other jobs may have waited for what is not looked up any more.
    if (select deduplicate_seconds is not null from app.settings) then
        select array_agg(row(i.*)::public.lookup_queue_items) into v_items
          from public.lookup_queue_items i
         where i.organization_id = p_organization_id and i.job_id = p_job_id and i.status = 'failed' and i.error_code = 'job_cancelled';
        perform app.answer_duplicates(p_organization_id, v_items, v_now);
    end if;
    return json_build_object('message', 'Job cancelled successfully', 'job_id', p_job_id);
end;
$$;

comment on function api.cancel_batch_lookup(uuid, uuid) is 'Cancels an open job: pending items fail with "Job cancelled", items in flight finish and count. 404: no such job. 409: it has ended.';
grant execute on function api.cancel_batch_lookup(uuid, uuid) to authenticated;
