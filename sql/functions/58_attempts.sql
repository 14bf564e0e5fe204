-- Chapter 58, attempts: the history of an item's lookups, and why it waits now.

-- Whether any lookup of the jobs is recorded. Usually none is: an item that succeeds the first time writes nothing here. It searches for
-- the first attempt of each job in index order: if all attempts belong to one job, an unordered plan would read all those of the
-- organization.
create or replace function app.has_attempts(p_organization_id uuid, p_job_ids uuid[]) returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
as $$
declare
    v_job_id uuid;
begin
    foreach v_job_id in array p_job_ids loop
        perform from public.lookup_attempts where organization_id = p_organization_id and job_id = v_job_id order by position, attempt limit 1;
        if found then
            return true;
        end if;
    end loop;
    return false;
end;
$$;

-- Records the attempts behind the items that a flush has changed: those that failed, and those of items with earlier attempts.
create or replace function app.record_attempts(
    p_organization_id uuid, p_outcomes app.lookup_outcome[], p_is_outage boolean, p_leases public.lookup_leases[],
    p_items public.lookup_queue_items[], p_now timestamptz
) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = on set enable_nestloop = off set enable_mergejoin = off
as $$
declare
    v_records_all boolean := (select record_all_attempts from app.settings);
begin
    insert into public.lookup_attempts
           (organization_id, job_id, position, attempt, outcome, worker, latency_ms, http_status, error_code, error_message, recorded_at)
    select p_organization_id, o.job_id, o.position, coalesce(a.last, 0) + 1,
           case i.status when 'failed' then 'fail' when 'pending' then case when p_is_outage then 'wait' else o.action end else 'complete' end,
           l.worker,
           case when o.latency >= 0 then least(o.latency, 86400) * 1000 end,
           o.http_status, o.error_code, o.error_message, p_now
      from unnest(p_outcomes) o
      join (select u.job_id, u.position, u.status from unnest(p_items) u) i on i.job_id = o.job_id and i.position = o.position
      left join unnest(p_leases) l on l.job_id = o.job_id and l.lease_token = o.lease_token
     cross join lateral (select max(e.attempt) as last
                           from public.lookup_attempts e
                          where e.organization_id = p_organization_id and e.job_id = o.job_id and e.position = o.position
                         offset 0) a
     where (i.status = 'completed') = (o.action = 'complete') and (v_records_all or o.action <> 'complete' or a.last is not null)
        on conflict do nothing;
end;
$$;

-- Records the attempts of items whose leases expired.
create or replace function app.record_expired_attempts(
    p_organization_id uuid, p_leases public.lookup_leases[], p_items public.lookup_queue_items[], p_now timestamptz
) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = on set enable_nestloop = off set enable_mergejoin = off
as $$
begin
    insert into public.lookup_attempts
           (organization_id, job_id, position, attempt, outcome, worker, error_code, error_message, recorded_at)
    select p_organization_id, i.job_id, i.position, coalesce(a.last, 0) + 1, case i.status when 'failed' then 'fail' else 'retry' end,
           l.worker, 'lease_expired', 'The worker was silent for longer than its lease', p_now
      from unnest(p_leases) l
      join (select u.job_id, u.position, u.status from unnest(p_items) u) i on i.job_id = l.job_id and i.position <@ l.positions
     cross join lateral (select max(e.attempt) as last
                           from public.lookup_attempts e
                          where e.organization_id = p_organization_id and e.job_id = i.job_id and e.position = i.position
                         offset 0) a
        on conflict do nothing;
end;
$$;

create or replace function api.exhausted_lookups(p_organization_id uuid, p_job_ids uuid[], p_positions integer[])
returns table (job_id uuid, "position" integer, attempts integer, error_code text)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
    v_max_retries integer := (select max_retries from app.settings);
    v_reasons     text[]  := array(select error_code from app.retry_policy where action <> 'fail');
begin
    return query
    select i.job_id, i.position, i.retry_count + 1, i.error_code
      from unnest(p_job_ids, p_positions) o (job_id, position)
     cross join lateral (
           select q.job_id, q.position, q.status, q.retry_count, q.error_code
             from public.lookup_queue_items q
            where q.organization_id = p_organization_id and q.job_id = o.job_id and q.position = o.position
           offset 0) i
     where i.status = 'failed' and i.retry_count >= v_max_retries and i.error_code = any (v_reasons);
end;
$$;

comment on function api.exhausted_lookups(uuid, uuid[], integer[]) is
'For workers: those of the given items (job and position, as parallel arrays) that failed because their last retry failed, with the number of their attempts and the reason. Ask right after api.record_lookups; items that fail at once are not among them.';

-- Deletes attempts that were recorded before a time, p_limit at most, and returns how many.
create or replace function app.prune_attempts(p_before timestamptz, p_limit integer default 10000) returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp set enable_seqscan = off
as $$
declare
    v_organization_id uuid;
    v_count           integer;
    v_pruned          integer := 0;
    v_after           uuid;
