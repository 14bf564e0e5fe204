-- Chapter 94, cluster: functions on several nodes, and whether everything is where it belongs.

-- A function of one organization runs at the node that has its rows, wherever it is called: the call is one command to that node.
create or replace function app.delegate_functions() returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    execute $sql$
        select create_distributed_function(f.oid::regprocedure, 'p_organization_id', colocate_with => 'public.batch_lookup_jobs')
          from pg_catalog.pg_proc f
         where f.pronamespace = 'api'::regnamespace and f.proargnames[1] = 'p_organization_id' and f.prokind = 'f'
           and not exists (select from pg_catalog.pg_dist_object o
                            where o.classid = 'pg_catalog.pg_proc'::regclass and o.objid = f.oid and o.distribution_argument_index = 0) $sql$;
end;
$$;

-- The rows of a distributed table at this node, as a FROM item. It names the shards, so that no other node is queried.
create or replace function app.rows_here(p_table regclass) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_rows text;
begin
    execute $sql$
        select '(' || string_agg(format('select * from %s', shard_name(s.logicalrelid, s.shardid)), ' union all ') || ')'
          from pg_catalog.pg_dist_shard s
          join pg_catalog.pg_dist_placement p on p.shardid = s.shardid
         where s.logicalrelid = $1 and p.groupid = (select groupid from pg_catalog.pg_dist_local_group) $sql$
       into v_rows using p_table;
    return coalesce(v_rows, format('(select * from %s where false)', p_table));
end;
$$;

