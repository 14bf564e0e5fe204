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
    conditional_incentive_amount numeric not null default 0,

    constraint incentive_reports_pkey primary key (organization_id, id),
    constraint incentive_reports_job_key unique (organization_id, job_id),
    constraint incentive_reports_organization_id_fkey foreign key (organization_id) references app.organizations (id),
    constraint incentive_reports_status_check check (status in ('processing', 'complete', 'error')),
    constraint incentive_reports_report_type_check check (report_type in ('bulk_lookup')),
    constraint incentive_reports_sites_check check (eligible_sites >= 0 and eligible_sites <= total_sites),
    constraint incentive_reports_value_check check (total_incentive_value >= 0),
    constraint incentive_reports_conditional_check check (conditional_incentive_amount >= 0),
    constraint incentive_reports_completed_at_check check ((status = 'processing') = (completed_at is null))
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 0);

create index incentive_reports_newest_idx on public.incentive_reports (organization_id, created_at desc, id desc);
create index incentive_reports_error_idx on public.incentive_reports (organization_id, created_at desc, id desc) where status = 'error';

comment on table public.incentive_reports is 'One row per report; its totals always match its sites.';
comment on column public.incentive_reports.total_incentive_value is 'US dollars.';
comment on column public.incentive_reports.conditional_incentive_amount is 'US dollars of the offers that depend on facts about households that the lookups did not give; in no total.';

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
    conditional_incentive_amount numeric not null default 0,

    constraint incentive_report_sites_pkey primary key (organization_id, report_id, position),
    constraint incentive_report_sites_amount_check check (total_incentive_amount >= 0),
    constraint incentive_report_sites_conditional_check check (conditional_incentive_amount >= 0),
    constraint incentive_report_sites_categories_check check (cardinality(category_amounts) = cardinality(device_categories))
);

comment on table public.incentive_report_sites is 'One row per completed item: a site of the report, in upload order.';
comment on column public.incentive_report_sites.category_amounts is 'US dollars for the devices of each of device_categories, in the same order, as far as the answer itemizes them.';
comment on column public.incentive_report_sites.total_incentive_amount is 'US dollars.';
comment on column public.incentive_report_sites.conditional_incentive_amount is 'US dollars of the offers that depend on facts about the household that the lookup did not give; in no total.';
comment on column public.incentive_report_sites.utility_eiaid is 'Number of the utility, assigned by the US Energy Information Administration, as the provider gave it.';

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

comment on table public.incentive_report_site_programs is 'The programs that a site is eligible for.';
comment on column public.incentive_report_site_programs.total_incentive is 'US dollars for all devices of the site together.';
