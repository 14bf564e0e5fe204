-- Chapter 52, the upstream: when lookups may start. One row for the rate limit and one for the circuit breaker apply to all workers
-- together. Both are locked last, when nothing else is waited for, and written at most a few times a second, never for every item.

-- The longest pause. A longer Retry-After opens the circuit breaker: after this time, one lookup at a time probes.
create or replace function app.longest_pause() returns interval
language sql immutable
return interval '15 minutes';

-- Ignores times further ahead than any that are ever written: they date from before the clock was set back.
create or replace function app.closed_until(p_upstream app.upstream, p_now timestamptz) returns timestamptz
language sql stable
as $$
    select greatest(
        case when (p_upstream).paused_until <= p_now + app.longest_pause() then (p_upstream).paused_until end,
        case when (p_upstream).unavailable_since is not null and (p_upstream).probe_at <= p_now + app.longest_pause() then (p_upstream).probe_at end,
        '-infinity')
$$;

create or replace function app.slot_spacing(p_settings app.settings) returns interval
language sql immutable
as $$
    select case when (p_settings).lookups_per_second is null then interval '0'
                else interval '1 second' / ((p_settings).lookups_per_second::double precision * 0.985) end
$$;

-- The generic cell rate algorithm, with one row that holds the next free slot. Slots are handed out at most a second ahead. A next slot
-- further ahead is from a slower rate, or from before the clock was set back, and is ignored.
create or replace function app.next_free_slot(p_settings app.settings, p_next_slot_at timestamptz, p_now timestamptz) returns timestamptz
language sql immutable
as $$
    select case when p_next_slot_at between p_now and p_now + interval '2 seconds' + app.slot_spacing(p_settings) then p_next_slot_at else p_now end
$$;

-- When the next claim may get a slot.
create or replace function app.next_claim_at(p_settings app.settings, p_upstream app.upstream, p_now timestamptz) returns timestamptz
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return greatest(
        app.closed_until(p_upstream, p_now),
        case when p_settings.lookups_per_second is not null
             then app.next_free_slot(p_settings, (select greatest(r.next_slot_at, b.next_slot_at) from app.rate_limit r, app.slot_blocks b), p_now) - interval '1 second' end);
end;
$$;

-- The circuit breaker is open: one lookup at a time probes. If the outage outlasts max_outage_wait_seconds, lookups resume and use up
-- retries.
create or replace function app.is_outage(p_upstream app.upstream, p_settings app.settings, p_now timestamptz) returns boolean
language sql stable
as $$
    select coalesce(p_now < (p_upstream).unavailable_since + app.seconds((p_settings).max_outage_wait_seconds), false)
$$;

-- How many lookups may be claimed now, at most p_limit, and the time of the first one. With a rate limit, and for a probe, it locks the row
-- until the commit: take_slots follows. Slots are spaced slightly wider than the rate, because a worker may start a lookup up to a
-- hundredth of a second late: in any second there are never more lookups than the rate plus one. claimed_at is the time at which nothing
-- more is waited for: slots are relative to when the worker receives them, and a wait would shift them into those of others.
create or replace function app.hold_slots(
    p_organization_id uuid, p_limit integer, out slots integer, out claimed_at timestamptz, out first_at timestamptz, out spacing interval,
    out is_probe boolean, out lease interval
)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_settings     app.settings;
    v_upstream     app.upstream;
    v_next_slot_at timestamptz;
begin
    select * into v_settings from app.settings;
    select * into v_upstream from app.upstream_state;
    spacing := app.slot_spacing(v_settings);
    lease := app.seconds(v_settings.lease_seconds);
    claimed_at := app.clock();
    first_at := claimed_at;
    slots := p_limit;
    is_probe := app.is_outage(v_upstream, v_settings, claimed_at);
    if is_probe then
        select * into v_upstream from app.upstream_state for update skip locked;
        slots := case when found then least(p_limit, 1) else 0 end;
    end if;
    if app.closed_until(v_upstream, claimed_at) > claimed_at then
        slots := 0;
    end if;
    if slots > 0 and v_settings.lookups_per_second is not null then
        select next_slot_at into v_next_slot_at from app.rate_limit for update;
        claimed_at := app.clock();
        if app.spans_nodes() then
            select n.slots, n.first_at into slots, first_at from app.slots_of_node(p_organization_id, slots, spacing) n;
            claimed_at := app.clock();
        else
            select n.slots, n.first_at into slots, first_at from app.next_slots(v_settings, v_next_slot_at, slots, claimed_at) n;
        end if;
    end if;
end;
$$;

-- A probe keeps other lookups from starting until its response arrives or is overdue.
create or replace function app.take_slots(p_next_slot_at timestamptz, p_is_probe boolean, p_now timestamptz) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_settings app.settings;
    v_probe_at timestamptz;
