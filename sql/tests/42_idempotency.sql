begin;
select plan(34);
\ir fixtures.psql
select api.create_organization('Initech') as third_org, current_setting('lock_timeout') as lock_timeout \gset

select status as status1, replayed as replayed1, body as body1 from api.submit_batch_lookup(:'org', pg_temp.items(1), true, '{}', 'key', 'a') \gset
select status as status2, replayed as replayed2, body as body2 from api.submit_batch_lookup(:'org', pg_temp.items(1), true, '{}', 'key', 'a') \gset
select is(array[:'status1', :'replayed1', :'status2', :'replayed2'], array['201', 'f', '201', 't'], 'a request is executed once');
select is(:'body2'::text, :'body1'::text, 'a repeated request gets the same response');
select throws_ok(
    format($$ select api.submit_batch_lookup(%L, pg_temp.items(2), true, '{}', 'key', 'b') $$, :'org'),
    'PT422', 'This Idempotency-Key was used for another request', 'a key is refused for another request');
select isnt((select body ->> 'job_id' from api.submit_batch_lookup(:'other_org', pg_temp.items(1), true, '{}', 'key', 'a')), :'body1'::json ->> 'job_id', 'another organization may use the same key');
select is(array_agg(distinct body ->> 'job_id'), array[min(body ->> 'job_id')], 'without a fingerprint, one is computed from the request')
  from generate_series(1, 2), api.submit_batch_lookup(:'org', pg_temp.items(1), true, '{}', 'second-key');
select throws_ok(
    format($$ select api.submit_batch_lookup(%L, pg_temp.items(2), true, '{}', 'second-key') $$, :'org'),
    'PT422', 'This Idempotency-Key was used for another request', 'another request with the same key is noticed');
select is((select status from api.submit_batch_lookup(:'org', pg_temp.items(1), true, '{"dry_run": true}')), 200, 'a dry run is a status of its own');
select is((select array_agg(replayed) from generate_series(1, 2), api.submit_batch_lookup(:'org', pg_temp.items(1), true, '{"dry_run": true}', 'dry', 'c')),
          '{f,f}', 'a dry run is executed again');
select is((select count(*) from app.idempotency_keys where key = 'dry'), 0::bigint, 'no answer of a dry run is kept');
select throws_ok(
    format($$ select api.submit_batch_lookup(%L, pg_temp.items(1), true, '{}', 'a b', 'b') $$, :'org'), 'PT400', 'Idempotency-Key must be 1 to 255 visible ASCII characters', 'a key with a space is refused');

-- Retention: three keys of two organizations
select is(app.prune_idempotency_keys(app.clock() + interval '6 days 23 hours'), 0, 'a key is kept for seven days');
select is(app.prune_idempotency_keys(app.clock() + interval '7 days 1 hour', 2), 2, 'a run deletes no more keys than it may');
select results_eq('select organization_id, key from app.idempotency_keys', format($$ values (%L::uuid, 'second-key') $$, :'org'), 'the oldest keys are deleted first, whatever their organization');
select is(app.prune_idempotency_keys(app.clock() + interval '7 days 1 hour'), 1, 'the next run deletes the rest');

-- Drafts
select status as status1, replayed as replayed1, body as body1 from api.submit_upload(:'org', pg_temp.items(1), p_name => 'March', p_idempotency_key => 'key', p_fingerprint => 'a') \gset
select api.update_upload(:'org', (:'body1'::json ->> 'id')::uuid, '{"name": "April"}') as changed \gset
select status as status2, replayed as replayed2, body as body2 from api.submit_upload(:'org', pg_temp.items(1), p_name => 'March', p_idempotency_key => 'key', p_fingerprint => 'a') \gset
select is(array[:'status1', :'replayed1', :'status2', :'replayed2'], array['201', 'f', '201', 't'], 'a file becomes one draft');
select is(:'body2'::text, :'body1'::text, 'a repeated file gets the draft as it was');
select api.delete_upload(:'org', (:'body1'::json ->> 'id')::uuid) as deleted \gset
select is((select body ->> 'id' from api.submit_upload(:'org', pg_temp.items(1), p_name => 'March', p_idempotency_key => 'key', p_fingerprint => 'a')), :'body1'::json ->> 'id',
          'a repeated file gets the same response even if its draft is gone');
select is((select count(*) from public.lookup_uploads), 0::bigint, 'no draft takes the place of one that was deleted');
select isnt((select body ->> 'id' from api.submit_upload(:'other_org', pg_temp.items(1), p_name => 'March', p_idempotency_key => 'key', p_fingerprint => 'a')), :'body1'::json ->> 'id',
            'another organization may use the key of a draft');
select is(array_agg(distinct body ->> 'id'), array[min(body ->> 'id')], 'without a fingerprint, one is computed from the file')
  from generate_series(1, 2), api.submit_upload(:'org', pg_temp.items(1), p_name => 'March', p_idempotency_key => 'second-key');
