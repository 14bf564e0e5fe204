-- Chapter 10, foundation: the schemas, the settings and the states and provinces.

create schema if not exists app;
create schema if not exists api;

comment on schema app is 'What the system keeps for itself: organizations, settings, catalogue, queue state, and internal functions.';
comment on schema api is 'The functions that anyone outside may call.';

create table app.settings (
    singleton                 boolean     not null default true,
    lookups_per_second        numeric     default 20,
    max_in_flight             integer     not null default 50,
    max_retries               integer     not null default 3,
    retry_backoff_seconds     numeric     not null default 2,
    retry_backoff_max_seconds numeric     not null default 300,
    lookup_timeout_seconds    numeric     not null default 30,
    lease_seconds             numeric     not null default 60,
    max_response_bytes        integer     not null default 1048576,
    items_per_run             integer     not null default 10,
    outage_failures           integer     not null default 10,
    outage_patience_seconds   numeric     not null default 3600,
    deduplicate_seconds       numeric,
    create_clerk_organizations boolean    not null default true,
    incentive_call_retention_days integer not null default 30,
    internal_key              text        not null default encode(sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), 'hex'),
    updated_at                timestamptz not null default now(),
    max_open_items            integer     not null default 200000,
    requests_per_minute       integer     default 120000,
    job_retention_days        integer,

    constraint settings_pkey primary key (singleton),
    constraint settings_singleton_check check (singleton),
    constraint settings_lookups_per_second_check check (lookups_per_second > 0 and lookups_per_second <= 100000),
    constraint settings_max_in_flight_check check (max_in_flight between 1 and 10000),
    constraint settings_max_retries_check check (max_retries between 0 and 20),
    constraint settings_retry_backoff_seconds_check check (retry_backoff_seconds between 0 and 3600),
    constraint settings_retry_backoff_max_seconds_check check (retry_backoff_max_seconds between 0 and 86400),
    constraint settings_lookup_timeout_seconds_check check (lookup_timeout_seconds between 0.1 and 600),
    constraint settings_lease_seconds_check check (lease_seconds between 1 and 3600),
    constraint settings_max_response_bytes_check check (max_response_bytes between 1024 and 67108864),
    constraint settings_items_per_run_check check (items_per_run between 1 and 1000),
    constraint settings_incentive_call_retention_days_check check (incentive_call_retention_days between 1 and 3650),
    constraint settings_outage_failures_check check (outage_failures between 1 and 10000),
    constraint settings_deduplicate_seconds_check check (deduplicate_seconds between 0 and 31536000),
    constraint settings_outage_patience_seconds_check check (outage_patience_seconds between 0 and 604800),
    constraint settings_max_open_items_check check (max_open_items > 0),
    constraint settings_requests_per_minute_check check (requests_per_minute > 0),
    constraint settings_job_retention_days_check check (job_retention_days > 0)
);

comment on table app.settings is 'The one row of settings, changed with api.update_settings and effective without a restart.';
comment on column app.settings.lookups_per_second is 'Pace of all workers together, in lookups a second; null: no limit.';
comment on column app.settings.max_in_flight is 'Lookups that all workers together may have in the air at once.';
comment on column app.settings.max_retries is 'Retries after the first attempt of a lookup.';
comment on column app.settings.retry_backoff_seconds is 'Wait before the first retry, in seconds; it doubles with every further one, and varies by up to half.';
comment on column app.settings.retry_backoff_max_seconds is 'Longest wait before a retry, in seconds.';
comment on column app.settings.lookup_timeout_seconds is 'Seconds that one lookup may take over HTTP.';
comment on column app.settings.lease_seconds is 'Seconds after which a claimed item whose worker is silent returns to the queue.';
comment on column app.settings.max_response_bytes is 'Largest answer of the incentives API that is read, in bytes.';
comment on column app.settings.items_per_run is 'Items that one manual run of POST /batch-lookups-worker looks up at most.';
comment on column app.settings.outage_failures is 'Lookups that fail in a row before the incentives API counts as unavailable: then it is only tried with one lookup at a time.';
comment on column app.settings.deduplicate_seconds is 'For so many seconds, an answer is given to all items of its organization with the same address, building type and devices; null: every item is looked up.';
comment on column app.settings.outage_patience_seconds is 'Seconds of an outage during which items wait at no cost; when it lasts longer, they use up their retries and fail.';
comment on column app.settings.create_clerk_organizations is 'Whether an organization is created when a member of it first comes with a Clerk token; else it is refused.';
comment on column app.settings.incentive_call_retention_days is 'Days for which the answers of POST /incentives are logged.';
comment on column app.settings.max_open_items is 'Items that an organization may have pending and in the air at once, all its batches together.';
comment on column app.settings.requests_per_minute is 'Requests that one API key, or one person with a session token, may make of each API process in a minute; null: no limit.';
comment on column app.settings.job_retention_days is 'Days after its end that a job is deleted with its items; its report stays. null: never.';
comment on column app.settings.internal_key is 'Random secret by which the worker and the API of this database know each other when no SERVICE_ROLE_KEY is set.';

insert into app.settings default values;

create table app.regions (
    country_code   text          not null,
    code           text          not null,
    name           text          not null,
    zip3           int4multirange,
    postal_letters text,

    constraint regions_pkey primary key (country_code, code),
    constraint regions_country_code_check check (country_code in ('US', 'CA'))
);

comment on table app.regions is 'States, territories and military regions of the United States, provinces of Canada. Source: USPS Publication 28, Canada Post; the three-digit ZIP ranges come from a CC0 list of ZIP prefixes by state.';
comment on column app.regions.zip3 is 'First three digits of the ZIP codes in use there; null: not a US region.';
comment on column app.regions.postal_letters is 'First letters of its Canadian postal codes.';

