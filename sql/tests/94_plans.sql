begin;
select plan(3);

create temporary view forced as
select oid, proconfig from pg_proc
 where pronamespace in ('app'::regnamespace, 'api'::regnamespace) and 'plan_cache_mode=force_generic_plan' = any (proconfig);

select app.is_distributed() as on_cluster \gset
\if :on_cluster
select is_empty('select from forced', 'on a cluster no function forces a generic plan');
alter function app.hold_leases(uuid, uuid[], uuid[]) set plan_cache_mode = force_generic_plan;
\else
select isnt_empty('select from forced', 'on one PostgreSQL the functions of the queue have one plan for all');
\endif
create temporary table settings as select oid, array_remove(proconfig, 'plan_cache_mode=force_generic_plan') as others from forced;
select app.free_plans();
select is_empty('select from forced', 'where a cluster plans, no function forces a generic plan');
select bag_eq(
    'select oid, proconfig from pg_proc where oid in (select oid from settings)', 'select oid, others from settings',
    'the other settings of functions stay');

select * from finish();
rollback;
