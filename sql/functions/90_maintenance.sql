-- Chapter 90, maintenance: runs every minute, by pg_cron or by a worker. It repairs and prunes; normal operation does not depend on it.

-- The last organization that a round has reached, locked until the commit; a random id while another transaction has it locked.
create or replace function app.last_of_round(p_round text) returns uuid
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    return coalesce((select last_id from app.maintenance_rounds where round = p_round for update skip locked), gen_random_uuid());
end;
$$;

-- Up to p_count of some organizations, so that each gets its turn: those after the last one of the round.
create or replace function app.in_turn(p_round text, p_organization_ids uuid[], p_count integer) returns uuid[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_after uuid;
begin
    if cardinality(p_organization_ids) <= p_count then
        return p_organization_ids;
    end if;
    v_after := app.last_of_round(p_round);
    return array(select u.id from unnest(p_organization_ids) u (id) order by u.id <= v_after, u.id limit p_count);
end;
$$;

-- The same for all organizations: p_least at a time, or more if a round would otherwise take more than p_runs.
create or replace function app.organizations_in_turn(p_round text, p_least integer default 25, p_runs integer default 60) returns uuid[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp set enable_seqscan = off
as $$
declare
    v_count            integer := greatest(p_least, (select reltuples / p_runs from pg_class where oid = 'app.organizations'::regclass));
    v_after            uuid;
    v_organization_ids uuid[];
begin
    v_after := app.last_of_round(p_round);
    v_organization_ids := array(select id from app.organizations where id > v_after order by id limit v_count);
    return v_organization_ids
           || array(select id from app.organizations where id <= v_after order by id limit v_count - cardinality(v_organization_ids));
end;
$$;

-- The next turn begins after this organization; null: at the same place.
create or replace function app.end_turn(p_round text, p_after uuid) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    perform from app.maintenance_rounds where round = p_round and last_id <> p_after for update skip locked;
    if found then
        update app.maintenance_rounds set last_id = p_after where round = p_round;
    end if;
end;
$$;

create or replace function app.run_maintenance() returns json
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now             timestamptz := app.clock();
    v_organization_id uuid;
    v_expired         integer := 0;
    v_closed          integer := 0;
    v_pruned          integer;
    v_after           uuid;
    v_open            uuid[];
    v_limited         uuid[];
    v_urgent          uuid[];
    v_lock_timeout    constant text := current_setting('lock_timeout');
begin
    -- One run at a time; a second one would find nothing to do.
    perform from app.maintenance_state for update skip locked;
    if not found then
        return json_build_object('skipped', true);
    end if;
    update app.maintenance_state set ran_at = v_now;
    delete from app.workers where seen_at < v_now - interval '1 day';
    if app.is_node() then
        -- The coordinator does the rest for all nodes.
        perform app.prune_recent_writes(v_now);
        return json_build_object('skipped', false);
    end if;

    -- Before rows of the queue are locked, because uploads wait for those.
    foreach v_organization_id in array app.organizations_in_turn('calls') loop
        exit when app.prune_incentive_calls(v_organization_id, v_now, 5000) = 5000;
        v_after := v_organization_id;
    end loop;
    perform app.end_turn('calls', v_after);
    for v_organization_id in
        select distinct m.organization_id
          from (select w.organization_id from app.work_minutes w where w.minute < v_now - interval '30 days' order by w.minute limit 5000) m
    loop
        perform app.prune_work_minutes(v_organization_id, v_now);
    end loop;
    -- A minute later, nothing counts in it any more: a flush takes at most 30 seconds.
    perform app.try_to_complete_work_minutes(date_trunc('minute', v_now - interval '1 minute', 'UTC'));
    v_pruned := app.prune_expired();
    perform app.prune_cron_history();
    perform app.count_violations(v_now);
    perform app.learn_results_in_turn();
    perform app.add_up_counts(v_now);

    -- Every run handles organizations with something to repair, and each of the others within twenty runs.
    v_open := array(select organization_id from public.batch_lookup_jobs where status in ('pending', 'processing')
                     union
                    select organization_id from app.organization_queue_state where ready_at is not null
                     union
                    select organization_id from app.queue_wakeups
                     order by organization_id);
    v_limited := array(select id from app.organizations where monthly_lookups is not null);
    v_urgent := array(select organization_id from public.lookup_leases where expires_at < v_now
                       union
                      select q.organization_id
                        from app.queued_jobs q
                       where q.organization_id <> all (v_limited)
                         and not exists (select from app.organization_queue_state s where s.organization_id = q.organization_id and s.ready_at <= v_now)
                         and not exists (select from app.queue_wakeups w where w.organization_id = q.organization_id and w.ready_at <= v_now)
                       union
                      -- An organization with open jobs has at least a ready time, unless a job is held.
                      select j.organization_id
                        from public.batch_lookup_jobs j
                       where j.status in ('pending', 'processing')
                         and not exists (select from app.organization_queue_state s where s.organization_id = j.organization_id and s.ready_at is not null)
                         and not exists (select from app.queue_wakeups w where w.organization_id = j.organization_id)
                         and not exists (select from app.job_budgets b where b.organization_id = j.organization_id and b.held_position is not null));
    v_open := app.in_turn('queues', v_open, greatest(10, cardinality(v_open) / 20));
    perform app.end_turn('queues', v_open[cardinality(v_open)]);
    -- As app.maintain_queue has it.
    perform app.set_lock_timeout_of_nodes('20ms');
    for v_organization_id in
        select unnest(v_open)
         union
        select unnest(v_urgent)
    loop
        begin
            select v_expired + m.expired, v_closed + m.closed into v_expired, v_closed
              from app.maintain_queue(v_organization_id, v_now) m;
        exception
            when lock_not_available then null;
        end;
    end loop;
    perform app.set_lock_timeout_of_nodes(v_lock_timeout);

    perform app.maintain_webhooks(v_now);
    -- Last, because it locks rows that responses to writes wait for.
    perform app.prune_recent_writes(v_now);
    perform pg_notify('batch_lookups_ready', '');
    return json_build_object('skipped', false, 'expired_leases', v_expired, 'closed_jobs', v_closed, 'pruned', v_pruned);
end;
$$;

comment on function app.run_maintenance() is 'Returns expired leases to the queue, ends jobs without open items, prunes, wakes workers; one run at a time. Answers what was done. At a node of a cluster, it prunes the rows that every node has for itself.';

create or replace function api.run_maintenance() returns json
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return app.run_maintenance();
end;
$$;

comment on function api.run_maintenance() is 'app.run_maintenance for workers: they call it when pg_cron has not for two minutes.';

-- Maintains one organization. A row that is locked for over 20 ms is skipped until the next run, because rows of others stay locked
-- meanwhile.
create or replace function app.maintain_queue(p_organization_id uuid, p_now timestamptz, out expired integer, out closed integer)
language plpgsql volatile
set search_path = pg_catalog, pg_temp set lock_timeout = '20ms'
as $$
begin
    expired := app.expire_leases(p_organization_id, p_now);
    closed := app.close_orphaned_jobs(p_organization_id, p_now);
    perform app.repair_ready_at(p_organization_id, p_now);
end;
$$;

-- Closes open jobs without an open item: sets their counters according to the items. It examines up to p_limit jobs without an item to
-- claim or in flight, in no particular order, and counts the items of at most ten.
create or replace function app.close_orphaned_jobs(p_organization_id uuid, p_now timestamptz, p_limit integer default 100) returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
    v_job    record;
    v_count  integer                  := 0;
    v_counts record;
    v_ended  public.batch_lookup_jobs;
    v_idle   uuid[]                   := array(
        select o.id
          from public.batch_lookup_jobs o
         where o.organization_id = p_organization_id and o.status in ('pending', 'processing')
           and not exists (select
                             from app.queued_jobs q
                             join public.lookup_queue_items i on i.organization_id = q.organization_id and i.job_id = q.job_id and i.position = q.next_position
                            where q.organization_id = p_organization_id and q.job_id = o.id and i.organization_id = p_organization_id and i.status = 'pending')
           and not exists (select from public.lookup_leases l
                            where l.organization_id = p_organization_id and l.job_id = o.id and not isempty(l.positions))
         order by random()
         limit p_limit);
begin
    if v_idle = '{}' then
        return 0;
    end if;
    for v_job in
        select j.id, j.total_items, j.processed_items, j.failed_items
          from public.batch_lookup_jobs j
         where j.organization_id = p_organization_id and j.id = any (v_idle) and j.status in ('pending', 'processing')
           and not exists (select from public.lookup_queue_items i
                            where i.organization_id = p_organization_id and i.job_id = j.id and i.status = 'pending')
         limit 10
           for update of j skip locked
    loop
        select count(*)::integer as processed, count(*) filter (where status = 'failed')::integer as failed into v_counts
          from public.lookup_queue_items
         where organization_id = p_organization_id and job_id = v_job.id and status in ('completed', 'failed');
        v_ended := app.advance_job(p_organization_id, v_job.id, v_counts.processed - v_job.processed_items, v_counts.failed - v_job.failed_items, p_now);
        perform app.update_report(p_organization_id, v_ended, p_now, p_job_status => app.ended_as(v_ended));
        perform app.count_ended(p_organization_id, array[v_ended], p_now);
        perform app.enqueue_job_webhook(p_organization_id, v_job.id, p_now);
        v_count := v_count + 1;
    end loop;
    return v_count;
end;
$$;

-- An extension is what pg_extension lists, with its schema. A schema with the same name may belong to anybody, with functions and triggers
-- that would run with our owner's rights.
create or replace function app.has_extension(p_extension text, p_schema text) returns boolean
language sql stable
return exists (
    select
      from pg_catalog.pg_extension e
      join pg_catalog.pg_namespace n on n.nspname = p_schema
     where e.extname = p_extension
       and (n.oid = e.extnamespace
            or exists (select
                         from pg_catalog.pg_depend d
                        where d.classid = 'pg_catalog.pg_namespace'::pg_catalog.regclass and d.objid = n.oid
                          and d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass and d.refobjid = e.oid and d.deptype = 'e')));

-- pg_cron keeps a row for every run forever: for our own jobs, a day is enough.
create or replace function app.prune_cron_history() returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if app.has_extension('pg_cron', 'cron') and has_schema_privilege('cron', 'usage')
       and has_table_privilege(to_regclass('cron.job_run_details')::oid, 'select, delete')
       and has_table_privilege(to_regclass('cron.job')::oid, 'select') then
        execute $sql$
            delete from cron.job_run_details
             where end_time < now() - interval '1 day'
               and jobid in (select jobid from cron.job where jobname like 'batch-lookups-%') $sql$;
    end if;
end;
$$;

-- Schedules maintenance, by name, if pg_cron is available, in the one database that it serves. Only a superuser may ask which one that is.
do $$
begin
    if not exists (select from pg_extension where extname = 'pg_cron')
       and exists (select from pg_available_extensions where name = 'pg_cron')
       and (select rolsuper from pg_roles where rolname = current_user) then
        if current_setting('cron.database_name', true) = current_database() then
            create extension pg_cron;
        end if;
    end if;
    if app.has_extension('pg_cron', 'cron') and has_schema_privilege('cron', 'usage') then
        perform cron.schedule('batch-lookups-maintenance', '* * * * *', 'select app.run_maintenance()');
        -- Steps with a commit after each: however much has outlived its retention, no transaction is long.
        perform cron.schedule('batch-lookups-retention', '* * * * *', $retention$
do $steps$
begin
    while app.prune_expired() > 0 and clock_timestamp() < now() + interval '50 seconds' loop
        commit;
    end loop;
end;
$steps$
$retention$);
    end if;
end;
$$;
