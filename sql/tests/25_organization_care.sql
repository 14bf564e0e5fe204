begin;
select plan(31);
\ir fixtures.psql

select results_eq('select name, api_keys, open_jobs, open_items, last_upload_at from api.list_organizations()',
    $$ values ('Acme', 0, 0, 0, null::timestamptz), ('Globex', 0, 0, 0, null) $$, 'operators see all organizations');
select pg_temp.submit(:'org', 3) as job \gset
select results_eq('select name, open_jobs, open_items, last_upload_at is not null from api.list_organizations()',
    $$ values ('Acme', 1, 3, true), ('Globex', 0, 0, false) $$, 'operators see who has open work');

select api.rename_organization(:'org', 'Initech');
select is((select name from app.organizations where id = :'org'), 'Initech', 'an organization can be renamed');
select throws_ok(format($$ select api.rename_organization(%L, 'Globex') $$, :'org'), 'PT409', 'Another organization has this name', 'a name belongs to one organization');
select throws_ok(format($$ select api.rename_organization(%L, 'clerk:x') $$, :'org'), 'PT409', 'Names that begin with clerk: are reserved for organizations created through Clerk', 'an operator cannot give a name that is reserved for Clerk');
select throws_ok(format($$ select api.rename_organization(%L, ' ') $$, :'org'), 'PT400', 'name must be a string of 1 to 200 characters', 'a name is not empty');
select throws_ok(format($$ select api.rename_organization(%L, 'x') $$, gen_random_uuid()), 'PT404', 'Organization not found', 'an unknown organization cannot be renamed');

select set_eq(
    'select unnest(app.tables_of_organizations())',
    $$ select relnamespace::regnamespace || '.' || relname
         from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'organization_id'
        where c.relkind in ('r', 'p') and c.relnamespace::regnamespace::text in ('public', 'app')
          and relname not in ('audit_events', 'batch_lookup_jobs', 'lookup_queue_items', 'lookup_job_columns', 'lookup_item_sources', 'batch_lookup_job_labels', 'incentive_reports', 'incentive_report_sites',
                              'incentive_report_site_programs') $$,
    'the deletion of an organization covers every table with its rows');

select app.create_clerk_organization('org_former', 'former') as clerk \gset
select is_empty('select * from api.list_relinked_organizations()', 'an organization keeps the link that its id stands for');
update app.organizations set clerk_organization_id = 'org_later' where id = :'clerk';
select results_eq('select name, clerk_organization_id from api.list_relinked_organizations()', $$ values ('clerk:former', 'org_later') $$, 'an organization that was linked to another one before this was refused is listed');
delete from app.organizations where id = :'clerk';

-- Rows in every table.
select pg_temp.submit(:'other_org', 2) as other_job \gset
select pg_temp.look_up(:'org', 1, 200, :'answer');
select results_eq('select name, open_jobs, open_items from api.list_organizations()', $$ values ('Globex', 1, 2), ('Initech', 1, 2) $$, 'operators see how many items have not been looked up yet');
savepoint before;
select api.cancel_batch_lookup(:'other_org', pg_temp.submit(:'other_org', 1)) as cancelled,
       array_agg(api.create_api_key(:'other_org', sha256(k::bytea), 'leap_live_', 'xxxx', k)) as keys from unnest(array['usable', 'lasting', 'revoked', 'expired', 'ending']) k \gset
update app.api_keys set revoked_at = now() where name = 'revoked';
select app.clock() as now \gset
update app.api_keys set expires_at = :'now'::timestamptz - interval '1 second' where name = 'expired';
update app.api_keys set expires_at = :'now'::timestamptz + interval '1 hour' where name = 'lasting';
select pg_temp.turn_clock(app.clock()) is null as stopped \gset
select app.clock() as now \gset
update app.api_keys set expires_at = :'now' where name = 'ending';
select api.create_api_key(:'org', sha256('of the other'), 'leap_live_', 'xxxx') is not null as created \gset
update public.batch_lookup_jobs set created_at = '2026-01-01Z' where organization_id = :'other_org' and id = :'other_job';
select app.create_clerk_organization('org_2b', 'b') as b, app.create_clerk_organization('org_2a', 'a') as a \gset
update app.organizations set clerk_organization_id = clerk_organization_id || 'later' where id in (:'a', :'b');
select array(select name from api.list_organizations()) as names, array(select name from api.list_relinked_organizations()) as relinked \gset
select array[api_keys, open_jobs] as listed, last_upload_at > '2026-01-01Z' as is_last from api.list_organizations() where name = 'Globex' \gset
select app.delete_rows_of_organization(:'other_org', 2) as deleted \gset
rollback to before;
select is(:'listed'::integer[], '{2,1}', 'only keys that can be used are counted, and only jobs that are open');
select is(array[:'names', :'relinked'], '{"{Globex,Initech,clerk:a,clerk:b}","{clerk:a,clerk:b}"}', 'operators see organizations in the order of their names');
select ok(:'is_last', 'the last upload is the newest');
select is(:deleted, 2, 'a step deletes as many rows as it may, whatever their tables');
select app.file_applications(:'org', app.customer_id(:'org', 'site-1', now()), 'site-1', :'answer', now());
select api.update_organization(:'org', '{"company": "acme"}');
select throws_ok(format('select api.delete_organization(%L)', :'org'), 'PT409', 'The organization has open work: 1 batch', 'an organization with open work is not deleted');
select throws_ok(format('select api.delete_organization(%L, null)', :'org'), 'PT409', 'The organization has open work: 1 batch', 'null does not force the deletion of an organization');
select throws_ok(format('select api.delete_organization(%L)', gen_random_uuid()), 'PT404', 'Organization not found', 'an unknown organization cannot be deleted');

