-- Chapter 80, webhooks: where an organization receives events, and what was sent.

create table app.webhook_configs (
    organization_id uuid        not null,
    url             text,
    events          text[]      not null default '{lookup.completed}',
    field_names     text[],
    bundle_items    boolean     not null default false,
    enabled         boolean     not null default true,
    disabled_at     timestamptz,
    disabled_reason text,
    failing_since   timestamptz,
    created_at      timestamptz not null,
    updated_at      timestamptz not null,

    constraint webhook_configs_pkey primary key (organization_id),
    constraint webhook_configs_organization_id_fkey foreign key (organization_id) references app.organizations (id) on delete cascade,
    constraint webhook_configs_url_check check (url ~ '^https?://[!-~]+$' and length(url) <= 2048),
    constraint webhook_configs_events_check check (events <@ '{lookup.completed,lookup.failed,batch.completed,batch.failed,batch.cancelled}'),
    constraint webhook_configs_disabled_check check (enabled = (disabled_at is null) and enabled = (disabled_reason is null)),
    constraint webhook_configs_disabled_reason_check check (disabled_reason in ('requested', 'gone', 'failing'))
);

comment on table app.webhook_configs is 'The webhook config of an organization; there is a row once any of it has been set.';
comment on column app.webhook_configs.url is 'Endpoint that events are POSTed to; null: none, and no events are kept. Events of a disabled config are kept as failed deliveries.';
comment on column app.webhook_configs.field_names is 'Members of webhook_custom_fields to send; null: all.';
comment on column app.webhook_configs.bundle_items is 'Whether up to 100 lookups of a batch are sent in one delivery, instead of one each.';
comment on column app.webhook_configs.disabled_reason is 'requested: by the organization; gone: the receiver answered 410; failing: no delivery succeeded for five days.';
comment on column app.webhook_configs.failing_since is 'When the first attempt since the last success failed; null: none has failed since.';

create table app.webhook_secrets (
    organization_id uuid        not null,
    id              uuid        not null,
    secret          bytea       not null,
    created_at      timestamptz not null,
    expires_at      timestamptz,

    constraint webhook_secrets_pkey primary key (organization_id, id),
    constraint webhook_secrets_organization_id_fkey foreign key (organization_id) references app.webhook_configs (organization_id) on delete cascade,
    constraint webhook_secrets_secret_check check (length(secret) between 24 and 64)
);

comment on table app.webhook_secrets is 'Signing secrets: the current one, and rotated ones until they expire.';
comment on column app.webhook_secrets.secret is 'Key of the HMAC-SHA256, stored in plain text because signing needs it; shown to the organization once.';
comment on column app.webhook_secrets.expires_at is 'Until then, deliveries are also signed with this rotated secret; null: the current one.';

create table app.webhook_deliveries (
    organization_id  uuid        not null,
    id               uuid        not null,
    event            text        not null,
    status           text        not null default 'pending',
    job_id           uuid,
    item_ids         uuid[],
    bundled          boolean     not null default false,
    data             jsonb,
    attempts         integer     not null default 0,
    retry_count      integer     not null default 0,
    next_attempt_at  timestamptz,
    lease_token      uuid,
    lease_expires_at timestamptz,
    leased_by        text,
    last_http_status integer,
    last_error       text,
    created_at       timestamptz not null,
    ended_at         timestamptz,
    positions        integer[],
    lost_leases      integer     not null default 0,

    constraint webhook_deliveries_pkey primary key (organization_id, id),
    constraint webhook_deliveries_event_check check (event in (
        'lookup.completed', 'lookup.failed', 'batch.completed', 'batch.failed', 'batch.cancelled', 'webhook.test')),
    constraint webhook_deliveries_status_check check (status in ('pending', 'sending', 'delivered', 'failed')),
    constraint webhook_deliveries_content_check check (item_ids is not null and job_id is not null and positions is not null or data is not null),
    constraint webhook_deliveries_attempts_check check (attempts >= 0 and retry_count >= 0),
    constraint webhook_deliveries_next_attempt_check check ((status = 'pending') = (next_attempt_at is not null)),
    constraint webhook_deliveries_lease_check check ((status = 'sending') = (lease_token is not null and lease_expires_at is not null)),
    constraint webhook_deliveries_ended_check check ((status in ('delivered', 'failed')) = (ended_at is not null)),
    constraint webhook_deliveries_lost_leases_check check (lost_leases >= 0)
);

create index webhook_deliveries_ready_idx on app.webhook_deliveries (organization_id, next_attempt_at) where status = 'pending';
create index webhook_deliveries_leased_idx on app.webhook_deliveries (organization_id, lease_expires_at) where status = 'sending';
create index webhook_deliveries_failed_idx on app.webhook_deliveries (organization_id, id) where status = 'failed';
create index webhook_deliveries_job_idx on app.webhook_deliveries (organization_id, job_id) where job_id is not null;

