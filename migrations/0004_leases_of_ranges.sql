-- squawk-ignore-file ban-drop-function, ban-drop-column, ban-drop-type, ban-drop-view, ban-drop-constraint, constraint-missing-not-valid
-- A claim writes one lease for each job instead of every item: which items are in flight is in public.lookup_leases, and how far the
-- claims of a job have come in app.queued_jobs. Its functions name an item by its job and its position.

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

comment on table app.queued_jobs is 'Jobs with items that were never claimed: how far the claims have come.';
comment on column app.queued_jobs.next_position is 'The next item to claim; those before it were claimed at least once, or need not be.';
comment on column app.queued_jobs.end_position is 'Behind the last item.';
comment on column app.queued_jobs.next_rank is 'Order of service inside the organization: the job with the lowest goes next, and one up for every item.';

create table public.lookup_leases (
    organization_id uuid           not null,
    job_id          uuid           not null,
    lease_token     uuid           not null,
    worker          text           not null,
    expires_at      timestamptz    not null,
    positions       int4multirange not null,

    constraint lookup_leases_pkey primary key (organization_id, job_id, lease_token)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 0);

comment on table public.lookup_leases is 'One row per claim and job: the items that a worker is looking up. No foreign key: its check would wait for whoever counts outcomes.';
comment on column public.lookup_leases.lease_token is 'Names one claim: an outcome that carries another token comes from a worker that was given up.';
comment on column public.lookup_leases.positions is 'The items that are still in flight, by their place in the upload; they shrink as outcomes come in.';

insert into app.queued_jobs (organization_id, job_id, next_position, end_position, next_rank)
select i.organization_id, i.job_id, min(i.position), max(j.total_items), min(i.queue_rank)
  from public.lookup_queue_items i
  join public.batch_lookup_jobs j on j.organization_id = i.organization_id and j.id = i.job_id
 where i.status = 'pending' and i.retry_at is null
 group by i.organization_id, i.job_id;

insert into public.lookup_leases (organization_id, job_id, lease_token, worker, expires_at, positions)
select organization_id, job_id, lease_token, max(leased_by), max(lease_expires_at), range_agg(int4range(position, position + 1))
  from public.lookup_queue_items
 where status = 'processing'
 group by organization_id, job_id, lease_token;

update public.lookup_queue_items
   set status = 'pending', lease_token = null, lease_expires_at = null, leased_by = null
 where status = 'processing';

drop view if exists api.queue_health;
-- squawk-ignore require-concurrent-index-deletion
drop index public.lookup_queue_items_ready_idx;
-- squawk-ignore require-concurrent-index-deletion
drop index public.lookup_queue_items_leased_idx;
alter table public.lookup_queue_items
    drop constraint lookup_queue_items_lease_check,
    drop constraint lookup_queue_items_status_check,
    add constraint lookup_queue_items_status_check check (status in ('pending', 'completed', 'failed')),
    drop column queue_rank,
    drop column lease_token,
    drop column lease_expires_at,
    drop column leased_by;
comment on table public.lookup_queue_items is 'One row per site of a batch: what to look up, and what came of it. Written once when it is uploaded, once for every retry, once when it ends.';
comment on column public.lookup_queue_items.status is 'pending until it ends. Which of the pending ones are being looked up is in public.lookup_leases; api.items and the HTTP API call these processing.';
comment on column public.lookup_queue_items.retry_at is 'It waits until then to be looked up (again); null: not waiting.';

alter table app.organization_queue_state
    drop column served_rank,
    drop column first_rank,
    add column leases_until timestamptz not null default '-infinity';
comment on column app.organization_queue_state.leases_until is 'No lease expires before: until then a claim need not look for one.';

drop function if exists app.wake_queue(uuid, timestamptz, bigint);
drop function if exists app.queue_ahead(uuid, timestamptz);
drop function if exists api.claim_lookups(uuid, text, integer);
drop function if exists app.lease_items(uuid, text, integer, uuid, bigint, timestamptz, timestamptz);
drop function if exists api.extend_leases(uuid, text, uuid[], uuid[]);
drop function if exists api.release_lookups(uuid, text, uuid[], uuid[]);
drop function if exists app.judge_outcomes(uuid[], uuid[], integer[], text[], text[], double precision[]);
drop function if exists api.record_lookups(uuid, text, uuid[], uuid[], integer[], text[], text[], double precision[]);
drop function if exists app.watch_upstream(uuid, app.lookup_outcome[], timestamptz);
drop function if exists app.apply_outcomes(uuid, app.lookup_outcome[], boolean, timestamptz);
drop function if exists app.item_json(public.lookup_queue_items);
drop function if exists app.find_items(uuid, uuid, text, text, integer, integer, integer);
drop function if exists app.result_csv_line(public.lookup_queue_items);
drop type app.lookup_outcome;

create type app.lookup_outcome as (
    job_id        uuid,
    "position"    integer,
    lease_token   uuid,
    action        text,
    result        jsonb,
    error_code    text,
    error_message text,
    pause         interval,
    outage        boolean
);

comment on type app.lookup_outcome is 'What came of one lookup, judged by app.retry_policy: complete, retry, wait (with the pause asked for) or fail.';
