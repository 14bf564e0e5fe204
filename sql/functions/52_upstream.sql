-- Chapter 52, the upstream: when lookups may start, and how many at once. One row says so for all workers together; it is written a few
-- times a second at most, never for every item. Whoever needs its lock takes it before any other.

-- Nothing starts before, not even what was claimed: Retry-After, or an outage.
create or replace function app.closed_until(p_upstream app.upstream_state) returns timestamptz
language sql immutable
return greatest((p_upstream).paused_until, case when (p_upstream).unavailable_since is not null then (p_upstream).probe_at end);

-- Pacing: the generic cell rate algorithm, with one row that holds the next free slot. Slots are given out a second ahead at most.
create or replace function app.next_claim_at(p_settings app.settings, p_upstream app.upstream_state) returns timestamptz
language sql immutable
return case when (p_settings).lookups_per_second is null then app.closed_until(p_upstream)
            else greatest((p_upstream).next_slot_at - interval '1 second', app.closed_until(p_upstream)) end;

-- In an outage, a lookup at a time tries whether it is over; when the outage outlasts the patience, lookups go on and use up their retries.
create or replace function app.is_outage(p_upstream app.upstream_state, p_settings app.settings, p_now timestamptz) returns boolean
language sql stable
return coalesce(p_now < (p_upstream).unavailable_since + app.seconds((p_settings).outage_patience_seconds), false);

-- How many lookups may be claimed now, at most p_limit, and the time of the first one. With a pace set, and in an outage, it holds the
-- row until the commit: take_slots follows. Slots come a little slower than the pace, so that even lookups that start late, which a
-- worker lets them by a hundredth of a second, are never more than the pace and one in any second.
create or replace function app.free_slots(
    p_limit integer, p_now timestamptz, out slots integer, out first_at timestamptz, out spacing interval, out is_probe boolean
)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_settings app.settings;
    v_upstream app.upstream_state;
begin
    select * into v_settings from app.settings;
    select * into v_upstream from app.upstream_state;
    if v_settings.lookups_per_second is not null or v_upstream.unavailable_since is not null then
        select * into v_upstream from app.upstream_state for update;
    end if;

    is_probe := app.is_outage(v_upstream, v_settings, p_now);
    if v_settings.lookups_per_second is null then
        spacing := interval '0';
        first_at := p_now;
        slots := p_limit;
    else
        spacing := interval '1 second' / (v_settings.lookups_per_second::double precision * 0.985);
        first_at := greatest(v_upstream.next_slot_at, p_now);
        slots := least(floor(extract(epoch from p_now + interval '1 second' - first_at) / extract(epoch from spacing)) + 1, p_limit);
    end if;
    slots := case when app.closed_until(v_upstream) > p_now then 0
                  when is_probe then least(slots, 1)
                  else slots end;
    slots := greatest(slots, 0);
end;
$$;

-- A probe keeps others from trying until its answer is there, or overdue.
create or replace function app.take_slots(p_next_slot_at timestamptz, p_is_probe boolean, p_now timestamptz) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_settings app.settings;
begin
    select * into v_settings from app.settings;
    if v_settings.lookups_per_second is not null or p_is_probe then
        update app.upstream_state
           set next_slot_at = p_next_slot_at,
               probe_at     = case when p_is_probe then p_now + app.seconds(v_settings.lookup_timeout_seconds + 1) else probe_at end;
    end if;
end;
$$;

-- What a flush says about the upstream; true: there is an outage, items wait at no cost. A flush without failures writes nothing.
create or replace function app.watch_upstream(p_organization_id uuid, p_outcomes app.lookup_outcome[], p_now timestamptz) returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_settings app.settings;
    v_upstream app.upstream_state;
    v_answered boolean;
    v_troubles integer;
    v_pause    interval;
    v_signs    integer := 0;
    v_was_open boolean;
begin
    select coalesce(bool_or(o.action in ('complete', 'fail')), false), count(*) filter (where o.action in ('retry', 'wait')), max(o.pause)
      into v_answered, v_troubles, v_pause
      from unnest(p_outcomes) o;
    select * into v_upstream from app.upstream_state;
    if v_troubles = 0 and v_upstream.failures_in_a_row = 0 and v_upstream.unavailable_since is null then
        return false;
    end if;

    select * into v_settings from app.settings;
    if v_troubles > 0 and not v_answered then
        select count(*) filter (where o.action = 'retry' and (o.outage or i.retry_count = 0))
               + case when bool_or(o.action = 'retry' and o.outage and i.retry_count >= v_settings.max_retries) then v_settings.outage_failures else 0 end
          into v_signs
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
    end if;

    select * into v_upstream from app.upstream_state for update;
    v_was_open := app.closed_until(v_upstream) <= p_now;
    v_upstream.paused_until := greatest(v_upstream.paused_until, p_now + v_pause);
    if v_answered then
        v_upstream.failures_in_a_row := 0;
        v_upstream.unavailable_since := null;
    else
        v_upstream.failures_in_a_row := least(v_upstream.failures_in_a_row + v_signs, 1000000);
        if v_upstream.failures_in_a_row >= v_settings.outage_failures and v_signs > 0 then
            v_upstream.unavailable_since := coalesce(v_upstream.unavailable_since, p_now);
        end if;
        -- The longer it lasts, the less often it is tried: from every second to every half minute.
        v_upstream.probe_at := case when app.is_outage(v_upstream, v_settings, p_now)
                                    then p_now + least(greatest((p_now - v_upstream.unavailable_since) / 4, interval '1 second'), interval '30 seconds')
                                    else '-infinity' end;
    end if;
    update app.upstream_state
       set paused_until      = v_upstream.paused_until,
           failures_in_a_row = v_upstream.failures_in_a_row,
           unavailable_since = v_upstream.unavailable_since,
           probe_at          = v_upstream.probe_at;
    -- All workers look again when it opens or closes.
    if v_was_open <> (app.closed_until(v_upstream) <= p_now) then
        perform pg_notify('batch_lookups_ready', '');
    end if;
    return app.is_outage(v_upstream, v_settings, p_now);
end;
$$;

create or replace function api.resume_lookups() returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    update app.upstream_state
       set paused_until = '-infinity', failures_in_a_row = 0, unavailable_since = null, probe_at = '-infinity';
    perform pg_notify('batch_lookups_ready', '');
end;
$$;

comment on function api.resume_lookups() is 'For operators: lookups start at once, whatever pause the incentives API asked for and however long it has been unavailable. The next sign of either counts again.';
