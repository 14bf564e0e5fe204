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
        perform app.refuse(
            409, 'job_not_ended',
            format('The job %s; %s unfinished', case v_job.status when 'cancelled' then 'was cancelled' else 'is still ' || v_job.status end,
                   app.counted(v_open, 'item is', 'items are')),
            case v_job.status when 'cancelled' then 'Wait until its last lookups have ended.' else 'Cancel it, or wait until it has finished.' end);
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
    v_item.household             := p_item.household;
    return v_item;
end;
$$;

-- The name of a retry: sites (retry), then sites (retry 2). At most 200 characters, like every name.
create or replace function app.retry_name(p_name text) returns text
language sql immutable
return (
    select left(base, 200 - length(retry)) || retry
      from (select regexp_replace(p_name, ' \(retry( \d{1,6})?\)$', '') as base,
                   case when p_name ~ ' \(retry( \d{1,6})?\)$' then format(' (retry %s)', coalesce(substring(p_name from ' (\d{1,6})\)$')::integer, 1) + 1)
                        else ' (retry)' end as retry) n);

-- A new job of failed items of an ended one. p_positions: the position of each in the ended job.
create or replace function app.retry_items(
    p_organization_id uuid, p_job public.batch_lookup_jobs, p_items app.batch_item[], p_positions integer[]
) returns json
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_retry uuid := (select id
                       from public.batch_lookup_jobs
                      where organization_id = p_organization_id and retry_of_job_id = p_job.id and status in ('pending', 'processing')
                      limit 1);
    v_wait    jsonb := (select jsonb_build_object('when_limit_reached', 'wait')
                          from app.job_budgets
                         where organization_id = p_organization_id and job_id = p_job.id and when_limit_reached = 'wait');
    v_created json;
begin
    if v_retry is not null then
        perform app.refuse(
            409, 'retry_in_progress', 'The failed items of this job are already being retried',
            p_members => json_build_object('job_id', v_retry));
    end if;
    v_created := app.store_batch(
        p_organization_id, p_items, app.retry_name(p_job.name), p_job.id, p_spending => coalesce(v_wait, '{}'),
        p_labels => app.labels_json(p_organization_id, p_job.id)::jsonb);
    perform app.copy_sources(p_organization_id, (v_created ->> 'job_id')::uuid, p_job.id, p_positions);
    return app.join_objects(v_created, json_build_object(
        'total_invalid', 0, 'invalid_items', '[]'::json, 'warnings', app.item_warnings(p_items),
        'total_warnings', app.count_warned(p_items), 'notes', '[]'::json,
        'retry_of_job_id', p_job.id));
end;
$$;

create or replace function app.retry_batch(p_organization_id uuid, p_job_id uuid, p_error_code text, p_traceparent text) returns json
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_job     public.batch_lookup_jobs;
    v_items   app.batch_item[];
    v_places  integer[];
    v_created json;
begin
    perform app.check_item_filter(null, p_error_code);
    v_job := app.lock_ended_job(p_organization_id, p_job_id);
    select array_agg(app.uploaded_item(i.item, (i.n - 1)::integer) order by i.n), array_agg((i.item).position order by i.n)
      into v_items, v_places
      from (select f as item, row_number() over (order by f.position) as n
              from app.find_items(p_organization_id, p_job_id, '{}', 'failed', p_error_code, -1, null) f) i;
    if v_items is null then
        perform app.refuse(409, 'no_failed_items', 'No item of this job failed' || coalesce(' with error_code ' || p_error_code, ''));
    end if;
    v_created := app.retry_items(p_organization_id, v_job, v_items, v_places);
    perform app.keep_traceparent(p_organization_id, v_created, p_traceparent);
    return v_created;
end;
$$;

create or replace function api.retry_batch_lookup(
    p_organization_id uuid default app.claimed_organization_id(), p_job_id uuid default null, p_error_code text default null,
    p_traceparent text default null
) returns json
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform app.authorize(p_organization_id, 'jobs:write');
    return app.retry_batch(p_organization_id, p_job_id, p_error_code, p_traceparent);
end;
$$;

