-- Chapter 50, the queue: enqueueing and the ready list. Claims are in chapter 51, the rate limit in 52, leases in 53, the concurrency limit
-- in 54, outcomes in 55. docs/queue.md has a diagram of the locks and their order.

create or replace function app.enqueue_items(p_organization_id uuid, p_job_id uuid, p_items app.batch_item[], p_now timestamptz) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_sort = off
as $$
declare
    v_first_id     uuid    := app.uuid_v7(p_now);
    v_deduplicates boolean := (select deduplicate_seconds is not null from app.settings);
begin
    perform app.check_open_items(p_organization_id);
    insert into public.lookup_queue_items
           (organization_id, id, job_id, position, reference_id, address, building_type, device_ids,
            create_application, webhook_custom_fields, warnings, created_at, deduplication_key, household)
    select p_organization_id, app.numbered_uuid_v7(v_first_id, i.position), p_job_id, i.position, i.reference_id, i.address,
           i.building_type, i.device_ids, i.create_application, i.webhook_custom_fields, i.warnings, p_now,
           case when v_deduplicates then app.dedup_key(i) end, i.household
      from unnest(p_items) i;
    perform app.queue_job(p_organization_id, p_job_id, 0, cardinality(p_items));
    perform app.mark_ready(p_organization_id, p_now);
    perform app.serialize_uploads(p_organization_id);
    perform app.check_open_items(p_organization_id);
end;
$$;

-- A job that is queued starts at the lowest current rank, so that jobs are served round-robin.
create or replace function app.queue_job(p_organization_id uuid, p_job_id uuid, p_next_position integer, p_end_position integer) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_rank bigint := (select next_rank from app.queued_jobs where organization_id = p_organization_id order by next_rank limit 1);
begin
    insert into app.queued_jobs (organization_id, job_id, next_position, end_position, next_rank)
    values (p_organization_id, p_job_id, p_next_position, p_end_position, coalesce(v_rank, 0));
end;
$$;

-- Refuses an upload that would fill the queue with items of one organization. The new job is already counted.
create or replace function app.check_open_items(p_organization_id uuid) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_max  integer := (select max_open_items from app.settings);
    v_open bigint  := (select sum(total_items - processed_items)
                         from public.batch_lookup_jobs
                        where organization_id = p_organization_id and status in ('pending', 'processing'));
begin
    if v_open > v_max then
        perform app.refuse(
            429, 'too_many_open_items',
            format('With this batch, the organization would have %s unfinished items; the limit is %s',
                   to_char(v_open, 'FM999,999,999,990'), to_char(v_max, 'FM999,999,999,990')),
            'Wait until earlier batches have ended, or cancel one.',
            json_build_object('open_items', v_open, 'max_open_items', v_max, 'retry_after', 60));
    end if;
end;
$$;

-- Locks an organization until the commit, against others that use this function. On a cluster, the node that runs the call takes an
-- advisory lock instead: for a row of a reference table, Citus would lock all its copies.
create or replace function app.lock_organization(p_organization_id uuid) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if app.is_distributed() then
        perform pg_advisory_xact_lock(hashtextextended(p_organization_id::text, 0));
    else
        perform from app.organizations where id = p_organization_id for no key update;
    end if;
end;
$$;

-- The same without waiting: returns whether the organization is now locked.
create or replace function app.try_lock_organization(p_organization_id uuid) returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if app.is_distributed() then
        return pg_try_advisory_xact_lock(hashtextextended(p_organization_id::text, 0));
    end if;
    perform from app.organizations where id = p_organization_id for no key update skip locked;
    return found;
end;
$$;

-- Serializes the uploads of an organization until their commits, so that the cap holds under concurrency. It waits at most a second for an
-- upload in an open transaction; then the items of that one may exceed the cap.
create or replace function app.serialize_uploads(p_organization_id uuid) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp set lock_timeout = '1s'
as $$
begin
    perform app.lock_organization(p_organization_id);
exception
    when lock_not_available then null;
end;
$$;

-- Marks the organization as having something to claim from p_at on. It locks nothing, so an open transaction blocks nobody.
create or replace function app.mark_ready(p_organization_id uuid, p_at timestamptz) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_id uuid := gen_random_uuid();
begin
    insert into app.queue_wakeups (organization_id, id, ready_at) values (p_organization_id, v_id, p_at);
    perform pg_notify('batch_lookups_ready', p_organization_id::text);
end;
$$;

-- When there will be something to claim; null: no item is open.
create or replace function app.next_ready_at(p_organization_id uuid, p_now timestamptz) returns timestamptz
language plpgsql stable
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_sort = off
as $$
declare
    v_retry_at   timestamptz;
    v_expires_at timestamptz;
begin
    perform from app.queued_jobs where organization_id = p_organization_id limit 1;
    if found then
        return p_now;
    end if;
    select min(retry_at) into v_retry_at
      from public.lookup_queue_items
     where organization_id = p_organization_id and status = 'pending' and retry_at < 'infinity';
    select min(expires_at) into v_expires_at from public.lookup_leases where organization_id = p_organization_id;
    return least(v_retry_at, v_expires_at);