insert into app.regions (country_code, code, name, zip3, postal_letters) values
    ('US', 'AL', 'Alabama', '{[350,353),[354,370)}', null),
    ('US', 'AK', 'Alaska', '{[995,1000)}', null),
    ('US', 'AZ', 'Arizona', '{[850,854),[855,858),[859,861),[863,866)}', null),
    ('US', 'AR', 'Arkansas', '{[716,730)}', null),
    ('US', 'CA', 'California', '{[900,909),[910,929),[930,962)}', null),
    ('US', 'CO', 'Colorado', '{[800,817)}', null),
    ('US', 'CT', 'Connecticut', '{[60,70)}', null),
    ('US', 'DE', 'Delaware', '{[197,200)}', null),
    ('US', 'DC', 'District of Columbia', '{[200,201),[202,206),[569,570)}', null),
    ('US', 'FL', 'Florida', '{[320,340),[341,343),[344,345),[346,348),[349,350)}', null),
    ('US', 'GA', 'Georgia', '{[300,320),[398,400)}', null),
    ('US', 'HI', 'Hawaii', '{[967,969)}', null),
    ('US', 'ID', 'Idaho', '{[832,839)}', null),
    ('US', 'IL', 'Illinois', '{[600,621),[622,630)}', null),
    ('US', 'IN', 'Indiana', '{[460,480)}', null),
    ('US', 'IA', 'Iowa', '{[500,517),[520,529)}', null),
    ('US', 'KS', 'Kansas', '{[660,663),[664,680)}', null),
    ('US', 'KY', 'Kentucky', '{[400,419),[420,428)}', null),
    ('US', 'LA', 'Louisiana', '{[700,702),[703,709),[710,715)}', null),
    ('US', 'ME', 'Maine', '{[39,50)}', null),
    ('US', 'MD', 'Maryland', '{[206,213),[214,220)}', null),
    ('US', 'MA', 'Massachusetts', '{[10,28),[55,56)}', null),
    ('US', 'MI', 'Michigan', '{[480,500)}', null),
    ('US', 'MN', 'Minnesota', '{[550,552),[553,568)}', null),
    ('US', 'MS', 'Mississippi', '{[386,398)}', null),
    ('US', 'MO', 'Missouri', '{[630,632),[633,642),[644,659)}', null),
    ('US', 'MT', 'Montana', '{[590,600)}', null),
    ('US', 'NE', 'Nebraska', '{[680,682),[683,694)}', null),
    ('US', 'NV', 'Nevada', '{[889,892),[893,896),[897,899)}', null),
    ('US', 'NH', 'New Hampshire', '{[30,39)}', null),
    ('US', 'NJ', 'New Jersey', '{[70,90)}', null),
    ('US', 'NM', 'New Mexico', '{[870,872),[873,885)}', null),
    ('US', 'NY', 'New York', '{[5,6),[100,150)}', null),
    ('US', 'NC', 'North Carolina', '{[270,290)}', null),
    ('US', 'ND', 'North Dakota', '{[580,589)}', null),
    ('US', 'OH', 'Ohio', '{[430,460)}', null),
    ('US', 'OK', 'Oklahoma', '{[730,732),[734,742),[743,750)}', null),
    ('US', 'OR', 'Oregon', '{[970,980)}', null),
    ('US', 'PA', 'Pennsylvania', '{[150,197)}', null),
    ('US', 'RI', 'Rhode Island', '{[28,30)}', null),
    ('US', 'SC', 'South Carolina', '{[290,300)}', null),
    ('US', 'SD', 'South Dakota', '{[570,578)}', null),
    ('US', 'TN', 'Tennessee', '{[370,386)}', null),
    ('US', 'TX', 'Texas', '{[733,734),[750,771),[772,800),[885,886)}', null),
    ('US', 'UT', 'Utah', '{[840,848)}', null),
    ('US', 'VT', 'Vermont', '{[50,55),[56,60)}', null),
    ('US', 'VA', 'Virginia', '{[201,202),[220,247)}', null),
    ('US', 'WA', 'Washington', '{[980,987),[988,995)}', null),
    ('US', 'WV', 'West Virginia', '{[247,269)}', null),
    ('US', 'WI', 'Wisconsin', '{[530,533),[534,536),[537,550)}', null),
    ('US', 'WY', 'Wyoming', '{[820,832)}', null),
    ('US', 'AS', 'American Samoa', '{[967,968)}', null),
    ('US', 'FM', 'Federated States of Micronesia', '{[969,970)}', null),
    ('US', 'GU', 'Guam', '{[969,970)}', null),
    ('US', 'MH', 'Marshall Islands', '{[969,970)}', null),
    ('US', 'MP', 'Northern Mariana Islands', '{[969,970)}', null),
    ('US', 'PW', 'Palau', '{[969,970)}', null),
    ('US', 'PR', 'Puerto Rico', '{[6,8),[9,10)}', null),
    ('US', 'VI', 'U.S. Virgin Islands', '{[8,9)}', null),
    ('US', 'AA', 'Armed Forces Americas', '{[340,341)}', null),
    ('US', 'AE', 'Armed Forces Europe', '{[90,99)}', null),
    ('US', 'AP', 'Armed Forces Pacific', '{[962,967)}', null),
    ('CA', 'AB', 'Alberta', null, 'T'),
    ('CA', 'BC', 'British Columbia', null, 'V'),
    ('CA', 'MB', 'Manitoba', null, 'R'),
    ('CA', 'NB', 'New Brunswick', null, 'E'),
    ('CA', 'NL', 'Newfoundland and Labrador', null, 'A'),
    ('CA', 'NS', 'Nova Scotia', null, 'B'),
    ('CA', 'NT', 'Northwest Territories', null, 'X'),
    ('CA', 'NU', 'Nunavut', null, 'X'),
    ('CA', 'ON', 'Ontario', null, 'KLMNP'),
    ('CA', 'PE', 'Prince Edward Island', null, 'C'),
    ('CA', 'QC', 'Quebec', null, 'GHJK'),
    ('CA', 'SK', 'Saskatchewan', null, 'S'),
    ('CA', 'YT', 'Yukon', null, 'Y');