select throws_ok(
    format($$ select api.submit_upload(%L, pg_temp.items(1), p_name => 'April', p_idempotency_key => 'second-key') $$, :'org'),
    'PT422', 'This Idempotency-Key was used for another request', 'another draft with the same key is noticed');

-- Retries
select pg_temp.submit(:'third_org', 2) as failed \gset
select pg_temp.look_up(:'third_org', 2, 404) as looked_up \gset
select throws_ok(
    format($$ select api.submit_retry(%L, %L, 'timeout', 'key') $$, :'third_org', :'failed'), 'PT409', 'No item of this job failed with error_code timeout',
    'items that did not fail are not retried');
select status as status1, replayed as replayed1, body as body1 from api.submit_retry(:'third_org', :'failed', null, 'key') \gset
select pg_temp.look_up(:'third_org', 2, 404) as looked_up \gset
select status as status2, replayed as replayed2, body as body2 from api.submit_retry(:'third_org', :'failed', null, 'key') \gset
select is(array[:'status1', :'replayed1', :'status2', :'replayed2'], array['201', 'f', '201', 't'], 'a retry is executed once, and the key of a refused one can be used for it');
select is(:'body2'::text, :'body1'::text, 'a repeated retry gets the same response even if its job has ended');
select is((select count(*) from public.batch_lookup_jobs where retry_of_job_id = :'failed'), 1::bigint, 'a repeated retry creates no second job');
select throws_ok(
    format($$ select api.submit_retry(%L, %L, 'not_found', 'key') $$, :'third_org', :'failed'), 'PT422', 'This Idempotency-Key was used for another request',
    'another retry with the same key is noticed');
select throws_ok(
    format($$ select api.submit_retry(%L, %L, null, 'key') $$, :'other_org', :'failed'), 'PT404', 'Batch job not found',
    'another organization gets no answer of a retry by its key');
select isnt(api.retry_batch_lookup(:'third_org', :'failed') ->> 'job_id', :'body1'::json ->> 'job_id', 'without a key, a job that has ended is retried again');

-- Keys of the same organization, and one that has expired
select api.create_organization('Hooli') as hooli \gset
create function pg_temp.answers(p_organization_id uuid) returns text[]
language plpgsql as $$
declare
    v_job    record := api.submit_batch_lookup(p_organization_id, pg_temp.items(1), true, '{}', 'key', 'a');
    v_second record := api.submit_batch_lookup(p_organization_id, pg_temp.items(1), true, '{}', 'second-key', 'a');
    v_draft  record := api.submit_upload(p_organization_id, pg_temp.items(1), p_name => 'March', p_idempotency_key => 'key', p_fingerprint => 'a');
    v_other  record := api.submit_upload(p_organization_id, pg_temp.items(1), p_name => 'April', p_idempotency_key => 'dry', p_fingerprint => 'a');
begin
    perform api.submit_batch_lookup(p_organization_id, pg_temp.items(1), true, '{"dry_run": true}', 'dry', 'a');
    return array[v_job.body ->> 'job_id', v_second.body ->> 'job_id', v_draft.body ->> 'id', v_other.body ->> 'id'];
end;
$$;
select pg_temp.answers(:'hooli') as first_answers \gset
select is(pg_temp.answers(:'hooli'), :'first_answers', 'each key has the answer of its own request');
select array_agg(body ->> 'job_id') as their_ids from api.submit_batch_lookup(:'third_org', pg_temp.items(1), true, '{}', 'dry', 'a') \gset
select pg_temp.answers(:'third_org') as their_answers \gset
select is(
    pg_temp.answers(:'hooli') || pg_temp.answers(:'third_org') || array(select body ->> 'job_id' from api.submit_batch_lookup(:'third_org', pg_temp.items(1), true, '{}', 'dry', 'a')),
    :'first_answers'::text[] || :'their_answers'::text[] || :'their_ids'::text[], 'requests of another organization leave the answers to the same keys as they are');
select is(current_setting('lock_timeout'), :'lock_timeout', 'a request with a key leaves the lock_timeout of its transaction as it was');
select pg_temp.turn_clock(app.clock() + interval '7 days 1 second');
select array_agg(body ->> 'job_id') as job_ids from api.submit_batch_lookup(:'hooli', pg_temp.items(2), true, '{}', 'key', 'b') \gset
select isnt((:'job_ids'::text[])[1], (:'first_answers'::text[])[1], 'after seven days a key can be used for another request');
select is((select body ->> 'job_id' from api.submit_batch_lookup(:'hooli', pg_temp.items(2), true, '{}', 'key', 'b')), (:'job_ids'::text[])[1],
    'a key that was used again keeps the answer of its latest request');
select app.prune_idempotency_keys(app.clock()) as pruned \gset
select is((select body ->> 'job_id' from api.submit_batch_lookup(:'hooli', pg_temp.items(2), true, '{}', 'key', 'b')), (:'job_ids'::text[])[1],
    'a key that is deleted takes no valid one of another organization with it');

select * from finish();
rollback;
