-- Chapter 50, the queue: enqueue, the ready list, the claim. When lookups may start is chapter 52, leases are 53, outcomes 55.

-- A new batch starts at the lowest rank that is still ready, so that it takes turns with the batches before it; when none is
-- ready, where the last claim stood.
create or replace function app.enqueue_items(p_organization_id uuid, p_job_id uuid, p_items app.batch_item[], p_now timestamptz) returns void
language plpgsql volatile
set search_path = ''
as $$
declare
    v_first_id     uuid    := app.uuid_v7(p_now);
    v_deduplicates boolean := (select deduplicate_seconds is not null from app.settings);
    v_first_rank   bigint;
begin
    perform app.check_open_items(p_organization_id);
    v_first_rank := coalesce(
        (select queue_rank
           from public.lookup_queue_items
          where organization_id = p_organization_id and status = 'pending' and retry_at is null
            and queue_rank >= coalesce((select first_rank from app.organization_queue_state where organization_id = p_organization_id),
                                       -9223372036854775808)
          order by queue_rank
          limit 1),
        (select served_rank from app.organization_queue_state where organization_id = p_organization_id),
        0);

    insert into public.lookup_queue_items
           (organization_id, id, job_id, position, queue_rank, reference_id, address, building_type, device_ids,
            create_application, webhook_custom_fields, warnings, created_at, work_key)
    select p_organization_id, app.numbered_uuid_v7(v_first_id, i.position), p_job_id, i.position, v_first_rank + i.position, i.reference_id, i.address,
           i.building_type, i.device_ids, i.create_application, i.webhook_custom_fields, i.warnings, p_now,
           case when v_deduplicates then app.work_key(i) end
      from unnest(p_items) i;
    if v_deduplicates then
        perform app.hold_duplicates(p_organization_id, p_job_id, p_now);
    end if;
    perform app.wake_queue(p_organization_id, p_now, v_first_rank);
    -- Once more, now that it is one batch after the other.
    perform app.check_open_items(p_organization_id);
end;
$$;

-- So that one organization cannot fill the queue. The job whose items are to come is there already.
create or replace function app.check_open_items(p_organization_id uuid) returns void
language plpgsql volatile
set search_path = ''
as $$
declare
    v_max  integer := (select max_open_items from app.settings);
    v_open bigint  := (select sum(total_items - processed_items)
                         from public.batch_lookup_jobs
                        where organization_id = p_organization_id and status in ('pending', 'processing'));
begin
    if v_open > v_max then
        raise sqlstate 'PT429' using
            message    = format('With this batch, %s items would be open; an organization may have %s', v_open, v_max),
            hint       = 'Wait until earlier batches have ended, or cancel one.',
            detail     = json_build_object('open_items', v_open, 'max_open_items', v_max, 'retry_after', 60),
            constraint = 'too_many_open_items';
    end if;
end;
$$;

-- There is, or from p_at on will be, something to claim; p_rank: the lowest rank that became ready, null when only retries did. Called
-- last: it locks the organization's row until the commit.
create or replace function app.wake_queue(p_organization_id uuid, p_at timestamptz, p_rank bigint default null) returns void
language plpgsql volatile
set search_path = ''
as $$
declare
    v_now timestamptz := app.clock();
begin
    -- A claim that goes on meanwhile sees by the new version of the row that it must not move first_rank.
    insert into app.organization_queue_state as q (organization_id, ready_at)
    values (p_organization_id, p_at)
    on conflict (organization_id) do update
       set ready_at   = least(q.ready_at, excluded.ready_at),
           first_rank = case when q.first_rank > p_rank then p_rank else q.first_rank end
     where q.ready_at is null or q.ready_at > excluded.ready_at or excluded.ready_at <= v_now;
    perform pg_notify('batch_lookups_ready', p_organization_id::text);
end;
$$;

