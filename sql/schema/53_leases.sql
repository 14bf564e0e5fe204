-- Chapter 53, leases: what workers hold.

create table public.lookup_leases (
    organization_id uuid           not null,
    job_id          uuid           not null,
    lease_token     uuid           not null,
    worker          text           not null,
    expires_at      timestamptz    not null,
    positions       int4multirange not null,
    is_overdue      boolean        not null default false,

    constraint lookup_leases_pkey primary key (organization_id, job_id, lease_token)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 0);

comment on table public.lookup_leases is 'One row per claim and job: the items that a worker is looking up. No foreign key: its check would wait for whoever counts outcomes.';
comment on column public.lookup_leases.lease_token is 'Names one claim: an outcome that carries another token comes from a worker that was given up.';
comment on column public.lookup_leases.positions is 'The items that are still in flight, by their place in the upload; they shrink as outcomes come in.';
comment on column public.lookup_leases.is_overdue is 'It expired while its worker was heard of: the worker has a third of a lease to renew it.';
