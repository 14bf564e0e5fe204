-- Chapter 59, plans: the statements that run for every claim and every flush of outcomes are planned once a connection, and by index
-- whatever the statistics say. A queue's statistics are always out of date: an hour ago the table was empty, or full.

do $$
declare
    v_function regprocedure;
begin
    foreach v_function in array array[
        'app.enqueue_items(uuid, uuid, app.batch_item[], timestamptz)',
        'app.lease_items(uuid, text, integer, uuid, bigint, timestamptz, timestamptz)',
        'app.queue_ahead(uuid, timestamptz)',
        'app.expire_leases(uuid, timestamptz)',
        'app.watch_upstream(uuid, app.lookup_outcome[], timestamptz)',
        'app.apply_outcomes(uuid, app.lookup_outcome[], boolean, timestamptz)',
        'app.count_outcomes(uuid, public.lookup_queue_items[], timestamptz)',
        'app.cancel_pending_items(uuid, uuid, timestamptz)',
        'api.extend_leases(uuid, text, uuid[], uuid[])',
        'api.release_lookups(uuid, text, uuid[], uuid[])',
        'api.record_lookups(uuid, text, uuid[], uuid[], integer[], text[], text[], double precision[])']::regprocedure[]
    loop
        execute format('alter function %s set plan_cache_mode = force_generic_plan', v_function);
        execute format('alter function %s set enable_seqscan = off', v_function);
        execute format('alter function %s set enable_bitmapscan = off', v_function);
        execute format('alter function %s set enable_hashjoin = off', v_function);
        execute format('alter function %s set enable_mergejoin = off', v_function);
        execute format('alter function %s set enable_sort = off', v_function);
    end loop;
end;
$$;
