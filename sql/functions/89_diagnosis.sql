-- Chapter 89, diagnosis: what is wrong, in sentences, and what to do. Each check is a function that returns a row for each finding, or one
-- that says that all is well. `python -m pyshell doctor` adds what only a process can see.

create or replace function app.found(p_check text, p_state text, p_finding text, p_advice text default null) returns app.finding
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select row(p_check, p_state, p_finding, p_advice)::app.finding
$$;

create or replace function app.diagnose_server() returns setof app.finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_encoding text   := (select pg_encoding_to_char(encoding) from pg_database where datname = current_database());
    v_age      bigint := (select age(datfrozenxid) from pg_database where datname = current_database());
    v_waiting  bigint := (select count(*) from pg_stat_activity
                           where datname = current_database() and wait_event = 'SyncRep' and query_start < clock_timestamp() - interval '5 seconds');
begin
    return next (case when current_setting('server_version_num')::integer >= 150000
                 then app.found('version', 'ok', format('PostgreSQL %s', current_setting('server_version')))
                 else app.found('version', 'problem', format('PostgreSQL %s is too old', current_setting('server_version')), 'Upgrade to PostgreSQL 15 or later.') end);
    return next (case when v_encoding = 'UTF8'
                 then app.found('encoding', 'ok', 'the database stores UTF-8')
                 else app.found('encoding', 'problem', format('the database stores %s, which lacks characters of names and addresses', v_encoding),
                          'Create a database with encoding UTF8, and restore a dump into it.') end);
    return next (case when pg_is_in_recovery() or current_setting('default_transaction_read_only') = 'on'
                 then app.found('read_only', 'problem', case when pg_is_in_recovery() then 'the database is a standby' else 'the database is read-only' end,
                          'Point DATABASE_URL to the primary, or end default_transaction_read_only.')
                 else app.found('read_only', 'ok', 'the database takes writes') end);
    return next (case when v_waiting > 0
                 then app.found('commits', 'problem', format('%s for a synchronous standby', app.counted(v_waiting, 'commit waits', 'commits wait')),
                          format('Start the standby. To continue without it: remove it from synchronous_standby_names (%s), and select pg_reload_conf().', current_setting('synchronous_standby_names')))
                 else app.found('commits', 'ok', 'no commit waits for a standby') end);
    return next (case when v_age > 1500000000
                 then app.found('transaction_ids', 'problem', format('the oldest transaction id is %s old; at 2.1 billion PostgreSQL stops', v_age),
                          'End what holds VACUUM back, then run VACUUM (FREEZE).')
                 else app.found('transaction_ids', 'ok', format('the oldest transaction id is %s old', v_age)) end);
    return next (case when pg_notification_queue_usage() > 0.1
                 then app.found('notify_queue', 'problem', format('%s%% of the notification queue is used', round(pg_notification_queue_usage()::numeric * 100)),
                          'A listening session has been in a transaction for too long: find it in pg_stat_activity and end it.')
                 else app.found('notify_queue', 'ok', 'notifications are delivered') end);
end;
$$;

-- Maintenance, and pg_cron if installed.
create or replace function app.diagnose_maintenance() returns setof app.finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now      timestamptz := app.clock();
    v_state    app.maintenance_state;
    v_has_cron boolean     := app.has_extension('pg_cron', 'cron');
    v_count    integer;
    v_missing  text;
    v_inactive text;
    v_failure  text;
