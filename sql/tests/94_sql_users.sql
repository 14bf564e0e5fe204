begin;
select plan(27);
\ir fixtures.psql

-- As from \copy: all text, an empty column is null.
create temp table sites (like api.sites) on commit drop;
insert into sites values
    ('site-1', '301 Congress Ave', null, 'Austin', 'TX', '78701', 'US', 'RESIDENTIAL', '1;4'),
    ('site-2', '303 Congress Ave', 'Suite 5', 'Austin', 'TX', '78701', 'US', 'COMMERCIAL', '{2}');
select api.create_batch_lookup_from('sites', :'org') ->> 'job_id' as job \gset
select results_eq(format($$ select reference_id, device_ids, address ->> 'street_2' from api.items where job_id = %L order by position $$, :'job'),
    $$ values ('site-1', array[1, 4], null), ('site-2', array[2], 'Suite 5') $$, 'a table of text becomes a batch');

create temp view chosen as
select s.reference_id, jsonb_build_object('street_1', street_1, 'city', city, 'state_or_province_code', 'TX', 'postal_code', '78701', 'country_code', 'US') as address,
       'RESIDENTIAL' as building_type, array[1] as device_ids, true as create_application
  from sites s where s.reference_id = 'site-2';
select alike(api.create_batch_lookup_from('chosen', :'org') ->> 'message', 'Batch job created with 1 items.%', 'a view over a query becomes a batch');
select is(api.create_batch_lookup_from('chosen', :'org', p_name => 'Chosen', p_dry_run => true) ->> 'dry_run', 'true', 'a table can be checked in a dry run');
select api.create_batch_lookup_from('chosen', :'org', p_name => 'Chosen') ->> 'job_id' as named \gset
select is((select name from api.jobs where id = :'named'), 'Chosen', 'a batch of a table has a name');
select api.create_batch_lookup_from('chosen', :'org', p_name => 'Sampled', p_options => '{"name": "x", "sample": 1, "max_lookups": 5, "labels": {"team": "north"}}')
       ->> 'job_id' as sampled \gset
select is(
    (select row(j.name, m.sample, m.max_lookups, l.value)::text
       from public.batch_lookup_jobs j
       join app.job_budgets m on m.job_id = j.id
       join public.batch_lookup_job_labels l on l.job_id = j.id
      where j.id = :'sampled'),
    '(Sampled,1,5,north)', 'a batch of a table has all options of an upload');
select is((api.create_upload_from('chosen', :'org', p_reuse_results => '{"max_age_days": 7}')::jsonb -> 'reuse_results'), '{"max_age_days": 7}', 'a draft of a table reuses results');
create temp view with_owner as select s.*, 'Kim'::text as owner, null::text as notes from sites s;
select api.create_batch_lookup_from('with_owner', :'org') ->> 'job_id' as owned \gset
select is((select source::jsonb - array(select column_name::text from information_schema.columns where table_name = 'sites' and table_schema = 'api') from api.items where job_id = :'owned' and position = 0),
          '{"owner": "Kim", "notes": ""}', 'further columns of a table are returned with the results');