-- The lowest rank that is ready, null: none, and from when on there is something to claim, null: never, as things are.
create or replace function app.queue_ahead(p_organization_id uuid, p_now timestamptz, out first_rank bigint, out ready_at timestamptz)
language plpgsql stable
set search_path = ''
as $$
begin
    -- By its order, and so by the index: without it the planner, who thinks that such a row is soon found, may read all that ended.
    first_rank := (select i.queue_rank from public.lookup_queue_items i
                    where i.organization_id = p_organization_id and i.status = 'pending' and i.retry_at is null
                    order by i.queue_rank
                    limit 1);
    if first_rank is not null then
        ready_at := p_now;
    else
        ready_at := least(
            (select min(i.retry_at) from public.lookup_queue_items i
              where i.organization_id = p_organization_id and i.status = 'pending' and i.retry_at is not null),
            (select min(i.lease_expires_at) from public.lookup_queue_items i
              where i.organization_id = p_organization_id and i.status = 'processing'));
    end if;
end;
$$;

-- Nothing (more) was there to claim: find out when there will be. The row is locked first and the rest computed by a statement that
-- starts after the lock is held; in one statement, a batch committed in between would be missed.
create or replace function app.settle_queue(p_organization_id uuid, p_now timestamptz) returns void
language plpgsql volatile
set search_path = ''
as $$
declare
    v_ahead record;
begin
    perform from app.organization_queue_state where organization_id = p_organization_id for update;
    select * into v_ahead from app.queue_ahead(p_organization_id, p_now);
    update app.organization_queue_state
       set ready_at = v_ahead.ready_at, first_rank = coalesce(v_ahead.first_rank, served_rank)
     where organization_id = p_organization_id
       and (ready_at is distinct from v_ahead.ready_at or first_rank is distinct from coalesce(v_ahead.first_rank, served_rank));
end;
$$;

-- What a failed claim, or somebody's own UPDATE, left behind. Most often there is nothing to mend, and then no lock is taken. Nor is one
-- waited for: whoever holds the row is at work on it.
create or replace function app.mend_queue(p_organization_id uuid, p_now timestamptz) returns void
language plpgsql volatile
set search_path = ''
as $$
begin
    perform
       from app.organization_queue_state q
      cross join app.queue_ahead(p_organization_id, p_now) a
      where q.organization_id = p_organization_id and (a.ready_at < coalesce(q.ready_at, 'infinity') or a.first_rank < q.first_rank);
    if not found then
        return;
    end if;
    perform from app.organization_queue_state where organization_id = p_organization_id for update skip locked;
    if found then
        perform app.settle_queue(p_organization_id, p_now);
    end if;
end;
$$;

create or replace function api.ready_organizations(p_limit integer default 100) returns setof uuid
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_now timestamptz := app.clock();
begin
    return query
    select organization_id
      from app.organization_queue_state
     where ready_at <= v_now
     order by served_at, organization_id
     limit p_limit;
end;
$$;

comment on function api.ready_organizations(integer) is 'Organizations with something to claim, least recently served first.';

create or replace function api.claim_lookups(p_organization_id uuid, p_worker text, p_limit integer)
returns table (item_id uuid, job_id uuid, lease_token uuid, start_in double precision, retry_count integer, request text)
language plpgsql volatile security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
    v_now        timestamptz := app.clock();
    v_free       record;
    v_token      uuid        := gen_random_uuid();
    v_expires_at timestamptz;
    v_first_rank bigint;
    v_version    xid;
    v_items      public.lookup_queue_items[];
    v_count      integer;
begin
    select * into v_free from app.free_slots(p_limit, v_now);
    if v_free.slots = 0 then
        return;
    end if;
    v_expires_at := v_free.first_at + v_free.slots * v_free.spacing + (select app.seconds(lease_seconds) from app.settings);

    select q.first_rank, q.xmin into v_first_rank, v_version from app.organization_queue_state q where q.organization_id = p_organization_id;
    v_items := app.lease_items(p_organization_id, p_worker, v_free.slots, v_token, v_first_rank, v_now, v_expires_at);
    v_count := cardinality(v_items);
    -- Expiry waits for jobs, which whoever holds none of their items may do: a cancel holds its job and waits for items.
    if v_count = 0 then
        perform app.expire_leases(p_organization_id, v_now);
    end if;
    if v_count < v_free.slots then
        perform app.settle_queue(p_organization_id, v_now);
    end if;
    if v_count = 0 then
        return;
    end if;

    perform app.start_jobs(p_organization_id, v_items, v_now);
    update app.organization_queue_state q
       set served_at   = v_now,
           served_rank = greatest(q.served_rank, (select max(i.queue_rank) from unnest(v_items) i)),
           first_rank  = case when q.xmin = v_version and v_count = v_free.slots
                              then (select min(i.queue_rank) from unnest(v_items) i where i.retry_count = 0) else q.first_rank end
     where q.organization_id = p_organization_id;
    perform app.take_slots(v_free.first_at + v_count * v_free.spacing, v_free.is_probe, v_now);

    return query
    select i.id, i.job_id, i.lease_token,
           extract(epoch from v_free.first_at + (i.n - 1) * v_free.spacing - v_now)::double precision,
           i.retry_count, app.lookup_request(i.reference_id, i.address, i.building_type, i.device_ids, i.create_application, i.webhook_custom_fields)
      from (select u.*, row_number() over (order by u.queue_rank, u.id) as n from unnest(v_items) u) i
     order by i.n;