-- Chapter 20, organizations: the tenants and their API keys.

create table app.organizations (
    id                    uuid        not null,
    name                  text        not null,
    clerk_organization_id text,
    created_at            timestamptz not null default now(),

    constraint organizations_pkey primary key (id),
    constraint organizations_name_key unique (name),
    constraint organizations_clerk_organization_id_key unique (clerk_organization_id),
    constraint organizations_name_check check (btrim(name) <> '' and length(name) <= 200)
);

comment on table app.organizations is 'The tenants. A small shared table.';
comment on column app.organizations.clerk_organization_id is 'The id by which Clerk knows the organization, such as org_2ab...';

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
    last_used_at     timestamptz,
    created_at       timestamptz not null default now(),

    constraint api_keys_pkey primary key (id),
    constraint api_keys_key_hash_key unique (key_hash),
    constraint api_keys_organization_id_fkey foreign key (organization_id) references app.organizations (id) on delete cascade,
    constraint api_keys_key_hash_check check (length(key_hash) = 32),
    constraint api_keys_prefix_check check (prefix in ('leap_live_', 'leap_test_')),
    constraint api_keys_last_four_check check (length(last_four) = 4)
);

create index api_keys_organization_idx on app.api_keys (organization_id);

comment on table app.api_keys is 'API keys: what tells one from another, never the key itself.';
comment on column app.api_keys.key_hash is 'HMAC-SHA256 of the whole key with the deployment''s pepper.';
comment on column app.api_keys.prefix is 'leap_live_ or leap_test_.';
comment on column app.api_keys.scopes is 'What the key may do, such as jobs:read.';
comment on column app.api_keys.allowed_networks is 'Where the key may be used from; null: anywhere.';
comment on column app.api_keys.replaced_by is 'The key that this one was rotated into; it expires soon.';
comment on column app.api_keys.last_used_at is 'Exact to a minute.';
-- Chapter 30, catalogue: devices, utilities and the programs that pay for them. Small tables shared by all organizations, filled by
-- api.import_catalogue. A catalogue is a set of rows imported together, such as the starter catalogue; what a later import of the
-- same catalogue no longer has is retired, never another's. Retired devices can still be looked up; retired utilities and programs
-- no longer count.

create table app.device_categories (
    key          text        not null,
    name         text        not null,
    typical_cost numeric     not null,
    basis        text        not null,
    catalogue    text        not null,
    retired_at   timestamptz,

    constraint device_categories_pkey primary key (key),
    constraint device_categories_typical_cost_check check (typical_cost > 0)
);

comment on table app.device_categories is 'Kinds of equipment and work, such as heat_pump.';
comment on column app.device_categories.typical_cost is 'US dollars for one device, installed: stands in for a project cost that a lookup does not tell.';
comment on column app.device_categories.basis is 'Where the typical cost comes from.';
comment on column app.device_categories.catalogue is 'The catalogue that the row was imported with.';

create table app.device_category_sizes (
    category_key text    not null,
    unit         text    not null,
    typical_size numeric not null,
    basis        text    not null,

    constraint device_category_sizes_pkey primary key (category_key, unit),
    constraint device_category_sizes_category_key_fkey foreign key (category_key) references app.device_categories (key),
    constraint device_category_sizes_typical_size_check check (typical_size > 0),
    constraint device_category_sizes_unit_check check (unit ~ '^[a-z0-9_]+$')
);

comment on table app.device_category_sizes is 'Typical sizes: they stand in for a size that a lookup does not tell. A category has one for each unit that a program pays by.';
comment on column app.device_category_sizes.unit is 'Singular, such as ton (12,000 BTU an hour), kilowatt, kilowatt_hour, square_foot, port.';
comment on column app.device_category_sizes.typical_size is 'Units that one typical device has.';
comment on column app.device_category_sizes.basis is 'Where the typical size comes from.';

create table app.devices (
    id           integer     not null,
    category_key text        not null,
    name         text        not null,
    catalogue    text        not null,
    retired_at   timestamptz,

    constraint devices_pkey primary key (id),
    constraint devices_category_key_fkey foreign key (category_key) references app.device_categories (key),
    constraint devices_id_check check (id > 0)
);

comment on table app.devices is 'What a site asks incentives for: the device_ids of a request.';
comment on column app.devices.id is 'Fixed by the catalogue, the same in every database.';

create table app.utilities (
    key          text        not null,
    eiaid        integer,
    name         text        not null,
    country_code text        not null,
    region_code  text        not null,
    source       text        not null,
    source_date  date,
    catalogue    text        not null,
    retired_at   timestamptz,

    constraint utilities_pkey primary key (key),
    constraint utilities_region_fkey foreign key (country_code, region_code) references app.regions (country_code, code),
    constraint utilities_eiaid_check check (eiaid > 0)
);

comment on table app.utilities is 'Electric utilities; one that serves two states has a row for each.';
comment on column app.utilities.eiaid is 'Number at the US Energy Information Administration; null: not known.';
comment on column app.utilities.region_code is 'The state or province.';

create table app.utility_service_areas (
    prefix      text    not null,
    utility_key text    not null,
    rank        integer not null,

    constraint utility_service_areas_pkey primary key (prefix, utility_key),
    constraint utility_service_areas_utility_key_fkey foreign key (utility_key) references app.utilities (key),
    constraint utility_service_areas_prefix_check check (prefix ~ '^([0-9]{1,5}|[A-Z]([0-9]([A-Z]([0-9]([A-Z][0-9]?)?)?)?)?)$'),
    constraint utility_service_areas_rank_check check (rank > 0)
);

create index utility_service_areas_utility_idx on app.utility_service_areas (utility_key);

comment on table app.utility_service_areas is 'Which utilities serve the postal codes that begin with a prefix; the longest prefix wins.';
comment on column app.utility_service_areas.prefix is '1 to 5 digits of a ZIP code, or the first characters of a Canadian postal code without the space.';
comment on column app.utility_service_areas.rank is '1: the utility that serves the most of the area, and is chosen when a lookup names none.';