begin
    select * into v_settings from app.settings;
    if v_settings.lookups_per_second is not null then
        update app.rate_limit set next_slot_at = p_next_slot_at;
    end if;
    if p_is_probe then
        v_probe_at := p_now + app.seconds(v_settings.lookup_timeout_seconds + 1);
        update app.upstream_state set probe_at = v_probe_at;
    end if;
end;
$$;

-- Signs of an outage in the outcomes of a flush.
create or replace function app.find_outage_signs(p_organization_id uuid, p_outcomes app.lookup_outcome[]) returns app.outage_signs
language plpgsql stable
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_sort = off
as $$
declare
    v_signs    app.outage_signs;
    v_failures record;
begin
    select count(*) filter (where o.action in ('retry', 'wait')), coalesce(bool_or(o.action in ('complete', 'fail')), false), 0, max(o.pause), false,
           count(*) filter (where o.action = 'complete')
      into v_signs
      from unnest(p_outcomes) o;
    if v_signs.failures > 0 and not v_signs.answered then
        v_failures := app.judge_failures(p_organization_id, p_outcomes);
        v_signs.signs := v_failures.signs;
        v_signs.certain := v_failures.certain;
    end if;
    return v_signs;
end;
$$;

-- For a flush without a response: how many of its failures are signs of an outage, and whether one of them is certain.
create or replace function app.judge_failures(p_organization_id uuid, p_outcomes app.lookup_outcome[], out signs integer, out certain boolean)
language plpgsql stable
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_sort = off
as $$
declare
    v_settings app.settings;
begin
    select * into v_settings from app.settings;
    select count(*) filter (where o.action = 'retry' and (o.outage or i.retry_count = 0))
           + case when bool_or(o.action = 'retry' and o.outage and i.retry_count >= v_settings.max_retries
                               or o.pause > app.longest_pause()) then v_settings.outage_failures else 0 end,
           coalesce(bool_or(o.action = 'retry' and o.outage or o.pause > app.longest_pause()), false)
      into signs, certain
      from unnest(p_outcomes) o
     cross join lateral (select
                           from public.lookup_leases l
                          where l.organization_id = p_organization_id and l.job_id = o.job_id and l.lease_token = o.lease_token
                            and o.position <@ l.positions
                         offset 0) held
     cross join lateral (select i.retry_count
                           from public.lookup_queue_items i
                          where i.organization_id = p_organization_id and i.job_id = o.job_id and i.position = o.position
                         offset 0) i;
end;
$$;

-- The circuit breaker after a flush: a pure function, computed once to judge the flush and again under the lock. It opens after
-- outage_failures signs without a response in between, if they are from several organizations, or no other organization is being served, or
-- one of them is certain.
create or replace function app.next_breaker(
    p_upstream app.upstream, p_settings app.settings, p_organization_id uuid, p_signs app.outage_signs, p_is_alone boolean, p_now timestamptz
) returns app.upstream
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    p_upstream.paused_until := greatest(
        case when p_upstream.paused_until <= p_now + app.longest_pause() then p_upstream.paused_until end,
        p_now + case when p_signs.pause > app.longest_pause() then app.longest_pause() else p_signs.pause end,
        '-infinity');
    if p_signs.answered then
        p_upstream.consecutive_failures := 0;
        p_upstream.unavailable_since := null;
        return p_upstream;
    end if;
    if p_signs.signs > 0 then
        p_upstream.failing_organization_id := case when p_upstream.consecutive_failures = 0
                                                     or p_upstream.failing_organization_id = p_organization_id then p_organization_id end;
        p_upstream.consecutive_failures := least(p_upstream.consecutive_failures + p_signs.signs, 1000000);
        if p_upstream.consecutive_failures >= p_settings.outage_failures and (p_upstream.failing_organization_id is null or p_is_alone or p_signs.certain) then
            p_upstream.unavailable_since := coalesce(p_upstream.unavailable_since, p_now);
        end if;
    end if;
    -- The longer the outage, the rarer the probes: from every second to every half minute.
    p_upstream.probe_at := case when app.is_outage(p_upstream, p_settings, p_now)
                                then p_now + least(greatest((p_now - p_upstream.unavailable_since) / 4, interval '1 second'), interval '30 seconds')
                                else '-infinity' end;
    return p_upstream;
end;
$$;

-- Whether no other organization has lookups in flight. On several nodes, also whether none had a lookup completed in this minute (or, in
-- its first ten seconds, the previous one), because responses to other nodes do not reset the count of failures here.
create or replace function app.is_served_alone(p_organization_id uuid) returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_since timestamptz := date_trunc('minute', app.clock() - interval '10 seconds', 'UTC');
begin
    if exists (select 1 from public.lookup_leases where organization_id <> p_organization_id) then
        return false;
    end if;
    return not (app.spans_nodes()
                and exists (select 1
                              from app.work_minutes
                             where organization_id <> p_organization_id and minute >= v_since and recorder <> 0
                               and kind = 'lookup' and outcome = 'completed'));
