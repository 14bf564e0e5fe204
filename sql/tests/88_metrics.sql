begin;
select plan(21);
\ir fixtures.psql
create function pg_temp.metric(p_path text) returns text
language sql as $$ select api.get_metrics()::jsonb #>> p_path::text[] $$;

select pg_temp.turn_clock('2026-11-24 12:00:00+00');
select is(pg_temp.metric('{oldest_ready_age}'), null, 'nothing waits in an empty queue');
select pg_temp.submit(:'org', 3) as job \gset
select pg_temp.turn_clock('2026-11-24 12:01:00+00');
select is(pg_temp.metric('{oldest_ready_age}'), '60', 'an item that nobody has claimed is as old as its upload');
select is(pg_temp.metric('{longest_unserved}'), '60', 'the organization of an unclaimed item has not been served since the upload');
select pg_temp.look_up(:'org', 2, 200, :'answer');
select pg_temp.turn_clock('2026-11-24 12:01:30+00');
select is(pg_temp.metric('{longest_unserved}'), '30', 'an organization was served when items of it were claimed');
select is(pg_temp.metric('{open_jobs}'), '{"pending": 0, "processing": 1}', 'open jobs are counted by status');
select pg_temp.look_up(:'org', 1, 429, null, null, 30);
select pg_temp.turn_clock('2026-11-24 12:03:00+00');
select is(pg_temp.metric('{oldest_ready_age}'), '89', 'a retry that is due is as old as its time');

-- Webhooks
select api.set_webhook_config(:'org', '{"url": "https://hooks.example.com/x", "events": ["batch.completed"]}') as config \gset
select pg_temp.look_up(:'org', 1, 200, :'answer');
select pg_temp.turn_clock('2026-11-24 12:04:00+00');
select is(pg_temp.metric('{webhooks}'), '{"due": 1, "enabled": 1, "failing": 0, "disabled": 0, "oldest_due_age": 60}', 'a delivery is due from the time of its event');
insert into app.webhook_queue_state (organization_id, paused_until) values (:'org', '2026-11-24 13:00+00');
select is(pg_temp.metric('{webhooks,due}'), '0', 'a receiver that asked for a pause has nothing due');

-- The rate limit, and maintenance.
select api.update_settings('{"lookups_per_second": 0.1}') as settings \gset
select is(round(pg_temp.metric('{pace_used}')::numeric, 3), 0.167, 'one lookup in the last minute is a sixth of what a rate limit of one in ten seconds allows');
select api.run_maintenance() as ran \gset
select pg_temp.turn_clock('2026-11-24 12:06:00+00');
select is(pg_temp.metric('{maintenance,age}'), '120', 'the time since the last maintenance is reported');

-- Items that may not be looked up are not ready.
select api.update_settings('{"lookups_per_second": null}') as settings \gset
select pg_temp.submit(:'org', 1) as job \gset
select pg_temp.turn_clock('2026-11-24 12:07:00+00');
select api.pause_lookups(900);
select is(pg_temp.metric('{oldest_ready_age}'), null, 'nothing is ready in a pause');
select api.resume_lookups();
select is(pg_temp.metric('{oldest_ready_age}'), '60', 'an item that waited for the end of a pause is as old as its upload');
select pg_temp.look_up(:'org', 1, 200, :'answer');
select api.create_batch_lookup(:'org', pg_temp.items(3) || '{"sample": 1}') ->> 'job_id' as job \gset
select pg_temp.look_up(:'org', 1, 200, :'answer');
select pg_temp.turn_clock('2026-11-24 12:17:00+00');
select is(pg_temp.metric('{oldest_ready_age}'), null, 'items that wait for a sample are not ready');
create function pg_temp.items_by_state() returns text
language sql as $$ select row(ready_items, items_waiting_for_retry, items_in_flight, held_items)::text from api.queue_health $$;
select is(pg_temp.items_by_state(), '(0,0,0,2)', 'items that wait for a sample are held');

select api.set_monthly_lookups(:'org', (api.get_usage(:'org') #>> '{month,lookups}')::integer);
select api.create_batch_lookup(:'org', pg_temp.items(2) || '{"when_limit_reached": "wait"}') ->> 'job_id' as job \gset
select pg_temp.turn_clock('2026-11-24 12:18:00+00');
select is(pg_temp.metric('{oldest_ready_age}'), null, 'nothing is ready once the monthly limit is used up, even before a worker has noticed');
select pg_temp.submit(:'other_org', 1) as other_job \gset
select pg_temp.turn_clock('2026-11-24 12:18:20+00');
select is(pg_temp.metric('{oldest_ready_age}'), '20', 'items of another organization are still ready');
select pg_temp.look_up(:'other_org', 1, 200, :'answer');
select is(pg_temp.look_up(:'org', 1), 0::bigint, 'a worker notices that the monthly limit is used up');
select is(pg_temp.metric('{oldest_ready_age}'), null, 'nothing is ready that waits for the next month');
select is(pg_temp.items_by_state(), '(0,0,0,2)', 'items that wait for the next month are held, too; the other job failed at the limit');
select api.set_monthly_lookups(:'org', null);
select is(pg_temp.metric('{oldest_ready_age}'), '80', 'without a limit the job is ready, and as old as its upload');
select is(pg_temp.items_by_state(), '(2,0,0,0)', 'without a limit nothing is held');
select * from finish();
rollback;
