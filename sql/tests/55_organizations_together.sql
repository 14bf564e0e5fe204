begin;
select plan(9);
\ir fixtures.psql

select pg_temp.turn_clock(clock_timestamp());
select api.update_settings('{"lookups_per_second": null}');
select pg_temp.submit(:'org', 3) as job \gset
select pg_temp.submit(:'other_org', 2) as other_job \gset

create temporary table claimed as
select * from api.claim_for_organizations(array[:'org', :'other_org']::uuid[], 'w', array[2, 5], 10) with ordinality c (organization_id, job_id, position, lease_token, start_in, retry_count, request, traceparent, n);
select results_eq('select organization_id, count(*) from claimed group by 1 order by 2, 1', format('select * from (values (%L::uuid, 2::bigint), (%L::uuid, 2::bigint)) v order by 2, 1', :'org', :'other_org'), 'each organization gets as many items as it may');
select is((select count(distinct lease_token) from public.lookup_leases), 2::bigint, 'each organization has leases of its own');
select is_empty(format($$ select * from api.claim_for_organizations(array[%L]::uuid[], 'w', array[5], 0) $$, :'org'), 'nothing is claimed beyond the total');
select is((select count(*) from api.claim_for_organizations(array[:'org', :'other_org']::uuid[], 'w', array[5, 5], 1)), 1::bigint, 'the remaining items are claimed by the next call');

select app.is_distributed() as on_cluster \gset
\if :on_cluster
select skip('workers record for several organizations together only where one PostgreSQL has them all', 5);
\else
create temporary table recorded as
select r.*
  from (select array_agg(organization_id order by n) as ids, array_agg(job_id order by n) as jobs, array_agg(position order by n) as positions,
               array_agg(lease_token order by n) as tokens
          from claimed) c,
       lateral api.record_for_organizations(array[c.ids[1], c.ids[3]], array[2, 2], c.jobs, c.positions, c.tokens, array[200, 200, 200, 500],
                                            array[null, null, null, null]::text[], array[:'answer', :'answer', :'answer', null],
                                            array[null, null, null, null]::double precision[], array[0.1, 0.1, 0.1, 0.1]) r;
select results_eq('select verdict, sum(items)::integer from recorded group by 1', $$ values ('accepted', 4) $$, 'the outcomes of all organizations are recorded');
select is((select array_agg(distinct organization_id order by organization_id) from recorded), (select array_agg(distinct organization_id order by organization_id) from claimed), 'each organization has its verdicts');
select is((select processed_items from public.batch_lookup_jobs where id = :'job'), 2, 'each job has its own items');
select is((select status || retry_count from public.lookup_queue_items where job_id = :'other_job' and position = 1), 'pending1', 'a failure is tried again');
select pg_temp.submit(:'org', 1);
select array_agg(job_id) as jobs, array_agg(position) as positions, array_agg(lease_token) as tokens from api.claim_lookups(:'org', 'w', 1) \gset
select from api.record_for_organizations(array[:'org']::uuid[], array[1], :'jobs', :'positions', :'tokens', array[500], array[null]::text[], array[null]::text[], array[null]::double precision[], array[0.1]);
select is((select consecutive_failures from app.upstream_state), 1, 'a failure is a sign for the circuit breaker');
\endif

select * from finish();
rollback;
