begin;
select plan(84);
\ir fixtures.psql
select api.set_webhook_config(:'org', '{"url": "https://example.com/"}') as config \gset

-- Claims up to p_limit deliveries and records the same outcome for each; returns the verdicts.
create function pg_temp.deliver(p_organization_id uuid, p_limit integer, p_http_status integer, p_error_class text default null, p_retry_after double precision default null)
returns setof text
language sql as $$
    select r.verdict
      from (select array_agg(delivery_id) as ids, array_agg(lease_token) as tokens, count(*)::integer as n
              from api.claim_webhooks(p_organization_id, 'sender', p_limit)) c
     cross join lateral api.record_webhooks(p_organization_id, c.ids, c.tokens, array_fill(p_http_status, array[n]),
           array_fill(p_error_class, array[n]), array_fill(0.012::double precision, array[n]), array_fill('the answer'::text, array[n]),
           array_fill(p_retry_after, array[n])) r
     where c.n > 0;
$$;
create function pg_temp.tell(p_organization_id uuid, p_count integer) returns bigint
language plpgsql as $$
begin
    perform pg_temp.submit(p_organization_id, p_count);
    return pg_temp.look_up(p_organization_id, p_count);
end;
$$;
select pg_temp.turn_clock(app.clock());

-- Claims and fences
select pg_temp.tell(:'org', 3) \gset ignored_
select is((select organization_ids from api.ready_webhooks()), array[:'org'::uuid], 'an organization with a due delivery is on the ready list');
select is((select organization_ids from api.ready_webhooks(10, array[:'org'::uuid])), '{}', 'a sender may exclude organizations from the ready list');
select results_eq(format($$ select url, cardinality(secrets), (body::json ->> 'type') from api.claim_webhooks(%L, 'a', 1) $$, :'org'),
    $$ values ('https://example.com/', 1, 'lookup.completed') $$, 'a claim has all that a request needs');
select count(*) from api.claim_webhooks(:'org', 'b', 10) \gset claimed_
select is(:claimed_count, 2, 'a claimed delivery is invisible to other senders');
select is((select organization_ids from api.ready_webhooks()), '{}', 'an organization without due deliveries is off the list');
select is((select next_ready_in from api.ready_webhooks()), 60::double precision, 'the ready list has the time when leases expire');
select id as first, lease_token as token from app.webhook_deliveries where leased_by = 'a' \gset
select is((select verdict from api.record_webhooks(:'org', array[:'first'::uuid], array[gen_random_uuid()], array[500], array[null]::text[], array[0.1]::double precision[], array['']::text[], array[null]::double precision[])),
    'stale', 'a failure under a lost lease does not count');
select is((select verdict from api.record_webhooks(:'org', array[:'first'::uuid], array[gen_random_uuid()], array[204], array[null]::text[], array[0.1]::double precision[], array['']::text[], array[null]::double precision[])),
    'accepted', 'a success under a lost lease counts, because the delivery arrived');
select is((select verdict from api.record_webhooks(:'org', array[:'first'::uuid], array[:'token'::uuid], array[200], array[null]::text[], array[0.1]::double precision[], array['']::text[], array[null]::double precision[])),
    'stale', 'a delivery is recorded once');
select is((select verdict from api.record_webhooks(:'other_org', array[:'first'::uuid], array[:'token'::uuid], array[200], array[null]::text[], array[0.1]::double precision[], array['']::text[], array[null]::double precision[])),
    'unknown', 'another organization''s delivery is unknown');
select pg_temp.turn_clock(app.clock() + interval '61 seconds');
select is((select count(*)::integer from api.claim_webhooks(:'org', 'c', 10)), 0, 'a claim returns expired leases');
select is((select count(*)::integer from api.claim_webhooks(:'org', 'c', 10)), 2, 'expired deliveries can be claimed again');
select is((select array_agg(distinct (attempts, retry_count)::text) from app.webhook_deliveries where leased_by = 'c'), array['(0,0)'], 'a lost lease does not count as an attempt');
do $$
begin
    for minute in 1..30 loop
        perform pg_temp.turn_clock(app.clock() + interval '61 seconds');
        perform app.expire_webhook_leases(organization_id, app.clock()) from app.webhook_configs;
        perform from app.webhook_configs c cross join api.claim_webhooks(c.organization_id, 'c', 10);
    end loop;
