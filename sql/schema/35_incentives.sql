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

create type app.tier_result as (
    program_id             text,
    program_name           text,
    device_id              integer,
    device_name            text,
    tier_id                text,
    tier_name              text,
    eligible               boolean,
    incentive_amount       numeric,
    calculation_details    text,
    failed_requirements    text[],
    ignored_requirements   text[],
    completed_requirements text[]
);

comment on type app.tier_result is 'What one tier of a program gives for one device of a lookup, whose repeated ids count as its quantity. Amount in US dollars.';
