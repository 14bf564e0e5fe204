-- Chapter 53, leases: which items workers are looking up.

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

comment on table public.lookup_leases is 'One row per claim and job: the items that a worker is looking up. No foreign key: its check would wait for a flush that has locked the job.';
comment on column public.lookup_leases.lease_token is 'Fencing token of the claim: an outcome with another token comes from a worker that has lost its lease.';
comment on column public.lookup_leases.positions is 'Positions of the items that are still in flight: fewer with each outcome recorded.';
comment on column public.lookup_leases.is_overdue is 'The lease expired, but its worker has sent a heartbeat since, so it was extended once, by a third of a lease.';
