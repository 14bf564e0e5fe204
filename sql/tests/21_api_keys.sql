begin;
select plan(67);

select api.create_organization('Acme') as org \gset
select api.create_organization('Globex') as other_org \gset
select api.create_api_key(:'org', sha256('secret'), 'leap_live_', 'cret', 'first') as key \gset
select is(:'key'::json ->> 'organization_id', :'org'::text, 'a key belongs to its organization');
select unalike(:'key'::text, '%hash%', 'the hash is not returned');
select is(api.authenticate_api_key(sha256('secret')) ->> 'organization_id', :'org'::text, 'a key is recognized by its hash');
select is((select count(*)::integer from app.api_key_uses where organization_id = :'org'), 1, 'the use of a key is noted');
update app.api_key_uses set used_at = '2020-01-01Z';
select isnt(api.authenticate_api_key(sha256('secret')) ->> 'api_key_id', null, 'a key can be used again');
select isnt((select used_at from app.api_key_uses), '2020-01-01Z', 'the latest use of a key is noted');
select throws_ok($$ select api.authenticate_api_key(sha256('other')) $$, 'PT401', 'Invalid API key', 'another key is unknown');

update app.api_keys set expires_at = now() - interval '1 second';
select throws_ok($$ select api.authenticate_api_key(sha256('secret')) $$, 'PT401', 'Invalid API key', 'an expired key is refused');
select throws_ok(
    format($$ select api.create_api_key(%L, sha256('x'), 'leap_live_', 'xxxx', 'x', array['jobs:read', 'fly']) $$, :'org'),
    'PT400', 'Unknown scopes: fly', 'an unknown scope is refused');
select throws_ok(format($$ select api.create_api_key(%L, %s, %s, %s, p_expires_at => %s) $$, :'org', hash, prefix, last_four, expires_at), 'PT400', message, 'a key is not created with ' || description)
  from (values ('null', '''leap_live_''', '''xxxx''', 'null', 'p_key_hash must be the HMAC-SHA256 of the key, which python -m pyshell keys create makes', 'no hash'),
               ('''\x00''', '''leap_live_''', '''xxxx''', 'null', 'p_key_hash must be the HMAC-SHA256 of the key, which python -m pyshell keys create makes', 'a hash that is too short'),
               ('sha256(''x'')', 'null', '''xxxx''', 'null', 'p_prefix must be one of leap_live_, leap_test_', 'no prefix'),
               ('sha256(''x'')', '''leap_dead_''', '''xxxx''', 'null', 'p_prefix must be one of leap_live_, leap_test_', 'an unknown prefix'),
               ('sha256(''x'')', '''leap_live_''', '''xxx''', 'null', 'p_last_four must be the last four characters of the key', 'three last characters'),
               ('sha256(''x'')', '''leap_live_''', '''xxxx''', 'now()', 'expires_at must be in the future', 'an expiry that has passed')) v (hash, prefix, last_four, expires_at, message, description);
select throws_ok(
    $$ select api.create_api_key(gen_random_uuid(), sha256('x'), 'leap_live_', 'xxxx') $$,
    'PT404', 'Organization not found', 'a key needs an organization');

-- Limits
update app.api_keys set expires_at = null, allowed_networks = '{10.0.0.0/8}';
select throws_ok($$ select api.authenticate_api_key(sha256('secret')) $$, 'PT403', 'This API key may not be used from this address', 'a key with networks is refused without an address');
select throws_ok($$ select api.authenticate_api_key(sha256('secret'), '192.0.2.1') $$, 'PT403', 'This API key may not be used from this address', 'a key with networks is refused from another network');
select is(api.authenticate_api_key(sha256('secret'), '10.1.2.3') ->> 'organization_id', :'org'::text, 'a key with networks is accepted from its own');
select throws_ok(
    format($$ select api.create_api_key(%L, sha256('x'), 'leap_live_', 'xxxx', p_scopes => '{jobs:write}', p_granted_scopes => '{jobs:read}') $$, :'org'),
    'PT403', 'You cannot manage keys with scopes that you lack: jobs:write', 'nobody grants a scope that they lack');
select throws_ok(
    format($$ select api.request_api_key(%L, sha256('x'), 'leap_live_', 'xxxx', '{"nome": "x"}', '{jobs:read}') $$, :'org'),
    'PT400', 'Unknown fields: nome', 'an unknown option is refused');
