begin;
select plan(80);
\ir fixtures.psql
select pg_temp.turn_clock(clock_timestamp());

-- A batch of items at the given streets.
create function pg_temp.submit_streets(p_organization_id uuid, variadic p_streets text[]) returns uuid
language sql as $$
    select (api.create_batch_lookup(p_organization_id, jsonb_build_object('items', jsonb_agg(
               i.item || jsonb_build_object('address', i.item -> 'address' || jsonb_build_object('street_1', s.street)) order by s.n))) ->> 'job_id')::uuid
      from unnest(p_streets) with ordinality s (street, n)
     cross join lateral (select pg_temp.items(s.n::integer) -> 'items' -> (s.n::integer - 1) as item) i
$$;
create function pg_temp.statuses(p_job_id uuid) returns text
language plpgsql as $$
begin
    return (select string_agg(status || coalesce(' ' || (result ->> 'deduplicated'), ''), ', ' order by position) from public.lookup_queue_items where job_id = p_job_id);
end;
$$;

select pg_temp.submit_streets(:'org', '1 Main St', '1 Main St') as job \gset
select is((select count(*)::integer from api.claim_lookups(:'org', 'w', 10)), 2, 'without the setting every item is looked up');
select api.cancel_batch_lookup(:'org', :'job') as cancelled, api.update_settings('{"deduplicate_seconds": 3600}') as settings \gset

-- In one batch
select pg_temp.submit_streets(:'org', '1 Main St.', '2 Main St', '1  MAIN ST') as job \gset
select is(pg_temp.look_up(:'org', 10, 200, :'answer'), 2::bigint, 'the same address twice is looked up once');
select is(pg_temp.statuses(:'job'), 'completed, completed, completed true', 'duplicates of one batch are answered twice by one lookup');
select is((select result ->> 'reference_id' from public.lookup_queue_items where job_id = :'job' and position = 2), 'site-3', 'the copied answer has the duplicate''s own reference_id');
select is(app.duplicate_result('{"b": 1, "reference_id": "first", "deduplicated": false, "a": 2}', 'second')::text,
    '{ "b" : 1, "reference_id" : "second", "a" : 2, "deduplicated" : true }', 'the members of an answer keep their order, and deduplicated comes last');
select is((select status || total_sites from public.incentive_reports where job_id = :'job'), 'complete3', 'the report has all duplicates');
select is_empty('select * from api.check_invariants()', 'the counters add up');

-- Across batches
select pg_temp.submit_streets(:'org', '2 main st', '3 Main St') as second_job \gset
select is(pg_temp.statuses(:'second_job'), 'completed true, pending', 'a recent answer is used immediately');
select pg_temp.turn_clock(app.clock() + interval '1 second');
select pg_temp.submit_streets(:'org', '3 Main St') as third_job \gset
select is(pg_temp.look_up(:'org', 10, 200, :'answer'), 1::bigint, 'a duplicate of an open item of another batch waits');
select is((select status from public.batch_lookup_jobs where id = :'third_job'), 'completed', 'a job of duplicates alone ends with the lookup of the first');
select api.create_batch_lookup(:'org', (select jsonb_build_object('items', jsonb_agg(jsonb_build_object(
           'reference_id', reference_id, 'address', address, 'building_type', building_type, 'device_ids', device_ids)))
           from public.lookup_queue_items where job_id = :'third_job')) as created \gset
