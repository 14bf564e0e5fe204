-- Chapter 60, reports: made with the job, filled with every completed item, closed with the job.

create or replace function app.create_report(p_organization_id uuid, p_job public.batch_lookup_jobs) returns public.incentive_reports
language plpgsql volatile
set search_path = ''
as $$
declare
    v_report public.incentive_reports;
begin
    insert into public.incentive_reports (organization_id, id, job_id, name, description, created_at, updated_at)
    values (p_organization_id, p_job.report_id, p_job.id,
            format('Batch Lookup - %s (%s sites)', to_char(p_job.created_at at time zone 'UTC', 'YYYY-MM-DD'), p_job.total_items),
            format('Incentives found by a batch lookup of %s site(s)', p_job.total_items),
            p_job.created_at, p_job.created_at)
    returning * into v_report;
    return v_report;
end;
$$;

-- Readers of an answer that may hold anything: a number in dollars that is none, or out of bounds, counts as none.
create or replace function app.amount(p_value jsonb) returns numeric
language sql immutable
return case when jsonb_typeof(p_value) = 'number' and p_value >= '0' and p_value < '1e12' then round((p_value #>> '{}')::numeric, 2) else 0 end;

create or replace function app.elements(p_value jsonb) returns jsonb
language sql immutable
return case when jsonb_typeof(p_value) = 'array' then p_value else '[]' end;

create or replace function app.result_amount(p_result jsonb) returns numeric
language sql immutable
return app.amount(p_result #> '{incentives,total_incentive_amount}');

create or replace function app.result_is_eligible(p_result jsonb) returns boolean
language sql immutable
return app.amount(p_result #> '{incentives,total_eligible_combinations}') > 0 or app.amount(p_result #> '{incentives,total_incentive_amount}') > 0;

-- Completed items become sites with their programs, in the transaction that completes them.
create or replace function app.add_report_sites(p_organization_id uuid, p_items public.lookup_queue_items[], p_now timestamptz) returns void
language plpgsql volatile
set search_path = ''
as $$
begin
    insert into public.incentive_report_sites
           (organization_id, report_id, position, item_id, reference_id, street_1, street_2, city, state_or_province_code, postal_code,
            country_code, building_type, device_categories, utility_eiaid, utility_name, eligible, total_incentive_amount, created_at)
    select p_organization_id, j.report_id, i.position, i.id, i.reference_id, i.address ->> 'street_1', i.address ->> 'street_2',
           i.address ->> 'city', i.address ->> 'state_or_province_code', i.address ->> 'postal_code', i.address ->> 'country_code',
           i.building_type, array(select distinct d.category_key from app.devices d where d.id = any (i.device_ids) order by 1),
           i.result #>> '{utility,eiaid}', i.result #>> '{utility,name}',
           app.result_is_eligible(i.result), app.result_amount(i.result), p_now
      from unnest(p_items) i
      join public.batch_lookup_jobs j on j.organization_id = p_organization_id and j.id = i.job_id
     where i.status = 'completed';

    insert into public.incentive_report_site_programs
           (organization_id, report_id, position, program_id, program_name, total_incentive, eligible_combinations)
    select p_organization_id, j.report_id, i.position, p.value ->> 'program_id', coalesce(max(p.value ->> 'program_name'), ''),
           sum(app.amount(p.value -> 'total_incentive')), sum(least(app.amount(p.value -> 'eligible_combinations'), 1000000))
      from unnest(p_items) i
      join public.batch_lookup_jobs j on j.organization_id = p_organization_id and j.id = i.job_id
     cross join jsonb_array_elements(app.elements(i.result #> '{incentives,by_program}')) p
     where i.status = 'completed'
       and p.value ->> 'program_id' is not null
       and (app.amount(p.value -> 'total_incentive') > 0 or app.amount(p.value -> 'eligible_combinations') > 0)
     group by j.report_id, i.position, p.value ->> 'program_id';
end;
$$;

-- Adds what a flush brought, and closes the report of a job that has ended: complete with the sites it has, error without any.
create or replace function app.update_report(
    p_organization_id uuid, p_job_id uuid, p_now timestamptz, p_sites integer default 0, p_eligible_sites integer default 0, p_value numeric default 0
) returns void
language plpgsql volatile
set search_path = ''
as $$
declare
    v_ended_at timestamptz := (select completed_at from public.batch_lookup_jobs where organization_id = p_organization_id and id = p_job_id);
begin
    update public.incentive_reports
       set total_sites           = total_sites + p_sites,
           eligible_sites        = eligible_sites + p_eligible_sites,
           total_incentive_value = total_incentive_value + p_value,
           status                = case when v_ended_at is null then 'processing'
                                        when total_sites + p_sites > 0 then 'complete'
                                        else 'error' end,
           completed_at          = v_ended_at,
           updated_at            = p_now
     where organization_id = p_organization_id and job_id = p_job_id;
end;
$$;

create or replace function app.report_json(p_report public.incentive_reports) returns json
language sql stable
return json_build_object(
    'id', (p_report).id,
    'job_id', (p_report).job_id,
    'name', (p_report).name,
    'description', (p_report).description,
    'status', (p_report).status,
    'report_type', (p_report).report_type,
    'total_sites', (p_report).total_sites,
    'eligible_sites', (p_report).eligible_sites,
    'total_incentive_value', (p_report).total_incentive_value,
    'created_at', app.rfc3339((p_report).created_at),
    'completed_at', app.rfc3339((p_report).completed_at)
);

create or replace function api.list_incentive_reports(
    p_organization_id uuid default app.claimed_organization_id(), p_status text default null, p_limit integer default 20, p_offset integer default 0
) returns json
language plpgsql stable security definer
set search_path = ''
as $$
begin
    perform app.authorize(p_organization_id);
    perform app.check_page(p_limit, p_offset, 200);
    perform app.check_choice('status', p_status, array['processing', 'complete', 'error']);
    return json_build_object(
        'reports', (select coalesce(json_agg(app.report_json(r) order by r.created_at desc, r.id desc), '[]')
                      from (select *
                              from public.incentive_reports
                             where organization_id = p_organization_id and (p_status is null or status = p_status)
                             order by created_at desc, id desc
                             limit p_limit offset p_offset) r),
        'total', (select count(*)
                    from public.incentive_reports
                   where organization_id = p_organization_id and (p_status is null or status = p_status)),
        'limit', p_limit,
        'offset', p_offset);
end;
$$;

comment on function api.list_incentive_reports(uuid, text, integer, integer) is 'The reports of an organization, newest first: {reports, total, limit, offset}. Amounts in US dollars. 400: an unknown status, limit not in 1 to 200.';

create or replace function app.site_json(p_site public.incentive_report_sites) returns json
language plpgsql stable
set search_path = ''
as $$
begin
    return json_build_object(
        'item_id', p_site.item_id,
        'reference_id', p_site.reference_id,
        'address', json_strip_nulls(json_build_object(
            'street_1', p_site.street_1, 'street_2', p_site.street_2, 'city', p_site.city,
            'state_or_province_code', p_site.state_or_province_code, 'postal_code', p_site.postal_code, 'country_code', p_site.country_code)),
        'building_type', p_site.building_type,
        'device_categories', p_site.device_categories,
        'utility', json_build_object('eiaid', p_site.utility_eiaid, 'name', p_site.utility_name),
        'eligible', p_site.eligible,
        'total_incentive_amount', p_site.total_incentive_amount,
        'programs', (select coalesce(json_agg(json_build_object(
                                'program_id', p.program_id, 'program_name', p.program_name, 'total_incentive', p.total_incentive,
                                'eligible_combinations', p.eligible_combinations) order by p.total_incentive desc, p.program_id), '[]')
                       from public.incentive_report_site_programs p
                      where p.organization_id = p_site.organization_id and p.report_id = p_site.report_id and p.position = p_site.position));
end;
$$;

create or replace function api.get_incentive_report(
    p_organization_id uuid, p_report_id uuid, p_limit integer default 100, p_offset integer default 0
) returns json
language plpgsql stable security definer
set search_path = ''
as $$
declare
    v_report public.incentive_reports;
begin
    perform app.authorize(p_organization_id);
    perform app.check_page(p_limit, p_offset, 500);
    select * into v_report
      from public.incentive_reports
     where organization_id = p_organization_id and id = p_report_id;
    if not found then
        raise sqlstate 'PT404' using message = 'Report not found', constraint = 'report_exists';
    end if;
    return (app.report_json(v_report)::jsonb || jsonb_build_object(
        'sites', (select coalesce(jsonb_agg(app.site_json(s) order by s.position), '[]')
                    from (select *
                            from public.incentive_report_sites
                           where organization_id = p_organization_id and report_id = p_report_id
                           order by position
                           limit p_limit offset p_offset) s),
        'total', v_report.total_sites,
        'limit', p_limit,
        'offset', p_offset))::json;
end;
$$;

comment on function api.get_incentive_report(uuid, uuid, integer, integer) is 'One report with a page of its sites, in upload order, and the programs of each. Amounts in US dollars. 400: limit not in 1 to 500. 404: no such report in this organization.';
