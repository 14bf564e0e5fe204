begin;
select plan(3);
\ir fixtures.psql
select pg_temp.submit(:'org', 3) as job \gset

select results_eq('select open_jobs, ready_items, items_in_flight, expired_leases from api.queue_health', $$ values (1::bigint, 3::bigint, 0::bigint, 0::bigint) $$,
    'api.queue_health tells in one row how the queue stands');
select count(*) from api.claim_lookups(:'org', 'w', 1) \gset claimed_
select results_eq(format('select status from api.items where job_id = %L order by position', :'job'), $$ values ('processing'), ('pending'), ('pending') $$,
    'api.items calls an item under a lease processing');
select pg_temp.look_up(:'org', 10, 200, :'answer') as recorded \gset
select results_eq(format('select utility, total_incentive_amount from api.items where job_id = %L and position = 1', :'job'),
    $$ values ('Austin Energy', '1200.50'::jsonb) $$, 'api.items tells what a lookup found');

select * from finish();
rollback;
