-- Chapter 70, applications: created by lookups, moved from status to status by the organization.

-- Files one application for each program that the customer is eligible for by the result. Filing again only updates the program's name and
-- the amount of an open one. The order prevents deadlocks between two lookups of a customer.
create or replace function app.file_applications(
    p_organization_id uuid, p_customer_id bigint, p_reference_id text, p_result jsonb, p_now timestamptz
) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into public.applications as a
           (organization_id, customer_id, reference_id, program_id, program_name, total_incentive, created_at, updated_at)
    select p_organization_id, p_customer_id, p_reference_id, p.program_id, p.program_name, p.total_incentive, p_now, p_now
      from app.result_programs(p_result) p
     order by p.program_id
        on conflict (organization_id, customer_id, program_id) do update
       set (program_name, total_incentive, updated_at) = (excluded.program_name, excluded.total_incentive, excluded.updated_at)
     where a.application_status not in ('submitted', 'approved', 'rejected')
       and (a.program_name, a.total_incentive) is distinct from (excluded.program_name, excluded.total_incentive);
end;
$$;

-- Files the applications of completed items that ask for them, in the transaction that completes them, whichever provider answered.
create or replace function app.file_item_applications(p_organization_id uuid, p_items public.lookup_queue_items[], p_now timestamptz) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_item public.lookup_queue_items;
begin
    for v_item in select * from unnest(p_items) i where i.create_application and i.status = 'completed' order by i.reference_id loop
        perform app.file_applications(p_organization_id, app.customer_id(p_organization_id, v_item.reference_id, p_now), v_item.reference_id,
                                      v_item.parsed_result, p_now);
    end loop;
end;
$$;

create or replace function app.next_application_statuses(p_status text) returns text[]
language sql immutable
return case p_status
    when 'not_started'      then array['in_progress']
    when 'in_progress'      then array['awaiting_partner']
    when 'awaiting_partner' then array['completed']
    when 'completed'        then array['submitted']
    when 'submitted'        then array['approved', 'rejected']
    else '{}' end;

create or replace function app.application_json(p_application public.applications) returns json
language sql stable
as $$
    select json_build_object(
        'id', (p_application).id,
        'customer_id', (p_application).customer_id,
        'reference_id', (p_application).reference_id,
        'program_id', (p_application).program_id,
        'program_name', (p_application).program_name,
        'application_status', (p_application).application_status,
        'next_statuses', app.next_application_statuses((p_application).application_status),
        'total_incentive', round((p_application).total_incentive, 2),
        'created_at', app.rfc3339((p_application).created_at),
        'updated_at', app.rfc3339((p_application).updated_at),
        'submitted_at', app.rfc3339((p_application).submitted_at),
        'decided_at', app.rfc3339((p_application).decided_at)
    )
$$;

create or replace function api.list_applications(
    p_organization_id uuid default app.claimed_organization_id(), p_reference_id text default null, p_application_status text default null,
    p_limit integer default 50, p_offset integer default 0, p_cursor text default null
) returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan set jit = off
as $$
declare
    v_cursor       app.page_cursor;
    v_applications public.applications[];
begin
    perform app.authorize(p_organization_id, 'applications:read');
    perform app.check_choice('application_status', p_application_status, array['not_started', 'in_progress', 'awaiting_partner', 'completed',
                                                                               'submitted', 'approved', 'rejected']);
    v_cursor := app.read_page(p_cursor, 'applications', p_limit, p_offset, 200);
    select coalesce(array_agg(row(a.*)::public.applications), '{}') into v_applications
      from (select *
              from public.applications
             where organization_id = p_organization_id
               and (p_reference_id is null or reference_id = p_reference_id)
               and (p_application_status is null or application_status = p_application_status)
               and (p_cursor is null or id < v_cursor.number)
             order by id desc
             limit p_limit + 1 offset p_offset) a;
    return json_build_object(
        'applications', (select coalesce(json_agg(app.application_json(a) order by a.id desc), '[]') from unnest(v_applications[:p_limit]) a),
        'total', (select count(*)
                    from public.applications
                   where organization_id = p_organization_id
                     and (p_reference_id is null or reference_id = p_reference_id)
                     and (p_application_status is null or application_status = p_application_status)),
        'limit', p_limit,
        'offset', p_offset,
        'next_cursor', case when cardinality(v_applications) > p_limit
                            then app.cursor(row('applications', null, null, null, null, null, v_applications[p_limit].id)) end);
