begin;
select plan(8);
\ir fixtures.psql
select api.create_api_key(:'org', sha256('key'), 'leap_live_', 'abcd', 'CRM', array['jobs:read'], '2100-05-01Z') ->> 'id' as key \gset

select is(
    api.get_me(:'org', array['jobs:read'], :'key')::jsonb,
    jsonb_build_object(
        'organization', jsonb_build_object('id', :'org', 'name', 'Acme'),
        'caller', jsonb_build_object('type', 'api_key', 'id', :'key', 'name', 'CRM', 'expires_at', '2100-05-01T00:00:00.000Z'),
        'scopes', '["jobs:read"]'::jsonb,
        'limits', jsonb_build_object('requests_per_minute', 120000, 'items_per_batch', 10000, 'open_items', 200000)),
    'a key learns its organization, its name, its scopes and its limits');
select is(api.get_me(:'org', '{}', 'user_1') #>> '{caller,type}', 'user', 'an actor that is not a key of the organization is a user');
select is(api.get_me(:'other_org', '{}', :'key') #>> '{caller,name}', null, 'a key of another organization is not described');
select is(api.get_me(:'org', '{}', '') -> 'caller' ->> 'type', 'service', 'a call without a name is the operator''s');
select throws_ok($$ select api.get_me('00000000-0000-0000-0000-000000000000') $$, 'PT404', 'Organization not found', 'an organization must be there');

set local role authenticated;
select set_config('request.jwt.claims', json_build_object('sub', 'user_7', 'organization_id', :'org')::text, true);
select api.get_me() as mine, api.get_me(p_caller => :'key') as disguised \gset
reset role;
select is(:'mine'::jsonb -> 'caller', '{"type": "user", "id": "user_7", "name": null, "expires_at": null}', 'a member is described by the claims');
select is(:'disguised'::jsonb -> 'caller', :'mine'::jsonb -> 'caller', 'a member learns nothing about a key whose id it gives');
select is(jsonb_array_length(:'mine'::jsonb -> 'scopes'), 10, 'a member has the scopes of the claims');

select * from finish();
rollback;