end;
$$;
select is((select count(*)::integer from app.webhook_deliveries where status in ('pending', 'sending') and retry_count = 0), 2, 'a sender that dies every minute fails no delivery');
select is((select bool_and(lost_leases between 4 and 15) from app.webhook_deliveries where ended_at is null), true, 'a delivery that may cause senders to die waits longer each time');
select pg_temp.turn_clock(app.clock() + interval '61 seconds');
select app.expire_webhook_leases(:'org', app.clock()) as expired \gset
select pg_temp.turn_clock(app.clock() + interval '23 minutes');
select count(*) as claimed from api.claim_webhooks(:'org', 'c', 10) \gset
select is((select count(*)::integer from app.webhook_deliveries where status = 'sending'), 2, 'after 22 minutes at most it is sent again');

select id as twice, lease_token as token from app.webhook_deliveries where leased_by = 'c' limit 1 \gset
select lives_ok(format($$ select api.record_webhooks(%L, array[%L, %2$L]::uuid[], array[gen_random_uuid(), %L], array[200, 500], array[null, null]::text[],
    array[0.1, 0.1]::double precision[], array['', '']::text[], array[null, null]::double precision[]) $$, :'org', :'twice', :'token'), 'attempts under a lost and a regained lease can be reported together');
select is((select count(*)::integer from app.webhook_attempts where delivery_id = :'twice'), 1, 'one of two attempts reported together counts');

-- Failures
delete from app.webhook_deliveries;
select pg_temp.tell(:'org', 1) \gset ignored_
select is((select pg_temp.deliver(:'org', 5, 500)), 'accepted', 'a failure is recorded');
select results_eq($$ select status, attempts, retry_count, last_error, next_attempt_at between app.clock() + interval '4 seconds' and app.clock() + interval '6 seconds' from app.webhook_deliveries $$,
    $$ values ('pending', 1, 1, 'HTTP 500', true) $$, 'a failed delivery is tried again in seconds');
select is((select failing_since from app.webhook_configs), app.clock(), 'the config shows since when it fails');
select results_eq($$ select attempt, latency_ms, http_status, response_body from app.webhook_attempts $$, $$ values (1, 12, 500, 'the answer') $$, 'an attempt is kept with its latency and answer');
select is_empty(format('select pg_temp.deliver(%L, 5, 200)', :'org'), 'a delivery is not tried before it is due');
do $$
begin
    for attempt in 2..12 loop
        perform pg_temp.turn_clock((select next_attempt_at from app.webhook_deliveries));
        perform pg_temp.deliver(organization_id, 5, null, 'timeout') from app.webhook_deliveries;
    end loop;
end;
$$;
select results_eq($$ select status, attempts, last_error from app.webhook_deliveries $$, $$ values ('failed', 12, 'timeout') $$, 'after twelve attempts it has failed');
select ok((select ended_at - created_at between interval '2.3 days' and interval '3.6 days' from app.webhook_deliveries), 'a delivery fails after about three days');
select ok((select enabled from app.webhook_configs), 'the config is still enabled then');

-- Sent again
select is(api.recover_webhook_deliveries(:'org', json_build_object('since', app.rfc3339(app.clock() - interval '5 days'))::jsonb) ->> 'recovered', '1', 'failed deliveries can be recovered');
select is((select pg_temp.deliver(:'org', 5, 200)), 'accepted', 'a recovered delivery is sent');
select is((select failing_since from app.webhook_configs), null, 'after a success the config is no longer failing');
select is(api.resend_webhook_delivery(:'org', (select id from app.webhook_deliveries)) ->> 'status', 'pending', 'a delivered delivery can be sent again');
select is((select count(*)::integer from api.claim_webhooks(:'org', 'a', 1)), 1, 'a delivery sent again is due at once');
select throws_like(format('select api.resend_webhook_delivery(%L, %L)', :'org', (select id from app.webhook_deliveries)), '%being sent%', 'a delivery is not sent twice at once');
select throws_like(format($$ select api.recover_webhook_deliveries(%L, '{"since": "yesterday"}') $$, :'org'), 'since must be%', 'the parameter since is a timestamp');

