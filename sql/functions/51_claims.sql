-- Chapter 51, claims: items go to a worker under leases. A claim holds the organization's row of the ready list until its commit, waits for
-- it at most 50 ms, and for no other row: locked rows are skipped. A claim takes new items by advancing a high-water mark, and only the
-- lease shows that they are in flight: it writes one row per job, however many items it takes.

create or replace function api.claim_lookups(p_organization_id uuid, p_worker text, p_limit integer)
returns table (
    job_id uuid, "position" integer, lease_token uuid, start_in double precision, retry_count integer, request text, traceparent text
)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp set lock_timeout = '50ms'
as $$
#variable_conflict use_column
declare
    v_now         timestamptz;
    v_slots       record;
    v_has_limits  boolean;
    v_has_expired boolean;
    v_items       public.lookup_queue_items[];
    v_leases      public.lookup_leases[];
    v_job_ids     uuid[];
    v_traces      app.job_traces[];
    v_count       integer;
    v_has_more    boolean;
    v_ready_at    timestamptz;
begin
    if p_organization_id is null or p_limit is null or p_limit < 1 then
        return;
    end if;
    v_has_expired := app.hold_queue(p_organization_id) < app.clock();
    v_has_limits := app.has_limits(p_organization_id);
    if v_has_limits then
        p_limit := app.keep_limits(p_organization_id, p_limit, app.clock());
    end if;
    if p_limit = 0 then
        return;
    end if;
    select * into v_slots from app.hold_slots(p_organization_id, p_limit);
    if v_slots.slots = 0 then
        return;
    end if;
    v_now := v_slots.claimed_at;
    if v_has_expired then
        perform app.expire_leases(p_organization_id, v_now);
    end if;
    v_items := app.take_due_items(p_organization_id, v_slots.slots, v_now);
    v_items := v_items || app.take_new_items(p_organization_id, v_slots.slots - cardinality(v_items));
    -- A job with limits of its own may have been added since.
    if v_has_limits or app.has_budgets(p_organization_id) then
        v_items := app.within_budgets(p_organization_id, v_items, v_now);
    end if;
    v_count := cardinality(v_items);
    if v_count > 0 then
        v_leases := app.new_leases(
            p_organization_id, p_worker, v_items, greatest(v_slots.first_at + v_slots.slots * v_slots.spacing, v_now) + v_slots.lease, v_now);
        v_job_ids := array(select l.job_id from unnest(v_leases) l);
        perform app.keep_leases(p_organization_id, v_leases);
        if v_slots.spacing > interval '0' or v_slots.is_probe then
            perform app.take_slots(v_slots.first_at + v_count * v_slots.spacing, v_slots.is_probe, v_now);
        end if;
        perform app.start_jobs(p_organization_id, app.count_lookups(p_organization_id, v_leases, v_now), v_now);
        v_traces := app.traces_of(p_organization_id, v_job_ids);
    end if;
    v_has_more := v_count = v_slots.slots;
    -- While there is always more, about once in a lease, or the wake-ups for retries would pile up.
    if not v_has_more or v_has_expired then
        v_ready_at := app.take_wakeups(p_organization_id, v_now);
    end if;
    perform app.note_claim(p_organization_id, v_count > 0, v_has_more, v_ready_at, v_has_expired, v_leases[1].expires_at, v_now);

    -- start_in is relative to when the worker receives its slots. The duration of the claim, up to a tenth of a second for the first one of
    -- a connection, would otherwise shift them into the slots of others.
    v_now := app.clock();
    return query
    select i.job_id, i.position, l.lease_token,
           extract(epoch from v_slots.first_at + (i.n - 1) * v_slots.spacing - v_now)::double precision,
           i.retry_count, app.lookup_request(i.reference_id, i.address, i.building_type, i.device_ids, i.create_application, i.household),
           t.traceparent
      from (select u.*, row_number() over () as n from unnest(v_items) u) i
      join unnest(v_leases) l on l.job_id = i.job_id
      left join unnest(v_traces) t on t.job_id = i.job_id
     order by i.n;
end;
$$;

comment on function api.claim_lookups(uuid, text, integer) is
'Claims up to p_limit items of an organization for a worker, each named by its job and its position in the upload, under a lease for each job, and with a time slot within the rate limit (start_in, seconds from now); request is the JSON body to POST, traceparent the trace context to send with it (null: none). Returns fewer when the rate limit allows no more within the next second, or when no more are ready. 404: organization_not_found. 55P03 (lock_not_available): another transaction holds the organization''s row; try again later.';

-- Locks the organization's row of the ready list; returns a time before which none of its leases expires.
create or replace function app.hold_queue(p_organization_id uuid) returns timestamptz
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_leases_until timestamptz;
begin
    select leases_until into v_leases_until
      from app.organization_queue_state
     where organization_id = p_organization_id
       for update;
    if not found then
        begin
            insert into app.organization_queue_state (organization_id) values (p_organization_id) on conflict do nothing;
        exception
            when foreign_key_violation then perform app.refuse_organization();
        end;
        if not found then
            -- Another transaction has just inserted it, and no longer holds it.
            select leases_until into v_leases_until
              from app.organization_queue_state
             where organization_id = p_organization_id
               for update;
        end if;
    end if;
    return coalesce(v_leases_until, '-infinity');
