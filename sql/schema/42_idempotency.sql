-- Chapter 42, idempotency: requests that can be repeated without taking effect twice.

create table app.idempotency_keys (
    organization_id uuid        not null,
    route           text        not null,
    key             text        not null,
    fingerprint     bytea       not null,
    status          integer,
    response        json,
    created_at      timestamptz not null,

    constraint idempotency_keys_pkey primary key (organization_id, route, key),
    constraint idempotency_keys_organization_id_fkey foreign key (organization_id) references app.organizations (id) on delete cascade,
    constraint idempotency_keys_key_check check (length(key) between 1 and 255),
    constraint idempotency_keys_response_check check ((status is null) = (response is null))
);

create index idempotency_keys_created_at_idx on app.idempotency_keys (created_at);

comment on table app.idempotency_keys is 'Responses to requests with an Idempotency-Key, stored in the transaction of the first request and kept for 7 days.';
comment on column app.idempotency_keys.fingerprint is 'SHA-256 of the request: a different request with the same key is refused.';
comment on column app.idempotency_keys.response is 'Null only inside the transaction that handles the first request.';
