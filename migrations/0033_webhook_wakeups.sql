-- squawk-ignore-file adding-foreign-key-constraint
-- Nobody waits for a row of the ready list of webhooks.

create table app.webhook_wakeups (
    organization_id uuid        not null,
    id              uuid        not null,
    ready_at        timestamptz not null,

    constraint webhook_wakeups_pkey primary key (organization_id, id),
    constraint webhook_wakeups_organization_id_fkey foreign key (organization_id) references app.organizations (id) on delete cascade
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 0);

create index webhook_wakeups_ready_idx on app.webhook_wakeups (ready_at);

comment on table app.webhook_wakeups is 'Additions to the ready list of webhooks by those who found its row held, or none; a claim takes them in.';
comment on table app.webhook_queue_state is 'The ready list of webhooks, together with app.webhook_wakeups: one row per organization whose deliveries were ever claimed.';
