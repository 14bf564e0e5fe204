begin;
select plan(44);
\ir fixtures.psql

-- The config
select is(api.get_webhook_config(:'org') ->> 'url', null, 'the config of an organization without one has no URL');
select throws_like($$ select api.rotate_webhook_secret(api.create_organization('Acme')) $$, 'Webhooks are not configured', 'an organization without a config has no secret to rotate');
select api.set_webhook_config(:'org', '{"url": "https://example.com/hooks"}') as config \gset
select matches(:'config'::json ->> 'signing_secret', '^whsec_[A-Za-z0-9+/]{43}=$', 'the first config comes with a signing secret');
select is((:'config'::json -> 'events')::text, '["lookup.completed"]', 'completed lookups are sent by default');
select is(api.get_webhook_config(:'org') ->> 'signing_secret', null, 'the secret is shown once');
select is(api.set_webhook_config(:'org', '{"field_names": ["deal", "deal", "stage"]}') ->> 'url', 'https://example.com/hooks', 'what a change does not name stays');
select is((api.get_webhook_config(:'org') -> 'field_names')::text, '["deal","stage"]', 'a change stores what it names');
select throws_like(
    format($$ select api.set_webhook_config(%L, %L) $$, :'org', change), '%' || complaint || '%', format('the change %s is refused', change))
  from (values ('{"url": "http://example.com/"}', 'url must be'), ('{"url": "https://user@example.com/"}', 'url must be'),
               ('{"url": "https://example.com/a b"}', 'url must be'), ('{"url": 7}', 'url must be'),
               ('{"url": "https://exa>mple.com/"}', 'url must be'), ('{"url": "https://example.com:65536/"}', 'url must be'),
               ('{"url": "https://[2001:db8::1::2]/"}', 'url must be'), ('{"url": "https://[203.0.113.7]/"}', 'url must be'),
               ('{"url": "https://example.com:22/"}', 'the port of url must be'), ('{"url": "https://example.com:80"}', 'the port of url must be'),
               ('{"url": "https://[2001:db8::1]:25/a"}', 'the port of url must be'), ('{"url": "https://example.com:1023?a"}', 'the port of url must be'),
               ('{"events": ["lookup.started"]}', 'events must be'), ('{"field_names": [1]}', 'field_names must be'),
               ('{"enabled": "yes"}', 'enabled must be'), ('{"secret": "mine"}', 'Unknown fields: secret'), ('[]', 'must be a JSON object')) bad (change, complaint);
select is(pg_temp.hint(format($$ select api.set_webhook_config(%L, '{"event": ["batch.completed"]}') $$, :'org')),
          'The fields are url, events, field_names, bundle_items, enabled.', 'a refusal of an unknown field lists the known ones');
select is(api.set_webhook_config(:'org', '{"url": "https://[2001:db8::1]:8443/hooks?a=b"}') ->> 'url', 'https://[2001:db8::1]:8443/hooks?a=b', 'an address is a host, too');
select is(api.set_webhook_config(:'org', jsonb_build_object('url', url)) ->> 'url', url, 'a port that may be: ' || url)
  from (values ('https://example.com:443/hooks:22/'), ('https://example.com:1024?a:22')) good (url);
select is(api.set_webhook_config(:'org', '{"url": "http://localhost:1/"}', true) ->> 'url', 'http://localhost:1/', 'development may allow http');
select is(api.set_webhook_config(:'org', '{"enabled": false}') ->> 'disabled_reason', 'requested', 'webhooks can be disabled');
select is(api.set_webhook_config(:'org', '{"enabled": true}') ->> 'disabled_reason', null, 'webhooks can be enabled again');
select is(api.set_webhook_config(:'org', '{"url": null}') ->> 'enabled', 'false', 'webhooks without a URL are not enabled');
select api.set_webhook_config(:'org', '{"url": "https://example.com/"}') as config \gset

-- Secrets
select pg_temp.turn_clock(app.clock());
select api.rotate_webhook_secret(:'org', '{"overlap_seconds": 3600}') as rotated \gset
select isnt(:'rotated'::json ->> 'signing_secret', null, 'a rotated secret is shown once');
select is(json_array_length(api.get_webhook_config(:'org') -> 'secrets'), 2, 'both secrets are valid for a while');
select is(api.get_webhook_config(:'org') #>> '{secrets,0,expires_at}', null, 'the newest secret comes first');
select pg_temp.turn_clock(app.clock() + interval '1 hour');
select is(json_array_length(api.get_webhook_config(:'org') -> 'secrets'), 1, 'only the new secret is valid after the overlap');
select lives_ok(format('select api.rotate_webhook_secret(%L) from generate_series(1, 4)', :'org'), 'secrets can be rotated again');
select throws_like(format('select api.rotate_webhook_secret(%L)', :'org'), 'Five secrets%', 'at most five secrets are valid at once');
select throws_like(format($$ select api.rotate_webhook_secret(%L, '{"overlap_seconds": -1}') $$, :'org'), 'overlap_seconds%', 'an overlap is not negative');

-- Deleting it
select pg_temp.submit(:'org', 1) as job, pg_temp.look_up(:'org', 1) as recorded \gset
select throws_ok(format($$ select api.set_webhook_config(%L, %L) $$, :'org', json_build_object('field_names', json_build_array(repeat('x', 70000)))), 'PT413', 'The body may have at most 65,536 bytes', 'a config has the size that HTTP allows');
select is(api.delete_webhook_config(:'org') ->> 'message', 'Webhook config deleted', 'a config can be deleted');
select is((select status || last_error from app.webhook_deliveries where organization_id = :'org'), 'failedThe webhook config was deleted', 'pending deliveries of a deleted config fail');
select is(api.get_webhook_config(:'org') ->> 'url', null, 'a deleted config has no URL');
select is((select ready_at from app.webhook_queue_state where organization_id = :'org'), null, 'a deleted config has nothing to send');

select * from finish();
rollback;
