begin;
select plan(23);
\ir fixtures.psql
select pg_temp.turn_clock('2026-11-24 12:00:00+00');
select pg_temp.submit(:'org', 2) as job, pg_temp.submit(:'other_org', 1) as other_job \gset
select id as report from public.incentive_reports where job_id = :'job' \gset

-- What was written since a position, as table and id, of some organizations, in steps of p_limit rows.
create function pg_temp.changed(p_organization_ids uuid[], p_since bigint, p_updated_since timestamptz default null, p_limit integer default 1000)
    returns setof text
language plpgsql as $$
declare
    v_table  text;
    v_answer json;
begin
    foreach v_table in array array['batch_lookup_jobs', 'incentive_reports'] loop
        v_answer := api.realtime_changes(p_organization_ids, v_table, p_since, p_updated_since, p_limit => p_limit);
        loop
            return query select concat_ws(' ', v_table, c ->> 'id') from json_array_elements(v_answer -> 'changes') c;
            exit when v_answer ->> 'next' is null;
            v_answer := api.realtime_changes(p_organization_ids, v_table, p_since, p_updated_since, (v_answer -> 'next' ->> 'after_organization_id')::uuid,
                                             (v_answer -> 'next' ->> 'after_id')::uuid, p_limit);
        end loop;
    end loop;
end;
$$;

select results_eq($$ select t ->> 'table' from json_array_elements(api.realtime_tables()) t $$, $$ values ('batch_lookup_jobs'), ('incentive_reports') $$,
    'subscribers watch jobs and reports');
select is_empty(
    $$ select from json_array_elements(api.realtime_tables()) t cross join lateral json_array_elements(t -> 'columns') c
        where c ->> 'type' like '\_%' or c ->> 'type' like 'json%' $$, 'no column that can be watched is an array or JSON');
select is(api.realtime_record('batch_lookup_jobs', :'org', :'job') -> 'record' ->> 'status', 'pending', 'a record is the row of a job');
select is(api.realtime_record('incentive_reports', :'org', :'report') -> 'record' ->> 'job_id', :'job'::text, 'a record is the row of a report');
select is(api.realtime_record('lookup_queue_items', :'org', :'job')::text, null, 'a table that is not watched has no records');
select is(api.realtime_record('batch_lookup_jobs', :'other_org', :'job')::text, null, 'a job is a record of its own organization only');
select is(array[api.realtime_record('batch_lookup_jobs', :'org', :'report'), api.realtime_record('incentive_reports', :'org', :'job'), api.realtime_record('incentive_reports', :'other_org', :'report')]::text[], '{null,null,null}',
    'a job or report that is not there has no record');

select bag_eq(format('select pg_temp.changed(array[%L]::uuid[], 0)', :'org'),
    format($$ values ('batch_lookup_jobs %s'), ('incentive_reports %s') $$, :'job', :'report'), 'a new job and its report have changed');
select is((select count(*) from pg_temp.changed(array[:'org', :'other_org']::uuid[], api.realtime_position())), 4::bigint,
    'changes of a running transaction come after the current position');
select is((select count(*) from pg_temp.changed(array[:'org', :'other_org']::uuid[], 0, p_limit => 1)), 4::bigint,
    'steps of a row find the changes of all organizations');
savepoint before;
select pg_temp.turn_clock('2026-11-24 12:00:02+00');
select pg_temp.submit(:'org', 1) as later_job \gset
select count(*) as found from pg_temp.changed(array[:'org', :'other_org']::uuid[], 0, p_limit => 1) \gset
rollback to before;
select is(:found, 6, 'steps of a row find several changes of an organization, and older ones of the next');
select app.is_distributed() as on_cluster \gset
\if :on_cluster
select is(
    array[(select count(*) from pg_temp.changed(array[:'org']::uuid[], api.realtime_position() + 10000000)),
          (select count(*) from pg_temp.changed(array[:'org']::uuid[], api.realtime_position() + 10000001))],
    array[2, 0]::bigint[], 'on a cluster a position is a time, and rows updated before it have not changed');
