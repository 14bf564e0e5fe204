begin;
select plan(31);
\ir fixtures.psql
select pg_temp.turn_clock('2026-11-24 12:00:00+00');
select pg_temp.submit(:'org', 1) as job \gset
select id as report from public.incentive_reports where job_id = :'job' \gset
select pg_temp.look_up(:'org', 1, 200, :'answer');

select api.share_incentive_report(:'org', :'report', sha256('one'), p_created_by => 'user_1') as share \gset
select is(
    :'share'::jsonb - 'id',
    jsonb_build_object('report_id', :'report', 'created_by', 'user_1', 'created_at', '2026-11-24T12:00:00.000Z', 'expires_at', '2026-12-24T12:00:00.000Z'),
    'a link works for 30 days by default');
select pg_temp.turn_clock('2026-11-24 12:00:01+00');
select is(
    api.share_incentive_report(:'org', :'report', sha256('two'), '{"expires_in_days": 1}') ->> 'expires_at', '2026-11-25T12:00:01.000Z', 'a link may end sooner');
select is(api.open_shared_report(sha256('one'))::jsonb, jsonb_build_object('organization_id', :'org', 'report_id', :'report'), 'the hash of its token leads to the report');
select is(api.open_shared_report(sha256('three'))::text, null, 'an unknown token leads to no report');
select is(api.open_shared_report(null)::text, null, 'a missing token leads to no report');
select is(
    array(select s ->> 'created_by' from json_array_elements(api.list_incentive_report_shares(:'org', :'report') -> 'shares') s), array[null, 'user_1'],
    'links are listed, the newest first');
select ok(not api.list_incentive_report_shares(:'org', :'report')::text ~ 'token|hash', 'a list of links has no secret');

select is(api.share_incentive_report(:'org', :'report', sha256('null'), '{"expires_in_days": null}') ->> 'expires_at', '2026-12-24T12:00:01.000Z', 'a link works for 30 days if told null');
select is((select details from app.audit_events where action = 'report.shared' order by id limit 1), jsonb_build_object('report_id', :'report', 'expires_at', '2026-12-24T12:00:00.000Z'), 'the trail has which report was shared, and until when');
delete from app.report_shares where token_hash = sha256('null');
select throws_ok(format($$ select api.share_incentive_report(%L, %L, sha256('x'), %L) $$, :'org', :'report', r), 'PT400', m, 'a wrong body is refused: ' || r)
  from (values ('{"expires_in_days": 0}', 'expires_in_days must be a whole number from 1 to 365'),
               ('{"expires_in_days": 366}', 'expires_in_days must be a whole number from 1 to 365'),
               ('{"expires_in_days": 1.5}', 'expires_in_days must be a whole number from 1 to 365'),
               ('{"expires_in_days": "7"}', 'expires_in_days must be a whole number from 1 to 365'),
               ('{"days": 7}', 'Unknown fields: days'),
               ('[]', 'The body must be a JSON object')) v (r, m);
select throws_ok(format($$ select api.share_incentive_report(%L, %L, '\x00') $$, :'org', :'report'), 'PT400',
    'p_token_hash must be the SHA-256 of a token of your own, such as sha256(''...'')', 'an invalid hash is refused');
select throws_ok(format($$ select api.share_incentive_report(%L, %L, sha256('x')) $$, :'other_org', :'report'), 'PT404', 'Report not found', 'nobody else can share a report');
select throws_ok(format($$ select api.list_incentive_report_shares(%L, %L) $$, :'other_org', :'report'), 'PT404', 'Report not found', 'nobody else can list its links');
select throws_ok(format($$ select api.revoke_incentive_report_share(%L, %L, %L) $$, :'other_org', :'report', :'share'::json ->> 'id'), 'PT404', 'Report not found',
    'nobody else can revoke them');

select set_config('request.jwt.claims', json_build_object('sub', 'user_7', 'organization_id', :'org')::text, true) as claims \gset
set local role authenticated;
select api.share_incentive_report(p_report_id => :'report', p_token_hash => sha256('four'), p_created_by => 'user_1') as of_member \gset
reset role;
select is(:'of_member'::json ->> 'created_by', 'user_7', 'a link of a member is created by the user of the claims, whatever name is given');
delete from app.report_shares where token_hash = sha256('four');

-- The end of a link
select pg_temp.turn_clock('2026-11-25 12:00:01+00');
select is(api.open_shared_report(sha256('two'))::text, null, 'an expired link leads to no report');
select is(json_array_length(api.list_incentive_report_shares(:'org', :'report') -> 'shares'), 1, 'an expired link is not listed');
select throws_ok(format($$ select api.revoke_incentive_report_share(%L, %L, %L) $$, :'org', :'report', (select id from app.report_shares where token_hash = sha256('two'))), 'PT404', 'Link not found', 'an expired link is not revoked');
select pg_temp.submit(:'org', 1) as other_job \gset
select id as other_report from public.incentive_reports where job_id = :'other_job' \gset
select api.share_incentive_report(:'org', :'report', sha256('five')) as five, api.share_incentive_report(:'org', :'other_report', sha256('six')) as six \gset
select throws_ok(format($$ select api.revoke_incentive_report_share(%L, %L, %L) $$, :'org', :'report', :'six'::json ->> 'id'), 'PT404', 'Link not found', 'a link is revoked by its own report');
select api.revoke_incentive_report_share(:'org', :'report', (:'share'::json ->> 'id')::uuid, 'user_1');
select is(
    array(select s ->> 'id' from unnest(array[:'report', :'other_report']::uuid[]) r (id) cross join json_array_elements(api.list_incentive_report_shares(:'org', r.id) -> 'shares') s),
    array[:'five'::json ->> 'id', :'six'::json ->> 'id'], 'revoking a link keeps the others, and each report lists its own');
select api.revoke_incentive_report_share(:'org', :'report', (:'five'::json ->> 'id')::uuid);
select is((select string_agg(action || ' ' || target_id, ', ' order by id) from app.audit_events where target_id = :'share'::json ->> 'id'),
    format('report.shared %1$s, report.share_revoked %1$s', :'share'::json ->> 'id'), 'the audit trail has when a report was shared and when that was revoked');
select is(api.open_shared_report(sha256('one'))::text, null, 'a revoked link leads to no report');
select throws_ok(format($$ select api.revoke_incentive_report_share(%L, %L, %L) $$, :'org', :'report', :'share'::json ->> 'id'), 'PT404', 'Link not found', 'a link can be revoked only once');

select api.share_incentive_report(:'org', :'report', sha256(n::text::bytea)) from generate_series(1, 100) n;
select throws_ok(format($$ select api.share_incentive_report(%L, %L, sha256('x')) $$, :'org', :'report'), 'PT409', 'The report already has 100 valid links', 'the number of links is limited, not counting expired ones');
delete from app.report_shares where report_id = :'report';
select is(api.list_incentive_report_shares(:'org', :'report')::text, '{"shares" : []}', 'a report may have no links');
select api.share_incentive_report(:'org', :'report', sha256('last'));
select api.delete_incentive_report(:'org', :'report');
select is(array(select report_id from app.report_shares), array[:'other_report'::uuid], 'the links of a report are deleted with it');

select * from finish();
rollback;
