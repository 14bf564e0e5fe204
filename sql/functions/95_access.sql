-- Chapter 95, access: who may call and see what. Everything is taken away first.

do $$
declare
    v_role text;
begin
    -- Roles by Supabase's conventions, and the role of the Python shell; each made only where it is missing.
    foreach v_role in array array['anon', 'authenticated', 'service_role', 'batch_lookups_shell'] loop
        if not exists (select from pg_roles where rolname = v_role) then
            begin
                execute format('create role %I nologin noinherit', v_role);
            exception
                -- Roles belong to the whole cluster: another database's deploy may have just made it.
                when duplicate_object or unique_violation then null;
            end;
        end if;
    end loop;
    if not pg_has_role(current_user, 'batch_lookups_shell', 'member') then
        execute format('grant batch_lookups_shell to %I', current_user);
    end if;
end;
$$;

-- The organization that the claims of the caller's token name; null where they name none. Never raises: one policy that does stops
-- Supabase Realtime for every tenant.
create or replace function app.claimed_organization_id() returns uuid
language plpgsql stable
set search_path = ''
as $$
begin
    return (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'organization_id')::uuid;
exception
    when data_exception or statement_too_complex or program_limit_exceeded then
        return null;
end;
$$;

-- Makes a policy, or makes it anew when its condition has changed, which its comment tells. Otherwise nothing is locked: deploys come while
-- the tables are in use.
create or replace function app.let_members_read(p_table regclass, p_policy text) returns void
language plpgsql volatile
set search_path = ''
as $$
declare
    v_condition constant text := 'organization_id = (select app.claimed_organization_id())';
begin
    if not (select relrowsecurity from pg_catalog.pg_class where oid = p_table) then
        execute format('alter table %s enable row level security', p_table);
    end if;
    if not exists (select from pg_catalog.pg_policy
                    where polrelid = p_table and polname = p_policy and obj_description(oid, 'pg_policy') = v_condition) then
        execute format('drop policy if exists %I on %s', p_policy, p_table);
        execute format('create policy %I on %s for select to authenticated using (%s)', p_policy, p_table, v_condition);
        execute format('comment on policy %I on %s is %L', p_policy, p_table, v_condition);
    end if;
end;
$$;

revoke all on schema app, api from public;
revoke all on all functions in schema app, api from public;
revoke all on all tables in schema app, api from public;

grant usage on schema api to batch_lookups_shell, service_role;
grant execute on all functions in schema api to batch_lookups_shell, service_role;

grant usage on schema app to authenticated;
grant execute on function app.claimed_organization_id() to authenticated;

select app.let_members_read(t.name, t.policy)
  from (values ('public.batch_lookup_jobs'::regclass, 'members read their organization''s jobs'),
               ('public.lookup_queue_items', 'members read their organization''s items'),
               ('public.incentive_reports', 'members read their organization''s reports'),
               ('public.incentive_report_sites', 'members read their organization''s report sites'),
               ('public.incentive_report_site_programs', 'members read their organization''s site programs')) t (name, policy);

revoke all on public.batch_lookup_jobs, public.lookup_queue_items, public.incentive_reports, public.incentive_report_sites,
              public.incentive_report_site_programs
  from anon, authenticated;
grant select on public.batch_lookup_jobs, public.lookup_queue_items, public.incentive_reports, public.incentive_report_sites,
                public.incentive_report_site_programs
   to authenticated, service_role;

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
