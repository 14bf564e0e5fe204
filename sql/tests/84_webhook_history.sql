begin;
select plan(38);
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

select pg_temp.submit(:'org', 1) as later, pg_temp.look_up(:'org', 1, 200, :'answer') \gset
update app.webhook_deliveries set status = 'delivered', next_attempt_at = null, ended_at = '2026-11-24 12:00:00+00' where id = :'batch';
select results_eq(
    format($$ select name, api.list_webhook_deliveries(%L, status, event, job) ->> 'total',
                     array(select d ->> 'event' from json_array_elements(api.list_webhook_deliveries(%L, status, event, job) -> 'deliveries') d order by 1)
                from (values ('status', 'delivered', null, null), ('event', null, 'batch.completed', null), ('job', null, null, %L::uuid), ('all', 'pending', 'lookup.completed', %L)) f (name, status, event, job)
               order by name $$, :'org', :'org', :'later', :'job'),
    $$ values ('all', '3', '{lookup.completed,lookup.completed,lookup.completed}'::text[]), ('event', '2', '{batch.completed,batch.completed}'), ('job', '2', '{batch.completed,lookup.completed}'),
              ('status', '1', '{batch.completed}') $$,
    'what is listed and what is counted are those of the status, the event and the job');
select is(api.list_webhook_deliveries(:'org', p_limit => 200)::jsonb ->> 'next_cursor', null, 'a page of all deliveries leads to no other');
select is((api.list_webhook_deliveries(:'org', p_limit => 6) ->> 'next_cursor') is null, true, 'the last page leads to no other');
select throws_ok(format('select api.list_webhook_deliveries(%L, p_limit => 201)', :'org'), 'PT400', 'limit must be a whole number from 1 to 200', 'a page has two hundred deliveries');
select is(array(select d ->> 'id' from json_array_elements(api.list_webhook_deliveries(:'org', p_limit => 2, p_offset => 1) -> 'deliveries') d),
    array(select id::text from app.webhook_deliveries order by id desc limit 2 offset 1), 'a page of several has the newest first');
delete from app.webhook_deliveries where job_id = :'later';
update app.webhook_deliveries set status = 'pending', next_attempt_at = '2026-11-24 12:00:00+00', ended_at = null where id = :'batch';

