begin;
select plan(31);
\ir fixtures.psql

-- Creating
select api.create_batch_lookup(:'org', pg_temp.items(3)) as created \gset
select :'created'::json ->> 'job_id' as job, :'created'::json #>> '{report,id}' as report \gset
select is(:'created'::json ->> 'status', 'pending', 'a new job is pending');
select is(:'created'::json ->> 'total_items', '3', 'a new job counts its items');
select matches(:'created'::json #>> '{report,name}', '^Batch Lookup - \d{4}-\d\d-\d\d \(3 sites\)$', 'the report of a job is named after day and size');
select is((:'created'::json -> 'report')::jsonb - array['id', 'name', 'description', 'created_at'],
          '{"status": "processing", "report_type": "bulk_lookup", "total_sites": 0}', 'the report of a new job is processing');
select results_eq(
    format($$ select position, reference_id, status from public.lookup_queue_items where job_id = %L order by position $$, :'job'),
    $$ values (0, 'site-1', 'pending'), (1, 'site-2', 'pending'), (2, 'site-3', 'pending') $$,
    'items keep the order of the upload');
select lives_ok(format($$ select api.create_batch_lookup(%L, pg_temp.items(1) -> 'items') $$, :'org'), 'a bare array of items is accepted');
select throws_ok(
    $$ select api.create_batch_lookup(gen_random_uuid(), pg_temp.items(1)) $$, 'PT404', 'Organization not found', 'a job needs an organization');

-- Reading
select is(
    api.get_batch_lookup(:'org', :'job')::jsonb - array['created_at'],
    jsonb_build_object('id', :'job', 'organization_id', :'org', 'name', null, 'status', 'pending', 'total_items', 3, 'processed_items', 0, 'failed_items', 0,
                       'report_id', :'report', 'started_at', null, 'completed_at', null,
                       'item_counts', '{"pending": 3, "processing": 0, "completed": 0, "failed": 0}'::jsonb,
                       'rate', null, 'estimated_completion_at', null, 'errors_by_code', '{}'::jsonb, 'poll_after_ms', 1000, 'retry_of_job_id', null, 'lookups', 0, 'waiting_for', null, 'waiting_until', null,
                       'upstream', '{"unavailable_since": null, "paused_until": null}'::jsonb, 'labels', '{}'::jsonb),
    'a job shows its counters and times');
select is(json_array_length(api.get_batch_lookup(:'org', :'job', true) -> 'items'), 3, 'a job shows its items when asked');
select throws_ok(
    format($$ select api.get_batch_lookup(%L, %L) $$, :'other_org', :'job'),
    'PT404', 'Batch job not found', 'another organization''s job is not found');
select is((api.list_batch_lookups(:'org') ->> 'total')::integer, 2, 'the list counts the organization''s jobs');
select is((api.list_batch_lookups(:'other_org'))::jsonb, '{"jobs": [], "total": 0, "limit": 20, "offset": 0, "next_cursor": null}', 'another organization''s list is empty');
select is(api.list_batch_lookups(:'org', p_limit => 1, p_offset => 1) #>> '{jobs,0,id}', :'job'::text, 'the list is paged, newest first');
select is((api.list_batch_lookups(:'org', 'completed') ->> 'total')::integer, 0, 'the list can be filtered by status');
select throws_ok(format($$ select api.list_batch_lookups(%L, 'done') $$, :'org'), 'PT400', 'status must be one of pending, processing, completed, failed, cancelled', 'an unknown status is refused');
select throws_ok(format($$ select api.list_batch_lookups(%L, p_limit => 201) $$, :'org'), 'PT400', 'limit must be a whole number from 1 to 200', 'the size of a page is limited');
select is(
    array(select json_array_elements(api.list_batch_lookup_items(:'org', :'job', p_limit => 2, p_offset => 1) -> 'items') ->> 'reference_id'),
    array['site-2', 'site-3'], 'items are paged in upload order');
select is((api.list_batch_lookup_items(:'org', :'job', 'failed') ->> 'total')::integer, 0, 'items can be filtered by status');

-- Cancelling
select position, lease_token as token from api.claim_lookups(:'org', 'tester', 1) \gset
select is(api.cancel_batch_lookup(:'org', :'job')::jsonb, jsonb_build_object('message', 'Job cancelled successfully', 'job_id', :'job'), 'an open job can be cancelled');
select results_eq(
    format($$ select status, error_message from api.items where job_id = %L order by position $$, :'job'),
    $$ values ('processing', null), ('failed', 'Job cancelled'), ('failed', 'Job cancelled') $$,
    'pending items fail, the one in flight continues');
select is(api.get_batch_lookup(:'org', :'job') ->> 'status', 'cancelled', 'the job is cancelled');
select is((api.get_batch_lookup(:'org', :'job') -> 'item_counts')::jsonb, '{"pending": 0, "processing": 1, "completed": 0, "failed": 2}', 'the counts of a cancelled job sum to its total');
select throws_ok(format($$ select api.cancel_batch_lookup(%L, %L) $$, :'org', :'job'), 'PT409', 'The job has already been cancelled', 'a job can be cancelled only once');
select throws_ok(format($$ select api.cancel_batch_lookup(%L, %L) $$, :'other_org', :'job'), 'PT404', 'Batch job not found', 'nobody else can cancel it');
select is(
    pg_temp.record(:'org', array[:'job'::uuid], array[:position], array[:'token'::uuid], 200, :'answer'), 'accepted', 'the item in flight finishes');
select is((api.get_batch_lookup(:'org', :'job') -> 'item_counts')::jsonb, '{"pending": 0, "processing": 0, "completed": 1, "failed": 2}', 'an item that finishes after the cancel counts');
select pg_temp.submit(:'other_org', 3) as retried \gset
select pg_temp.look_up(:'other_org', 1, 503) as failed_once \gset
select api.cancel_batch_lookup(:'other_org', :'retried') as cancelled \gset
select results_eq(
    format($$ select status, error_code, retry_at from public.lookup_queue_items where job_id = %L order by position $$, :'retried'),
    $$ values ('failed', 'job_cancelled', null::timestamptz), ('failed', 'job_cancelled', null), ('failed', 'job_cancelled', null) $$,
    'an item that waits for another try is cancelled, too');
select is((select status || total_sites from public.incentive_reports where id = :'report'), 'complete1', 'the report is complete with the site it has');

-- Filters
select api.create_organization('Filters') as filters \gset
select pg_temp.turn_clock(('2026-11-2' || n || ' 12:00:00+00')::timestamptz), api.create_batch_lookup(:'filters', pg_temp.items(1), p_options => jsonb_strip_nulls(jsonb_build_object('name', name)))
  from (values (1, 'North 1'), (2, 'South'), (3, null), (4, 'north 2')) v (n, name);
create function pg_temp.found(p_organization_id uuid, p_limit integer default 20, p_name text default null, p_from timestamptz default null, p_before timestamptz default null) returns text
language sql as $$
    select concat_ws(' of ', array_to_string(array(select coalesce(j ->> 'name', 'none') from json_array_elements(l -> 'jobs') j), ', '), l ->> 'total')
      from api.list_batch_lookups(p_organization_id, p_limit => p_limit, p_name => p_name, p_created_from => p_from, p_created_before => p_before) l
$$;
select is(pg_temp.found(:'filters', 1, 'NORTH'), 'north 2 of 2', 'the total of a list counts what its filter by name finds on all pages');
select is(pg_temp.found(:'filters', 1, null, '2026-11-22 12:00:00+00'), 'north 2 of 3', 'the total of a list counts the jobs from a time on, that time included');
select is(pg_temp.found(:'filters', 20, null, '2026-11-22 12:00:00+00', '2026-11-24 12:00:00+00'), 'none, South of 2', 'a list of jobs ends before the time that it is asked to end before');

select * from finish();
rollback;
