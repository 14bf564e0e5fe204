begin;
select plan(37);
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

-- Rules about what only some batches have: a budget, a name, results that others may reuse, an end. And drafts.
select api.create_organization('Initech') as initech \gset
select (api.create_batch_lookup(:'initech', pg_temp.items(3) || '{"name": "spring", "max_lookups": 2, "when_limit_reached": "wait"}') ->> 'job_id')::uuid as limited \gset
select pg_temp.look_up(:'initech', 2, 200, :'answer'), pg_temp.look_up(:'initech', 1, 200) \gset held_
select pg_temp.submit(:'initech', 2) as ended \gset
select pg_temp.look_up(:'initech', 1, 200, :'answer'), pg_temp.look_up(:'initech', 1, 404) \gset ended_
select pg_temp.submit(:'initech', 1) as failed \gset
select pg_temp.look_up(:'initech', 1, 404) \gset failed_
select app.keep_names(:'initech') as kept, app.learn_results(:'initech', app.clock() - interval '1 day') as unread \gset
select is_empty('select * from api.check_invariants()', 'a job at its limit and jobs that have ended violate no invariant');
create function pg_temp.after(p_change text, variadic p_arguments text[]) returns text[]
language plpgsql as $$ begin return pg_temp.violations_after(format(p_change, variadic p_arguments)); end; $$;
select is(pg_temp.after('update app.job_budgets set lookups = 1 where job_id = %L', :'limited'), array['a budget counts the lookups of its job'], 'a budget with too few lookups is found');
select is(pg_temp.after('update app.job_budgets set max_lookups = 1 where job_id = %L', :'limited'), array['a job keeps to its max_lookups'], 'a job above its limit is found');
select is(pg_temp.after('delete from app.job_names where job_id = %L', :'limited'), array['a job is found by its name'], 'a job that is not found by its name is found');
select is(pg_temp.after('update app.known_results set position = 2 where job_id = %L and position = 1', :'limited'), array['a known result is a completed item''s own'], 'a known result of an item without an answer is found');
select is(pg_temp.after('update app.known_results set looked_up_at = now() - interval ''1 day'' where job_id = %L', :'ended'), array['a known result is a completed item''s own'], 'a known result with the time of another is found');
select pg_temp.submit(:'initech', 2) as waiting \gset
select pg_temp.look_up(:'initech', 2, 500) \gset waiting_
select is_empty('select * from api.check_invariants()', 'items that wait for a retry violate no invariant');
select is(pg_temp.after('delete from app.queue_wakeups; update app.organization_queue_state set ready_at = null where organization_id = %L', :'initech'),
    array['an organization with work is on the ready list'], 'an organization that fell off the ready list is found, although only retries are left');
select api.create_upload(:'initech', pg_temp.items(3) #- '{items,1,building_type}') ->> 'id' as upload \gset
select api.update_upload(:'initech', :'upload', '{"skip": [2]}') \g /dev/null
select is_empty('select * from api.check_invariants()', 'a draft violates no invariant');
select is(
    array(select pg_temp.after('update public.lookup_uploads set %I = %1$I + 1, %I = %2$I - 1 where id = %L', more, less, :'upload')
            from (values ('valid_rows', 'invalid_rows'), ('invalid_rows', 'skipped_rows'), ('skipped_rows', 'valid_rows')) v (more, less)),
    array_fill('an upload counts its rows'::text, array[3, 1]), 'wrong counts of a draft are found');
select is(pg_temp.after('delete from public.lookup_upload_rows where upload_id = %L and position = 0', :'upload'), array['an upload counts its rows'], 'a lost row of a draft is found');
select is(pg_temp.after('update public.incentive_reports set status = ''error'' where job_id = %L', :'ended'), array['a report closes with its job'], 'a report with an error that has sites is found');
select is(pg_temp.after('update public.incentive_reports set status = ''complete'' where job_id = %L', :'failed'), array['a report closes with its job'], 'a complete report without a site is found');

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