end;
$$;

-- Records a claim in the ready list. p_expires_at: when its leases expire; p_ready_at: when there will be more, unless there is already.
create or replace function app.note_claim(
    p_organization_id uuid, p_has_items boolean, p_has_more boolean, p_ready_at timestamptz, p_has_expired boolean, p_expires_at timestamptz,
    p_now timestamptz
) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_expires_at timestamptz;
begin
    if p_has_expired then
        select coalesce(min(expires_at), 'infinity') into v_expires_at from public.lookup_leases where organization_id = p_organization_id;
    end if;
    update app.organization_queue_state
       set ready_at     = case when p_has_more then least(ready_at, p_now) else p_ready_at end,
           served_at    = case when p_has_items then p_now else served_at end,
           leases_until = case when p_has_expired then v_expires_at else least(leases_until, p_expires_at) end
     where organization_id = p_organization_id and (p_has_items or p_has_expired or ready_at is distinct from p_ready_at);
end;
$$;

-- Items that have waited long enough. A locked item is skipped: a late response, a duplicate's response or a cancel is ending it. An item
-- beyond the high-water mark, which waited for a duplicate's response, becomes a new item again: nothing there is ever leased.
create or replace function app.take_due_items(p_organization_id uuid, p_limit integer, p_now timestamptz) returns public.lookup_queue_items[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_sort = off
as $$
declare
    v_items         public.lookup_queue_items[] := '{}';
    v_item          public.lookup_queue_items;
    v_job_ids       uuid[]                      := '{}';
    v_positions     integer[]                   := '{}';
    v_due           record;
    v_job           record;
    v_next_position integer;
begin
    for v_due in
        select job_id, position
          from public.lookup_queue_items
         where organization_id = p_organization_id and status = 'pending' and retry_at <= p_now
         order by retry_at
         limit p_limit
           for update skip locked
    loop
        v_job_ids := v_job_ids || v_due.job_id;
        v_positions := v_positions || v_due.position;
    end loop;
    if v_job_ids = '{}' then
        return v_items;
    end if;
    for v_job in
        select d.job_id, min(d.position) as first_position, max(d.position) as last_position, array_agg(d.position) as positions
          from unnest(v_job_ids, v_positions) d (job_id, position)
         group by d.job_id
    loop
        select next_position into v_next_position from app.queued_jobs where organization_id = p_organization_id and job_id = v_job.job_id;
        for v_item in
            update public.lookup_queue_items i
               set retry_at = null
             where i.organization_id = p_organization_id and i.job_id = v_job.job_id
               and i.position between v_job.first_position and v_job.last_position and i.position = any (v_job.positions)
         returning i.*
        loop
            if v_next_position is null or v_item.position < v_next_position then
                v_items := v_items || v_item;
            end if;
        end loop;
    end loop;
    return v_items;
end;
$$;

-- The next positions of jobs, by rank, up to p_limit together: for each job, the first position, the count, and the rank of the first.
-- done: jobs that this exhausts.
create or replace function app.next_turns(
    p_jobs app.queued_jobs[], p_limit integer, out job_ids uuid[], out starts integer[], out counts integer[], out ranks bigint[], out done uuid[]
)
language plpgsql immutable
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
as $$
begin
    select array_agg(s.job_id), array_agg(s.start), array_agg(s.items), array_agg(s.rank), array_agg(s.job_id) filter (where s.is_done)
      into job_ids, starts, counts, ranks, done
      from (select t.job_id, min(t.position) as start, count(*)::integer as items, min(t.rank) as rank,
                   bool_or(t.position + 1 = t.end_position) as is_done
              from (select j.job_id, j.next_position + n as position, j.next_rank + n as rank, j.end_position
                      from unnest(p_jobs) j
                     cross join generate_series(0, least(p_limit, j.end_position - j.next_position) - 1) n
                     order by rank, j.job_id
                     limit p_limit) t
             group by t.job_id) s;
end;
$$;

-- Items of several jobs by rank; the arrays are those of app.next_turns. Hash-joined, which the settings of the caller would prevent.
create or replace function app.in_order_of_turns(p_items public.lookup_queue_items[], p_job_ids uuid[], p_starts integer[], p_ranks bigint[])
returns public.lookup_queue_items[]
language plpgsql immutable
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan set enable_nestloop = off set enable_hashjoin = on
as $$
begin
    return array(select i
                   from unnest(p_items) i
                   join unnest(p_job_ids, p_starts, p_ranks) t (job_id, start, rank) on t.job_id = i.job_id
                  order by t.rank - t.start + i.position, t.job_id);
end;
$$;

-- The next items that were never claimed, by the rank of their jobs. Skips items that wait for a duplicate's response or have it, and jobs
-- that are being cancelled.
create or replace function app.take_new_items(p_organization_id uuid, p_limit integer) returns public.lookup_queue_items[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_sort = off
as $$
declare
    v_items   public.lookup_queue_items[] := '{}';
    v_more    public.lookup_queue_items[];
    v_part    public.lookup_queue_items[];
    v_of_job  public.lookup_queue_items[];
    v_missing integer                     := p_limit;
    v_job     app.queued_jobs;
    v_jobs    app.queued_jobs[];
    v_turns   record;
begin
    while v_missing > 0 loop
        v_jobs := '{}';
        for v_job in
            select * from app.queued_jobs where organization_id = p_organization_id order by next_rank, job_id limit v_missing for update skip locked
        loop
            v_jobs := v_jobs || v_job;
        end loop;
        exit when v_jobs = '{}';
        v_turns := app.next_turns(v_jobs, v_missing);

        v_more := '{}';
        v_part := '{}';
        for n in 1 .. cardinality(v_turns.job_ids) loop
            select array_agg(row(i.*)::public.lookup_queue_items order by i.position) into v_of_job
              from public.lookup_queue_items i
             where i.organization_id = p_organization_id and i.job_id = v_turns.job_ids[n]
               and i.position >= v_turns.starts[n] and i.position < v_turns.starts[n] + v_turns.counts[n]
               and i.status = 'pending' and i.retry_at is null;
            v_part := v_part || v_of_job;
            -- Each addition copies the whole array, and there may be two thousand jobs.
            if n % 50 = 0 or n = cardinality(v_turns.job_ids) then
                v_more := v_more || v_part;
                v_part := '{}';
            end if;
        end loop;
        if cardinality(v_turns.job_ids) > 1 then
            v_more := app.in_order_of_turns(v_more, v_turns.job_ids, v_turns.starts, v_turns.ranks);
        end if;
        v_items := v_items || v_more;

        if v_turns.done is not null then
            delete from app.queued_jobs where organization_id = p_organization_id and job_id = any (v_turns.done);
        end if;
        if v_turns.done is null or cardinality(v_turns.done) < cardinality(v_turns.job_ids) then
            update app.queued_jobs
               set next_position = next_position + v_turns.counts[array_position(v_turns.job_ids, job_id)],
                   next_rank     = next_rank + v_turns.counts[array_position(v_turns.job_ids, job_id)]
             where organization_id = p_organization_id and job_id = any (v_turns.job_ids);
        end if;
        v_missing := p_limit - cardinality(v_items);
    end loop;
    return v_items;
end;
$$;

-- A lease for each job, ordered by job. It expires some time after the last of its lookups may start. Its token contains the time of the claim.
create or replace function app.new_leases(
    p_organization_id uuid, p_worker text, p_items public.lookup_queue_items[], p_expires_at timestamptz, p_now timestamptz
) returns public.lookup_leases[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_lease  public.lookup_leases;
    v_leases public.lookup_leases[] := '{}';
begin
    for v_lease in
        select p_organization_id, i.job_id, app.uuid_v7(p_now), p_worker, p_expires_at, range_agg(int4range(i.position, i.position + 1)), false
          from unnest(p_items) i
         group by i.job_id
         order by i.job_id
    loop
        v_leases := v_leases || v_lease;
    end loop;
    return v_leases;
end;
$$;

create or replace function app.keep_leases(p_organization_id uuid, p_leases public.lookup_leases[]) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_lease public.lookup_leases;
begin
    foreach v_lease in array p_leases loop
        insert into public.lookup_leases (organization_id, job_id, lease_token, worker, expires_at, positions)
        values (p_organization_id, v_lease.job_id, v_lease.lease_token, v_lease.worker, v_lease.expires_at, v_lease.positions);
    end loop;
end;
$$;

create or replace function app.lookup_request(
    p_reference_id text, p_address jsonb, p_building_type text, p_device_ids integer[], p_create_application boolean, p_household jsonb
) returns text
language sql stable
return left(json_build_object(
    'operation_type', 'lookup',
    'reference_id', p_reference_id,
    'address', p_address,
    'building_type', p_building_type,
    'device_ids', p_device_ids,
    'create_application', p_create_application)::text, -1) || coalesce(', "household" : ' || p_household::text, '') || '}';

-- Starts jobs at their first claim, and makes sure of it at the first claim of each day. It never waits for a job's row: a cancel or a
-- flush that has locked it sets the status.
create or replace function app.start_jobs(p_organization_id uuid, p_job_ids uuid[], p_now timestamptz) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_job_id uuid;
begin
    if p_job_ids = '{}' then
        return;
    end if;
    for v_job_id in
        select id from public.batch_lookup_jobs where organization_id = p_organization_id and status = 'pending' and id = any (p_job_ids) for update skip locked
    loop
        update public.batch_lookup_jobs
           set status = 'processing', started_at = p_now, updated_at = p_now
         where organization_id = p_organization_id and id = v_job_id;
        perform app.notify_change('UPDATE', 'batch_lookup_jobs', p_organization_id, v_job_id);
    end loop;
end;
$$;
