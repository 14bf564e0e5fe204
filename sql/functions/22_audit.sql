-- Chapter 22, audit: records who did what, and lists it.

-- The id that stands for the installation itself among the organizations.
create or replace function app.installation_id() returns uuid
language sql immutable
return '00000000-0000-0000-0000-000000000000'::uuid;

-- p_actor is the id of an API key or a user, as the HTTP API knows it, or system; for a member who calls by SQL, the claims decide. The
-- number in the id keeps events of one millisecond in order.
create or replace function app.audit(
    p_organization_id uuid, p_action text, p_actor text default null, p_target_id text default null, p_details jsonb default '{}'
) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now  timestamptz := app.clock();
    v_role text        := app.calling_role();
begin
    insert into app.audit_events (organization_id, id, action, actor_type, actor_id, target_id, details, created_at)
    select p_organization_id, app.numbered_uuid_v7(app.uuid_v7(v_now), extract(microseconds from v_now)::integer % 1000 * 16), p_action, a.type, left(a.id, 200), p_target_id, p_details, v_now
      from (select 'user' as type, app.claimed_subject() as id where v_role = 'authenticated'
             union all
            select 'system', null where p_actor = 'system'
             union all
            select case when p_actor ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then 'api_key' else 'user' end, p_actor where p_actor <> ''
             union all
            select 'operator', case v_role when 'batch_lookups_shell' then session_user else v_role end) a
     limit 1;
end;
$$;

comment on function app.audit(uuid, text, text, text, jsonb) is 'Adds an event to app.audit_events in this transaction.';

-- The members that differ, each with both values.
create or replace function app.differences(p_before jsonb, p_after jsonb) returns jsonb
language sql immutable
return (select coalesce(jsonb_object_agg(a.key, jsonb_build_object('from', p_before -> a.key, 'to', a.value)), '{}')
          from jsonb_each(p_after) a
         where a.value is distinct from p_before -> a.key);

create or replace function app.member_names(p_object jsonb) returns text[]
language sql immutable
return array(select jsonb_object_keys(p_object) order by 1);

create or replace function app.audit_event_json(p_event app.audit_events) returns json
language sql stable
as $$
    select json_build_object(
        'id', (p_event).id,
        'organization_id', (p_event).organization_id,
        'action', (p_event).action,
        'actor', json_build_object('type', (p_event).actor_type, 'id', (p_event).actor_id),
        'target_id', (p_event).target_id,
        'details', (p_event).details,
        'created_at', app.rfc3339((p_event).created_at)
    )
$$;

create or replace function api.list_audit_events(
    p_organization_id uuid    default app.claimed_organization_id(),
    p_action          text    default null,
    p_limit           integer default 50,
    p_offset          integer default 0,
    p_cursor          text    default null
) returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_cursor app.page_cursor;
    v_events app.audit_events[];
begin
    perform app.authorize(p_organization_id, 'keys:admin');
    v_cursor := app.read_page(p_cursor, 'audit_events', p_limit, p_offset, 500);
    if p_action !~ '^[a-z_]+\.[a-z_]+$' then
        perform app.refuse_option('action', 'the name of an action, such as api_key.created');
    end if;
    select coalesce(array_agg(row(e.*)::app.audit_events), '{}') into v_events
      from (select *
              from app.audit_events
             where organization_id = p_organization_id and (p_action is null or action = p_action) and (p_cursor is null or id < v_cursor.id)
             order by id desc
             limit p_limit + 1 offset p_offset) e;
    return json_build_object(
        'audit_events', (select coalesce(json_agg(app.audit_event_json(e) order by e.id desc), '[]') from unnest(v_events[:p_limit]) e),
        'total', (select count(*) from app.audit_events where organization_id = p_organization_id and (p_action is null or action = p_action)),
        'limit', p_limit,
        'offset', p_offset,
        'next_cursor', case when cardinality(v_events) > p_limit
                            then app.cursor(row('audit_events', null, null, null, null, v_events[p_limit].id, null)) end);
end;
$$;

comment on function api.list_audit_events(uuid, text, integer, integer, text) is
'The audit events of an organization, newest first: who created, changed, revoked or linked what. {audit_events: [{id, organization_id, action, actor {type, id}, target_id, details, created_at}], total, limit, offset, next_cursor}. p_action lists one action only, such as api_key.created; p_cursor is the next_cursor of the page before. For admins. 400: limit not in 1 to 500, invalid_action, invalid_cursor, cursor_with_offset.';
grant execute on function api.list_audit_events(uuid, text, integer, integer, text) to authenticated;

create or replace function app.prune_audit_events(p_now timestamptz, p_limit integer default 10000) returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_before timestamptz := (select p_now - make_interval(days => audit_retention_days) from app.settings);
    v_some   record;
    v_count  integer := 0;
begin
    for v_some in
        select organization_id, array_agg(id) as ids
          from (select organization_id, id from app.audit_events where created_at < v_before order by created_at limit p_limit) e
         group by organization_id
    loop
        delete from app.audit_events where organization_id = v_some.organization_id and id = any (v_some.ids);
        v_count := v_count + cardinality(v_some.ids);
    end loop;
    return v_count;
end;
$$;
