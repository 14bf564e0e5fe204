-- Who sees and may do what: every table and every function, as every role, with claims of organization A (Acme), of B (Globex), with
-- none and with malformed ones. What is not listed here is closed to all but operators.
begin;
select plan(11);
\ir fixtures.psql
select pg_temp.submit(:'org', 2) as job, pg_temp.submit(:'other_org', 2) as other_job \gset
select api.create_batch_lookup(o.id, pg_temp.items(1, '{"metadata": {"owner": "Kim"}}') || '{"labels": {"team": "north"}}') from (values (:'org'::uuid), (:'other_org')) o (id);
select api.create_upload(o.id, pg_temp.items(1)) from (values (:'org'::uuid), (:'other_org')) o (id);
select pg_temp.look_up(:'org', 1, 200, :'answer'), pg_temp.look_up(:'other_org', 1, 200, :'answer');
select pg_temp.look_up(:'org', 1, 500), pg_temp.look_up(:'other_org', 1, 500);
select count(*) from api.claim_lookups(:'org', 'w', 1) union all select count(*) from api.claim_lookups(:'other_org', 'w', 1);
select app.file_applications(o.id, app.customer_id(o.id, 'site-1', now()), 'site-1', :'answer', now())
  from (values (:'org'::uuid), (:'other_org')) o (id);

create temp table callers (caller text, role text, claims text) on commit drop;
insert into callers values
    ('anon',         'anon',                '{}'),
    ('A',            'authenticated',       json_build_object('role', 'authenticated', 'organization_id', :'org')),
    ('B',            'authenticated',       json_build_object('role', 'authenticated', 'organization_id', :'other_org')),
    ('no claims',    'authenticated',       ''),
    ('malformed',    'authenticated',       '{"organization_id": '),
    ('service_role', 'service_role',        '{"role": "service_role"}'),
    ('shell',        'batch_lookups_shell', ''),
    ('dashboard',    'batch_lookups_readonly', '');

create temp table kinds (kind text, caller text, outcome text) on commit drop;
insert into kinds
select k.kind, c.caller, c.outcome
  from (values
        --  kind of table or function   anon      A         B          no claims  malformed  service_role  shell      dashboard
        ('rows of an organization',     'denied', 'of A',   'of B',    'none',    'none',    'of A, of B', 'denied', 'denied'),
        ('rows that a view shows',      'denied', 'of A',   'of B',    'none',    'none',    'of A, of B', 'denied', 'of A, of B'),
        ('rows with some columns',      'denied', 'denied', 'denied',  'denied',  'denied',  'of A, of B', 'denied', 'denied'),
        ('rows that admins see',        'denied', 'of A',   'of B',    'none',    'none',    'of A, of B, some', 'denied', 'denied'),
        ('a view of those',             'denied', 'of A',   'of B',    'none',    'none',    'of A, of B, some', 'denied', 'of A, of B, some'),
        ('operators'' rows',            'denied', 'denied', 'denied',  'denied',  'denied',  'some',       'denied', 'some'),
        ('no rows, but columns',        'denied', 'none',   'none',    'none',    'none',    'none',       'denied', 'none'),
        ('internal rows',               'denied', 'denied', 'denied',  'denied',  'denied',  'denied',     'denied', 'denied'),
        ('call for organization A',     'denied', 'may',    'refused', 'refused', 'refused', 'may',        'may',    'denied'),
        ('call with one''s own rights', 'denied', 'may',    'may',     'may',     'may',     'may',        'may',    'denied'),
        ('select with those rights',    'denied', 'may',    'may',     'may',     'may',     'may',        'denied', 'denied'),
        ('call for operators',          'denied', 'denied', 'denied',  'denied',  'denied',  'may',        'may',    'denied')
       ) k (kind, anon, a, b, no_claims, malformed, service_role, shell, dashboard)
 cross join lateral (values ('anon', anon), ('A', a), ('B', b), ('no claims', no_claims), ('malformed', malformed),
                            ('service_role', service_role), ('shell', shell), ('dashboard', dashboard)) c (caller, outcome);

