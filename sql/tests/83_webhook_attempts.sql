begin;
select plan(32);
\ir fixtures.psql
select pg_temp.turn_clock('2026-11-24 12:00:00+00');
select api.set_webhook_config(:'org', '{"url": "https://example.com/"}') as config, pg_temp.submit(:'org', 2) as job, pg_temp.look_up(:'org', 2) \gset ignored_

-- Claims a delivery, records its outcome, and returns its row.
create function pg_temp.attempt(
    p_http_status integer, p_error_class text default null, p_retry_after double precision default null, p_latency double precision default 0.5,
    p_body text default ''
) returns app.webhook_deliveries
language plpgsql as $$
declare
    v_claim    record;
    v_delivery app.webhook_deliveries;
begin
    select o.id as organization_id, c.* into v_claim from app.organizations o, api.claim_webhooks(o.id, 'sender', 1) c where o.name = 'Acme';
    perform api.record_webhooks(v_claim.organization_id, array[v_claim.delivery_id], array[v_claim.lease_token], array[p_http_status],
                                array[p_error_class], array[p_latency], array[p_body], array[p_retry_after]);
    select * into v_delivery from app.webhook_deliveries where id = v_claim.delivery_id;
    return v_delivery;
end;
$$;

select is((pg_temp.attempt(299)).status, 'delivered', 'any 2xx is a success');
select id as second from app.webhook_deliveries where status = 'pending' \gset
select is((select d.status || ' ' || d.last_error from pg_temp.attempt(301) d), 'pending HTTP 301: redirects are not followed', 'a redirect is a failure');
select ok((select next_attempt_at - app.clock() between interval '4 seconds' and interval '6 seconds' from app.webhook_deliveries where id = :'second'),
    'the first wait is five seconds, give or take a fifth');
select is((select failing_since from app.webhook_configs), app.clock(), 'the config is failing since the first failure');

select pg_temp.turn_clock('2026-11-24 12:00:10+00');
select is((select d.status || ' ' || d.last_error from pg_temp.attempt(null, 'timeout', null, -1) d), 'pending timeout', 'a missing response is a failure');
select results_eq(
    format('select attempt, attempted_at, latency_ms, http_status, error_class from app.webhook_attempts where delivery_id = %L order by attempt', :'second'),
    $$ values (1, timestamptz '2026-11-24 11:59:59.5+00', 500, 301, null::text), (2, timestamptz '2026-11-24 12:00:10+00', 0, null, 'timeout') $$,
    'every attempt is kept with its start and latency');
select is((select failing_since from app.webhook_configs), '2026-11-24 12:00:00+00', 'further failures do not change since when the config is failing');

select pg_temp.turn_clock('2026-11-24 12:01:00+00');
select is((pg_temp.attempt(503, null, 3600, 0.5, repeat('x', 2000))).next_attempt_at, '2026-11-24 13:01:00+00', 'a Retry-After delays the next attempt');
select is((select paused_until from app.webhook_queue_state where organization_id = :'org'), '2026-11-24 13:01:00+00',
    'a Retry-After with a 503 pauses all deliveries to the receiver');
select is((select length(response_body) from app.webhook_attempts where delivery_id = :'second' and attempt = 3), 1024,
    'up to 1,024 characters of a response are kept');
select is(app.webhook_pause(1e9), interval '86400 seconds', 'a Retry-After counts for a day at most');
select is(app.webhook_pause(-5), null, 'a Retry-After in the past asks for nothing');

select pg_temp.turn_clock('2026-11-24 14:00:00+00');
update app.webhook_deliveries set lost_leases = 3 where organization_id = :'org' and id = :'second';
select is(
    (select jsonb_build_object('attempts', d.attempts, 'last_http_status', d.last_http_status, 'last_error', d.last_error, 'next_attempt_at', d.next_attempt_at,
                               'lease', coalesce(d.lease_token::text, d.lease_expires_at::text, d.leased_by), 'lost_leases', d.lost_leases, 'ended', d.ended_at = app.clock())
       from pg_temp.attempt(200) d),
    '{"attempts": 4, "last_http_status": 200, "last_error": null, "next_attempt_at": null, "lease": null, "lost_leases": 0, "ended": true}',
    'a delivery counts its attempts, and a success leaves neither an error nor a lease');
