begin;
select plan(47);
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

select is(array(select app.retry_name(n) from unnest(array['Sites', 'Sites (retry)', 'Sites (retry 2)', 'Sites (retry 9)']) n),
          array['Sites (retry)', 'Sites (retry 2)', 'Sites (retry 3)', 'Sites (retry 10)'], 'retries of retries are counted in their names');
select is(length(app.retry_name(repeat('x', 192) || ' (retry)')), 200, 'the name of a retry is no longer than any other');
select is(app.retry_name(null), null, 'a job without a name is retried without one');

-- One item
select results_eq(
    format($$ select r ->> 'total_items', r ->> 'retry_of_job_id'
                from (select (select api.cancel_batch_lookup(%1$L, %3$L)) as cancelled) c,
             lateral (select api.requeue_item(%1$L, %2$L, 1) as r where c.cancelled is not null) q $$, :'org', :'job', :'retry'::json ->> 'job_id'),
    format($$ values ('1', %L) $$, :'job'), 'one failed item becomes a job of its own');
select is((select reference_id from public.lookup_queue_items where organization_id = :'org' and status = 'pending'), 'site-2', 'the item in it is the one at that position');
select throws_ok(format($$ select api.requeue_item(%L, %L, 2) $$, :'org', :'job'), 'PT409', 'The failed items of this job are already being retried', 'an item is not retried while its job is being retried');
select throws_ok(format($$ select api.requeue_item(%L, %L, 3) $$, :'org', :'job'), 'PT404', 'The job has no item at this position', 'a position without an item is named');
select throws_ok(format($$ select api.requeue_item(%L, %L, 0) $$, :'other_org', :'job'), 'PT404', 'Batch job not found', 'another organization''s item is not tried again');
select is(pg_temp.look_up(:'org', 1), 1::bigint, 'the retry is looked up');
select throws_ok(format($$ select api.requeue_item(%L, (select id from public.batch_lookup_jobs where total_items = 1), 0) $$, :'org'), 'PT409', 'The item has not failed', 'an item that has not failed is not tried again');
select count(api.delete_batch_lookup(:'org', id)) from public.batch_lookup_jobs where id <> :'job' \gset others_

savepoint before;
select pg_temp.submit(:'other_org', 1) as one, pg_temp.submit(:'other_org', 1) as another \gset
select pg_temp.look_up(:'other_org', 2, 404) as failed, api.retry_batch_lookup(:'other_org', :'one') as of_one, api.retry_batch_lookup(:'other_org', :'another') ->> 'retry_of_job_id' as of_another \gset
rollback to before;
select is(:'of_another'::text, :'another', 'two jobs are retried side by side');

-- What a retry takes over
savepoint before;
select api.create_batch_lookup(:'other_org', pg_temp.items(1), p_options => '{"when_limit_reached": "wait"}') ->> 'job_id' as waiting,
       api.create_batch_lookup(:'other_org', pg_temp.items(1, '{"household": {"size": 3}, "create_application": true, "webhook_custom_fields": {"deal": 1}}'), p_options => '{"max_lookups": 9}') ->> 'job_id' as job_of_all \gset
update public.lookup_queue_items set warnings = '{odd}' where organization_id = :'other_org' and job_id = :'job_of_all';
select pg_temp.look_up(:'other_org', 2, 404) as failed, api.retry_batch_lookup(:'other_org', :'job_of_all') ->> 'job_id' as retry_of_all, api.retry_batch_lookup(:'other_org', :'waiting') ->> 'job_id' as retry_of_waiting \gset
select format('%s %s', count(*), count(distinct concat_ws(' ', reference_id, address, building_type, device_ids, create_application, webhook_custom_fields, warnings, household))) as uploaded
  from public.lookup_queue_items where organization_id = :'other_org' and job_id in (:'job_of_all', :'retry_of_all') \gset
select array(select array_position(array[:'retry_of_all', :'retry_of_waiting']::uuid[], job_id) || ' ' || when_limit_reached from app.job_budgets
              where organization_id = :'other_org' and job_id in (:'retry_of_all', :'retry_of_waiting')) as budgets \gset
