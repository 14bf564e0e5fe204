begin;
select plan(27);
\ir fixtures.psql
create function pg_temp.submit_named(p_organization_id uuid, p_name text, p_labels jsonb default '{}') returns uuid
language sql as $$
    select (api.create_batch_lookup(p_organization_id, pg_temp.items(1), p_options => jsonb_build_object('name', p_name, 'labels', p_labels)) ->> 'job_id')::uuid
$$;
-- The total and the names of the jobs that are found.
create function pg_temp.found(p_organization_id uuid, p_name text, p_labels jsonb default null, p_status text default null) returns text
language sql as $$
    select (l ->> 'total') || ': ' || coalesce((select string_agg(j ->> 'name', ', ' order by j ->> 'name') from json_array_elements(l -> 'jobs') j), '')
      from api.list_batch_lookups(p_organization_id, p_status, p_name => p_name, p_labels => p_labels) l
$$;

-- Parts of names
select is(
    array(select part from unnest(app.name_parts('00000000-0000-0000-0000-0000000abcde', 'Aé𝄞')) part order by 1),
    array[(x'abcde'::bigint << 42) + (97 << 21) + 233, (x'abcde'::bigint << 42) + (233 << 21) + 119070],
    'a part of a name consists of the end of the organization''s id and two characters');
select is(
    app.name_parts('00000000-0000-0000-0000-0000000abcde', 'March 2026') && app.name_parts('00000000-0000-0000-0000-000000012344', 'March 2026'), false,
    'the same name of two organizations has no part in common');

-- Before the names of an organization are indexed
select pg_temp.submit_named(:'org', 'March, Nördlich') as job, pg_temp.submit_named(:'org', 'March, south', '{"team": "x"}'), pg_temp.submit_named(:'org', null),
       pg_temp.submit_named(:'other_org', 'March, Nördlich') \gset
-- As if these jobs were older than this version.
delete from app.job_names where job_id <> :'job';
select is(app.jobs_named(:'org', 'march'), null, 'names that are not indexed are searched for in the jobs');
select is(pg_temp.found(:'org', 'march'), '2: March, Nördlich, March, south', 'jobs are found by names that are not indexed');

-- Maintenance indexes them
update app.maintenance_state set counts_from = 'infinity';
insert into app.ended_changes (organization_id, id, change) select id, gen_random_uuid(), 0 from app.organizations;
select app.add_up_counts(app.clock()) \gset early_
select is((select count(*) from app.job_names), 1::bigint, 'calls that began before the deploy may still create jobs, so nothing is indexed yet');
update app.maintenance_state set counts_from = '-infinity';
insert into app.ended_changes (organization_id, id, change) select id, gen_random_uuid(), 0 from app.organizations on conflict do nothing;
select app.keep_names(:'org', 1) \gset first_
select is(app.jobs_named(:'org', 'march'), null, 'a step indexes some names, without marking the organization as indexed');
select app.add_up_counts(app.clock()) \gset all_
select results_eq(
    format('select count(*) from app.job_names group by organization_id = %L order by 1', :'other_org'), array[2, 3]::bigint[],
    'maintenance indexes the names of all jobs, and marks the organization as indexed');
select is(app.jobs_named(:'org', 'nörd'), array[:'job'::uuid], 'jobs of an indexed organization are found by the index');
select is(app.jobs_named(:'org', 'south nor'), '{}'::uuid[], 'no job is read if none has such a name');
select is(cardinality(app.jobs_named(:'org', 'ma')), 2, 'two characters are enough');
select is(cardinality(app.jobs_with_parts(:'org', app.name_parts(:'org', 'march'), 1)), null, 'a name that very many jobs have is searched for in all jobs');
select is(app.jobs_named(:'org', 'm'), null, 'a single character is searched for in the jobs');

select is(pg_temp.found(:'org', 'MARCH, NÖ'), '1: March, Nördlich', 'upper and lower case are the same');
select is(pg_temp.found(:'org', 'm'), '2: March, Nördlich, March, south', 'jobs are found by a single character');
select is(pg_temp.found(:'org', 'uth'), '1: March, south', 'jobs are found by the end of their name');
select is(pg_temp.found(:'org', 'ch,south'), '0: ', 'characters that are not adjacent in a name are not found');
select is(pg_temp.found(:'org', 'march', '{"team": "x"}'), '1: March, south', 'name and label narrow each other');
select is(pg_temp.found(:'org', 'march', '{"team": "y"}'), '0: ', 'a label that no job has finds none');
select is(pg_temp.found(:'org', 'march', null, 'completed'), '0: ', 'name and status narrow each other');

-- Jobs that come and go
select pg_temp.submit_named(:'org', 'aaa') as again \gset
select is(pg_temp.found(:'org', 'aaa'), '1: aaa', 'a new job is found at once');
select is(pg_temp.found(:'org', 'aaaa'), '0: ', 'a longer name of the same parts is not');
select is_empty('select * from api.check_invariants()', 'indexed names violate no invariant');
select is(pg_temp.look_up(:'org', 100, 404), 4::bigint, 'the items of all batches fail');
select api.retry_batch_lookup(:'org', :'again') as retry \gset
select is(pg_temp.found(:'org', 'aaa (re'), '1: aaa (retry)', 'a retry is found by its own name');
select api.delete_batch_lookup(:'org', :'again') as deleted \gset
select is(pg_temp.found(:'org', 'aaa'), '1: aaa (retry)', 'a job that was deleted is not found');
select is((select count(*) from app.job_names where job_id = :'again'), 0::bigint, 'the name of a deleted job is removed from the index');
delete from app.job_names where job_id = :'job';
select is(array(select distinct rule from api.check_invariants()), '{a job is found by its name}', 'a job that is not found by its name is reported');

select * from finish();
rollback;
