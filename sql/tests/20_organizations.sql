begin;
select plan(10);

select api.create_organization('Acme') as org \gset
select is(api.create_organization('Acme'), :'org'::uuid, 'an organization is created once by its name');
select isnt(api.create_organization('Globex'), :'org'::uuid, 'another name is another organization');

select api.create_api_key(:'org', sha256('secret'), 'leap_live_', 'cret', 'first') as key \gset
select is(:'key'::json ->> 'organization_id', :'org'::text, 'a key belongs to its organization');
select unalike(:'key'::text, '%hash%', 'the hash is not answered');
select is(api.authenticate_api_key(sha256('secret')) ->> 'organization_id', :'org'::text, 'a key is known by its hash');
select isnt((select last_used_at from app.api_keys where name = 'first'), null, 'its use is noted');
select throws_ok($$ select api.authenticate_api_key(sha256('other')) $$, 'PT401', 'Invalid API key', 'another key is unknown');

update app.api_keys set expires_at = app.clock() - interval '1 second';
select throws_ok($$ select api.authenticate_api_key(sha256('secret')) $$, 'PT401', 'Invalid API key', 'an expired key is refused');
select throws_ok(
    format($$ select api.create_api_key(%L, sha256('x'), 'leap_live_', 'xxxx', 'x', array['jobs:read', 'fly']) $$, :'org'),
    'PT400', 'Unknown scopes: fly', 'an unknown scope is refused');
select throws_ok(
    $$ select api.create_api_key(gen_random_uuid(), sha256('x'), 'leap_live_', 'xxxx') $$,
    'PT404', 'Organization not found', 'a key needs an organization');

select * from finish();
rollback;
