-- Chapter 94, plans: drops former overloads of the functions above, and sets what functions need on a cluster.

-- An earlier release may have had a function of the same name with other arguments: a call that matches both would be ambiguous.
do $$
declare
    v_function regprocedure;
    v_before   constant bigint := nullif(current_setting('batch_lookups.last_revoked'), '');
begin
    for v_function in
        select former.oid
          from pg_proc former
         where former.pronamespace in ('app'::regnamespace, 'api'::regnamespace)
           and former.pronamespace::regnamespace || '.' || former.proname = any (string_to_array(current_setting('batch_lookups.own_names'), ','))
           and former.xmin = pg_current_xact_id()::xid and former.cmin::text::bigint <= v_before
           and exists (select from pg_proc p
                        where p.pronamespace = former.pronamespace and p.proname = former.proname
                          and p.xmin = pg_current_xact_id()::xid and p.cmin::text::bigint > v_before)
    loop
        execute format('drop function %s', v_function);
    end loop;
end;
$$;

-- Citus replans each call anyway, never frees the plans that it caches, so that connections grow, and refuses some generic plans. So
-- functions that name a distributed table are planned for each call. The others keep their settings.
-- And it writes times for another node in the DateStyle of the session, which that node reads as ISO, MDY: with SQL, DMY, December 2 becomes
-- February 12. So all that callers and pg_cron call has that DateStyle itself.
create or replace function app.adapt_functions() returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_function    regprocedure;
    v_names_table boolean;
    v_is_called   boolean;
    v_tables      constant text := (select string_agg(replace(name, '.', '\.'), '|') from app.distribution() where kind = 'distributed');
begin
    for v_function, v_names_table, v_is_called in
        select f.oid, f.names_table, f.is_called
          from (select p.oid, p.prosrc ~ format('\m(from|join|using|into|update)\s+(only\s+)?(%s)\M', v_tables) as names_table,
                       p.pronamespace = 'api'::regnamespace or p.proname in ('run_maintenance', 'call_worker') as is_called
                  from pg_proc p
                  join pg_language l on l.oid = p.prolang
                 where p.pronamespace in ('app'::regnamespace, 'api'::regnamespace) and l.lanname = 'plpgsql') f
         where f.names_table or f.is_called
    loop
        execute format('alter function %s', v_function)
                || case when v_names_table then ' set plan_cache_mode = force_custom_plan' else '' end
                || case when v_is_called then ' set datestyle = ''ISO, MDY''' else '' end;
    end loop;
end;
$$;

do $$
begin
    if app.has_extension('citus', 'pg_catalog') then
        perform app.adapt_functions();
    end if;
end;
$$;