end;
$$;

comment on function api.claim_lookups(uuid, text, integer) is
'Claims up to p_limit items of an organization for a worker: each gets a lease, and a time slot within the pace (start_in, seconds from now); request is the JSON body to POST. Fewer come when the pace allows no more within the next second, or when no more are ready.';

-- The claim. Retries that are due and items that never ran stand under two indexes; of the first p_limit of each, the lowest ranks
-- are taken. It begins at p_first_rank, or it would step over every row that was claimed since the oldest open transaction began, which
-- vacuum must leave in the index. The sub-selects are fenced: inlined, the planner might run them twice and claim more than asked.
create or replace function app.lease_items(
    p_organization_id uuid, p_worker text, p_limit integer, p_token uuid, p_first_rank bigint, p_now timestamptz, p_expires_at timestamptz
) returns public.lookup_queue_items[]
language plpgsql volatile
set search_path = ''
as $$
declare
    v_items public.lookup_queue_items[];
begin
    with due as materialized (
        select id, queue_rank
          from public.lookup_queue_items
         where organization_id = p_organization_id and status = 'pending' and retry_at <= p_now
         order by retry_at
         limit p_limit
           for update skip locked
    ), ready as materialized (
        select id, queue_rank
          from public.lookup_queue_items
         where organization_id = p_organization_id and status = 'pending' and retry_at is null
           and queue_rank >= coalesce(p_first_rank, -9223372036854775808)
         order by queue_rank
         limit p_limit
           for update skip locked
    ), next as materialized (
        select id from (table due union all table ready) d order by queue_rank limit p_limit
    ), leased as (
        update public.lookup_queue_items i
           set status           = 'processing',
               retry_at         = null,
               lease_token      = p_token,
               lease_expires_at = p_expires_at,
               leased_by        = p_worker
          from next n
         where i.organization_id = p_organization_id and i.id = n.id
     returning i as item
    )
    select coalesce(array_agg(item), '{}') into v_items from leased;
    return v_items;
end;
$$;

create or replace function app.lookup_request(
    p_reference_id text, p_address jsonb, p_building_type text, p_device_ids integer[], p_create_application boolean, p_webhook_custom_fields jsonb
) returns text
language sql stable
return json_build_object(
    'operation_type', 'lookup',
    'reference_id', p_reference_id,
    'address', p_address,
    'building_type', p_building_type,
    'device_ids', p_device_ids,
    'create_application', p_create_application)::text;

-- The first claim starts a job. Never waits for a job's row: whoever holds it, a cancel or another claim, sees to its status.
create or replace function app.start_jobs(p_organization_id uuid, p_items public.lookup_queue_items[], p_now timestamptz) returns void
language plpgsql volatile
set search_path = ''
as $$
declare
    v_job_ids uuid[];
begin
    v_job_ids := array(select id
                         from public.batch_lookup_jobs
                        where organization_id = p_organization_id and status = 'pending'
                          and id = any (array(select distinct i.job_id from unnest(p_items) i))
                          for update skip locked);
    if v_job_ids <> '{}' then
        update public.batch_lookup_jobs
           set status = 'processing', started_at = p_now, updated_at = p_now
         where organization_id = p_organization_id and id = any (v_job_ids);
        perform app.announce('UPDATE', 'batch_lookup_jobs', p_organization_id, id) from unnest(v_job_ids) id;
    end if;
end;
$$;