select api.cancel_batch_lookup(:'org', :'owned');
delete from public.lookup_item_sources where job_id = :'owned';
select is((select (d ->> 'total_rows', d ->> 'valid_rows', d #>> '{columns,9,header}', d #>> '{columns,9,field}')::text from api.create_upload_from('with_owner', :'org') c, to_jsonb(c) d),
          '(2,2,owner,)', 'the rows of a table become a draft');
create temp view in_a_cell as
select s.reference_id, '301 Congress Ave, Austin, TX 78701'::text as address, 'RESIDENTIAL' as building_type, array[1] as device_ids from sites s;
select is(api.create_batch_lookup_from('in_a_cell', :'org', p_dry_run => true) ->> 'valid_items', '2', 'a whole address in a column address of text is split as in a file');
create temp view first_lines as
select s.reference_id, s.street_1::varchar(60) as address, s.city, s.state_or_province_code, s.postal_code, s.building_type, s.device_ids from sites s;
select is(api.create_batch_lookup_from('first_lines', :'org', p_dry_run => true) ->> 'valid_items', '2', 'a column address of text is the first line beside a city');
create temp view with_t as select s.*, 'seen'::text as t from sites s;
select is((select array_agg(r -> 0 order by n) from jsonb_array_elements(api.file_of_table('with_t') -> 'rows') with ordinality e (r, n) where n > 1),
          array['"site-1"', '"site-2"']::jsonb[], 'a table with a column named t is read like any other one');
create type pg_temp.pair as (a integer, b integer);
select throws_ok($$ select api.file_of_table('pair') $$, 'PT400', 'p_table must be the name of a table or view', 'a composite type is refused as no table');
create temp table without_columns () on commit drop;
select throws_ok($$ select api.create_batch_lookup_from('without_columns') $$, 'PT400', 'p_table must be the name of a table or view',
                 'a table without columns is refused as no table to look up');
update sites set device_ids = 'x' where reference_id = 'site-1';
select throws_ok(format($$ select api.create_batch_lookup_from('sites', %L) $$, :'org'), 'PT400', '1 item(s) failed validation', 'a bad row is refused as invalid');
select is(api.create_batch_lookup_from('sites', :'org', p_on_invalid => 'skip') ->> 'total_invalid', '1', 'bad rows of a table can be skipped');
delete from sites;
select throws_ok(format($$ select api.create_batch_lookup_from('sites', %L) $$, :'org'), 'PT400', 'A batch must have 1 to 10,000 items; this one has 0', 'an empty table is refused');

-- What a member of an organization gets from a query: its answer, or the SQLSTATE.
create function pg_temp.as_member(p_organization_id uuid, p_query text) returns text
language plpgsql as $$
declare
    v_answer text;
begin
    perform set_config('role', 'authenticated', true), set_config('request.jwt.claims', json_build_object('organization_id', p_organization_id)::text, true);
    execute p_query into v_answer;
    perform set_config('role', 'none', true), set_config('request.jwt.claims', '', true);
    return v_answer;
exception
    when others then return sqlstate;
end;
$$;
insert into sites values ('site-9', '301 Congress Ave', null, 'Austin', 'TX', '78701', 'US', 'RESIDENTIAL', '1');
grant select on sites to authenticated;
select is(pg_temp.as_member(:'org', $$ select api.create_batch_lookup_from('sites') ->> 'status' $$), 'pending', 'a member uploads a table without naming the organization');
select is(pg_temp.as_member(:'org', format($$ select api.create_batch_lookup_from('sites', %L) $$, :'other_org')), 'PT403', 'a member uploads for no other organization');
select is(pg_temp.as_member(:'org', $$ select api.create_batch_lookup_from('app.api_keys') $$), '42501', 'a member uploads no table that they may not read');
select is(pg_temp.as_member(:'org', 'select count(*) from api.jobs'), '7', 'a member sees the batches of the organization');
select is(pg_temp.as_member(:'org', format($$ select api.wait_for_batch(%L, '0 seconds') ->> 'status' $$, :'job')), 'pending', 'waiting ends when its time is over');
select is(pg_temp.as_member(:'other_org', format('select api.wait_for_batch(%L)', :'job')), 'PT404', 'other organizations find no such batch');

select pg_temp.look_up(:'org', 10, 200, :'answer');
select is(api.wait_for_batch(:'job') ->> 'status', 'completed', 'waiting ends when the batch ends');

-- Hints.
create function pg_temp.hint(p_role text, p_statement text) returns text
language plpgsql as $$
declare
    v_hint text;
begin
    perform set_config('role', p_role, true);
    begin
        execute p_statement;
    exception
        when others then get stacked diagnostics v_hint = pg_exception_hint;
    end;
    perform set_config('role', 'none', true);
    return v_hint;
end;
$$;
create temp view too_few as select reference_id, street_1, city, state_or_province_code, postal_code from sites;
select matches(pg_temp.hint('none', format($$ select api.create_batch_lookup_from('too_few', %L) $$, :'org')),
    '^The header has reference_id, .*postal_code\. Use a temporary view of the table to rename', 'the hint about missing columns of a table names a view, not a query string');
select is(pg_temp.hint('none', format('select api.get_batch_lookup(%L, %L)', :'org', :'org')), 'select organization_id, id, name from api.jobs lists them.',
    'the hint about a wrong id names a view that has the right one');
select is(pg_temp.hint('none', format('select api.rotate_webhook_secret(%L)', :'org')),
    'Set a url first: select api.set_webhook_config(organization, ''{"url": "https://..."}'').', 'hints for SQL users are in SQL');
select is(pg_temp.hint('batch_lookups_shell', format('select api.rotate_webhook_secret(%L)', :'org')), 'PUT /webhook-config with a url first.',
    'hints for callers of the API are about HTTP');

select * from finish();
rollback;
