begin;
select plan(5);
\ir fixtures.psql

select app.is_distributed() as on_cluster \gset
\if :on_cluster
select set_eq('select logicalrelid::regclass from pg_dist_partition', $$ select name::regclass from app.distribution() where kind <> 'local' $$, 'every table that is not local is distributed by Citus');
select is_empty('select * from api.check_distribution()', 'the check finds every table distributed as it should be');
\else
select is(app.is_distributed(), false, 'one PostgreSQL is not distributed');
select is((select problem from api.check_distribution()), 'is not distributed: one PostgreSQL has all of its rows', 'the check says that nothing is distributed');
\endif
select set_eq(
    $$ select proname::text from pg_proc
        where pronamespace = 'api'::regnamespace and 'p_organization_id' = any (proargnames) and proargnames[1] <> 'p_organization_id' $$,
    array['create_batch_lookup_from', 'create_upload_from', 'realtime_record', 'wait_for_batch'],
    'all functions for one organization take it first, so that they run at its node, except those that only call others');
select is_empty('select * from api.other_nodes()', 'a single PostgreSQL has no other nodes to listen at');
select app.untie_tables();
select is_empty(
    $$ select oid::regclass::text from pg_class where relnamespace in ('app'::regnamespace, 'api'::regnamespace) and relkind = 'v' $$,
    'no view ties tables together while they are distributed');

select * from finish();
rollback;