rollback to before;
select is(:'uploaded'::text, '2 1', 'an item is retried with everything that was uploaded with it');
select is(:'budgets'::text, '{"2 wait"}', 'a retry waits at the monthly limit only if its own job did');

-- The rows of one job
create function pg_temp.rows_of(p_job uuid) returns jsonb
language plpgsql as $$
declare
    v_table  regclass;
    v_count  integer;
    v_counts jsonb := '{}';
begin
    for v_table in select attrelid::regclass from pg_attribute join pg_class c on c.oid = attrelid
                    where attname = 'job_id' and c.relkind in ('r', 'p') and not c.relispartition and c.relnamespace in ('public'::regnamespace, 'app'::regnamespace) loop
        execute format('select count(*) from %s where job_id = $1', v_table) into v_count using p_job;
        v_counts := v_counts || case when v_count > 0 then jsonb_build_object(v_table, v_count) else '{}' end;
    end loop;
    return v_counts;
end;
$$;
create function pg_temp.job_of_a_file(p_organization_id uuid) returns uuid
language sql as $$
    select (body ->> 'job_id')::uuid
      from api.submit_batch_lookup(p_organization_id, p_options => '{"labels": {"team": "north"}, "max_lookups": 9, "name": "Sites"}', p_file => jsonb_build_object('rows', jsonb_build_array(
               '["Deal ID", "Street", "City", "State", "ZIP", "Bldg", "Devices", "Owner"]'::jsonb,
               jsonb_build_array('d-1', '1 Congress Ave', 'Austin', 'TX', '78701', 'RESIDENTIAL', (select min(id) from app.devices), 'Kim'),
               jsonb_build_array('d-2', '2 Congress Ave', 'Austin', 'TX', '78701', 'RESIDENTIAL', (select min(id) from app.devices), 'Kim'),
               jsonb_build_array('d-3', '3 Congress Ave', 'Austin', 'TX', '78701', 'RESIDENTIAL', (select min(id) from app.devices), 'Kim'))),
           p_traceparent => '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01')
$$;
savepoint before;
select api.set_webhook_config(:'other_org', '{"url": "https://example.com/", "events": ["lookup.completed", "batch.completed"]}') as config \gset
select pg_temp.job_of_a_file(:'other_org') as first, pg_temp.job_of_a_file(:'other_org') as second \gset
select pg_temp.look_up(:'other_org', 6) as found, app.count_known(:'other_org', '{}', 1) as known, pg_temp.job_of_a_file(:'other_org') as third \gset
select pg_temp.look_up(:'other_org', 1, 500) as failed, (select count(*) from api.claim_lookups(:'other_org', 'w', 1)) as leased \gset
select array[pg_temp.rows_of(:'second'), pg_temp.rows_of(:'third')] as others \gset
select api.delete_batch_lookup(:'other_org', :'first') as deleted, array[pg_temp.rows_of(:'second'), pg_temp.rows_of(:'third')] as kept \gset
select pg_temp.rows_of(:'first') as left \gset
rollback to before;
select is(:'kept'::jsonb[], :'others', 'rows of another job of the organization are kept');
select is(:'left'::jsonb, '{"lookup_usage": 1, "incentive_reports": 1, "app.webhook_deliveries": 1}', 'a deleted job leaves its usage, its report and the delivery about its end');