-- Lost leases
delete from app.webhook_deliveries;
select pg_temp.tell(:'org', 4) \gset ignored_
select count(*) from api.claim_webhooks(:'org', 'a', 4) \gset ignored_
do $$
declare
    v_delivery record;
begin
    for v_delivery in select id, (array[30, 2, 1, 0])[row_number() over (order by id)] as lost_leases from app.webhook_deliveries loop
        update app.webhook_deliveries set lost_leases = v_delivery.lost_leases where id = v_delivery.id;
    end loop;
end;
$$;
select pg_temp.turn_clock(app.clock() + interval '61 seconds');
select app.expire_webhook_leases(:'org', app.clock()) \gset ignored_
select is_empty(
    $$ select d.lost_leases, d.next_attempt_at - app.clock()
         from app.webhook_deliveries d
         left join (values (1, 0), (2, 10), (3, 20), (31, 900)) w (lost_leases, seconds) using (lost_leases)
        where (extract(epoch from d.next_attempt_at - app.clock()) between w.seconds * 0.5 and w.seconds * 1.5) is not true $$,
    'a delivery whose senders die waits twice as long each time after the first, up to a quarter of an hour');
select is(
    (select array_agg(distinct coalesce(lease_token::text, lease_expires_at::text, leased_by, last_http_status::text, last_error)) from app.webhook_deliveries),
    '{"The sender ended before it could tell the outcome"}', 'a delivery whose sender died is held by nobody, and says what happened');
savepoint before;
select app.settle_webhooks(:'org'), app.wake_webhooks(:'other_org', app.clock() + interval '1 hour') \gset ignored_
select array[organization_ids::text, next_ready_in::text] as ready from api.ready_webhooks() \gset
select pg_temp.turn_clock(app.clock() + interval '1 hour');
select (select lost_leases from api.claim_webhooks(:'org', 'a', 1) c join app.webhook_deliveries d on d.id = c.delivery_id) as claimed \gset
rollback to before;
select is(:'ready'::text[], array[format('{%s}', :'org'), '3600'], 'the ready list has the organizations with due deliveries, and the time of the next');
select is(:claimed, 1, 'deliveries due first are claimed first');

-- Five days
delete from app.webhook_deliveries;
select pg_temp.tell(:'org', 1) \gset ignored_
select pg_temp.deliver(:'org', 1, 503) \gset ignored_
select pg_temp.turn_clock(app.clock() + interval '5 days');
select pg_temp.deliver(:'org', 1, 503) \gset ignored_
select results_eq('select enabled, disabled_reason, disabled_at from app.webhook_configs', $$ values (false, 'failing', app.clock()) $$, 'five days of failure disable the config');
select pg_temp.turn_clock(app.clock() + interval '1 day');
select is_empty(format($$ select * from api.claim_webhooks(%L, 'a', 10) $$, :'org'), 'nothing is sent while the config is disabled');
select is((select organization_ids from api.ready_webhooks()), '{}', 'no sender finds deliveries kept while the config is disabled');
select is((select count(*)::integer from app.webhook_deliveries where status = 'pending'), 1, 'deliveries are kept while the config is disabled');
select throws_like(format('select api.resend_webhook_delivery(%L, %L)', :'org', (select id from app.webhook_deliveries)), 'Webhooks are not enabled', 'nothing is sent again while the config is disabled');
select api.set_webhook_config(:'org', '{"enabled": true}') as config, pg_temp.turn_clock(app.clock() + interval '1 hour') \gset
select is((select pg_temp.deliver(:'org', 5, 200)), 'accepted', 'kept deliveries are sent once the config is enabled again');

