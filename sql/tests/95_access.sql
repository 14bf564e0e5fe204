begin;
select plan(16);
\ir fixtures.psql
select pg_temp.submit(:'org', 1) as job, pg_temp.submit(:'other_org', 1) as other_job \gset
select pg_temp.look_up(:'org', 1, 200, :'answer'), pg_temp.look_up(:'other_org', 1, 200, :'answer');

-- How many rows of a table a role with these claims sees.
create function pg_temp.seen(p_role text, p_claims text, p_table text) returns text
language plpgsql as $$
declare
    v_count bigint;
begin
    perform set_config('role', p_role, true), set_config('request.jwt.claims', p_claims, true);
    execute format('select count(*) from %s', p_table) into v_count;
    perform set_config('role', 'none', true);
    return v_count;
exception
    when insufficient_privilege then return 'denied';
end;
$$;

select is(pg_temp.seen('authenticated', json_build_object('organization_id', :'org')::text, t), '1', format('a member sees its own rows of %s', t))
  from unnest(array['public.batch_lookup_jobs', 'public.lookup_queue_items', 'public.incentive_reports', 'public.incentive_report_sites']) t;
select is(pg_temp.seen('authenticated', json_build_object('organization_id', :'org')::text, 'public.incentive_report_site_programs'), '2', 'and of public.incentive_report_site_programs');
select is(pg_temp.seen('authenticated', c, 'public.batch_lookup_jobs'), '0', format('claims %L show nothing and raise nothing', c))
  from unnest(array['', '{}', 'x', '[]', '{"organization_id": "org_1"}', '{"organization_id": 5}', '{"organization_id": null}']) c;
select is(pg_temp.seen('anon', '', 'public.batch_lookup_jobs'), 'denied', 'anon sees nothing');
select is(pg_temp.seen('batch_lookups_shell', '', 'public.batch_lookup_jobs'), 'denied', 'nor does the shell, which calls functions');
select is(pg_temp.seen('authenticated', '', 'app.api_keys'), 'denied', 'internal tables are internal');
select results_eq(
    $$ select tablename::text collate "default" from pg_publication_tables where pubname = 'supabase_realtime' order by 1 $$,
    $$ values ('batch_lookup_jobs'::text), ('incentive_reports') $$, 'Realtime is told of jobs and reports, never items');

select * from finish();
rollback;
