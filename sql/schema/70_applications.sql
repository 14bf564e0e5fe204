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

comment on table public.applications is 'One row per customer and program: created by lookups with create_application, moved through its statuses by the organization.';
comment on column public.applications.reference_id is 'The reference_id of the customer.';
comment on column public.applications.total_incentive is 'US dollars, as of the last lookup that found the program before the application was submitted.';
