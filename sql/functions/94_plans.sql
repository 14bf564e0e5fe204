-- Chapter 94, plans: what the functions above set for them, where another planner comes first.

-- Citus replaces parameters by their values before it looks for the node, so it refuses a generic plan.
create or replace function app.free_plans() returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_function regprocedure;
begin
    for v_function in
        select oid
          from pg_proc
         where pronamespace in ('app'::regnamespace, 'api'::regnamespace) and 'plan_cache_mode=force_generic_plan' = any (proconfig)
    loop
        execute format('alter function %s reset plan_cache_mode', v_function);
    end loop;
end;
$$;

do $$
begin
    if app.has_extension('citus', 'pg_catalog') then
        perform app.free_plans();
    end if;
end;
$$;