select is(api.realtime_changes(array[:'org']::uuid[], 'batch_lookup_jobs', 0) ->> 'history', null, 'on a cluster a position stays valid after a failover');
\else
select is((select count(*) from pg_temp.changed(array[:'org']::uuid[], 1000000000000)), 2::bigint,
    'after a restore to another server all rows have changed');
select is(api.realtime_changes(array[]::uuid[], 'batch_lookup_jobs', 0) ->> 'history', app.wal_history(), 'a position comes with the history in which it is valid');
\endif
select bag_eq(format('select pg_temp.changed(array[%L]::uuid[], null, %L)', :'org', '2026-11-24 12:00:00+00'),
    format($$ values ('batch_lookup_jobs %s'), ('incentive_reports %s') $$, :'job', :'report'), 'rows updated since a time are found');
select is_empty(format('select pg_temp.changed(array[%L]::uuid[], null, %L)', :'org', '2026-11-24 12:00:01+00'), 'rows updated before that time are not found');
select is(array(select api.realtime_match(o, 'Acme, spring', p)
                  from (values ('like', 'acme%'), ('ilike', 'acme%'), ('match', '^acme'), ('imatch', '^acme'), ('gt', 'A'), ('gte', 'B'), ('lt', 'B'),
                               ('lte', 'A'), ('eq', 'A'), ('gt', 'Acme, spring'), ('gte', 'Acme, spring'), ('lt', 'Acme, spring'), ('lte', 'Acme, spring')) m (o, p)),
    '{f,t,f,t,t,f,t,f,null,f,t,f,t}'::boolean[], 'texts are compared as PostgreSQL compares them');
select throws_ok($$ select api.realtime_match('match', '', '([') $$, '2201B', null, 'an invalid pattern fails');

-- Deletions
select api.cancel_batch_lookup(:'org', :'job') as cancelled \gset
select api.realtime_position() as position \gset
select api.delete_batch_lookup(:'org', :'job') as deleted \gset
select results_eq(
    format($$ select c ->> 'id', c ->> 'is_deleted' from json_array_elements(api.realtime_changes(array[%L]::uuid[], 'batch_lookup_jobs', %s) -> 'changes') c $$, :'org', :position),
    format($$ values (%L, 'true') $$, :'job'), 'a deleted job is among the changes');
savepoint before;
select api.delete_incentive_report(:'org', :'report') as deleted \gset
select c ->> 'id' as deleted_report from json_array_elements(api.realtime_changes(array[:'org']::uuid[], 'incentive_reports', :position) -> 'changes') c where c ->> 'is_deleted' = 'true' \gset
rollback to before;
select is(:'deleted_report'::text, :'report', 'a deleted report is among the changes');
select is_empty(
    format($$ select from unnest(array[%1$L, %2$L]::uuid[], array['batch_lookup_jobs', 'incentive_reports']) u (organization_id, name)
                cross join lateral json_array_elements(api.realtime_changes(array[u.organization_id], u.name, 0) -> 'changes') c where c ->> 'is_deleted' = 'true' $$, :'other_org', :'org'),
    'a deletion is a change of its own organization and table only');
select is(pg_temp.changed(array[:'org']::uuid[], null, '2026-11-24 12:00:00+00', 1), 'batch_lookup_jobs ' || :'job', 'a deleted job is among the changes since a time')
 limit 1;
select pg_temp.turn_clock('2026-11-24 12:00:01+00');
select api.cancel_batch_lookup(:'other_org', :'other_job') as cancelled, api.delete_batch_lookup(:'other_org', :'other_job') as deleted \gset
select app.prune_deleted_rows('2026-11-25 12:00:00+00') as early \gset
select app.prune_deleted_rows('2026-11-25 12:00:01+00') as pruned \gset
select results_eq($$ select id from app.deleted_rows $$, format($$ values (%L::uuid) $$, :'other_job'), 'a deletion is remembered for a day');
select is(array[:early, :pruned], '{0,1}', 'the deletions that are forgotten are counted');

select * from finish();
rollback;