create temp table tables (name text, kind text) on commit drop;
insert into tables values
    ('public.batch_lookup_jobs',              'rows of an organization'),
    ('public.lookup_queue_items',             'rows of an organization'),
    ('public.lookup_job_columns',             'rows of an organization'),
    ('public.batch_lookup_job_labels',        'rows that a view shows'),
    ('public.lookup_item_sources',            'rows that a view shows'),
    ('public.lookup_leases',                  'rows with some columns'),
    ('public.lookup_attempts',                'rows of an organization'),
    ('public.lookup_uploads',                 'rows of an organization'),
    ('public.lookup_upload_rows',             'rows that a view shows'),
    ('api.uploads',                           'rows that a view shows'),
    ('api.upload_rows',                       'rows that a view shows'),
    ('public.lookup_usage',                   'rows that a view shows'),
    ('public.incentive_reports',              'rows of an organization'),
    ('public.incentive_report_sites',         'rows of an organization'),
    ('public.incentive_report_site_programs', 'rows that a view shows'),
    ('public.applications',                   'rows of an organization'),
    ('api.jobs',                              'rows that a view shows'),
    ('api.items',                             'rows that a view shows'),
    ('api.usage',                             'rows that a view shows'),
    ('api.reports',                           'rows that a view shows'),
    ('api.report_sites',                      'rows that a view shows'),
    ('api.report_programs',                   'rows that a view shows'),
    ('app.work_minutes',                      'rows of an organization'),
    ('api.work_history',                      'rows that a view shows'),
    ('app.audit_events',                      'rows that admins see'),
    ('api.audit_events',                      'a view of those'),
    ('api.sites',                             'no rows, but columns'),
    ('api.queue_health',                      'operators'' rows');
insert into tables
select relnamespace::regnamespace || '.' || relname, 'internal rows' from pg_class
 where relnamespace::regnamespace::text in ('public', 'app', 'api') and relkind in ('r', 'p', 'v', 'm')
   and relnamespace::regnamespace || '.' || relname not in (select name from tables)
   and not exists (select from pg_depend where classid = 'pg_class'::regclass and objid = pg_class.oid and deptype = 'e');

create temp table functions (name text, kind text) on commit drop;
insert into functions values
    ('api.create_batch_lookup',     'call for organization A'),
    ('api.submit_batch_lookup',     'call for organization A'),
    ('api.list_batch_lookups',      'call for organization A'),
    ('api.get_batch_lookup',        'call for organization A'),
    ('api.list_batch_lookup_items', 'call for organization A'),
    ('api.get_batch_lookup_results', 'call for organization A'),
    ('api.retry_batch_lookup',      'call for organization A'),
    ('api.submit_retry',            'call for organization A'),
    ('api.delete_batch_lookup',     'call for organization A'),
    ('api.requeue_item',            'call for organization A'),
    ('api.explain_item',            'call for organization A'),
    ('api.continue_batch_lookup',   'call for organization A'),
    ('api.get_usage',               'call for organization A'),
    ('api.cancel_batch_lookup',     'call for organization A'),
    ('api.create_upload',           'call for organization A'),
    ('api.submit_upload',           'call for organization A'),
    ('api.list_uploads',            'call for organization A'),
    ('api.get_upload',              'call for organization A'),
    ('api.get_upload_rows',         'call for organization A'),
    ('api.update_upload',           'call for organization A'),
    ('api.start_upload',            'call for organization A'),
    ('api.delete_upload',           'call for organization A'),
    ('api.list_incentive_reports',  'call for organization A'),
    ('api.get_incentive_report',    'call for organization A'),
    ('api.get_incentive_report_summary', 'call for organization A'),
    ('api.get_incentive_report_csv', 'call for organization A'),
    ('api.share_incentive_report',  'call for organization A'),
    ('api.list_incentive_report_shares', 'call for organization A'),
    ('api.revoke_incentive_report_share', 'call for organization A'),
    ('api.diff_incentive_reports',  'call for organization A'),
    ('api.update_incentive_report', 'call for organization A'),
    ('api.delete_incentive_report', 'call for organization A'),
    ('api.get_organization',        'call for organization A'),
    ('api.update_organization',     'call for organization A'),
    ('api.list_audit_events',       'call for organization A'),
    ('api.get_me',                  'call for organization A'),
    ('api.list_devices',            'call with one''s own rights'),
    ('api.list_device_categories',  'call with one''s own rights'),
    ('api.list_regions',            'call with one''s own rights'),
    ('api.find_utilities',          'call with one''s own rights'),
    ('api.list_applications',       'call for organization A'),
    ('api.get_application',         'call for organization A'),
    ('api.update_application',      'call for organization A'),
    ('api.get_webhook_config',      'call for organization A'),
    ('api.list_webhook_deliveries', 'call for organization A'),
    ('api.get_webhook_delivery',    'call for organization A'),
    ('api.lookup_incentives',       'call for organization A'),
    ('api.realtime_record',         'call with one''s own rights'),
    ('api.realtime_match',          'call with one''s own rights'),
    ('api.create_batch_lookup_from', 'call with one''s own rights'),
    ('api.create_upload_from',      'call with one''s own rights'),
    ('api.file_of_table',           'call with one''s own rights'),
    ('api.jobs',                    'select with those rights'),
    ('api.reports',                 'select with those rights'),
    ('api.report_sites',            'select with those rights'),
    ('api.report_programs',         'select with those rights'),
    ('api.wait_for_batch',          'select with those rights');