-- 410 and Retry-After
select pg_temp.tell(:'org', 2) \gset ignored_
select is((select pg_temp.deliver(:'org', 1, 429, null, 90)), 'accepted', 'a receiver asks for a pause');
select is_empty(format($$ select * from api.claim_webhooks(%L, 'a', 10) $$, :'org'), 'nothing is claimed during a pause');
select is((select round(next_ready_in) from api.ready_webhooks()), 90::double precision, 'the ready list knows until when');
select pg_temp.turn_clock(app.clock() + interval '91 seconds');
select count(*) from pg_temp.deliver(:'org', 3, 200) \gset ignored_
select pg_temp.turn_clock(app.clock() + interval '1 minute');
select count(*) from api.claim_webhooks(:'org', 'a', 1) \gset ignored_
select is((select array[organization_ids::text, next_ready_in::text] from api.ready_webhooks()), '{"{}",null}', 'a pause that is over does not keep an organization on the ready list');
select pg_temp.tell(:'org', 1) \gset ignored_
select is((select organization_ids from api.ready_webhooks()), array[:'org'::uuid], 'an organization with an event of a lookup is on the ready list');
select app.wake_webhooks(:'org', app.clock() + interval '1 hour') \gset ignored_
select is((select organization_ids from api.ready_webhooks()), array[:'org'::uuid], 'a later delivery does not delay one that is due');
select count(*) from pg_temp.deliver(:'org', 2, 200) \gset ignored_
select api.set_webhook_config(:'org', '{"events": ["batch.completed"]}') as config, pg_temp.turn_clock(app.clock() + interval '1 minute') \gset
select count(*) from api.claim_webhooks(:'org', 'a', 1) \gset ignored_
select is((select organization_ids from api.ready_webhooks()), '{}', 'an organization without more deliveries has left the ready list');
select pg_temp.tell(:'org', 1) \gset ignored_
select is((select organization_ids from api.ready_webhooks()), array[:'org'::uuid], 'an organization with an event of a batch is on the ready list');
select api.set_webhook_config(:'org', '{"events": ["lookup.completed"]}') as config \gset
select is((select pg_temp.deliver(:'org', 1, 410)), 'accepted', 'a receiver is gone');
select is((select enabled || disabled_reason from app.webhook_configs), 'falsegone', 'a receiver that is gone disables the config');

-- Tests
select is((select body::json ->> 'type' from api.start_webhook_test(:'org', 'me')), 'webhook.test', 'disabled webhooks can be tested');
select is((select verdict from api.record_webhooks(:'org', (select array_agg(id) from app.webhook_deliveries where event = 'webhook.test'),
    (select array_agg(lease_token) from app.webhook_deliveries where event = 'webhook.test'), array[null]::integer[], array['dns'], array[0.1]::double precision[], array[null]::text[], array[null]::double precision[])),
    'accepted', 'the outcome of a test is recorded');
select is((select status from app.webhook_deliveries where event = 'webhook.test'), 'failed', 'a test is not tried again');
do $$
begin
    for test in 2..10 loop
        perform api.start_webhook_test(organization_id, 'me') from app.webhook_configs;
    end loop;
end;
$$;
select throws_ok(format('select api.start_webhook_test(%L, %L)', :'org', 'me'), 'PT429', 'Webhooks can be tested ten times a minute', 'an eleventh test within a minute is refused');
select pg_temp.turn_clock(app.clock() + interval '61 seconds');
select lives_ok(format('select api.start_webhook_test(%L, %L)', :'org', 'me'), 'an eleventh test is accepted a minute later');
select app.expire_webhook_leases(:'org', app.clock() + interval '2 minutes') \gset
select is_empty($$ select * from app.webhook_deliveries where event = 'webhook.test' and status <> 'failed' $$, 'a test whose sender died has failed');

