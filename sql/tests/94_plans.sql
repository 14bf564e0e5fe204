begin;
select plan(5);

create temporary view settings as
select oid, proname::text collate "C" as proname, array(select s from unnest(proconfig) s where s !~ '^(plan_cache_mode|DateStyle)=') as others,
       'DateStyle=ISO, MDY' = any (proconfig) as has_iso_dates,
       'plan_cache_mode=force_custom_plan' = any (proconfig) as is_planned_each_call,
       'plan_cache_mode=force_generic_plan' = any (proconfig) as has_one_plan
  from pg_proc
 where pronamespace in ('app'::regnamespace, 'api'::regnamespace);
create temporary table before as select * from settings;

select app.is_distributed() as on_cluster \gset
select results_eq(
    $$ select has_one_plan from settings where proname in ('complete_items', 'make_sites') order by proname $$, array[not :'on_cluster', true],
    'the functions of the queue have one plan for all calls, except those that a cluster plans for each call');
select app.adapt_functions();
select results_eq(
    $$ select proname, is_planned_each_call, has_one_plan from settings
        where proname in ('add_work', 'complete_items', 'make_sites', 'record_outcomes') order by 1 $$,
    $$ values ('add_work' collate "C", true, false), ('complete_items', true, false), ('make_sites', false, true), ('record_outcomes', false, true) $$,
    'on a cluster, those that name a distributed table are planned for each call, and no other');
select is_empty(
    $$ select p.proname from pg_proc p join settings s using (oid)
        where not is_planned_each_call and p.prosrc ~ '\m(from|update|into)\s+(public\.batch_lookup_jobs|app\.queued_jobs)\M' $$,
    'no function that names a distributed table is missing');
select is_empty(
    $$ select s.proname from settings s join pg_proc p using (oid) join pg_language l on l.oid = p.prolang
        where l.lanname = 'plpgsql' and p.pronamespace = 'api'::regnamespace and has_iso_dates is not true $$,
    'all that callers call writes times in ISO');
select bag_eq('select oid, others from settings', 'select oid, others from before', 'the other settings of functions stay');

select * from finish();
rollback;