end;
$$;

-- Consumes the visible wake-ups, then computes ready_at from the items. The caller has locked the organization's row. The order, in
-- separate statements, ensures that a batch committed in between keeps its wake-up.
create or replace function app.take_wakeups(p_organization_id uuid, p_now timestamptz) returns timestamptz
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from app.queue_wakeups where organization_id = p_organization_id;
    return app.next_ready_at(p_organization_id, p_now);
end;
$$;

create or replace function app.refresh_ready_at(p_organization_id uuid, p_now timestamptz) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_ready_at timestamptz := app.take_wakeups(p_organization_id, p_now);
begin
    update app.organization_queue_state
       set ready_at = v_ready_at
     where organization_id = p_organization_id and ready_at is distinct from v_ready_at;
end;
$$;

-- Repairs what a failed claim, a clock that was set back, or a manual UPDATE left behind. Usually there is nothing to repair, and no lock
-- is taken. It waits for no lock: a transaction that has locked a row is working on it.
create or replace function app.repair_ready_at(p_organization_id uuid, p_now timestamptz) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
    v_settings   app.settings;
    v_lease      interval;
    v_expires_at timestamptz;
    v_latest     timestamptz;
begin
    select * into v_settings from app.settings;
    v_lease := app.seconds(v_settings.lease_seconds);
    v_expires_at := p_now + v_lease;
    v_latest := p_now + interval '1 minute'
                + greatest(app.seconds(v_settings.retry_backoff_max_seconds), 2 * (v_lease + app.seconds(v_settings.lookup_timeout_seconds)));
    if exists (select from public.lookup_queue_items
                where organization_id = p_organization_id and status = 'pending' and retry_at > v_latest and retry_at < 'infinity') then
        update public.lookup_queue_items i
           set retry_at = p_now
          from (select job_id, position
                  from public.lookup_queue_items
                 where organization_id = p_organization_id and status = 'pending' and retry_at > v_latest and retry_at < 'infinity'
                   for update skip locked) late
         where i.organization_id = p_organization_id and i.job_id = late.job_id and i.position = late.position;
    end if;
    if exists (select from public.lookup_leases where organization_id = p_organization_id and expires_at > v_expires_at + interval '1 minute') then
        update public.lookup_leases l
           set expires_at = v_expires_at
          from (select job_id, lease_token
                  from public.lookup_leases
                 where organization_id = p_organization_id and expires_at > v_expires_at + interval '1 minute'
                   for update skip locked) late
         where l.organization_id = p_organization_id and l.job_id = late.job_id and l.lease_token = late.lease_token;
    end if;
    if not coalesce(app.next_ready_at(p_organization_id, p_now) < coalesce(app.listed_ready_at(p_organization_id), 'infinity'), false) then
        return;
    end if;
    insert into app.organization_queue_state (organization_id) values (p_organization_id) on conflict do nothing;
    perform from app.organization_queue_state where organization_id = p_organization_id for update skip locked;
    if found then
        perform app.refresh_ready_at(p_organization_id, p_now);
    end if;
end;
$$;

-- When the organization is due on the ready list; null: it is not listed.
create or replace function app.listed_ready_at(p_organization_id uuid) returns timestamptz
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return least(
        (select ready_at from app.organization_queue_state where organization_id = p_organization_id),
        (select min(ready_at) from app.queue_wakeups where organization_id = p_organization_id));
end;
$$;

-- Organizations with something to claim, least recently served first, and when there will be more; null: not known.
create or replace function app.find_ready(p_limit integer, p_now timestamptz, out organization_ids uuid[], out next_ready_at timestamptz)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if app.is_node() then
        select * into organization_ids, next_ready_at
          from app.find_ready_here('app.organization_queue_state', 'app.queue_wakeups', p_limit, '{}', p_now);
        return;
    end if;
    organization_ids := array(
        select r.organization_id
          from (select q.organization_id, q.served_at from app.organization_queue_state q where q.ready_at <= p_now
                 union
                select w.organization_id, coalesce(q.served_at, '-infinity')
                  from app.queue_wakeups w
                  left join app.organization_queue_state q on q.organization_id = w.organization_id
                 where w.ready_at <= p_now) r
         order by r.served_at, r.organization_id
         limit p_limit);
    next_ready_at := least((select min(ready_at) from app.organization_queue_state where ready_at > p_now),
                           (select min(ready_at) from app.queue_wakeups where ready_at > p_now));
end;
$$;

create or replace function api.ready_organizations(p_limit integer default 100) returns setof uuid
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return query select unnest(r.organization_ids) from app.find_ready(p_limit, app.clock()) r;
end;
$$;

comment on function api.ready_organizations(integer) is 'Organizations with something to claim, least recently served first. At a node of a cluster: only those whose rows it has.';
