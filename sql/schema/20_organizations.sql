-- Chapter 20, organizations: the tenants and their API keys.

create table app.organizations (
    id                    uuid        not null,
    name                  text        not null,
    clerk_organization_id text,
    created_at            timestamptz not null default now(),
    monthly_lookups       integer,

    constraint organizations_pkey primary key (id),
    constraint organizations_name_key unique (name),
    constraint organizations_clerk_organization_id_key unique (clerk_organization_id),
    constraint organizations_name_check check (btrim(name) <> '' and length(name) <= 200),
    constraint organizations_monthly_lookups_check check (monthly_lookups >= 0)
);

create index organizations_limited_idx on app.organizations (id) where monthly_lookups is not null;
create index organizations_of_clerk_idx on app.organizations (id) where substr(id::text, 15, 1) = '8';

comment on table app.organizations is 'The tenants. A small shared table.';
comment on column app.organizations.monthly_lookups is 'Lookups that the organization may make in a calendar month (UTC), set with api.set_monthly_lookups; null: no limit.';
comment on column app.organizations.clerk_organization_id is 'The organization''s id at Clerk, such as org_2ab...; null: it has none.';

create table app.api_keys (
    id               uuid        not null,
    organization_id  uuid        not null,
    key_hash         bytea       not null,
    prefix           text        not null,
    last_four        text        not null,
    name             text        not null,
    scopes           text[]      not null,
    allowed_networks cidr[],
    expires_at       timestamptz,
    revoked_at       timestamptz,
    replaced_by      uuid,
    created_at       timestamptz not null default now(),
    created_by       text,

    constraint api_keys_pkey primary key (id),
    constraint api_keys_key_hash_key unique (key_hash),
    constraint api_keys_organization_id_fkey foreign key (organization_id) references app.organizations (id) on delete cascade,
    constraint api_keys_key_hash_check check (length(key_hash) = 32),
    constraint api_keys_prefix_check check (prefix in ('leap_live_', 'leap_test_')),
    constraint api_keys_last_four_check check (length(last_four) = 4)
);

create index api_keys_organization_idx on app.api_keys (organization_id);

comment on table app.api_keys is 'API keys: their attributes and hashes, never the keys themselves.';
comment on column app.api_keys.key_hash is 'HMAC-SHA256 of the whole key, keyed with the deployment''s pepper.';
comment on column app.api_keys.prefix is 'leap_live_ or leap_test_.';
comment on column app.api_keys.scopes is 'What the key may do, such as jobs:read.';
comment on column app.api_keys.allowed_networks is 'Networks from which the key may be used; null: any.';
comment on column app.api_keys.replaced_by is 'The key that replaces this one after a rotation; this one still works until it expires.';
comment on column app.api_keys.created_by is 'Who created it: the id of an API key, or the Clerk id of a user; null: an operator.';

create table app.api_key_uses (
    organization_id uuid        not null,
    api_key_id      uuid        not null,
    used_at         timestamptz not null,

    constraint api_key_uses_pkey primary key (organization_id, api_key_id),
    constraint api_key_uses_organization_id_fkey foreign key (organization_id) references app.organizations (id) on delete cascade
) with (fillfactor = 50);

comment on table app.api_key_uses is 'When each API key was last used. Apart from app.api_keys, which all organizations share, so that a request writes only rows of its own organization.';
comment on column app.api_key_uses.used_at is 'Accurate to a minute.';