select is((select failing_since from app.webhook_configs), null, 'a success ends the failing');
select is((select status || enabled::text from app.webhook_deliveries join app.webhook_configs using (organization_id) where id = :'second'), 'deliveredtrue',
    'a receiver that works again stays enabled');

select results_eq(
    $$ select outcome, error_class, sum(items)::integer, sum(latency_seconds) from api.work_history where kind = 'webhook' group by 1, 2 order by 1, 2 $$,
    $$ values ('delivered', null, 2, 1.0::float8), ('retried', 'http_3xx', 1, 0.5), ('retried', 'http_5xx', 1, 0.5), ('retried', 'timeout', 1, 0) $$,
    'the work history has what attempts ended with, and how long they took');

-- Its lease expired before the first attempt was recorded, and the sender claimed the delivery again.
select pg_temp.turn_clock('2026-11-24 15:00:00+00');
select pg_temp.submit(:'org', 1) as job \gset
select pg_temp.look_up(:'org', 1);
select delivery_id, lease_token from api.claim_webhooks(:'org', 'sender', 1) \gset
select results_eq(format($$ select verdict from api.record_webhooks(%L, array[%2$L, %2$L, %2$L]::uuid[], array[%3$L, gen_random_uuid(), gen_random_uuid()]::uuid[],
    '{500,200,null}', '{null,null,timeout}', '{1,2,3}', '{"","",""}', '{null,null,null}') $$, :'org', :'delivery_id', :'lease_token'),
    $$ select 'accepted' from generate_series(1, 3) $$, 'each of several attempts that are reported at once is accepted');
select results_eq(format($$ select attempt, http_status from app.webhook_attempts where delivery_id = %L $$, :'delivery_id'), $$ values (1, 200) $$,
    'a success among several attempts that are reported at once is the one that is kept');
select results_eq($$ select outcome, items from api.work_history where kind = 'webhook' and minute = '2026-11-24 15:00+00' $$, $$ values ('delivered', 1::bigint) $$,
    'several attempts that are reported at once are counted once');

select pg_temp.submit(:'org', 1) as job \gset
select pg_temp.look_up(:'org', 1);
select delivery_id, lease_token from api.claim_webhooks(:'org', 'sender', 1) \gset
select api.record_webhooks(:'org', array[:'delivery_id', :'delivery_id', :'delivery_id']::uuid[], array[gen_random_uuid(), :'lease_token', gen_random_uuid()], '{500,503,502}', '{null,null,null}', '{1,2,3}', '{"","",""}', '{null,null,null}');
select is((select status || ' ' || last_error from app.webhook_deliveries where id = :'delivery_id'), 'pending HTTP 503', 'a failure under the lease that holds the delivery counts, and not one under a lost lease beside it');

-- A receiver that has been replaced
select pg_temp.submit(:'org', 2) as job \gset
select pg_temp.look_up(:'org', 2);
select array_agg(delivery_id) as ids, array_agg(lease_token) as tokens from api.claim_webhooks(:'org', 'sender', 2) \gset
select pg_temp.turn_clock(app.clock() + interval '1 second');
select api.set_webhook_config(:'org', '{"url": "https://example.org/"}') as config \gset
select api.record_webhooks(:'org', :'ids', :'tokens', '{410,503}', '{null,null}', '{1,2}', '{"",""}', '{null,60}');
select results_eq($$ select enabled, failing_since, paused_until from app.webhook_configs join app.webhook_queue_state using (organization_id) $$,
    $$ values (true, null::timestamptz, '-infinity'::timestamptz) $$, 'outcomes of a former receiver do not affect its successor');

select is(
    (select array_agg(status order by last_http_status) from app.webhook_deliveries where id = any (:'ids')), '{failed,pending}',
    'a delivery has failed once its receiver is gone, and is tried again if its receiver was busy');

update app.webhook_configs set failing_since = '2026-11-18 12:00:00+00';
select delivery_id, lease_token from api.start_webhook_test(:'org', 'sender') \gset
select api.record_webhooks(:'org', array[:'delivery_id'::uuid], array[:'lease_token'::uuid], '{200}', '{null}', '{1}', '{""}', '{null}');
select is((select enabled || ' ' || app.rfc3339(failing_since) from app.webhook_configs), 'true 2026-11-18T12:00:00.000Z', 'a test that succeeds does not end the failing of events');
select delivery_id, lease_token from api.start_webhook_test(:'org', 'sender') \gset
select api.record_webhooks(:'org', array[:'delivery_id'::uuid], array[:'lease_token'::uuid], '{500}', '{null}', '{1}', '{""}', '{null}');
select ok((select enabled from app.webhook_configs), 'a test that fails disables no config, however long it has been since the first event failed');
update app.webhook_configs set failing_since = null;
select delivery_id, lease_token from api.start_webhook_test(:'org', 'sender') \gset
select api.record_webhooks(:'org', array[:'delivery_id'::uuid], array[:'lease_token'::uuid], '{500}', '{null}', '{1}', '{""}', '{null}');
select is((select failing_since from app.webhook_configs), null, 'a test that fails does not say that events fail');

