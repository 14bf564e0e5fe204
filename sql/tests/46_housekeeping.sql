begin;
select plan(13);
\ir fixtures.psql
select pg_temp.submit(:'org', 3) as job \gset
select throws_ok(format($$ select api.retry_batch_lookup(%L, %L) $$, :'org', :'job'), 'PT409', 'The job is still pending; 3 items are unfinished', 'an open job is not tried again');
select throws_ok(format($$ select api.delete_batch_lookup(%L, %L) $$, :'org', :'job'), 'PT409', 'The job is still pending; 3 items are unfinished', 'an open job is not deleted');
select throws_ok(format($$ select api.delete_batch_lookup(%L, %L) $$, :'other_org', :'job'), 'PT404', 'Batch job not found', 'another organization''s job is not deleted');
select is(pg_temp.look_up(:'org', 3, 404), 3::bigint, 'all its items fail');

select api.retry_batch_lookup(:'org', :'job') as retry \gset
select results_eq(
    format($$ select position, reference_id, status from public.lookup_queue_items where job_id = %L order by position $$, :'retry'::json ->> 'job_id'),
    $$ values (0, 'site-1', 'pending'), (1, 'site-2', 'pending'), (2, 'site-3', 'pending') $$,
    'the failed items become the items of a new job');
select throws_ok(format($$ select api.retry_batch_lookup(%L, %L) $$, :'org', :'job'), 'PT409', 'The failed items of this job are already being retried', 'a job has one open retry at a time');

-- Retention
select is(app.prune_jobs('2200-01-01'), 0, 'jobs are kept for ever by default');
select ok((api.update_settings('{"job_retention_days": 30}') ->> 'job_retention_days') = '30', 'a setting says how long jobs are kept');
select is(app.prune_jobs(now() + interval '29 days'), 0, 'a job stays as long as it says');
select is(app.prune_jobs(now() + interval '31 days'), 1, 'an ended job is deleted after the retention');
select is((select count(*) from public.lookup_queue_items where job_id = :'job')::integer, 0, 'a deleted job leaves no items');

-- In small steps
select count(pg_temp.look_up(:'org', 3, 404)) from generate_series(1, 1) \gset looked_up_
select count(*) from (select pg_temp.submit(:'org', 3), pg_temp.look_up(:'org', 3) from generate_series(1, 3)) s \gset made_
select is(array[app.prune_jobs('2200-01-01', 6), app.prune_jobs('2200-01-01', 6), app.prune_jobs('2200-01-01', 6)], array[2, 2, 0], 'a run deletes whole jobs, up to its limit of items');

select is_empty('select * from api.check_invariants()', 'what remains is whole');

select * from finish();
rollback;