create table app.programs (
    id             text        not null,
    name           text        not null,
    authority      text        not null,
    authority_type text        not null,
    country_code   text        not null,
    region_code    text        not null,
    scope          text        not null,
    url            text,
    source         text        not null,
    source_id      text,
    source_date    date,
    catalogue      text        not null,
    retired_at     timestamptz,

    constraint programs_pkey primary key (id),
    constraint programs_region_fkey foreign key (country_code, region_code) references app.regions (country_code, code),
    constraint programs_authority_type_check check (authority_type in ('utility', 'state', 'city', 'county', 'other')),
    constraint programs_scope_check check (scope in ('state', 'utility'))
);

create index programs_region_idx on app.programs (country_code, region_code) where scope = 'state' and retired_at is null;

comment on table app.programs is 'Incentive programs. What they pay, for what and when, is in their tiers.';
comment on column app.programs.id is 'The program_id of a lookup: given by the catalogue, the same in every database and import.';
comment on column app.programs.authority is 'Who runs the program.';
comment on column app.programs.scope is 'state: open to the customers of all utilities of the state or province; utility: to those of app.program_utilities.';
comment on column app.programs.source is 'Where the facts come from.';
comment on column app.programs.source_id is 'What the source calls the program.';
comment on column app.programs.source_date is 'Day of the source''s facts; null: the source has no date.';

create table app.program_utilities (
    utility_key text not null,
    program_id  text not null,

    constraint program_utilities_pkey primary key (utility_key, program_id),
    constraint program_utilities_utility_key_fkey foreign key (utility_key) references app.utilities (key),
    constraint program_utilities_program_id_fkey foreign key (program_id) references app.programs (id)
);

create index program_utilities_program_idx on app.program_utilities (program_id);

comment on table app.program_utilities is 'The utilities whose customers a program of scope utility is open to.';

create table app.program_tiers (
    program_id     text    not null,
    id             text    not null,
    name           text    not null,
    category_keys  text[]  not null,
    device_ids     integer[],
    amount_type    text    not null,
    amount         numeric not null,
    unit           text,
    cap            numeric,
    cap_percent    numeric,
    building_types text[],
    owner_statuses text[],
    start_date     date,
    end_date       date,
    note           text,

    constraint program_tiers_pkey primary key (program_id, id),
    constraint program_tiers_program_id_fkey foreign key (program_id) references app.programs (id),
    constraint program_tiers_category_keys_check check (category_keys <> '{}'),
    constraint program_tiers_device_ids_check check (device_ids <> '{}'),
    constraint program_tiers_amount_type_check check (amount_type in ('flat', 'per_unit', 'percent')),
    constraint program_tiers_amount_check check (amount >= 0 and (amount_type <> 'percent' or amount <= 100)),
    constraint program_tiers_unit_check check ((amount_type = 'per_unit') = (unit is not null)),
    constraint program_tiers_cap_check check (cap > 0),
    constraint program_tiers_cap_percent_check check (cap_percent > 0 and cap_percent <= 100),
    constraint program_tiers_building_types_check
        check (building_types <> '{}' and building_types <@ array['RESIDENTIAL', 'MULTIFAMILY', 'MANUFACTURED_HOME', 'COMMERCIAL']),
    constraint program_tiers_owner_statuses_check check (owner_statuses <> '{}' and owner_statuses <@ array['homeowner', 'renter']),
    constraint program_tiers_dates_check check (start_date <= end_date)
);

comment on table app.program_tiers is 'What a program pays: one row for each of its offers.';
comment on column app.program_tiers.category_keys is 'Device categories that the offer is for.';
comment on column app.program_tiers.device_ids is 'The devices of these categories that the offer is for; null: all.';
comment on column app.program_tiers.amount_type is 'flat: so much a device; per_unit: so much a unit of its size; percent: of its cost.';
comment on column app.program_tiers.amount is 'US dollars; of a percent, 0 to 100.';
comment on column app.program_tiers.unit is 'Unit of the size that a per_unit amount goes by, as in app.device_category_sizes.';
comment on column app.program_tiers.cap is 'Most that a site gets from the offer, in US dollars, all its devices together.';
comment on column app.program_tiers.cap_percent is 'Most that a device gets, in percent of its cost, 0 to 100.';
comment on column app.program_tiers.building_types is 'Building types that are eligible; null: all.';
comment on column app.program_tiers.owner_statuses is 'Who may apply, homeowner or renter; null: everyone.';
comment on column app.program_tiers.start_date is 'First day; null: open since ever.';
comment on column app.program_tiers.end_date is 'Last day; null: open until further notice.';
comment on column app.program_tiers.note is 'How well the facts are confirmed, where the source says so.';
-- Chapter 35, incentives: the customers that lookups were made for, and the result of one.

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

comment on table app.customers is 'Who a lookup is for: one row for each reference_id of an organization, made by its first lookup.';
comment on column app.customers.id is 'The customer_id that the API shows.';
comment on column app.customers.reference_id is 'The organization''s own name for the customer or site.';
comment on column app.customers.device_ids is 'Devices of the last lookup, like address and building_type: what a refresh looks up again. null: an external provider answered it.';
comment on column app.customers.utility_keys is 'Utilities of the address, the chosen one first.';

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

comment on table app.incentive_profiles is 'What an organization tells once for all its lookups.';
comment on column app.incentive_profiles.company is 'The organization''s part of a connect_url; null: it files no applications.';
comment on column app.incentive_profiles.device_names is 'Its own names of devices, in lower case, and their ids: {"split system": 1}.';

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

comment on table app.incentive_calls is 'Every answer of POST /incentives; kept for incentive_call_retention_days. Ids rise with time.';
comment on column app.incentive_calls.customer_id is 'null: the call was refused before a customer was found.';
comment on column app.incentive_calls.status is 'HTTP status of the answer.';
comment on column app.incentive_calls.response is 'The body of the answer, JSON as text.';

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
-- Chapter 40, batch lookups: a job is an upload, an item is one site to look up.