-- Retention, except that of attempts (chapter 58)
savepoint before;
select count(*) as attempts from public.lookup_attempts \gset
insert into app.idempotency_keys (organization_id, route, key, fingerprint, created_at) values (:'org', 'POST /x', 'k', '', '2026-01-01Z');
select count(*) as audited from app.audit_events \gset
select app.prune_expired('2200-01-01') as pruned \gset
select (select count(*) from app.idempotency_keys) as keys, (select count(*) from app.audit_events) as events, (select count(*) from app.deleted_rows) as tombstones \gset
rollback to before;
select is(:pruned, greatest(:attempts, 1), 'a run counts the recorded attempts that it deletes');
select is(array[:audited > 0, :keys + :events + :tombstones = 0], '{t,t}', 'a run also deletes idempotency keys, audit events and tombstones that have expired');
delete from public.lookup_attempts;
select is(app.prune_expired('2200-01-01'), 0, 'jobs are kept for ever by default');
select ok((api.update_settings('{"job_retention_days": 30}') ->> 'job_retention_days') = '30', 'a setting determines how long jobs are kept');
select is(app.prune_expired(now() + interval '29 days'), 0, 'a job stays that long');
select is(app.prune_expired(now() + interval '31 days'), 1, 'an ended job is deleted after the retention');
select is((select count(*) from public.lookup_queue_items where job_id = :'job')::integer, 0, 'a deleted job leaves no items');

-- What has not expired
savepoint before;
select pg_temp.turn_clock('2101-03-01 12:00:00+00');
select pg_temp.submit(:'org', 1) as expired, pg_temp.submit(:'other_org', 1) as of_another \gset
select pg_temp.look_up(:'org', 1), pg_temp.look_up(:'other_org', 1) \gset ended_
select pg_temp.submit(:'org', 2) as in_flight \gset
select count(*) as claimed from api.claim_lookups(:'org', 'w', 1) \gset
select api.cancel_batch_lookup(:'org', :'in_flight') is not null as cancelled, pg_temp.submit(:'org', 1) as late \gset
select pg_temp.turn_clock('2101-03-01 12:00:10+00');
select pg_temp.submit(:'org', 1) as recent \gset
select pg_temp.look_up(:'org', 2) as looked_up, pg_temp.submit(:'org', 1) as open \gset
select array[d.deleted, d.rows] as deleted from app.delete_ended_jobs(:'org', '2101-03-01 12:00:10+00', 100, 'infinity') d \gset
select array[:'expired', :'of_another', :'in_flight', :'late', :'recent', :'open'] as made \gset
select array(select id from public.batch_lookup_jobs where id = any (:'made') order by array_position(:'made', id)) as kept \gset
select array[d.deleted, d.rows] as deleted_reports from app.delete_ended_reports(:'org', '2101-03-01 12:00:10+00', 100, 'infinity') d \gset
select array(select job_id from public.incentive_reports where job_id = any (:'made') and job_id <> :'in_flight' order by array_position(:'made', job_id)) as kept_reports \gset
rollback to before;
select is(array[:'deleted'::text, :'kept'], array['{1,1}', array[:'of_another', :'in_flight', :'late', :'recent', :'open']::text],
          'retention deletes only jobs of that organization that had ended, with nothing in flight, before the time');
select is(array[:'deleted_reports'::text, :'kept_reports'], array['{5,2}', array[:'of_another', :'late', :'recent', :'open']::text], 'retention deletes only reports of that organization that had ended before the time');

