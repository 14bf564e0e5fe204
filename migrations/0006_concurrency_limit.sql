-- squawk-ignore-file adding-required-field, ban-drop-function
-- The concurrency limit tells overload from failures and latency that do not depend on the load. A limit and a base latency that the
-- former rules got stuck with are forgotten.

alter table app.upstream_state
    add column base_overload double precision not null default 0,
    add column limit_version integer not null default 0,
    add column trial_limit double precision,
    add column trial_latency double precision,
    add column trial_overload double precision,
    add column trial_cost double precision,
    add column base_at timestamptz not null default '-infinity';

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

comment on column app.upstream_state.in_flight_limit is 'The concurrency limit: lookups that it seems to bear at once; null: max_in_flight.';
comment on column app.upstream_state.base_latency is 'Seconds that a lookup usually takes, as far as that does not depend on how many run at once; null: not known yet.';
comment on column app.upstream_state.adapted_at is 'When a worker''s measurements last changed the limit or what is usual: a few times a second at most.';
comment on column app.upstream_state.base_overload is 'Share of 429, 503 and time-outs that does not depend on how many lookups run at once (0 to 1).';
comment on column app.upstream_state.limit_version is 'One up with every change of the limit but its growth: measurements of other versions do not count.';
comment on column app.upstream_state.base_at is 'When base_latency was last measured with fewer lookups at once.';
comment on column app.upstream_state.trial_limit is 'While a lower limit is tried: the one before. null: no trial.';
comment on column app.upstream_state.trial_latency is 'Mean latency of a success before the trial, in seconds.';
comment on column app.upstream_state.trial_overload is 'Share of 429, 503 and time-outs before the trial.';
comment on column app.upstream_state.trial_cost is 'Seconds of lookups that one answer cost before the trial, those of lookups without an answer included.';
comment on type app.lookup_sample is 'What a worker measured under one version of the concurrency limit: see api.heartbeat.';

update app.upstream_state set in_flight_limit = null, base_latency = null;

drop function if exists app.grow_in_flight(double precision, timestamptz);
drop function if exists api.check_in(text, integer, double precision);
