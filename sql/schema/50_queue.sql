-- Chapter 50, the queue: who has work, at which pace, and what an answer means.

create table app.organization_queue_state (
    organization_id uuid        not null,
    ready_at        timestamptz,
    served_at       timestamptz not null default '-infinity',
    leases_until    timestamptz not null default '-infinity',

    constraint organization_queue_state_pkey primary key (organization_id),
    constraint organization_queue_state_organization_id_fkey foreign key (organization_id) references app.organizations (id) on delete cascade
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 0);

create index organization_queue_state_ready_idx on app.organization_queue_state (ready_at) where ready_at is not null;

comment on table app.organization_queue_state is 'The ready list: one row per organization that ever had work.';
comment on column app.organization_queue_state.ready_at is 'From when on there is, or may be, something to claim; null: nothing is open.';
comment on column app.organization_queue_state.leases_until is 'No lease expires before: until then a claim need not look for one.';
comment on column app.organization_queue_state.served_at is 'Last claim: the organization that waited longest comes first.';

create table app.queued_jobs (
    organization_id uuid    not null,
    job_id          uuid    not null,
    next_position   integer not null,
    end_position    integer not null,
    next_rank       bigint  not null,

    constraint queued_jobs_pkey primary key (organization_id, job_id),
    constraint queued_jobs_job_fkey foreign key (organization_id, job_id) references public.batch_lookup_jobs (organization_id, id),
    constraint queued_jobs_position_check check (next_position >= 0 and next_position < end_position)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 0);

create index queued_jobs_rank_idx on app.queued_jobs (organization_id, next_rank);

comment on table app.queued_jobs is 'Jobs with items that were never claimed: how far the claims have come.';
comment on column app.queued_jobs.next_position is 'The next item to claim; those before it were claimed at least once, or need not be.';
comment on column app.queued_jobs.end_position is 'Behind the last item.';
comment on column app.queued_jobs.next_rank is 'Order of service inside the organization: the job with the lowest goes next, and one up for every item.';

create table public.lookup_leases (
    organization_id uuid           not null,
    job_id          uuid           not null,
    lease_token     uuid           not null,
    worker          text           not null,
    expires_at      timestamptz    not null,
    positions       int4multirange not null,

    constraint lookup_leases_pkey primary key (organization_id, job_id, lease_token)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 0);

comment on table public.lookup_leases is 'One row per claim and job: the items that a worker is looking up. No foreign key: its check would wait for whoever counts outcomes.';
comment on column public.lookup_leases.lease_token is 'Names one claim: an outcome that carries another token comes from a worker that was given up.';
comment on column public.lookup_leases.positions is 'The items that are still in flight, by their place in the upload; they shrink as outcomes come in.';

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

create table app.retry_policy (
    outcome       text not null,
    action        text not null,
    error_code    text not null,
    error_message text not null,
    outage        boolean not null default false,

    constraint retry_policy_pkey primary key (outcome),
    constraint retry_policy_action_check check (action in ('retry', 'wait', 'fail')),
    constraint retry_policy_outcome_check check (outcome ~ '^([1-5][0-9][0-9]|[1-5]xx|[a-z_]+)$')
);

comment on table app.retry_policy is 'What an unsuccessful answer means. The most exact row wins: the HTTP status or error class, then its hundred (4xx), then other.';
comment on column app.retry_policy.action is 'retry: up to max_retries times; wait: like retry, but with a Retry-After it pauses everybody and costs no retry; fail: at once.';
comment on column app.retry_policy.error_message is 'For the user; a message that the incentives API sent with a 4xx takes its place.';

comment on column app.retry_policy.outage is 'Nobody is there, which is never the fault of an item: no last attempt is lost to it. Other failures are a sign of an outage on an item''s first attempt only.';

insert into app.retry_policy (outcome, action, error_code, error_message) values
    ('400',                'fail',  'upstream_rejected',       'The incentives service refused the request'),
    ('401',                'fail',  'upstream_unauthorized',   'The incentives service did not accept our credentials'),
    ('403',                'fail',  'upstream_unauthorized',   'The incentives service did not accept our credentials'),
    ('404',                'fail',  'not_found',               'The incentives service found nothing for this address'),
    ('408',                'retry', 'upstream_timeout',        'The incentives service did not answer in time'),
    ('425',                'retry', 'upstream_error',          'The incentives service asked to try again later'),
    ('429',                'wait',  'upstream_rate_limited',   'The incentives service refused too many requests'),
    ('503',                'wait',  'upstream_unavailable',    'The incentives service was not available'),
    ('2xx',                'retry', 'invalid_response',        'The incentives service sent an answer that could not be read'),
    ('3xx',                'fail',  'upstream_redirected',     'The incentives service answered with a redirect'),
    ('4xx',                'fail',  'upstream_rejected',       'The incentives service refused the request'),
    ('5xx',                'retry', 'upstream_error',          'The incentives service reported an error of its own'),
    ('timeout',            'retry', 'upstream_timeout',        'The incentives service did not answer in time'),
    ('connection',         'retry', 'upstream_unreachable',    'The connection to the incentives service broke off'),
    ('unreachable',        'retry', 'upstream_unreachable',    'The incentives service could not be reached'),
    ('dns',                'retry', 'upstream_unreachable',    'The address of the incentives service could not be resolved'),
    ('tls',                'retry', 'upstream_unreachable',    'No secure connection to the incentives service could be made'),
    ('invalid_response',   'retry', 'invalid_response',        'The incentives service sent an answer that could not be read'),
    ('response_too_large', 'fail',  'response_too_large',      'The incentives service sent an answer that is too large'),
    ('other',              'retry', 'upstream_error',          'The lookup did not succeed');

update app.retry_policy set outage = true where outcome in ('unreachable', 'dns', 'tls');

create type app.lookup_outcome as (
    job_id        uuid,
    "position"    integer,
    lease_token   uuid,
    action        text,
    result        jsonb,
    error_code    text,
    error_message text,
    pause         interval,
    outage        boolean
);

comment on type app.lookup_outcome is 'What came of one lookup, judged by app.retry_policy: complete, retry, wait (with the pause asked for) or fail.';
