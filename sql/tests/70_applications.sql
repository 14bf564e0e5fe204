begin;
select plan(28);
\ir fixtures.psql

-- Filed by batch items
select api.create_batch_lookup(:'org', pg_temp.items(2, '{"create_application": true}')) as batch \gset
select pg_temp.look_up(:'org', 2, 500);
select is_empty('select 1 from public.applications union all select 1 from app.customers', 'a failed lookup files none, and creates no customer');
update public.lookup_queue_items set retry_at = now() - interval '1 second';
select job_id, position, lease_token from api.claim_lookups(:'org', 'slow worker', 1) limit 1 \gset
select pg_temp.record(:'org', array[:'job_id'::uuid], array[:position], array[:'lease_token'::uuid], 200, :'answer')
  from generate_series(1, 2);
select pg_temp.look_up(:'org', 2, 200, :'answer');
select results_eq(
    'select reference_id, program_id, total_incentive from public.applications order by 1, 2',
    $$ values ('site-1', '7', 800.00), ('site-1', '9', 400.50), ('site-2', '7', 800.00), ('site-2', '9', 400.50) $$,
    'items that were retried or recorded twice file one for each eligible program');
select pg_temp.submit(:'org', 3) as plain_job \gset
select pg_temp.look_up(:'org', 3, 200, :'answer');
select is((select count(*)::integer from public.applications), 4, 'items that do not request an application file none');

savepoint again;
update public.applications
   set application_status = case program_id when '7' then 'submitted' else 'rejected' end, submitted_at = '2026-01-01Z', decided_at = case program_id when '9' then '2026-01-02Z'::timestamptz end
 where reference_id = 'site-1';
update public.applications set application_status = 'completed', updated_at = '2026-01-01Z' where reference_id = 'site-2';
select app.file_applications(:'org', customer_id, reference_id, replace(:'answer', '400.50', '500.50')::jsonb, '2026-11-24Z') from (select distinct customer_id, reference_id from public.applications) c;
select results_eq(
    $$ select reference_id, program_id, total_incentive, updated_at = '2026-11-24Z' from public.applications order by 1, 2 $$,
    $$ values ('site-1', '7', 800.00, false), ('site-1', '9', 400.50, false), ('site-2', '7', 800.00, false), ('site-2', '9', 500.50, true) $$,
    'filing again changes what has not been submitted, and only where it differs');
rollback to again;

-- Read
select is(json_array_length(api.list_applications(:'org') -> 'applications'), 4, 'an organization lists its applications');
select is(array(select a ->> 'id' from json_array_elements(api.list_applications(:'org') -> 'applications') a), array(select p.id::text from public.applications p order by p.id desc),
    'applications are listed newest first');
select is(api.list_applications(:'other_org')::jsonb, '{"applications": [], "total": 0, "limit": 50, "offset": 0, "next_cursor": null}', 'an organization does not list another''s applications');
select results_eq(format($$ select l ->> 'total', array(select a ->> 'reference_id' from json_array_elements(l -> 'applications') a) from api.list_applications(%L, 'site-2') l $$, :'org'),
    $$ values ('2', '{site-2,site-2}'::text[]) $$, 'applications are found by reference_id');
