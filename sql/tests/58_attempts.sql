begin;
select plan(39);
\ir fixtures.psql
select pg_temp.turn_clock(clock_timestamp());

create function pg_temp.attempts(p_job_id uuid, p_position integer) returns text
language plpgsql as $$
begin
    return (select string_agg(concat_ws(' ', attempt, outcome, http_status, error_code, worker), ', ' order by attempt)
              from public.lookup_attempts where job_id = p_job_id and position = p_position);
end;
$$;
create function pg_temp.waiting_for(p_job_id uuid, p_position integer) returns text
language plpgsql as $$
begin
    return (select api.explain_item(organization_id, id, p_position) #>> '{waiting_for,reason}' from public.batch_lookup_jobs where id = p_job_id);
end;
$$;
-- Claims one item and records its outcome with a latency of a quarter of a second.
create function pg_temp.look_up_slowly(p_organization_id uuid, p_http_status integer) returns bigint
language sql as $$
    select count(*) from api.claim_lookups(p_organization_id, 'slow', 1) c
     cross join lateral api.record_lookups(p_organization_id, array[c.job_id], array[c.position], array[c.lease_token], array[p_http_status],
           array[null::text], array['{}'], array[null::double precision], array[0.25]) r
     where r.verdict = 'accepted'
$$;

-- What is recorded
select pg_temp.submit(:'org', 3) as job \gset
select pg_temp.look_up(:'org', 1, 200, :'answer');
select is_empty('select from public.lookup_attempts', 'an item that succeeds the first time has no attempts');
select pg_temp.look_up_slowly(:'org', 500);
select is(
    (select row(attempt, outcome, worker, app.clock() - recorded_at, latency_ms, http_status, error_code, error_message)::text from public.lookup_attempts),
    '(1,retry,slow,00:00:00,250,500,upstream_error,"The incentives service reported an error of its own (HTTP 500)")',
    'a failed attempt has its time, worker, latency and error');
select pg_temp.turn_clock(app.clock() + interval '3 seconds');
select pg_temp.look_up(:'org', 1, 429, null, null, 5);
select pg_temp.turn_clock(app.clock() + interval '6 seconds');
select pg_temp.look_up(:'org', 1, 200, :'answer');
select is(
    pg_temp.attempts(:'job', 1), '1 retry 500 upstream_error slow, 2 wait 429 upstream_rate_limited tester, 3 complete 200 tester',
    'the success after a failure is recorded, and so is an attempt that cost no retry');
select pg_temp.look_up(:'org', 1, 404);
select is(pg_temp.attempts(:'job', 2), '1 fail 404 not_found tester', 'an attempt that fails permanently is recorded');
select is(
    (select string_agg(a ->> 'outcome', ', ') from json_array_elements(api.explain_item(:'org', :'job', 1) -> 'attempts') a), 'retry, wait, complete',
    'the history of an item has its attempts in order');
select is(api.explain_item(:'org', :'job', 0) ->> 'attempts', '[]', 'the history of an item that succeeded the first time is empty');

-- Two workers on one job, whose outcomes are recorded together
select pg_temp.submit(:'org', 2) as job \gset
select array_agg(c.job_id order by c.position) as jobs, array_agg(c.position order by c.position) as positions, array_agg(c.lease_token order by c.position) as tokens
  from unnest(array['first', 'second']) w (name) cross join lateral api.claim_lookups(:'org', w.name, 1) c \gset
select api.record_lookups(:'org', :'jobs', :'positions', :'tokens', '{500,404}', '{null,null}', '{null,null}', '{null,null}') \g /dev/null
select is(array[pg_temp.attempts(:'job', 0), pg_temp.attempts(:'job', 1)], array['1 retry 500 upstream_error first', '1 fail 404 not_found second'],
    'each attempt has its own outcome and its own worker');
select api.cancel_batch_lookup(:'org', :'job') as cancelled \gset

-- A worker that falls silent
select pg_temp.submit(:'org', 1) as job \gset
select job_id, position, lease_token from api.claim_lookups(:'org', 'silent', 1) \gset
select app.clock() - interval '1 second' as just_now \gset
update public.lookup_leases set expires_at = :'just_now';
update app.workers set returned_at = '-infinity';
select is(app.expire_leases(:'org', app.clock() + interval '1 year'), 1, 'the lease of a silent worker expires');
select is(pg_temp.attempts(:'job', 0), '1 retry lease_expired silent', 'an expired lease counts as an attempt of its worker');
select is(pg_temp.record(:'org', array[:'job_id'::uuid], array[:position], array[:'lease_token'::uuid], 200, '{}'), 'accepted', 'a late success counts');
select is(pg_temp.attempts(:'job', 0), '1 retry lease_expired silent, 2 complete 200', 'the late success is recorded after it');

-- All attempts
select api.update_settings('{"record_all_attempts": true}') as settings \gset
select pg_temp.submit(:'org', 1) as job \gset
select pg_temp.look_up(:'org', 1, 200, :'answer');
select is(pg_temp.attempts(:'job', 0), '1 complete 200 tester', 'every attempt is recorded with record_all_attempts');
select api.update_settings('{"record_all_attempts": false}') as settings \gset

-- Until when
select is(app.prune_expired(app.clock() + interval '29 days'), 0, 'attempts are kept for attempt_retention_days');
select is(app.prune_attempts(app.clock() + interval '1 day', 4), 4, 'the retention deletes a limited number of attempts at a time');
select api.delete_batch_lookup(:'org', :'job') as deleted \gset
select is(pg_temp.attempts(:'job', 0), null, 'attempts are deleted with their job');

-- Retries that are used up
select api.resume_lookups();
select api.update_settings('{"max_retries": 1, "outage_failures": 100}') as settings \gset
select pg_temp.submit(:'org', 3) as job \gset
select pg_temp.look_up(:'org', 3, 500);
create function pg_temp.exhausted(p_organization_id uuid, p_job_id uuid) returns text
language sql as $$
    select string_agg(concat_ws(' ', position, attempts, error_code), ', ')
      from api.exhausted_lookups(p_organization_id, array_fill(p_job_id, array[3]), '{0,1,2}') where job_id = p_job_id
$$;
select is(pg_temp.exhausted(:'org', :'job'), null, 'an item that will be tried again has retries left');
select pg_temp.turn_clock(app.clock() + interval '3 seconds');
select array_agg(job_id) as jobs, array_agg(position) as positions, array_agg(lease_token) as tokens
  from (select * from api.claim_lookups(:'org', 'tester', 3) order by position) c \gset
select api.record_lookups(:'org', :'jobs', :'positions', :'tokens', '{500,404,200}', '{null,null,null}', '{null,null,"{}"}', '{null,null,null}') \g /dev/null
select is(pg_temp.exhausted(:'org', :'job'), '0 2 upstream_error', 'an item that failed too often has used up its retries; one that fails immediately has not');
select api.update_settings('{"max_retries": 3, "outage_failures": 10}') as settings \gset

-- What an item waits for
select api.resume_lookups();
select pg_temp.turn_clock(clock_timestamp());
select pg_temp.submit(:'org', 3) as job \gset
select is(pg_temp.waiting_for(:'job', 0), 'no_worker', 'without a worker an item waits for one');
select from api.heartbeat('w') \gset
select is(pg_temp.waiting_for(:'job', 0), 'next_claim', 'the first item waits for the next claim');
select is(
    api.explain_item(:'org', :'job', 2) #>> '{waiting_for,message}',
    'Items are looked up in the order of the upload; items in front of it: 2 of its batch, 0 of other batches', 'later items wait for earlier ones');
select pg_temp.turn_clock(app.clock() + interval '1 second');
select pg_temp.submit(:'org', 3) as second_job \gset
select is(
    api.explain_item(:'org', :'second_job', 1) -> 'waiting_for' ->> 'message',
    'Batches of an organization take turns; items in front of it: 1 of its batch, 2 of other batches', 'batches of an organization take turns');
select api.update_settings('{"max_in_flight": 1}') as settings \gset
select count(*) as claimed from api.claim_lookups(:'org', 'w', 1) \gset
select is(
    array[pg_temp.waiting_for(:'job', 0), pg_temp.waiting_for(:'job', 1)], array['in_flight', 'concurrency_limit'],
    'an item in flight waits for its answer, others for the concurrency limit');
select api.update_settings('{"lookups_per_second": 1, "max_in_flight": 50}') as settings \gset
select count(*) as claimed from api.claim_lookups(:'org', 'w', 3) \gset
select is(
    (select (w ->> 'reason') || ' ' || round(extract(epoch from (w ->> 'until')::timestamptz - app.clock()))
       from (select api.explain_item(:'org', :'second_job', 2) -> 'waiting_for') e (w)), 'rate_limit 4', 'an item that waits for the rate limit says when it may start');
update app.upstream_state set paused_until = app.clock() + interval '20 seconds';
select is(pg_temp.waiting_for(:'job', 2), 'retry_after', 'during a pause of the provider every item waits for its end');
update app.upstream_state set unavailable_since = app.clock(), consecutive_failures = 10;
select is(pg_temp.waiting_for(:'job', 2), 'circuit_breaker', 'while the circuit breaker is open every item waits for it');

insert into public.lookup_attempts (organization_id, job_id, position, attempt, outcome, error_code, error_message, recorded_at)
select :'org', :'job', 2, 1000 + n, 'wait', 'upstream_unavailable', 'No answer', now() from generate_series(1, 150) n;
select is((select array[count(*), min((a ->> 'attempt')::integer), max((a ->> 'attempt')::integer)]
             from json_array_elements(api.explain_item(:'org', :'job', 2) -> 'attempts') a), array[100, 1051, 1150]::bigint[],
    'the history of an item has its last hundred lookups');
select throws_ok(
    format('select api.explain_item(%L, %L, 3)', :'org', :'job'), 'PT404', 'The job has no item at this position', 'an item that is not there is not found');
select throws_ok(
    format('select api.explain_item(%L, %L, 0)', :'other_org', :'job'), 'PT404', 'Batch job not found', 'items of another organization are not explained');

-- A duplicate that waits for the answer to another item
select api.create_organization('Twins') as twins, api.update_settings('{"deduplicate_seconds": 3600}') as settings \gset
select pg_temp.submit(:'twins', 1) as first_job, pg_temp.turn_clock(app.clock() + interval '1 second') \gset
select pg_temp.submit(:'twins', 1) as second_job \gset
select is(
    (select array[w ->> 'reason', w ->> 'message'] from (select api.explain_item(:'twins', :'second_job', 0) -> 'waiting_for') e (w)),
    array['duplicate', format('Item 0 of job %s asks the same question; both get its answer', :'first_job')], 'a duplicate says whose answer it waits for');
select api.cancel_batch_lookup(:'twins', :'first_job') as cancelled \gset
select isnt(api.explain_item(:'twins', :'second_job', 0) #>> '{waiting_for,reason}', 'duplicate', 'a duplicate whose other item was cancelled does not wait for it');
-- As after a cancel that found it locked
select app.clock() + interval '1 minute' as in_a_minute \gset
update public.lookup_queue_items set retry_at = :'in_a_minute' where job_id = :'second_job';
select is(
    (select array[w ->> 'reason', w ->> 'message'] from (select api.explain_item(:'twins', :'second_job', 0) -> 'waiting_for') e (w)),
    array['duplicate', 'Another item asked the same question and got no answer; this one is looked up next'],
    'a duplicate that waits although its other item was cancelled is not said to have failed');

-- The order of retries that are due and of items that were not looked up yet
select api.resume_lookups();
select api.update_settings('{"deduplicate_seconds": null, "lookups_per_second": null, "max_in_flight": 50, "outage_failures": 100, "max_retries": 1}') as settings \gset
select api.create_organization('Hooli') as hooli \gset
create function pg_temp.ahead(p_job_id uuid, p_position integer) returns text
language plpgsql as $$
declare
    v_item  public.lookup_queue_items;
    v_ahead record;
begin
    select * into v_item from public.lookup_queue_items where job_id = p_job_id and position = p_position;
    v_ahead := app.items_ahead(v_item, app.clock());
    return format('%s own, %s others', v_ahead.own, v_ahead.others);
end;
$$;
select pg_temp.submit(:'hooli', 4) as job \gset
select pg_temp.look_up(:'hooli', 2, 500);
select pg_temp.turn_clock(app.clock() + interval '1 second');
select pg_temp.submit(:'hooli', 2) as second_job \gset
select app.clock() + interval '10 seconds' as retry_at, app.clock() + interval '11 seconds' as later \gset
update public.lookup_queue_items set retry_at = :'retry_at' where organization_id = :'hooli' and job_id = :'job' and position = 0;
update public.lookup_queue_items set retry_at = :'later' where organization_id = :'hooli' and job_id = :'job' and position = 1;
select is(
    (select array[w ->> 'reason', w ->> 'until', w ->> 'message'] from (select api.explain_item(:'hooli', :'job', 0) -> 'waiting_for') e (w)),
    array['retry_backoff', app.rfc3339(:'retry_at'), 'The last attempt failed; the next one follows after the backoff'], 'an item that failed waits for its backoff');
select is(array[pg_temp.ahead(:'job', 2), pg_temp.ahead(:'second_job', 0)], '{"0 own, 0 others","0 own, 1 others"}',
    'retries that are not due are ahead of no other item');
select pg_temp.turn_clock(app.clock() + interval '1 minute');
select is(
    array[pg_temp.ahead(:'job', 0), pg_temp.ahead(:'job', 1), pg_temp.ahead(:'job', 3), pg_temp.ahead(:'second_job', 0), pg_temp.ahead(:'second_job', 1)],
    '{"0 own, 0 others","1 own, 0 others","3 own, 1 others","0 own, 3 others","1 own, 4 others"}',
    'retries that are due are ahead of all new items, and of retries that are due later');
select from api.heartbeat('w') \gset
select count(*) as claimed from api.claim_lookups(:'hooli', 'w', 1) \gset
update app.upstream_state set concurrency_limit = 1.9;
select is(
    api.explain_item(:'hooli', :'job', 1) #>> '{waiting_for,message}',
    'Lookups of all organizations together are limited to 1 at once; items in front of it: 0 of its batch, 0 of other batches',
    'an item waits for the concurrency limit while it is lowered');
update app.upstream_state set concurrency_limit = 50;
update app.organization_queue_state set served_at = case when organization_id = :'hooli' then '2026-01-02'::timestamptz else '2026-01-01' end, ready_at = '2026-01-01';
select is(pg_temp.waiting_for(:'job', 1), 'other_organizations', 'an item waits while another organization has waited longer');
update app.organization_queue_state set served_at = '2026-01-02' where organization_id <> :'hooli';
select is(pg_temp.waiting_for(:'job', 1), 'next_claim', 'an organization waits for none that was served last');

-- Attempts are numbered item by item.
select api.cancel_batch_lookup(:'hooli', :'job') as cancelled, api.cancel_batch_lookup(:'hooli', :'second_job') as second_cancelled \gset
select pg_temp.submit(:'hooli', 2) as job \gset
select pg_temp.look_up(:'hooli', 1, 500);
select pg_temp.turn_clock(app.clock() + interval '1 minute');
select count(*) as claimed from api.claim_lookups(:'hooli', 'first', 1) \gset
select count(*) as claimed from api.claim_lookups(:'hooli', 'second', 1) \gset
update public.lookup_leases set expires_at = :'just_now' where job_id = :'job';
update app.workers set returned_at = '-infinity';
select app.expire_leases(:'hooli', app.clock() + interval '1 year') as expired \gset
select is(
    array[pg_temp.attempts(:'job', 0), pg_temp.attempts(:'job', 1)],
    '{"1 retry 500 upstream_error tester, 2 fail lease_expired first","1 retry lease_expired second"}', 'expired leases count after the attempts of the same item');
select ok(
    (select bool_and(a ->> 'recorded_at' = app.rfc3339(l.recorded_at) and a ->> 'worker' = l.worker and a ->> 'error_code' = l.error_code and a ->> 'error_message' = l.error_message
                     and a ->> 'http_status' is not distinct from l.http_status::text and a ->> 'latency_ms' is not distinct from l.latency_ms::text)
       from json_array_elements(api.explain_item(:'hooli', :'job', 0) -> 'attempts') a
       join public.lookup_attempts l on l.job_id = :'job' and l.position = 0 and l.attempt = (a ->> 'attempt')::integer), 'the history of an item has all that is known of its attempts');

select * from finish();
rollback;