comment on table app.webhook_deliveries is 'The outbox and its history: a row is written in the same transaction as the change it reports. Its id is the webhook-id, the same in every attempt.';
comment on column app.webhook_deliveries.item_ids is 'Items that have ended, read when the delivery is sent; null: data has everything.';
comment on column app.webhook_deliveries.positions is 'Positions of these items in their job.';
comment on column app.webhook_deliveries.data is 'The data to send, as of the event; for a single lookup, an array of one, before field_names is applied. null: see item_ids.';
comment on column app.webhook_deliveries.attempts is 'Attempts with a known outcome.';
comment on column app.webhook_deliveries.lost_leases is 'Leases in a row that expired before their sender recorded an outcome.';
comment on column app.webhook_deliveries.retry_count is 'The row of app.webhook_retry_schedule that was reached; a requested resend sets it to 0.';

create table app.webhook_attempts (
    organization_id uuid        not null,
    delivery_id     uuid        not null,
    attempt         integer     not null,
    attempted_at    timestamptz not null,
    latency_ms      integer     not null,
    http_status     integer,
    error_class     text,
    response_body   text,

    constraint webhook_attempts_pkey primary key (organization_id, delivery_id, attempt),
    constraint webhook_attempts_delivery_fkey foreign key (organization_id, delivery_id)
        references app.webhook_deliveries (organization_id, id) on delete cascade,
    constraint webhook_attempts_outcome_check check ((http_status is null) = (error_class is not null)),
    constraint webhook_attempts_response_body_check check (length(response_body) <= 1024)
);

comment on table app.webhook_attempts is 'The attempts of deliveries, with their outcomes.';
comment on column app.webhook_attempts.attempted_at is 'When the request was sent.';
comment on column app.webhook_attempts.error_class is 'Why there was no response: timeout, connection, tls, refused_address (the host has no address, or one that webhooks may not be sent to), dns (no address, where private networks are allowed), invalid_url, invalid_response or other.';
comment on column app.webhook_attempts.response_body is 'The first 1,024 characters of the response or, of a redirect, its target.';

create type app.webhook_outcome as (
    delivery_id uuid,
    lease_token uuid,
    http_status integer,
    error_class text,
    latency     double precision,
    body        text,
    retry_after double precision
);

comment on type app.webhook_outcome is 'The outcome of one attempt of a delivery: the HTTP status or the error class, latency and Retry-After in seconds, the beginning of the response.';

create table app.webhook_queue_state (
    organization_id uuid        not null,
    ready_at        timestamptz,
    served_at       timestamptz not null default '-infinity',
    paused_until    timestamptz not null default '-infinity',

    constraint webhook_queue_state_pkey primary key (organization_id),
    constraint webhook_queue_state_organization_id_fkey foreign key (organization_id) references app.organizations (id) on delete cascade
) with (fillfactor = 50);

create index webhook_queue_state_ready_idx on app.webhook_queue_state (ready_at) where ready_at is not null;

comment on table app.webhook_queue_state is 'The ready list of webhooks, together with app.webhook_wakeups: one row for each organization whose deliveries have ever been claimed.';
comment on column app.webhook_queue_state.ready_at is 'From when on there may be a delivery to claim; null: none is waiting, or the config is disabled.';
comment on column app.webhook_queue_state.paused_until is 'No delivery is sent before this time: the receiver asked for a pause with Retry-After.';

create table app.webhook_wakeups (
    organization_id uuid        not null,
    id              uuid        not null,
    ready_at        timestamptz not null,

    constraint webhook_wakeups_pkey primary key (organization_id, id),
    constraint webhook_wakeups_organization_id_fkey foreign key (organization_id) references app.organizations (id) on delete cascade
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 0);

create index webhook_wakeups_ready_idx on app.webhook_wakeups (ready_at);

comment on table app.webhook_wakeups is 'Additions to the ready list of webhooks, by those who found its row locked or missing; a claim takes them in.';

create table app.webhook_retry_schedule (
    failures integer  not null,
    wait     interval not null,

    constraint webhook_retry_schedule_pkey primary key (failures),
    constraint webhook_retry_schedule_check check (failures > 0 and wait > interval '0')
);

comment on table app.webhook_retry_schedule is 'The wait after each number of failed attempts of a delivery, give or take a fifth (jitter). With more failures than there are rows, the delivery has failed.';

insert into app.webhook_retry_schedule (failures, wait) values
    (1, '5 seconds'), (2, '30 seconds'), (3, '2 minutes'), (4, '10 minutes'), (5, '30 minutes'), (6, '1 hour'),
    (7, '3 hours'), (8, '6 hours'), (9, '12 hours'), (10, '24 hours'), (11, '24 hours');
