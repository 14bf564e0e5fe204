-- Chapter 08, distribution: where the rows of each table are when several nodes share the work. It depends on no other chapter: a deploy to
-- a Citus cluster runs it before the others, because tables must be distributed before functions or views tie them together. Statements
-- that use Citus are strings, as plain PostgreSQL lacks what they name. Chapter 94 delegates the functions.

-- distributed: by organization_id, all rows of an organization at one node; reference: the same rows at every node, seldom written; local:
-- every node has rows of its own.
create or replace function app.distribution() returns table (name text, kind text)
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select unnest(array[
               'public.batch_lookup_jobs', 'public.lookup_queue_items', 'app.queued_jobs', 'public.lookup_leases', 'app.organization_queue_state',
               'app.queue_wakeups', 'public.lookup_attempts', 'public.lookup_usage', 'app.job_budgets', 'app.known_jobs', 'app.known_results', 'app.known_organizations',
               'app.work_minutes', 'app.job_traces', 'public.batch_lookup_job_labels', 'public.lookup_job_columns', 'public.lookup_item_sources',
               'public.lookup_uploads', 'public.lookup_upload_rows', 'app.column_memory', 'app.idempotency_keys',
               'public.incentive_reports', 'public.incentive_report_sites', 'public.incentive_report_site_programs', 'app.deleted_rows',
               'app.customers', 'public.applications', 'app.incentive_profiles', 'app.incentive_calls', 'app.audit_events', 'app.api_key_uses',
               'app.webhook_configs', 'app.webhook_secrets', 'app.webhook_deliveries', 'app.webhook_attempts', 'app.webhook_queue_state',
               'app.webhook_wakeups', 'app.ended_totals', 'app.ended_changes',
               'app.usage_days', 'app.job_names']), 'distributed'
     union all
    select unnest(array[
               'app.settings', 'app.regions', 'app.organizations', 'app.api_keys', 'app.report_shares', 'app.device_categories',
               'app.device_category_sizes', 'app.devices', 'app.utilities', 'app.utility_service_areas', 'app.programs', 'app.program_utilities',
               'app.program_tiers', 'app.retry_policy', 'app.webhook_retry_schedule', 'app.schema_migrations', 'app.deployed_parts']), 'reference'
     union all
    select unnest(array[
               'app.rate_limit', 'app.slot_blocks', 'app.upstream_state', 'app.workers', 'app.recent_writes', 'app.work_totals', 'app.maintenance_state',
               'app.maintenance_rounds']), 'local'
$$;

comment on function app.distribution() is 'Every table with its kind: distributed (by organization_id), reference (the same at every node) or local (each node has its own).';

-- Whether the tables of this database are distributed; works at any node.
create or replace function app.is_distributed() returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_answer boolean := false;
begin
    if to_regclass('pg_catalog.pg_dist_partition') is not null then
        execute 'select exists (select from pg_catalog.pg_dist_partition where logicalrelid = to_regclass($1))'
           into v_answer using 'public.batch_lookup_jobs';
    end if;
    return v_answer;
end;
$$;

-- Whether they are distributed over several nodes.
create or replace function app.spans_nodes() returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_answer boolean := app.is_distributed();
begin
    if v_answer then
        execute 'select count(*) > 1 from pg_catalog.pg_dist_node where noderole = ''primary''' into v_answer;
    end if;
    return v_answer;
end;
$$;

-- Whether this is a node of a cluster, not its coordinator. The ready lists of a node contain the organizations whose rows it has.
create or replace function app.is_node() returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_answer boolean := app.is_distributed();
begin
    if v_answer then
        execute 'select groupid <> 0 from pg_catalog.pg_dist_local_group' into v_answer;
    end if;
    return v_answer;
end;
$$;

