begin;
select plan(21);
\ir fixtures.psql
select pg_temp.turn_clock('2026-11-24 12:00:00+00');
select api.set_webhook_config(:'org', '{"url": "https://example.com/", "events": ["lookup.completed", "batch.completed"]}') as config \gset
select pg_temp.submit(:'org', 3) as job, pg_temp.look_up(:'org', 3, 200, :'answer') \gset
select id as lookup from app.webhook_deliveries where event = 'lookup.completed' limit 1 \gset
select id as batch from app.webhook_deliveries where event = 'batch.completed' \gset

-- The list
select is(api.list_webhook_deliveries(:'org') ->> 'total', '4', 'the list counts the deliveries of the organization');
select is(api.list_webhook_deliveries(:'other_org')::jsonb, '{"deliveries": [], "total": 0, "limit": 20, "offset": 0, "next_cursor": null}',
    'another organization has no deliveries');
select is(api.list_webhook_deliveries(:'org', p_event => 'batch.completed') #>> '{deliveries,0,id}', :'batch'::text, 'deliveries are found by their event');
select is(api.list_webhook_deliveries(:'org', p_job_id => gen_random_uuid()) ->> 'total', '0', 'deliveries are found by their job');
select is(api.list_webhook_deliveries(:'org', 'delivered') ->> 'total', '0', 'deliveries are found by their status');
select throws_ok(format($$ select api.list_webhook_deliveries(%L, 'lost') $$, :'org'), 'PT400', 'status must be one of pending, sending, delivered, failed',
    'an unknown status is refused');
select throws_ok(format($$ select api.list_webhook_deliveries(%L, p_event => 'lookup.lost') $$, :'org'), 'PT400',
    'event must be one of lookup.completed, lookup.failed, batch.completed, batch.failed, batch.cancelled, webhook.test', 'an unknown event is refused');
with recursive page as (
    select api.list_webhook_deliveries(:'org', p_limit => 1) as body
     union all
    select api.list_webhook_deliveries(:'org', p_limit => 1, p_cursor => body ->> 'next_cursor') from page where body ->> 'next_cursor' is not null
)
select results_eq((select format('select unnest(%L::uuid[])', array_agg((body #>> '{deliveries,0,id}')::uuid)) from page),
    'select id from app.webhook_deliveries order by id desc', 'cursors lead through all deliveries, the newest first');

-- One delivery
select is(api.get_webhook_delivery(:'org', :'lookup') #>> '{body,data,result,utility,name}', 'Austin Energy', 'a delivery shows the body that is sent');
select is(api.get_webhook_delivery(:'org', :'batch') #>> '{body,data,item_counts,completed}', '3', 'the body of a batch has its counts');
select is((api.get_webhook_delivery(:'org', :'lookup') -> 'attempt_log')::text, '[]', 'a delivery that was not sent has no attempts');
insert into app.webhook_attempts (organization_id, delivery_id, attempt, attempted_at, latency_ms, http_status)
select :'org', :'lookup', n, '2026-11-24 12:00:00+00', 1, 500 from generate_series(1, 150) n;
select is((select array[count(*), min((a ->> 'attempt')::integer), max((a ->> 'attempt')::integer)]
             from json_array_elements(api.get_webhook_delivery(:'org', :'lookup') -> 'attempt_log') a), array[100, 51, 150]::bigint[],
    'a delivery that was resent very often shows its last hundred attempts');
select is((api.get_webhook_delivery(:'org', :'batch') -> 'attempt_log')::text, '[]', 'the attempts of another delivery are not shown');
select throws_ok(format('select api.get_webhook_delivery(%L, %L)', :'other_org', :'lookup'), 'PT404', 'Webhook delivery not found',
    'another organization''s delivery is not found');

-- Sending again
update app.webhook_deliveries set status = 'failed', next_attempt_at = null, retry_count = 5, ended_at = '2026-11-24 12:00:00+00' where id = :'lookup';
select is(api.resend_webhook_delivery(:'org', :'lookup') ->> 'next_attempt_at', '2026-11-24T12:00:00.000Z', 'a delivery sent again is due at once');
select is((select retry_count from app.webhook_deliveries where id = :'lookup')::integer, 0, 'a delivery sent again restarts its schedule');
select throws_ok(format('select api.resend_webhook_delivery(%L, %L)', :'org', gen_random_uuid()), 'PT404', 'Webhook delivery not found',
    'an unknown delivery cannot be sent again');
update app.webhook_deliveries set status = 'failed', next_attempt_at = null, ended_at = '2026-11-24 12:00:00+00' where event = 'lookup.completed';
select is(api.recover_webhook_deliveries(:'org', '{"since": "2026-11-24T12:00:01Z"}') ->> 'recovered', '0', 'deliveries before the time given are not recovered');
select is(api.recover_webhook_deliveries(:'org', '{"since": "2026-11-24T12:00:00Z"}') ->> 'recovered', '3', 'failed deliveries since then are recovered');

-- Testing the receiver
select is((select array[url, body::json ->> 'type'] from api.start_webhook_test(:'org', 'me')), array['https://example.com/', 'webhook.test'],
    'a test is claimed for the caller to send');
select throws_ok(format($$ select api.start_webhook_test(%L, 'me') $$, :'other_org'), 'PT409', 'No webhook URL is set',
    'an organization without a URL has nothing to test');

select * from finish();
rollback;