insert into functions
select 'api.' || proname, 'call for operators' from pg_proc
 where pronamespace = 'api'::regnamespace and 'api.' || proname not in (select name from functions);

create function pg_temp.become(p_role text, p_claims text) returns void
language sql as $$ select set_config('role', p_role, true), set_config('request.jwt.claims', p_claims, true) $$;

-- Whose rows a caller sees: of A, of B, both, none or some that are nobody's.
create function pg_temp.sees(p_role text, p_claims text, p_table text, p_a uuid, p_b uuid) returns text
language plpgsql as $$
declare
    v_seen text;
begin
    perform pg_temp.become(p_role, p_claims);
    execute format($q$ select coalesce(string_agg(distinct case r ->> 'organization_id' when %L then 'of A' when %L then 'of B' else 'some' end, ', '), 'none')
                         from (select to_jsonb(t) as r from %s t) s $q$, p_a, p_b, p_table) into v_seen;
    perform pg_temp.become('none', '');
    return v_seen;
exception
    when insufficient_privilege then return 'denied';
end;
$$;

-- Whether a caller may call a function for an organization; whatever the call does is undone.
create function pg_temp.calls(p_role text, p_claims text, p_function regprocedure, p_organization_id uuid) returns text
language plpgsql as $$
declare
    v_arguments text := (select string_agg(case when n.name = 'p_organization_id' then format('p_organization_id => %L', p_organization_id)
                                                else format('%I => null::%s', n.name, t.type::regtype) end, ', ')
                           from pg_proc p
                          cross join lateral unnest(p.proargtypes) with ordinality t (type, n)
                          cross join lateral (select p.proargnames[t.n]) n (name)
                          where p.oid = p_function);
begin
    perform pg_temp.become(p_role, p_claims);
    execute format('select %s(%s)', p_function::regproc, v_arguments);
    raise sqlstate 'UNDO1';
exception
    when insufficient_privilege then return 'denied';
    when sqlstate 'PT403' then return 'refused';
    when others then return 'may';
end;
$$;

create temp table seen on commit drop as
select t.name, t.kind, c.caller, k.outcome as want, pg_temp.sees(c.role, c.claims, t.name, :'org', :'other_org') as have
  from tables t join kinds k using (kind) join callers c using (caller);
select is_empty('select * from seen where have is distinct from want', 'everybody sees their own rows, and no others');

create temp table called on commit drop as
select f.name, f.kind, c.caller, k.outcome as want, pg_temp.calls(c.role, c.claims, p.oid, :'org') as have
  from functions f join kinds k using (kind) join callers c using (caller)
  join pg_proc p on p.pronamespace = 'api'::regnamespace and 'api.' || p.proname = f.name;
select is_empty('select * from called where have is distinct from want', 'everybody may call the functions for them, and no others');

-- What a role in Clerk's organization may call there.
create temp table called_by_role on commit drop as
select f.name, p.provolatile, r.role,
       pg_temp.calls('authenticated', json_build_object('sid', 's', 'v', 2, 'o', json_build_object('id', 'org_2ab', 'rol', r.role))::text, p.oid, c.id) as have
  from functions f
  join pg_proc p on p.pronamespace = 'api'::regnamespace and 'api.' || p.proname = f.name
 cross join unnest(array['viewer', 'member', 'admin']) r (role)
 cross join (select api.create_organization('Acme of Clerk', 'org_2ab') as id) c
 where f.kind = 'call for organization A';
select set_eq(
    $$ select name from called_by_role where role = 'viewer' and have <> 'may' $$,
    $$ select name from called_by_role where provolatile = 'v' or name = 'api.list_audit_events' $$,
    'a role that may only read calls nothing that changes anything');
select set_eq(
    $$ select name from called_by_role where role = 'member' and have <> 'may' $$,
    array['api.list_audit_events', 'api.update_organization'],
    'a member may call everything except functions for admins');
select is_empty($$ select name from called_by_role where role = 'admin' and have <> 'may' $$, 'an admin may call everything that members may');

-- Nothing that takes JSON from a caller makes text of it first: 1e131071 has 131,072 digits. What operators and our own processes pass is
-- checked before.
create function pg_temp.answer_to_bomb(p_function regprocedure, p_parameter text, p_organization_id uuid) returns text
language plpgsql as $$
declare
    v_organization constant text := format('p_organization_id => %L', p_organization_id);
    v_key          constant uuid := (select id from app.api_keys where organization_id = p_organization_id limit 1);
    v_report       constant uuid := (select id from public.incentive_reports where organization_id = p_organization_id limit 1);