-- With a lookup under way.
select count(*) from api.claim_lookups(:'org', 'w', 1) \gset claimed_
select count(api.create_api_key(o.id, sha256(o.name::bytea), 'leap_live_', 'xxxx')) from app.organizations o \gset created_
select is(api.delete_organization(:'org', true)::jsonb - 'organization_id', '{"deleted": false, "remaining_jobs": 1}', 'the deletion waits for a lookup that is under way');
select results_eq('select o.name, count(k.id)::integer from app.organizations o left join app.api_keys k on k.organization_id = o.id group by 1 order by 1', $$ values ('Globex', 1), ('Initech', 0) $$,
    'the keys of other organizations stay when one is deleted');
select pg_temp.turn_clock(now() + interval '1 hour');
select count(app.run_maintenance()) from generate_series(1, 2) \gset maintained_
select is(api.delete_organization(:'org')::jsonb - 'organization_id', '{"deleted": true, "remaining_jobs": 0}', 'a call deletes what has ended since');
select is_empty(format($$ select from app.organizations where id = %L $$, :'org'), 'a deleted organization is gone');
select is((select count(*) from public.incentive_report_sites s join app.organizations o on o.id = s.organization_id)::integer,
    (select count(*) from public.incentive_report_sites)::integer, 'a deleted organization leaves no sites');
select is(api.get_batch_lookup(:'other_org', :'other_job') ->> 'status', 'pending', 'another organization keeps its work');
select is_empty('select * from api.check_invariants()', 'what remains is complete');

-- In steps.
select api.create_organization('Busy') as busy \gset
select api.create_api_key(:'busy', sha256('busy'), 'leap_live_', 'busy') is not null as key \gset
select count(pg_temp.submit(:'busy', 1)) from generate_series(1, 3) \gset submitted_
create or replace function app.step_ends_at() returns timestamptz language sql return '-infinity'::timestamptz;
select api.delete_organization(:'busy', true)::jsonb - 'organization_id' as step \gset
select is(array[:'step', (select string_agg(status, ' ') from public.batch_lookup_jobs where organization_id = :'busy')],
          array['{"deleted": false, "remaining_jobs": 2}', 'pending pending'], 'a call cancels only as many open batches as its time allows');
select throws_ok($$ select api.authenticate_api_key(sha256('busy')) $$, 'PT401', 'Invalid API key', 'the keys of an organization stop working with the first call');
select api.delete_organization(:'busy', true) as step \gset
select is(api.delete_organization(:'busy', true) ->> 'deleted', 'true', 'the following calls continue until everything is deleted');


-- More reports than one call deletes, whose jobs are gone.
select api.create_organization('Read') as read \gset
select pg_temp.submit(:'read', 1) as job \gset
select pg_temp.look_up(:'read', 1) as looked_up \gset
insert into public.incentive_reports
select (jsonb_populate_record(r, jsonb_build_object('id', app.uuid_v7(r.created_at), 'job_id', null))).* from public.incentive_reports r, generate_series(1, 1000) where r.organization_id = :'read';
select is(array[api.delete_organization(:'read') ->> 'deleted', api.delete_organization(:'read') ->> 'deleted'], '{false,true}', 'an organization with very many reports is deleted by several calls');

-- More other rows than one call deletes.
select api.create_organization('Full') as full \gset
insert into app.idempotency_keys (organization_id, route, key, fingerprint, created_at)
select organization_id, 'POST /x', n::text, '', created_at from (select :'full'::uuid as organization_id, n, now() as created_at from generate_series(1, 10000) n) k;
select api.delete_organization(:'full') ->> 'deleted' as first \gset
select count(*) as kept from app.organizations where id = :'full' \gset
select api.delete_organization(:'full') ->> 'deleted' as second \gset
select is(array[:'first', :'kept', :'second'], '{false,1,true}', 'an organization is deleted only when none of its rows is left');

-- What the deletion has done.
create function pg_temp.looked_up() returns numeric
language sql as $$
    select (select coalesce(sum(items), 0) from app.work_totals where kind = 'lookup') + (select coalesce(sum(items), 0) from app.work_minutes where kind = 'lookup' and recorder <> 0)
$$;
select api.create_organization('Done') as done \gset
select pg_temp.submit(:'done', 2) as job, pg_temp.looked_up() as before \gset
select pg_temp.look_up(:'done', 2) as looked_up \gset
select count(api.delete_organization(:'done')) from generate_series(1, 1) \gset deleted_
select is(array[pg_temp.looked_up() - :before, (select count(*) from app.organizations where id = :'done')], '{2,0}', 'the lookups of a deleted organization still count in the totals');

select * from finish();
rollback;