select is(json_array_length(api.list_applications(:'org', null, 'approved') -> 'applications'), 0, 'applications are found by status');
with recursive page as (
    select api.list_applications(:'org', p_limit => 1) as body
     union all
    select api.list_applications(:'org', p_limit => 1, p_cursor => body ->> 'next_cursor') from page where body ->> 'next_cursor' is not null
)
select results_eq(
    (select format('select (%L::bigint[])', array_agg((body #>> '{applications,0,id}')::bigint)) from page),
    'select array_agg(id order by id desc) from public.applications', 'applications are paged, newest first');
select throws_ok(format($$ select api.list_applications(%L, p_cursor => 'x') $$, :'org'), 'PT400', 'cursor does not belong to this list and sort order', 'an invalid cursor is refused');

select is(array(select a ->> 'total_incentive' from json_array_elements(api.list_applications(:'org', 'site-2') -> 'applications') a), '{400.50,800.00}', 'an application has its amount in dollars and cents');

-- Moved on
select id as application from public.applications where reference_id = 'site-1' and program_id = '7' \gset
select throws_ok(format($$ select api.get_application(%L, %s) $$, :'other_org', :'application'), 'PT404', 'Application not found', 'another organization''s application is not found');
select throws_ok(format($$ select api.update_application(%L, %s, '{"application_status": "in_progress"}') $$, :'other_org', :'application'), 'PT404', 'Application not found', 'another organization''s application cannot be changed');
select is(array(select api.get_application(:'org', id) ->> 'id' from public.applications order by id), array(select a.id::text from public.applications a order by a.id), 'an application is found by its id');
select is(api.update_application(:'org', :application, '{"application_status": "in_progress"}', true) ->> 'application_status', 'in_progress', 'a dry run tells what would be');
select is(api.get_application(:'org', :application) ->> 'application_status', 'not_started', 'a dry run changes nothing');
select throws_ok(format($$ select api.update_application(%L, %s, '{"application_status": "submitted"}', true) $$, :'org', :'application'), 'PT409', 'An application cannot go from not_started to submitted', 'a dry run refuses a status that is not next');
select is(
    array(select api.update_application(:'org', :application, jsonb_build_object('application_status', s), case when n > 3 then false end) ->> 'application_status'
            from unnest(array['in_progress', 'in_progress', 'awaiting_partner', 'completed', 'submitted', 'approved']) with ordinality s (s, n) order by n),
    array['in_progress', 'in_progress', 'awaiting_partner', 'completed', 'submitted', 'approved'], 'an application goes its way, step by step');
select throws_ok(format($$ select api.update_application(%L, %s, '{"application_status": "rejected"}') $$, :'org', :'application'), 'PT409', 'An application cannot go from approved to rejected', 'a decided application does not change');
select throws_ok(format($$ select api.update_application(%L, %s, %L) $$, :'org', :'application', c), 'PT400', message, format('a change is not %s', c))
  from (values ('{}', 'The body must be an object with application_status'), ('[]', 'The body must be an object with application_status'),
               ('{"application_status": null}', 'The body must be an object with application_status'),
               ('{"application_status": "lost"}', 'application_status must be one of not_started, in_progress, awaiting_partner, completed, submitted, approved, rejected'),
               ('{"application_status": "approved", "id": 5}', 'The body must be an object with application_status')) v (c, message);

-- Looked up again
select app.file_applications(organization_id, customer_id, reference_id, jsonb_set(:'answer', '{incentives,by_program,0,total_incentive}', '5'), now()) as refiled
  from (select distinct organization_id, customer_id, reference_id from public.applications) a;
select is((select total_incentive from public.applications where id = :application), 800.00, 'a decided application is not changed by a lookup');
select is(array(select program_id || ' ' || total_incentive from public.applications where reference_id = 'site-2' order by program_id), array['7 5.00', '9 400.50'], 'an open application has the amount of the latest lookup');

-- An answer with fewer members than ours
select api.create_batch_lookup(:'other_org', pg_temp.items(1, '{"create_application": true}')) as sparse \gset
select pg_temp.look_up(:'other_org', 1, 200, '{"incentives": {"total_incentive_amount": 500, "by_program": [
    {"program_id": "a", "total_incentive": 500}, {"program_id": "b", "eligible_combinations": 1}, {"program_id": "c", "total_incentive": 0}]}}');
select results_eq(format('select program_id, total_incentive from public.applications where organization_id = %L order by 1', :'other_org'),
    $$ values ('a', 500.00), ('b', 0.00) $$, 'the programs of a report are those of the applications, whichever of their numbers an answer lacks');

select * from finish();
rollback;