-- Drops views, and functions whose bodies are bound to tables: Citus cannot distribute a table that they tie to local ones.
create or replace function app.untie_tables() returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_object text;
    -- Collect all names before the first drop, which may drop others as well.
    v_objects constant text[] := array(
        select format('view if exists %s', oid::regclass)
          from pg_class
         where relnamespace in ('app'::regnamespace, 'api'::regnamespace) and relkind = 'v'
         union all
        select format('function if exists %s', p.oid::regprocedure)
          from pg_proc p
         where p.pronamespace in ('app'::regnamespace, 'api'::regnamespace) and p.prosqlbody is not null
           and exists (select from pg_depend d
                        where d.classid = 'pg_proc'::regclass and d.objid = p.oid
                          and (d.refclassid = 'pg_class'::regclass
                               or d.refclassid = 'pg_type'::regclass
                                  and exists (select from pg_type t left join pg_type e on e.oid = t.typelem
                                               where t.oid = d.refobjid and 'c' in (t.typtype, e.typtype)))));
begin
    foreach v_object in array v_objects loop
        execute format('drop %s cascade', v_object);
    end loop;
end;
$$;

-- Makes tables distributed or reference tables, as app.distribution() says, and skips those that already are. Foreign keys are dropped
-- meanwhile, because Citus allows no order of the tables with them. Returns how many tables were distributed.
create or replace function app.distribute_tables() returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_first     constant text := 'public.batch_lookup_jobs';
    v_table     text;
    v_kind      text;
    v_new       text[];
    v_drops     text[];
    v_adds      text[];
    v_statement text;
begin
    execute $sql$ select array_agg(name) from app.distribution()
                   where kind <> 'local' and to_regclass(name) is not null
                     and not exists (select from pg_catalog.pg_dist_partition where logicalrelid = name::regclass) $sql$
       into v_new;
    if v_new is null then
        return 0;
    end if;
    perform set_config('citus.multi_shard_modify_mode', 'sequential', true);
    select array_agg(format('alter table %s drop constraint %I', conrelid::regclass, conname) order by oid),
           array_agg(format('alter table %s add constraint %I %s', conrelid::regclass, conname, pg_get_constraintdef(oid)) order by oid)
      into v_drops, v_adds
      from pg_constraint
     where contype = 'f' and (conrelid = any (v_new::regclass[]) or confrelid = any (v_new::regclass[]));
    foreach v_statement in array coalesce(v_drops, '{}') loop
        execute v_statement;
    end loop;
    for v_table, v_kind in select name, kind from app.distribution() where name = any (v_new) order by name <> v_first loop
        if v_kind = 'reference' then
            execute format('select create_reference_table(%L)', v_table);
        else
            execute format('select create_distributed_table(%L, ''organization_id'', colocate_with => %L)',
                           v_table, case v_table when v_first then 'none' else v_first end);
        end if;
        execute format('select truncate_local_data_after_distributing_table(%L)', v_table);
    end loop;
    foreach v_statement in array coalesce(v_adds, '{}') loop
        execute v_statement;
    end loop;
    return cardinality(v_new);
end;
$$;