select is(
    (select concat_ws(' ', c ->> 'status', c #>> '{report,status}', c #>> '{report,total_sites}') from json(:'created') c), 'completed complete 1',
    'the answer to an upload tells what was answered at once');
savepoint before;
select api.delete_batch_lookup(:'org', (:'created'::json ->> 'job_id')::uuid) as deleted \gset
rollback to before;
select is(:'deleted'::json ->> 'job_id', :'created'::json ->> 'job_id', 'a batch that was answered before any of its items was claimed can be deleted');
select pg_temp.submit_streets(:'other_org', '3 Main St') as other_job \gset
select is(pg_temp.look_up(:'other_org', 10, 200, '{}'), 1::bigint, 'answers of another organization are not used');

-- When the first one fails
select pg_temp.submit_streets(:'org', '4 Main St', '4 Main St') as job \gset
select is(pg_temp.look_up(:'org', 10, 404), 1::bigint, 'the first lookup fails');
select pg_temp.turn_clock(app.clock() + interval '10 minutes');
select is(pg_temp.look_up(:'org', 10, 200, '{}'), 1::bigint, 'after a failure the duplicate is looked up');
select is(pg_temp.statuses(:'job'), 'failed, completed', 'a duplicate is looked up itself when the first one failed');

-- Before claims have reached the duplicate
select pg_temp.submit_streets(:'org', '5 Main St', '6 Main St', '7 Main St', '5 Main St') as job \gset
select is(pg_temp.look_up(:'org', 1, 404), 1::bigint, 'a lookup fails early');
select pg_temp.turn_clock(app.clock() + interval '10 minutes');
select is(
    array(select position from api.claim_lookups(:'org', 'w', 1) union all select position from api.claim_lookups(:'org', 'w', 10)), array[1, 2, 3],
    'after an early failure the duplicate is claimed in its turn, once');
select is_empty('select * from api.check_invariants()', 'the invariants hold while duplicates wait');
select api.cancel_batch_lookup(:'org', :'job') as cancelled \gset

select pg_temp.submit_streets(:'org', '10 Main St', '10 Main St') as job, pg_temp.turn_clock(app.clock() + interval '1 second') \gset
select pg_temp.submit_streets(:'org', '10 Main St', '11 Main St') as second_job \gset
select is(
    (select array_agg(i.retry_at - i.created_at = 2 * make_interval(secs => s.lease_seconds + s.lookup_timeout_seconds) order by i.job_id, i.position)
       from public.lookup_queue_items i cross join app.settings s where i.job_id in (:'job', :'second_job')),
    '{null,true,true,null}', 'a duplicate waits for at most two leases and two time-outs');

-- Both under way
select api.cancel_batch_lookup(:'org', :'second_job') as cancelled, count(*) as claimed from api.claim_lookups(:'org', 'w', 10) \gset
select pg_temp.turn_clock(app.clock() + interval '10 minutes');
select array_agg(job_id order by position) as jobs, array_agg(position order by position) as positions, array_agg(lease_token order by position) as tokens
  from api.claim_lookups(:'org', 'w', 10) where job_id = :'job' \gset
select pg_temp.record(:'org', (:'jobs'::uuid[])[:1], (:'positions'::integer[])[:1], (:'tokens'::uuid[])[:1], 200, :'answer') as recorded \gset
select is(:'positions' || ' ' || pg_temp.statuses(:'job'), '{0,1} completed, pending', 'a duplicate whose own lookup is under way gets the answer to its own lookup');
select pg_temp.record(:'org', (:'jobs'::uuid[])[2:], (:'positions'::integer[])[2:], (:'tokens'::uuid[])[2:], 200, :'answer') as recorded \gset

-- Items released or expired once there is an answer
create function pg_temp.claim_both(p_organization_id uuid, p_street text, out job uuid, out jobs uuid[], out positions integer[], out tokens uuid[])
language plpgsql as $$
begin
    job := pg_temp.submit_streets(p_organization_id, p_street, p_street);
    perform api.claim_lookups(p_organization_id, 'w', 1), pg_temp.turn_clock(app.clock() + interval '10 minutes');
    select array_agg(c.job_id order by c.position), array_agg(c.position order by c.position), array_agg(c.lease_token order by c.position)
      into jobs, positions, tokens
      from api.claim_lookups(p_organization_id, 'w', 10) c where c.job_id = job;
    perform pg_temp.record(p_organization_id, jobs[:1], positions[:1], tokens[:1], 200, '{}');
end;
$$;
select api.create_organization('Returns') as returns \gset
select * from pg_temp.claim_both(:'returns', '12 Main St') \gset
select api.release_lookups(:'returns', (:'jobs'::uuid[])[2:], (:'positions'::integer[])[2:], (:'tokens'::uuid[])[2:]) as released \gset
select is(pg_temp.statuses(:'job'), 'completed, completed true', 'a released item gets the answer that another one got meanwhile');
select * from pg_temp.claim_both(:'returns', '13 Main St') \gset
select pg_temp.turn_clock(app.clock() + interval '2 minutes');
select app.expire_leases(:'returns', app.clock()) as expired \gset
select is(pg_temp.statuses(:'job'), 'completed, completed true', 'an item whose lease expires gets the answer that another one got meanwhile');
select api.update_settings('{"max_retries": 0}') as settings, pg_temp.submit_streets(:'returns', '14 Main St', '14 Main St') as job \gset
select array_agg(job_id) as jobs, array_agg(position) as positions, array_agg(lease_token) as tokens from api.claim_lookups(:'returns', 'w', 1) \gset
select pg_temp.turn_clock(app.clock() + interval '2 minutes');
select app.expire_leases(:'returns', app.clock()) as expired, api.update_settings('{"max_retries": 3}') as settings \gset
select pg_temp.record(:'returns', :'jobs', :'positions', :'tokens', 200, '{}') as recorded \gset
select is(pg_temp.statuses(:'job'), 'completed, completed true', 'a late answer is shared like others');

-- When the one that asked got no answer, one of those that wait asks next
create function pg_temp.submit_each(p_organization_id uuid, p_count integer, p_street text) returns uuid[]
language plpgsql as $$
declare
    v_jobs uuid[] := '{}';
begin
    for n in 1 .. p_count loop
        perform pg_temp.turn_clock(app.clock() + interval '1 second');
        v_jobs := v_jobs || pg_temp.submit_streets(p_organization_id, p_street);
    end loop;
    return v_jobs;
end;
$$;
create function pg_temp.claimed(p_organization_id uuid, p_jobs uuid[], out jobs uuid[], out positions integer[], out tokens uuid[], out numbers integer[])
language sql as $$
    select coalesce(array_agg(job_id), '{}'), coalesce(array_agg(position), '{}'), coalesce(array_agg(lease_token), '{}'),
           coalesce(array_agg(array_position(p_jobs, job_id)), '{}')
      from api.claim_lookups(p_organization_id, 'w', 10)
$$;
select api.create_organization('Chain') as chain \gset
select pg_temp.submit_each(:'chain', 4, '20 Main St') as each \gset
select * from pg_temp.claimed(:'chain', :'each') \gset first_
select pg_temp.record(:'chain', :'first_jobs', :'first_positions', :'first_tokens', 404) as recorded \gset
select is((select count(*)::integer from api.ready_organizations() o where o = :'chain'), 1, 'when a lookup has failed, workers learn at once that the next one asks');
select * from pg_temp.claimed(:'chain', :'each') \gset second_
select is(:'first_numbers' || :'second_numbers', '{1}{2}', 'when a lookup has failed, the first of those that wait asks at once');
select pg_temp.record(:'chain', :'second_jobs', :'second_positions', :'second_tokens', 500) as recorded, pg_temp.turn_clock(app.clock() + interval '2 minutes') \gset
select * from pg_temp.claimed(:'chain', :'each') \gset second_
select pg_temp.record(:'chain', :'second_jobs', :'second_positions', :'second_tokens', 500) as recorded, pg_temp.turn_clock(app.clock() + interval '2 minutes') \gset
select * from pg_temp.claimed(:'chain', :'each') \gset second_
select is(:'second_numbers'::text, '{2}', 'while a lookup is tried again, the others wait on');
select api.cancel_batch_lookup(:'chain', (:'each'::uuid[])[2]) as cancelled \gset
select pg_temp.record(:'chain', :'second_jobs', :'second_positions', :'second_tokens', 500) as recorded \gset
select * from pg_temp.claimed(:'chain', :'each') \gset third_
select is(:'third_numbers'::text, '{3}', 'when a lookup of a cancelled batch has failed, the next one asks');
select pg_temp.record(:'chain', :'third_jobs', :'third_positions', :'third_tokens', 200, :'answer') as recorded \gset
select is((select string_agg(pg_temp.statuses(j), ', ' order by n) from unnest(:'each'::uuid[]) with ordinality u (j, n)), 'failed, failed, completed, completed true',
    'all that still wait get the answer to it');
select pg_temp.submit_each(:'chain', 3, '21 Main St') as each \gset
select api.cancel_batch_lookup(:'chain', (:'each'::uuid[])[1]) as cancelled \gset
select * from pg_temp.claimed(:'chain', :'each') \gset
select is(:'numbers'::text, '{2}', 'when a batch is cancelled before its lookup, the next one asks');
select pg_temp.record(:'chain', :'jobs', :'positions', :'tokens', 200, :'answer') as recorded \gset
select api.create_batch_lookup(:'chain', pg_temp.items(2), p_options => '{"max_lookups": 1}') ->> 'job_id' as limited, pg_temp.turn_clock(app.clock() + interval '1 second') \gset
select pg_temp.submit_streets(:'chain', '1 Elm St', '2 Congress Ave') as other \gset
select array_agg(concat_ws(' ', array_position(array[:'limited', :'other']::uuid[], job_id), position) order by job_id, position) as numbers
  from (select * from api.claim_lookups(:'chain', 'w', 10) union all select * from api.claim_lookups(:'chain', 'w', 10)) c \gset
select is(:'numbers'::text, '{"1 0","2 0","2 1"}', 'when a limit allows no lookup of an item, the next one asks');
select api.update_settings('{"deduplicate_seconds": 3600}') as settings, api.create_organization('Held') as held \gset
select api.create_batch_lookup(:'held', pg_temp.items(2), p_options => '{"max_lookups": 1, "when_limit_reached": "wait"}') ->> 'job_id' as limited,
       pg_temp.turn_clock(app.clock() + interval '1 second') \gset
select pg_temp.submit_each(:'held', 2, '2 Congress Ave') as each \gset
select is(
    (select array_agg(array_position(array[:'limited'::uuid] || :'each'::uuid[], job_id) order by job_id)
       from (select * from api.claim_lookups(:'held', 'w', 10) union all select * from api.claim_lookups(:'held', 'w', 10)
             union all select * from api.claim_lookups(:'held', 'w', 10)) c),
    '{1,2}', 'when an item is held at a limit, the next one asks');
select is_empty('select * from api.check_invariants()', 'the invariants hold when others ask');

select api.create_organization('Within') as within \gset
select api.create_batch_lookup(:'within', pg_temp.items(2, '{"building_type": "COMMERCIAL"}'), p_options => '{"max_lookups": 1, "when_limit_reached": "wait"}') is not null as held \gset
select count(*) as claimed from (select * from api.claim_lookups(:'within', 'w', 10) union all select * from api.claim_lookups(:'within', 'w', 10)) c \gset
select api.create_batch_lookup(:'within', pg_temp.items(3), p_options => '{"max_lookups": 9}') is not null as limited, pg_temp.turn_clock(app.clock() + interval '1 second') \gset
select pg_temp.submit_streets(:'within', '3 Congress Ave') as asked \gset
select is((select count(*)::integer from (select * from api.claim_lookups(:'within', 'w', 10) union all select * from api.claim_lookups(:'within', 'w', 10)) c), 3,
    'nobody asks what an item within the limit of its batch will ask');
select api.create_batch_lookup(:'within', pg_temp.items(2, '{"create_application": true}')) is not null as created \gset
select is((select count(*)::integer from api.claim_lookups(:'within', 'w', 10)), 2, 'items that create applications do not wait for each other');

select api.create_organization('Queues') as queues \gset
select pg_temp.submit_streets(:'queues', '40 Main St', '40 Main St', '41 Main St') as job \gset
select count(*) as claimed from api.claim_lookups(:'queues', 'w', 1) \gset
select pg_temp.turn_clock(app.clock() + interval '10 minutes');
select array_agg(job_id order by position) as jobs, array_agg(position order by position) as positions, array_agg(lease_token order by position) as tokens from api.claim_lookups(:'queues', 'w', 2) \gset
select pg_temp.submit_streets(:'queues', '40 Main St') as other, pg_temp.record(:'queues', (:'jobs'::uuid[])[:1], (:'positions'::integer[])[:1], (:'tokens'::uuid[])[:1], 200, :'answer') as recorded \gset
select is(:'positions' || ' ' || pg_temp.statuses(:'job'), '{0,1} completed, pending, pending', 'a lookup under way gets its own answer, however far another batch with the same question is');
select api.create_organization('Own') as own, api.create_organization('Foreign') as foreign \gset
select pg_temp.submit_streets(:'own', '30 Main St') as job, pg_temp.look_up(:'own', 1, 200, '{"answer": "own"}') as looked_up, pg_temp.turn_clock(app.clock() + interval '1 second') \gset
select pg_temp.submit_streets(:'foreign', '30 Main St') as foreign_job, pg_temp.look_up(:'foreign', 1, 200, '{"answer": "foreign"}') as looked_up \gset
select pg_temp.submit_streets(:'own', '30 Main St', '31 Main St', '32 Main St') as asked \gset
select is((select result ->> 'answer' from public.lookup_queue_items where organization_id = :'own' and job_id = :'asked' and position = 0), 'own',
    'a later answer of another organization does not hide the own one');
select is(app.copy_results(:'own', array[:'asked', :'asked', :'job']::uuid[], '{1,2,0}', array[:'asked', :'job', :'asked']::uuid[], '{2,0,0}', false, app.clock()), 1,
    'only results of completed items are copied, and only to items that have none');
select array_agg(job_id) as jobs, array_agg(position) as positions, array_agg(lease_token) as tokens from api.claim_lookups(:'own', 'w', 1) \gset
select pg_temp.record(:'own', :'jobs', :'positions', :'tokens', 404) as recorded, pg_temp.submit_streets(:'own', '33 Main St', '34 Main St', '35 Main St') as more \gset
select array_agg(job_id) as jobs, array_agg(position) as positions, array_agg(lease_token) as tokens from api.claim_lookups(:'own', 'w', 1) \gset
select pg_temp.record(:'own', :'jobs', :'positions', :'tokens', 500) as recorded, (select count(*) from api.claim_lookups(:'own', 'w', 1)) as claimed \gset
select is(app.keys_in_flight(:'own'), array(select deduplication_key from public.lookup_queue_items where organization_id = :'own' and job_id = :'more' and position = 1), 'only the items that a lease has are in flight');

select api.create_organization('Hour') as hour \gset
select pg_temp.submit_each(:'hour', 2, '60 Main St') as each \gset
select count(*) as claimed, app.clock() + interval '30 minutes' as half_an_hour, app.clock() + interval '61 minutes' as an_hour from api.claim_lookups(:'hour', 'w', 1) \gset
select array_agg(row(i.*)::public.lookup_queue_items) as items from public.lookup_queue_items i where organization_id = :'hour' and job_id = (:'each'::uuid[])[1] \gset
select :'half_an_hour'::timestamptz + interval '1 minute' as soon, :'an_hour'::timestamptz + interval '1 minute' as soon_after \gset
update public.lookup_queue_items set retry_at = :'soon' where organization_id = :'hour' and job_id = (:'each'::uuid[])[2];
select app.ask_again(:'hour', :'items', (:'each'::uuid[])[2:], :'half_an_hour') \gset first_
select retry_at > :'soon' as waits_on from public.lookup_queue_items where organization_id = :'hour' and job_id = (:'each'::uuid[])[2] \gset
update public.lookup_queue_items set retry_at = :'soon_after' where organization_id = :'hour' and job_id = (:'each'::uuid[])[2];
select app.ask_again(:'hour', :'items', (:'each'::uuid[])[2:], :'an_hour') \gset second_
select retry_at = :'soon_after' as waits_no_longer from public.lookup_queue_items where organization_id = :'hour' and job_id = (:'each'::uuid[])[2] \gset
select is(array[:'waits_on', :'waits_no_longer'], '{t,t}', 'while another one asks, an item waits on for an hour after its upload');

-- Two batches that are created at the same time
select api.create_organization('Twins') as twins \gset
select pg_temp.submit_each(:'twins', 1, '22 Main St') as each, pg_temp.turn_clock(app.clock() - interval '1 second') \gset
select pg_temp.submit_streets(:'twins', '22 Main St') as earlier \gset
select is((select count(*) from api.claim_lookups(:'twins', 'w', 10)), 1::bigint, 'two batches that are created at the same time ask once');
select api.create_batch_lookup(:'twins', pg_temp.items(2), p_options => '{"sample": 1}') ->> 'job_id' as sampled, pg_temp.turn_clock(app.clock() + interval '2 seconds') \gset
select pg_temp.submit_streets(:'twins', '1 Congress Ave', '2 Congress Ave') as all \gset
select is(
    (select array_agg(job_id = :'all' order by job_id) from (select * from api.claim_lookups(:'twins', 'w', 10) union all select * from api.claim_lookups(:'twins', 'w', 10)) c),
    '{false,true}', 'nobody waits for an item that waits behind a sample');

-- Time passes
select pg_temp.turn_clock(app.clock() + interval '2 hours');
select api.run_maintenance() as ran \gset
select pg_temp.submit_streets(:'org', '1 Main St') as job \gset
select is(pg_temp.look_up(:'org', 10, 200, '{}'), 1::bigint, 'an old answer is no longer used');
select is_empty('select * from api.check_invariants()', 'the invariants hold after duplicates were answered');

-- Results of earlier jobs
select api.update_settings('{"deduplicate_seconds": null}') as settings \gset
create function pg_temp.submit_reusing(p_organization_id uuid, p_request jsonb, p_days integer) returns json
language sql as $$
    select api.create_batch_lookup(p_organization_id, p_request, p_options => jsonb_build_object('reuse_results', jsonb_build_object('max_age_days', p_days)))
$$;
create function pg_temp.changed(p_request jsonb, p_positions integer[]) returns jsonb
language sql as $$
    select jsonb_build_object('items', jsonb_agg(case when n - 1 = any (p_positions) then jsonb_set(item, '{address,city}', '"Round Rock"') else item end order by n))
      from jsonb_array_elements(p_request -> 'items') with ordinality i (item, n)
$$;
select api.create_organization('Initech') as org \gset
select pg_temp.submit(:'org', 20) as job \gset
select is(pg_temp.look_up(:'org', 19, 200, :'answer'), 19::bigint, 'nineteen items have answers of their own');
select is(pg_temp.look_up(:'org', 1, 404), 1::bigint, 'an item without an answer fails');
select is_empty('select from app.known_results', 'a flush writes nothing for those who may reuse results');
select is(
    (select row(d -> 'lookups', d -> 'known_already')::text
       from api.create_batch_lookup(:'org', pg_temp.items(20), p_options => '{"dry_run": true, "reuse_results": {"max_age_days": 30}}') d),
    '(1,19)', 'a dry run says how many lookups there would be, and how many results are known');
select pg_temp.submit_reusing(:'org', pg_temp.changed(pg_temp.items(20), '{3}'), 30) as created \gset
select is(
    (select row(c -> 'status', c -> 'reused_items', c #> '{report,total_sites}')::text from json(:'created') c), '("""processing""",18,18)',
    'the answer to an upload says how many results it was given');
select is(
    (select array_agg(position order by position) from api.claim_lookups(:'org', 'w', 100)), array[3, 19], 'only what is new or failed is looked up');
select is(
    (select row(reused_from_job_id, reused_from_position, result ->> 'reference_id', result ->> 'deduplicated')::text
       from public.lookup_queue_items where job_id = (:'created'::json ->> 'job_id')::uuid and position = 7), format('(%s,7,site-8,true)', :'job'),
    'a reused result says where it comes from, and has the reference_id of its own item');
select is_empty('select * from api.check_invariants()', 'counters and reports include results that were reused');
select is((pg_temp.submit_reusing(:'other_org', pg_temp.items(1), 30)) ->> 'reused_items', '0', 'results of another organization are not reused');
select pg_temp.turn_clock(app.clock() + interval '29 days');
select is((pg_temp.submit_reusing(:'org', pg_temp.items(1), 30)) ->> 'status', 'completed', 'a job whose results are all known ends at once');
select pg_temp.turn_clock(app.clock() + interval '2 days');
select is((pg_temp.submit_reusing(:'org', pg_temp.items(1), 30)) ->> 'reused_items', '0', 'a result is never older than asked, although it was reused since');
select is(
    (pg_temp.submit_reusing(:'org', pg_temp.items(1, '{"create_application": true}'), 300)) ->> 'reused_items', '0',
    'an item that creates an application is always looked up');
select api.delete_batch_lookup(:'org', :'job') as deleted \gset
select is((pg_temp.submit_reusing(:'org', pg_temp.items(1), 300)) ->> 'reused_items', '0', 'results are deleted with their job');
create function pg_temp.known(p_organization_id uuid, p_days integer) returns integer
language sql as $$
    select (api.create_batch_lookup(p_organization_id, pg_temp.items(3), p_options => jsonb_build_object(
                'dry_run', true, 'reuse_results', jsonb_build_object('max_age_days', p_days))) ->> 'known_already')::integer
$$;
select api.create_organization('Growing') as growing \gset
select pg_temp.submit(:'growing', 2) as job, pg_temp.look_up(:'growing', 1, 200, :'answer') as looked_up \gset
select pg_temp.known(:'growing', 30) as known \gset
select pg_temp.look_up(:'growing', 1, 200, :'answer') as looked_up \gset
select is(array[:known, pg_temp.known(:'growing', 30)], '{1,2}', 'a job is read again when more of its items have results');
select pg_temp.turn_clock(app.clock() + interval '10 days');
select api.create_organization('Older') as older \gset
select pg_temp.submit(:'older', 1) as job, pg_temp.look_up(:'older', 1, 200, :'answer') as looked_up, pg_temp.turn_clock(app.clock() + interval '10 days') \gset
select is(array[pg_temp.known(:'older', 1), pg_temp.known(:'older', 30)], '{0,1}', 'older results are found even after a request for newer ones only');
select throws_ok(
    format($$ select pg_temp.submit_reusing(%L, pg_temp.items(1), 0) $$, :'org'), 'PT400',
    'reuse_results must be an object {"max_age_days": a whole number from 1 to 3650}', 'the age of results is limited');

select pg_temp.submit(:'org', 2) as job, pg_temp.look_up(:'org', 1, 200, :'answer') as looked_up, api.create_organization('Beside') as beside \gset
select is_empty(format($$ select from app.unread_jobs(%L, '-infinity') $$, :'beside'), 'only the jobs of an organization itself are left to be read for it');
select api.create_batch_lookup(:'beside', pg_temp.items(1, '{"create_application": true}')) is not null as created, pg_temp.look_up(:'beside', 1, 200, :'answer') as looked_up \gset
select pg_temp.submit(:'beside', 20) as job, pg_temp.look_up(:'beside', 20, 200, :'answer') as looked_up, pg_temp.submit_streets(:'beside', '9 Elm St') as waiting \gset
select pg_temp.submit_reusing(:'beside', pg_temp.changed(pg_temp.items(20), '{3}'), 30) ->> 'job_id' as reusing \gset
select is((select array_agg(array_position(array[:'waiting', :'reusing']::uuid[], job_id) || coalesce(' at ' || position, '') || ' ' || (retry_at is not null) order by retry_at is not null)
             from public.lookup_queue_items where organization_id = :'beside' and status = 'pending'), '{1 at 0 false,2 at 3 true}',
    'when nearly all results of a batch are known, only its own items are scheduled');
select is((select array_agg(array_position(array[:'waiting', :'reusing']::uuid[], job_id)) from app.queued_jobs where organization_id = :'beside'), '{1}', 'a batch whose items are scheduled is not claimed from its beginning as well');
select api.create_organization('Read Later') as behind \gset
select pg_temp.known(:'behind', 30) as known, pg_temp.submit(:'behind', 3) as job, pg_temp.look_up(:'behind', 3, 200, :'answer') as looked_up \gset
select count(*) as turns from app.known_organizations \gset
select count(app.learn_results_in_turn()) as learnt from generate_series(1, :turns) \gset
select is((select count(*)::integer from app.known_results where organization_id = :'behind'), 3, 'maintenance reads what organizations that reuse results have looked up since');

select api.create_organization('Latest') as latest \gset
select pg_temp.submit(:'latest', 1) as job, pg_temp.look_up(:'latest', 1, 200, :'answer') as looked_up \gset
select pg_temp.turn_clock(app.clock() + interval '1 day');
select pg_temp.submit(:'latest', 1) as later_job \gset
select pg_temp.look_up(:'latest', 1, 200, :'answer') as looked_up \gset
select pg_temp.submit_reusing(:'latest', pg_temp.items(1), 30) as created \gset
select :'created'::json ->> 'job_id' as reusing \gset
select is(:'created'::json ->> 'reused_items' || ' ' || pg_temp.known(:'latest', 30), '1 1', 'one of several results is reused and counted');
select is((select reused_from_job_id from public.lookup_queue_items where job_id = :'reusing'), :'later_job'::uuid, 'the latest of several results is reused');

select isnt(
    app.dedup_key((select i from app.parse_batch_items(app.batch_request_items(pg_temp.items(1, '{"household": {"size": 2}}') -> 'items'), true) i)),
    app.dedup_key((select i from app.parse_batch_items(app.batch_request_items(pg_temp.items(1) -> 'items'), true) i)), 'the same site with another household is another question');

-- What is the same question
create function pg_temp.key(p_change jsonb, p_address jsonb default '{}') returns uuid
language sql as $$
    select app.dedup_key(i)
      from (select pg_temp.items(1) #> '{items,0}' || '{"device_ids": [1, 2, 2]}' || p_change as item) r
     cross join app.parse_batch_items(app.batch_request_items(jsonb_build_array(item || jsonb_build_object('address', item -> 'address' || p_address))), true) i
$$;
select is(array(select distinct k from unnest(array[pg_temp.key('{}'), pg_temp.key('{"reference_id": "another"}'), pg_temp.key('{"device_ids": [2, 1, 2]}'), pg_temp.key('{"create_application": false}'),
        pg_temp.key('{}', '{"street_1": "#1 - CONGRESS   Ave."}'), pg_temp.key('{}', '{"street_1": "1 Congress", "street_2": "Ave"}'), pg_temp.key('{}', '{"city": "AUSTIN."}'),
        pg_temp.key('{}', '{"postal_code": "78701-1234"}')]) k), array[pg_temp.key('{}')], 'case, punctuation and the order of devices do not change the question');
select is(pg_temp.key('{}', '{"country_code": "CA", "state_or_province_code": "ON", "postal_code": "k1a0b1"}'), pg_temp.key('{}', '{"country_code": "CA", "state_or_province_code": "ON", "postal_code": "K1A 0B1"}'),
    'a Canadian postal code is the same without its space');
select is((select count(distinct k) from unnest(array[pg_temp.key('{}'), pg_temp.key('{"device_ids": [1, 2]}'), pg_temp.key('{"device_ids": [1, 3]}'), pg_temp.key('{"building_type": "COMMERCIAL"}'), pg_temp.key('{}', '{"street_1": "11 Congress Ave"}'),
        pg_temp.key('{}', '{"street_2": "2"}'), pg_temp.key('{}', '{"city": "Aus Tin"}'), pg_temp.key('{}', '{"postal_code": "78702"}'), pg_temp.key('{}', '{"state_or_province_code": "OK"}'),
        pg_temp.key('{}', '{"country_code": "CA", "state_or_province_code": "ON", "postal_code": "K1A 0B1"}'), pg_temp.key('{}', '{"country_code": "CA", "state_or_province_code": "ON", "postal_code": "K1A 0B2"}')]) k), 11::bigint,
    'another address, building type or set of devices is another question');

-- Pieces of what is copied
select pg_temp.submit_streets(:'org', '9 Large St') as large \gset
select pg_temp.look_up(:'org', 10, 200, :'answer') as looked_up \gset
create function pg_temp.pieces(p_organization_id uuid, p_job_id uuid, p_bytes integer, p_count integer) returns text
language plpgsql as $$
begin
    update public.lookup_queue_items
       set result = json_build_object('x', repeat('x', p_bytes - 10))
     where organization_id = p_organization_id and job_id = p_job_id and position = 0;
    return (select format('%s pieces up to %s', cardinality(l), l[cardinality(l)])
              from app.pieces_of_results(p_organization_id, array_fill(p_job_id, array[p_count]), array_fill(0, array[p_count])) l);
end;
$$;
select is(pg_temp.pieces(:'org', :'large', 100, 2500), '3 pieces up to 2500', 'small results are copied a thousand at a time');
select is(pg_temp.pieces(:'org', :'large', 100000, 500), '6 pieces up to 500', 'large results are copied 8 MB at a time');
select is(pg_temp.pieces(:'org', :'large', 1000000, 300), '32 pieces up to 268', 'the sites beyond 256 MB of results are left to be looked up');

-- Copies are older than they look
select api.update_settings('{"deduplicate_seconds": 60}') as settings, api.create_organization('Copies') as copies \gset
select pg_temp.submit(:'copies', 1) as job, pg_temp.look_up(:'copies', 1, 200, :'answer') as looked_up \gset
select pg_temp.turn_clock(app.clock() + interval '50 seconds');
select pg_temp.submit(:'copies', 1) as copy \gset
select pg_temp.turn_clock(app.clock() + interval '50 seconds');
select pg_temp.submit(:'copies', 1) as later \gset
select is(pg_temp.statuses(:'copy') || ', ' || pg_temp.statuses(:'later'), 'completed true, pending', 'the answer to a duplicate is not shared for longer than the lookup that it is of');
select pg_temp.look_up(:'copies', 1, 200, :'answer') as looked_up, pg_temp.turn_clock(app.clock() + interval '10 days') \gset
select pg_temp.submit_reusing(:'copies', pg_temp.items(1), 30) ->> 'job_id' as reusing \gset
select pg_temp.submit(:'copies', 1) as later \gset
select is(pg_temp.statuses(:'later'), 'pending', 'a reused result is not used for duplicates of uploads without reuse_results');

select api.update_settings('{"deduplicate_seconds": 86400}') as settings, api.create_organization('Aged') as aged \gset
select pg_temp.submit(:'aged', 1) as job, pg_temp.look_up(:'aged', 1, 200, :'answer') as looked_up, pg_temp.turn_clock(app.clock() + interval '12 hours') \gset
select pg_temp.statuses(pg_temp.submit(:'aged', 1)) as copied, api.update_settings('{"deduplicate_seconds": null}') as settings, pg_temp.turn_clock(app.clock() + interval '18 hours') \gset
select is(:'copied' || ' ' || pg_temp.known(:'aged', 1) || ' ' || pg_temp.known(:'aged', 2), 'completed true 0 1', 'an answer to a duplicate is as old as the lookup that it is of');

-- Reuse together with deduplication
select api.update_settings('{"deduplicate_seconds": 86400}') as settings, api.create_organization('Both') as both \gset
select pg_temp.submit(:'both', 1) as job, pg_temp.look_up(:'both', 1, 200, :'answer') as looked_up \gset
select api.create_batch_lookup(:'both', pg_temp.items(2), p_options => '{"dry_run": true, "reuse_results": {"max_age_days": 30}}') as dry_run \gset
select pg_temp.submit_reusing(:'both', pg_temp.items(2), 30) as created \gset
select is(:'created'::json ->> 'reused_items', :'dry_run'::json ->> 'known_already', 'a batch reuses as many results as its dry run says, even with deduplication');
select is(
    (select reused_from_job_id from public.lookup_queue_items where job_id = (:'created'::json ->> 'job_id')::uuid and position = 0), :'job'::uuid,
    'a reused result says where it comes from, even with deduplication');

-- Several answers
select api.create_organization('Several') as several \gset
select pg_temp.submit_streets(:'several', '1 Elm St', '2 Elm St', '3 Elm St') as job, pg_temp.look_up(:'several', 3, 200, '{}') as looked_up \gset
select deduplication_key as first_key, app.clock() - interval '1 day' as a_day_ago from public.lookup_queue_items where job_id = :'job' and position = 0 \gset
update public.lookup_queue_items set deduplication_key = :'first_key', parsed_result = null where job_id = :'job';
update public.lookup_queue_items set processed_at = :'a_day_ago', result = '{"answer": 0}' where job_id = :'job' and position = 0;
update public.lookup_queue_items set processed_at = :'a_day_ago'::timestamptz + interval '2 minutes', result = '{"answer": 1}' where job_id = :'job' and position = 1;
update public.lookup_queue_items set processed_at = :'a_day_ago'::timestamptz + interval '1 minute', result = '{"answer": 2}' where job_id = :'job' and position = 2;
select pg_temp.submit_streets(:'several', '1 Elm St') as asked \gset
select is((select array[result ->> 'answer', reused_from_job_id::text] from public.lookup_queue_items where job_id = :'asked'), '{1,null}', 'the newest of several answers is used, which is no result of an earlier job');
update public.lookup_queue_items set processed_at = :'a_day_ago' where job_id = :'job' and position = 0;
update public.lookup_queue_items set processed_at = :'a_day_ago'::timestamptz - interval '1 second' where job_id = :'job' and position > 0;
select pg_temp.submit_streets(:'several', '1 Elm St') as asked \gset
select is((select result ->> 'answer' from public.lookup_queue_items where job_id = :'asked'), '0', 'an answer is used for as long as the setting says');
select api.update_settings('{"deduplicate_seconds": null}') as settings \gset

select * from finish();
rollback;
