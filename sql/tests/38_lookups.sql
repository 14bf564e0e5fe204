begin;
select plan(18);
\ir lookups.psql

-- Applications
select throws_ok($$ select pg_temp.lookup('[9001]', '{"create_application": true}') $$, 'PT400', 'Applications need the organization''s company, which is not set', 'an application needs a company');
select is_empty('select from public.applications', 'nothing is filed for an organization without a company');
savepoint before;
select is(api.lookup_incentives(:'org', pg_temp.request('[9001]', '{"create_application": true}'), 'https://connect.example.com', true)::jsonb ? 'connect_url',
    false, 'the lookup of a batch item needs no company and has no connect_url');
rollback to before;
select api.update_organization(:'org', '{"company": "acme"}') as profile \gset
select is(
    api.lookup_incentives(:'org', pg_temp.request('[9001]', '{"create_application": true}'), 'https://connect.example.com/') ->> 'connect_url',
    'https://connect.example.com/acme/refId/home-1', 'a lookup returns the URL of its application');
select is(pg_temp.lookup('[9001]', '{"create_application": true}') ? 'connect_url', false, 'a lookup without a base URL returns no connect_url');
select results_eq(
    'select reference_id, program_id, program_name, application_status, total_incentive from public.applications',
    $$ values ('home-1', 'wy-rebates', 'Plains Rebates', 'not_started', 250.00) $$, 'every eligible program has one application, however often it is looked up');
select pg_temp.lookup('[9001, 9001]', '{"create_application": true}') as twice \gset
select is((select total_incentive from public.applications), 500.00, 'the amount of an application is that of the last lookup');
select pg_temp.lookup('[9001]') as without \gset
select is((select total_incentive from public.applications), 500.00, 'a lookup that asks for no application changes none');

-- The log
select results_eq(
    $$ select distinct operation_type, status, reference_id, called_at = app.clock() from app.incentive_calls $$,
    $$ values ('lookup', 200, 'home-1', true) $$, 'every call is logged');
select isnt_empty(format('select from app.incentive_calls where response::jsonb = %L', :'without'), 'a call is logged with its answer');
select api.log_refused_lookup(:'org', '{"reference_id": "home-9", "operation_type": "refresh"}', 404, '{"error": "No"}') as logged \gset
select is((select operation_type || ' ' || status || ' ' || response from app.incentive_calls where reference_id = 'home-9'), 'refresh 404 {"error": "No"}', 'a refused call is logged');
select lives_ok($$ select api.log_refused_lookup(gen_random_uuid(), '{}', 404, '{}') $$, 'a refused call of an unknown organization is not logged');
select pg_temp.turn_clock('2026-12-23 12:00:00+00');
select is(app.prune_incentive_calls(:'org', app.clock()), 0, 'calls are kept for 30 days');
select pg_temp.turn_clock('2026-12-24 12:00:01+00');
select isnt(app.prune_incentive_calls(:'org', app.clock()), 0, 'calls older than 30 days are pruned');
select is_empty('select from app.incentive_calls', 'no call older than 30 days is left');

-- Webhooks
select api.set_webhook_config(:'org', '{"url": "https://example.com/", "field_names": ["deal"]}') as config \gset
select api.lookup_incentives(:'org', pg_temp.request('[9001]', '{"webhook_custom_fields": {"deal": 7}}'), p_for_item => true) as item \gset
select is_empty('select from app.webhook_deliveries', 'the lookup of a batch item sends its webhook when the item is recorded');
select api.lookup_incentives(:'org', pg_temp.request('[9001]', '{"webhook_custom_fields": {"deal": 7}}'), p_for_item => null) as single \gset
select is((select count(*)::integer from app.webhook_deliveries where event = 'lookup.completed'), 1, 'a single lookup sends its webhook immediately');
select is(
    (select (d.data -> 0 -> 'result') = :'single'::jsonb and d.data #>> '{0,webhook_custom_fields,deal}' = '7' from app.webhook_deliveries d), true,
    'the webhook of a single lookup has its result and custom fields');

select * from finish();
rollback;