-- A sender that never received its claim
select api.create_organization('Lost answers') as lost \gset
select api.set_webhook_config(:'lost', '{"url": "https://example.com/"}') as config \gset
select pg_temp.tell(:'lost', 4) \gset ignored_
select delivery_id as heard from api.claim_webhooks(:'lost', 'sender', 1) \gset
select count(*) from api.claim_webhooks(:'lost', 'sender', 2) \gset unheard_
select count(*) from api.claim_webhooks(:'lost', 'another', 1) \gset unheard_
select is_empty(format($$ select from api.claim_webhooks(%L, 'another', 1) $$, :'lost'), 'deliveries leased to others are not claimed');
savepoint before;
select api.release_lost_webhooks(:'lost', 'another', '{}') as released \gset
select :'lost' = any (organization_ids) as is_ready from api.ready_webhooks() \gset
rollback to before;
select is(array[:released, :'is_ready'::boolean::integer], '{1,1}', 'a single delivery that is released is due at once');
select is(api.release_lost_webhooks(:'lost', 'sender', array[:'heard'::uuid]), 2, 'what a sender holds without knowing it is released');
select results_eq(
    format('select leased_by, count(*) from app.webhook_deliveries where organization_id = %L group by 1 order by 1', :'lost'),
    $$ values ('another', 1::bigint), ('sender', 1), (null, 2) $$, 'a sender keeps the deliveries that it knows of, and others keep theirs');
select ok((select :'lost' = any (organization_ids) from api.ready_webhooks()), 'released deliveries are due at once');
select api.rotate_webhook_secret(:'lost', '{"overlap_seconds": 60}') is not null as rotated, pg_temp.turn_clock(app.clock() + interval '59 seconds') \gset
select results_eq(format($$ select secrets from api.claim_webhooks(%L, 'sender', 1) $$, :'lost'),
    format($$ select array_agg(secret order by expires_at nulls first) from app.webhook_secrets where organization_id = %L $$, :'lost'), 'a delivery is signed with both secrets while they overlap, the new one first');
select pg_temp.turn_clock(app.clock() + interval '1 second');
select is((select cardinality(secrets) from api.claim_webhooks(:'lost', 'sender', 1)), 1, 'a delivery is not signed with a secret that ends now');

-- Turns
select api.create_organization('Turn 1') as turn_1, api.create_organization('Turn 2') as turn_2 \gset
select api.set_webhook_config(o, '{"url": "https://example.com/"}'), pg_temp.tell(o, 2) from unnest(array[:'turn_1', :'turn_2']::uuid[]) o;
select others, first.organization_ids as served
  from (select array_agg(id) as others from app.organizations where id not in (:'turn_1', :'turn_2')) o cross join lateral api.ready_webhooks(1, others) first \gset
select count(c) as claimed from unnest(:'served'::uuid[]) o cross join api.claim_webhooks(o, 'sender', 1) c \gset
select is((select organization_ids from api.ready_webhooks(10, :'others'::uuid[])), array_remove(array[:'turn_1', :'turn_2']::uuid[], (:'served'::uuid[])[1]) || :'served'::uuid[],
    'an organization that was just served comes after the others');
select app.clock() as served_at, pg_temp.turn_clock(app.clock() + interval '1 second') \gset
select count(c) as claimed from unnest(array_remove(array[:'turn_1', :'turn_2']::uuid[], (:'served'::uuid[])[1])) o cross join api.claim_webhooks(o, 'sender', 1) c \gset
select is((select served_at from app.webhook_queue_state where organization_id = (:'served'::uuid[])[1]), :'served_at', 'a claim takes no turn of another organization');

-- Beside another organization
select api.create_organization('Ours') as ours, api.create_organization('Theirs') as theirs \gset
select api.set_webhook_config(:'theirs', '{"url": "https://example.com/"}') as config, pg_temp.tell(:'ours', 1) as told \gset
select is((select count(*)::integer from app.webhook_deliveries where organization_id = :'ours'), 0, 'no event is kept for an organization because another one has a config');
select api.set_webhook_config(:'ours', '{"url": "https://example.com/", "events": ["lookup.completed", "batch.completed"]}') as config \gset
select pg_temp.tell(:'ours', 1) as told, pg_temp.tell(:'theirs', 1) as their_told, app.clock() as began \gset
select count(*) as claimed from api.claim_webhooks(:'ours', 'sender', 9) \gset
select is(
    array[:claimed, (select count(*) from app.webhook_deliveries where organization_id = :'ours'), (select least(count(*), 1) from app.webhook_wakeups where organization_id = :'theirs')],
    '{2,2,1}', 'a claim uses up no wake-up of another organization');
