begin;
select plan(89);
\ir fixtures.psql
select pg_temp.turn_clock('2026-11-20 12:00:00+00');

create function pg_temp.submit_with(p_organization_id uuid, p_count integer, p_options jsonb) returns uuid
language sql as $$ select (api.create_batch_lookup(p_organization_id, pg_temp.items(p_count), p_options => p_options) ->> 'job_id')::uuid $$;
create function pg_temp.job(p_job_id uuid, variadic p_members text[]) returns text
language plpgsql as $$
begin
    return (select string_agg(coalesce(app.job_progress_json(row(j.*)::public.batch_lookup_jobs) ->> m.name, 'null'), ' ' order by m.n)
              from public.batch_lookup_jobs j cross join unnest(p_members) with ordinality m (name, n) where j.id = p_job_id);
end;
$$;
-- Claims until nothing is left, and records the same outcome for each item; returns how many there were.
create function pg_temp.drain(p_organization_id uuid, p_http_status integer default 200) returns bigint
language plpgsql as $$
declare
    v_count bigint := 0;
    v_more  bigint;
begin
    for n in 1 .. 20 loop
        v_more := pg_temp.look_up(p_organization_id, 7, p_http_status, '{}');
        v_count := v_count + v_more;
        exit when v_more = 0 and n > 2;
    end loop;
    return v_count;
end;
$$;

-- A sample
select pg_temp.submit_with(:'org', 20, '{"sample": 5}') as job \gset
select is(pg_temp.job(:'job', 'status', 'waiting_for'), 'pending null', 'a job with a sample begins like others');
select array_agg(position order by position) as sample, array_agg(lease_token) as tokens, array_agg(job_id) as jobs from api.claim_lookups(:'org', 'w', 100) \gset
select is(cardinality(:'sample'::integer[]), 5, 'only the sample is claimed');
select isnt(:'sample'::integer[], array[0, 1, 2, 3, 4], 'the sample is not the first part of the file');
select is_empty('select * from api.check_invariants()', 'the invariants hold while a sample is looked up');
select throws_ok(format('select api.continue_batch_lookup(%L, %L)', :'org', :'job'), 'PT409', 'The job is not waiting to be continued', 'a job is not continued before its sample has ended');
select pg_temp.record(:'org', :'jobs', :'sample', :'tokens', 200, '{}') as recorded \gset
select is(pg_temp.job(:'job', 'status', 'processed_items', 'waiting_for', 'rate', 'estimated_completion_at', 'poll_after_ms'), 'processing 5 continue null null 5000', 'after its sample a job waits to be continued, however long that takes');
select pg_temp.submit_with(:'other_org', 20, '{"sample": 5}') as other_job \gset
select is(
    (select array_agg(position order by position) from public.lookup_queue_items where job_id = :'other_job' and retry_at is not null), :'sample'::integer[],
    'the sample of the same file is the same');
