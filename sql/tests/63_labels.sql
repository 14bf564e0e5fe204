begin;
select plan(27);
\ir fixtures.psql
create function pg_temp.submit_labelled(p_organization_id uuid, p_labels jsonb, p_options jsonb default '{}') returns uuid
language sql as $$ select (api.create_batch_lookup(p_organization_id, pg_temp.items(1) || jsonb_build_object('labels', p_labels), p_options => p_options) ->> 'job_id')::uuid $$;
create function pg_temp.found(p_organization_id uuid, p_labels jsonb, p_name text default null, p_from timestamptz default null, p_before timestamptz default null) returns integer
language sql as $$
    select case when (l ->> 'total')::integer = json_array_length(l -> 'jobs') then json_array_length(l -> 'jobs') end
      from api.list_batch_lookups(p_organization_id, p_name => p_name, p_created_from => p_from, p_created_before => p_before, p_labels => p_labels) l
$$;

select pg_temp.turn_clock('2026-11-24 12:00:00+00');
select pg_temp.submit_labelled(:'org', '{"team": "north", "quarter": "Q4: late"}', '{"name": "March 50%"}') as job \gset
select pg_temp.turn_clock('2026-11-25 12:00:00+00');
select pg_temp.submit_labelled(:'org', '{"team": "north"}') as second \gset
select pg_temp.submit_labelled(:'other_org', '{"team": "north"}') as other \gset

select is((api.get_batch_lookup(:'org', :'job') -> 'labels')::jsonb, '{"team": "north", "quarter": "Q4: late"}', 'a job shows its labels');
select is((api.list_batch_lookups(:'org') #> '{jobs,0,labels}')::jsonb, '{"team": "north"}', 'a list of jobs shows their labels');
select is((select labels from api.jobs where id = :'job'), '{"team": "north", "quarter": "Q4: late"}'::jsonb, 'the view of jobs shows labels');
select pg_temp.submit(:'org', 1) as plain, pg_temp.submit_labelled(:'org', null) as null_labels,
       pg_temp.submit_labelled(:'org', '{"a": "b"}', '{"labels": {"c": "d"}}') as both \gset
select is((api.get_batch_lookup(:'org', :'plain') -> 'labels')::jsonb, '{}', 'a job may have no labels');
select is((api.get_batch_lookup(:'org', :'null_labels') -> 'labels')::jsonb, '{}', 'labels may be null');
select is((api.get_batch_lookup(:'org', :'both') -> 'labels')::jsonb, '{"c": "d"}',
    'labels given beside the body replace those in it');

select is(pg_temp.found(:'org', '{"team": "north"}'), 2, 'jobs are found by a label, those of another organization are not');
select is(pg_temp.found(:'org', '{"team": "north", "quarter": "Q4: late"}'), 1, 'jobs are found if they have all requested labels');
select is(pg_temp.found(:'org', '{"team": "south"}'), 0, 'a label is its key and its value');
select is(pg_temp.found(:'org', '{}'), 5, 'without labels the filter excludes no job');
select is(pg_temp.found(:'org', null, 'MARCH 50%'), 1, 'jobs are found by a part of their name, whatever its case');
select is(pg_temp.found(:'org', null, 'march%'), 0, 'a name has no wildcards');
select is(pg_temp.found(:'org', null, p_before => '2026-11-25Z'), 1, 'jobs created before a time are found');
select is(pg_temp.found(:'org', null, p_from => '2026-11-25 12:00Z'), 4, 'jobs created from a time on are found');
select is(pg_temp.found(:'org', '{"team": "north"}', 'march', '2026-11-24Z', '2026-11-25Z'), 1, 'filters of jobs narrow each other');

select throws_ok(format($$ select pg_temp.submit_labelled(%L, %L) $$, :'org', l), 'PT400',
    'labels must be an object of at most 16 strings: keys of 1 to 64 characters of A-Z, a-z, 0-9 and . _ ~ / -, values of 1 to 256 characters',
    'labels of another form are refused: ' || left(l, 20))
  from (values ('["north"]'), ('{"team": 1}'), (jsonb_build_object('team', repeat('x', 257))::text), ('{"a b": "c"}'), ('{"team": ""}'),
               ((select jsonb_object_agg('k' || n, 'v') from generate_series(1, 17) n)::text)) v (l);

select jsonb_object_agg('k' || n, 'v') || jsonb_build_object('k16', repeat('x', 256)) as most from generate_series(1, 16) n \gset
select pg_temp.submit_labelled(:'org', :'most') as labelled \gset
select api.get_batch_lookup(:'org', :'labelled') -> 'labels' as labels \gset
select is(:'labels'::jsonb, :'most', 'a job may have 16 labels, of up to 256 characters');
select is(array(select json_object_keys(:'labels')), array(select k from jsonb_object_keys(:'most') k order by k), 'labels are shown in the order of their keys');
select is(pg_temp.found(:'org', '{"k1": "v", "k2": "v"}'), 1, 'labels of the same value are told apart by their keys');
select throws_ok(format($$ select pg_temp.found(%L, '["north"]') $$, :'org'), 'PT400',
    'labels must be an object of at most 16 strings: keys of 1 to 64 characters of A-Z, a-z, 0-9 and . _ ~ / -, values of 1 to 256 characters', 'a filter of labels of another form is refused');

-- Housekeeping
select pg_temp.look_up(:'org', 100, 404);
select api.retry_batch_lookup(:'org', :'job') ->> 'job_id' as again \gset
select is((api.get_batch_lookup(:'org', :'again') -> 'labels')::jsonb, '{"team": "north", "quarter": "Q4: late"}',
    'a retry has the labels of its job');
select api.delete_batch_lookup(:'org', :'job');
select is((select count(*) from public.batch_lookup_job_labels where job_id = :'job'), 0::bigint, 'labels are deleted with their job');

select * from finish();
rollback;