end;
$$;

-- Whether there is an outage, as far as this flush can tell; then its items wait at no cost. Locks nothing.
create or replace function app.would_be_outage(p_organization_id uuid, p_signs app.outage_signs, p_now timestamptz) returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_settings app.settings;
    v_upstream app.upstream;
begin
    select * into v_upstream from app.upstream_state;
    if p_signs.failures = 0 and v_upstream.unavailable_since is null then
        return false;
    end if;
    select * into v_settings from app.settings;
    return app.is_outage(
        app.next_breaker(v_upstream, v_settings, p_organization_id, p_signs, p_signs.signs > 0 and app.is_served_alone(p_organization_id), p_now),
        v_settings, p_now);
end;
$$;

-- Counts the pauses that began with this flush. It waits for nothing: every backend counts in rows of its own.
create or replace function app.count_pauses(
    p_organization_id uuid, p_before app.upstream, p_after app.upstream, p_now timestamptz
) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_before.unavailable_since is null and p_after.unavailable_since is not null then
        perform app.count_work(p_organization_id, 'pause', array['outage'], null, null, null, p_now);
    end if;
    if p_before.paused_until <= p_now and p_after.paused_until > p_now then
        perform app.count_work(p_organization_id, 'pause', array['retry_after'], null, null, null, p_now);
    end if;
end;
$$;

-- Records the signs of a flush at the end of its transaction. A flush without failures usually writes nothing. If an open transaction has
-- locked the row, the signs of this flush are lost, but not its outcomes.
create or replace function app.record_result(p_organization_id uuid, p_signs app.outage_signs, p_now timestamptz) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp set lock_timeout = '100ms'
as $$
declare
    v_settings app.settings;
    v_upstream app.upstream;
    v_before   app.upstream;
    v_was_open boolean;
begin
    select * into v_upstream from app.upstream_state;
    if p_signs.failures = 0 and v_upstream.consecutive_failures = 0 and v_upstream.unavailable_since is null then
        return;
    end if;
    begin
        select * into v_upstream from app.upstream_state for update;
    exception
        when lock_not_available then return;
    end;
    select * into v_settings from app.settings;
    v_before := v_upstream;
    v_was_open := app.closed_until(v_upstream, p_now) <= p_now;
    v_upstream := app.next_breaker(v_upstream, v_settings, p_organization_id, p_signs,
                                   p_signs.signs > 0 and app.is_served_alone(p_organization_id), p_now);
    update app.upstream_state
       set paused_until            = v_upstream.paused_until,
           consecutive_failures    = v_upstream.consecutive_failures,
           failing_organization_id = v_upstream.failing_organization_id,
           unavailable_since       = v_upstream.unavailable_since,
           probe_at                = v_upstream.probe_at;
    perform app.count_pauses(p_organization_id, v_before, v_upstream, p_now);
    if app.is_news(v_before, v_upstream) then
        perform app.tell_nodes(nullif(v_upstream.paused_until, '-infinity'),
                               coalesce(v_upstream.unavailable_since, case when v_before.unavailable_since is not null then '-infinity'::timestamptz end),
                               v_upstream.probe_at);
    end if;
    -- Opening or closing wakes all workers.
    if v_was_open <> (app.closed_until(v_upstream, p_now) <= p_now) then
        perform pg_notify('batch_lookups_ready', '');
    end if;
end;
$$;

create or replace function api.pause_lookups(p_seconds integer default 900) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_paused_until timestamptz := app.clock() + make_interval(secs => p_seconds);
begin
    if p_seconds is null or p_seconds not between 1 and extract(epoch from app.longest_pause()) then
        perform app.refuse(400, 'invalid_seconds', format('seconds must be a whole number from 1 to %s', extract(epoch from app.longest_pause())::integer));
    end if;
    update app.upstream_state set paused_until = v_paused_until;
    perform app.tell_nodes(paused_until, unavailable_since, probe_at) from app.upstream_state;
    perform app.audit(app.installation_id(), 'lookups.paused', p_details => jsonb_build_object('seconds', p_seconds));
end;
$$;
comment on function api.pause_lookups(integer) is 'For operators: starts no lookup for this many seconds, at most 900, as a Retry-After does; lookups in flight finish. api.resume_lookups() ends it earlier. 400: seconds out of range.';

create or replace function api.resume_lookups() returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    update app.upstream_state
       set paused_until = '-infinity', consecutive_failures = 0, unavailable_since = null, probe_at = '-infinity';
    perform app.tell_nodes('-infinity', '-infinity', null);
    perform app.audit(app.installation_id(), 'lookups.resumed');
    perform pg_notify('batch_lookups_ready', '');
end;
$$;

comment on function api.resume_lookups() is 'For operators: closes the circuit breaker and ends a pause, so that lookups start immediately. The next failure or Retry-After counts as before.';
