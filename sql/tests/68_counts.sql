begin;
select plan(22);
\ir fixtures.psql

-- What the counters say, and that it is what there is.
create function pg_temp.counters(p_organization_id uuid) returns text
language sql as $$
    select coalesce(string_agg(n.kind || ' ' || n.status || ' ' || n.number, ', ' order by n.kind, n.status), 'nothing')
      from (select c.kind, c.status, sum(c.number) as number
              from (select kind, status, total as number from app.ended_totals where organization_id = p_organization_id
                     union all
                    select kind, status, change from app.ended_changes where organization_id = p_organization_id) c
             group by c.kind, c.status) n
     where n.number <> 0
$$;

create function pg_temp.totals(p_organization_id uuid) returns text
language sql as $$
    select api.list_batch_lookups(p_organization_id) ->> 'total' || ' jobs, ' || (api.list_incentive_reports(p_organization_id) ->> 'total') || ' reports'
$$;

-- Before an organization is counted
select pg_temp.submit(:'org', 2) as first_job \gset
select is(app.sum_ended(:'org', 'jobs', null), null, 'an organization that was not counted has no totals');
select is(pg_temp.totals(:'org'), '1 jobs, 1 reports', 'the lists of an organization that was not counted count');
select is(pg_temp.look_up(:'org', 2, 200, :'answer'), 2::bigint, 'both items of a batch are looked up');
select is(pg_temp.counters(:'org'), 'jobs completed 1, reports complete 1', 'a batch that ends is counted with its report');
update app.maintenance_state set counts_from = 'infinity';
select app.add_up_counts() \gset early_
select is(app.sum_ended(:'org', 'jobs', null), null, 'calls of before the deploy may still end jobs, so nothing is counted yet');
update app.maintenance_state set counts_from = '-infinity';
-- As if this job had ended before anything was counted.
delete from app.ended_changes where kind = 'jobs';
insert into app.ended_changes (organization_id, id, kind, status, change) values (:'org', gen_random_uuid(), 'jobs', 'completed', 0);
select app.add_up_counts() \gset first_
select is(pg_temp.counters(:'org'), 'jobs completed 1, reports complete 1', 'what ended earlier is counted once, and what was counted already is not counted twice');
select app.add_up_counts() \gset second_
select is_empty('select * from app.ended_changes', 'maintenance takes the changes in');
select is(pg_temp.counters(:'org'), 'jobs completed 1, reports complete 1', 'the sums are the same afterwards');

-- Every way to end
select pg_temp.submit(:'org', 1) as failed_job \gset
select is(pg_temp.look_up(:'org', 1, 404), 1::bigint, 'the only item of a batch fails');
select pg_temp.submit(:'org', 1) as cancelled_job \gset
select job_id, position, lease_token from api.claim_lookups(:'org', 'tester', 1) \gset late_
select api.cancel_batch_lookup(:'org', :'cancelled_job') as cancelled \gset
select is(
    pg_temp.counters(:'org'), 'jobs cancelled 1, jobs completed 1, jobs failed 1, reports complete 1, reports error 2',
    'batches that fail or are cancelled are counted, and their reports without a site as errors');
select is(pg_temp.record(:'org', array[:'late_job_id'::uuid], array[:'late_position'::integer], array[:'late_lease_token'::uuid], 200, :'answer'), 'accepted', 'an answer comes after the cancel');
select is(
    pg_temp.counters(:'org'), 'jobs cancelled 1, jobs completed 1, jobs failed 1, reports complete 2, reports error 1',
    'the report of a cancelled batch that gets a site is no error any more');

-- A failure that is mended
select api.update_settings('{"max_retries": 0}') as settings \gset
select pg_temp.submit(:'org', 1) as silent_job \gset
select job_id, position, lease_token from api.claim_lookups(:'org', 'silent', 1) \gset silent_
select app.expire_leases(:'org', now() + interval '1 hour') as expired \gset
select is(pg_temp.counters(:'org'), 'jobs cancelled 1, jobs completed 1, jobs failed 2, reports complete 2, reports error 2', 'a batch fails because its worker was silent');
select is(pg_temp.record(:'org', array[:'silent_job_id'::uuid], array[:'silent_position'::integer], array[:'silent_lease_token'::uuid], 200, :'answer'), 'accepted', 'the silent worker answers in the end');
select is(pg_temp.counters(:'org'), 'jobs cancelled 1, jobs completed 2, jobs failed 1, reports complete 3, reports error 1', 'the failure is mended in the counters, too');

-- What the lists say
select pg_temp.submit(:'org', 1) as open_job \gset
select is(
    (select string_agg(s || ' ' || (api.list_batch_lookups(:'org', s) ->> 'total'), ', ' order by s)
       from unnest('{pending,processing,completed,failed,cancelled}'::text[]) s),
    'cancelled 1, completed 2, failed 1, pending 1, processing 0', 'the list of each status has its total');
select is(
    (select string_agg(s || ' ' || (api.list_incentive_reports(:'org', s) ->> 'total'), ', ' order by s) from unnest('{processing,complete,error}'::text[]) s),
    'complete 3, error 1, processing 1', 'the list of reports has a total for each status');
select is(pg_temp.totals(:'org'), '5 jobs, 5 reports', 'the lists of all have the total of all');
select is_empty('select * from api.check_invariants()', 'the counters are what there is');

-- Deleting
select api.delete_batch_lookup(:'org', :'failed_job', true), api.delete_batch_lookup(:'org', :'first_job') \gset deleted_
select api.delete_incentive_report(:'org', id) from public.incentive_reports where organization_id = :'org' and job_id = :'cancelled_job' \gset deleted_
select is(pg_temp.counters(:'org'), 'jobs cancelled 1, jobs completed 1, reports complete 2', 'what is deleted is counted no more');
select app.prune('jobs', 'infinity'), app.prune('reports', 'infinity') \gset pruned_
select is(pg_temp.counters(:'org') || '; ' || pg_temp.totals(:'org'), 'nothing; 1 jobs, 1 reports', 'what has outlived its retention is counted no more');

update app.ended_totals set total = total + 1 where kind = 'jobs' and status = 'completed';
select results_eq('select rule from api.check_invariants()', $$ values ('ended batches and reports are counted') $$, 'a counter that is wrong breaks a rule');

select * from finish();
rollback;