create table public.batch_lookup_jobs (
    organization_id uuid        not null,
    id              uuid        not null,
    name            text,
    status          text        not null default 'pending',
    total_items     integer     not null,
    processed_items integer     not null default 0,
    failed_items    integer     not null default 0,
    report_id       uuid        not null,
    created_at      timestamptz not null,
    started_at      timestamptz,
    completed_at    timestamptz,
    updated_at      timestamptz not null,
    retry_of_job_id uuid,

    constraint batch_lookup_jobs_pkey primary key (organization_id, id),
    constraint batch_lookup_jobs_organization_id_fkey foreign key (organization_id) references app.organizations (id),
    constraint batch_lookup_jobs_status_check check (status in ('pending', 'processing', 'completed', 'failed', 'cancelled')),
    constraint batch_lookup_jobs_total_check check (total_items > 0),
    constraint batch_lookup_jobs_counters_check check (failed_items >= 0 and failed_items <= processed_items and processed_items <= total_items),
    constraint batch_lookup_jobs_ended_check check ((status in ('pending', 'processing')) = (completed_at is null)),
    constraint batch_lookup_jobs_outcome_check check (
        case status
            when 'pending'    then processed_items = 0
            when 'processing' then processed_items < total_items
            when 'completed'  then processed_items = total_items and failed_items < total_items
            when 'failed'     then failed_items = total_items
            else true
        end)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 0);

create index batch_lookup_jobs_newest_idx on public.batch_lookup_jobs (organization_id, created_at desc, id desc);
create index batch_lookup_jobs_open_idx on public.batch_lookup_jobs (organization_id, id) where status in ('pending', 'processing');
create index batch_lookup_jobs_ended_idx on public.batch_lookup_jobs (organization_id, completed_at) where completed_at is not null;

comment on table public.batch_lookup_jobs is 'One row per uploaded batch, watched live by its owners: no array, json or point column, default replica identity.';
comment on column public.batch_lookup_jobs.processed_items is 'Items that ended: completed and failed together.';
comment on column public.batch_lookup_jobs.completed_at is 'When the job ended, whether completed, failed or cancelled.';
comment on column public.batch_lookup_jobs.retry_of_job_id is 'The job whose failed items this one tries again; it may have been deleted since.';