comment on function api.retry_batch_lookup(uuid, uuid, text, text) is 'Creates a new job from the failed items of a job that has ended, all or those with p_error_code, and returns it as api.create_batch_lookup does, with retry_of_job_id. The new job has the labels of the old one, and waits at the monthly limit if the old one did (when_limit_reached); max_lookups is not copied. 400: invalid_error_code. 404: no such job. 409: job_not_ended, retry_in_progress, no_failed_items. 429: too_many_open_items.';
grant execute on function api.retry_batch_lookup(uuid, uuid, text, text) to authenticated;

create or replace function api.submit_retry(
    p_organization_id uuid  default app.claimed_organization_id(),
    p_job_id          uuid  default null,
    p_error_code      text  default null,
    p_idempotency_key text  default null,
    p_fingerprint     bytea default null,
    p_traceparent     text  default null,
    out status        integer,
    out replayed      boolean,
    out body          json
)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_route constant text := 'POST /batch-lookups/{job_id}/retry';
begin
    perform app.authorize(p_organization_id, 'jobs:write');
    perform app.check_organization(p_organization_id);
    if p_fingerprint is null and p_idempotency_key is not null then
        p_fingerprint := sha256(convert_to(concat_ws(' ', p_job_id, p_error_code), 'UTF8'));
    end if;
    select r.status, r.replayed, r.body into status, replayed, body from app.start_request(p_organization_id, v_route, p_idempotency_key, p_fingerprint) r;
    if replayed then
        return;
    end if;
    body := app.retry_batch(p_organization_id, p_job_id, p_error_code, p_traceparent);
    status := 201;
    perform app.end_request(p_organization_id, v_route, p_idempotency_key, status, body);
end;
$$;

comment on function api.submit_retry(uuid, uuid, text, text, bytea, text) is
'api.retry_batch_lookup for HTTP: its answer with the status (201). A request repeated with the same key within 7 days is answered as before (replayed) and does nothing, even when the new job has ended; a refused one leaves no trace. Further: 400 invalid_idempotency_key; 409 request_in_progress; 422 idempotency_key_reused: p_fingerprint, a hash of the request that is made of it when left out, differs.';
grant execute on function api.submit_retry(uuid, uuid, text, text, bytea, text) to authenticated;

create or replace function api.requeue_item(
    p_organization_id uuid default app.claimed_organization_id(), p_job_id uuid default null, p_position integer default null
) returns json
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_job  public.batch_lookup_jobs;
    v_item public.lookup_queue_items;
begin
    perform app.authorize(p_organization_id, 'jobs:write');
    v_job := app.lock_ended_job(p_organization_id, p_job_id);
    v_item := app.find_item(p_organization_id, p_job_id, p_position);
    if v_item.status <> 'failed' then
        perform app.refuse(409, 'item_not_failed', 'The item has not failed');
    end if;
    return app.retry_items(p_organization_id, v_job, array[app.uploaded_item(v_item, 0)], array[v_item.position]);
end;
$$;

comment on function api.requeue_item(uuid, uuid, integer) is 'Creates a new job from one failed item of a job that has ended, given by its position, and returns it like api.retry_batch_lookup. 404: job_not_found, item_not_found. 409: job_not_ended, item_not_failed, retry_in_progress. 429: too_many_open_items.';
grant execute on function api.requeue_item(uuid, uuid, integer) to authenticated;

