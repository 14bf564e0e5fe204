begin;
select plan(24);
\ir fixtures.psql

-- The violations after a change, which is then undone.
create function pg_temp.violations_after(p_change text, p_now interval default '0') returns text[]
language plpgsql as $$
declare
    v_rules text[];
begin
    perform pg_temp.turn_clock(clock_timestamp() + p_now);
    execute p_change;
    v_rules := array(select distinct rule from api.check_invariants() order by 1);
    raise exception using errcode = 'ZZ001', message = v_rules::text;
exception when sqlstate 'ZZ001' then
    return sqlerrm::text[];
end;
$$;

select pg_temp.submit(:'org', 4) as job \gset
select pg_temp.submit(:'other_org', 1) as other_job \gset
select pg_temp.look_up(:'org', 2, 200, :'answer'), pg_temp.look_up(:'org', 1, 404) \gset looked_up_
select count(*) from api.claim_lookups(:'org', 'w', 1) \gset claimed_
select is_empty('select * from api.check_invariants()', 'a batch in progress violates no invariant');

select is(
    pg_temp.violations_after($$ delete from public.lookup_queue_items where position = 3 $$),
    array['a job is open while it has open items', 'a leased item is pending, and leased once', 'every item is there'], 'a missing item is found');
select is(
    pg_temp.violations_after($$ delete from public.lookup_leases $$), array['a pending item is scheduled, leased, or still to be claimed'],
    'a missing lease is found');
select is(
    pg_temp.violations_after($$ delete from app.queued_jobs $$), array['a pending item is scheduled, leased, or still to be claimed'],
    'a job whose items nobody will claim is found');
select is(
    pg_temp.violations_after($$ insert into public.lookup_leases select organization_id, job_id, gen_random_uuid(), 'v', expires_at, positions from public.lookup_leases $$),
    array['a leased item is pending, and leased once'], 'an item that is leased twice is found');
select is(
    pg_temp.violations_after($$ update public.lookup_leases set positions = '{[0,1), [3,4)}' $$), array['a leased item is pending, and leased once'],
    'a lease of an ended item is found');
select is(pg_temp.violations_after($$ update public.batch_lookup_jobs set failed_items = 2 where processed_items = 3 $$), array['a job counts its items'], 'a wrong counter of a job is found');
select is(pg_temp.violations_after($$ update public.batch_lookup_jobs set status = 'cancelled', completed_at = now() where processed_items = 0 $$),
    array['a job is open while it has open items', 'a report closes with its job'], 'a job that ended too early is found');
select is(pg_temp.violations_after($$ delete from public.incentive_report_sites where position = 0 $$),
    array['a completed item has its site, and no other item has one', 'a report adds up its sites'], 'a missing site is found');
select is(pg_temp.violations_after($$ update public.incentive_report_sites set position = 3 where position = 0 $$), array['a completed item has its site, and no other item has one'], 'a site in the place of another is found');
select is(pg_temp.violations_after($$ update public.lookup_queue_items set result = result::jsonb || '{"reference_id": "another"}' where position = 0 and status = 'completed' $$),
    array['an item has its own answer'], 'the answer of another item is found');
select is(pg_temp.violations_after($$ update public.lookup_queue_items set result = result::jsonb || ('{"reference_id": "' || reference_id || '"}')::jsonb where status = 'completed' $$),
    array[]::text[], 'an answer that names its own item violates no invariant');
select is(pg_temp.violations_after($$ update public.incentive_reports set total_incentive_value = total_incentive_value + 0.01 $$), array['a report adds up its sites'], 'a total with a cent too much is found');
select is(pg_temp.violations_after($$ update public.incentive_reports set conditional_incentive_amount = conditional_incentive_amount + 0.01 $$), array['a report adds up its sites'], 'a conditional total with a cent too much is found');
select is(pg_temp.violations_after($$ update public.incentive_reports set status = 'complete', completed_at = now() where total_sites = 0 $$), array['a report closes with its job'], 'a report that closed too early is found');
select is(pg_temp.violations_after($$ delete from public.incentive_report_site_programs; delete from public.incentive_report_sites; delete from public.incentive_reports where total_sites = 2 $$), array['a report closes with its job'], 'an open job without a report is found');
select is(pg_temp.violations_after($$ update app.organization_queue_state set ready_at = now() $$, '5 minutes 61 seconds'), array['an expired lease returns to the queue'], 'a lease that outlived its job is found');
select is(pg_temp.violations_after($$ delete from app.queue_wakeups; update app.organization_queue_state set ready_at = null $$), array['an organization with work is on the ready list'], 'an organization that fell off the ready list is found');
select is(pg_temp.violations_after($$ delete from app.queue_wakeups; update app.organization_queue_state set ready_at = now() + interval '1 day' $$), array['an organization with work is on the ready list'], 'an organization that is listed too late is found');
select is_empty(format($$ select * from api.check_invariants() where organization_id <> %L $$, :'org'), 'others are not affected');
select is_empty('select * from api.check_invariants(now() - interval ''1 minute'')', 'the invariants hold again once the fault is repaired');

-- What maintenance counts.
update public.batch_lookup_jobs set failed_items = 2 where processed_items = 3;
select app.count_violations(app.clock());
select is((select violations from app.maintenance_state), 1, 'maintenance counts the violations that it finds');
select app.count_violations(app.clock() + interval '1 day');
select is((select violations from app.maintenance_state), 1, 'a violation counts until it is repaired, although nothing has changed since');
update public.batch_lookup_jobs set failed_items = 1 where processed_items = 3;
select app.count_violations(app.clock() + interval '1 day 9 minutes');
select app.count_violations(app.clock() + interval '1 day 11 minutes');
select is((select violations from app.maintenance_state), 0, 'a repaired violation no longer counts from the next check on');

select * from finish();
rollback;
