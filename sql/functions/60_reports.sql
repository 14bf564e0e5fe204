-- Chapter 60, reports: created with the job, extended with every completed item, closed with the job.

create or replace function app.create_report(p_organization_id uuid, p_job public.batch_lookup_jobs) returns public.incentive_reports
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_report public.incentive_reports;
begin
    insert into public.incentive_reports (organization_id, id, job_id, name, description, created_at, updated_at)
    values (p_organization_id, p_job.report_id, p_job.id,
            coalesce(p_job.name, format('Batch Lookup - %s (%s sites)', to_char(p_job.created_at at time zone 'UTC', 'YYYY-MM-DD'), p_job.total_items)),
            format('Batch lookup job with %s items. Sites will be added as processing completes.', p_job.total_items),
            p_job.created_at, p_job.created_at)
    returning * into v_report;
    return v_report;
end;
$$;

create or replace function app.result_amount(p_result jsonb) returns numeric
language sql immutable
return app.amount(p_result #> '{incentives,total_incentive_amount}');

-- The amount that depends on household facts that the lookup did not give.
create or replace function app.result_conditional_amount(p_result jsonb) returns numeric
language sql immutable
return app.amount(p_result #> '{incentives,conditional_incentive_amount}');

create or replace function app.result_is_eligible(p_result jsonb) returns boolean
language sql immutable
return app.amount(p_result #> '{incentives,total_eligible_combinations}') > 0 or app.amount(p_result #> '{incentives,total_incentive_amount}') > 0;

-- The EIA number of a utility is a number in every response, even if the provider wrote it as text.
create or replace function app.eiaid(p_eiaid text) returns bigint
language sql immutable
return case when p_eiaid ~ '^[0-9]{1,15}$' then p_eiaid::bigint end;

-- The programs of a response that pay something or that the site is eligible for, each once. A program without a name gets its id, which
-- must fit into an index. place: the first occurrence in the response.
create or replace function app.result_programs(p_result jsonb)
returns table (program_id text, program_name text, total_incentive numeric, eligible_combinations numeric, place bigint)
language sql immutable
begin atomic
    select p.program_id, coalesce(nullif(max(p.program_name), ''), p.program_id), sum(p.total_incentive), least(sum(p.eligible_combinations), 1000000),
           min(p.place)
      from (select v.program_id, v.program_name, app.amount(v.total_incentive) as total_incentive,
                   app.amount(v.eligible_combinations) as eligible_combinations, v.place
              from (select e.value ->> 'program_id' as program_id, e.value ->> 'program_name' as program_name,
                           e.value -> 'total_incentive' as total_incentive, e.value -> 'eligible_combinations' as eligible_combinations, e.place
                      from jsonb_array_elements(app.elements(p_result #> '{incentives,by_program}')) with ordinality e (value, place)
                    offset 0) v
            offset 0) p
     where length(p.program_id) <= 500 and (p.total_incentive > 0 or p.eligible_combinations > 0)
     group by p.program_id;
end;

-- The requested device categories, with the amount that the response has for the devices of each. The caller looks up the devices once for
-- all items, in the order of their categories.
create or replace function app.result_categories(p_device_ids integer[], p_result jsonb, p_devices integer[], p_categories text[])
returns table (keys text[], amounts numeric[])
language sql immutable
begin atomic
    select coalesce(array_agg(c.category_key), '{}'), coalesce(array_agg(c.amount), '{}')
      from (select d.category_key, coalesce(sum(g.amount), 0.00) as amount
              from unnest(p_devices, p_categories) d (id, category_key)
              left join (select t.value ->> 'device_id' as device_id, app.amount(t.value -> 'incentive_amount') as amount
                           from jsonb_path_query(p_result, '$.incentives.by_program[*].device_tier_results[*] ? (@.incentive_amount > 0)') t (value)
                        ) g on g.device_id = d.id::text
             where d.id = any (p_device_ids)
             group by d.category_key
             order by d.category_key) c;
end;

create or replace function app.device_ids_of(p_items public.lookup_queue_items[]) returns integer[]
language plpgsql immutable
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
as $$
begin
    return array(select distinct unnest(i.device_ids) from unnest(p_items) i where i.status = 'completed');
end;
$$;

create or replace function app.completed_jobs_of(p_items public.lookup_queue_items[]) returns uuid[]
language plpgsql immutable
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
as $$
begin
    return array(select distinct i.job_id from unnest(p_items) i where i.status = 'completed');
end;
$$;

-- Completed items become sites with their programs, in the transaction that completes them; app.update_report deletes them if the report of
-- a cancelled job was deleted. Jobs are looked up once, not per item: while a transaction holds back vacuum, every flush leaves one more
-- dead version to skip. Each is looked up separately: for a list of jobs, a planner without statistics may read all of the organization.
create or replace function app.add_report_sites(p_organization_id uuid, p_items public.lookup_queue_items[], p_now timestamptz) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_job_id     uuid;
    v_report_id  uuid;
    v_job_ids    uuid[] := '{}';
    v_report_ids uuid[] := '{}';
begin
    foreach v_job_id in array app.completed_jobs_of(p_items) loop
        select report_id into v_report_id from public.batch_lookup_jobs where organization_id = p_organization_id and id = v_job_id;
        v_job_ids := v_job_ids || v_job_id;
        v_report_ids := v_report_ids || v_report_id;
    end loop;
    perform app.insert_report_sites(array_fill(p_organization_id, array[cardinality(v_job_ids)]), v_job_ids, v_report_ids, p_items, p_now);
end;
$$;

-- The report of each item, in their order; null: its job has none of these.
create or replace function app.reports_of_items(p_organization_ids uuid[], p_job_ids uuid[], p_report_ids uuid[], p_items public.lookup_queue_items[])
returns uuid[]
language plpgsql immutable
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan set enable_hashjoin = on set enable_nestloop = off
as $$
begin
    return array(
        select r.id
          from unnest(p_items) with ordinality i
          left join unnest(p_organization_ids, p_job_ids, p_report_ids) r (organization_id, job_id, id)
            on r.organization_id = i.organization_id and r.job_id = i.job_id
         order by i.ordinality);
end;
$$;

-- Sites for the reports of the completed items, which are given in their order. Here and in `app.result_programs`, `offset 0` makes the
-- planner compute each value once, not at each reference.
create or replace function app.make_sites(
    p_report_ids uuid[], p_items public.lookup_queue_items[], p_devices integer[], p_categories text[], p_now timestamptz
) returns public.incentive_report_sites[]
language plpgsql stable
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
as $$
declare
    v_site  public.incentive_report_sites;
    v_sites public.incentive_report_sites[] := '{}';
begin
    for v_site in
        select i.organization_id, p_report_ids[i.ordinality], i.position, i.id, i.reference_id, i.address ->> 'street_1', i.address ->> 'street_2',
               i.address ->> 'city', i.address ->> 'state_or_province_code', i.address ->> 'postal_code', i.address ->> 'country_code',
               i.building_type, c.keys, c.amounts, i.parsed_result #>> '{utility,eiaid}', i.parsed_result #>> '{utility,name}',
               a.eligible_combinations > 0 or a.total_incentive > 0, a.total_incentive, p_now, app.result_conditional_amount(i.parsed_result)
          from unnest(p_items) with ordinality i
         cross join app.result_categories(i.device_ids, i.parsed_result, p_devices, p_categories) c
         cross join lateral (select i.parsed_result #> '{incentives,total_incentive_amount}' as total_incentive,
                                    i.parsed_result #> '{incentives,total_eligible_combinations}' as eligible_combinations offset 0) v
         cross join lateral (select app.amount(v.total_incentive) as total_incentive, app.amount(v.eligible_combinations) as eligible_combinations offset 0) a
         where i.status = 'completed' and p_report_ids[i.ordinality] is not null
    loop
        v_sites := v_sites || v_site;
    end loop;
    return v_sites;
end;
$$;

create or replace function app.make_site_programs(p_report_ids uuid[], p_items public.lookup_queue_items[]) returns public.incentive_report_site_programs[]
language plpgsql stable
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
as $$
declare
    v_program  public.incentive_report_site_programs;
    v_programs public.incentive_report_site_programs[] := '{}';
begin
    for v_program in
        select i.organization_id, p_report_ids[i.ordinality], i.position, p.program_id, p.program_name, p.total_incentive, p.eligible_combinations
          from unnest(p_items) with ordinality i
         cross join app.result_programs(i.parsed_result) p
         where i.status = 'completed' and p_report_ids[i.ordinality] is not null
    loop
        v_programs := v_programs || v_program;
    end loop;
    return v_programs;
end;
$$;

-- The jobs are given with their organizations and reports. Rows are built before they are inserted: a cluster plans an insertion again for
-- each flush, and more than once.
create or replace function app.insert_report_sites(
    p_organization_ids uuid[], p_job_ids uuid[], p_report_ids uuid[], p_items public.lookup_queue_items[], p_now timestamptz
) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_ids        integer[]                               := app.device_ids_of(p_items);
    v_report_ids uuid[]                                  := app.reports_of_items(p_organization_ids, p_job_ids, p_report_ids, p_items);
    v_devices    integer[];
    v_categories text[];
    v_sites      public.incentive_report_sites[];
    v_programs   public.incentive_report_site_programs[] := app.make_site_programs(v_report_ids, p_items);
begin
    select array_agg(id order by category_key), array_agg(category_key order by category_key) into v_devices, v_categories
      from app.devices
     where id = any (v_ids);
    v_sites := app.make_sites(v_report_ids, p_items, v_devices, v_categories, p_now);
    insert into public.incentive_report_sites
           (organization_id, report_id, position, item_id, reference_id, street_1, street_2, city, state_or_province_code, postal_code,
            country_code, building_type, device_categories, category_amounts, utility_eiaid, utility_name, eligible, total_incentive_amount, created_at,
            conditional_incentive_amount)
    select organization_id, report_id, position, item_id, reference_id, street_1, street_2, city, state_or_province_code, postal_code,
           country_code, building_type, device_categories, category_amounts, utility_eiaid, utility_name, eligible, total_incentive_amount, created_at,
           conditional_incentive_amount
      from unnest(v_sites);
    if v_programs <> '{}' then
        insert into public.incentive_report_site_programs
               (organization_id, report_id, position, program_id, program_name, total_incentive, eligible_combinations)
        select organization_id, report_id, position, program_id, program_name, total_incentive, eligible_combinations from unnest(v_programs);
    end if;
end;
$$;

-- Adds the counts of a flush, and closes the report of a job that has ended: complete if it has sites, else error. p_job_status: the status
-- with which the job has just ended, to be counted. The report is found by its id: by its job, a planner without statistics may read all
-- reports of the organization.
create or replace function app.update_report(
    p_organization_id uuid, p_job public.batch_lookup_jobs, p_now timestamptz, p_sites integer default 0,
    p_eligible_sites integer default 0, p_value numeric default 0, p_conditional numeric default 0, p_job_status text default null
) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_id     uuid;
    v_before text;
    v_status text;
begin
    if p_job.completed_at is not null then
        select status into v_before
          from public.incentive_reports
         where organization_id = p_organization_id and id = p_job.report_id
           for update;
    end if;
    update public.incentive_reports
       set total_sites           = total_sites + p_sites,
           eligible_sites        = eligible_sites + p_eligible_sites,
           total_incentive_value = total_incentive_value + p_value,
           conditional_incentive_amount = conditional_incentive_amount + p_conditional,
           status                = case when p_job.completed_at is null then 'processing'
                                        when total_sites + p_sites > 0 then 'complete'
                                        else 'error' end,
           completed_at          = p_job.completed_at,
           updated_at            = p_now
     where organization_id = p_organization_id and id = p_job.report_id
    returning id, status into v_id, v_status;
    if v_id is null and p_sites > 0 then
        -- It was deleted after the caller had added sites to it.
        delete from public.incentive_report_site_programs where organization_id = p_organization_id and report_id = p_job.report_id;
        delete from public.incentive_report_sites where organization_id = p_organization_id and report_id = p_job.report_id;
        return;
    end if;
    if v_before <> v_status then
        if v_before <> 'processing' then
            perform app.count_ended(p_organization_id, -1, null, v_before);
        end if;
        perform app.count_ended(p_organization_id, 1, p_job_status, v_status);
    elsif p_job_status is not null then
        perform app.count_ended(p_organization_id, 1, p_job_status);
    end if;
    perform app.notify_change('UPDATE', 'incentive_reports', p_organization_id, v_id);
end;
$$;

create or replace function app.report_json(p_report public.incentive_reports) returns json
language sql stable
as $$
    select json_build_object(
        'id', (p_report).id,
        'job_id', (p_report).job_id,
        'name', (p_report).name,
        'description', (p_report).description,
        'status', (p_report).status,
        'report_type', (p_report).report_type,
        'total_sites', (p_report).total_sites,
        'eligible_sites', (p_report).eligible_sites,
        'total_incentive_value', round((p_report).total_incentive_value, 2),
        'created_at', app.rfc3339((p_report).created_at),
        'completed_at', app.rfc3339((p_report).completed_at),
        'conditional_incentive_amount', round((p_report).conditional_incentive_amount, 2)
    )
$$;

create or replace function app.find_report(p_organization_id uuid, p_report_id uuid) returns public.incentive_reports
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_report public.incentive_reports;
begin
    select * into v_report
      from public.incentive_reports
     where organization_id = p_organization_id and id = p_report_id;
    if not found then
        perform app.refuse(
            404, 'report_not_found', 'Report not found',
            app.hint_for_caller(null, 'select organization_id, id, name from api.reports lists them; a batch has its own in report_id of api.jobs.'));
    end if;
    return v_report;
end;
$$;

-- Locks the report before a change.
create or replace function app.lock_report(p_organization_id uuid, p_report_id uuid) returns public.incentive_reports
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    perform from public.incentive_reports where organization_id = p_organization_id and id = p_report_id for update;
    return app.find_report(p_organization_id, p_report_id);
end;
$$;

create or replace function api.list_incentive_reports(
    p_organization_id uuid default app.claimed_organization_id(), p_status text default null, p_limit integer default 20,
    p_offset integer default 0, p_cursor text default null, p_report_type text default null, p_created_from timestamptz default null,
    p_created_before timestamptz default null
) returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan set jit = off
as $$
declare
    v_cursor  app.page_cursor;
    v_reports public.incentive_reports[];
    v_total   bigint;
    v_ids     uuid[];
begin
    perform app.authorize(p_organization_id, 'reports:read');
    perform app.check_choice('status', p_status, array['processing', 'complete', 'error']);
    perform app.check_choice('report_type', p_report_type, array['bulk_lookup']);
    v_cursor := app.read_page(p_cursor, 'reports', p_limit, p_offset, 200);
    -- Only reports of open jobs are processing, and those are few.
    if p_status = 'processing' then
        v_ids := array(select report_id from public.batch_lookup_jobs where organization_id = p_organization_id and status in ('pending', 'processing'));
    end if;
    select coalesce(array_agg(row(r.*)::public.incentive_reports), '{}') into v_reports
      from (select *
              from public.incentive_reports
             where organization_id = p_organization_id and (p_status is null or status = p_status)
               and (p_report_type is null or report_type = p_report_type)
               and (p_created_from is null or created_at >= p_created_from) and (p_created_before is null or created_at < p_created_before)
               and (p_cursor is null or (created_at, id) < (v_cursor.created_at, v_cursor.id))
               and (v_ids is null or id = any (v_ids))
             order by created_at desc, id desc
             limit p_limit + 1 offset p_offset) r;
    if p_report_type is null and p_created_from is null and p_created_before is null then
        v_total := app.count_reports(p_organization_id, p_status);
    else
        select count(*) into v_total
          from public.incentive_reports
         where organization_id = p_organization_id and (p_status is null or status = p_status)
           and (p_report_type is null or report_type = p_report_type)
           and (p_created_from is null or created_at >= p_created_from) and (p_created_before is null or created_at < p_created_before);
    end if;
    return json_build_object(
        'reports', (select coalesce(json_agg(app.report_json(r) order by r.created_at desc, r.id desc), '[]')
                      from unnest(v_reports[:p_limit]) r),
        'total', v_total,
        'limit', p_limit,
        'offset', p_offset,
        'next_cursor', case when cardinality(v_reports) > p_limit
                            then app.cursor(row('reports', null, null, null, v_reports[p_limit].created_at, v_reports[p_limit].id, null)) end);
end;
$$;

comment on function api.list_incentive_reports(uuid, text, integer, integer, text, text, timestamptz, timestamptz) is
'The reports of an organization, newest first: {reports, total, limit, offset, next_cursor}. Optional: status; report_type; created from and before. p_cursor is the next_cursor of the page before, the surest way through a list that grows. Amounts in US dollars. 400: an unknown status or type, limit not in 1 to 200, invalid_cursor, cursor_with_offset.';
grant execute on function api.list_incentive_reports(uuid, text, integer, integer, text, text, timestamptz, timestamptz) to authenticated;

create or replace function api.update_incentive_report(
    p_organization_id uuid default app.claimed_organization_id(), p_report_id uuid default null, p_changes jsonb default null
) returns json
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now    timestamptz;
    v_report public.incentive_reports;
begin
    perform app.authorize(p_organization_id, 'reports:write');
    perform app.check_json(p_changes);
    if jsonb_typeof(p_changes) is distinct from 'object' or p_changes - array['name', 'description'] <> '{}' or p_changes = '{}'
       or jsonb_typeof(p_changes -> 'name') <> 'string' or jsonb_typeof(p_changes -> 'description') <> 'string'
       or btrim(p_changes ->> 'name') = '' or length(p_changes ->> 'name') > 200 or length(p_changes ->> 'description') > 2000 then
        perform app.refuse(
            400, 'invalid_report', 'The body must be an object with name (1 to 200 characters), description (at most 2,000) or both');
    end if;
    perform app.lock_report(p_organization_id, p_report_id);
    v_now := app.clock();
    update public.incentive_reports
       set name        = coalesce(btrim(p_changes ->> 'name'), name),
           description = coalesce(p_changes ->> 'description', description),
           updated_at  = v_now
     where organization_id = p_organization_id and id = p_report_id
    returning * into v_report;
    perform app.notify_change('UPDATE', 'incentive_reports', p_organization_id, p_report_id);
    return app.report_json(v_report);
end;
$$;

comment on function api.update_incentive_report(uuid, uuid, jsonb) is 'Changes the name or description of a report, {"name": ..., "description": ...}, and returns it. 400: invalid_report. 404: no such report in this organization.';
grant execute on function api.update_incentive_report(uuid, uuid, jsonb) to authenticated;

-- Deletes reports of an organization, one statement for each table. Returns the status of each; the caller counts them.
create or replace function app.delete_reports(p_organization_id uuid, p_report_ids uuid[]) returns text[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_status   text;
    v_statuses text[] := '{}';
begin
    -- Lock the reports before their sites, as the deletion of a single report does.
    perform from public.incentive_reports where organization_id = p_organization_id and id = any (p_report_ids) for update;
    -- Check first: on a cluster, every node has these rows, and a deletion involves all of them.
    if exists (select from app.report_shares where organization_id = p_organization_id and report_id = any (p_report_ids)) then
        delete from app.report_shares where organization_id = p_organization_id and report_id = any (p_report_ids);
    end if;
    delete from public.incentive_report_site_programs where organization_id = p_organization_id and report_id = any (p_report_ids);
    delete from public.incentive_report_sites where organization_id = p_organization_id and report_id = any (p_report_ids);
    for v_status in
        delete from public.incentive_reports where organization_id = p_organization_id and id = any (p_report_ids) returning status
    loop
        v_statuses := v_statuses || v_status;
    end loop;
    perform app.notify_deletions('incentive_reports', p_organization_id, p_report_ids);
    return v_statuses;
end;
$$;

create or replace function api.delete_incentive_report(
    p_organization_id uuid default app.claimed_organization_id(), p_report_id uuid default null
) returns json
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_report public.incentive_reports;
begin
    perform app.authorize(p_organization_id, 'reports:write');
    v_report := app.lock_report(p_organization_id, p_report_id);
    if v_report.status = 'processing'
       or exists (select from public.lookup_leases where organization_id = p_organization_id and job_id = v_report.job_id and not isempty(positions)) then
        perform app.refuse(
            409, 'job_not_ended', 'The report''s job is still running',
            'Cancel the job, or wait until its lookups have finished.');
    end if;
    perform app.count_ended(p_organization_id, -1, null, (app.delete_reports(p_organization_id, array[p_report_id]))[1]);
    return json_build_object('message', 'Report deleted', 'id', p_report_id);
end;
$$;

comment on function api.delete_incentive_report(uuid, uuid) is 'Deletes a report with its sites; the job and its items are kept. 404: no such report in this organization. 409 job_not_ended: its job is still running.';
grant execute on function api.delete_incentive_report(uuid, uuid) to authenticated;
