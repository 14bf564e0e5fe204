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

comment on table app.audit_events is 'Who created, changed, revoked or linked what, written in the transaction that did it. Rows are never changed, and are deleted after audit_retention_days. Those of a deleted organization stay, so there is no foreign key.';
comment on column app.audit_events.organization_id is 'The organization concerned; all zeros: the installation itself, such as its settings.';
comment on column app.audit_events.id is 'A version 7 UUID: later events have greater ids.';
comment on column app.audit_events.action is 'What happened, such as api_key.created.';
comment on column app.audit_events.actor_type is 'api_key; user: of Clerk; operator: somebody with SQL access or the command line; system: the software itself.';
comment on column app.audit_events.actor_id is 'Id of the API key, id of the user, or database role of the operator; null: not known, or the system.';
comment on column app.audit_events.target_id is 'Id of what the action was done to; null: the action alone says it.';
comment on column app.audit_events.details is 'Further facts about the action. Never a key, a secret or a URL, which may contain one.';
