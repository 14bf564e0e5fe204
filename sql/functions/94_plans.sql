-- Chapter 94, plans: drops former overloads of the functions above, and sets how functions are planned on a cluster.

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
create or replace function app.plan_each_call() returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_function regprocedure;
    v_tables   constant text := (select string_agg(replace(name, '.', '\.'), '|') from app.distribution() where kind = 'distributed');
begin
    for v_function in
        select p.oid
          from pg_proc p
          join pg_language l on l.oid = p.prolang
         where p.pronamespace in ('app'::regnamespace, 'api'::regnamespace) and l.lanname = 'plpgsql'
           and p.prosrc ~ format('\m(from|join|using|into|update)\s+(only\s+)?(%s)\M', v_tables)
    loop
        execute format('alter function %s set plan_cache_mode = force_custom_plan', v_function);
    end loop;
end;
$$;

do $$
begin
    if app.has_extension('citus', 'pg_catalog') then
        perform app.plan_each_call();
    end if;
end;
$$;
