begin;
select plan(40);
\ir fixtures.psql

-- Everything that waits to be sent, as (event, data).
create function pg_temp.outbox(p_organization_id uuid) returns table (event text, data json)
language plpgsql as $$
#variable_conflict use_column
begin
    return query
    select d.event, (select body from app.webhook_bodies(d.organization_id, array[row(d.*)::app.webhook_deliveries], c.field_names)) -> 'data'
      from app.webhook_deliveries d
      left join app.webhook_configs c using (organization_id)
     where organization_id = p_organization_id and d.status = 'pending'
     order by d.id;
end;
$$;

-- Without a config, and with a disabled one
select pg_temp.submit(:'org', 1) as job, pg_temp.look_up(:'org', 1) as recorded \gset
select is_empty(format('select * from app.webhook_deliveries where organization_id = %L', :'org'), 'no event is kept without a config');
select api.set_webhook_config(:'org', '{"url": "https://example.com/", "enabled": false}') as config \gset
select pg_temp.submit(:'org', 1) as job, pg_temp.look_up(:'org', 1) as recorded \gset
select results_eq(format('select event, status, last_error, attempts, ended_at is not null from app.webhook_deliveries where organization_id = %L', :'org'),
    $$ values ('lookup.completed', 'failed', 'disabled', 0, true) $$, 'an event of disabled webhooks is kept as a failed delivery');
select is_empty(format($$ select * from api.claim_webhooks(%L, 's', 1) $$, :'org'), 'no sender sends the event of disabled webhooks');
select throws_like(format($$ select api.recover_webhook_deliveries(%L, '{"since": "2020-01-01"}') $$, :'org'), 'Webhooks are not enabled', 'a delivery cannot be recovered while webhooks are disabled');
select api.set_webhook_config(:'org', '{"enabled": true, "bundle_items": true, "events": ["lookup.completed", "batch.completed"]}') as config \gset
select is((api.recover_webhook_deliveries(:'org', '{"since": "2020-01-01"}') ->> 'recovered')::integer, 1, 'a failed delivery can be recovered once webhooks are enabled');
select is((select count(*)::integer from pg_temp.outbox(:'org')), 1, 'a recovered delivery waits to be sent');
select api.set_webhook_config(:'org', '{"enabled": false}') as config \gset
delete from app.webhook_deliveries;
select pg_temp.submit(:'org', 2) as job, pg_temp.look_up(:'org', 2) as recorded \gset
select bag_eq(format('select event, status, cardinality(item_ids) from app.webhook_deliveries where organization_id = %L', :'org'),
    $$ values ('lookup.completed', 'failed', 2), ('batch.completed', 'failed', null) $$, 'bundles and ends of batches are kept as failed deliveries');
select api.set_webhook_config(:'org', '{"bundle_items": false, "events": ["lookup.completed"]}') as config \gset
delete from app.webhook_deliveries;

