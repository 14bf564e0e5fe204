begin;
select plan(18);
\ir fixtures.psql
-- What a check found.
create function pg_temp.found(p_check text) returns text
language sql as $$ select string_agg(state || ': ' || finding, '; ') from api.diagnose() where "check" = p_check $$;

select pg_temp.turn_clock('2026-11-24 12:00:00+00');
select count(*) from api.heartbeat('w') \gset heard_
select api.run_maintenance() as ran \gset
select is_empty($$ select * from api.diagnose() where state <> 'ok' and "check" not in ('pg_cron', 'workers') $$, 'all is well with a new deployment');
update app.workers set seen_at = now();
select is(pg_temp.found('workers'), 'ok: 1 worker has sent a heartbeat in the last 15 seconds', 'one worker is reported in the singular');
select pg_temp.submit(:'org', 4) as job \gset
select pg_temp.look_up(:'org', 1, 200, :'answer'), pg_temp.look_up(:'org', 1, 404), pg_temp.look_up(:'org', 1, 403);
select is(pg_temp.found('lookups'), 'problem: the incentives API refused our credentials for 1 item in the last quarter of an hour', 'refused credentials take precedence over other failures');
select pg_temp.turn_clock('2026-11-24 12:14:00+00');
select is(pg_temp.found('maintenance'), 'problem: maintenance last ran at 2026-11-24T12:00:00.000Z', 'the finding about stopped maintenance has its last run');
delete from app.workers;
select is(pg_temp.found('workers'), 'problem: 1 organization has work, and no worker runs', 'work without a worker is a problem');
select pg_temp.turn_clock('2026-11-24 12:16:00+00');
select is(pg_temp.found('lookups'), 'ok: 0 of 0 items failed in the last quarter of an hour', 'failures of long ago are no longer reported');
select count(*) from api.heartbeat('w') \gset heard_
update app.workers set seen_at = now();
select is(pg_temp.found('unserved'), 'problem: an organization with ready items has not been served for 960 seconds', 'an organization that nobody serves is a problem');
update app.upstream_state set unavailable_since = '2026-11-24 12:15+00', consecutive_failures = 12, probe_at = '-infinity';
select is(pg_temp.found('upstream'), 'problem: the incentives API has not answered since 2026-11-24T12:15:00.000Z (12 failures in a row)', 'the finding about an outage has its beginning');
select is(pg_temp.found('unserved'), null, 'in an outage no transaction is blamed for organizations that are not served');
select matches((select advice from api.diagnose() where "check" = 'upstream'), '^The log of the workers has its errors',
    'only a worker knows whether it meets another service or another key');
update app.upstream_state set unavailable_since = null, paused_until = now() + interval '1 hour';
select matches(pg_temp.found('upstream'), '^warning: lookups are paused until \S+, by the incentives API or by an operator$',
    'a pause of an operator is not blamed on the incentives API');
select count(*) from api.set_webhook_config(:'org', '{"url": "https://crm.example.com/hooks"}') \gset configured_
update app.webhook_configs set failing_since = '2026-11-24 11:00:00+00';
select is((select row(state, advice)::text from api.diagnose() where "check" = 'receivers'),
    '(warning,"Tell the organization: its webhook deliveries show what the receiver answered, and missed events can be recovered.")',
    'the finding about a failing receiver says where its responses are');
select is_empty($$ select * from api.diagnose() where (state = 'ok') <> (advice is null) or state not in ('ok', 'warning', 'problem') $$,
    'every warning and problem has advice');
select is_empty('select * from app.diagnose_nodes()', 'a single PostgreSQL is not checked for other nodes');
create role plain_owner;
grant usage on schema app to plain_owner;
grant execute on all functions in schema app to plain_owner;
set local role plain_owner;
select string_agg(format('%s: %s', state, finding), '; ' order by "check" desc) as hidden
  from app.diagnose_transactions('{"blocking_transactions": [{"pid": 7, "since": null, "user": "crm", "application": "", "state": null, "query": "<insufficient privilege>"}]}')
 where "check" in ('transactions', 'sessions') \gset
reset role;
grant pg_read_all_stats to plain_owner;
set local role plain_owner;
select state as seen from app.diagnose_transactions('{"blocking_transactions": []}') where "check" = 'sessions' \gset
reset role;
select is(:'hidden'::text, 'problem: process 7 (crm, no name) holds rows of the queue; warning: plain_owner cannot see the sessions of other roles, so it is not known how long their transactions have been open',
    'an owner who cannot see the sessions of others gets a warning');
select is(:'seen'::text, 'ok', 'a member of pg_read_all_stats sees them');
-- The publication of Supabase's Realtime
create function pg_temp.lacking() returns text
language sql as $$ select finding || '. ' || advice from api.diagnose() where "check" = 'publication' and state = 'warning' $$;

alter publication supabase_realtime drop table public.incentive_reports;
select is(pg_temp.lacking(), 'the publication supabase_realtime lacks public.incentive_reports, so Supabase''s Realtime does not report their changes. As the owner: alter publication supabase_realtime add table public.incentive_reports.',
    'a table that is not published is named with the statement that publishes it');
drop publication supabase_realtime;
select is(pg_temp.lacking(), 'the publication supabase_realtime lacks public.batch_lookup_jobs, public.incentive_reports, so Supabase''s Realtime does not report their changes. As the owner: create publication supabase_realtime for table public.batch_lookup_jobs, public.incentive_reports.',
    'a missing publication is named with the statement that creates it');

select * from finish();
rollback;
