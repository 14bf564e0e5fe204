-- Chapter 22, audit: who created, changed, revoked or linked what.

create table app.audit_events (
    organization_id uuid        not null,
    id              uuid        not null,
    action          text        not null,
    actor_type      text        not null,
    actor_id        text,
    target_id       text,
    details         jsonb       not null default '{}',
    created_at      timestamptz not null,

    constraint audit_events_pkey primary key (organization_id, id),
    constraint audit_events_action_check check (action ~ '^[a-z_]+\.[a-z_]+$'),
    constraint audit_events_actor_type_check check (actor_type in ('api_key', 'user', 'operator', 'system'))
);

create index audit_events_created_at_idx on app.audit_events (created_at);

comment on table app.audit_events is 'Who made, changed, revoked or linked what, written in the transaction that did it. Rows are only added, until audit_retention_days have passed; those of a deleted organization stay. No foreign key for that reason.';
comment on column app.audit_events.organization_id is 'Whose it is; all zeros: the installation''s own, such as its settings.';
comment on column app.audit_events.id is 'A UUID of version 7: later events have greater ids.';
comment on column app.audit_events.action is 'What happened, such as api_key.created.';
comment on column app.audit_events.actor_type is 'api_key; user: of Clerk; operator: somebody with SQL access or the command line; system: the product itself.';
comment on column app.audit_events.actor_id is 'The id of the API key, the id of the user, or the role of the operator in the database; null: not known.';
comment on column app.audit_events.target_id is 'The id of what it was done to; null: the action names it.';
comment on column app.audit_events.details is 'What is worth knowing besides. Never a key, a secret or a URL, which may hold one.';
