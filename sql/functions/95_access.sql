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

revoke all on schema app, api from public;
revoke all on all functions in schema app, api from public;
revoke all on all tables in schema app, api from public;
alter default privileges in schema app, api revoke execute on functions from public;

grant usage on schema api to batch_lookups_shell, service_role;
grant execute on all functions in schema api to batch_lookups_shell, service_role;

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

grant usage on schema app to authenticated;
grant execute on function app.claimed_organization_id() to authenticated;

alter table public.batch_lookup_jobs enable row level security;
alter table public.lookup_queue_items enable row level security;
alter table public.incentive_reports enable row level security;
alter table public.incentive_report_sites enable row level security;
alter table public.incentive_report_site_programs enable row level security;

drop policy if exists "members read their organization's jobs" on public.batch_lookup_jobs;
create policy "members read their organization's jobs" on public.batch_lookup_jobs
    for select to authenticated using (organization_id = (select app.claimed_organization_id()));
drop policy if exists "members read their organization's items" on public.lookup_queue_items;
create policy "members read their organization's items" on public.lookup_queue_items
    for select to authenticated using (organization_id = (select app.claimed_organization_id()));
drop policy if exists "members read their organization's reports" on public.incentive_reports;
create policy "members read their organization's reports" on public.incentive_reports
    for select to authenticated using (organization_id = (select app.claimed_organization_id()));
drop policy if exists "members read their organization's report sites" on public.incentive_report_sites;
create policy "members read their organization's report sites" on public.incentive_report_sites
    for select to authenticated using (organization_id = (select app.claimed_organization_id()));
drop policy if exists "members read their organization's site programs" on public.incentive_report_site_programs;
create policy "members read their organization's site programs" on public.incentive_report_site_programs
    for select to authenticated using (organization_id = (select app.claimed_organization_id()));

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