-- Those of the given organizations whose rows are at this node.
create or replace function app.organizations_here(p_organization_ids uuid[]) returns uuid[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_here uuid[];
begin
    execute $sql$
        select array_agg(o.id order by o.place)
          from unnest($1) with ordinality o (id, place)
          join pg_catalog.pg_dist_placement p on p.shardid = get_shard_id_for_distribution_column('public.batch_lookup_jobs', o.id)
         where p.groupid = (select groupid from pg_catalog.pg_dist_local_group) $sql$
       into v_here using p_organization_ids;
    return coalesce(v_here, '{}');
end;
$$;

-- A ready list of the organizations at this node, for lookups or webhooks, whose tables have the same form.
create or replace function app.find_ready_here(
    p_queue regclass, p_wakeups regclass, p_limit integer, p_except uuid[], p_now timestamptz, out organization_ids uuid[], out next_ready_at timestamptz
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    execute format($sql$
        with q as materialized (select organization_id, ready_at, served_at from %s r),
             w as materialized (select organization_id, ready_at from %s r)
        select array(select r.organization_id
                       from (select organization_id, served_at from q where ready_at <= $3
                              union
                             select w.organization_id, coalesce(q.served_at, '-infinity')
                               from w left join q on q.organization_id = w.organization_id
                              where w.ready_at <= $3) r
                      where r.organization_id <> all ($2)
                      order by r.served_at, r.organization_id
                      limit $1),
               least((select min(ready_at) from q where ready_at > $3), (select min(ready_at) from w where ready_at > $3)) $sql$,
        app.rows_here(p_queue), app.rows_here(p_wakeups))
       into organization_ids, next_ready_at using p_limit, p_except, p_now;
end;
$$;

-- Policies at other nodes do not see the claims of a session here, and would show no rows. An error is better.
create or replace function app.close_tables_to_members() returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_table regclass;
begin
    -- For app.authorize, which gives the reason, and for Realtime.
    grant execute on function app.is_distributed(), app.spans_nodes(), app.claimed_record(text, uuid, uuid) to authenticated;
    for v_table in
        select oid
          from pg_class
         where relnamespace in ('public'::regnamespace, 'app'::regnamespace, 'api'::regnamespace) and relkind in ('r', 'p', 'v')
           and app.spans_nodes() and has_any_column_privilege('authenticated', oid, 'select')
    loop
        execute format('revoke select on %s from authenticated', v_table);
    end loop;
end;
$$;

-- Tables that are not what app.distribution() says, functions that do not run at the node of their organization, and a DateStyle that Citus
-- does not support (app.adapt_functions).
create or replace function app.misplaced_objects() returns table (object text, problem text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query execute $sql$
        with known as (
            select d.name, d.kind, p.partmethod, p.repmodel, p.colocationid, column_to_column_name(p.logicalrelid, p.partkey) as key
              from app.distribution() d
              left join pg_catalog.pg_dist_partition p on p.logicalrelid = to_regclass(d.name))
        select k.name, case k.kind
                           when 'distributed' then 'is not distributed by organization_id together with public.batch_lookup_jobs'
                           when 'reference' then 'is not a reference table'
                           else 'is known to Citus, and should be a local table of each node' end
          from known k
         where case k.kind
                   when 'distributed' then (k.partmethod, k.key, k.colocationid)
                                           is distinct from ('h', 'organization_id', (select colocationid from known where name = 'public.batch_lookup_jobs'))
                   when 'reference' then (k.partmethod, k.repmodel) is distinct from ('n', 't')
                   else k.partmethod is not null end
         union all
        select f.oid::regprocedure::text, case when f.proargnames[1] = 'p_organization_id' then 'does not run at the node of its organization'
                                               else 'is delegated, though its first argument is not an organization' end
          from pg_catalog.pg_proc f
          left join pg_catalog.pg_dist_object o on o.classid = 'pg_catalog.pg_proc'::regclass and o.objid = f.oid
         where f.pronamespace = 'api'::regnamespace
           and (f.proargnames[1] is not distinct from 'p_organization_id') <> (o.distribution_argument_index is not distinct from 0)
         union all
        select name, 'is open to members, whose claims the other nodes do not see'
          from app.distribution()
         where kind = 'distributed' and app.spans_nodes() and has_any_column_privilege('authenticated', name, 'select')
         union all
        select format('%s:%s', nodename, nodeport), 'is a node that takes no part' from pg_catalog.pg_dist_node where not isactive or not hasmetadata
         union all
        -- This function has one of its own.
        select 'DateStyle', format('is %s by default: times in arguments of calls become others on their way to another node; set ISO', reset_val)
          from pg_catalog.pg_settings
         where name = 'DateStyle' and reset_val not like 'ISO%' $sql$;
end;
$$;

-- The objects of a node, with a fingerprint: its local tables, and the functions and views of app and api. A view of local tables exists
-- only where it was created, at the coordinator. Bodies in standard SQL are not compared: nodes may deparse them differently.
create or replace function app.node_objects() returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (select jsonb_object_agg(o.object, md5(o.definition))
              from (select name as object, app.table_definition(name)::text as definition
                      from app.distribution() where kind = 'local' and to_regclass(name) is not null
                     union all
                    select p.oid::regprocedure::text,
                           row(p.prosrc, p.prosqlbody is null, p.provolatile, p.prosecdef, p.proconfig,
                               array(select a::text from unnest(p.proacl) a order by 1))::text
                      from pg_proc p
                     where p.pronamespace in ('app'::regnamespace, 'api'::regnamespace)
                     union all
                    select c.oid::regclass::text, pg_get_viewdef(c.oid)
                      from pg_class c
                     where c.relnamespace in ('app'::regnamespace, 'api'::regnamespace) and c.relkind = 'v'
                       and not exists (select from pg_rewrite r
                                         join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
                                         join app.distribution() t on t.kind = 'local' and to_regclass(t.name) = d.refobjid
                                        where r.ev_class = c.oid)) o);
end;
$$;

create or replace function api.check_distribution() returns table (object text, problem text)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if not app.is_distributed() then
        return query select current_database()::text, 'is not distributed: one PostgreSQL has all of its rows';
        return;
    end if;
    return query select * from app.misplaced_objects();
    return query execute $sql$
        with here as (select * from jsonb_each_text(app.node_objects()::jsonb)),
             answers as (select format('%s:%s', nodename, nodeport) as node, success, result
                           from run_command_on_workers('select app.node_objects()')),
             there as (select a.node, o.key, o.value from answers a cross join jsonb_each_text(case when a.success then a.result::jsonb else '{}' end) o)
        select a.node, 'does not answer: ' || a.result from answers a where not a.success
         union all
        select o.key, case when t.key is null then 'is missing at ' when h.key is null then 'is only at ' else 'differs at ' end || a.node
          from answers a
         cross join (select key from here union select key from there) o
          left join here h on h.key = o.key
          left join there t on t.key = o.key and t.node = a.node
         where a.success and h.value is distinct from t.value $sql$;
end;
$$;

comment on function api.check_distribution() is 'For operators of a cluster of Citus: tables and functions that are not where they belong, and nodes that lack something; no rows when all is well. One row on a database that is not distributed.';

create or replace function api.other_nodes() returns table (host text, port integer)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if app.is_distributed() and not app.is_node() then
        return query execute 'select nodename, nodeport from pg_catalog.pg_dist_node where groupid <> 0 and noderole = ''primary'' and isactive';
    end if;
end;
$$;

comment on function api.other_nodes() is 'At the coordinator of a cluster, the other nodes: only the node that sends a notification delivers it. No rows anywhere else.';