-- One delivery
select is(api.get_webhook_delivery(:'org', :'lookup') #>> '{body,data,result,utility,name}', 'Austin Energy', 'a delivery shows the body that is sent');
select is(api.get_webhook_delivery(:'org', :'batch') #>> '{body,data,item_counts,completed}', '3', 'the body of a batch has its counts');
select is((api.get_webhook_delivery(:'org', :'lookup') -> 'attempt_log')::text, '[]', 'a delivery that was not sent has no attempts');
insert into app.webhook_attempts (organization_id, delivery_id, attempt, attempted_at, latency_ms, http_status)
select :'org', :'lookup', n, '2026-11-24 12:00:00+00', 1, 500 from generate_series(1, 150) n;
select is((select array[count(*), min((a ->> 'attempt')::integer), max((a ->> 'attempt')::integer)]
             from json_array_elements(api.get_webhook_delivery(:'org', :'lookup') -> 'attempt_log') a), array[100, 51, 150]::bigint[],
    'a delivery that was resent very often shows its last hundred attempts');
select is((api.get_webhook_delivery(:'org', :'lookup') -> 'attempt_log' -> 0)::text,
    '{"attempt" : 51, "attempted_at" : "2026-11-24T12:00:00.000Z", "latency_ms" : 1, "http_status" : 500, "error_class" : null, "response_body" : null}', 'an attempt says when it was made, how long it took and what came of it');
savepoint fields;
select api.set_webhook_config(:'org', '{"field_names": ["deal"]}') is not null and api.set_webhook_config(:'other_org', '{"url": "https://example.com/", "field_names": ["stage"]}') is not null as configs \gset
update public.lookup_queue_items set webhook_custom_fields = '{"deal": 1, "stage": 2}';
select is((api.get_webhook_delivery(:'org', :'lookup') #> '{body,data,webhook_custom_fields}')::text, '{"deal": 1}', 'the body that is shown has the fields that the organization chose');
rollback to fields;
select is((api.get_webhook_delivery(:'org', :'batch') -> 'attempt_log')::text, '[]', 'the attempts of another delivery are not shown');
select throws_ok(format('select api.get_webhook_delivery(%L, %L)', :'other_org', :'lookup'), 'PT404', 'Webhook delivery not found',
    'another organization''s delivery is not found');

-- Sending again
update app.webhook_deliveries set status = 'failed', next_attempt_at = null, retry_count = 5, ended_at = '2026-11-24 12:00:00+00' where id = :'lookup';
delete from app.webhook_wakeups;
update app.webhook_queue_state set ready_at = null;
select is(api.resend_webhook_delivery(:'org', :'lookup') ->> 'next_attempt_at', '2026-11-24T12:00:00.000Z', 'a delivery sent again is due at once');
select is((select retry_count from app.webhook_deliveries where id = :'lookup')::integer, 0, 'a delivery sent again restarts its schedule');
select is((select array[status, (ended_at is null)::text, (select count(*) from app.webhook_deliveries where retry_count = 0 and status = 'pending')::text] from app.webhook_deliveries where id = :'lookup'),
    '{pending,true,4}', 'a delivery sent again has not ended');
select is((select string_agg(distinct organization_id || ' ' || ready_at, ',') from (select organization_id, ready_at from app.webhook_queue_state union select organization_id, ready_at from app.webhook_wakeups) w),
    :'org' || ' ' || '2026-11-24 12:00:00+00'::timestamptz, 'a delivery sent again wakes the sender');
update app.webhook_deliveries set status = 'sending', next_attempt_at = null, lease_token = '0193a5b2-0000-4000-8000-000000000001', lease_expires_at = now(), leased_by = 'me' where id = :'lookup';
select throws_ok(format('select api.resend_webhook_delivery(%L, %L)', :'org', :'lookup'), 'PT409', 'The delivery is being sent', 'a delivery that is being sent is not sent again');
update app.webhook_deliveries set lease_token = null, lease_expires_at = null, leased_by = null, status = 'pending', next_attempt_at = now() where id = :'lookup';
select throws_ok(format('select api.resend_webhook_delivery(%L, %L)', :'other_org', :'lookup'), 'PT409', 'Webhooks are not enabled', 'an organization without a receiver sends nothing again');
select throws_ok(format('select api.resend_webhook_delivery(%L, %L)', :'org', gen_random_uuid()), 'PT404', 'Webhook delivery not found',
    'an unknown delivery cannot be sent again');
update app.webhook_deliveries set status = 'failed', next_attempt_at = null, ended_at = '2026-11-24 12:00:00+00' where event = 'lookup.completed';
select is(api.recover_webhook_deliveries(:'org', '{"since": "2026-11-24T12:00:01Z"}') ->> 'recovered', '0', 'deliveries before the time given are not recovered');
select is(api.recover_webhook_deliveries(:'org', '{"since": "2026-11-24T12:00:00Z"}') ->> 'recovered', '3', 'failed deliveries since then are recovered');
select is((select string_agg(distinct concat_ws(' ', status, retry_count, next_attempt_at, ended_at), ',') from app.webhook_deliveries where event = 'lookup.completed'),
    concat_ws(' ', 'pending', 0, '2026-11-24 12:00:00+00'::timestamptz), 'deliveries that are recovered begin anew, at once');
update app.webhook_deliveries set status = case when event = 'batch.completed' then 'delivered' else 'failed' end, next_attempt_at = null, ended_at = now();
update app.webhook_deliveries set event = 'webhook.test' where id = :'lookup';
select api.set_webhook_config(:'other_org', '{"url": "https://example.com/"}') as config \gset
select is(array[api.recover_webhook_deliveries(:'other_org', '{"since": "2026-11-24T12:00:00Z"}') ->> 'recovered', api.recover_webhook_deliveries(:'org', '{"since": "2026-11-24T12:00:00Z"}') ->> 'recovered'],
    '{0,2}', 'neither tests, nor what was delivered, nor what is of another organization is recovered');
select api.set_webhook_config(:'org', '{"enabled": false}') as config \gset
select throws_ok(format($$ select api.recover_webhook_deliveries(%L, '{"since": "2026-11-24T12:00:00Z"}') $$, :'org'), 'PT409', 'Webhooks are not enabled', 'nothing is recovered for a receiver that is disabled');
select api.delete_webhook_config(:'other_org') as deleted \gset

-- Testing the receiver
select is((select array[url, body::json ->> 'type'] from api.start_webhook_test(:'org', 'me')), array['https://example.com/', 'webhook.test'],
    'a test is claimed for the caller to send');
select is((select array[status, leased_by, (lease_expires_at - created_at)::text, data::text] from app.webhook_deliveries where event = 'webhook.test' and status = 'sending'),
    '{sending,me,00:01:00,"{\"message\": \"A test of the webhook config\"}"}', 'a test of a receiver that is disabled is held by the caller');
select count(*) as started from generate_series(1, 8) n cross join lateral api.start_webhook_test(:'org', 'me ' || n) \gset
select throws_ok(format($$ select api.start_webhook_test(%L, 'me') $$, :'org'), 'PT429', 'Webhooks can be tested ten times a minute', 'a receiver is tested ten times a minute');
select pg_temp.turn_clock('2026-11-24 12:01:00.001+00');
select lives_ok(format($$ select api.start_webhook_test(%L, 'me') $$, :'org'), 'a receiver can be tested again after a minute');
select throws_ok(format($$ select api.start_webhook_test(%L, 'me') $$, :'other_org'), 'PT409', 'No webhook URL is set',
    'an organization without a URL has nothing to test');

select * from finish();
rollback;
