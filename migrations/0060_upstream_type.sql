-- squawk-ignore-file ban-drop-function
-- Functions that take a row of a table which is local to a node are not the same at all nodes: they take a type of its own instead.

create type app.upstream as (
    singleton               boolean,
    paused_until            timestamptz,
    consecutive_failures    integer,
    unavailable_since       timestamptz,
    probe_at                timestamptz,
    concurrency_limit       double precision,
    base_latency            double precision,
    adapted_at              timestamptz,
    base_overload           double precision,
    limit_version           integer,
    trial_limit             double precision,
    trial_latency           double precision,
    trial_overload          double precision,
    trial_cost              double precision,
    base_at                 timestamptz,
    failing_organization_id uuid
);

comment on type app.upstream is 'A row of app.upstream_state, for the functions that reckon with it: they are the same at all nodes of a cluster, where each has a table of its own.';

-- Their successors take app.upstream.
drop function if exists app.closed_until(app.upstream_state, timestamptz);
drop function if exists app.next_claim_at(app.settings, app.upstream_state, timestamptz);
drop function if exists app.is_outage(app.upstream_state, app.settings, timestamptz);
drop function if exists app.next_breaker(app.upstream_state, app.settings, uuid, app.outage_signs, boolean, timestamptz);
drop function if exists app.count_pauses(uuid, app.upstream_state, app.upstream_state, timestamptz);
drop function if exists app.adapt_limit(app.upstream_state, app.lookup_sample, integer, timestamptz);
-- This one returns a table instead of rows of app.work_totals.
drop function if exists app.sum_work();
