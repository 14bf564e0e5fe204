begin;
select plan(10);
\ir fixtures.psql
select pg_temp.turn_clock('2026-11-24 12:00:00+00');
select pg_temp.submit(:'org', 2) as job, pg_temp.submit(:'other_org', 1) as other_job \gset
select id as report from public.incentive_reports where job_id = :'job' \gset

-- What changed, as table and id, of one organization since p_since.
create function pg_temp.changed(p_organization_id uuid, p_since timestamptz) returns setof text
language sql as $$
    select concat_ws(' ', c ->> 'table', c ->> 'id') from json_array_elements(api.realtime_changes(array[p_organization_id], p_since) -> 'changes') c
$$;

select results_eq($$ select t ->> 'table' from json_array_elements(api.realtime_tables()) t $$, $$ values ('batch_lookup_jobs'), ('incentive_reports') $$,
    'subscribers watch jobs and reports');
select is_empty(
    $$ select from json_array_elements(api.realtime_tables()) t cross join lateral json_array_elements(t -> 'columns') c
        where c ->> 'type' like '\_%' or c ->> 'type' like 'json%' $$, 'no column that can be watched is an array or JSON');
select is(api.realtime_record('batch_lookup_jobs', :'org', :'job') ->> 'status', 'pending', 'a record is the row of a job');
select is(api.realtime_record('incentive_reports', :'org', :'report') ->> 'job_id', :'job'::text, 'a record is the row of a report');
select is(api.realtime_record('lookup_queue_items', :'org', :'job')::text, null, 'a table that is not watched has no records');
select is(api.realtime_record('batch_lookup_jobs', :'other_org', :'job')::text, null, 'a job is a record of its own organization only');

select bag_eq(format('select pg_temp.changed(%L, %L)', :'org', '2026-11-24 11:59:00+00'),
    format($$ values ('batch_lookup_jobs %s'), ('incentive_reports %s') $$, :'job', :'report'), 'a new job and its report have changed');
select is_empty(format('select pg_temp.changed(%L, %L)', :'org', '2026-11-24 12:01:00+00'), 'what was stamped long before has not changed since');
select isnt_empty(format('select pg_temp.changed(%L, %L)', :'org', '2026-11-24 12:00:05+00'), 'what was stamped shortly before may have been committed since');
select is(json_array_length(api.realtime_changes(array[:'org', :'other_org']::uuid[], '2026-11-24 11:59:00+00') -> 'changes'), 4,
    'changes of several organizations come at once');

select * from finish();
rollback;