begin
    select * into v_state from app.maintenance_state;
    if v_state.ran_at > v_now + interval '1 minute' then
        return next app.found('clock', 'problem', format('maintenance ran at %s, which is in the future: the clock was set back', app.rfc3339(v_state.ran_at)),
                        'Correct the clock of the database server. Everything resumes once that time is reached.');
    end if;
    if v_state.ran_at < v_now - interval '2 minutes' then
        return next app.found('maintenance', 'problem',
                        case when v_state.ran_at = '-infinity' then 'maintenance has never run' else format('maintenance last ran at %s', app.rfc3339(v_state.ran_at)) end,
                        case when app.spans_nodes() then 'Start a worker whose DATABASE_URL names the coordinator, which runs it where pg_cron does not; see the checks nodes, pg_cron and transactions.'
                             else 'Start a worker, which runs it where pg_cron does not; see the checks pg_cron and transactions.' end);
    else
        return next app.found('maintenance', 'ok', format('maintenance ran at %s', app.rfc3339(v_state.ran_at)));
    end if;
    if v_state.violations > 0 then
        return next app.found('invariants', 'problem', app.counted(v_state.violations, 'invariant is violated', 'invariants are violated'),
                        'select * from api.check_invariants() lists them. Report them; restore what was changed by hand.');
    else
        return next app.found('invariants', 'ok', case when v_state.checked_at = '-infinity' then 'not checked yet'
                                                 else format('none was violated at %s', app.rfc3339(v_state.checked_at)) end);
    end if;
    if not v_has_cron then
        return next app.found('pg_cron', 'ok', 'pg_cron is not installed: workers run the maintenance');
        return;
    elsif not has_schema_privilege('cron', 'usage') or not has_table_privilege(to_regclass('cron.job')::oid, 'select') then
        return next app.found('pg_cron', 'ok', format('%s may not use pg_cron: workers run the maintenance', current_user));
        return;
    end if;
    execute $cron$
        select count(j.jobname), string_agg(n.name, ', ') filter (where j.jobname is null), string_agg(j.jobname, ', ') filter (where not j.active)
          from unnest(array['batch-lookups-maintenance', 'batch-lookups-retention']) n (name)
          full join (select * from cron.job where jobname like 'batch-lookups-%' and database = current_database()) j on j.jobname = n.name $cron$
       into v_count, v_missing, v_inactive;
    if to_regclass('cron.job_run_details') is not null and has_table_privilege(to_regclass('cron.job_run_details')::oid, 'select') then
        execute $cron$
            select format('%s: %s', j.jobname, coalesce(d.return_message, d.status))
              from cron.job j
             cross join lateral (select r.* from cron.job_run_details r where r.jobid = j.jobid order by r.runid desc limit 1) d
             where j.jobname like 'batch-lookups-%' and j.database = current_database()
               and (d.status = 'failed' or d.end_time is null and d.start_time < now() - interval '2 minutes')
             limit 1 $cron$
           into v_failure;
    end if;
    if v_count = 0 then
        return next app.found('pg_cron', 'warning', 'pg_cron is installed, but has no schedule of ours: workers run the maintenance', 'Run python -m pyshell migrate, which creates it.');
    elsif v_missing is not null then
        return next app.found('pg_cron', 'problem', format('missing from pg_cron: %s', v_missing), 'Run python -m pyshell migrate, which creates it.');
    elsif v_inactive is not null then
        return next app.found('pg_cron', 'problem', format('switched off in pg_cron: %s', v_inactive),
                        case when has_function_privilege(to_regprocedure('cron.alter_job(bigint, text, text, text, text, boolean)')::oid, 'execute')
                             then '' else 'As a superuser: ' end || 'select cron.alter_job(jobid, active => true) from cron.job where jobname like ''batch-lookups-%''.');
    elsif v_failure is not null then
        return next app.found('pg_cron', 'problem', format('the last run failed or hangs: %s', v_failure), 'Look at cron.job_run_details, and restart PostgreSQL if pg_cron hangs.');
    elsif v_state.ran_at < v_now - interval '2 minutes' then
        return next app.found('pg_cron', 'warning', 'pg_cron has our schedule, but maintenance does not run',
                        'cron.database_name must name this database, and pg_stat_activity must have a pg_cron launcher: restart PostgreSQL if there is none.');
    else
        return next app.found('pg_cron', 'ok', 'pg_cron runs the maintenance');
    end if;
end;
$$;

-- Workers, leases, and organizations that are not served. p_queue: the row of api.queue_health, which costs more than all the checks.
create or replace function app.diagnose_queue(p_queue json) returns setof app.finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_health record;
    v_waits  record := app.measure_waits(app.clock());
