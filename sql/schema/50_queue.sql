-- Chapter 50, the queue: which organizations have work, and how far each job has been claimed.

create table app.organization_queue_state (
    organization_id uuid        not null,
    ready_at        timestamptz,
    served_at       timestamptz not null default '-infinity',
    leases_until    timestamptz not null default '-infinity',

    constraint organization_queue_state_pkey primary key (organization_id),
    constraint organization_queue_state_organization_id_fkey foreign key (organization_id) references app.organizations (id) on delete cascade
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 0);

create index organization_queue_state_ready_idx on app.organization_queue_state (ready_at) where ready_at is not null;

comment on table app.organization_queue_state is 'The ready list, together with app.queue_wakeups: one row for each organization that has ever been served.';
comment on column app.organization_queue_state.ready_at is 'From when on there may be something to claim; null: nothing is open, apart from wake-ups.';
comment on column app.organization_queue_state.leases_until is 'No lease expires before this time, so claims do not look for expired leases until then.';
comment on column app.organization_queue_state.served_at is 'Time of the last claim: the organization that has waited longest comes first.';

create table app.queue_wakeups (
    organization_id uuid        not null,
    id              uuid        not null,
    ready_at        timestamptz not null,

    constraint queue_wakeups_pkey primary key (organization_id, id),
    constraint queue_wakeups_organization_id_fkey foreign key (organization_id) references app.organizations (id) on delete cascade
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 0);

create index queue_wakeups_ready_idx on app.queue_wakeups (ready_at);

comment on table app.queue_wakeups is 'Additions to the ready list, one row each, so that an upload or a flush locks nothing that claims need; a claim takes them in.';

create table app.queued_jobs (
    organization_id uuid    not null,
    job_id          uuid    not null,
    next_position   integer not null,
    end_position    integer not null,
    next_rank       bigint  not null,

    constraint queued_jobs_pkey primary key (organization_id, job_id),
    constraint queued_jobs_job_fkey foreign key (organization_id, job_id) references public.batch_lookup_jobs (organization_id, id),
    constraint queued_jobs_position_check check (next_position >= 0 and next_position < end_position)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 0);

create index queued_jobs_rank_idx on app.queued_jobs (organization_id, next_rank);

comment on table app.queued_jobs is 'Jobs with items that have never been claimed, and how far the claims have come.';
comment on column app.queued_jobs.next_position is 'High-water mark: the next item to claim. Those before it have been claimed, or need not be.';
comment on column app.queued_jobs.end_position is 'One more than the last position.';
comment on column app.queued_jobs.next_rank is 'Order of service within the organization: the job with the lowest rank is next. Each claimed item raises it by one.';