select pg_temp.turn_clock(app.clock() + interval '5 seconds');
select count(*) as claimed from api.claim_webhooks(:'theirs', 'sender', 9) \gset
select pg_temp.turn_clock(app.clock() + interval '5 seconds');
savepoint before;
update app.webhook_queue_state set paused_until = '2100-01-01 00:00:00+00' where organization_id <> :'ours';
select pg_temp.tell(:'ours', 1) as told \gset
select count(*) as claimed from api.claim_webhooks(:'ours', 'sender', 9) \gset
select ready_at as ours_ready_at from app.webhook_queue_state where organization_id = :'ours' \gset
select ready_at as theirs_ready_at from app.webhook_queue_state where organization_id = :'theirs' \gset
rollback to before;
select is(
    array[:'ours_ready_at'::timestamptz - :'began', :'theirs_ready_at'::timestamptz - :'began'], '{60 seconds,65 seconds}', 'each organization is on the ready list at a time of its own');

-- What comes next
select api.create_organization('Next') as next \gset
select api.set_webhook_config(:'next', '{"url": "https://example.com/"}') as config, pg_temp.tell(:'next', 2) as told, app.clock() as began \gset
select count(*) as claimed from api.claim_webhooks(:'next', 'sender', 1) \gset
select pg_temp.turn_clock(app.clock() + interval '10 seconds');
select count(*) as claimed from api.claim_webhooks(:'next', 'sender', 9) \gset
select is((select ready_at from app.webhook_queue_state where organization_id = :'next'), :'began'::timestamptz + interval '60 seconds', 'senders come back when the first lease expires');
select pg_temp.tell(:'next', 1) as told \gset
select pg_temp.deliver(:'next', 1, 500) as delivered \gset
select count(*) as claimed from api.claim_webhooks(:'next', 'sender', 9) \gset
select is(
    (select ready_at from app.webhook_queue_state where organization_id = :'next'),
    (select min(next_attempt_at) from app.webhook_deliveries where organization_id = :'next'), 'senders come back for a retry before a lease expires');

-- Without a URL
select pg_temp.tell(:'turn_1', 1) as told, api.set_webhook_config(:'turn_1', '{"url": null}') as config \gset
select count(*) as before from app.webhook_deliveries where organization_id = :'turn_1' \gset
select is_empty(format($$ select from api.claim_webhooks(%L, 'sender', 9) $$, :'turn_1'), 'nothing is sent once a config has no URL');
select is((select ready_at from app.webhook_queue_state where organization_id = :'turn_1'), null, 'an organization without a URL is not on the ready list');
select pg_temp.tell(:'turn_1', 1) as told \gset
select is((select count(*) from app.webhook_deliveries where organization_id = :'turn_1'), :before::bigint, 'no event is kept for a config without a URL');

-- A body that cannot be built
select api.set_webhook_config(:'org', '{"enabled": true}') as config \gset
delete from app.webhook_deliveries;
select pg_temp.tell(:'org', 3) \gset ignored_
create or replace function app.webhook_message(p_event text, p_at timestamptz, p_data json) returns json
language plpgsql stable
as $$
begin
    if p_data ->> 'reference_id' = 'site-2' then
        raise program_limit_exceeded using message = 'out of memory';
    end if;
    return json_build_object('type', p_event, 'data', p_data);