begin
    foreach v_organization_id in array app.organizations_in_turn('attempts') loop
        if exists (select from public.lookup_attempts where organization_id = v_organization_id and recorded_at < p_before) then
            delete from public.lookup_attempts
             where organization_id = v_organization_id
               and ctid = any (array(select ctid
                                       from public.lookup_attempts
                                      where organization_id = v_organization_id and recorded_at < p_before
                                      order by recorded_at
                                      limit p_limit - v_pruned
                                        for update skip locked));
            get diagnostics v_count = row_count;
            v_pruned := v_pruned + v_count;
            exit when v_pruned >= p_limit;
        end if;
        v_after := v_organization_id;
    end loop;
    perform app.end_turn('attempts', v_after);
    return v_pruned;
end;
$$;

create or replace function app.waits_for(p_reason text, p_until timestamptz, p_message text) returns json
language sql stable
return json_build_object('reason', p_reason, 'until', app.rfc3339(p_until), 'message', p_message);

-- How many items a claim would take before this one: of its own batch, and of other batches. An estimate, as workers claim meanwhile.
create or replace function app.items_ahead(p_item public.lookup_queue_items, p_now timestamptz, out own bigint, out others bigint)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_queued app.queued_jobs;
begin
    -- Due retries are claimed before new items.
    select count(*) filter (where i.job_id = p_item.job_id), count(*) filter (where i.job_id <> p_item.job_id) into own, others
      from public.lookup_queue_items i
     where i.organization_id = p_item.organization_id and i.status = 'pending' and i.retry_at <= p_now
       and (p_item.retry_at is null or i.retry_at < p_item.retry_at);
    select * into v_queued from app.queued_jobs where organization_id = p_item.organization_id and job_id = p_item.job_id;
    if p_item.retry_at is not null or v_queued.job_id is null then
        return;
    end if;
    own := own + p_item.position - v_queued.next_position;
    others := others + (
        select coalesce(sum(greatest(least(j.end_position - j.next_position, v_queued.next_rank + p_item.position - v_queued.next_position - j.next_rank
                                           + case when j.job_id < v_queued.job_id then 1 else 0 end), 0)), 0)
          from app.queued_jobs j
         where j.organization_id = p_item.organization_id and j.job_id <> p_item.job_id);
end;
$$;

-- Why an item that could be claimed has not been: the first limit that applies.
create or replace function app.waits_for_claim(p_item public.lookup_queue_items, p_now timestamptz) returns json
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_settings app.settings;
    v_upstream app.upstream;
    v_ahead    record;
    v_in_front text;
    v_limit    integer;
    v_served   timestamptz;
begin
    select * into v_settings from app.settings;
    select * into v_upstream from app.upstream_state;
    select served_at into v_served from app.organization_queue_state where organization_id = p_item.organization_id;
    v_ahead := app.items_ahead(p_item, p_now);
    v_in_front := format('items in front of it: %s of its batch, %s of other batches', v_ahead.own, v_ahead.others);
    v_limit := floor(least(v_settings.max_in_flight, v_upstream.concurrency_limit));

    if not app.worker_runs(p_now) then
        return app.waits_for('no_worker', null, 'No worker has sent a heartbeat in the last 15 seconds');
    elsif app.is_outage(v_upstream, v_settings, p_now) then
        return app.waits_for('circuit_breaker', nullif(greatest(app.closed_until(v_upstream, p_now), p_now), p_now), format(
            'The incentives API has been unavailable since %s; one lookup at a time probes it', app.rfc3339(v_upstream.unavailable_since)));
    elsif app.closed_until(v_upstream, p_now) > p_now then
        return app.waits_for('retry_after', app.closed_until(v_upstream, p_now), 'Lookups are paused, by Retry-After from the incentives API or by an operator');
    elsif app.next_claim_at(v_settings, v_upstream, p_now) > p_now then
        return app.waits_for('rate_limit', p_now + (v_ahead.own + v_ahead.others + 1) * app.slot_spacing(v_settings), format(
            'Lookups of all organizations together are limited to %s a second; %s', v_settings.lookups_per_second, v_in_front));
    elsif (select sum(app.count_positions(positions)) from public.lookup_leases) >= v_limit then
        return app.waits_for('concurrency_limit', null, format(
            'Lookups of all organizations together are limited to %s at once; %s', v_limit, v_in_front));
    elsif v_ahead.others > 0 then
        return app.waits_for('other_batches', null, 'Batches of an organization take turns; ' || v_in_front);
    elsif v_ahead.own > 0 then
        return app.waits_for('earlier_items', null, 'Items are looked up in the order of the upload; ' || v_in_front);
    elsif exists (select 1 from app.organization_queue_state where ready_at <= p_now and served_at < v_served) then
        return app.waits_for('other_organizations', null, 'Organizations take turns; another one has been waiting longer');
    end if;
    return app.waits_for('next_claim', null, 'It is next: a worker''s next claim takes it');
