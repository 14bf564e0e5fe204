begin;
select plan(24);
\ir fixtures.psql

select pg_temp.turn_clock(clock_timestamp() + interval '1 hour');
select is((select maintenance_due from api.heartbeat('w')), true, 'maintenance that has not run for two minutes is due');
select pg_temp.submit(:'org', 2) as job \gset
select count(*) from api.claim_lookups(:'org', 'w', 1) \gset claimed_
select pg_temp.turn_clock(app.clock() + interval '61 seconds');
select is((api.run_maintenance() ->> 'expired_leases')::integer, 1, 'expired leases return to the queue');
select is((select maintenance_due from api.heartbeat('w')), false, 'maintenance that has just run is not due');
select is((select count(*)::integer from api.items where job_id = :'job' and status = 'pending'), 2, 'all items are pending again');

update app.organization_queue_state set ready_at = null;
select api.run_maintenance() as ran \gset
select is((select array_agg(o) from api.ready_organizations() o), array[:'org'::uuid], 'an organization that fell off the ready list comes back');
select app.clock() as now \gset

update public.lookup_queue_items
   set status = 'failed', retry_at = null, error_code = 'x', error_message = 'x', processed_at = :'now'
 where job_id = :'job';
select is((api.run_maintenance() ->> 'closed_jobs')::integer, 1, 'a job without open items is ended');
select is((select status || processed_items || failed_items from public.batch_lookup_jobs where id = :'job'), 'failed22', 'a job whose items all ended is closed with their counts');
select is((select status from public.incentive_reports where job_id = :'job'), 'error', 'the report of a job that maintenance closed is closed too');

-- Many at once
select count(pg_temp.submit(:'org', 1)) from generate_series(1, 12) \gset submitted_
update public.lookup_queue_items
   set status = 'failed', retry_at = null, error_code = 'x', error_message = 'x', processed_at = :'now'
 where organization_id = :'org' and status = 'pending';
select is(array[(api.run_maintenance() ->> 'closed_jobs')::integer, (api.run_maintenance() ->> 'closed_jobs')::integer], '{10,2}', 'a run ends ten jobs of an organization, and the next one the others');

-- In turn
select is(app.in_turn('checks', array[:'org', :'other_org']::uuid[], 2), array[:'org', :'other_org']::uuid[], 'a few organizations all have their turn');
create function pg_temp.turn(p_count integer) returns text
language plpgsql as $$
declare
    v_ids uuid[] := app.in_turn('checks', array(select lpad(n::text, 32, '0')::uuid from generate_series(1, 5) n), p_count);
begin
    perform app.end_turn('checks', v_ids[cardinality(v_ids)]);
    return array(select right(id::text, 1)::integer from unnest(v_ids) id)::text;
end;
$$;
select is(array[pg_temp.turn(2), pg_temp.turn(2), pg_temp.turn(2)], array['{1,2}', '{3,4}', '{5,1}'], 'many organizations take turns, and then the first one has its turn again');
select app.end_turn('checks', null) \gset
select is(pg_temp.turn(2), '{2,3}', 'a turn without organizations changes nothing');

-- Old deliveries
insert into app.webhook_queue_state (organization_id) values (:'org') on conflict do nothing;
insert into app.webhook_deliveries (organization_id, id, event, status, data, created_at, ended_at)
select :'org', app.numbered_uuid_v7(app.uuid_v7(app.clock() - interval '31 days'), n), 'batch.completed', 'delivered', '{}', app.clock(), app.clock() from generate_series(1, 5) n;
select app.maintain_webhooks(app.clock(), 3) \gset
select is((select count(*)::integer from app.webhook_deliveries), 2, 'a run deletes a limited number of old deliveries');
select app.maintain_webhooks(app.clock(), 3) \gset
select is((select count(*)::integer from app.webhook_deliveries), 0, 'the next run deletes the others');

-- Its other steps
select pg_temp.turn_clock(app.clock() + interval '2 days');
select api.set_webhook_config(:'other_org', '{"url": "https://example.com/hooks", "enabled": true, "events": ["batch.failed"]}') as config \gset
select pg_temp.submit(:'other_org', 1) as orphan \gset
select pg_temp.submit(:'other_org', 1) as at_work \gset
select count(*) from api.claim_lookups(:'other_org', 'w', 2) \gset claimed_
update public.lookup_queue_items
   set status = 'failed', error_code = 'x', error_message = 'x', processed_at = :'now'
 where organization_id = :'other_org';
update public.lookup_leases set positions = '{}' where job_id = :'orphan';
select is(app.close_orphaned_jobs(:'org', app.clock()), 0, 'the jobs of another organization are not ended');
insert into app.incentive_calls (organization_id, id, operation_type, status, response, called_at)
select :'org', app.uuid_v7(app.clock() - make_interval(days => n)), 'lookup', 200, '{}', app.clock() from unnest('{10,400}'::integer[]) n;
insert into app.work_minutes (organization_id, minute, kind, outcome, error_class, recorder, items, latency_seconds, latency_buckets, wait_seconds, wait_buckets)
select :'org', date_trunc('minute', app.clock() - age, 'UTC'), 'lookup', 'completed', '', recorder, 1, 0, app.fill_buckets(null, null, app.latency_bounds()), 0, app.fill_buckets(null, null, app.wait_bounds())
  from (values (interval '31 days', 0), ('2 minutes', 7), ('1 minute', 7)) v (age, recorder);
select api.run_maintenance() as ran \gset
select is((select array_agg(id) from public.batch_lookup_jobs where organization_id = :'other_org' and status in ('pending', 'processing')), array[:'at_work'::uuid],
    'a job with a lease is not ended, although it has no open item');
select is((select array_agg(event) from app.webhook_deliveries), array['batch.failed'], 'the end of a job that maintenance closed is sent');
select is((select sum(items) from app.work_minutes where organization_id = :'other_org' and kind = 'job' and minute >= date_trunc('minute', app.clock(), 'UTC')), 1::numeric, 'a job that maintenance closed is counted');
select is((select array_agg(extract(epoch from date_trunc('minute', app.clock(), 'UTC') - minute)::integer / 60 || ' ' || recorder order by minute) from app.work_minutes where organization_id = :'org' and minute > app.clock() - interval '90 minutes' or minute < app.clock() - interval '10 days'),
    array['2 0', '1 7'], 'minutes that are over are completed, and deleted after 30 days');
select is((select count(*) from app.incentive_calls), 1::bigint, 'old responses are deleted');
select is((select checked_at from app.maintenance_state), app.clock(), 'the invariants are checked');
select app.clock() - interval '1 hour' as an_hour_ago \gset
update public.lookup_leases set expires_at = :'an_hour_ago';
select pg_temp.turn_clock(app.clock() + interval '2 days');
select api.run_maintenance() as ran \gset
select is_empty($$ select * from app.workers $$, 'workers that have been silent for long are deleted');
select is((api.run_maintenance())::jsonb, '{"skipped": false, "closed_jobs": 0, "expired_leases": 0, "pruned": 0}', 'maintenance changes nothing when there is nothing to do');
select is(
    (select count(*)::integer from pg_catalog.pg_extension where extname = 'pg_cron'),
    (select coalesce(current_setting('cron.database_name', true) = current_database(), false)::integer), 'pg_cron is installed in the database that it serves')
 where exists (select from pg_available_extensions where name = 'pg_cron') and (select rolsuper from pg_roles where rolname = current_user)
 union all
select pass('pg_cron cannot be installed here')
 where not (exists (select from pg_available_extensions where name = 'pg_cron') and (select rolsuper from pg_roles where rolname = current_user));

select * from finish();
rollback;