begin
    select * into v_health
      from json_to_record(p_queue) q (workers bigint, ready_organizations bigint, expired_leases bigint, upstream_closed_until timestamptz,
                                      upstream_unavailable_since timestamptz, upstream_consecutive_failures integer);
    return next (case when v_health.workers = 0 and v_health.ready_organizations > 0
                 then app.found('workers', 'problem', app.counted(v_health.ready_organizations, 'organization has work', 'organizations have work') || ', and no worker runs',
                          'Start a worker: python -m pyshell worker. If one runs, read its log; it cannot run through a connection pooler in transaction mode.')
                 when v_health.workers = 0
                 then app.found('workers', 'warning', 'no worker runs', 'Start a worker: python -m pyshell worker.')
                 else app.found('workers', 'ok', app.counted(v_health.workers, 'worker has', 'workers have') || ' sent a heartbeat in the last 15 seconds') end);
    if v_health.expired_leases > 0 then
        return next app.found('leases', 'warning', app.counted(v_health.expired_leases, 'item belongs', 'items belong') || ' to workers that have gone silent',
                        'They return to the queue with the next maintenance. If they do not, see the checks maintenance and transactions.');
    end if;
    if v_waits.longest_unserved > 300 and v_health.workers > 0 and coalesce(v_health.upstream_unavailable_since, v_health.upstream_closed_until) is null then
        return next app.found('unserved', 'problem', format('an organization with ready items has not been served for %s seconds', round(v_waits.longest_unserved)),
                        'A transaction may hold its rows: look at the check transactions, and at the log of the workers.');
    end if;
    if v_health.upstream_unavailable_since is not null then
        return next app.found('upstream', 'problem', format('the incentives API has not answered since %s (%s in a row)', app.rfc3339(v_health.upstream_unavailable_since),
                               app.counted(v_health.upstream_consecutive_failures, 'failure', 'failures')),
                        'The log of the workers has its errors; ask its operator. Lookups resume by themselves when it answers; select api.resume_lookups() resumes them immediately.');
    elsif v_health.upstream_closed_until is not null then
        return next app.found('upstream', 'warning', format('lookups are paused until %s, by the incentives API or by an operator', app.rfc3339(v_health.upstream_closed_until)),
                        'api.audit_events has the pauses of operators, lookups.paused. If the incentives API keeps asking, lower lookups_per_second. select api.resume_lookups() ends a pause.');
    else
        return next app.found('upstream', 'ok', 'the incentives API may be called');
    end if;
end;
$$;

-- Nodes of a cluster that do not respond, and those whose organizations are not served. No rows on one PostgreSQL.
create or replace function app.diagnose_nodes() returns setof app.finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_nodes   text[]  := '{}';
    v_found   boolean := false;
    v_central boolean;
    v_node    record;
begin
    if not app.spans_nodes() or app.is_node() then
        return;
    end if;
    for v_node in select * from app.states_of_nodes() loop
        -- The first one is the coordinator, whose workers serve the organizations of all nodes.
        v_central := coalesce(v_central, v_node.workers > 0);
        v_nodes := v_nodes || format('%s (workers: %s)', v_node.node, v_node.workers);
        if v_node.error ~ '"app.upstream_state" does not exist|app.state_of_node\(\) does not exist' then
            v_found := true;
            return next app.found('nodes', 'problem', format('the node %s lacks tables: it is new', v_node.node),
                            'Run python -m pyshell distribute before any shard is there. Until then, everybody may call our functions at that node.');
        elsif v_node.error is not null then
            v_found := true;
            return next app.found('nodes', 'problem', format('the node %s does not answer: %s', v_node.node, v_node.error),
                            'Start it, or let its standby take over (docs/scale.md). Until it answers, its organizations wait, and so do maintenance and most of these checks; settings, organizations and keys cannot be changed.');
        elsif v_node.workers = 0 and v_node.has_shards and not v_central then
            v_found := true;
            return next app.found('nodes', 'problem', format('no worker serves the organizations of the node %s', v_node.node),
                            'Start a worker whose DATABASE_URL names that node, or the coordinator.');
        end if;
    end loop;
    if not v_found then
        return next app.found('nodes', 'ok', format('these nodes answer: %s', array_to_string(v_nodes, ', ')));
    end if;
end;
$$;

