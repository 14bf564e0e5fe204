begin;
select plan(26);
\ir fixtures.psql

create function pg_temp.trail(p_organization_id uuid default null) returns setof text
language plpgsql as $$
begin
    return query
    select concat_ws(' ', action, actor_type, actor_id) from app.audit_events where organization_id = coalesce(p_organization_id, app.installation_id()) order by id, action;
end;
$$;

-- Who
select results_eq(format('select * from pg_temp.trail(%L)', :'org'), $$ values ('organization.created operator ' || current_setting('session_authorization')) $$, 'an organization''s trail begins with its creation');
select api.create_api_key(:'org', sha256('secret'), 'leap_live_', 'cret', 'first') ->> 'id' as key \gset
select api.create_api_key(:'org', sha256('made'), 'leap_live_', 'made', 'made', p_created_by => :'key') ->> 'id' as made \gset
select api.rotate_api_key(:'org', :'made', sha256('next'), 'next', p_created_by => 'user_1') ->> 'id' as next \gset
select api.revoke_api_key(:'org', :'key', p_include_created => true, p_actor => 'user_1') as revoked \gset
select results_eq(
    format($$ select concat_ws(' ', action, actor_type, actor_id), target_id from app.audit_events where organization_id = %L and action like 'api_key.%%' order by id, target_id $$, :'org'),
    format($$ values ('api_key.created operator ' || current_setting('session_authorization'), %1$L), ('api_key.created api_key %1$s', %2$L), ('api_key.created user user_1', %3$L), ('api_key.rotated user user_1', %2$L),
                     ('api_key.revoked user user_1', %1$L), ('api_key.revoked user user_1', %2$L) $$, :'key', :'made', :'next'),
    'each key that is created, rotated or revoked is recorded, with who did it');
select is((select details - 'expires_at' from app.audit_events where target_id = :'key' and action = 'api_key.created'),
    jsonb_build_object('name', 'first', 'prefix', 'leap_live_', 'last_four', 'cret', 'scopes', app.all_scopes(), 'allowed_networks', null), 'the scopes of a key are recorded');
select is((select details from app.audit_events where action = 'api_key.rotated'), jsonb_build_object('replaced_by', :'next'), 'the successor of a key is recorded');
select is(api.revoke_api_key(:'org', :'key') ->> 'name', 'first', 'a key can be revoked again');
select is((select count(*) from app.audit_events where action = 'api_key.revoked')::integer, 2, 'a revocation that changes nothing is not recorded');

select set_config('role', 'authenticated', true), set_config('request.jwt.claims', json_build_object('sub', 'user_2', 'organization_id', :'org')::text, true) \gset member_
select api.update_organization(:'org', '{"company": "acme"}', 'user_1') as changed \gset
reset role;
select is((select concat_ws(' ', actor_type, actor_id, details) from app.audit_events where action = 'organization.changed'), 'user user_2 {"changed": ["company"]}',
    'a member who calls by SQL is the user of the claims, whoever they say they are');
set local role batch_lookups_shell;
select api.update_organization(:'org', '{"company": null}') as changed \gset
reset role;
select is((select actor_type || ' ' || actor_id from app.audit_events where action = 'organization.changed' order by id desc limit 1), 'operator ' || current_setting('session_authorization'),
    'an operator on the command line is known by the role that logged in');

select api.set_monthly_lookups(:'org', 500), api.set_monthly_lookups(:'org', 500) \gset limited_
select results_eq($$ select details from app.audit_events where action = 'organization.changed' and actor_type = 'operator' and details ? 'monthly_lookups' $$,
    $$ values ('{"changed": ["monthly_lookups"], "monthly_lookups": {"from": null, "to": 500}}'::jsonb) $$, 'a monthly limit is recorded once, with the previous one');

-- What
select api.set_webhook_config(:'org', '{"url": "https://example.com/?token=hidden", "events": ["lookup.completed"]}', p_actor => 'user_1') ->> 'signing_secret' as secret \gset
select api.rotate_webhook_secret(:'org', p_actor => 'user_1') ->> 'signing_secret' as next_secret \gset
select app.disable_webhooks(:'org', 'gone', now()), app.disable_webhooks(:'org', 'gone', now());
select api.delete_webhook_config(:'org', 'user_1') as deleted \gset
select set_eq($$ select concat_ws(' ', action, actor_type, details) from app.audit_events where action like 'webhooks.%' $$,
    array['webhooks.changed user {"changed": ["events", "url"]}', 'webhooks.secret_rotated user {}', 'webhooks.disabled system {"reason": "gone"}', 'webhooks.deleted user {}'],
    'each change of webhooks is recorded with the names of what changed');