end;
$$;
select results_eq(format($$ select body::json #>> '{data,reference_id}' from api.claim_webhooks(%L, 'a', 10) order by 1 $$, :'org'),
    $$ values ('site-1'), ('site-3') $$, 'a claim leaves out the delivery whose body cannot be built');
select results_eq(
    $$ select status, last_error, attempts, coalesce(lease_token::text, lease_expires_at::text, leased_by) from app.webhook_deliveries where status <> 'sending' $$,
    $$ values ('failed', 'The body cannot be built: out of memory', 0, null::text) $$, 'a delivery whose body cannot be built has failed, with the reason');
select is((select count(*)::integer from app.webhook_deliveries where status = 'sending'), 2, 'the other deliveries of the claim are on their way');

-- What is older than thirty days
delete from app.webhook_attempts;
delete from app.webhook_deliveries;
select pg_temp.turn_clock('2026-11-24 12:00:00+00');
create function pg_temp.old(p_organization_id uuid, p_at timestamptz, p_name text) returns uuid
language sql as $$
    insert into app.webhook_deliveries (organization_id, id, event, status, data, last_error, created_at, ended_at)
    values (p_organization_id, app.uuid_v7(p_at), 'batch.completed', 'delivered', '{}', p_name, p_at, p_at) returning id;
$$;
create function pg_temp.left_by(p_limit integer) returns text
language plpgsql as $$
begin
    perform app.maintain_webhooks(app.clock(), p_limit);
    return (select string_agg(last_error, ' ' order by last_error) from app.webhook_deliveries);
end;
$$;
select least(:'org', :'other_org') as former, greatest(:'org', :'other_org') as latter \gset
insert into app.webhook_queue_state (organization_id) select unnest(array[:'former', :'latter']::uuid[]) on conflict do nothing;
select count(pg_temp.old(o, at, e)) from (values (:'former'::uuid, '2026-10-25 11:59:59+00'::timestamptz, 'a3'), (:'former', '2026-10-25 11:59:57+00', 'a1'), (:'former', '2026-10-25 11:59:58+00', 'a2'),
    (:'former', '2026-10-25 12:00:01+00', 'a4'), (:'latter', '2026-10-25 11:59:59+00', 'b1'), (:'latter', '2026-11-24 12:00:00+00', 'b2')) v (o, at, e) \gset old_
select is(array[pg_temp.left_by(2), pg_temp.left_by(2), pg_temp.left_by(2)], array['a3 a4 b1 b2', 'a4 b2', 'a4 b2'],
    'deliveries are deleted after thirty days, the oldest first, so many a run in all, and no others');
delete from app.webhook_deliveries;
select count(api.create_organization('Many ' || n)) from generate_series(1, 25 - (select count(*) from app.organizations)) n \gset created_
insert into app.webhook_wakeups (organization_id, id, ready_at) select id, gen_random_uuid(), app.clock() from app.organizations;
update app.maintenance_rounds set last_id = '00000000-0000-0000-0000-000000000000' where round = 'webhooks';
select count(pg_temp.old(o.id, '2026-10-01 12:00:00+00', chr(96 + o.n::integer))) from (select id, row_number() over (order by id) as n from app.organizations) o, generate_series(1, case o.n when 1 then 5 else 1 end) \gset old_
select is(array[pg_temp.left_by(2), pg_temp.left_by(2), pg_temp.left_by(2), pg_temp.left_by(100), pg_temp.left_by(100)],
    array['a a a b c d e f g h i j k l m n o p q r s t u v w x y', 'a b c d e f g h i j k l m n o p q r s t u v w x y', 'c d e f g h i j k l m n o p q r s t u v w x y', 'v w x y', null],
    'a run sees to twenty organizations, and the next one goes on where it left off');
select api.create_organization('Restored') as restored \gset
insert into app.webhook_deliveries (organization_id, id, event, status, data, lease_token, lease_expires_at, leased_by, created_at)
select :'restored', app.uuid_v7(app.clock()), 'batch.completed', 'sending', '{}', gen_random_uuid(), app.clock() + s * interval '1 second', 'gone', app.clock() from unnest(array[-1, 1]) s;
select app.maintain_webhooks(app.clock());
select is((select string_agg(status, ' ' order by status) from app.webhook_deliveries where organization_id = :'restored'), 'failed sending', 'a lease that ended is ended by a run, on whichever list its organization is');
select is((select ready_at from app.webhook_queue_state where organization_id = :'restored'), null, 'an organization without a receiver is not on the ready list');

-- An organization that does not exist, or no longer
select throws_ok(format('select * from api.claim_webhooks(%L, ''w'', 1)', app.uuid_v7()), 'PT404', 'Organization not found', 'a claim for an unknown organization is refused');

select * from finish();
rollback;
