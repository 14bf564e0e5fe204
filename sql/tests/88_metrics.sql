begin;
select plan(39);
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

-- Items of two organizations: whoever has waited longest decides.
select pg_temp.look_up(:'org', 2, 200, :'answer');
-- Workers find nothing more, and take both off the ready list.
select pg_temp.look_up(:'org', 1);
select pg_temp.look_up(:'other_org', 1);
select pg_temp.turn_clock('2026-11-24 12:30:00+00');
select is(pg_temp.metric('{longest_unserved}'), null, 'nobody waits to be served without an open item');
select pg_temp.submit(:'org', 1) as job \gset
select is(pg_temp.metric('{oldest_ready_age}'), '0', 'an item is ready at once');
select is(pg_temp.metric('{longest_unserved}'), '0', 'an organization waits to be served from its upload on');
select pg_temp.turn_clock('2026-11-24 12:30:10+00');
select pg_temp.submit(:'other_org', 2) as other_job \gset
select pg_temp.turn_clock('2026-11-24 12:30:30+00');
select is(pg_temp.metric('{longest_unserved}'), '30', 'the organization that has waited longest to be served counts');
select is(pg_temp.metric('{oldest_ready_age}'), '30', 'the oldest item of all organizations counts');
select pg_temp.look_up(:'org', 1, 429, null, null, 30);
select pg_temp.look_up(:'org', 1);
select is(pg_temp.metric('{longest_unserved}'), '20', 'an organization whose only item waits for a retry does not wait to be served');
select pg_temp.look_up(:'other_org', 1, 429, null, null, 30);
select pg_temp.turn_clock('2026-11-24 12:31:00+00');
select is(pg_temp.metric('{oldest_ready_age}'), '50', 'an item that was never tried is older than retries that have just become due');
select pg_temp.look_up(:'other_org', 2, 200, :'answer');
select is(pg_temp.metric('{oldest_ready_age}'), '29', 'a retry counts from the moment it is due');
select pg_temp.submit(:'other_org', 1) as other_job \gset
select pg_temp.turn_clock('2026-11-24 12:31:05+00');
select is(pg_temp.metric('{oldest_ready_age}'), '34', 'a retry that has been due for longer is older than an item that was never tried');
select pg_temp.look_up(:'other_org', 1, 200, :'answer');
select pg_temp.look_up(:'org', 1, 200, :'answer');
select is(pg_temp.metric('{oldest_ready_age}'), null, 'nothing is ready once everything has been looked up');

-- Receivers of two organizations.
update app.webhook_queue_state set paused_until = '-infinity';
select api.set_webhook_config(:'other_org', '{"url": "https://hooks.example.com/y", "events": ["batch.completed"]}') as config \gset
select pg_temp.turn_clock('2026-11-24 12:31:20+00');
select pg_temp.submit(:'other_org', 1) as other_job \gset
select pg_temp.look_up(:'other_org', 1, 200, :'answer');
select is((select array[due, oldest_due_age] from app.measure_webhooks(app.clock())),
    (select array[count(*), date_part('epoch', app.clock() - min(next_attempt_at))] from app.webhook_deliveries where status = 'pending'),
    'deliveries of all receivers are counted, also those that are due just now, and the oldest counts');
select ok((select due from app.measure_webhooks(app.clock())) > 1
    and (select oldest_due_age from app.measure_webhooks(app.clock())) > 20, 'the two receivers have deliveries of different ages');
update app.webhook_configs set failing_since = '2026-11-24 12:31:00+00' where organization_id = :'org';
select is((select row(enabled, failing, disabled) from app.measure_webhooks(app.clock()))::text, '(1,1,0)', 'a failing receiver does not count as enabled');
update app.webhook_configs set enabled = false, disabled_at = failing_since, disabled_reason = 'failing' where organization_id = :'org';
select is((select row(enabled, failing, disabled) from app.measure_webhooks(app.clock()))::text, '(1,0,1)', 'a disabled receiver is not failing');

-- Counters: what is in the totals, and the minutes that are not in them yet. Powers of ten show where each bucket goes.
create function pg_temp.powers(p_count integer, p_times bigint) returns bigint[]
language sql immutable as $$ select array_agg(p_times * (10 ^ (n - 1))::bigint order by n) from generate_series(1, p_count) n $$;
insert into app.work_totals values ('pause', 'outage', 'x', 1, 0.5, pg_temp.powers(11, 1), 0.25, pg_temp.powers(10, 1));
insert into app.work_minutes (organization_id, minute, kind, outcome, error_class, recorder, items, latency_seconds, latency_buckets, wait_seconds, wait_buckets)
select :'org', app.clock(), 'pause', 'outage', 'x', r, r + 1, r + 1, pg_temp.powers(11, r + 1), r + 1, pg_temp.powers(10, r + 1)
  from generate_series(0, 2) r;
select is((select w from app.sum_work() w where w.error_class = 'x')::text,
    row('pause', 'outage', 'x', 6, 5.5, pg_temp.powers(11, 6), 5.25, pg_temp.powers(10, 6))::text,
    'counters add up the totals and the minutes that are not in them, bucket by bucket');
insert into app.work_minutes (organization_id, minute, kind, outcome, error_class, recorder, items, latency_seconds, latency_buckets, wait_seconds, wait_buckets)
values (:'org', app.clock(), 'pause', 'outage', 'x', 3, 1, 0.5, pg_temp.powers(11, 1), 0.25, pg_temp.powers(10, 1));
select is((select items from app.sum_work() w where w.error_class = 'x'), 7::bigint, 'a minute that equals a total counts beside it');

-- PostgreSQL itself.
select is((app.measure_database() ->> 'read_only')::boolean, false, 'a database that takes writes is not read-only');
set local default_transaction_read_only = on;
select is((app.measure_database() ->> 'read_only')::boolean, true, 'a database whose transactions are read-only is so');
select * from finish();
rollback;