create table public.lookup_queue_items (
    organization_id       uuid        not null,
    id                    uuid        not null,
    job_id                uuid        not null,
    position              integer     not null,
    status                text        not null default 'pending',
    queue_rank            bigint      not null,
    reference_id          text        not null,
    address               jsonb       not null,
    building_type         text        not null,
    device_ids            integer[]   not null,
    create_application    boolean     not null default false,
    webhook_custom_fields jsonb,
    warnings              text[],
    retry_count           integer     not null default 0,
    retry_at              timestamptz,
    lease_token           uuid,
    lease_expires_at      timestamptz,
    leased_by             text,
    result                jsonb,
    error_code            text,
    error_message         text,
    created_at            timestamptz not null,
    processed_at          timestamptz,
    work_key              uuid,

    constraint lookup_queue_items_pkey primary key (organization_id, id),
    constraint lookup_queue_items_job_position_key unique (organization_id, job_id, position),
    constraint lookup_queue_items_job_fkey foreign key (organization_id, job_id) references public.batch_lookup_jobs (organization_id, id),
    constraint lookup_queue_items_status_check check (status in ('pending', 'processing', 'completed', 'failed')),
    constraint lookup_queue_items_lease_check check ((status = 'processing') = (lease_token is not null and lease_expires_at is not null)),
    constraint lookup_queue_items_retry_check check (retry_at is null or status = 'pending'),
    constraint lookup_queue_items_ended_check check ((status in ('completed', 'failed')) = (processed_at is not null)),
    constraint lookup_queue_items_outcome_check check ((status = 'completed') = (result is not null) and (status = 'failed') = (error_code is not null and error_message is not null and processed_at is not null))
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

create index lookup_queue_items_ready_idx on public.lookup_queue_items (organization_id, queue_rank)
    where status = 'pending' and retry_at is null;
create index lookup_queue_items_waiting_idx on public.lookup_queue_items (organization_id, retry_at)
    where status = 'pending' and retry_at is not null;
create index lookup_queue_items_failed_idx on public.lookup_queue_items (organization_id, job_id, error_code)
    where status = 'failed';
create index lookup_queue_items_leased_idx on public.lookup_queue_items (organization_id, lease_expires_at)
    where status = 'processing';

create index lookup_queue_items_work_idx on public.lookup_queue_items (organization_id, work_key) where work_key is not null;

comment on table public.lookup_queue_items is 'One row per site of a batch: what to look up, where it stands in the queue, and what came of it.';
comment on column public.lookup_queue_items.position is 'Place in the upload, from 0.';
comment on column public.lookup_queue_items.queue_rank is 'Order of service inside the organization: batches that are open together take turns, item by item.';
comment on column public.lookup_queue_items.retry_at is 'A retry waits until then; null: ready, or not pending.';
comment on column public.lookup_queue_items.lease_token is 'Names one claim: an outcome that carries another token comes from a worker that was given up.';
comment on column public.lookup_queue_items.result is 'The answer of the incentives API, as it came.';
comment on column public.lookup_queue_items.work_key is 'Items with the same key are the same work; null: looked up whatever others are.';
comment on column public.lookup_queue_items.warnings is 'What looks wrong with the input, but did not stop it.';

create type app.batch_item as (
    position              integer,
    reference_id          text,
    address               jsonb,
    building_type         text,
    device_ids            integer[],
    create_application    boolean,
    webhook_custom_fields jsonb,
    warnings              text[],
    errors                text
);

comment on type app.batch_item is 'An item of an upload as the validator reads it; errors null: it is valid.';
-- Chapter 42, uploads: requests that may be repeated without doing anything twice.

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

comment on table app.idempotency_keys is 'Answers that a repeated request gets again, written in the transaction of what they tell of; kept for 7 days.';
comment on column app.idempotency_keys.fingerprint is 'SHA-256 of the request: another one under the same key is refused.';
comment on column app.idempotency_keys.response is 'Null only inside the transaction that works on it.';
-- Chapter 50, the queue: who has work, at which pace, and what an answer means.

create table app.organization_queue_state (
    organization_id uuid        not null,
    ready_at        timestamptz,
    served_at       timestamptz not null default '-infinity',
    served_rank     bigint      not null default 0,
    first_rank      bigint,

    constraint organization_queue_state_pkey primary key (organization_id),
    constraint organization_queue_state_organization_id_fkey foreign key (organization_id) references app.organizations (id) on delete cascade
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 0);

create index organization_queue_state_ready_idx on app.organization_queue_state (ready_at) where ready_at is not null;

comment on table app.organization_queue_state is 'The ready list: one row per organization that ever had work.';
comment on column app.organization_queue_state.ready_at is 'From when on there is, or may be, something to claim; null: nothing is open.';
comment on column app.organization_queue_state.served_at is 'Last claim: the organization that waited longest comes first.';
comment on column app.organization_queue_state.first_rank is 'Where a claim may begin to look: no ready item stands before, except for a minute after a claim that failed. Null: at the start.';
comment on column app.organization_queue_state.served_rank is 'Highest rank ever claimed: where a new batch starts when no other is waiting.';

create table app.upstream_state (
    singleton         boolean          not null default true,
    next_slot_at      timestamptz      not null default '-infinity',
    paused_until      timestamptz      not null default '-infinity',
    failures_in_a_row integer          not null default 0,
    unavailable_since timestamptz,
    probe_at          timestamptz      not null default '-infinity',
    in_flight_limit   double precision,
    base_latency      double precision,
    adapted_at        timestamptz      not null default '-infinity',

    constraint upstream_state_pkey primary key (singleton),
    constraint upstream_state_singleton_check check (singleton),
    constraint upstream_state_failures_in_a_row_check check (failures_in_a_row >= 0),
    constraint upstream_state_in_flight_limit_check check (in_flight_limit >= 1)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 0);

comment on table app.upstream_state is 'The incentives API as all workers together see it: pace, pauses, outages, how many lookups it bears at once.';
comment on column app.upstream_state.next_slot_at is 'Next free time slot for a lookup (generic cell rate algorithm).';
comment on column app.upstream_state.paused_until is 'No lookup starts before: the incentives API asked for a pause with Retry-After.';
comment on column app.upstream_state.failures_in_a_row is 'Signs of an outage since the last answer.';
comment on column app.upstream_state.unavailable_since is 'Start of the outage that lasts; null: it answers.';
comment on column app.upstream_state.probe_at is 'In an outage: when the next lookup may try.';
comment on column app.upstream_state.in_flight_limit is 'Lookups it seems to bear at once: grows while latency is flat, shrinks with errors; null: max_in_flight.';
comment on column app.upstream_state.base_latency is 'Seconds that a lookup takes when all is well.';
comment on column app.upstream_state.adapted_at is 'Last change of in_flight_limit: a few a second at most.';

insert into app.upstream_state default values;

create table app.workers (
    id         text        not null,
    started_at timestamptz not null,
    seen_at    timestamptz not null,

    constraint workers_pkey primary key (id),
    constraint workers_id_check check (id <> '' and length(id) <= 200)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 0);

comment on table app.workers is 'Workers that checked in lately; they share max_in_flight evenly.';

create table app.retry_policy (
    outcome       text not null,
    action        text not null,
    error_code    text not null,
    error_message text not null,
    outage        boolean not null default false,

    constraint retry_policy_pkey primary key (outcome),
    constraint retry_policy_action_check check (action in ('retry', 'wait', 'fail')),
    constraint retry_policy_outcome_check check (outcome ~ '^([1-5][0-9][0-9]|[1-5]xx|[a-z_]+)$')
);

comment on table app.retry_policy is 'What an unsuccessful answer means. The most exact row wins: the HTTP status or error class, then its hundred (4xx), then other.';
comment on column app.retry_policy.action is 'retry: up to max_retries times; wait: like retry, but with a Retry-After it pauses everybody and costs no retry; fail: at once.';
comment on column app.retry_policy.error_message is 'For the user; a message that the incentives API sent with a 4xx takes its place.';

comment on column app.retry_policy.outage is 'Nobody is there, which is never the fault of an item: no last attempt is lost to it. Other failures are a sign of an outage on an item''s first attempt only.';

insert into app.retry_policy (outcome, action, error_code, error_message) values
    ('400',                'fail',  'upstream_rejected',       'The incentives service refused the request'),
    ('401',                'fail',  'upstream_unauthorized',   'The incentives service did not accept our credentials'),
    ('403',                'fail',  'upstream_unauthorized',   'The incentives service did not accept our credentials'),
    ('404',                'fail',  'not_found',               'The incentives service found nothing for this address'),
    ('408',                'retry', 'upstream_timeout',        'The incentives service did not answer in time'),
    ('425',                'retry', 'upstream_error',          'The incentives service asked to try again later'),
    ('429',                'wait',  'upstream_rate_limited',   'The incentives service refused too many requests'),
    ('503',                'wait',  'upstream_unavailable',    'The incentives service was not available'),
    ('2xx',                'retry', 'invalid_response',        'The incentives service sent an answer that could not be read'),
    ('3xx',                'fail',  'upstream_redirected',     'The incentives service answered with a redirect'),
    ('4xx',                'fail',  'upstream_rejected',       'The incentives service refused the request'),
    ('5xx',                'retry', 'upstream_error',          'The incentives service reported an error of its own'),
    ('timeout',            'retry', 'upstream_timeout',        'The incentives service did not answer in time'),
    ('connection',         'retry', 'upstream_unreachable',    'The connection to the incentives service broke off'),
    ('unreachable',        'retry', 'upstream_unreachable',    'The incentives service could not be reached'),
    ('dns',                'retry', 'upstream_unreachable',    'The address of the incentives service could not be resolved'),
    ('tls',                'retry', 'upstream_unreachable',    'No secure connection to the incentives service could be made'),
    ('invalid_response',   'retry', 'invalid_response',        'The incentives service sent an answer that could not be read'),
    ('response_too_large', 'fail',  'response_too_large',      'The incentives service sent an answer that is too large'),
    ('other',              'retry', 'upstream_error',          'The lookup did not succeed');

update app.retry_policy set outage = true where outcome in ('unreachable', 'dns', 'tls');

create type app.lookup_outcome as (
    item_id       uuid,
    lease_token   uuid,
    action        text,
    result        jsonb,
    error_code    text,
    error_message text,
    pause         interval,
    outage        boolean
);

comment on type app.lookup_outcome is 'What came of one lookup, judged by app.retry_policy: complete, retry, wait (with the pause asked for) or fail.';
-- Chapter 60, reports: what a batch found, site by site.

create table public.incentive_reports (
    organization_id       uuid        not null,
    id                    uuid        not null,
    job_id                uuid,
    name                  text        not null,
    description           text        not null,
    status                text        not null default 'processing',
    report_type           text        not null default 'bulk_lookup',
    total_sites           integer     not null default 0,
    eligible_sites        integer     not null default 0,
    total_incentive_value numeric     not null default 0,
    created_at            timestamptz not null,
    completed_at          timestamptz,
    updated_at            timestamptz not null,

    constraint incentive_reports_pkey primary key (organization_id, id),
    constraint incentive_reports_job_key unique (organization_id, job_id),
    constraint incentive_reports_organization_id_fkey foreign key (organization_id) references app.organizations (id),
    constraint incentive_reports_status_check check (status in ('processing', 'complete', 'error')),
    constraint incentive_reports_report_type_check check (report_type in ('bulk_lookup')),
    constraint incentive_reports_sites_check check (eligible_sites >= 0 and eligible_sites <= total_sites),
    constraint incentive_reports_value_check check (total_incentive_value >= 0),
    constraint incentive_reports_completed_at_check check ((status = 'processing') = (completed_at is null))
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 0);

create index incentive_reports_newest_idx on public.incentive_reports (organization_id, created_at desc, id desc);

comment on table public.incentive_reports is 'One row per report; its totals always equal its sites.';
comment on column public.incentive_reports.total_incentive_value is 'US dollars.';

create table public.incentive_report_sites (
    organization_id        uuid        not null,
    report_id              uuid        not null,
    position               integer     not null,
    item_id                uuid        not null,
    reference_id           text        not null,
    street_1               text,
    street_2               text,
    city                   text,
    state_or_province_code text,
    postal_code            text,
    country_code           text,
    building_type          text        not null,
    device_categories      text[]      not null,
    category_amounts       numeric[]   not null,
    utility_eiaid          text,
    utility_name           text,
    eligible               boolean     not null,
    total_incentive_amount numeric     not null,
    created_at             timestamptz not null,

    constraint incentive_report_sites_pkey primary key (organization_id, report_id, position),
    constraint incentive_report_sites_amount_check check (total_incentive_amount >= 0),
    constraint incentive_report_sites_categories_check check (cardinality(category_amounts) = cardinality(device_categories))
);

comment on table public.incentive_report_sites is 'One row per completed item: a site of the report, in upload order.';
comment on column public.incentive_report_sites.category_amounts is 'US dollars for the devices of each of device_categories, in the same order, as far as the answer tells devices apart.';
comment on column public.incentive_report_sites.total_incentive_amount is 'US dollars.';
comment on column public.incentive_report_sites.utility_eiaid is 'Number of the utility at the US Energy Information Administration, as the provider gave it.';

create table public.incentive_report_site_programs (
    organization_id       uuid    not null,
    report_id             uuid    not null,
    position              integer not null,
    program_id            text    not null,
    program_name          text    not null,
    total_incentive       numeric not null,
    eligible_combinations integer not null,

    constraint incentive_report_site_programs_pkey primary key (organization_id, report_id, position, program_id),
    constraint incentive_report_site_programs_amount_check check (total_incentive >= 0 and eligible_combinations >= 0)
);

comment on table public.incentive_report_site_programs is 'The programs a site is eligible for.';
comment on column public.incentive_report_site_programs.total_incentive is 'US dollars, all devices of the site together.';

create type app.page_mark as (
    sort         text,
    "position"   integer,
    amount       numeric,
    reference_id text,
    created_at   timestamptz,
    id           uuid,
    number       bigint
);

comment on type app.page_mark is 'Where a page of a list ended: what a cursor holds.';
-- Chapter 70, applications: what is filed with the programs that a customer is eligible for.

create table public.applications (
    organization_id    uuid        not null,
    id                 bigint      not null generated always as identity,
    customer_id        bigint      not null,
    reference_id       text        not null,
    program_id         text        not null,
    program_name       text        not null,
    application_status text        not null default 'not_started',
    total_incentive    numeric     not null,
    created_at         timestamptz not null,
    updated_at         timestamptz not null,
    submitted_at       timestamptz,
    decided_at         timestamptz,

    constraint applications_pkey primary key (organization_id, id),
    constraint applications_customer_program_key unique (organization_id, customer_id, program_id),
    constraint applications_customer_fkey foreign key (organization_id, customer_id) references app.customers (organization_id, id),
    constraint applications_application_status_check
        check (application_status in ('not_started', 'in_progress', 'awaiting_partner', 'completed', 'submitted', 'approved', 'rejected')),
    constraint applications_total_incentive_check check (total_incentive >= 0),
    constraint applications_submitted_at_check check ((application_status in ('submitted', 'approved', 'rejected')) = (submitted_at is not null)),
    constraint applications_decided_at_check check ((application_status in ('approved', 'rejected')) = (decided_at is not null))
);

create index applications_reference_idx on public.applications (organization_id, reference_id, id);

comment on table public.applications is 'One row for each customer and program: made by lookups with create_application, moved on by the organization.';
comment on column public.applications.reference_id is 'The customer''s.';
comment on column public.applications.total_incentive is 'US dollars, as of the last lookup before it was submitted.';
-- Chapter 80, webhooks: where an organization wants to hear of what ended, and what it was sent.

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

comment on table app.webhook_configs is 'Where an organization''s webhooks go, and which it wants; a row once it has set any of that.';
comment on column app.webhook_configs.url is 'Where deliveries are POSTed; null: nowhere, and no event is kept.';
comment on column app.webhook_configs.field_names is 'The members of webhook_custom_fields that are sent; null: all of them.';
comment on column app.webhook_configs.bundle_items is 'Up to 100 lookups of a batch in one delivery, instead of one each.';
comment on column app.webhook_configs.disabled_reason is 'requested: by the organization; gone: the receiver answered 410; failing: nothing got through for five days.';
comment on column app.webhook_configs.failing_since is 'The first failed attempt since the last one that succeeded.';

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

comment on table app.webhook_secrets is 'What deliveries are signed with: the current secret, and rotated ones until they expire.';
comment on column app.webhook_secrets.secret is 'Key of HMAC-SHA256, needed as it is for signing; shown to the organization once.';
comment on column app.webhook_secrets.expires_at is 'A rotated secret signs along until then; null: the current one.';

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

    constraint webhook_deliveries_pkey primary key (organization_id, id),
    constraint webhook_deliveries_event_check check (event in (
        'lookup.completed', 'lookup.failed', 'batch.completed', 'batch.failed', 'batch.cancelled', 'webhook.test')),
    constraint webhook_deliveries_status_check check (status in ('pending', 'sending', 'delivered', 'failed')),
    constraint webhook_deliveries_content_check check (item_ids is not null or data is not null),
    constraint webhook_deliveries_attempts_check check (attempts >= 0 and retry_count >= 0),
    constraint webhook_deliveries_next_attempt_check check ((status = 'pending') = (next_attempt_at is not null)),
    constraint webhook_deliveries_lease_check check ((status = 'sending') = (lease_token is not null and lease_expires_at is not null)),
    constraint webhook_deliveries_ended_check check ((status in ('delivered', 'failed')) = (ended_at is not null))
);