-- The outcomes of lookups in the last quarter of an hour.
create or replace function app.diagnose_lookups() returns setof app.finding
language plpgsql stable
set search_path = pg_catalog, pg_temp set enable_seqscan = off
as $$
declare
    v_since  timestamptz := app.clock() - interval '15 minutes';
    v_recent record;
begin
    select coalesce(sum(c.ended) filter (where c.error_class = 'upstream_unauthorized'), 0) as unauthorized,
           coalesce(sum(c.failed), 0) as failed,
           coalesce(sum(c.ended), 0) as ended,
           (array_agg(c.error_class order by c.failed desc nulls last))[1] as commonest
      into v_recent
      from (select w.error_class, sum(w.items) filter (where w.outcome = 'failed') as failed, sum(w.items) as ended
              from app.work_minutes w
             where w.kind = 'lookup' and w.outcome in ('completed', 'failed') and w.minute > v_since
             group by w.error_class) c;
    return next (case when v_recent.unauthorized > 0
                 then app.found('lookups', 'problem', format('the incentives API refused our credentials for %s in the last quarter of an hour', app.counted(v_recent.unauthorized, 'item', 'items')),
                          'Correct INCENTIVES_API_KEY, restart the workers, then retry the failed items: api.retry_batch_lookup.')
                 when v_recent.failed > 0.2 * v_recent.ended
                 then app.found('lookups', 'warning', format('%s of %s items failed in the last quarter of an hour, most with %s', v_recent.failed, v_recent.ended, v_recent.commonest),
                          'docs/errors.md explains the code; api.work_history shows since when.')
                 else app.found('lookups', 'ok', format('%s of %s items failed in the last quarter of an hour', v_recent.failed, v_recent.ended)) end);
end;
$$;

-- Transactions that have locked rows of the queue, and whatever keeps VACUUM from removing dead rows.
create or replace function app.diagnose_transactions(p_queue json) returns setof app.finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_found boolean := false;
    v_one   record;
begin
    for v_one in
        select t ->> 'pid' as pid, t ->> 'since' as since, t ->> 'user' as usename, t ->> 'application' as application, t ->> 'state' as state, t ->> 'query' as query
          from json_array_elements(p_queue -> 'blocking_transactions') t
    loop
        v_found := true;
        -- Sessions of other roles are not visible to everybody.
        return next app.found('transactions', 'problem',
                        format('%s (%s) holds rows of the queue%s', coalesce('process ' || v_one.pid, 'a transaction'), concat_ws(', ', v_one.usename, coalesce(nullif(v_one.application, ''), 'no name'), v_one.state),
                               case when v_one.since is not null then format(' since %s: %s', v_one.since, v_one.query) end),
                        case when v_one.state = 'prepared' then format('Commit it, or: %s.', regexp_replace(v_one.query, '^prepare transaction', 'rollback prepared'))
                             else format('Let it commit, or: select pg_terminate_backend(%s).', v_one.pid) end);
    end loop;
    if not v_found then
        return next app.found('transactions', 'ok', 'no open transaction holds rows of the queue');
    end if;

    return next (case when not pg_has_role('pg_read_all_stats', 'usage')
                 then app.found('sessions', 'warning', format('%s cannot see the sessions of other roles, so it is not known how long their transactions have been open', current_user),
                          format('As a superuser: grant pg_read_all_stats to %I.', current_user))
                 else app.found('sessions', 'ok', 'the sessions of all roles are visible') end);

    v_found := false;
    for v_one in
        select format('process %s (%s, %s) is in a transaction since %s', a.pid, a.usename, a.state, app.rfc3339(a.xact_start)) as holder,
               format('End it if it is forgotten: select pg_terminate_backend(%s).', a.pid) as advice
          from pg_stat_activity a
         where a.datname = current_database() and a.pid <> pg_backend_pid() and a.backend_type = 'client backend'
           and coalesce(a.backend_xmin, a.backend_xid) is not null and a.xact_start < clock_timestamp() - interval '10 minutes'
         union all
        select format('the prepared transaction %s is open since %s', p.gid, app.rfc3339(p.prepared)), format('commit prepared %L, or rollback prepared.', p.gid)
          from pg_prepared_xacts p
         where p.database = current_database() and p.prepared < clock_timestamp() - interval '10 minutes'
         union all
        select format('the replication slot %s has kept %s transactions', s.slot_name, greatest(age(s.xmin), age(s.catalog_xmin))),
               case when s.active then 'Find out what holds its reader up, such as a query at a replica: pg_stat_activity there has it.'
                    else format('If its subscriber is gone: select pg_drop_replication_slot(%L).', s.slot_name) end
          from pg_replication_slots s
         where greatest(age(s.xmin), age(s.catalog_xmin)) > 1000000
         union all
        -- With hot_standby_feedback, and without a slot.
        select format('the replica %s has kept %s transactions', concat_ws(' at ', nullif(r.application_name, ''), host(r.client_addr)), age(r.backend_xmin)),
               'End the query that takes so long there: pg_stat_activity at the replica has it.'
          from pg_stat_replication r
         where age(r.backend_xmin) > 1000000
    loop
        v_found := true;
        return next app.found('vacuum_horizon', 'problem', v_one.holder || ', and keeps VACUUM from removing dead rows', v_one.advice);
    end loop;
    if not v_found then
        return next app.found('vacuum_horizon', 'ok', 'nothing keeps VACUUM from removing dead rows');
    end if;
    return next (case when current_setting('autovacuum') <> 'on' or current_setting('track_counts') <> 'on'
                 then app.found('autovacuum', 'problem', 'autovacuum is off, so tables grow and claims become slow', 'alter system set autovacuum = on, and track_counts = on; then select pg_reload_conf().')
                 else app.found('autovacuum', 'ok', 'autovacuum is on') end);
