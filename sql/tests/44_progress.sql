begin;
select plan(26);
\ir fixtures.psql
select pg_temp.turn_clock('2026-11-24 12:00:00+00');
select pg_temp.submit(:'org', 10) as job \gset
create function pg_temp.progress(p_member text) returns text
language plpgsql as $$
begin
    return (select api.get_batch_lookup(organization_id, id) ->> p_member from public.batch_lookup_jobs);
end;
$$;

select is(pg_temp.progress('rate'), null, 'a job that has not begun has no rate');
select is(pg_temp.progress('estimated_completion_at'), null, 'a job that has not begun has no estimate');
select is(pg_temp.progress('poll_after_ms'), '1000', 'a job that has not begun should be polled in a second');

select pg_temp.look_up(:'org', 1, 200, :'answer') as recorded \gset
select pg_temp.turn_clock('2026-11-24 12:00:10+00');
select pg_temp.look_up(:'org', 3, 200, :'answer') as recorded \gset
select is(pg_temp.progress('rate'), '0.44', 'the rate is in items per second, and the latest items count most');
select is(pg_temp.progress('estimated_completion_at'), '2026-11-24T12:00:23.729Z', 'the estimate is what remains at that rate');
select is(pg_temp.progress('poll_after_ms'), '750', 'the next poll should follow after a twentieth of the remaining time');
select is(pg_temp.progress('errors_by_code'), '{}', 'a job without failed items has no errors');
select pg_temp.turn_clock('2026-11-24 12:00:25+00');
select is(pg_temp.progress('estimated_completion_at'), null, 'an estimate that has passed is null');
update app.upstream_state set paused_until = '2026-11-24 12:00:40+00';
select is(pg_temp.progress('upstream')::jsonb ->> 'paused_until', '2026-11-24T12:00:40.000Z', 'a job says until when the incentives API asks for a pause');
select is(pg_temp.progress('estimated_completion_at'), '2026-11-24T12:00:53.729Z', 'the estimate counts from the end of the pause');
update app.upstream_state set paused_until = '2026-11-24 12:00:25+00';
select is(pg_temp.progress('upstream')::jsonb ->> 'paused_until', null, 'a pause that is over is null');
update app.upstream_state set paused_until = '-infinity';

select pg_temp.look_up(:'org', 2, 404) as not_found, pg_temp.look_up(:'org', 1, 400) as rejected \gset
select is(pg_temp.progress('errors_by_code')::jsonb, '{"not_found": 2, "upstream_rejected": 1}', 'failed items are counted by their error');
select is(json_array_length(api.get_batch_lookup(:'org', :'job', true) -> 'items'), 10, 'a job includes its items on request');
select pg_temp.turn_clock('2026-11-24 12:01:30+00');
select pg_temp.look_up(:'org', 10, 200, :'answer') as recorded \gset
select is(pg_temp.progress('status'), 'completed', 'the last item ends the job');
select is(pg_temp.progress('poll_after_ms'), null, 'a job that has ended need not be polled again');
select is(pg_temp.progress('estimated_completion_at'), null, 'a job that has ended has no estimate');
select pg_temp.turn_clock('2026-11-25 12:00:00+00');
select is(pg_temp.progress('rate'), '0.11', 'the rate of an ended job stays');
select throws_ok(format('select api.get_batch_lookup(%L, %L)', :'other_org', :'job'), 'PT404', 'Batch job not found', 'another organization sees no progress');

select pg_temp.submit(:'org', 10) as job \gset
select pg_temp.look_up(:'org', 1, 200, :'answer') as recorded \gset
select pg_temp.turn_clock('2026-11-25 12:00:10+00');
select pg_temp.look_up(:'org', 1, 404) as recorded \gset
select is(api.get_batch_lookup(:'org', :'job') ->> 'errors_by_code', '{ "not_found" : 1 }', 'a single failed item is counted by its error');
select api.cancel_batch_lookup(:'org', :'job') as cancelled \gset
select is(api.get_batch_lookup(:'org', :'job') ->> 'rate', '0.20', 'items ended by a cancel do not count as looked up');

select pg_temp.submit(:'org', 5) as job \gset
select pg_temp.look_up(:'org', 1, 200, :'answer') as first_recorded, pg_temp.turn_clock('2026-11-25 12:00:20+00') as turned, pg_temp.look_up(:'org', 3, 200, :'answer') as recorded \gset
select is((select array[j ->> 'rate', j ->> 'estimated_completion_at'] from api.get_batch_lookup(:'org', :'job') j), '{0.44,2026-11-25T12:00:22.288Z}', 'the last item that remains has an estimate, too');
select api.cancel_batch_lookup(:'org', :'job') as cancelled \gset

select pg_temp.submit(:'org', 500) as full_job, pg_temp.submit(:'org', 501) as larger_job \gset
select is(json_array_length(api.get_batch_lookup(:'org', :'full_job', true) -> 'items'), 500, 'a job of five hundred items includes them on request');
select throws_ok(format('select api.get_batch_lookup(%L, %L, true)', :'org', :'larger_job'), 'PT400',
    'The job has too many or too large items for one response: include_items returns up to 500 items and 8 MB', 'a job of more items does not include them');
select api.cancel_batch_lookup(:'org', :'full_job') is not null as cancelled, api.cancel_batch_lookup(:'org', :'larger_job') is not null as also_cancelled \gset

-- Two items a second, with a break of an hour
select pg_temp.submit(:'org', 400) as job \gset
create function pg_temp.work(p_organization_id uuid, p_seconds integer) returns void
language plpgsql as $$
begin
    for n in 1..p_seconds / 5 loop
        perform pg_temp.turn_clock(app.clock() + interval '5 seconds'), pg_temp.look_up(p_organization_id, 10);
    end loop;
end;
$$;
select pg_temp.turn_clock('2026-11-26 12:00:00+00');
select count(*) from api.claim_lookups(:'org', 'w', 1) \gset claimed_
select pg_temp.work(:'org', 20);
select is(api.get_batch_lookup(:'org', :'job') ->> 'rate', '2.17', 'the rate of a young job is about the mean since its start');
select pg_temp.turn_clock(app.clock() + interval '1 hour'), pg_temp.work(:'org', 60);
select cmp_ok((api.get_batch_lookup(:'org', :'job') ->> 'rate')::numeric, '>', 1.7, 'a break no longer affects the rate after a minute');
select pg_temp.work(:'org', 60);
select cmp_ok((api.get_batch_lookup(:'org', :'job') ->> 'rate')::numeric, '>', 1.9, 'after two minutes of work, the rate is the present one');

select * from finish();
rollback;