begin
    execute (select format('select %s(%s)', p_function::regproc, string_agg(
                        case n.name when p_parameter then format('%I => %L', p_parameter, '{"a": [1e131071]}')
                                    when 'p_organization_id' then v_organization
                                    when 'p_api_key_id' then format('p_api_key_id => %L', v_key)
                                    when 'p_report_id' then format('p_report_id => %L', v_report)
                                    when 'p_token_hash' then 'p_token_hash => sha256('''')'
                                    when 'p_table' then 'p_table => ''api.sites'''
                                    else format('%I => null::%s', n.name, t.type::regtype) end, ', '))
               from pg_proc p
              cross join lateral unnest(p.proargtypes) with ordinality t (type, n)
              cross join lateral (select p.proargnames[t.n]) n (name)
              where p.oid = p_function
                and (t.n <= p.pronargs - p.pronargdefaults or n.name in ('p_organization_id', 'p_api_key_id', 'p_report_id', 'p_token_hash', p_parameter)));
    return 'an answer';
exception
    when others then return sqlerrm;
end;
$$;
select api.create_api_key(:'org', sha256('x'), 'leap_live_', 'abcd') as key \gset
select is_empty(format(
    $$ select p.proname, p.proargnames[t.n], a.answer
         from pg_proc p
        cross join lateral unnest(p.proargtypes) with ordinality t (type, n)
        cross join lateral pg_temp.answer_to_bomb(p.oid, p.proargnames[t.n], %L) a (answer)
        where p.pronamespace = 'api'::regnamespace and t.type = 'jsonb'::regtype
          and p.proname not in ('import_catalogue', 'log_refused_lookup', 'update_settings')
          and a.answer <> 'The body contains a number that is out of range' and a.answer !~ '^labels must be' $$, :'org'),
    'functions that take JSON refuse numbers out of range before they read it');

select is(has_column_privilege('authenticated', 'public.lookup_leases', 'worker', 'select'), false, 'members do not see on which hosts workers run');
select set_eq(
    $$ select distinct p.proname::text from pg_proc p, unnest(array['anon', 'authenticated', 'service_role', 'batch_lookups_shell']) r
        where p.pronamespace = 'app'::regnamespace and has_schema_privilege(r, 'app', 'usage') and has_function_privilege(r, p.oid, 'execute') $$,
    array['claimed_admin_organization_id', 'claimed_organization_id', 'clerk_organization_id_of_claims', 'clock', 'organization_id_of_claims', 'organization_id_of_clerk', 'refuse']
    || case when app.is_distributed() then array['is_distributed', 'spans_nodes', 'claimed_record'] else '{}' end, 'members may execute only the internal functions that policies and views call and that refuse');

-- A policy is evaluated once for a statement, not once for each row.
insert into public.lookup_queue_items
select (jsonb_populate_record(i, jsonb_build_object('id', gen_random_uuid(), 'position', n, 'reference_id', 'more-' || n))).*
  from (select i from public.lookup_queue_items i where i.organization_id = :'org' limit 1) one (i), generate_series(1000, 3000) n;
analyze public.lookup_queue_items;
create function pg_temp.member_plan(p_query text) returns text
language plpgsql as $$
declare
    v_plan json;
begin
    perform pg_temp.become('authenticated', (select claims from callers where caller = 'A'));
    execute 'explain (format json) ' || p_query into v_plan;
    perform pg_temp.become('none', '');
    return v_plan;
end;
$$;
select matches(pg_temp.member_plan('select count(*) from api.items'), '"Index Cond": "[^"]*claimed_organization_id', 'a member''s items are found by the index');

-- Claims of any form: nothing raises.
select results_eq(
    $$ select c.claims, case pg_temp.sees('authenticated', c.claims, 'public.batch_lookup_jobs', null, null) when 'none' then 'nothing' else 'rows' end
         from (values ('x'), ('[]'), ('5'), ('null'), ('{"organization_id": "org_1"}'), ('{"organization_id": 5}'), ('{"organization_id": {}}'), ('{"o": 5}'),
                      ('{"o": {"id": "org_"}}'), ('{"org_id": "org_\u0000"}'), ('{"org_id": "x"}'), (repeat('[', 20000)), (repeat('{"o":', 20000))) c (claims) $$,
    $$ select c, 'nothing'
         from unnest(array['x', '[]', '5', 'null', '{"organization_id": "org_1"}', '{"organization_id": 5}', '{"organization_id": {}}', '{"o": 5}',
                           '{"o": {"id": "org_"}}', '{"org_id": "org_\u0000"}', '{"org_id": "x"}', repeat('[', 20000), repeat('{"o":', 20000)]) c $$,
    'odd claims show nothing and raise nothing');
select results_eq(
    $$ select tablename::text collate "default" from pg_publication_tables where pubname = 'supabase_realtime' order by 1 $$,
    $$ values ('batch_lookup_jobs'::text), ('incentive_reports') $$, 'Realtime publishes jobs and reports, never items');

select * from finish();
rollback;