select is(api.explain_item(:'org', :'job', (select min(p) from generate_series(0, 19) p where p <> all (:'sample'::integer[]))) #>> '{waiting_for,reason}', 'continue', 'the other items wait with the job');
select is(pg_temp.drain(:'org'), 0::bigint, 'nothing else is looked up meanwhile');
select is_empty('select * from api.check_invariants()', 'the invariants hold while a job is held');
select api.run_maintenance() as ran \gset
select is(api.continue_batch_lookup(:'org', :'job') ->> 'status', 'processing', 'a continued job resumes');
select is(pg_temp.drain(:'org'), 15::bigint, 'the rest is looked up once');
select is(pg_temp.job(:'job', 'status', 'lookups', 'waiting_for'), 'completed 20 null', 'a job that was continued ends like others');
select pg_temp.submit_with(:'org', 20, '{"sample": 5}') as job \gset
select pg_temp.drain(:'org') as sampled, api.cancel_batch_lookup(:'org', :'job') as cancelled \gset
select is(pg_temp.job(:'job', 'status', 'processed_items', 'failed_items'), 'cancelled 20 15', 'a job that was only sampled can be cancelled');
select pg_temp.submit_with(:'org', 5, '{"sample": 5}') as job \gset
select array_agg(position order by position) as positions, array_agg(lease_token) as tokens, array_agg(job_id) as jobs from api.claim_lookups(:'org', 'w', 2) \gset
select is(:'positions'::integer[], '{0,1}', 'a sample of all items is looked up in the order of the file');
select api.release_lookups(:'org', :'jobs', :'positions', :'tokens') as released \gset
select is(pg_temp.drain(:'org'), 5::bigint, 'a sample of all items has no effect');

-- A limit at which the other items fail
select pg_temp.submit_with(:'org', 20, '{"max_lookups": 8}') as job \gset
select pg_temp.look_up(:'org', 3, 500);
select pg_temp.turn_clock(app.clock() + interval '3 seconds');
select is(pg_temp.drain(:'org'), 5::bigint, 'retries count against max_lookups');
select is(pg_temp.job(:'job', 'status', 'lookups', 'failed_items', 'errors_by_code'), 'completed 8 15 { "lookup_limit_reached" : 15 }', 'at max_lookups the rest of the job fails');
select pg_temp.submit_with(:'org', 6, '{"max_lookups": 4}') as job \gset
select array_agg(position order by position) as positions, array_agg(lease_token) as tokens, array_agg(job_id) as jobs from api.claim_lookups(:'org', 'w', 100) \gset
select is(cardinality(:'positions'::integer[]), 4, 'one claim takes no more than the limit');
select pg_temp.drain(:'org') as drained \gset
select is(pg_temp.job(:'job', 'status', 'failed_items'), 'processing 2', 'items in flight continue while the others fail');
select pg_temp.record(:'org', :'jobs', :'positions', :'tokens', 500) as recorded \gset
select pg_temp.turn_clock(app.clock() + interval '3 seconds');
select pg_temp.drain(:'org') as drained \gset
select is(pg_temp.job(:'job', 'status', 'lookups', 'failed_items'), 'failed 4 6', 'retries that would exceed the limit fail');

-- A limit at which the other items wait
select pg_temp.submit_with(:'org', 10, '{"max_lookups": 4, "when_limit_reached": "wait"}') as job \gset
select pg_temp.look_up(:'org', 2, 500);
select is(pg_temp.drain(:'org'), 2::bigint, 'two failures and two successes use up a limit of four');
select pg_temp.turn_clock(app.clock() + interval '3 seconds');
select is(pg_temp.drain(:'org'), 0::bigint, 'retries wait with the others');
select is(pg_temp.job(:'job', 'status', 'processed_items', 'lookups', 'waiting_for', 'rate'), 'processing 2 4 lookup_limit null', 'a job at its limit says so');
select is((select held_position from app.job_budgets where job_id = :'job'), 9, 'a job at its limit leaves the queue, and no claim reads its remaining items');
select is(
    (select array_agg(array[j ->> 'id', j ->> 'waiting_for']) from json_array_elements(api.list_batch_lookups(:'org') -> 'jobs') j where j ->> 'waiting_for' is not null),
    array[array[:'job', 'lookup_limit']], 'the list says which jobs wait, and for what');
select is(api.explain_item(:'org', :'job', 9) #>> '{waiting_for,reason}', 'lookup_limit', 'an item at the limit says what it waits for');
select is((select next_ready_in from api.heartbeat('w')), null, 'a held job keeps no worker busy');
select api.run_maintenance() as ran \gset
select is(pg_temp.drain(:'org'), 0::bigint, 'maintenance leaves a held job alone');
select is_empty('select * from api.check_invariants()', 'the invariants hold at a limit');
select throws_ok(format('select api.continue_batch_lookup(%L, %L)', :'org', :'job'), 'PT409', 'The job has made 4 lookups and may make no more', 'a job at its limit continues only with a higher one');
select pg_temp.submit_with(:'org', 2, '{"max_lookups": 1, "when_limit_reached": "wait"}') as once \gset
select pg_temp.drain(:'org') as drained \gset
select throws_ok(format('select api.continue_batch_lookup(%L, %L)', :'org', :'once'), 'PT409', 'The job has made 1 lookup and may make no more', 'a job at a limit of one lookup continues only with a higher one');
select api.cancel_batch_lookup(:'org', :'once') as cancelled \gset
select is(api.continue_batch_lookup(:'org', :'job', 12) ->> 'waiting_for', null, 'a higher limit lets a job continue');
select is(pg_temp.drain(:'org'), 8::bigint, 'the items that waited are looked up');
select is(pg_temp.job(:'job', 'status', 'lookups', 'failed_items'), 'completed 12 0', 'a job that got a higher limit ends like others');

-- The month
select api.set_monthly_lookups(:'org', (api.get_usage(:'org') #>> '{month,lookups}')::integer + 3);
select pg_temp.submit(:'org', 5) as job \gset
select pg_temp.turn_clock(app.clock() + interval '1 second');
select pg_temp.submit_with(:'org', 5, '{"when_limit_reached": "wait"}') as waiting_job \gset
select is(pg_temp.drain(:'org'), 3::bigint, 'all batches together make no more lookups than monthly_lookups');
select is(
    (select count(*) filter (where error_code = 'lookup_limit_reached') || ' ' || count(*) filter (where status = 'pending')
       from public.lookup_queue_items where job_id in (:'job', :'waiting_job') and status <> 'completed'), '3 4',
    'at monthly_lookups the rest of each batch fails or waits, as its upload said');
select is(pg_temp.job(:'waiting_job', 'status', 'waiting_for', 'waiting_until'), 'processing lookup_limit 2026-12-01T00:00:00.000Z',
    'a batch that waits for the lookups of the next month says when that begins');
select throws_ok(format('select api.continue_batch_lookup(%L, %L, 100)', :'org', :'waiting_job'), 'PT409',
    'The organization has used up this month''s lookups; the job continues by itself next month', 'nobody can continue a batch that waits for the next month');
select pg_temp.submit_with(:'org', 3, '{"sample": 1, "when_limit_reached": "wait"}') as sampled_job \gset
select is(pg_temp.job(:'sampled_job', 'waiting_for', 'waiting_until'), pg_temp.job(:'waiting_job', 'waiting_for', 'waiting_until'), 'a sample waits for the next month like other items');
select is((select next_ready_in from api.heartbeat('w')) > 86400, true, 'waiting items are ready next month');
select is_empty('select * from api.check_invariants()', 'the invariants hold when the monthly limit is used up');
select pg_temp.turn_clock('2026-12-01 00:00:01+00');
select is(pg_temp.drain(:'org'), 5::bigint, 'in a new month the organization has lookups again');
select is(pg_temp.job(:'waiting_job', 'status', 'waiting_for', 'waiting_until'), 'completed null null', 'a batch that waited for the next month ends like others');
select is(pg_temp.job(:'sampled_job', 'waiting_for', 'waiting_until'), 'continue null', 'a sample that waited for the next month waits to be continued once it is done');
select api.set_monthly_lookups(:'org', (api.get_usage(:'org') #>> '{month,lookups}')::integer + 1);
select pg_temp.submit_with(:'org', 2, '{"when_limit_reached": "wait"}') as last_job \gset
select job_id, position, lease_token from api.claim_lookups(:'org', 'w', 5) \gset last_
select is(
    array[pg_temp.job(:'last_job', 'waiting_for'), pg_temp.record(:'org', array[:'last_job_id'::uuid], array[:last_position], array[:'last_lease_token'::uuid], 200, '{}'),
          pg_temp.job(:'last_job', 'waiting_for')],
    array['null', 'accepted', 'lookup_limit'], 'a batch waits for the next month once its last lookups of this one are over');

-- Duplicates in a sample
select api.create_organization('Twins') as twins, api.update_settings('{"deduplicate_seconds": 3600}') as settings \gset
create function pg_temp.at(p_street text) returns jsonb
language sql as $$
    select jsonb_build_object('address', pg_temp.items(1) #> '{items,0,address}' || jsonb_build_object('street_1', p_street))
$$;
select api.create_batch_lookup(:'twins', pg_temp.items(6, pg_temp.at('1 Main St')), p_options => '{"sample": 2}') ->> 'job_id' as job \gset
select is(pg_temp.drain(:'twins'), 1::bigint, 'duplicates in a sample are looked up once');
select is(pg_temp.job(:'job', 'processed_items', 'waiting_for'), '2 continue', 'an item of a sample that has the answer to another one counts in it');
select is(api.continue_batch_lookup(:'twins', :'job') ->> 'status', 'completed', 'duplicates of the sample are not looked up when its job is continued');
select jsonb_agg(item || pg_temp.at(case when n > 2 then '3 Main St' else n || ' Main Road' end) order by n) as items
  from jsonb_array_elements(pg_temp.items(6) -> 'items') with ordinality i (item, n) \gset
select api.create_batch_lookup(:'twins', jsonb_build_object('items', :'items'::jsonb), p_options => '{"max_lookups": 1, "when_limit_reached": "wait"}') ->> 'job_id' as job \gset
select pg_temp.drain(:'twins') as drained, api.continue_batch_lookup(:'twins', :'job', 9) as continued \gset
select is(pg_temp.drain(:'twins'), 2::bigint, 'duplicates in a continued job are looked up once');
select is(pg_temp.job(:'job', 'status', 'lookups'), 'completed 3', 'a continued job ends with the answers to its duplicates');
select api.create_batch_lookup(:'twins', pg_temp.items(6, pg_temp.at('5 Main St')), p_options => '{"sample": 1}') ->> 'job_id' as job \gset
select pg_temp.drain(:'twins') as sampled, pg_temp.turn_clock(app.clock() + interval '1 hour') \gset
select is(pg_temp.drain(:'twins'), 0::bigint, 'duplicates of an item of the sample wait with the job, however long that takes');
select is_empty('select * from api.check_invariants()', 'the invariants hold for a sample of duplicates');

-- Continued while a later batch looks up duplicates
select jsonb_agg(item || pg_temp.at(n || ' Oak St') order by n) as items from jsonb_array_elements(pg_temp.items(2) -> 'items') with ordinality i (item, n) \gset
select api.create_batch_lookup(:'twins', jsonb_build_object('items', :'items'::jsonb), p_options => '{"max_lookups": 1, "when_limit_reached": "wait"}') ->> 'job_id' as job,
       pg_temp.drain(:'twins') as drained \gset
select pg_temp.drain(:'twins') as drained, pg_temp.turn_clock(app.clock() + interval '1 second') \gset
select api.create_batch_lookup(:'twins', pg_temp.items(1, pg_temp.at('2 Oak St'))) ->> 'job_id' as later_job, pg_temp.turn_clock(app.clock() + interval '10 minutes') \gset
select array_agg(job_id) as jobs, array_agg(position) as positions, array_agg(lease_token) as tokens from api.claim_lookups(:'twins', 'w', 9) where job_id = :'later_job' \gset
select api.continue_batch_lookup(:'twins', :'job', 9) as continued \gset
select is(pg_temp.drain(:'twins'), 0::bigint, 'a continued job does not look up what a later one is looking up');
select pg_temp.record(:'twins', :'jobs', :'positions', :'tokens', 200, '{}') as recorded \gset
select is(pg_temp.job(:'job', 'status', 'lookups'), 'completed 1', 'a continued job gets the answer that a later one was looking up');

-- Released at a limit, and answered by a later batch
create function pg_temp.keep_leases() returns void
language plpgsql as $$
declare
    v_until timestamptz := app.clock() + interval '1 hour';
begin
    update public.lookup_leases set expires_at = v_until;
end;
$$;
select jsonb_agg(item || pg_temp.at(n || ' Elm St') order by n) as items from jsonb_array_elements(pg_temp.items(4) -> 'items') with ordinality i (item, n) \gset
select api.create_batch_lookup(:'twins', jsonb_build_object('items', :'items'::jsonb), p_options => '{"max_lookups": 2, "when_limit_reached": "wait"}') ->> 'job_id' as job \gset
select array_agg(job_id) as jobs, array_agg(position) as positions, array_agg(lease_token) as tokens from api.claim_lookups(:'twins', 'w', 9) \gset
select pg_temp.drain(:'twins') as drained, pg_temp.turn_clock(app.clock() + interval '1 second') \gset
select api.create_batch_lookup(:'twins', pg_temp.items(1, pg_temp.at('1 Elm St'))) as later, pg_temp.turn_clock(app.clock() + interval '10 minutes'), pg_temp.keep_leases() \gset
select is(pg_temp.drain(:'twins'), 1::bigint, 'a later batch does not wait forever for the answer to a duplicate');
select api.release_lookups(:'twins', (:'jobs'::uuid[])[:1], (:'positions'::integer[])[:1], (:'tokens'::uuid[])[:1]) as released \gset
select pg_temp.drain(:'twins') as drained \gset
select is_empty('select * from api.check_invariants()', 'the invariants hold when a job at its limit continues while it has lookups in flight');
select pg_temp.record(:'twins', (:'jobs'::uuid[])[2:], (:'positions'::integer[])[2:], (:'tokens'::uuid[])[2:], 200, '{}') as recorded \gset
select is(pg_temp.job(:'job', 'processed_items', 'lookups', 'waiting_for'), '3 2 lookup_limit', 'a job at its limit continues with the lookups that were released');

-- Duplicates of an item in flight, when a limit is reached
select api.create_batch_lookup(:'twins', pg_temp.items(3, pg_temp.at('7 Main St')), p_options => '{"max_lookups": 1}') ->> 'job_id' as job \gset
select array_agg(job_id) as jobs, array_agg(position) as positions, array_agg(lease_token) as tokens from api.claim_lookups(:'twins', 'w', 9) \gset
select pg_temp.drain(:'twins') as drained \gset
select is(api.explain_item(:'twins', :'job', 1) #>> '{waiting_for,reason}', 'duplicate', 'at a limit an item waits for the answer in flight to the same question');
select pg_temp.record(:'twins', :'jobs', :'positions', :'tokens', 200, '{}') as recorded \gset
select is(pg_temp.job(:'job', 'status', 'lookups', 'failed_items'), 'completed 1 0', 'at a limit an item still gets an answer that takes no lookup');
select api.create_batch_lookup(:'twins', pg_temp.items(3, pg_temp.at('8 Main St')), p_options => '{"sample": 1, "max_lookups": 1}') ->> 'job_id' as job \gset
select array_agg(job_id) as jobs, array_agg(position) as positions, array_agg(lease_token) as tokens from api.claim_lookups(:'twins', 'w', 9) \gset
select pg_temp.drain(:'twins') as drained \gset
select is_empty('select * from api.check_invariants()', 'the invariants hold while items at a limit wait for an answer in flight');
select pg_temp.record(:'twins', :'jobs', :'positions', :'tokens', 200, '{}') as recorded \gset
select is(pg_temp.job(:'job', 'status', 'lookups', 'failed_items'), 'completed 1 0', 'beyond a sample an item still gets an answer at a limit');
select api.create_batch_lookup(:'twins', pg_temp.items(1, pg_temp.at('1 Ash St'))) as earlier_job \gset
select array_agg(job_id) as jobs, array_agg(position) as positions, array_agg(lease_token) as tokens from api.claim_lookups(:'twins', 'w', 9) \gset
select jsonb_agg(item || pg_temp.at(n || ' Ash St') order by n) as items from jsonb_array_elements(pg_temp.items(2) -> 'items') with ordinality i (item, n) \gset
select api.create_batch_lookup(:'twins', jsonb_build_object('items', :'items'::jsonb), p_options => '{"sample": 1, "max_lookups": 1}') ->> 'job_id' as job \gset
select pg_temp.drain(:'twins') as drained, pg_temp.record(:'twins', :'jobs', :'positions', :'tokens', 200, '{}') as recorded \gset
select is(pg_temp.job(:'job', 'status', 'lookups', 'failed_items'), 'completed 1 0', 'the first item beyond a sample still gets the answer to an earlier batch at a limit');
select api.create_organization('Month of twins') as month \gset
select api.set_monthly_lookups(:'month', 1);
select api.create_batch_lookup(:'month', pg_temp.items(3, pg_temp.at('9 Main St'))) ->> 'job_id' as job \gset
select array_agg(job_id) as jobs, array_agg(position) as positions, array_agg(lease_token) as tokens from api.claim_lookups(:'month', 'w', 9) \gset
create function pg_temp.ready_at(p_organization_id uuid) returns timestamptz
language plpgsql as $$
begin
    return (select ready_at from app.organization_queue_state where organization_id = p_organization_id);
end;
$$;
select app.clock() as began, pg_temp.turn_clock(app.clock() + interval '1 minute') \gset
select api.create_batch_lookup(:'month', pg_temp.items(1, pg_temp.at('9 Main St'))) as later, pg_temp.drain(:'month') as drained \gset
select is(pg_temp.ready_at(:'month'), app.wait_for_duplicates_until(:'began'), 'at the monthly limit a claim comes back once the first item that waits for an answer may have to fail');
select pg_temp.record(:'month', :'jobs', :'positions', :'tokens', 404) as recorded \gset
select pg_temp.turn_clock(app.clock() + interval '10 minutes');
select is((select count(*)::integer from api.ready_organizations() o where o = :'month'), 1, 'an item that waited in vain at a limit does not wait for the next month');
select pg_temp.drain(:'month') as drained \gset
select is(pg_temp.job(:'job', 'status', 'lookups', 'errors_by_code'), 'failed 1 { "lookup_limit_reached" : 2, "not_found" : 1 }',
    'an item that waited in vain for an answer fails at the limit');
select api.update_settings('{"deduplicate_seconds": null}') as settings \gset
select api.create_organization('Month of retries') as retries \gset
select api.set_monthly_lookups(:'retries', 1), pg_temp.submit_with(:'retries', 2, '{"when_limit_reached": "wait"}') as job \gset
select pg_temp.look_up(:'retries', 1, 500), pg_temp.drain(:'retries') as drained \gset
insert into public.lookup_leases (organization_id, job_id, lease_token, worker, expires_at, positions)
values (:'retries', :'job', '00000000-0000-4000-8000-000000000001', 'w', '2026-12-31 00:00:00+00', '{}');
select is(pg_temp.job(:'job', 'waiting_for'), 'lookup_limit', 'a lease that has become empty is not a lookup in flight');
select is(pg_temp.ready_at(:'retries'), app.next_month(app.clock()), 'retries that wait for the next month keep no worker busy before it');

-- An answer that comes late
select api.create_organization('Late') as late \gset
select pg_temp.submit_with(:'late', 1, '{"max_lookups": 1}') as job \gset
select array_agg(job_id) as jobs, array_agg(position) as positions, array_agg(lease_token) as tokens from api.claim_lookups(:'late', 'w', 9) \gset
select pg_temp.turn_clock(app.clock() + interval '2 minutes');
select pg_temp.drain(:'late') as expired, pg_temp.drain(:'late') as failed \gset
select is(
    array[pg_temp.job(:'job', 'status', 'errors_by_code'), pg_temp.record(:'late', :'jobs', :'positions', :'tokens', 200, '{}'), pg_temp.job(:'job', 'status', 'lookups')],
    array['failed { "lookup_limit_reached" : 1 }', 'accepted', 'completed 1'], 'an answer that was paid for counts, although the limit allowed no other lookup of its item');

-- Beside other batches of the organization
select api.create_organization('Hooli') as hooli \gset
select pg_temp.submit(:'hooli', 4) as under_way, (select count(*) from api.claim_lookups(:'hooli', 'w', 4)) as claimed \gset
select pg_temp.submit(:'hooli', 1) as retried, pg_temp.look_up(:'hooli', 1, 500) as failed \gset
select pg_temp.submit_with(:'hooli', 3, '{"max_lookups": 1}') as failing, pg_temp.submit_with(:'hooli', 9, '{"max_lookups": 1, "when_limit_reached": "wait"}') as waiting,
       pg_temp.submit_with(:'hooli', 3, '{"sample": 1, "when_limit_reached": "wait"}') as sampled, pg_temp.submit(:'hooli', 20) as others \gset
select is(pg_temp.drain(:'hooli'), 23::bigint, 'the limit of a batch does not affect others of its organization');
select is(
    array[pg_temp.job(:'failing', 'status', 'failed_items'), pg_temp.job(:'waiting', 'status', 'processed_items', 'waiting_for'), pg_temp.job(:'others', 'status')],
    '{completed 2,processing 1 lookup_limit,completed}', 'a batch is at its limit whatever is in flight in others');
select pg_temp.turn_clock(app.clock() + interval '3 seconds');
select is(pg_temp.drain(:'hooli'), 1::bigint, 'a batch at its limit delays no retry of another one');
select api.set_monthly_lookups(:'hooli', 0);
select results_eq(
    format($$ select w ->> 'reason', w -> 'until' = 'null'
                from public.lookup_queue_items i cross join lateral (select api.explain_item(%L, i.job_id, i.position)::jsonb -> 'waiting_for') e (w)
               where i.job_id in (%L, %L) and i.status = 'pending' and i.position > 0 group by 1, 2 order by 1 $$, :'hooli', :'waiting', :'sampled'),
    $$ values ('continue', true), ('lookup_limit', true) $$, 'an item that waits for more than the next month is not said to continue then');
select api.set_monthly_lookups(:'hooli', null);
select api.continue_batch_lookup(:'hooli', :'waiting', 5) as continued, pg_temp.drain(:'hooli') as drained \gset
select is((select array_agg(position order by position) from public.lookup_queue_items where job_id = :'waiting' and status = 'completed'), '{0,1,2,3,4}',
    'a continued batch resumes where its claims had stopped');

-- Failures that come back after their job was held
select api.create_organization('Umbrella') as umbrella \gset
select pg_temp.submit_with(:'umbrella', 10, '{"max_lookups": 4, "when_limit_reached": "wait"}') as job \gset
select array_agg(job_id) as jobs, array_agg(position) as positions, array_agg(lease_token) as tokens from api.claim_lookups(:'umbrella', 'w', 4) \gset
select pg_temp.submit_with(:'umbrella', 2, '{"max_lookups": 2, "when_limit_reached": "wait"}') as beside \gset
select array_agg(job_id) as jobs, array_agg(position) as positions, array_agg(lease_token) as tokens from api.claim_lookups(:'umbrella', 'w', 1) \gset beside_
select is(
    array(select b.held_position from app.job_budgets b where b.organization_id = :'umbrella' order by b.held_position), '{4,null}',
    'a job that is held at its limit leaves others in the queue');
select pg_temp.record(:'umbrella', :'jobs', :'positions', :'tokens', 500) as recorded, pg_temp.drain(:'umbrella') as others \gset
select pg_temp.record(:'umbrella', :'beside_jobs', :'beside_positions', :'beside_tokens', 200, '{}') as recorded, pg_temp.turn_clock(app.clock() + interval '3 seconds') \gset
select is(array[pg_temp.drain(:'umbrella')::text, pg_temp.job(:'job', 'processed_items', 'waiting_for')], '{0,0 lookup_limit}', 'a held job does not repeat lookups that failed meanwhile');
select is(pg_temp.job(:'beside', 'status', 'waiting_for'), 'completed null', 'a job that has ended at its limit waits for nothing');
select api.continue_batch_lookup(:'umbrella', :'job', 20) as continued \gset
select is((select count(*)::integer from api.ready_organizations() o where o = :'umbrella'), 1, 'workers learn that a job continues');
select pg_temp.drain(:'umbrella') as drained \gset
select is(pg_temp.job(:'job', 'status', 'lookups', 'failed_items'), 'completed 14 0', 'a job that was held twice continues with all of its items');
select pg_temp.submit_with(:'umbrella', 10, '{"sample": 2, "max_lookups": 4, "when_limit_reached": "wait"}') as job, pg_temp.drain(:'umbrella') as sampled \gset
select api.continue_batch_lookup(:'umbrella', :'job') as continued \gset
select array_agg(job_id) as jobs, array_agg(position) as positions, array_agg(lease_token) as tokens from api.claim_lookups(:'umbrella', 'w', 9) \gset
select pg_temp.drain(:'umbrella') as drained, api.release_lookups(:'umbrella', :'jobs', :'positions', :'tokens') as released \gset
select count(*) as claimed from api.claim_lookups(:'umbrella', 'w', 1) \gset
select is(
    (select array[:drained, :released, :claimed, b.lookups, b.held_position] from app.job_budgets b where b.organization_id = :'umbrella' and b.job_id = :'job'), '{0,2,1,3,null}',
    'a job that was continued after its sample is back in the queue once lookups were released at its limit');

-- Only a monthly limit
select api.create_organization('Initech') as initech \gset
select api.set_monthly_lookups(:'initech', 2), pg_temp.submit(:'initech', 3) as job \gset
select is(pg_temp.drain(:'initech'), 2::bigint, 'monthly_lookups holds for an organization whose batches have no limits of their own');

select api.set_monthly_lookups(:'initech', 1), pg_temp.submit(:'initech', 2) as job \gset
select is(array[pg_temp.drain(:'initech')::text, pg_temp.job(:'job', 'status', 'errors_by_code')], array['0', 'failed { "lookup_limit_reached" : 2 }'],
    'a monthly limit that is below the lookups made so far allows no more');
select pg_temp.submit_with(:'initech', 1, '{"max_lookups": 1, "when_limit_reached": "wait"}') as waiting, api.set_monthly_lookups(:'initech', 3) \gset
select pg_temp.drain(:'initech', 404) as failed, api.retry_batch_lookup(:'initech', :'waiting') ->> 'job_id' as retry \gset
select pg_temp.drain(:'initech') as drained \gset
select is(pg_temp.job(:'retry', 'status', 'waiting_for', 'max_lookups'), 'pending lookup_limit null', 'a retry waits at monthly_lookups if its batch did, without a limit of its own');

-- Many batches at once
select count(pg_temp.submit(:'other_org', 2)), api.set_monthly_lookups(:'other_org', 0) is null as limited from generate_series(1, 102) \gset many_
create function pg_temp.open_jobs(p_organization_id uuid) returns text
language plpgsql as $$
declare
    v_is_ready boolean := p_organization_id in (select api.ready_organizations());
begin
    return (select count(*) from public.batch_lookup_jobs where organization_id = p_organization_id and status in ('pending', 'processing'))
           || case when v_is_ready then ' and ready' else '' end;
end
$$;
select api.cancel_batch_lookup(:'other_org', :'other_job') as cancelled, pg_temp.open_jobs(:'other_org') as before, app.clock() + interval '1 second' as later \gset
select pg_temp.turn_clock(:'later');
select count(*) from api.claim_lookups(:'other_org', 'w', 10) \gset claimed_
select is(array[:'before', pg_temp.open_jobs(:'other_org')], '{102 and ready,2 and ready}', 'at the monthly limit a claim ends a hundred batches, and leaves the others to the next claim');
select is(array(select organization_id from app.organization_queue_state where served_at = :'later'), array[:'other_org']::uuid[], 'an organization with more batches to end takes turns with others');
select count(*) from api.claim_lookups(:'other_org', 'w', 10) \gset claimed_
select is(pg_temp.open_jobs(:'other_org'), '0', 'the last claim ends the rest, and nothing is ready any more');
select is(pg_temp.ready_at(:'other_org'), null, 'an organization whose batches have all ended at the monthly limit is not ready next month, either');

-- A sample of what has no result yet
select api.create_organization('Soylent') as soylent \gset
select pg_temp.submit(:'soylent', 2) as earlier, pg_temp.look_up(:'soylent', 2) as looked_up \gset
select pg_temp.submit_with(:'soylent', 4, '{"sample": 1, "reuse_results": {"max_age_days": 1}}') as job, pg_temp.drain(:'soylent') as drained \gset
select is(array[:'drained', pg_temp.job(:'job', 'processed_items', 'waiting_for')], '{1,3 continue}', 'a sample is one of the items without a result to reuse');

-- The month of one organization
select pg_temp.submit(:'initech', 1) as job, api.create_organization('Hubs') as hubs \gset
select pg_temp.submit(:'hubs', 1) as their_job \gset
select (select count(*) from app.queue_wakeups where organization_id = :'hubs') as wakeups \gset
select count(*) as claimed from api.claim_lookups(:'initech', 'w', 10) \gset
select is((select count(*) from app.queue_wakeups where organization_id = :'hubs'), :wakeups::bigint, 'an organization at its monthly limit uses up no wake-up of another one');

select * from finish();
rollback;