-- The statements that create a local table. At every node, only its owner may use it.
create or replace function app.table_definition(p_table text) returns text[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_statements text[];
begin
    execute $sql$ select array_agg(s.statement order by s.n) from master_get_table_ddl_events($1) with ordinality s (statement, n)
                   where s.statement !~ '^(GRANT|REVOKE|ALTER TABLE \S+ OWNER) ' $sql$
       into v_statements using p_table;
    return v_statements;
end;
$$;

-- Runs a command at every other node, or raises the error of one of them. They commit it independently of this transaction.
create or replace function app.run_on_nodes(p_command text) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_error text;
begin
    execute 'select string_agg(format(''%s:%s: %s'', nodename, nodeport, result), ''; '') from run_command_on_workers($1) where not success'
       into v_error using p_command;
    if v_error is not null then
        raise exception 'A node of the cluster failed: %', v_error;
    end if;
end;
$$;

-- The answers of the other nodes to a query of one value. Waits a second for a node that is away, not half a minute.
create or replace function app.ask_other_nodes(p_question text) returns table (success boolean, result text)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_here integer;
begin
    perform set_config('citus.node_connection_timeout', '1000', true);
    execute 'select groupid from pg_catalog.pg_dist_local_group' into v_here;
    return query execute $sql$
        select a.success, a.result
          from run_command_on_all_nodes($1) a
          join pg_catalog.pg_dist_node n on n.nodeid = a.nodeid
         where n.groupid <> $2 $sql$
      using format('select (%s) from pg_catalog.pg_dist_local_group where groupid <> %s', p_question, v_here), v_here;
end;
$$;

-- The coordinator's answer to a query of one value, which runs there as the owner.
create or replace function app.ask_coordinator(p_question text) returns text
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_answer record;
begin
    execute 'select success, result from run_command_on_coordinator($1)' into v_answer using p_question;
    if not v_answer.success then
        raise connection_failure using message = format('The coordinator does not answer: %s', v_answer.result);
    end if;
    return v_answer.result;
end;
$$;

-- For the rest of the transaction, how long commands to other nodes, too, wait for a lock: a setting of a function holds only where it runs.
create or replace function app.set_lock_timeout_of_nodes(p_lock_timeout text) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if app.is_distributed() then
        perform set_config('citus.propagate_set_commands', 'local', true);
        execute format('set local lock_timeout = %L', p_lock_timeout);
        perform set_config('citus.propagate_set_commands', 'none', true);
    end if;
end;
$$;

-- Creates our roles at every other node. A node that is added later gets only those that own something or have privileges.
create or replace function app.make_roles() returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_names      constant text[] := array['anon', 'authenticated', 'service_role', 'authenticator', 'batch_lookups_shell', 'batch_lookups_readonly',
                                          'batch_lookups_app'];
    v_statements text;
begin
    select string_agg(format('if not exists (select from pg_catalog.pg_roles where rolname = %1$L) then create role %1$I nologin noinherit%2$s; end if;',
                             rolname, case when rolbypassrls then ' bypassrls' else '' end), ' ')
      into v_statements
      from pg_roles
     where rolname = any (v_names);
    v_statements := concat_ws(' ', v_statements, (
        select string_agg(format('grant %I to %I;', roleid::regrole::text, member::regrole::text), ' ')
          from pg_auth_members
         where roleid::regrole::text = any (v_names) and member::regrole::text = any (v_names)));
    perform app.run_on_nodes(format('do $do$ begin set local citus.enable_ddl_propagation = off; set local client_min_messages = error; %s end; $do$',
                                    v_statements));
end;
$$;

-- Creates the local tables at every other node, with the names and columns that they have here, unknown to Citus.
create or replace function app.make_local_tables() returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_table   text;
    v_columns jsonb;
begin
    for v_table in select name from app.distribution() where kind = 'local' and to_regclass(name) is not null loop
        select jsonb_object_agg(a.attname, concat_ws(' ', format_type(a.atttypid, a.atttypmod), case when a.attnotnull then 'not null' end,
                                                     'default ' || pg_get_expr(d.adbin, d.adrelid)))
          into v_columns
          from pg_attribute a
          left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
         where a.attrelid = v_table::regclass and a.attnum > 0 and not a.attisdropped;
        perform app.run_on_nodes(format($node$
            do $do$
            declare
                v_statement text;
            begin
                set local citus.enable_ddl_propagation = off;
                set local client_min_messages = warning;
                set local lock_timeout = '5s';
                for v_statement in
                    select unnest(%2$L::text[]) where to_regclass(%1$L) is null
                     union all
                    select 'alter table %1$s add column if not exists ' || quote_ident(key) || ' ' || value from jsonb_each_text(%3$L)
                     union all
                    select 'insert into %1$s default values on conflict do nothing' where %3$L::jsonb ? 'singleton'
                loop
                    execute v_statement;
                end loop;
                for v_statement in
                    select format('alter table %1$s drop column %%I', attname)
                      from pg_catalog.pg_attribute
                     where attrelid = %1$L::regclass and attnum > 0 and not attisdropped and not %3$L::jsonb ? attname
                loop
                    execute v_statement;
                end loop;
            end;
            $do$ $node$, v_table, app.table_definition(v_table), v_columns));
    end loop;
end;
$$;