-- In small steps
select count(pg_temp.look_up(:'org', 3, 404)) from generate_series(1, 1) \gset looked_up_
savepoint before;
select count(*) from (select pg_temp.submit(o, 3), pg_temp.look_up(o, 3) from unnest(array[:'org', :'other_org']::uuid[]) o, generate_series(1, 2)) s \gset made_
select app.prune('jobs', '2200-01-01', 9) as pruned \gset
rollback to before;
select is(:pruned, 3, 'a run counts the items of all organizations against its limit');
savepoint before;
select app.prune('reports', '2200-01-01') as pruned \gset earlier_
select count(*) from (select pg_temp.submit(o, 3), pg_temp.look_up(o, 3) from unnest(array[:'org', :'other_org']::uuid[]) o, generate_series(1, 2)) s \gset made_
select app.prune('reports', '2200-01-01', 9) as pruned \gset
rollback to before;
select is(:pruned, 3, 'a run counts the sites of all organizations against its limit');
savepoint before;
select count(*) from (select pg_temp.submit(o, 3), pg_temp.look_up(o, 3) from unnest(array[:'org', :'other_org']::uuid[]) o, generate_series(1, 2)) s \gset made_
update app.maintenance_rounds set last_id = '00000000-0000-0000-0000-000000000000' where round in ('jobs', 'reports');
select array[app.prune('jobs', '2200-01-01', 3), app.prune('jobs', '2200-01-01', 3), app.prune('jobs', '2200-01-01', 3)] as pruned \gset
select last_id as reached from app.maintenance_rounds where round = 'jobs' \gset
select count(*) as left from public.batch_lookup_jobs where organization_id = :'org' \gset
rollback to before;
select is(concat_ws(' ', :'pruned', :left), '{1,1,1} 0', 'a run stays at an organization that has more');
select is(:'reached'::text, :'org', 'the next run begins after the organization that the last one has finished');
select count(*) from (select pg_temp.submit(:'org', 3), pg_temp.look_up(:'org', 3) from generate_series(1, 4)) s \gset made_
select is(array[app.prune('jobs', '2200-01-01', 6), app.prune('jobs', '2200-01-01', 6), app.prune('jobs', '2200-01-01', 6)], array[2, 2, 0], 'a run deletes whole jobs, up to its limit of items');
select count(*) from (select pg_temp.submit(:'org', 3), pg_temp.look_up(:'org', 3) from generate_series(1, 4)) s \gset made_
select is((select array[deleted, rows] from app.delete_ended_jobs(:'org', '2200-01-01', 2, 'infinity')), array[1, 3], 'a job of more items than the limit is deleted, alone');
select is(
    (select array[deleted, rows] from app.delete_ended_jobs(:'org', '2200-01-01', 100, '-infinity')), array[3, 9], 'small jobs are deleted together');
select count(*) from (select pg_temp.submit(:'org', 3), pg_temp.look_up(:'org', 3) from generate_series(1, 3)) s \gset made_
update public.batch_lookup_jobs set total_items = 1000, processed_items = 1000;
select is(
    array[(select array[deleted, rows] from app.delete_ended_jobs(:'org', '2200-01-01', 10000, '-infinity')),
          (select array[deleted, rows] from app.delete_ended_jobs(:'org', '2200-01-01', 10000, 'infinity'))],
    array[array[1, 1000], array[2, 2000]],
    'a step deletes at least one job, even if its time is over');

-- Reports
select is(app.prune_expired('2200-01-01'), 0, 'reports are kept for ever by default');
select ok((api.update_settings('{"report_retention_days": 90}') ->> 'report_retention_days') = '90', 'a setting determines how long reports are kept');
select is(app.prune_expired(now() + interval '89 days'), 0, 'a report stays that long');
update public.incentive_reports set total_sites = 3 where completed_at is not null;
select is(
    array[(select array[deleted, rows] from app.delete_ended_reports(:'org', '2200-01-01', 7, 'infinity')),
          (select array[deleted, rows] from app.delete_ended_reports(:'org', '2200-01-01', 6, 'infinity')),
          (select array[deleted, rows] from app.delete_ended_reports(:'org', '2200-01-01', 2, '-infinity'))],
    array[array[2, 6], array[2, 6], array[1, 3]], 'whole reports are deleted up to a limit of sites, and one at least');
update public.incentive_reports set total_sites = 1000 where completed_at is not null;
select is(
    array[(select array[deleted, rows] from app.delete_ended_reports(:'org', '2200-01-01', 10000, '-infinity')),
          (select array[deleted, rows] from app.delete_ended_reports(:'org', '2200-01-01', 2000, 'infinity'))],
    array[array[1, 1000], array[2, 2000]], 'a step deletes at least one report, even if its time is over');
select pg_temp.submit(:'org', 1) as open_job \gset
select count(*) from public.incentive_reports where completed_at is not null \gset ended_
select ok(:ended_count > 3, 'there are ended reports');
select is(app.prune_expired(now() + interval '91 days'), :ended_count, 'an ended report is deleted after the retention');
select is((select array_agg(job_id) from public.incentive_reports), array[:'open_job']::uuid[], 'the report of an open job stays');

select is_empty('select * from api.check_invariants()', 'what remains is whole');

select * from finish();
rollback;