create index webhook_deliveries_ready_idx on app.webhook_deliveries (organization_id, next_attempt_at) where status = 'pending';
create index webhook_deliveries_leased_idx on app.webhook_deliveries (organization_id, lease_expires_at) where status = 'sending';
create index webhook_deliveries_failed_idx on app.webhook_deliveries (organization_id, id) where status = 'failed';
create index webhook_deliveries_job_idx on app.webhook_deliveries (organization_id, job_id) where job_id is not null;

comment on table app.webhook_deliveries is 'The outbox and its history: a row is written in the transaction that makes the event true. Its id is the webhook-id of every attempt.';
comment on column app.webhook_deliveries.item_ids is 'Ended items, which are read when it is sent; null: data has it all.';
comment on column app.webhook_deliveries.data is 'What is sent, as it was at the event; of a lookup that was no item of a batch an array of one, before field_names is applied; null: see item_ids.';
comment on column app.webhook_deliveries.attempts is 'Attempts whose outcome is known.';
comment on column app.webhook_deliveries.retry_count is 'How far down app.webhook_retry_schedule it is; 0 again when it is sent again on request.';

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

comment on table app.webhook_attempts is 'What came of each attempt.';
comment on column app.webhook_attempts.attempted_at is 'When its request was sent.';
comment on column app.webhook_attempts.error_class is 'Why there was no answer: timeout, connection, tls, dns, refused_address, invalid_url, invalid_response or other.';
comment on column app.webhook_attempts.response_body is 'The first 1,024 characters of the answer.';

