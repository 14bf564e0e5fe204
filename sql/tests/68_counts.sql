begin;
select plan(38);
\ir fixtures.psql

-- What the counters say, and that they match the rows.
create function pg_temp.counters(p_organization_id uuid) returns text
language plpgsql as $$
begin
    return (select coalesce(string_agg(n.kind || ' ' || n.status || ' ' || n.number, ', ' order by n.kind, n.status), 'nothing')
              from (select c.kind, c.status, sum(c.number) as number
                      from (select kind, status, total as number from app.ended_totals where organization_id = p_organization_id
                             union all
                            select u.kind, u.status, e.change
                              from app.ended_changes e
                             cross join unnest('{jobs,reports}'::text[], array[job_status, report_status]) u (kind, status)
                             where e.organization_id = p_organization_id and u.status is not null) c
                     group by c.kind, c.status) n
             where n.number <> 0);
end;
$$;

create function pg_temp.totals(p_organization_id uuid) returns text
language sql as $$
    select api.list_batch_lookups(p_organization_id) ->> 'total' || ' jobs, ' || (api.list_incentive_reports(p_organization_id) ->> 'total') || ' reports'
$$;

-- Before an organization is counted
select pg_temp.submit(:'org', 2) as first_job \gset
select is(app.sum_ended(:'org', 'jobs', null), null, 'an organization that was not counted has no totals');
select is(pg_temp.totals(:'org'), '1 jobs, 1 reports', 'lists of an organization that was not counted yet have totals');
select is(pg_temp.look_up(:'org', 2, 200, :'answer'), 2::bigint, 'both items of a batch are looked up');
select is(pg_temp.counters(:'org'), 'jobs completed 1, reports complete 1', 'a batch that ends is counted with its report');
update app.maintenance_state set counts_from = 'infinity';
select app.add_up_counts(app.clock()) \gset early_
select is(app.sum_ended(:'org', 'jobs', null), null, 'calls that began before the deploy may still end jobs, so nothing is counted yet');
update app.maintenance_state set counts_from = '-infinity';
-- As if this job had ended before anything was counted.
update app.ended_changes set job_status = null;
select app.add_up_counts(app.clock()) \gset first_
select is(pg_temp.counters(:'org'), 'jobs completed 1, reports complete 1', 'jobs that ended earlier are counted once, and no job is counted twice');
select app.add_up_counts(app.clock()) \gset second_
select is_empty('select * from app.ended_changes', 'maintenance adds up the changes');
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
    'the report of a cancelled batch that gets a site is no longer in error');

-- A failure that a late success replaces
select api.update_settings('{"max_retries": 0}') as settings \gset
select pg_temp.submit(:'org', 1) as silent_job \gset
select job_id, position, lease_token from api.claim_lookups(:'org', 'silent', 1) \gset silent_
select app.expire_leases(:'org', now() + interval '1 hour') as expired \gset
select is(pg_temp.counters(:'org'), 'jobs cancelled 1, jobs completed 1, jobs failed 2, reports complete 2, reports error 2', 'a batch fails because its worker was silent');
select is(pg_temp.record(:'org', array[:'silent_job_id'::uuid], array[:'silent_position'::integer], array[:'silent_lease_token'::uuid], 200, :'answer'), 'accepted', 'the silent worker answers in the end');
select is(pg_temp.counters(:'org'), 'jobs cancelled 1, jobs completed 2, jobs failed 1, reports complete 3, reports error 1', 'the counters no longer include the failure');

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
select is_empty('select * from api.check_invariants()', 'the counters match the rows');

-- Deleting
select api.delete_batch_lookup(:'org', :'failed_job', true), api.delete_batch_lookup(:'org', :'first_job') \gset deleted_
select api.delete_incentive_report(:'org', id) from public.incentive_reports where organization_id = :'org' and job_id = :'cancelled_job' \gset deleted_
select is(pg_temp.counters(:'org'), 'jobs cancelled 1, jobs completed 1, reports complete 2', 'deleted jobs and reports no longer count');
select app.prune('jobs', 'infinity'), app.prune('reports', 'infinity') \gset pruned_
select is(pg_temp.counters(:'org') || '; ' || pg_temp.totals(:'org'), 'nothing; 1 jobs, 1 reports', 'jobs and reports deleted by the retention no longer count');

update app.ended_totals set total = total + 1 where kind = 'jobs' and status = 'completed';
select results_eq('select rule from api.check_invariants()', $$ values ('ended batches and reports are counted') $$, 'a wrong counter violates an invariant');