end;
$$;

comment on function api.list_applications(uuid, text, text, integer, integer, text) is
'The applications of an organization, newest first: {applications, total, limit, offset, next_cursor}. Optional: reference_id; status; p_cursor, the next_cursor of the page before. Amounts in US dollars. 400: an unknown status, limit not in 1 to 200, invalid_cursor, cursor_with_offset.';
grant execute on function api.list_applications(uuid, text, text, integer, integer, text) to authenticated;

create or replace function app.find_application(p_organization_id uuid, p_application_id bigint) returns public.applications
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_application public.applications;
begin
    select * into v_application from public.applications where organization_id = p_organization_id and id = p_application_id;
    if not found then
        perform app.refuse(
            404, 'application_not_found', 'Application not found',
            app.hint_for_caller(null, 'select api.list_applications(organization) lists them.'));
    end if;
    return v_application;
end;
$$;

create or replace function api.get_application(
    p_organization_id uuid default app.claimed_organization_id(), p_application_id bigint default null
) returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform app.authorize(p_organization_id, 'applications:read');
    return app.application_json(app.find_application(p_organization_id, p_application_id));
end;
$$;

comment on function api.get_application(uuid, bigint) is 'One application; next_statuses lists the statuses that may follow. 404: no such application in this organization.';
grant execute on function api.get_application(uuid, bigint) to authenticated;

create or replace function api.update_application(
    p_organization_id uuid default app.claimed_organization_id(), p_application_id bigint default null,
    p_changes jsonb default null, p_dry_run boolean default false
) returns json
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now         timestamptz;
    v_status      text;
    v_application public.applications;
begin
    perform app.authorize(p_organization_id, 'applications:write');
    perform app.check_json(p_changes);
    v_status := p_changes ->> 'application_status';
    if jsonb_typeof(p_changes) is distinct from 'object' or v_status is null or p_changes <> jsonb_build_object('application_status', v_status) then
        perform app.refuse(
            400, 'invalid_application', 'The body must be an object with application_status',
            '{"application_status": "in_progress"}');
    end if;
    perform app.check_choice('application_status', v_status, array['not_started', 'in_progress', 'awaiting_partner', 'completed', 'submitted',
                                                                   'approved', 'rejected']);

    perform from public.applications where organization_id = p_organization_id and id = p_application_id for update;
    v_application := app.find_application(p_organization_id, p_application_id);
    v_now := app.clock();
    if v_status <> v_application.application_status then
        if v_status <> all (app.next_application_statuses(v_application.application_status)) then
            perform app.refuse(
                409, 'invalid_transition', format('An application cannot go from %s to %s', v_application.application_status, v_status),
                coalesce('From there it goes to '
                         || nullif(array_to_string(app.next_application_statuses(v_application.application_status), ' or '), '') || '.',
                         'It has been decided.'),
                json_build_object('next_statuses', app.next_application_statuses(v_application.application_status)));
        end if;
        v_application.application_status := v_status;
        v_application.updated_at         := v_now;
        v_application.submitted_at       := case when v_status = 'submitted' then v_now else v_application.submitted_at end;
        v_application.decided_at         := case when v_status in ('approved', 'rejected') then v_now end;
        if p_dry_run is not true then
            update public.applications
               set application_status = v_application.application_status,
                   updated_at         = v_application.updated_at,
                   submitted_at       = v_application.submitted_at,
                   decided_at         = v_application.decided_at
             where organization_id = p_organization_id and id = p_application_id;
        end if;
    end if;
    return app.application_json(v_application);
end;
$$;

comment on function api.update_application(uuid, bigint, jsonb, boolean) is
'Changes the status of an application, {"application_status": ...}: not_started, in_progress, awaiting_partner, completed, submitted, then approved or rejected; setting the current status changes nothing. p_dry_run returns the result without storing it. 400: invalid_application. 404: no such application in this organization. 409 invalid_transition: that status cannot follow.';
grant execute on function api.update_application(uuid, bigint, jsonb, boolean) to authenticated;