select is_empty(format($$ select from app.audit_events e where e::text like any (array['%%hidden%%', '%%' || %L || '%%', '%%' || %L || '%%', '%%' || encode(sha256('secret'), 'hex') || '%%']) $$, :'secret', :'next_secret'),
    'no secret is recorded');
select api.update_settings('{"lookups_per_second": 5, "max_in_flight": 50}') as settings, api.pause_lookups(60), api.resume_lookups() \gset
select is((select details from app.audit_events where action = 'settings.changed' order by id desc limit 1), '{"lookups_per_second": {"from": null, "to": 5}}',
    'a change of settings is recorded with the values before and after');
select results_eq('select * from pg_temp.trail() offset 2', $$ select a || ' operator ' || current_setting('session_authorization') from unnest(array['settings.changed', 'lookups.paused', 'lookups.resumed']) a $$, 'events of the installation are in its own trail');
select api.rename_organization(:'other_org', 'Initech'), api.delete_organization(:'other_org') \gset
select set_eq(format($$ select action || details::text from app.audit_events where organization_id = %L and action <> 'organization.created' $$, :'other_org'),
    array['organization.renamed{"name": {"to": "Initech", "from": "Globex"}}', 'organization.deleted{"name": "Initech"}'], 'the trail of a deleted organization stays');
select app.create_clerk_organization('org_2abCD', 'initech') as clerk \gset
select is((select details from app.audit_events where organization_id = :'clerk'), '{"name": "clerk:initech", "clerk_organization_id": "org_2abCD"}', 'an organization created by its members names its Clerk organization');
select api.create_organization('Acme', 'org_ofAcme') as linked \gset
select is((select details ->> 'clerk_organization_id' from app.audit_events where organization_id = :'org' and action = 'organization.linked'), 'org_ofAcme', 'a link to Clerk is recorded');

-- Reading it
select is(api.list_audit_events(:'org', p_limit => 2)::jsonb #>> '{audit_events,0,action}', 'organization.linked', 'the newest event comes first');
select is(
    (with recursive pages as (
        select api.list_audit_events(:'org', p_limit => 3)::jsonb as page
         union all
        select api.list_audit_events(:'org', p_limit => 3, p_cursor => page ->> 'next_cursor')::jsonb from pages where page ->> 'next_cursor' is not null)
     select count(distinct e -> 'id') from pages, jsonb_array_elements(page -> 'audit_events') e)::integer,
    (select count(*) from app.audit_events where organization_id = :'org')::integer, 'the pages of a trail contain each event once');
select is((select string_agg(e ->> 'action', ' ') from jsonb_array_elements(api.list_audit_events(:'org', 'webhooks.deleted')::jsonb -> 'audit_events') e), 'webhooks.deleted', 'one action can be listed');
select count(*) as events from app.audit_events where organization_id = :'org' \gset
select is((api.list_audit_events(:'org', p_limit => 1)::jsonb -> 'total')::integer, :events, 'the total counts the events of one organization');
select is((api.list_audit_events(:'org', 'webhooks.deleted')::jsonb -> 'total')::integer, 1, 'the total of one action counts that action');
select is(api.list_audit_events(:'org', p_limit => :events)::jsonb ->> 'next_cursor', null, 'a page with all events has no next one');
select throws_ok(format($$ select api.list_audit_events(%L, '%%') $$, :'org'), 'PT400', 'action must be the name of an action, such as api_key.created', 'an action has a form');
select set_config('role', 'authenticated', true), set_config('request.jwt.claims', json_build_object('sid', 's', 'org_role', 'org:member', 'org_id', 'org_2abCD')::text, true) \gset viewer_
select count(*) as seen from api.audit_events \gset
reset role;
select is(:seen, 0, 'a member who is not an admin sees no events');
update app.audit_events set created_at = '2020-01-01 00:00:00+00' where organization_id = :'org' and action in ('webhooks.deleted', 'organization.linked');
select count(*) as events from app.audit_events \gset
select app.prune_audit_events(now()) as pruned \gset
select is(row(:pruned, (select count(*) from app.audit_events))::text, row(2, :events - 2)::text, 'only events whose retention has passed are deleted, and counted');
select pg_temp.turn_clock(now() + interval '731 days');
select app.prune_audit_events(app.clock()) as pruned \gset
select is_empty('select from app.audit_events', 'events are deleted when their retention has passed');

select * from finish();
rollback;