-- Several failures at once
select pg_temp.turn_clock('2026-11-24 18:00:00+00');
select api.set_webhook_config(:'other_org', '{"url": "https://example.com/"}') as config, pg_temp.submit(:'other_org', 11) as job, pg_temp.look_up(:'other_org', 11) \gset ignored_
create function pg_temp.record_all(p_organization_id uuid, p_http_statuses integer[], p_body text, p_retry_afters double precision[]) returns uuid[]
language plpgsql as $$
declare
    v_count  integer := cardinality(p_http_statuses);
    v_ids    uuid[];
    v_tokens uuid[];
begin
    select array_agg(c.delivery_id), array_agg(c.lease_token) into v_ids, v_tokens from api.claim_webhooks(p_organization_id, 'sender', v_count) c;
    perform api.record_webhooks(p_organization_id, v_ids, v_tokens, p_http_statuses, array_fill(null::text, array[v_count]), array_fill(0.5::float8, array[v_count]),
                                array_fill(p_body, array[v_count]), p_retry_afters);
    return v_ids;
end;
$$;
select pg_temp.record_all(:'other_org', '{199,300,301,302,303,304,305,306,307,308,309}', repeat('x', 600), array_fill(null::float8, array[11])) as ids \gset
select is(
    (select array_agg(last_http_status || case when last_error ~ 'redirects' then ' ' || length(last_error) else '' end order by last_http_status)
       from app.webhook_deliveries where organization_id = :'other_org' and id = any (:'ids') and status = 'pending'),
    '{199,300,301 538,302 538,303 538,304,305,306,307 538,308 538,309}', 'statuses beside 2xx are failures, and redirects show where they lead, in up to 500 characters');
select results_eq(
    format($$ select error_class, sum(items)::integer from api.work_history where organization_id = %L and kind = 'webhook' group by 1 order by 1 $$, :'other_org'),
    $$ values ('http_1xx', 1), ('http_3xx', 10) $$, 'the work history counts each of several attempts once, by the class of its status');
select results_eq(
    format($$ select verdict from api.record_webhooks(%L, array[%L, gen_random_uuid()]::uuid[], array[gen_random_uuid(), gen_random_uuid()], '{500,500}', '{null,null}', '{1,1}', '{"",""}', '{null,null}') $$,
           :'other_org', (:'ids'::uuid[])[1]),
    $$ values ('stale'), ('unknown') $$, 'a delivery that never was is told from one that is not held');
select is((select failing_since from app.webhook_configs where organization_id = :'org'), null, 'a failure does not say that the receiver of another organization fails');
update app.webhook_configs set failing_since = '2026-11-18 12:00:00+00' where organization_id = :'org';
select is(
    (select ready_at from app.webhook_queue_state where organization_id = :'other_org'),
    (select min(next_attempt_at) from app.webhook_deliveries where organization_id = :'other_org'), 'senders come back for the first retry');
select pg_temp.turn_clock('2026-11-24 18:00:10+00');
select pg_temp.record_all(:'other_org', '{500,429,503}', '', '{5000,60,90}') as ids \gset
select is((select paused_until from app.webhook_queue_state where organization_id = :'other_org'), '2026-11-24 18:01:40+00',
    'the longest Retry-After of several 429 and 503 pauses the receiver');
select pg_temp.turn_clock('2026-11-24 18:10:00+00');
select pg_temp.record_all(:'other_org', '{200}', '', '{null}') as ids \gset
select is(
    array(select concat_ws(' ', enabled, app.rfc3339(failing_since)) from app.webhook_configs where organization_id in (:'org', :'other_org') order by failing_since), '{t 2026-11-18T12:00:00.000Z,t}',
    'a success does not end the failing of another organization, nor did that disable the config');

select * from finish();
rollback;