update app.ended_totals set total = total - 1 where kind = 'jobs' and status = 'completed';

-- Days of lookups
create function pg_temp.days(p_organization_id uuid) returns text
language plpgsql as $$
begin
    return (select coalesce(string_agg(app.iso_date(day) || ' ' || lookups || ' of ' || jobs, ', ' order by day), 'nothing')
              from app.usage_days where organization_id = p_organization_id and day > '-infinity');
end;
$$;
create function pg_temp.usage(p_organization_id uuid, p_from timestamptz default null, p_before timestamptz default null) returns text
language sql as $$
    select concat_ws(' ', u ->> 'lookups', 'lookups,', u ->> 'total', 'rows,', json_array_length(u -> 'usage'), 'shown,', u #>> '{month,lookups}', 'in', u #>> '{month,month}')
      from api.get_usage(p_organization_id, p_from, p_before) u
$$;
select pg_temp.turn_clock('2026-03-31T12:00Z');
select pg_temp.submit(:'other_org', 4) as usage_job \gset
select is(pg_temp.look_up(:'other_org', 3, 200, :'answer'), 3::bigint, 'three of four items are looked up in March');
select is(pg_temp.days(:'other_org'), '2026-03-31 3 of 1', 'a claim counts the lookups of its day, and of how many batches they are');
select is(pg_temp.usage(:'other_org'), '3 lookups, 1 rows, 1 shown, 3 in 2026-03', 'an organization whose days were not added up has its usage all the same');
select pg_temp.turn_clock('2026-04-01T00:00Z');
select job_id, position, lease_token from api.claim_lookups(:'other_org', 'tester', 1) \gset given_
select is(pg_temp.days(:'other_org'), '2026-03-31 3 of 1, 2026-04-01 1 of 1', 'the next day has a row of its own');
select is(pg_temp.usage(:'other_org'), '4 lookups, 2 rows, 2 shown, 1 in 2026-04', 'the next month begins with its first lookup');
select api.release_lookups(:'other_org', array[:'given_job_id'::uuid], array[:'given_position'::integer], array[:'given_lease_token'::uuid]) as released \gset
select is(pg_temp.days(:'other_org'), '2026-03-31 3 of 1, 2026-04-01 0 of 0', 'items released unsent no longer count');
select is(pg_temp.usage(:'other_org'), '3 lookups, 1 rows, 1 shown, 0 in 2026-04', 'a batch without a lookup on a day is not in its usage');

-- Added up by maintenance
delete from app.usage_days;
select app.add_up_usage(:'other_org', app.clock()) \gset days_
select is(pg_temp.days(:'other_org'), '2026-03-31 3 of 1, 2026-04-01 0 of 0', 'maintenance adds up the earlier days');
select is(pg_temp.usage(:'other_org'), '3 lookups, 1 rows, 1 shown, 0 in 2026-04', 'the usage is the same afterwards');
select is(pg_temp.look_up(:'other_org', 1, 200, :'answer'), 1::bigint, 'the last item is looked up in April');
select is(pg_temp.usage(:'other_org'), '4 lookups, 2 rows, 2 shown, 1 in 2026-04', 'later lookups are added');
select is(pg_temp.usage(:'other_org', '2026-04-01Z'), '1 lookups, 1 rows, 1 shown, 1 in 2026-04', 'the usage of some days has the sums of those');
select is_empty('select * from api.check_invariants()', 'the days match the rows');

-- Old rows
select api.delete_batch_lookup(:'other_org', :'usage_job') as deleted \gset
select app.prune_usage(:'other_org', '2028-01-01Z') as kept \gset
select api.update_settings('{"job_retention_days": 30}') as settings \gset
select is(array[:'kept'::integer, app.prune_usage(:'other_org', '2027-05-05Z'), app.prune_usage(:'other_org', '2027-05-06Z')], '{0,0,1}', 'rows of deleted batches are kept for 400 days, and forever if batches are');
select is(pg_temp.usage(:'other_org'), '4 lookups, 1 rows, 1 shown, 1 in 2026-04', 'the lookups of deleted rows remain in the sums');
update app.usage_days set jobs = jobs + 1 where day = '2026-04-01';
select results_eq('select rule from api.check_invariants()', $$ values ('days add up the lookups of their jobs') $$, 'a wrong day violates an invariant');

select * from finish();
rollback;
