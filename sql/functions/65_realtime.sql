-- Chapter 65, Realtime: notifies subscribers of changes of jobs and reports. The commit sends a notification, which is only a hint: the
-- listener reads the row with the subscriber's claims, and polls for changes that it missed.

create or replace function app.notify_change(p_change text, p_table text, p_organization_id uuid, p_id uuid) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    perform pg_notify('batch_lookups_changes', concat_ws(' ', p_change, p_table, p_organization_id, p_id));
end;
$$;

comment on function app.notify_change(text, text, uuid, uuid) is 'Notifies listeners, at the commit, that a row of a published table was inserted, updated or deleted.';

create or replace function app.notify_deletions(p_table text, p_organization_id uuid, p_ids uuid[]) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into app.deleted_rows (organization_id, table_name, id, deleted_at)
    select p_organization_id, p_table, u.id, app.clock() from unnest(p_ids) u (id)
        on conflict do nothing;
    perform app.notify_change('DELETE', p_table, p_organization_id, u.id) from unnest(p_ids) u (id);
end;
$$;

comment on function app.notify_deletions(text, uuid, uuid[]) is 'Notifies listeners, at the commit, that rows of a published table were deleted, and remembers it for a day.';

create or replace function api.realtime_tables() returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return (select json_agg(json_build_object('table', c.relname, 'columns', (
                       select json_agg(json_build_object('name', a.attname, 'type', t.typname) order by a.attnum)
                         from pg_catalog.pg_attribute a
                         join pg_catalog.pg_type t on t.oid = a.atttypid
                        where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped)) order by c.relname)
              from pg_catalog.pg_class c
             where c.oid in ('public.batch_lookup_jobs'::regclass, 'public.incentive_reports'::regclass));
end;
$$;

comment on function api.realtime_tables() is 'The tables of the schema public that can be subscribed to: [{table, columns: [{name, type}]}], types as PostgreSQL calls them.';

-- Runs with the caller's rights, so that the policies decide.
create or replace function api.realtime_record(
    p_table text, p_organization_id uuid default app.claimed_organization_id(), p_id uuid default null
) returns json
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_table in ('batch_lookup_jobs', 'incentive_reports') and not has_table_privilege('public.' || p_table, 'select') then
        return app.claimed_record(p_table, p_organization_id, p_id);
    elsif p_table = 'batch_lookup_jobs' then
        return (select json_build_object('version', j.xmin::text, 'record', to_json(j))
                  from public.batch_lookup_jobs j where j.organization_id = p_organization_id and j.id = p_id);
    elsif p_table = 'incentive_reports' then
        return (select json_build_object('version', r.xmin::text, 'record', to_json(r))
                  from public.incentive_reports r where r.organization_id = p_organization_id and r.id = p_id);
    end if;
    return null;
end;
$$;

comment on function api.realtime_record(text, uuid, uuid) is 'One row of batch_lookup_jobs or incentive_reports as {version, record}, if the caller''s claims let it be seen; else null. The version is another one after every change.';
grant execute on function api.realtime_record(text, uuid, uuid) to authenticated;

-- On a cluster, policies at other nodes do not see the claims, so members have no access to tables. This function replaces the policies,
-- and members may execute it only there.
create or replace function app.claimed_record(p_table text, p_organization_id uuid, p_id uuid) returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_organization_id = app.claimed_organization_id() then
        return api.realtime_record(p_table, p_organization_id, p_id);
    end if;
    return null;
end;
$$;

-- Comparisons that depend on PostgreSQL's semantics: patterns, and text by its collation.
create or replace function api.realtime_match(p_operator text, p_value text, p_operand text) returns boolean
language sql stable
return case p_operator
           when 'like'   then p_value like p_operand
           when 'ilike'  then p_value ilike p_operand
           when 'match'  then p_value ~ p_operand
           when 'imatch' then p_value ~* p_operand
           when 'lt'     then p_value < p_operand
           when 'lte'    then p_value <= p_operand
           when 'gt'     then p_value > p_operand
           when 'gte'    then p_value >= p_operand
       end;

comment on function api.realtime_match(text, text, text) is 'Whether a text fits the condition of a subscription: p_operator is like, ilike, match, imatch (regular expressions), lt, lte, gt or gte. Null for any other. Fails for an invalid pattern.';
grant execute on function api.realtime_match(text, text, text) to authenticated;

-- A position is the oldest transaction that was running: whatever was not visible then was written by that one or a later one. It needs no
-- clock and no order of commits, and also finds rows changed with a plain UPDATE. The nodes of a cluster number their transactions
-- independently: there it is a time in microseconds, some seconds ago, because clocks differ, and because rows are stamped before they are
-- committed.
create or replace function app.realtime_position(p_margin interval) returns bigint
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if app.is_distributed() then
        return extract(epoch from app.clock() - p_margin) * 1000000;
    end if;
    return pg_snapshot_xmin(pg_current_snapshot())::text::bigint;
end;
$$;

create or replace function api.realtime_position() returns bigint
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return app.realtime_position('10 seconds');
end;
$$;

comment on function api.realtime_position() is 'The current position among the changes of the database: api.realtime_changes with it as p_since returns all that is not visible yet; on a cluster, what was updated within the last ten seconds as well.';

