-- Chapter 30, catalogue: devices, utilities and the programs that pay for them. Small tables shared by all organizations, filled by
-- api.import_catalogue. A catalogue is a set of rows imported together, such as the starter catalogue; rows that a later import of the same
-- catalogue lacks are retired, never those of another. Retired devices can still be looked up; retired utilities and programs no longer
-- count.

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
comment on column app.device_categories.typical_cost is 'Typical cost of one device, installed, in US dollars; assumed if a lookup does not give the cost.';
comment on column app.device_categories.basis is 'Source of the typical cost.';
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

comment on table app.device_category_sizes is 'Typical sizes, assumed if a lookup does not give the size: one for each unit by which programs pay for the category.';
comment on column app.device_category_sizes.unit is 'The unit in the singular, such as ton (12,000 BTU per hour), kilowatt, kilowatt_hour, square_foot, port.';
comment on column app.device_category_sizes.typical_size is 'Size of a typical device, in this unit.';
comment on column app.device_category_sizes.basis is 'Source of the typical size.';

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

create index devices_category_idx on app.devices (category_key);

comment on table app.devices is 'Devices that incentives are looked up for: the device_ids of a request.';
comment on column app.devices.id is 'Assigned by the catalogue, the same in every database.';

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

create index utilities_region_idx on app.utilities (country_code, region_code);

comment on table app.utilities is 'Electric utilities, with one row for each state or province that they serve.';
comment on column app.utilities.eiaid is 'Number assigned by the US Energy Information Administration; null: not known.';
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
comment on column app.utility_service_areas.rank is '1: the utility that serves most of the area, which is chosen if a lookup names none.';

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
    cities         text[],

    constraint programs_pkey primary key (id),
    constraint programs_region_fkey foreign key (country_code, region_code) references app.regions (country_code, code),
    constraint programs_authority_type_check check (authority_type in ('utility', 'state', 'city', 'county', 'other')),
    constraint programs_scope_check check (scope in ('state', 'utility'))
);

create index programs_region_idx on app.programs (country_code, region_code) where scope = 'state' and retired_at is null;

comment on table app.programs is 'Incentive programs. Their tiers say what they pay, for what and when.';
comment on column app.programs.id is 'The program_id in the results of lookups: assigned by the catalogue, the same in every database and import.';
comment on column app.programs.authority is 'Who runs the program.';
comment on column app.programs.scope is 'state: for the customers of all utilities of the state or province; utility: for those of the utilities in app.program_utilities.';
comment on column app.programs.cities is 'Cities that it is for, by their names as app.plain_name leaves them; null: everywhere within its scope. An address counts by the city of its mail, whose area may be larger than the city.';
comment on column app.programs.source is 'Source of the facts.';
comment on column app.programs.source_id is 'Id of the program at the source.';
comment on column app.programs.source_date is 'Date of the source''s facts; null: the source gives none.';

create table app.program_utilities (
    utility_key text not null,
    program_id  text not null,

    constraint program_utilities_pkey primary key (utility_key, program_id),
    constraint program_utilities_utility_key_fkey foreign key (utility_key) references app.utilities (key),
    constraint program_utilities_program_id_fkey foreign key (program_id) references app.programs (id)
);

create index program_utilities_program_idx on app.program_utilities (program_id);

comment on table app.program_utilities is 'The utilities whose customers may apply to a program of scope utility.';

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
    income_requirement text,
    income_limits  jsonb,
    excludes       text[],
    shared_cap     numeric,
    other_requirements text,

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
    constraint program_tiers_dates_check check (start_date <= end_date),
    constraint program_tiers_income_check check (income_limits is null or income_requirement is not null and jsonb_typeof(income_limits) = 'object'),
    constraint program_tiers_excludes_check check (excludes <> '{}'),
    constraint program_tiers_shared_cap_check check (shared_cap > 0)
);

comment on table app.program_tiers is 'What a program pays: one row for each of its offers (tiers).';
comment on column app.program_tiers.category_keys is 'Device categories that the offer covers.';
comment on column app.program_tiers.device_ids is 'Devices of these categories that the offer covers; null: all.';
comment on column app.program_tiers.amount_type is 'flat: an amount for each device; per_unit: an amount for each unit of its size; percent: a part of its cost.';
comment on column app.program_tiers.amount is 'US dollars; for percent, 0 to 100.';
comment on column app.program_tiers.unit is 'Unit of the size that a per_unit amount is for, as in app.device_category_sizes; null: not per_unit.';
comment on column app.program_tiers.cap is 'Most that a site gets from the offer, for all its devices together, in US dollars; null: no cap.';
comment on column app.program_tiers.cap_percent is 'Most that the offer pays for a device, in percent of its cost (0 to 100); null: no such cap.';
comment on column app.program_tiers.building_types is 'Building types that are eligible; null: all.';
comment on column app.program_tiers.owner_statuses is 'Who may apply: homeowner, renter or both; null: everyone.';
comment on column app.program_tiers.start_date is 'First day; null: no start date.';
comment on column app.program_tiers.end_date is 'Last day; null: no end date.';
comment on column app.program_tiers.income_requirement is 'The requirement on the household''s income, in words; null: none.';
comment on column app.program_tiers.income_limits is 'Highest yearly income of an eligible household in US dollars, by household size or tax filing: {"1": [62600, 62600], "joint": [lowest, highest]}. The two differ where the limit depends on the county, which a lookup does not give: then they are the lowest and the highest limit of all counties. null: the source has no table.';
comment on column app.program_tiers.excludes is 'Ids of the programs that pay nothing for a device that this offer pays for; null: none.';
comment on column app.program_tiers.shared_cap is 'Most that a site gets from all offers of the program with this cap, together, in US dollars; null: no shared cap.';
comment on column app.program_tiers.other_requirements is 'Requirements that no lookup checks, in words; null: none.';
comment on column app.program_tiers.note is 'How well the facts are confirmed, if the source says so.';
