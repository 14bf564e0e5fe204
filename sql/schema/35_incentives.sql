-- Chapter 35, incentives: the customers that lookups were made for, and the result of each.

create table app.customers (
    organization_id uuid        not null,
    id              bigint      not null generated always as identity,
    reference_id    text        not null,
    created_at      timestamptz not null,
    address         jsonb,
    building_type   text,
    device_ids      integer[],
    utility_keys    text[],

    constraint customers_pkey primary key (organization_id, id),
    constraint customers_reference_id_key unique (organization_id, reference_id),
    constraint customers_organization_id_fkey foreign key (organization_id) references app.organizations (id)
);

comment on table app.customers is 'Customers: one row for each organization and reference_id, created by the first lookup with POST /incentives or the first application.';
comment on column app.customers.id is 'The customer_id that the API shows.';
comment on column app.customers.reference_id is 'The organization''s own id for the customer or site.';
comment on column app.customers.device_ids is 'Devices of the last lookup, which a refresh repeats, together with address and building_type; null: an external provider answered it.';
comment on column app.customers.utility_keys is 'Utilities that serve the address, the chosen one first.';

create table app.incentive_profiles (
    organization_id uuid        not null,
    company         text,
    device_names    jsonb       not null default '{}',
    updated_at      timestamptz not null,

    constraint incentive_profiles_pkey primary key (organization_id),
    constraint incentive_profiles_organization_id_fkey foreign key (organization_id) references app.organizations (id),
    constraint incentive_profiles_company_check check (company ~ '^[A-Za-z0-9._~-]{1,100}$'),
    constraint incentive_profiles_device_names_check check (jsonb_typeof(device_names) = 'object')
);

comment on table app.incentive_profiles is 'An organization''s settings for all its lookups.';
comment on column app.incentive_profiles.company is 'The organization''s part of a connect_url; null: POST /incentives refuses to create applications.';
comment on column app.incentive_profiles.device_names is 'The organization''s own names for devices, in lower case, with the ids of the devices: {"split system": 1}.';

create table app.incentive_calls (
    organization_id uuid        not null,
    id              uuid        not null,
    customer_id     bigint,
    reference_id    text,
    operation_type  text        not null,
    status          integer     not null,
    response        text        not null,
    called_at       timestamptz not null,

    constraint incentive_calls_pkey primary key (organization_id, id),
    constraint incentive_calls_organization_id_fkey foreign key (organization_id) references app.organizations (id)
);

comment on table app.incentive_calls is 'Responses of POST /incentives, including refusals; kept for incentive_call_retention_days. Ids ascend with time.';
comment on column app.incentive_calls.customer_id is 'The customer of the lookup; null: the call was refused.';
comment on column app.incentive_calls.status is 'HTTP status of the response.';
comment on column app.incentive_calls.response is 'Body of the response: JSON, as text.';