select is(
    (api.request_api_key(:'org', sha256('y'), 'leap_test_', 'yyyy', '{"name": "y", "allowed_networks": ["192.0.2.9/24"], "scopes": ["jobs:read"]}', '{jobs:read,jobs:write}')
        ::jsonb - array['id', 'organization_id', 'created_at']),
    '{"name": "y", "prefix": "leap_test_", "last_four": "yyyy", "scopes": ["jobs:read"], "allowed_networks": ["192.0.2.0/24"],
      "expires_at": null, "last_used_at": null, "revoked_at": null, "replaced_by": null, "created_by": null}',
    'a key is created as requested');
select is((app.check_key_limits(:'org', null, null, '{::ffff:192.0.2.9,::ffff:c000:0200/120,2001:db8::1,::/0}')).p_networks,
    '{192.0.2.9,192.0.2.0/24,2001:db8::1,::/0}', 'IPv4 networks written as IPv6 are stored as IPv4');

-- What a key makes
select api.create_api_key(:'org', sha256('maker'), 'leap_live_', 'aker', 'maker', p_expires_at => '2100-01-01Z', p_allowed_networks => '{203.0.113.0/24}') ->> 'id' as maker \gset
select api.create_api_key(:'org', sha256('made'), 'leap_live_', 'made', 'made', p_created_by => :'maker') as made \gset
select is(array[:'made'::json ->> 'expires_at', :'made'::json #>> '{allowed_networks,0}', :'made'::json ->> 'created_by'],
    array['2100-01-01T00:00:00.000Z', '203.0.113.0/24', :'maker'], 'a key creates keys with its own limits, and they name their creator');
select lives_ok(format($$ select api.create_api_key(%L, sha256('less'), 'leap_live_', 'less', 'less', p_expires_at => '2099-01-01Z', p_allowed_networks => '{203.0.113.7/32}', p_created_by => %L) $$,
    :'org', :'made'::json ->> 'id'), 'a key creates keys with stricter limits');
select throws_ok(format($$ select api.create_api_key(%L, sha256('x'), 'leap_live_', 'xxxx', %s, p_created_by => %L) $$, :'org', o, :'maker'), 'PT403',
    'A key can create only keys that expire no later and allow no other networks than its own', 'a key makes none with ' || o)
  from unnest(array['p_expires_at => ''2100-01-02Z''', 'p_allowed_networks => ''{203.0.113.0/24,203.0.114.0/24}''', 'p_allowed_networks => ''{203.0.0.0/16}''',
                    'p_allowed_networks => ''{::/0}''']) o;
select throws_ok(format($$ select api.rotate_api_key(%L, %L, sha256('x'), 'xxxx', '{"expires_at": "2101-01-01T00:00:00Z"}', p_created_by => %L) $$, :'org', :'maker', :'maker'), 'PT403',
    'A key can create only keys that expire no later and allow no other networks than its own', 'a key does not extend itself');
savepoint rotation;
select throws_ok(format($$ select api.rotate_api_key(%L, %L, sha256('x'), 'xxxx', %L, p_created_by => %L) $$, :'org', k.key ->> 'id', k.request, :'maker'), 'PT403',
    'A key can rotate only keys that expire no later and allow no other networks than its own', k.description)
  from (values (api.create_api_key(:'org', sha256('lasting'), 'leap_live_', 'ting', p_allowed_networks => '{203.0.113.0/24}'), '{}', 'a key does not rotate one that lasts for ever into one that ends with it'),
               (api.create_api_key(:'org', sha256('open'), 'leap_live_', 'open'), '{"expires_at": "2099-01-01T00:00:00Z"}', 'a key does not rotate one that is open to all networks into one for its own')) k (key, request, description);
select is(api.rotate_api_key(:'org', (api.create_api_key(:'org', sha256('lasts'), 'leap_live_', 'asts', p_allowed_networks => '{203.0.113.0/24}') ->> 'id')::uuid, sha256('ends'), 'ends',
                             '{"expires_at": "2099-01-01T00:00:00Z"}', p_created_by => :'maker') ->> 'expires_at', '2099-01-01T00:00:00.000Z',
    'a key rotates one that lasts for ever into one that ends when the request says');
rollback to rotation;
select is(api.create_api_key(:'other_org', sha256('other'), 'leap_live_', 'ther', p_created_by => :'maker') ->> 'expires_at', null, 'a key of another organization limits nothing');
select throws_ok(format($$ select api.%s(%L, %L%s, p_granted_scopes => '{keys:admin}') $$, f, :'org', :'maker', case f when 'rotate_api_key' then ', sha256(''x''), ''xxxx''' else '' end), 'PT403', 'You cannot manage keys with scopes that you lack: ' || m,
    'nobody calls ' || f || ' for a key that may do more than they')
  from unnest(array['get_api_key', 'rotate_api_key', 'revoke_api_key']) f, array_to_string(array(select unnest(app.all_scopes()) except select 'keys:admin'), ', ') m;
select is((api.list_api_keys(:'org', p_granted_scopes => '{jobs:read}') -> 'api_keys' -> 0 ->> 'name') || (api.list_api_keys(:'org', p_granted_scopes => '{jobs:read}') ->> 'total'), 'y1',
    'nobody lists keys that may do more than they');
select is(api.revoke_api_key(:'org', :'maker', p_include_created => true) ->> 'name', 'maker', 'a key can be revoked together with the keys it created');
select set_eq($$ select name from app.api_keys where revoked_at is not null $$, array['maker', 'made', 'less'], 'the keys that a key created, and those that they created, are revoked with it');

select throws_ok(format($$ select api.create_api_key(%L, sha256('x'), 'leap_live_', 'xxxx', p_created_by => %L) $$, :'org', :'maker'), 'PT401', 'Invalid API key',
    'a revoked key creates no keys');
select is(length(api.request_api_key(:'org', sha256('long'), 'leap_live_', 'long', jsonb_build_object('name', repeat('x', 200)), app.all_scopes()) ->> 'name'), 200,
    'the name of a key may have 200 characters');

-- Listed
select api.create_organization('Lister') as lister \gset
select count(api.create_api_key(:'lister', sha256(('listed ' || n)::bytea), 'leap_live_', 'xxxx', n::text)) from generate_series(1, 5) n \gset listed_
update app.api_keys set created_at = (timestamp '2026-01-01' + interval '1 day' * (6 - name::integer / 2)) at time zone 'UTC' where organization_id = :'lister';
insert into app.api_key_uses (organization_id, api_key_id, used_at) select organization_id, id, '2026-02-01Z' from app.api_keys where organization_id = :'lister' and name = '3';
with recursive page as (
    select 1 as n, api.list_api_keys(:'lister', p_limit => 2) as body
     union all
    select n + 1, api.list_api_keys(:'lister', p_limit => 2, p_cursor => body ->> 'next_cursor') from page where body ->> 'next_cursor' is not null and n < 9
)
select results_eq(
    (select format('select unnest(%L::uuid[]), unnest(%L::text[])', array_agg(u.key ->> 'id' order by p.n, u.o), array_agg(u.key ->> 'last_used_at' order by p.n, u.o))
       from page p cross join json_array_elements(p.body -> 'api_keys') with ordinality u (key, o)),
    format($$ select id, case name when '3' then '2026-02-01T00:00:00.000Z' end from app.api_keys where organization_id = %L order by created_at desc, id desc $$, :'lister'),
    'page after page, an organization lists its own keys, the newest first, with their last use');
select is(api.list_api_keys(gen_random_uuid(), p_limit => 200)::text, '{"api_keys" : [], "total" : 0, "limit" : 200, "offset" : 0, "next_cursor" : null}', 'an organization may have no keys');
update app.api_keys set expires_at = '2026-03-01Z' where organization_id = :'lister' and name = '1';
select throws_ok(format($$ select app.check_api_key_count(%L, %s, %L) $$, :'lister', n, at), 'PT409', format('The organization already has %s valid API keys', n), d)
  from (values (5, '2026-02-28T23:59:59Z', 'a key counts until it expires'), (4, '2026-03-01Z', 'the keys that have not expired count')) v (n, at, d);
select lives_ok(format($$ select app.check_api_key_count(%L, 5, '2026-03-01Z') $$, :'lister'), 'a key that has expired does not count');
select throws_ok(format('select api.list_api_keys(%L, p_limit => 201)', :'lister'), 'PT400', 'limit must be a whole number from 1 to 200', 'a page has two hundred keys');

-- Rotating and revoking
select (select id from app.api_keys where name = 'first') as first \gset
select api.rotate_api_key(:'org', :'first', sha256('second'), 'cond', '{"grace_seconds": 60}') ->> 'id' as second \gset
select is(api.get_api_key(:'org', :'first') ->> 'replaced_by', :'second'::text, 'a rotated key names its successor');
select is((select last_four || name || allowed_networks::text from app.api_keys where id = :'second'), 'condfirst{10.0.0.0/8}', 'the successor of a key has its name and networks');
select lives_ok($$ select api.authenticate_api_key(sha256('secret'), '10.1.2.3') $$, 'the old key continues to work for a while');
select throws_ok(format($$ select api.rotate_api_key(%L, %L, sha256('third'), 'hird') $$, :'org', :'first'), 'PT409', 'The key has already been rotated', 'a key can be rotated only once');
update app.api_keys set expires_at = now() - interval '1 second' where id = :'first';
select throws_ok($$ select api.authenticate_api_key(sha256('secret'), '10.1.2.3') $$, 'PT401', 'Invalid API key', 'the old key is refused after its grace period');
select throws_ok(format($$ select api.revoke_api_key(%L, %L) $$, :'other_org', :'second'), 'PT404', 'API key not found', 'nobody else can revoke a key');
select isnt(api.revoke_api_key(:'org', :'second') ->> 'revoked_at', null, 'a key can be revoked');
select throws_ok($$ select api.authenticate_api_key(sha256('second'), '10.1.2.3') $$, 'PT401', 'Invalid API key', 'a revoked key is refused');
update app.api_keys set revoked_at = '2001-01-01Z' where id = :'second';
select is(api.revoke_api_key(:'org', :'second') ->> 'revoked_at', '2001-01-01T00:00:00.000Z', 'revoking a key again does not change when it was revoked');
select is((select array_agg(name) from app.api_keys where organization_id = :'org' and replaced_by = :'second'), array['first'], 'no other key is rotated with it');
select api.create_api_key(:'org', sha256('ending'), 'leap_live_', 'ding', p_expires_at => now() + interval '1 hour') ->> 'id' as ending \gset
select api.rotate_api_key(:'org', :'ending', sha256('ended'), 'nded', '{"grace_seconds": 7200}') ->> 'id' as ended \gset
select is((select array_agg(distinct expires_at) from app.api_keys where id in (:'ending', :'ended')), array[now() + interval '1 hour'],
          'a key that is rotated lasts no longer than before, nor does its successor unless the request says so');
update app.api_keys set expires_at = '2001-01-01Z' where id = :'ended';
select throws_ok(format($$ select api.rotate_api_key(%L, %L, sha256('late'), 'late') $$, :'org', :'ended'), 'PT409', 'The key expired at 2001-01-01T00:00:00.000Z',
                 'a key that has expired is not rotated');
select api.create_api_key(:'org', sha256('daily'), 'leap_live_', 'aily', p_scopes => '{reports:read,jobs:read,reports:read}') as daily \gset
select api.rotate_api_key(:'org', (:'daily'::json ->> 'id')::uuid, sha256('nightly'), 'htly') as nightly \gset
select ok((select expires_at between now() + interval '1 day' and clock_timestamp() + interval '1 day' from app.api_keys where organization_id = :'org' and id = (:'daily'::json ->> 'id')::uuid), 'a key that is rotated ends after a day unless the request says so');
select is(:'daily'::json ->> 'scopes', '["jobs:read","reports:read"]', 'each scope of a key is named once, in the order of all scopes');

-- How many
select api.create_organization('Many Keys') as many \gset
select count(api.request_api_key(:'many', sha256(('key ' || n)::bytea), 'leap_live_', right(lpad(n::text, 4, '0'), 4), '{}', app.all_scopes())) as made
  from generate_series(1, 100) n \gset
select throws_ok(
    format($$ select api.request_api_key(%L, sha256('another'), 'leap_live_', 'last', '{}', app.all_scopes()) $$, :'many'),
    'PT409', 'The organization already has 100 valid API keys', 'an organization has a hundred valid keys');
select lives_ok(
    format($$ select api.rotate_api_key(%L, %L, sha256('successor'), 'last', '{}', app.all_scopes()) $$, :'many', (select min(id::text) from app.api_keys where organization_id = :'many')),
    'each of them can be rotated');
select api.update_settings('{"max_api_keys": 2}') as settings \gset
select throws_ok(format($$ select api.rotate_api_key(%L, %L, sha256('sixth'), 'ixth') $$, :'lister', (select min(id::text) from app.api_keys where organization_id = :'lister' and name = '3')), 'PT409',
    'The organization already has 4 valid API keys', 'a rotation makes no more than twice as many keys as the setting allows');
select api.update_settings('{"max_api_keys": 102}') as settings \gset
select lives_ok(
    format($$ select api.request_api_key(%L, sha256('one more'), 'leap_live_', 'more', '{}', app.all_scopes()) $$, :'many'),
    'an organization may have as many keys as the setting allows');
select api.update_settings('{"max_api_keys": 100}') as settings \gset
update app.api_keys set revoked_at = now() where organization_id = :'many';
select lives_ok(
    format($$ select api.request_api_key(%L, sha256('another'), 'leap_live_', 'last', '{}', app.all_scopes()) $$, :'many'),
    'revoked keys do not count towards the hundred');

select * from finish();
rollback;
