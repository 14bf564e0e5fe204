-- squawk-ignore-file adding-required-field, ban-drop-function, ban-drop-column, ban-drop-constraint, constraint-missing-not-valid, require-concurrent-index-creation
-- No transaction holds up another organization: what uploads and flushes add to the ready list are rows of their own, and the rate limit has
-- a row of its own, which only claims lock. Leases do not expire before their holders could have renewed them.

create table app.queue_wakeups (
    organization_id uuid        not null,
    id              uuid        not null,
    ready_at        timestamptz not null,

    constraint queue_wakeups_pkey primary key (organization_id, id),
    constraint queue_wakeups_organization_id_fkey foreign key (organization_id) references app.organizations (id) on delete cascade
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 0);

create index queue_wakeups_ready_idx on app.queue_wakeups (ready_at);

comment on table app.queue_wakeups is 'Additions to the ready list, one row each, so that an upload or a flush locks nothing that claims need; a claim takes them in.';

comment on table app.organization_queue_state is 'The ready list, together with app.queue_wakeups: one row per organization that was ever served.';
comment on column app.organization_queue_state.ready_at is 'From when on there is, or may be, something to claim; null: nothing is open, wake-ups aside.';

create table app.rate_limit (
    singleton    boolean     not null default true,
    next_slot_at timestamptz not null default '-infinity',

    constraint rate_limit_pkey primary key (singleton),
    constraint rate_limit_singleton_check check (singleton)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 0);

comment on table app.rate_limit is 'The rate limit that all workers share: claims take time slots from its one row, and nothing else locks it.';
comment on column app.rate_limit.next_slot_at is 'Next free time slot for a lookup (generic cell rate algorithm).';

insert into app.rate_limit default values;

alter table app.upstream_state
    drop column next_slot_at,
    add column failing_organization_id uuid;
alter table public.lookup_leases add column is_overdue boolean not null default false;
comment on column public.lookup_leases.is_overdue is 'It expired while its worker was heard of: the worker has a third of a lease to renew it.';
alter table app.workers add column returned_at timestamptz not null default '-infinity';
comment on table app.upstream_state is 'The incentives API as all workers together see it: circuit breaker, pauses, concurrency limit.';
comment on column app.upstream_state.failing_organization_id is 'The only organization that these signs are of; null: several.';
comment on column app.upstream_state.unavailable_since is 'The circuit breaker is open since then; null: closed.';
comment on column app.upstream_state.probe_at is 'With the circuit breaker open: when the next lookup may probe.';
comment on table app.workers is 'Workers whose heartbeat was heard lately; they share max_in_flight evenly.';
comment on column app.workers.returned_at is 'Its first heartbeat after a time in which no worker could write: no lease expires until one lease later.';

create type app.outage_signs as (
    failures integer,
    answered boolean,
    signs    integer,
    pause    interval,
    certain  boolean
);

comment on type app.outage_signs is 'What a flush says about the upstream: failures that are tried again, whether anything was answered for good, failures that hint at an outage, the longest pause that a Retry-After asked for, and whether that or an unreachable service is nobody''s own affair.';

update app.settings set lookups_per_second = 0.001 where lookups_per_second < 0.001;
alter table app.settings drop constraint settings_lookups_per_second_check;
alter table app.settings add constraint settings_lookups_per_second_check check (lookups_per_second between 0.001 and 100000);

drop function if exists app.hold_duplicates(uuid, uuid, timestamptz);
drop function if exists app.wake_queue(uuid, timestamptz);
drop function if exists app.queue_ahead(uuid, timestamptz);
drop function if exists app.settle_queue(uuid, timestamptz);
drop function if exists app.mend_queue(uuid, timestamptz);
drop function if exists app.free_slots(integer, timestamptz);
drop function if exists app.closed_until(app.upstream_state);
drop function if exists app.next_claim_at(app.settings, app.upstream_state);
drop function if exists app.watch_upstream(uuid, app.lookup_outcome[], timestamptz);
drop function if exists app.count_outcomes(uuid, public.lookup_queue_items[], timestamptz);
drop function if exists app.judge_outcomes(uuid[], integer[], uuid[], integer[], text[], text[], double precision[]);
drop function if exists app.work_key(app.batch_item);
drop function if exists app.lookup_request(text, jsonb, text, integer[], boolean, jsonb);
drop function if exists api.extend_leases(uuid, text, uuid[], integer[], uuid[]);
drop function if exists api.release_lookups(uuid, text, uuid[], integer[], uuid[]);
drop function if exists api.record_lookups(uuid, text, uuid[], integer[], uuid[], integer[], text[], text[], double precision[]);
