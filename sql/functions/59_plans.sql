-- Chapter 59, plans: the statements that run for every claim and every flush of outcomes are planned once a connection, and by index
-- whatever the statistics say. A queue's statistics are always out of date: an hour ago the table was empty, or full. And so may the plan
-- be, made when the table was tiny and anything was cheap. So what changes items changes those of one job at a time, between two positions,
-- which is how they are found whatever the plan; and apply_outcomes hashes what it changes them to.

do $$
declare
    v_function regprocedure;
begin
    foreach v_function in array array[
        'app.enqueue_items(uuid, uuid, app.batch_item[], timestamptz)',
        'app.take_due_items(uuid, integer, timestamptz)',
        'app.take_new_items(uuid, integer)',
        'app.queue_ahead(uuid, timestamptz)',
        'app.hold_leases(uuid, uuid[], uuid[])',
        'app.end_leases(uuid, public.lookup_leases[], public.lookup_queue_items[])',
        'app.expire_leases(uuid, timestamptz)',
        'app.watch_upstream(uuid, app.lookup_outcome[], timestamptz)',
        'app.hold_outcome_leases(uuid, app.lookup_outcome[])',
        'app.apply_outcomes(uuid, app.lookup_outcome[], public.lookup_leases[], boolean, timestamptz)',
        'app.count_outcomes(uuid, public.lookup_queue_items[], timestamptz)',
        'app.cancel_pending_items(uuid, uuid, timestamptz)',
        'api.extend_leases(uuid, text, uuid[], integer[], uuid[])',
        'api.release_lookups(uuid, text, uuid[], integer[], uuid[])',
        'api.record_lookups(uuid, text, uuid[], integer[], uuid[], integer[], text[], text[], double precision[])']::regprocedure[]
    loop
        execute format('alter function %s set plan_cache_mode = force_generic_plan', v_function);
        execute format('alter function %s set enable_seqscan = off', v_function);
        execute format('alter function %s set enable_bitmapscan = off', v_function);
        execute format('alter function %s set enable_hashjoin = off', v_function);
        execute format('alter function %s set enable_mergejoin = off', v_function);
        execute format('alter function %s set enable_sort = off', v_function);
    end loop;
    alter function app.apply_outcomes(uuid, app.lookup_outcome[], public.lookup_leases[], boolean, timestamptz) set enable_hashjoin = on;
    alter function app.apply_outcomes(uuid, app.lookup_outcome[], public.lookup_leases[], boolean, timestamptz) set enable_nestloop = off;
end;
$$;
