-- Chapter 95, access: who may call and see what. Everything is taken away first.

do $$
declare
    v_role text;
    v_as   text;
begin
    -- Roles by Supabase's conventions, and the role of the Python shell; each made only where it is missing.
    for v_role, v_as in values ('anon', 'nologin noinherit'), ('authenticated', 'nologin noinherit'), ('service_role', 'nologin noinherit'),
                               ('authenticator', 'nologin noinherit'), ('batch_lookups_shell', 'nologin noinherit')
    loop
        if exists (select from pg_roles where rolname = v_role) then
            continue;
        end if;
        begin
            -- service_role passes by all policies, where we may say so.
            if v_role = 'service_role' and (select rolsuper or rolbypassrls and rolcreaterole from pg_roles where rolname = current_user) then
                v_as := v_as || ' bypassrls';
            end if;
            execute format('create role %I %s', v_role, v_as);
            -- PostgREST logs in as authenticator, and becomes what the token says.
            if v_role = 'authenticator' then
                grant anon, authenticated, service_role to authenticator;
            end if;
        exception
            -- Roles belong to the whole cluster: another database's deploy may have just made it.
            when duplicate_object or unique_violation then null;
        end;
    end loop;
    if not pg_has_role(current_user, 'batch_lookups_shell', 'usage') then
        execute format('grant batch_lookups_shell to %I', current_user);
    end if;
    -- The shell reads on behalf of subscribers as they would.
    if not pg_has_role('batch_lookups_shell', 'authenticated', 'member') then
        begin
            grant authenticated to batch_lookups_shell;
        exception
            when insufficient_privilege then
                raise warning 'batch_lookups_shell is no member of authenticated: the API cannot serve /realtime/v1/websocket here';
        end;
    end if;
end;
$$;

revoke all on schema app, api from public;
revoke all on all functions in schema app, api from public, anon, authenticated;
revoke all on all tables in schema app, api from public, anon, authenticated;

grant usage on schema api to batch_lookups_shell, authenticated, service_role;
grant execute on all functions in schema api to batch_lookups_shell, service_role;

grant select on api.jobs, api.items, api.reports, api.report_sites, api.sites to authenticated, service_role;
grant select on api.queue_health to service_role;

-- What policies and defaults call.
grant usage on schema app to batch_lookups_shell, authenticated, service_role;
grant execute on function app.claimed_organization_id() to batch_lookups_shell, authenticated, service_role;
grant execute on function app.organization_id_of_claims(jsonb), app.organization_id_of_clerk(text) to batch_lookups_shell, authenticated, service_role;

-- Members call the functions that check whom they speak for, and those that run with the caller's own rights.
do $$
declare
    v_function regprocedure;
begin
    for v_function in
        select oid from pg_proc
         where pronamespace = 'api'::regnamespace and (not prosecdef or prosrc like '%perform app.authorize(p\_organization\_id);%')
    loop
        execute format('grant execute on function %s to authenticated', v_function);
    end loop;
end;
$$;

-- Members read the rows of their organization; service_role reads all; nobody writes but through functions. A policy is total: it
-- reads the claims and no table, and cannot fail. Only what differs is touched, because that takes the table away from everybody.
do $$
declare
    v_table  regclass;
    v_policy record;
begin
    for v_table in
        select format('public.%I', t)::regclass
          from unnest(array['batch_lookup_jobs', 'lookup_queue_items', 'lookup_leases', 'incentive_reports', 'incentive_report_sites',
                            'incentive_report_site_programs', 'applications']) t
    loop
        execute format('revoke all on %s from public, anon, authenticated, service_role', v_table);
        execute format('grant select on %s to authenticated, service_role', v_table);
        if not (select relrowsecurity from pg_class where oid = v_table) then
            execute format('alter table %s enable row level security', v_table);
        end if;
        for v_policy in
            select *
              from (values ('members read the rows of their organization', 'authenticated', '(organization_id = app.claimed_organization_id())'),
                           ('service_role reads all', 'service_role', 'true')) p (name, role, condition)
             where not exists (select from pg_policy
                                where polrelid = v_table and polname = p.name and polroles = array[p.role::regrole::oid]
                                  and pg_get_expr(polqual, polrelid) = p.condition)
        loop
            execute format('drop policy if exists %I on %s', v_policy.name, v_table);
            execute format('create policy %I on %s for select to %I using (%s)', v_policy.name, v_table, v_policy.role, v_policy.condition);
        end loop;
    end loop;
end;
$$;

-- What Realtime may send: jobs and reports, never items.
do $$
declare
    v_table text;
begin
    if not exists (select from pg_publication where pubname = 'supabase_realtime') then
        create publication supabase_realtime;
    end if;
    foreach v_table in array array['batch_lookup_jobs', 'incentive_reports'] loop
        if not exists (select from pg_publication_tables
                        where pubname = 'supabase_realtime' and schemaname = 'public' and tablename = v_table) then
            execute format('alter publication supabase_realtime add table public.%I', v_table);
        end if;
    end loop;
end;
$$;
