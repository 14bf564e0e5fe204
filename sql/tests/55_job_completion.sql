begin;
select plan(10);
\ir fixtures.psql

select pg_temp.submit(:'org', 2) as job \gset
select pg_temp.look_up(:'org', 1, 200, :'answer');
select is((select status || processed_items from public.batch_lookup_jobs where id = :'job'), 'processing1', 'the job continues afterwards');
select is(pg_temp.look_up(:'org', 5, 200, :'answer'), 1::bigint, 'the last item of the job is recorded');
select is((select status || processed_items || (completed_at is not null) from public.batch_lookup_jobs where id = :'job'), 'completed2true', 'the flush with the last item ends the job');
select is((select status || total_sites || '/' || eligible_sites || '/' || total_incentive_value from public.incentive_reports where job_id = :'job'), 'complete2/2/2401.00', 'the flush that ends a job closes its report');

select pg_temp.submit(:'org', 2) as job \gset
select pg_temp.look_up(:'org', 1, 404, '{}');
select is((select status || processed_items || '/' || failed_items from public.batch_lookup_jobs where id = :'job'), 'processing1/1', 'an item that failed is counted');
select pg_temp.look_up(:'org', 1, 404, '{}');
select is((select status from public.batch_lookup_jobs where id = :'job'), 'failed', 'a job whose items all failed has failed');
select is((select status from public.incentive_reports where job_id = :'job'), 'error', 'the report of a job whose items all failed has the status error');

select is((select count(*) from app.work_minutes where kind = 'job'), 2::bigint, 'each way of ending is counted in the work history');

-- A retry of a cancelled batch
select pg_temp.submit(:'org', 1) as job \gset
select position, lease_token as token from api.claim_lookups(:'org', 'w', 1) \gset
select api.cancel_batch_lookup(:'org', :'job') as cancelled \gset
select pg_temp.record(:'org', array[:'job'::uuid], array[:position], array[:'token'::uuid], 500) as verdict \gset
select is((select status || error_code from public.lookup_queue_items where job_id = :'job'), 'failedjob_cancelled', 'an item in flight of a cancelled job is not tried again');
select is((select status || processed_items || failed_items from public.batch_lookup_jobs where id = :'job'), 'cancelled11', 'the late answers of a cancelled job are counted to its end');

select * from finish();
rollback;
