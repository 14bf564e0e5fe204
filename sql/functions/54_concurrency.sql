-- Chapter 54, the concurrency limit: how many concurrent lookups the incentives API can take. Workers measure, this chapter decides.
--
-- The limit grows by its square root while lookups succeed, latency is flat and the limit is used (as in Netflix's concurrency-limits). A
-- sign of overload (429, 503 and time-outs beyond the usual share, or twice the usual latency) begins a trial with a lower limit. If fewer
-- concurrent lookups help, the lower limit stays, and the next sign tries a lower one; if not, load is not the cause: the limit is
-- restored, and the current values become the baseline. With one lookup at a time, current values are always the baseline. So neither an
-- upstream that became slower nor a steady share of failures keeps the limit low, whatever the initial state. The baseline expires after
-- half a minute, and a trial measures it again.

-- The state after a sample: a pure function, so that it can be computed before the row is locked, and again after.
create or replace function app.adapt_limit(
    p_upstream app.upstream, p_sample app.lookup_sample, p_max_in_flight integer, p_now timestamptz
) returns app.upstream
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_limit    double precision := least(coalesce(p_upstream.concurrency_limit, p_max_in_flight), p_max_in_flight);
    v_overload double precision := p_sample.overloads::double precision / p_sample.outcomes;
    v_cost     double precision := p_sample.busy_seconds / nullif(p_sample.answers, 0);
    v_wasted   double precision := p_sample.overload_seconds / nullif(p_sample.busy_seconds, 0);
    v_excess   double precision;
    v_is_slow  boolean;
    v_helped   boolean;
begin
    p_upstream.adapted_at := p_now;
    p_upstream.base_overload := least(p_upstream.base_overload * 0.99, p_upstream.base_overload + 0.2 * (v_overload - p_upstream.base_overload));
    if v_limit < 2 and p_sample.answers > 0 then
        p_upstream.base_latency := coalesce(p_sample.latency, p_upstream.base_latency);
        p_upstream.base_overload := v_overload;
        p_upstream.base_at := p_now;
    elsif p_sample.latency < p_upstream.base_latency then
        p_upstream.base_latency := p_upstream.base_latency + 0.2 * (p_sample.latency - p_upstream.base_latency);
    end if;
    if (p_upstream.base_latency is null or p_sample.usage < 0.5) and p_sample.latency is not null then
        p_upstream.base_latency := least(p_upstream.base_latency, p_sample.latency);
        p_upstream.base_at := p_now;
    end if;

    if p_upstream.trial_limit is not null and p_sample.answers > 0 then
        v_helped := v_overload < p_upstream.trial_overload * 0.5
                    or coalesce(p_sample.latency < p_upstream.trial_latency * 0.75, false)
                    or coalesce(v_cost < p_upstream.trial_cost * 0.75, true);
        if not v_helped then
            p_upstream.concurrency_limit := p_upstream.trial_limit;
            p_upstream.limit_version := p_upstream.limit_version + 1;
            p_upstream.base_latency := coalesce(p_sample.latency, p_upstream.base_latency);
            p_upstream.base_overload := greatest(v_overload, p_upstream.base_overload);
            p_upstream.base_at := p_now;
            p_upstream.trial_limit := null;
            return p_upstream;
        end if;
        p_upstream.trial_limit := null;
    end if;

    v_excess := v_overload - p_upstream.base_overload;
    v_is_slow := p_sample.usage >= 0.5 and p_sample.latency is not null
                 and (p_sample.latency > p_upstream.base_latency * 2 + 0.05
                      or p_now not between p_upstream.base_at and p_upstream.base_at + interval '30 seconds');
    if (v_excess > 0.1 or v_is_slow) and v_limit >= 2 then
        if p_upstream.trial_limit is null then
            p_upstream.trial_limit := v_limit;
            p_upstream.trial_latency := p_sample.latency;
            p_upstream.trial_overload := v_overload;
            p_upstream.trial_cost := v_cost;
        end if;
        p_upstream.concurrency_limit := greatest(v_limit * least(p_sample.usage, 1)
                                               * case when v_is_slow then 0.5 else least(greatest(1 - least(v_excess, v_wasted), 0.5), 0.9) end, 1);
        p_upstream.limit_version := p_upstream.limit_version + 1;
    elsif p_sample.answers > 0 and p_sample.usage >= 0.5 and v_excess <= 0.1 and not v_is_slow then
        p_upstream.concurrency_limit := nullif(least(v_limit + sqrt(v_limit), p_max_in_flight), p_max_in_flight);
    end if;
    return p_upstream;
end;
$$;

-- Records the sample of a worker. Samples for another limit than the current one are dropped, and all but one within a quarter of a second.
-- Failures of a single organization are no sign of overload while others are served.
create or replace function app.record_sample(p_sample app.lookup_sample, p_now timestamptz) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_max_in_flight integer := app.part_of_node((select max_in_flight from app.settings));
    v_upstream      app.upstream;
    v_adapted       app.upstream;
begin
    select * into v_upstream from app.upstream_state;
    if p_sample.limit_version is distinct from v_upstream.limit_version or v_upstream.unavailable_since is not null
       or p_now between v_upstream.adapted_at and v_upstream.adapted_at + interval '250 milliseconds' then
        return;
    end if;
    -- Separate, because a statement locks all tables that it names, even if it does not read them.
    if p_sample.organizations < 2 and p_sample.overloads > 0 then
        if (select count(*) from (select distinct organization_id from public.lookup_leases limit 2) o) > 1 then
            return;
        end if;
    end if;
    v_adapted := app.adapt_limit(v_upstream, p_sample, v_max_in_flight, p_now);
    if (v_adapted.concurrency_limit, v_adapted.trial_limit) is not distinct from (v_upstream.concurrency_limit, v_upstream.trial_limit)
       and abs(v_adapted.base_latency - v_upstream.base_latency) < 0.05 * v_upstream.base_latency
       and abs(v_adapted.base_overload - v_upstream.base_overload) < 0.001 then
        return;
    end if;
    perform from app.upstream_state where adapted_at = v_upstream.adapted_at for update skip locked;
    if found then
        update app.upstream_state
           set concurrency_limit = v_adapted.concurrency_limit,
               limit_version   = v_adapted.limit_version,
               base_latency    = v_adapted.base_latency,
               base_overload   = v_adapted.base_overload,
               trial_limit     = v_adapted.trial_limit,
               trial_latency   = v_adapted.trial_latency,
               trial_overload  = v_adapted.trial_overload,
               trial_cost      = v_adapted.trial_cost,
               base_at         = v_adapted.base_at,
               adapted_at      = p_now;
    end if;
end;
$$;

-- Once a second. If all workers are silent for longer, the database or all workers were away.
create or replace function app.note_heartbeat(p_worker text, p_settings app.settings, p_now timestamptz) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_heard_at    timestamptz := (select max(seen_at) from app.workers);
    v_returned_at timestamptz := case when v_heard_at < p_now - greatest(interval '6 seconds', app.seconds(p_settings.lease_seconds / 2)) then p_now end;
begin
    insert into app.workers as w (id, started_at, seen_at, returned_at)
    values (p_worker, p_now, p_now, coalesce(v_returned_at, '-infinity'))
    on conflict (id) do update
       set seen_at     = excluded.seen_at,
           returned_at = coalesce(v_returned_at, w.returned_at)
     where w.seen_at not between excluded.seen_at - interval '1 second' and excluded.seen_at;
end;
$$;

create or replace function api.heartbeat(
    p_worker               text,
    p_limit                integer          default 100,
    p_limit_version        integer          default null,
    p_organizations        integer          default null,
    p_outcomes             integer          default null,
    p_answers              integer          default null,
    p_overloads            integer          default null,
    p_latency              double precision default null,
    p_busy_seconds         double precision default null,
    p_overload_seconds     double precision default null,
    p_usage                double precision default null,
    out organization_ids   uuid[],
    out next_ready_in      double precision,
    out max_in_flight      integer,
    out lookups_per_second double precision,
    out lookup_timeout     double precision,
    out lease_seconds      double precision,
    out max_response_bytes integer,
    out paused_for         double precision,
    out maintenance_due    boolean,
    out stopped            boolean,
    out limit_version      integer,
    out unavailable_since  timestamptz,
    out failures           integer,
    out together           boolean
)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now      timestamptz := app.clock();
    v_settings app.settings;
    v_upstream app.upstream;
    v_workers  integer;
    v_place    integer;
    v_share    integer;
begin
    select * into v_settings from app.settings;
    perform app.note_heartbeat(p_worker, v_settings, v_now);
    if p_outcomes > 0 then
        perform app.record_sample(
            row(p_limit_version, p_organizations, p_outcomes, p_answers, p_overloads, p_latency, p_busy_seconds,
                p_overload_seconds, p_usage)::app.lookup_sample,
            v_now);
    end if;
    select * into v_upstream from app.upstream_state;
    select count(*), count(*) filter (where id < p_worker) into v_workers, v_place
      from app.workers
     where seen_at between v_now - interval '15 seconds' and v_now + interval '15 seconds';
    v_share := floor(least(app.part_of_node(v_settings.max_in_flight), v_upstream.concurrency_limit));

    select r.organization_ids, extract(epoch from r.next_ready_at - v_now) into organization_ids, next_ready_in
      from app.find_ready(p_limit, v_now) r;
    max_in_flight      := v_share / v_workers + case when v_place < v_share % v_workers then 1 else 0 end;
    lookups_per_second := v_settings.lookups_per_second;
    lookup_timeout     := v_settings.lookup_timeout_seconds;
    lease_seconds      := v_settings.lease_seconds;
    max_response_bytes := v_settings.max_response_bytes;
    paused_for         := extract(epoch from greatest(app.next_claim_at(v_settings, v_upstream, v_now), v_now) - v_now);
    stopped            := app.closed_until(v_upstream, v_now) > v_now;
    maintenance_due    := (select ran_at not between v_now - interval '2 minutes' and v_now + interval '1 minute' from app.maintenance_state);
    limit_version      := v_upstream.limit_version;
    unavailable_since  := v_upstream.unavailable_since;
    failures           := v_upstream.consecutive_failures;
    together           := not app.is_distributed();
end;
$$;

comment on function api.heartbeat(text, integer, integer, integer, integer, integer, integer, double precision, double precision, double precision, double precision) is
'Reports that a worker is alive, and returns what it needs to know before a round of claims:

- organization_ids: those with work, as api.ready_organizations; next_ready_in: seconds until more is ready (null: none known).
- max_in_flight: its share of the lookups that may run at once; limit_version: the version of the concurrency limit.
- lookups_per_second, lookup_timeout, lease_seconds (seconds) and max_response_bytes: the settings that concern it.
- paused_for: seconds until a slot is available (0: now); stopped: nothing may start now, not even what was claimed before.
- unavailable_since: since when the incentives API has been unavailable (null: it is available); failures: those since the last answer.
- maintenance_due: whether it should call api.run_maintenance.
- together: whether one claim may be for several organizations, because one PostgreSQL holds them all.

With p_outcomes, it also reports what the worker measured since its last report, under p_limit_version of the limit:

- p_organizations: how many were served.
- p_outcomes, p_answers (2xx, and 4xx that end an item) and p_overloads (429, 503, time-outs), without the organization that had most of these when there were several.
- p_latency: the mean of the successes; p_busy_seconds: what all these lookups took; p_overload_seconds: what the overloaded ones took; in seconds.
- p_usage: the part of its share that it used (0 to 1).';