-- Deletes jobs of an organization, which the caller has locked, with everything that belongs to them except their reports: one statement
-- for each table, however many jobs there are. Returns the status of each; the caller counts them.
create or replace function app.delete_jobs(p_organization_id uuid, p_job_ids uuid[]) returns text[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_status   text;
    v_statuses text[] := '{}';
begin
    delete from app.webhook_deliveries where organization_id = p_organization_id and job_id = any (p_job_ids) and data is null;
    delete from app.queued_jobs where organization_id = p_organization_id and job_id = any (p_job_ids);
    -- Empty leases remain if others held them when their last item ended.
    delete from public.lookup_leases where organization_id = p_organization_id and job_id = any (p_job_ids);
    delete from public.batch_lookup_job_labels where organization_id = p_organization_id and job_id = any (p_job_ids);
    delete from app.job_names where organization_id = p_organization_id and job_id = any (p_job_ids);
    delete from app.job_budgets where organization_id = p_organization_id and job_id = any (p_job_ids);
    delete from app.job_traces where organization_id = p_organization_id and job_id = any (p_job_ids);
    delete from app.known_results where organization_id = p_organization_id and job_id = any (p_job_ids);
    delete from app.known_jobs where organization_id = p_organization_id and job_id = any (p_job_ids);
    delete from public.lookup_attempts where organization_id = p_organization_id and job_id = any (p_job_ids);
    delete from public.lookup_item_sources where organization_id = p_organization_id and job_id = any (p_job_ids);
    delete from public.lookup_job_columns where organization_id = p_organization_id and job_id = any (p_job_ids);
    delete from public.lookup_queue_items where organization_id = p_organization_id and job_id = any (p_job_ids);
    for v_status in
        delete from public.batch_lookup_jobs where organization_id = p_organization_id and id = any (p_job_ids) returning status
    loop
        v_statuses := v_statuses || v_status;
    end loop;
    perform app.notify_deletions('batch_lookup_jobs', p_organization_id, p_job_ids);
    return v_statuses;
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
    perform app.count_ended(p_organization_id, -1, (app.delete_jobs(p_organization_id, array[p_job_id]))[1]);
    if p_include_report then
        perform app.count_ended(p_organization_id, -1, null, (app.delete_reports(p_organization_id, array[v_job.report_id]))[1]);
    end if;
    return json_build_object('message', 'Job deleted successfully', 'job_id', p_job_id);
end;
$$;

comment on function api.delete_batch_lookup(uuid, uuid, boolean) is 'Deletes a job that has ended, with its items. Its report, which has its own copy of addresses and amounts, is kept unless p_include_report. 404: no such job. 409 job_not_ended: it has not ended.';
grant execute on function api.delete_batch_lookup(uuid, uuid, boolean) to authenticated;

-- When a step that begins now stops deleting: it is one transaction, and others may wait for its rows.
create or replace function app.step_ends_at() returns timestamptz
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    return clock_timestamp() + interval '2 seconds';
end;
$$;

-- Deletes ended jobs of an organization, oldest first and whole: at least one, then more up to p_rows items and until p_until. Jobs that
-- begin within the same thousand items are deleted together.
create or replace function app.delete_ended_jobs(
    p_organization_id uuid, p_before timestamptz, p_rows integer, p_until timestamptz, out deleted integer, out rows integer
)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_some     record;
    v_statuses text[] := '{}';
begin
    deleted := 0;
    rows    := 0;
    for v_some in
        select array_agg(c.id) as ids, sum(c.total_items) as items
          from (select h.id, h.total_items, sum(h.total_items) over (order by h.completed_at, h.id) as items_so_far
                  from (select id, total_items, completed_at
                          from public.batch_lookup_jobs
                         where organization_id = p_organization_id and completed_at < p_before and processed_items = total_items
                         order by completed_at
                         limit 1000
                           for update skip locked) h) c
         where c.items_so_far = c.total_items or c.items_so_far <= p_rows
         group by (c.items_so_far - c.total_items) / 1000
         order by (c.items_so_far - c.total_items) / 1000
    loop
        exit when deleted > 0 and clock_timestamp() > p_until;
        v_statuses := v_statuses || app.delete_jobs(p_organization_id, v_some.ids);
        deleted := deleted + cardinality(v_some.ids);
        rows    := rows + v_some.items;
    end loop;
    perform app.count_ended(p_organization_id, -count(*)::integer, u.status) from unnest(v_statuses) u (status) group by u.status;
end;
$$;

-- The same for reports of an organization, up to p_rows sites, whether their jobs still exist or not.
create or replace function app.delete_ended_reports(
    p_organization_id uuid, p_before timestamptz, p_rows integer, p_until timestamptz, out deleted integer, out rows integer
)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_some     record;
    v_statuses text[] := '{}';
begin
    deleted := 0;
    rows    := 0;
    for v_some in
        select array_agg(c.id) as ids, sum(c.total_sites) as sites
          from (select h.id, h.total_sites, sum(h.total_sites) over (order by h.created_at, h.id) as sites_so_far
                  from (select id, total_sites, created_at
                          from public.incentive_reports
                         where organization_id = p_organization_id and created_at < p_before and completed_at < p_before
                         order by created_at, id
                         limit 1000
                           for update skip locked) h) c
         where c.sites_so_far = c.total_sites or c.sites_so_far <= p_rows
         group by (c.sites_so_far - c.total_sites) / 1000
         order by (c.sites_so_far - c.total_sites) / 1000
    loop
        exit when deleted > 0 and clock_timestamp() > p_until;
        v_statuses := v_statuses || app.delete_reports(p_organization_id, v_some.ids);
        deleted := deleted + cardinality(v_some.ids);
        rows    := rows + v_some.sites;
    end loop;
    perform app.count_ended(p_organization_id, -count(*)::integer, null, u.status) from unnest(v_statuses) u (status) group by u.status;
end;
$$;

-- Deletes what ended before a time ('jobs' or 'reports'; null: nothing) and returns how many, up to a thousand with about p_rows rows, in
-- some two seconds. It takes the organizations in turn, and stays at one that has more. One with a row that is locked for over 20 ms is
-- skipped, as the rest of the maintenance waits for this.
create or replace function app.prune(p_what text, p_before timestamptz, p_rows integer default 10000) returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp set enable_seqscan = off set lock_timeout = '20ms'
as $$
declare
    v_organization_id uuid;
    v_until           constant timestamptz := app.step_ends_at();
    v_deleted         integer              := 0;
    v_rows            integer              := 0;
    v_after           uuid;
begin
    if p_before is null then
        return 0;
    end if;
    perform app.set_lock_timeout_of_nodes('20ms');
    foreach v_organization_id in array app.organizations_in_turn(p_what) loop
        -- Most organizations have nothing that has expired, and there may be thousands of them.
        begin
            if p_what = 'jobs' then
                if exists (select from public.batch_lookup_jobs where organization_id = v_organization_id and completed_at < p_before) then
                    select v_deleted + e.deleted, v_rows + e.rows into v_deleted, v_rows
                      from app.delete_ended_jobs(v_organization_id, p_before, p_rows - v_rows, v_until) e;
                end if;
            elsif exists (select from public.incentive_reports where organization_id = v_organization_id and created_at < p_before) then
                select v_deleted + e.deleted, v_rows + e.rows into v_deleted, v_rows
                  from app.delete_ended_reports(v_organization_id, p_before, p_rows - v_rows, v_until) e;
            end if;
        exception
            when lock_not_available then null;
        end;
        exit when v_rows >= p_rows or v_deleted >= 1000 or v_deleted > 0 and clock_timestamp() > v_until;
        v_after := v_organization_id;
    end loop;
    perform app.set_lock_timeout_of_nodes('0');
    perform app.end_turn(p_what, v_after);
    return v_deleted;
end;
$$;

-- One step, short enough for one transaction. The caller repeats it until nothing is left.
create or replace function app.prune_expired(p_now timestamptz default app.clock()) returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_settings app.settings;
begin
    select * into strict v_settings from app.settings;
    perform app.prune_idempotency_keys(p_now), app.prune_audit_events(p_now), app.prune_deleted_rows(p_now);
    return app.prune('jobs', p_now - make_interval(days => v_settings.job_retention_days))
         + app.prune('reports', p_now - make_interval(days => v_settings.report_retention_days))
         + app.prune_attempts(p_now - make_interval(days => v_settings.attempt_retention_days))
         + app.prune_uploads(p_now);
end;
$$;

create or replace function api.prune_expired() returns integer
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return app.prune_expired();
end;
$$;

comment on function api.prune_expired() is 'Deletes uploads that have expired, and jobs, reports and recorded attempts whose retention (job_retention_days, report_retention_days, attempt_retention_days) is over, at most a thousand jobs with about ten thousand items, as many reports, for some two seconds each, and ten thousand attempts, and returns how many; then audit events, idempotency keys after a week and tombstones after a day, ten thousand of each at most. pg_cron or a worker repeats it every minute, each time in a transaction of its own, until it returns 0.';