create or replace function app.prune_deleted_rows(p_now timestamptz, p_limit integer default 10000) returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_before timestamptz := p_now - interval '1 day';
    v_some   record;
    v_count  integer := 0;
begin
    for v_some in
        select organization_id, table_name, array_agg(id) as ids
          from (select organization_id, table_name, id from app.deleted_rows where deleted_at < v_before order by deleted_at limit p_limit) r
         group by organization_id, table_name
    loop
        delete from app.deleted_rows
         where organization_id = v_some.organization_id and table_name = v_some.table_name and id = any (v_some.ids);
        v_count := v_count + cardinality(v_some.ids);
    end loop;
    return v_count;
end;
$$;

-- The first rows of an organization after an id, and the first of those deleted within a day, each in the order of ids.
create or replace function app.written_rows(p_table text, p_organization_id uuid, p_after_id uuid, p_limit integer)
returns table (id uuid, created_at timestamptz, updated_at timestamptz, version xid, is_deleted boolean)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_table = 'batch_lookup_jobs' then
        return query
        select j.id, j.created_at, j.updated_at, j.xmin, false
          from public.batch_lookup_jobs j
         where j.organization_id = p_organization_id and j.id > p_after_id
         order by j.id
         limit p_limit;
    elsif p_table = 'incentive_reports' then
        return query
        select r.id, r.created_at, r.updated_at, r.xmin, false
          from public.incentive_reports r
         where r.organization_id = p_organization_id and r.id > p_after_id
         order by r.id
         limit p_limit;
    end if;
    return query
    select d.id, d.deleted_at, d.deleted_at, d.xmin, true
      from app.deleted_rows d
     where d.organization_id = p_organization_id and d.table_name = p_table and d.id > p_after_id
     order by d.id
     limit p_limit;
end;
$$;

create or replace function api.realtime_changes(
    p_organization_ids      uuid[],
    p_table                 text,
    p_since                 bigint,
    p_updated_since         timestamptz default null,
    p_after_organization_id uuid        default '00000000-0000-0000-0000-000000000000',
    p_after_id              uuid        default '00000000-0000-0000-0000-000000000000',
    p_limit                 integer     default 1000
) returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_by_time         boolean := app.is_distributed();
    -- The caller's versions already cover most of the last minute.
    v_position        bigint := app.realtime_position('1 minute');
    -- A position from another server, from which this one was restored, is meaningless here: everything may have changed. If this server
    -- has reached that number since, only the history shows it.
    v_since           bigint := case when v_by_time or p_since <= pg_snapshot_xmax(pg_current_snapshot())::text::bigint then p_since
                                     when p_since is not null then 0 end;
    -- The transaction numbers of rows have 32 bits, relative to this one.
    v_age             bigint := age(pg_snapshot_xmin(pg_current_snapshot())::xid);
    v_organization_id uuid;
    v_after_id        uuid    := p_after_id;
    v_left            integer := greatest(p_limit, 1);
    v_row             record;
    v_last_id         uuid;
    v_changes         json[] := '{}';
begin
    for v_organization_id in select o.id from unnest(p_organization_ids) o (id) where o.id >= p_after_organization_id order by o.id loop
        if v_organization_id > p_after_organization_id then
            v_after_id := '00000000-0000-0000-0000-000000000000';
        end if;
        for v_row in
            select w.*, v_position + v_age - age(w.version) as revision
              from app.written_rows(p_table, v_organization_id, v_after_id, v_left) w
             order by w.id
             limit v_left
        loop
            v_left := v_left - 1;
            v_last_id := v_row.id;
            if v_by_time then
                v_row.revision := extract(epoch from v_row.updated_at) * 1000000;
            end if;
            if v_row.revision >= v_since or v_row.updated_at >= p_updated_since then
                v_changes := v_changes || json_build_object(
                    'organization_id', v_organization_id, 'id', v_row.id, 'version', v_row.version::text, 'revision', v_row.revision,
                    'is_new', v_row.created_at = v_row.updated_at, 'is_deleted', v_row.is_deleted);
            end if;
        end loop;
        exit when v_left = 0;
    end loop;
    return json_build_object(
        'position', v_position,
        'history', case when not v_by_time then app.wal_history() end,
        'changes', to_json(v_changes),
        'next', case when v_left = 0 then json_build_object('after_organization_id', v_organization_id, 'after_id', v_last_id) end);
end;
$$;

comment on function api.realtime_changes(uuid[], text, bigint, timestamptz, uuid, uuid, integer) is 'A step through all rows of batch_lookup_jobs or incentive_reports of some organizations, p_limit rows long: {position, history, changes: [{organization_id, id, version, revision, is_new, is_deleted}], next}. The changes are the rows that were written at the position p_since or later (on a cluster: whose updated_at is that late), or updated at p_updated_since or later, and those deleted then, for a day; is_new: not updated since they were inserted. next is the p_after_... of the following step; null: that was all. The position of the first step is the p_since for the next time, unless history is another one by then, as after a failover: positions of one cannot be compared with those of another (null: on a cluster, whose positions are times).';
