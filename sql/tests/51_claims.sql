begin;
select plan(11);
\ir fixtures.psql
select pg_temp.turn_clock(clock_timestamp());

select pg_temp.submit(:'org', 4) as job \gset
select is((select count(*)::integer from app.queue_wakeups where organization_id = :'org'), 1, 'a new batch adds a wake-up to the ready list, and locks no row of it');
select is(array(select app.queue_wakeups.organization_id from app.queue_wakeups where ready_at <= app.clock()), array(select api.ready_organizations()), 'the organization is ready');
select count(*) from api.claim_lookups(:'org', 'w', 2) \gset claimed_
select is(app.listed_ready_at(:'org'), app.clock(), 'a claim that found all that it requested leaves the organization on the list');
select count(*) from api.claim_lookups(:'org', 'w', 10) \gset claimed_
select is_empty(format('select from app.queue_wakeups where organization_id = %L', :'org'), 'a claim that found less takes in the wake-ups');
select is(app.listed_ready_at(:'org'), (select min(expires_at) from public.lookup_leases), 'a claim that found less lists the organization for when its leases expire');

-- While there is always more
select pg_temp.submit(:'org', 5) as job, pg_temp.look_up(:'org', 1, 500) as failed, pg_temp.look_up(:'org', 1, 500) as failed_too \gset
select is((select count(*)::integer from app.queue_wakeups where organization_id = :'org'), 3, 'a claim that found all that it requested leaves the wake-ups of retries');
select pg_temp.turn_clock(app.clock() + interval '2 minutes');
select count(*) from api.claim_lookups(:'org', 'w', 1) \gset claimed_
select is_empty(format('select from app.queue_wakeups where organization_id = %L', :'org'), 'a claim takes them in when the oldest lease would have expired');
select is(app.listed_ready_at(:'org') <= app.clock(), true, 'an organization whose wake-ups a full claim took in stays on the list');
select api.cancel_batch_lookup(:'org', :'job') as cancelled \gset

-- A slot of a slower rate, or from before the clock was set back
select api.update_settings('{"lookups_per_second": 100}') as settings, pg_temp.submit(:'org', 4) as job \gset
update app.rate_limit set next_slot_at = app.clock() + interval '1 hour';
select is((select max(start_in) from api.claim_lookups(:'org', 'w', 1)), 0::double precision, 'a next slot that no claim can have taken does not count');
update app.rate_limit set next_slot_at = app.clock() + interval '0.5 second';
select is((select round(max(start_in)::numeric, 3) from api.claim_lookups(:'org', 'w', 1)), 0.5, 'a next slot that a claim took counts');

-- An organization that does not exist, or no longer
select throws_ok(format('select * from api.claim_lookups(%L, ''w'', 1)', app.uuid_v7()), 'PT404', 'Organization not found', 'a claim for an unknown organization is refused');

select * from finish();
rollback;