create table app.webhook_queue_state (
    organization_id uuid        not null,
    ready_at        timestamptz,
    served_at       timestamptz not null default '-infinity',
    paused_until    timestamptz not null default '-infinity',

    constraint webhook_queue_state_pkey primary key (organization_id),
    constraint webhook_queue_state_organization_id_fkey foreign key (organization_id) references app.organizations (id) on delete cascade
) with (fillfactor = 50);

create index webhook_queue_state_ready_idx on app.webhook_queue_state (ready_at) where ready_at is not null;

comment on table app.webhook_queue_state is 'The ready list of webhooks: one row per organization that ever had a delivery.';
comment on column app.webhook_queue_state.ready_at is 'From when on there is, or may be, a delivery to claim; null: none is waiting, or the config is disabled.';
comment on column app.webhook_queue_state.paused_until is 'The receiver asked for a pause with Retry-After.';

create table app.webhook_retry_schedule (
    failures integer  not null,
    wait     interval not null,

    constraint webhook_retry_schedule_pkey primary key (failures),
    constraint webhook_retry_schedule_check check (failures > 0 and wait > interval '0')
);

comment on table app.webhook_retry_schedule is 'How long a delivery waits after so many failed attempts, give or take a fifth; after more than there are rows it has failed.';

insert into app.webhook_retry_schedule (failures, wait) values
    (1, '5 seconds'), (2, '30 seconds'), (3, '2 minutes'), (4, '10 minutes'), (5, '30 minutes'), (6, '1 hour'),
    (7, '3 hours'), (8, '6 hours'), (9, '12 hours'), (10, '24 hours'), (11, '24 hours');
-- Chapter 90, maintenance: what is put right and cleared away every minute.

create table app.maintenance_state (
    singleton boolean     not null default true,
    ran_at    timestamptz not null default '-infinity',

    constraint maintenance_state_pkey primary key (singleton),
    constraint maintenance_state_singleton_check check (singleton)
);

comment on table app.maintenance_state is 'When app.run_maintenance last ran: a worker runs it where pg_cron does not.';

insert into app.maintenance_state default values;