end;
$$;

-- What an item waits for; null: it has ended.
create or replace function app.item_waits_for(p_item public.lookup_queue_items, p_now timestamptz) returns json
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_lease        public.lookup_leases;
    v_reason       text;
    v_is_duplicate boolean;
    v_other        public.lookup_queue_items;
begin
    if p_item.status <> 'pending' then
        return null;
    end if;
    select * into v_lease
      from public.lookup_leases
     where organization_id = p_item.organization_id and job_id = p_item.job_id and p_item.position <@ positions;
    if found then
        return app.waits_for('in_flight', v_lease.expires_at, format(
            'Worker %s is looking it up; if that worker goes silent, the item returns to the queue', v_lease.worker));
    end if;
    v_is_duplicate := p_item.retry_at > p_now and p_item.retry_at < 'infinity'
                      and not exists (select from public.lookup_attempts
                                       where organization_id = p_item.organization_id and job_id = p_item.job_id and position = p_item.position);
    if v_is_duplicate then
        select * into v_other
          from public.lookup_queue_items
         where organization_id = p_item.organization_id and deduplication_key = p_item.deduplication_key and status = 'pending' and id <> p_item.id
         order by id
         limit 1;
        if found then
            return app.waits_for('duplicate', p_item.retry_at, format(
                'Item %s of job %s asks the same question; both get its answer', v_other.position, v_other.job_id));
        end if;
    end if;
    v_reason := app.item_is_held(p_item, p_now);
    if v_reason = 'continue' then
        return app.waits_for('continue', null, 'The sample of its job comes first; then the job waits to be continued');
    elsif v_reason is not null then
        return app.waits_for('lookup_limit', case v_reason when 'next_month' then app.next_month(p_now) end, 'The allowed lookups are used up');
    elsif p_item.retry_at <= p_now or p_item.retry_at is null then
        return app.waits_for_claim(p_item, p_now);
    end if;
    if v_is_duplicate then
        return app.waits_for('duplicate', p_item.retry_at, 'Another item asked the same question and got no answer; this one is looked up next');
    end if;
    return app.waits_for('retry_backoff', p_item.retry_at, 'The last attempt failed; the next one follows after the backoff');
end;
$$;

create or replace function api.explain_item(
    p_organization_id uuid default app.claimed_organization_id(), p_job_id uuid default null, p_position integer default null
) returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_item     public.lookup_queue_items;
    v_source   json;
    v_attempts json;
begin
    perform app.authorize(p_organization_id, 'jobs:read');
    perform app.find_job(p_organization_id, p_job_id);
    v_item := app.find_item(p_organization_id, p_job_id, p_position);
    v_source := (
        select app.source_json(c.names, s.cells)
          from public.lookup_item_sources s
          join public.lookup_job_columns c on c.organization_id = s.organization_id and c.job_id = s.job_id
         where s.organization_id = p_organization_id and s.job_id = p_job_id and s.position = p_position);
    v_attempts := (
        select coalesce(json_agg(json_build_object(
                   'attempt', a.attempt, 'outcome', a.outcome, 'worker', a.worker, 'latency_ms', a.latency_ms, 'http_status', a.http_status,
                   'error_code', a.error_code, 'error_message', a.error_message, 'recorded_at', app.rfc3339(a.recorded_at)) order by a.attempt), '[]')
          from (select *
                  from public.lookup_attempts l
                 where l.organization_id = p_organization_id and l.job_id = p_job_id and l.position = p_position
                 order by l.attempt desc
                 limit 100) a);
    return app.join_objects(app.item_json(v_item, app.positions_in_flight(p_organization_id, p_job_id)), json_build_object(
        'attempts', v_attempts,
        'waiting_for', app.item_waits_for(v_item, app.clock()),
        'source', v_source));
end;
$$;

comment on function api.explain_item(uuid, uuid, integer) is
'One item, given by its position in the upload (from 0), with its history:

- attempts: the last hundred lookups (outcome complete, retry, wait or fail; latency_ms, HTTP status, error, worker); none if the first one succeeded, unless the setting record_all_attempts is on.
- waiting_for: {reason, until, message}, what it is waiting for (null: it has ended): in_flight, continue (a sample), lookup_limit, retry_backoff, duplicate, no_worker, circuit_breaker, retry_after, rate_limit, concurrency_limit, other_batches, earlier_items, other_organizations or next_claim. until is the earliest or, for a lease and a duplicate, the latest time; null: not known.
- source: the columns of its file in their order, or its metadata; null: nothing.

404: job_not_found, item_not_found.';
grant execute on function api.explain_item(uuid, uuid, integer) to authenticated;