end;
$$;

-- Replication slots whose WAL fills the disk, and those whose WAL was removed.
create or replace function app.diagnose_wal() returns setof app.finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_lsn  pg_lsn := case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end;
    v_most bigint := pg_size_bytes(current_setting('max_wal_size'));
    v_slot record;
begin
    for v_slot in
        select s.slot_name, s.active, s.wal_status = 'lost' as is_lost, v_lsn - s.restart_lsn as kept
          from pg_replication_slots s
         where s.wal_status = 'lost' or v_lsn - s.restart_lsn > v_most
         order by s.slot_name
    loop
        return next (case when v_slot.is_lost
                     then app.found('wal', 'warning', format('the replication slot %s has lost WAL that its reader lacks', v_slot.slot_name),
                              format('Recreate the reader, and: select pg_drop_replication_slot(%L).', v_slot.slot_name))
                     when v_slot.active
                     then app.found('wal', 'warning', format('the replication slot %s, whose reader is behind, keeps %s of WAL', v_slot.slot_name, pg_size_pretty(v_slot.kept)),
                              'Find out what delays its reader: pg_stat_replication shows where it is.')
                     else app.found('wal', 'problem', format('the replication slot %s, which has no reader, keeps %s of WAL', v_slot.slot_name, pg_size_pretty(v_slot.kept)),
                              format('If its reader is gone: select pg_drop_replication_slot(%L).', v_slot.slot_name)) end);
    end loop;
    if not found then
        return next app.found('wal', 'ok', 'no replication slot keeps more WAL than max_wal_size');
    end if;
end;
$$;

-- Whether Supabase's Realtime publishes jobs and reports. Common advice to recreate its publication drops them from it.
create or replace function app.diagnose_publication() returns setof app.finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_missing text    := (select string_agg('public.' || t.name, ', ' order by t.name)
                           from unnest(array['batch_lookup_jobs', 'incentive_reports']) t (name)
                          where not exists (select from pg_publication_tables p
                                             where p.pubname = 'supabase_realtime' and p.schemaname = 'public' and p.tablename = t.name));
    v_exists  boolean := exists (select from pg_publication where pubname = 'supabase_realtime');
