-- Chapter 52, the incentives API: rate limit, concurrency limit, circuit breaker, workers.

create table app.rate_limit (
    singleton    boolean     not null default true,
    next_slot_at timestamptz not null default '-infinity',
    ends_at      timestamptz not null default '-infinity',
    block_slots  integer     not null default 0,

    constraint rate_limit_pkey primary key (singleton),
    constraint rate_limit_singleton_check check (singleton)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 0);

comment on table app.rate_limit is 'The rate limit that all workers share: claims take slots from this one row, and nothing else locks it.';
comment on column app.rate_limit.next_slot_at is 'The next free slot (generic cell rate algorithm).';
comment on column app.rate_limit.ends_at is 'On a cluster: end of the block of slots that this node may hand out.';
comment on column app.rate_limit.block_slots is 'On a cluster: how many slots the node requested with this block.';

insert into app.rate_limit default values;

create table app.slot_blocks (
    singleton    boolean     not null default true,
    next_slot_at timestamptz not null default '-infinity',

    constraint slot_blocks_pkey primary key (singleton),
    constraint slot_blocks_singleton_check check (singleton)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 0);

comment on table app.slot_blocks is 'On a cluster, at the coordinator: the rate limit that all nodes share. They take blocks of slots from this one row.';
comment on column app.slot_blocks.next_slot_at is 'The next slot that is in no block.';

insert into app.slot_blocks default values;

create table app.upstream_state (
    singleton               boolean          not null default true,
    paused_until            timestamptz      not null default '-infinity',
    consecutive_failures    integer          not null default 0,
    unavailable_since       timestamptz,
    probe_at                timestamptz      not null default '-infinity',
    concurrency_limit       double precision,
    base_latency            double precision,
    adapted_at              timestamptz      not null default '-infinity',
    base_overload           double precision not null default 0,
    limit_version           integer          not null default 0,
    trial_limit             double precision,
    trial_latency           double precision,
    trial_overload          double precision,
    trial_cost              double precision,
    base_at                 timestamptz      not null default '-infinity',
    failing_organization_id uuid,

    constraint upstream_state_pkey primary key (singleton),
    constraint upstream_state_singleton_check check (singleton),
    constraint upstream_state_consecutive_failures_check check (consecutive_failures >= 0),
    constraint upstream_state_concurrency_limit_check check (concurrency_limit >= 1)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 0);

comment on table app.upstream_state is 'The incentives API as all workers together see it: circuit breaker, pauses, concurrency limit. On a cluster, each node has a row of its own.';
comment on column app.upstream_state.paused_until is 'No lookup starts before this time, because the incentives API (Retry-After) or an operator (api.pause_lookups) asked for a pause.';
comment on column app.upstream_state.consecutive_failures is 'Signs of an outage in a row, since the last answer.';
comment on column app.upstream_state.failing_organization_id is 'The organization that all these signs come from; null: several.';
comment on column app.upstream_state.unavailable_since is 'When the circuit breaker opened; null: it is closed.';
comment on column app.upstream_state.probe_at is 'While the circuit breaker is open: when the next lookup may probe.';
comment on column app.upstream_state.concurrency_limit is 'Concurrent lookups that the incentives API can handle, as far as measured; null: max_in_flight.';
comment on column app.upstream_state.base_latency is 'Usual latency of a lookup in seconds, as far as it does not depend on the number of concurrent lookups; null: not known yet.';
comment on column app.upstream_state.adapted_at is 'When measurements of a worker last changed the limit or the baseline (the columns base_...): at most four times a second.';
comment on column app.upstream_state.base_overload is 'Usual share (0 to 1) of 429, 503 and time-outs, as far as it does not depend on the number of concurrent lookups.';
comment on column app.upstream_state.limit_version is 'Raised by one with every change of the limit other than growth: measurements under other versions do not count.';
comment on column app.upstream_state.base_at is 'When the baseline was last measured.';
comment on column app.upstream_state.trial_limit is 'The limit before the trial of a lower one that is under way; null: no trial.';
comment on column app.upstream_state.trial_latency is 'Mean latency of the successes before the trial, in seconds.';
comment on column app.upstream_state.trial_overload is 'Share (0 to 1) of 429, 503 and time-outs before the trial.';
comment on column app.upstream_state.trial_cost is 'Lookup time per answer before the trial, in seconds, including lookups without an answer.';

insert into app.upstream_state default values;

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

comment on type app.upstream is 'A row of app.upstream_state as a parameter of functions, which are the same at all nodes of a cluster, while each node has a table of its own.';

create type app.lookup_sample as (
    limit_version    integer,
    organizations    integer,
    outcomes         integer,
    answers          integer,
    overloads        integer,
    latency          double precision,
    busy_seconds     double precision,
    overload_seconds double precision,
    usage            double precision
);

comment on type app.lookup_sample is 'What a worker measured under one version of the concurrency limit: see api.heartbeat.';

create table app.workers (
    id          text        not null,
    started_at  timestamptz not null,
    seen_at     timestamptz not null,
    returned_at timestamptz not null default '-infinity',

    constraint workers_pkey primary key (id),
    constraint workers_id_check check (id <> '' and length(id) <= 200)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 0);

comment on table app.workers is 'Workers that sent a heartbeat in the last day; those of the last 15 seconds share the concurrency limit evenly.';
comment on column app.workers.returned_at is 'Its first heartbeat after a period in which no worker could write: for one lease from then on, no lease expires.';

create type app.outage_signs as (
    failures integer,
    answered boolean,
    signs    integer,
    pause    interval,
    certain  boolean,
    completions integer
);

comment on type app.outage_signs is 'What a flush says about the incentives API. failures: lookups that will be retried; answered: whether any lookup got its final answer; signs: failures that are signs of an outage; pause: the longest that a Retry-After asked for; certain: whether the API is unreachable or asks for a very long pause, which is not due to a single organization; completions: lookups that succeeded.';
