-- Chapter 64, shares: links at which people without a credential can read a report.

create table app.report_shares (
    id              uuid        not null,
    organization_id uuid        not null,
    report_id       uuid        not null,
    token_hash      bytea       not null,
    created_by      text,
    created_at      timestamptz not null,
    expires_at      timestamptz not null,

    constraint report_shares_pkey primary key (id),
    constraint report_shares_token_hash_key unique (token_hash),
    constraint report_shares_organization_id_fkey foreign key (organization_id) references app.organizations (id) on delete cascade,
    constraint report_shares_token_hash_check check (length(token_hash) = 32),
    constraint report_shares_expires_at_check check (expires_at > created_at)
);

create index report_shares_report_idx on app.report_shares (organization_id, report_id);

comment on table app.report_shares is 'Links to reports for people without a credential: hashes of their tokens, never the tokens. A small shared table, like app.api_keys. A row is deleted when its link is revoked or its report is deleted.';
comment on column app.report_shares.token_hash is 'SHA-256 of the token, which has 256 random bits.';
comment on column app.report_shares.created_by is 'Who created it: the id of an API key, or the Clerk id of a user; null: an operator.';
comment on column app.report_shares.expires_at is 'From then on, the link no longer works.';
