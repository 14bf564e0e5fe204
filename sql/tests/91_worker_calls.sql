begin;
select plan(10);
\ir fixtures.psql

select throws_ok($$ select api.schedule_worker_calls('https://api.example.com/functions/v1/batch-lookups-worker', 'key') $$, 'PT501', 'This database lacks pg_cron, pg_net, supabase_vault',
    'scheduling is refused where the extensions are missing');

-- Stand-ins for pg_cron, pg_net and Vault, which need Supabase. Schemas with these names are not enough.
create schema cron;
create schema net;
create schema vault;
select throws_ok($$ select api.schedule_worker_calls('https://api.example.com/functions/v1/batch-lookups-worker', 'key') $$, 'PT501', 'This database lacks pg_cron, pg_net, supabase_vault',
    'scheduling is refused where schemas have the names of the extensions');
set local allow_system_table_mods = on;
insert into pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
select (4000000000 + n)::oid, name, 10, schema::regnamespace, false, '1'
  from (values (1, 'pg_cron', 'cron'), (2, 'pg_net', 'net'), (3, 'supabase_vault', 'vault')) e (n, name, schema);
create table cron.job (jobid bigint generated always as identity, jobname text unique, schedule text, command text);
create function cron.schedule(job_name text, schedule text, command text) returns bigint language sql as
    $$ insert into cron.job (jobname, schedule, command) values ($1, $2, $3) on conflict (jobname) do update set schedule = $2, command = $3 returning jobid $$;
create function cron.unschedule(job_id bigint) returns boolean language sql as $$ delete from cron.job where jobid = $1 returning true $$;
\ir supabase.psql

select throws_ok($$ select api.schedule_worker_calls('api.example.com', 'key') $$, 'PT400', 'The URL of the worker endpoint and the service role key are required', 'the address must be a URL');
select api.schedule_worker_calls('https://old.example.com/functions/v1/batch-lookups-worker', 'old key');
select api.schedule_worker_calls('https://api.example.com/functions/v1/batch-lookups-worker', 'key', '10 seconds');
select results_eq('select jobname, schedule, command from cron.job', $$ values ('batch-lookups-worker', '10 seconds', 'select app.call_worker()') $$,
    'there is one schedule, however often it is requested');
select is(app.call_worker(), null, 'nothing is sent without work');
select pg_temp.submit(:'org', 1) as job \gset
select isnt(app.call_worker(), null, 'a call is sent when there is work');
select results_eq($$ select url, headers - 'content-type' from net.sent $$,
    $$ values ('https://api.example.com/functions/v1/batch-lookups-worker',
               '{"authorization": "Bearer key", "x-supabase-internal": "true", "prefer": "respond-async"}'::jsonb) $$, 'the call is authorized the way Supabase does it');
select pg_temp.look_up(:'org', 10), pg_temp.look_up(:'org', 10);
select is(app.call_worker(), null, 'nothing is sent when all is done');
select api.unschedule_worker_calls();
select is_empty('select from cron.job', 'no schedule remains afterwards');
select is_empty('select from vault.secrets', 'no secret remains afterwards');

select * from finish();
rollback;
