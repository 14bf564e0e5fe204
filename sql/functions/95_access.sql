-- Chapter 95, access: what operators and the shell may call, and who may read which rows.

-- PUBLIC may execute new functions by default.
do $$
declare
    v_function record;
begin
    for v_function in
        select oid::regprocedure as signature, pronamespace = 'api'::regnamespace as is_api
          from pg_proc
         where pronamespace in ('app'::regnamespace, 'api'::regnamespace)
           and pronamespace::regnamespace || '.' || proname = any (string_to_array(current_setting('batch_lookups.own_names'), ','))
    loop
        execute format('revoke all on function %s from public', v_function.signature);
        if v_function.is_api then
            execute format('grant execute on function %s to batch_lookups_shell, service_role', v_function.signature);
        end if;
    end loop;
end;
$$;

-- Members read the rows of their organization, service_role and dashboards read all, and only functions write. A policy is total: it reads
-- only the claims and cannot fail. Only policies that differ are replaced, because that locks the table exclusively.
do $$
declare
    v_table  regclass;
    v_policy record;
begin
    for v_table in
        select format('public.%I', t)::regclass
          from unnest(array['batch_lookup_jobs', 'lookup_queue_items', 'lookup_leases', 'lookup_attempts', 'lookup_usage', 'lookup_job_columns', 'lookup_item_sources', 'batch_lookup_job_labels',
                            'lookup_uploads', 'lookup_upload_rows', 'incentive_reports',
                            'incentive_report_sites', 'incentive_report_site_programs', 'applications']) t
         union all
        select unnest(array['app.work_minutes', 'app.audit_events']::regclass[])
    loop
        execute format('revoke all on %s from public, anon, authenticated, service_role, batch_lookups_readonly', v_table);
        execute format('grant select on %s to service_role', v_table);
        -- A worker's name contains its host and process: members see only what api.items shows of leases.
        execute format('grant select%s on %s to authenticated',
                       case v_table when 'public.lookup_leases'::regclass then ' (organization_id, job_id, positions, expires_at)' end, v_table);
        if not (select relrowsecurity from pg_class where oid = v_table) then
            execute format('alter table %s enable row level security', v_table);
        end if;
        for v_policy in
            select *
              from (values (case v_table when 'app.audit_events'::regclass then 'admins' else 'members' end || ' read the rows of their organization',
                            'authenticated',
                            case v_table when 'app.audit_events'::regclass then '(organization_id = app.claimed_admin_organization_id())'
                                         else '(organization_id = app.claimed_organization_id())' end),
                           ('service_role reads all', 'service_role', 'true'),
                           ('dashboards read all', 'batch_lookups_readonly', 'true')) p (name, role, condition)
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

-- Dashboards select only from views. Views that run with the reader's rights need the columns that they show, and no others.
do $$
declare
    v_table record;
begin
    for v_table in
        select oid::regclass as name, relnamespace = 'api'::regnamespace as is_api
          from pg_class
         where relnamespace in ('app'::regnamespace, 'api'::regnamespace) and relkind in ('r', 'p', 'v')
           and relnamespace::regnamespace || '.' || relname = any (string_to_array(current_setting('batch_lookups.own_names'), ','))
    loop
        execute format('revoke all on %s from batch_lookups_readonly', v_table.name);
        if v_table.is_api then
            execute format('grant select on %s to batch_lookups_readonly', v_table.name);
        end if;
    end loop;
end;
$$;
do $$
declare
    v_table   regclass;
    v_columns text;
begin
    for v_table, v_columns in
        select a.attrelid::regclass, string_agg(distinct quote_ident(a.attname), ', ')
          from pg_rewrite r
          join pg_class v on v.oid = r.ev_class and v.relnamespace = 'api'::regnamespace and v.reloptions @> array['security_invoker=true']
          join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid and d.refclassid = 'pg_class'::regclass
          join pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid and a.attnum > 0 and a.attrelid <> v.oid
         group by a.attrelid
    loop
        execute format('grant select (%s) on %s to batch_lookups_readonly', v_columns, v_table);
    end loop;
end;
$$;

-- Only functions use sequences.
revoke all on sequence public.applications_id_seq, app.customers_id_seq from public, anon, authenticated, service_role;

-- Realtime may publish jobs and reports, never items.
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

-- Restores the default privileges that chapter 05 revoked.
do $$
begin
    execute current_setting('batch_lookups.default_privileges');
end;
$$;
