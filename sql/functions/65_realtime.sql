-- Chapter 65, Realtime: tells subscribers about changes of jobs and reports. The commit sends a notification, which is only a hint: the
-- listener reads the row with the subscriber's claims, and polls for changes that it missed.

create or replace function app.announce(p_change text, p_table text, p_organization_id uuid, p_id uuid) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    perform pg_notify('batch_lookups_changes', concat_ws(' ', p_change, p_table, p_organization_id, p_id));
end;
$$;

comment on function app.announce(text, text, uuid, uuid) is 'Notifies listeners, at the commit, that a row of a published table was inserted, updated or deleted.';

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
    if p_table = 'batch_lookup_jobs' then
        return (select to_json(j) from public.batch_lookup_jobs j where j.organization_id = p_organization_id and j.id = p_id);
    elsif p_table = 'incentive_reports' then
        return (select to_json(r) from public.incentive_reports r where r.organization_id = p_organization_id and r.id = p_id);
    end if;
    return null;
end;
$$;

comment on function api.realtime_record(text, uuid, uuid) is 'One row of batch_lookup_jobs or incentive_reports as an object; null: the caller''s claims do not show it.';
grant execute on function api.realtime_record(text, uuid, uuid) to authenticated;

create or replace function api.realtime_changes(p_organization_ids uuid[], p_since timestamptz default null) returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now   timestamptz := app.clock();
    -- Rows are stamped before their commit.
    v_since timestamptz := p_since - interval '10 seconds';
begin
    return json_build_object(
        'now', v_now,
        'changes', (
            select coalesce(json_agg(json_build_object('table', c.name, 'organization_id', c.organization_id, 'id', c.id, 'updated_at', c.updated_at)), '[]')
              from unnest(p_organization_ids) o (id)
             cross join lateral (
                   (select 'batch_lookup_jobs' as name, j.organization_id, j.id, j.updated_at
                      from (select * from public.batch_lookup_jobs where organization_id = o.id order by created_at desc, id desc limit 200) j
                     where j.updated_at >= v_since)
                   union
                   (select 'batch_lookup_jobs', j.organization_id, j.id, j.updated_at
                      from public.batch_lookup_jobs j
                     where j.organization_id = o.id and j.status in ('pending', 'processing') and j.updated_at >= v_since
                     limit 200)
                   union all
                   (select 'incentive_reports', r.organization_id, r.id, r.updated_at
                      from (select * from public.incentive_reports where organization_id = o.id order by created_at desc, id desc limit 200) r
                     where r.updated_at >= v_since)) c));
end;
$$;

comment on function api.realtime_changes(uuid[], timestamptz) is 'Changes since p_since in the open and the newest jobs and reports of the given organizations: {now, changes: [{table, organization_id, id, updated_at}]}. For those who may have missed a notification.';
