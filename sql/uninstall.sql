-- Removes Batch Lookups from a database, with all jobs, items, reports and keys: psql "$DATABASE_URL" -v ON_ERROR_STOP=1 -f sql/uninstall.sql
-- It runs in one transaction, without a superuser. It refuses while objects of your own refer to ours, such as views, foreign keys and
-- policies. Supabase's roles stay, and so do the extensions and the publication supabase_realtime, without our tables.
begin;
set local client_min_messages = warning;
set local lock_timeout = '2s';

do $$
declare
    v_tables  constant regclass[] := array[
        to_regclass('public.lookup_leases'), to_regclass('public.lookup_queue_items'), to_regclass('public.batch_lookup_jobs'),
        to_regclass('public.incentive_report_site_programs'), to_regclass('public.incentive_report_sites'), to_regclass('public.incentive_reports'),
        to_regclass('public.applications'), to_regclass('public.lookup_attempts'), to_regclass('public.lookup_usage'), to_regclass('public.lookup_item_sources'), to_regclass('public.lookup_job_columns'),
        to_regclass('public.batch_lookup_job_labels'), to_regclass('public.lookup_upload_rows'), to_regclass('public.lookup_uploads')];
    v_schemas constant oid[]      := array[to_regnamespace('app')::oid, to_regnamespace('api')::oid];
    v_foreign text;
    v_role    text;
begin
    if to_regclass('app.schema_migrations') is null then
        raise 'Batch Lookups is not installed in this database';
    end if;

    -- Ours are the tables above, and whatever is in app and api.
    with ours as (
        select 'pg_class'::regclass as class, oid from pg_class where oid = any (v_tables) or relnamespace = any (v_schemas)
         union all
        select 'pg_proc'::regclass, oid from pg_proc where pronamespace = any (v_schemas)
         union all
        select 'pg_type'::regclass, oid from pg_type where typnamespace = any (v_schemas) or typrelid = any (v_tables))
    select string_agg(distinct pg_describe_object(d.classid, d.objid, d.objsubid), ', ') into v_foreign
      from ours o
      join pg_depend d on d.refclassid = o.class and d.refobjid = o.oid and d.deptype = 'n'
      left join pg_rewrite r on d.classid = 'pg_rewrite'::regclass and r.oid = d.objid
      left join pg_attrdef a on d.classid = 'pg_attrdef'::regclass and a.oid = d.objid
      left join pg_policy p on d.classid = 'pg_policy'::regclass and p.oid = d.objid
      left join pg_trigger t on d.classid = 'pg_trigger'::regclass and t.oid = d.objid
      left join pg_constraint c on d.classid = 'pg_constraint'::regclass and c.oid = d.objid and c.conrelid <> 0
     cross join lateral (select case when d.classid in ('pg_class'::regclass, 'pg_proc'::regclass) then d.classid else 'pg_class'::regclass end,
                                case when d.classid in ('pg_class'::regclass, 'pg_proc'::regclass) then d.objid
                                     else coalesce(r.ev_class, a.adrelid, p.polrelid, t.tgrelid, c.conrelid) end) s (class, oid)
     where s.oid is not null and (s.class, s.oid) not in (select class, oid from ours);
    if v_foreign is not null then
        raise 'Objects of your own refer to Batch Lookups: %', v_foreign using hint = 'Drop them first.';
    end if;

    -- Schedules and secrets, if those extensions are installed.
    if to_regclass('cron.job') is not null and has_schema_privilege('cron', 'usage') then
        execute $cron$ select cron.unschedule(jobid) from cron.job
                        where jobname in ('batch-lookups-maintenance', 'batch-lookups-retention', 'batch-lookups-worker')
                          and database = current_database() $cron$;
    end if;
    if to_regclass('vault.secrets') is not null and has_table_privilege(to_regclass('vault.secrets')::oid, 'delete') then
        execute $vault$ delete from vault.secrets where name in ('batch_lookups_worker_url', 'batch_lookups_service_role_key') $vault$;
    end if;

    drop schema api, app cascade;
    drop table if exists public.lookup_upload_rows, public.lookup_uploads, public.lookup_attempts, public.lookup_usage, public.batch_lookup_job_labels, public.lookup_item_sources, public.lookup_job_columns, public.lookup_leases, public.lookup_queue_items, public.batch_lookup_jobs, public.incentive_report_site_programs,
                         public.incentive_report_sites, public.incentive_reports, public.applications cascade;

    -- Roles are shared by all databases of the server: another one may still use them.
    foreach v_role in array array['batch_lookups_shell', 'batch_lookups_readonly'] loop
        begin
            execute format('drop role if exists %I', v_role);
        exception
            when dependent_objects_still_exist or insufficient_privilege or object_in_use then
                raise warning 'The role % stays: %', v_role, sqlerrm;
        end;
    end loop;
end;
$$;

commit;
