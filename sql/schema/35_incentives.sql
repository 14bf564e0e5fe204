-- Chapter 35, incentives: the customers that lookups were made for, and the result of one.

create table app.customers (
    organization_id uuid        not null,
    id              bigint      not null generated always as identity,
    reference_id    text        not null,
    created_at      timestamptz not null,

    constraint customers_pkey primary key (organization_id, id),
    constraint customers_reference_id_key unique (organization_id, reference_id),
    constraint customers_organization_id_fkey foreign key (organization_id) references app.organizations (id)
);

comment on table app.customers is 'Who a lookup is for: one row for each reference_id of an organization, made by its first lookup.';
comment on column app.customers.id is 'The customer_id that the API shows.';
comment on column app.customers.reference_id is 'The organization''s own name for the customer or site.';

create type app.judged_tier as (
    program_id     text,
    program_name   text,
    location       text,
    tier           app.program_tiers,
    device         app.devices,
    category       text,
    quantity       bigint,
    place          bigint,
    size           numeric,
    size_known     boolean,
    cost           numeric,
    cost_known     boolean,
    failed         text[],
    completed      text[],
    full_amount    numeric,
    limited_amount numeric,
    amount         numeric
);

comment on type app.judged_tier is 'What one tier of a program gives for one device of a lookup. Size in the tier''s unit and cost of one piece; amounts in US dollars for all pieces of the device: in full; limited to a share of the cost; and what is left of that under the cap. The last two are 0 where a requirement failed.';