-- Lookups
select api.set_webhook_config(:'org', '{"enabled": true, "field_names": ["deal"]}') as config \gset
select (api.create_batch_lookup(:'org', pg_temp.items(2, '{"webhook_custom_fields": {"deal": 7, "secret": 8}}')) ->> 'job_id')::uuid as job \gset
select is_empty(format('select * from pg_temp.outbox(%L)', :'org'), 'an upload is not an event');
select is(pg_temp.look_up(:'org', 1, 200, :'answer'), 1::bigint, 'a lookup is recorded');
select results_eq(
    format($$ select event, data ->> 'reference_id', data ->> 'status', (data #>> '{result,utility,eiaid}')::integer, data ->> 'job_id' from pg_temp.outbox(%L) $$, :'org'),
    format($$ values ('lookup.completed', 'site-1', 'completed', 1015, %L) $$, :'job'), 'the event of a completed lookup has its result');
select results_eq(format('select last_error, ended_at from app.webhook_deliveries where organization_id = %L', :'org'), 'select null::text, null::timestamptz',
    'an event that waits to be sent has neither an error nor an end');
select is((select data ->> 'webhook_custom_fields' from pg_temp.outbox(:'org')), '{"deal": 7}', 'a webhook has the custom fields that are allowed');
select api.set_webhook_config(:'org', '{"field_names": null}') as config \gset
select is((select (data ->> 'webhook_custom_fields')::jsonb from pg_temp.outbox(:'org')), '{"deal": 7, "secret": 8}', 'a webhook has all custom fields by default');
select is((select organization_ids from api.ready_webhooks()), array[:'org']::uuid[], 'the organization is on the ready list');
select is(pg_temp.look_up(:'org', 1, 404, '{"error": "no"}'), 1::bigint, 'a failed lookup is recorded');
select is((select count(*)::integer from pg_temp.outbox(:'org')), 1, 'failures are sent only on request');

-- Other events
delete from app.webhook_deliveries;
select api.set_webhook_config(:'org', '{"events": ["lookup.failed", "batch.completed", "batch.failed", "batch.cancelled"]}') as config \gset
select pg_temp.submit(:'org', 2) as job, pg_temp.look_up(:'org', 1, 500), pg_temp.look_up(:'org', 1, 404, '{"error": "nothing there"}') \gset ignored_
select results_eq(
    format($$ select event, data ->> 'error_code', data ->> 'error_message' from pg_temp.outbox(%L) $$, :'org'),
    $$ values ('lookup.failed', 'not_found', 'nothing there') $$, 'a failed lookup is sent, one that is tried again is not');
select pg_temp.turn_clock(app.clock() + interval '1 hour');
select is(pg_temp.look_up(:'org', 1), 1::bigint, 'the last lookup ends the job');
select results_eq(
    format($$ select event, data ->> 'id', data ->> 'status', data -> 'item_counts' ->> 'failed' from pg_temp.outbox(%L) where event like 'batch.%%' $$, :'org'),
    format($$ values ('batch.completed', %L, 'completed', '1') $$, :'ignored_job'), 'the end of a job is sent once, with its counts');
delete from app.webhook_deliveries;
select pg_temp.submit(:'org', 3) as job, pg_temp.look_up(:'org', 3, 404) \gset ignored_
select bag_eq(format('select event from pg_temp.outbox(%L)', :'org'),
    $$ values ('lookup.failed'), ('lookup.failed'), ('lookup.failed'), ('batch.failed') $$, 'a job whose items all fail is sent as failed');
delete from app.webhook_deliveries;
select pg_temp.submit(:'org', 3) as job, json_build_object() \gset ignored_
select api.cancel_batch_lookup(:'org', :'ignored_job') as cancelled \gset
select results_eq(format($$ select event, data ->> 'id' from pg_temp.outbox(%L) $$, :'org'), format($$ values ('batch.cancelled', %L) $$, :'ignored_job'),
    'a cancelled job is sent, its items are not');

delete from app.webhook_deliveries;
select api.set_webhook_config(:'org', '{"events": ["lookup.failed", "batch.completed"]}') as config, pg_temp.submit(:'org', 3) as job \gset ignored_
select api.cancel_batch_lookup(:'org', :'ignored_job') as cancelled \gset
select is_empty(format('select * from app.webhook_deliveries where organization_id = %L', :'org'), 'the cancel of a job is sent only on request');

-- Lookups of deleted jobs
delete from app.webhook_deliveries;
select api.set_webhook_config(:'org', '{"events": ["lookup.failed", "batch.failed"]}') as config \gset
select pg_temp.submit(:'org', 1) as job, pg_temp.look_up(:'org', 1, 404) \gset ignored_
select api.delete_batch_lookup(:'org', :'ignored_job') as deleted \gset
select results_eq(format($$ select event from pg_temp.outbox(%L) $$, :'org'), $$ values ('batch.failed'::text) $$, 'lookups of a deleted job are no longer sent');

-- Bundles
delete from app.webhook_deliveries;
select api.set_webhook_config(:'org', '{"events": ["lookup.completed"], "bundle_items": true}') as config \gset
select pg_temp.submit(:'org', 230) as job, pg_temp.look_up(:'org', 230) \gset ignored_
select results_eq(format($$ select json_array_length(data -> 'items') from pg_temp.outbox(%L) order by 1 $$, :'org'), 'values (30), (100), (100)', 'lookups of a flush are bundled in hundreds');
create function pg_temp.bundles(p_organization_id uuid) returns text[]
language plpgsql as $$
declare
    v_bundle  record;
    v_ids     uuid[];
    v_bundles text[] := '{}';
begin
    for v_bundle in select d.job_id, d.item_ids, d.positions from app.webhook_deliveries d where d.organization_id = p_organization_id order by d.positions[1] loop
        v_ids := array(select i.id from public.lookup_queue_items i
                        where i.organization_id = p_organization_id and i.job_id = v_bundle.job_id and i.position = any (v_bundle.positions) order by i.position);
        v_bundles := v_bundles || format('%s to %s%s%s', v_bundle.positions[1], v_bundle.positions[cardinality(v_bundle.positions)],
                                         case when v_bundle.positions = array(select p from unnest(v_bundle.positions) p order by p) then ' in order' end,
                                         case when v_bundle.item_ids = v_ids then ' with their ids' end);
    end loop;
    return v_bundles;
end;
$$;
select is(pg_temp.bundles(:'org'), '{0 to 99 in order with their ids,100 to 199 in order with their ids,200 to 229 in order with their ids}', 'bundles have the lookups of a flush in the order of the file');
select is((select count(distinct item ->> 'item_id')::integer from pg_temp.outbox(:'org'), json_array_elements(data -> 'items') item), 230, 'every lookup of a bundle is sent once');
select pg_temp.submit(:'org', 1) as job, pg_temp.look_up(:'org', 1, 404) \gset ignored_
select is((select count(*) from app.webhook_deliveries where event = 'lookup.failed'), 0::bigint, 'a bundle has no lookups of events that were not requested');
select api.set_webhook_config(:'org', '{"bundle_items": false}') as config \gset
select is((select count(*)::integer from pg_temp.outbox(:'org') where data -> 'items' is not null), 3, 'bundled lookups stay bundled');

delete from app.webhook_deliveries;
select api.set_webhook_config(:'org', '{"bundle_items": true}') as config \gset
select pg_temp.submit(:'org', 12) as job, pg_temp.look_up(:'org', 12, 200, json_build_object('text', repeat('x', 400000))::text) \gset ignored_
select ok((select max(octet_length(data::text)) < 1600000 from pg_temp.outbox(:'org')), 'a bundle of large answers ends at a megabyte');
select results_eq(format($$ select sum(json_array_length(data -> 'items'))::integer, count(*) < 12 from pg_temp.outbox(%L) $$, :'org'), 'values (12, true)', 'large answers share bundles as far as they fit');
select api.set_webhook_config(:'org', '{"bundle_items": false}') as config \gset

-- A lease that expires for the last time ends the item
delete from app.webhook_deliveries;
select api.set_webhook_config(:'org', '{"events": ["lookup.failed"]}') as config \gset
select api.update_settings('{"max_retries": 0}') as settings, pg_temp.submit(:'org', 1) as job \gset
select count(*) from api.claim_lookups(:'org', 'w', 1) \gset claimed_
select pg_temp.turn_clock(app.clock() + interval '61 seconds');
select is(app.expire_leases(:'org', app.clock()), 1, 'the last lease of an item expires');
select is((select data ->> 'error_code' from pg_temp.outbox(:'org')), 'lease_expired', 'the failure of an expired lease is sent');

-- An answer that comes late replaces the failure
select api.set_webhook_config(:'org', '{"events": ["lookup.completed"]}') as config, pg_temp.submit(:'org', 1) as job \gset
select array_agg(job_id) as jobs, array_agg(position) as positions, array_agg(lease_token) as tokens from api.claim_lookups(:'org', 'w', 1) \gset
select pg_temp.turn_clock(app.clock() + interval '61 seconds');
select app.expire_leases(:'org', app.clock()) as expired \gset
delete from app.webhook_deliveries;
select app.settle_webhooks(:'org');
select pg_temp.record(:'org', :'jobs', :'positions', :'tokens', 200, '{}') as recorded \gset
select is(
    array[(select ready_at from app.webhook_queue_state where organization_id = :'org'), (select max(next_attempt_at) from app.webhook_deliveries)],
    array[app.clock(), app.clock()], 'the sender is notified immediately of an answer that comes late');

-- It also ends its batch anew, if that had failed
select api.set_webhook_config(:'org', '{"events": ["batch.completed", "batch.failed"]}') as config, pg_temp.submit(:'org', 2) as job \gset
select array_agg(job_id) as jobs, array_agg(position) as positions, array_agg(lease_token) as tokens from api.claim_lookups(:'org', 'w', 2) \gset
select pg_temp.turn_clock(app.clock() + interval '61 seconds');
delete from app.webhook_deliveries;
select app.expire_leases(:'org', app.clock()) as expired \gset
select pg_temp.record(:'org', (:'jobs'::uuid[])[1:1], (:'positions'::integer[])[1:1], (:'tokens'::uuid[])[1:1], 200, '{}') as recorded,
       pg_temp.turn_clock(app.clock() + interval '1 second') \gset
select pg_temp.record(:'org', :'jobs', :'positions', :'tokens', 200, '{}') as recorded \gset
select is(
    (select string_agg(concat_ws(' ', event, data ->> 'status', data #>> '{item_counts,completed}'), ', ' order by created_at, event desc)
       from app.webhook_deliveries where job_id = :'job'),
    'batch.failed failed 0, batch.completed completed 1', 'a batch that completes after it has failed is told once more');

-- A batch that ends as it is created
select pg_temp.submit(:'org', 1) as job, pg_temp.look_up(:'org', 1) as recorded, api.set_webhook_config(:'org', '{"events": ["batch.completed"]}') as config \gset
delete from app.webhook_deliveries;
select api.create_batch_lookup(:'org', pg_temp.items(1), p_options => '{"reuse_results": {"max_age_days": 1}, "labels": {"team": "north"}}') as created \gset
select is((select data #>> '{labels,team}' from pg_temp.outbox(:'org')), 'north', 'the event of a batch whose results are all reused has its labels');

-- Custom fields
select is(
    array[app.allowed_fields(null, '{deal}'), app.allowed_fields('null', null), app.allowed_fields('{"deal": 7}', '{other}'), app.allowed_fields('{"deal": 7}', '{}')],
    array['{}', '{}', '{}', '{}']::jsonb[], 'a webhook without custom fields that are allowed has an empty object');

-- The transaction
delete from app.webhook_deliveries;
select api.set_webhook_config(:'org', '{"events": ["lookup.completed"]}') as config, pg_temp.submit(:'org', 1) as job \gset
savepoint before;
select pg_temp.look_up(:'org', 1) \gset ignored_
select is((select count(*)::integer from pg_temp.outbox(:'org')), 1, 'an event is kept with its result');
rollback to before;
select is((select count(*)::integer from pg_temp.outbox(:'org')), 0, 'an event is gone when its transaction rolls back');
select is((select count(*)::integer from pg_temp.outbox(:'other_org')), 0, 'another organization gets no event');
select is((select count(*)::integer from app.webhook_deliveries where organization_id = :'other_org'), 0, 'another organization has no delivery at all');

select * from finish();
rollback;
