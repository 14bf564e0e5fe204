-- Chapter 52, the incentives API: rate limit, concurrency limit, circuit breaker, workers.

create table app.rate_limit (
    singleton    boolean     not null default true,
    next_slot_at timestamptz not null default '-infinity',
    ends_at      timestamptz not null default '-infinity',
    block_slots  integer     not null default 0,

    constraint rate_limit_pkey primary key (singleton),
    constraint rate_limit_singleton_check check (singleton)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 0);

comment on table app.rate_limit is 'The rate limit that all workers share: claims take time slots from its one row, and nothing else locks it.';
comment on column app.rate_limit.next_slot_at is 'Next free time slot for a lookup (generic cell rate algorithm).';
comment on column app.rate_limit.ends_at is 'On a cluster: the end of the block of slots that this node may give out.';
comment on column app.rate_limit.block_slots is 'How many slots the node asked for with this block.';

insert into app.rate_limit default values;

create table app.slot_blocks (
    singleton    boolean     not null default true,
    next_slot_at timestamptz not null default '-infinity',

    constraint slot_blocks_pkey primary key (singleton),
    constraint slot_blocks_singleton_check check (singleton)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 0);

comment on table app.slot_blocks is 'At the coordinator of a cluster, the rate limit that all nodes share: they take blocks of time slots from its one row.';
comment on column app.slot_blocks.next_slot_at is 'Next time slot that is in no block.';

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

comment on table app.upstream_state is 'The incentives API as all workers together see it: circuit breaker, pauses, concurrency limit.';
comment on column app.upstream_state.paused_until is 'No lookup starts before: the incentives API asked for a pause with Retry-After.';
comment on column app.upstream_state.consecutive_failures is 'Signs of an outage since the last answer.';
comment on column app.upstream_state.failing_organization_id is 'The only organization that these signs are of; null: several.';
comment on column app.upstream_state.unavailable_since is 'The circuit breaker is open since then; null: closed.';
comment on column app.upstream_state.probe_at is 'With the circuit breaker open: when the next lookup may probe.';
comment on column app.upstream_state.concurrency_limit is 'The concurrency limit: lookups that it seems to bear at once; null: max_in_flight.';
comment on column app.upstream_state.base_latency is 'Seconds that a lookup usually takes, as far as that does not depend on how many run at once; null: not known yet.';
comment on column app.upstream_state.adapted_at is 'When a worker''s measurements last changed the limit or what is usual: a few times a second at most.';
comment on column app.upstream_state.base_overload is 'Share of 429, 503 and time-outs that does not depend on how many lookups run at once (0 to 1).';
comment on column app.upstream_state.limit_version is 'One up with every change of the limit but its growth: measurements of other versions do not count.';
comment on column app.upstream_state.base_at is 'When base_latency was last measured with fewer lookups at once.';
comment on column app.upstream_state.trial_limit is 'While a lower limit is tried: the one before. null: no trial.';
comment on column app.upstream_state.trial_latency is 'Mean latency of a success before the trial, in seconds.';
comment on column app.upstream_state.trial_overload is 'Share of 429, 503 and time-outs before the trial.';
comment on column app.upstream_state.trial_cost is 'Seconds of lookups that one answer cost before the trial, those of lookups without an answer included.';

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

comment on type app.upstream is 'A row of app.upstream_state, for the functions that reckon with it: they are the same at all nodes of a cluster, where each has a table of its own.';

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

comment on table app.workers is 'Workers whose heartbeat was heard lately; they share max_in_flight evenly.';
comment on column app.workers.returned_at is 'Its first heartbeat after a time in which no worker could write: no lease expires until one lease later.';

create type app.outage_signs as (
    failures integer,
    answered boolean,
    signs    integer,
    pause    interval,
    certain  boolean,
    completions integer
);

comment on type app.outage_signs is 'What a flush says about the upstream: failures that are tried again, whether anything was answered for good, failures that hint at an outage, the longest pause that a Retry-After asked for, whether that or an unreachable service is nobody''s own affair, and how many lookups succeeded.';
