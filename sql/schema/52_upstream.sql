-- Chapter 52, the incentives API: rate limit, concurrency limit, circuit breaker, workers.

create table app.upstream_state (
    singleton         boolean          not null default true,
    next_slot_at      timestamptz      not null default '-infinity',
    paused_until      timestamptz      not null default '-infinity',
    failures_in_a_row integer          not null default 0,
    unavailable_since timestamptz,
    probe_at          timestamptz      not null default '-infinity',
    in_flight_limit   double precision,
    base_latency      double precision,
    adapted_at        timestamptz      not null default '-infinity',

    constraint upstream_state_pkey primary key (singleton),
    constraint upstream_state_singleton_check check (singleton),
    constraint upstream_state_failures_in_a_row_check check (failures_in_a_row >= 0),
    constraint upstream_state_in_flight_limit_check check (in_flight_limit >= 1)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 0);

comment on table app.upstream_state is 'The incentives API as all workers together see it: pace, pauses, outages, how many lookups it bears at once.';
comment on column app.upstream_state.next_slot_at is 'Next free time slot for a lookup (generic cell rate algorithm).';
comment on column app.upstream_state.paused_until is 'No lookup starts before: the incentives API asked for a pause with Retry-After.';
comment on column app.upstream_state.failures_in_a_row is 'Signs of an outage since the last answer.';
comment on column app.upstream_state.unavailable_since is 'Start of the outage that lasts; null: it answers.';
comment on column app.upstream_state.probe_at is 'In an outage: when the next lookup may try.';
comment on column app.upstream_state.in_flight_limit is 'Lookups it seems to bear at once: grows while latency is flat, shrinks with errors; null: max_in_flight.';
comment on column app.upstream_state.base_latency is 'Seconds that a lookup takes when all is well.';
comment on column app.upstream_state.adapted_at is 'Last change of in_flight_limit: a few a second at most.';

insert into app.upstream_state default values;

create table app.workers (
    id         text        not null,
    started_at timestamptz not null,
    seen_at    timestamptz not null,

    constraint workers_pkey primary key (id),
    constraint workers_id_check check (id <> '' and length(id) <= 200)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 0);

comment on table app.workers is 'Workers that checked in lately; they share max_in_flight evenly.';