begin
    return next (case when v_missing is not null and current_setting('wal_level') = 'logical'
                 then app.found('publication', 'warning', format('the publication supabase_realtime lacks %s, so Supabase''s Realtime does not report their changes', v_missing),
                          format(case when v_exists then 'As the owner: alter publication supabase_realtime add table %s.'
                                      else 'As the owner: create publication supabase_realtime for table %s.' end, v_missing))
                 else app.found('publication', 'ok', 'Supabase''s Realtime, if there is one, reports changes of jobs and reports') end);
end;
$$;

create or replace function app.diagnose_webhooks() returns setof app.finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_webhooks record := app.measure_webhooks(app.clock());
    v_one      record;
begin
    return next (case when v_webhooks.oldest_due_age > 900
                 then app.found('webhooks', 'problem', format('%s due, the oldest for %s seconds', app.counted(v_webhooks.due, 'delivery is', 'deliveries are'), round(v_webhooks.oldest_due_age)),
                          'Start a worker, which sends them; a slow receiver gets few at once, and delays only its own.')
                 else app.found('webhooks', 'ok', app.counted(v_webhooks.due, 'delivery is', 'deliveries are') || ' due') end);
    for v_one in
        select o.id, o.name, c.failing_since, c.enabled, c.disabled_reason
          from app.webhook_configs c
          join app.organizations o on o.id = c.organization_id
         where c.enabled and c.failing_since is not null or c.disabled_reason in ('gone', 'failing')
         order by c.failing_since
         limit 20
    loop
        return next app.found('receivers', 'warning',
                        case when v_one.enabled then format('the receiver of organization %s has accepted no webhook since %s', v_one.id, app.rfc3339(v_one.failing_since))
                             else format('the receiver of organization %s was disabled: %s', v_one.id, v_one.disabled_reason) end,
                        'Tell the organization: its webhook deliveries show what the receiver answered, and missed events can be recovered.');
    end loop;
end;
$$;

-- Organizations whose link was replaced by releases that allowed it: the members of the former Clerk organization still have access.
create or replace function app.diagnose_organizations() returns setof app.finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_ids text := (select string_agg(o.id::text, ', ' order by o.id)
                     from app.organizations o
                    where app.is_relinked(o.id, o.clerk_organization_id));
begin
    return next (case when v_ids is not null
                 then app.found('clerk_links', 'problem', format('these organizations belong to another Clerk organization than the one they are linked to: %s', v_ids),
                          'Members of both can access them. Create an organization for the new one, and link this one to its own.')
                 else app.found('clerk_links', 'ok', 'every organization is linked to its own Clerk organization, or to none') end);
end;
$$;

-- What needs no rows of organizations, so that the coordinator of a cluster can check it while a node is away.
create or replace function app.diagnose_here() returns setof app.finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select * from app.diagnose_nodes()
     union all
    select * from app.diagnose_server()
     union all
    select * from app.diagnose_maintenance()
     union all
    select * from app.diagnose_wal()
     union all
    select * from app.diagnose_publication();
end;
$$;

create or replace function app.diagnose_rows(p_queue json) returns setof app.finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select * from app.diagnose_queue(p_queue)
     union all
    select * from app.diagnose_lookups()
     union all
    select * from app.diagnose_transactions(p_queue)
     union all
    select * from app.diagnose_webhooks()
     union all
    select * from app.diagnose_organizations();
end;
$$;

create or replace function app.diagnose(p_queue json) returns setof app.finding
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select * from app.diagnose_here()
     union all
    select * from app.diagnose_rows(p_queue);
end;
$$;

create or replace function api.diagnose() returns setof app.finding
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if app.is_node() then
        return query
        select f.*
          from json_populate_recordset(null::app.finding, app.ask_coordinator('select json_agg(d) from api.diagnose() d')::json) f;
        return;
    end if;
    return query select * from app.diagnose_here();
    -- What has met a node that is away ends its transaction with an error, even if that is caught.
    if not app.spans_nodes() or not exists (select from app.states_of_nodes() n where n.error is not null) then
        return query select * from app.diagnose_rows(api.get_queue_health());
    end if;
end;
$$;

comment on function api.diagnose() is 'For operators: what is wrong with the database, the queue, the incentives API and the webhooks. Each row is a check, its state (ok, warning or problem), what was found, and what to do. `python -m pyshell doctor` shows these and those that only a process can check.';
