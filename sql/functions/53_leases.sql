-- Chapter 53, leases: renewed while a lookup runs, released if it will not start, expired if its worker is silent. A function that changes
-- items in flight locks their leases first.

-- The items of a job that are being looked up.
create or replace function app.positions_in_flight(p_organization_id uuid, p_job_id uuid) returns int4multirange
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return coalesce((select range_agg(r)
                       from public.lookup_leases l
                      cross join unnest(l.positions) r
                      where l.organization_id = p_organization_id and l.job_id = p_job_id), '{}');
end;
$$;

create or replace function app.count_positions(p_positions int4multirange) returns integer
language plpgsql immutable
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
as $$
begin
    if p_positions = int4multirange(range_merge(p_positions)) then
        return coalesce(upper(p_positions) - lower(p_positions), 0);
    end if;
    return (select sum(upper(r) - lower(r)) from unnest(p_positions) r);
end;
$$;

-- The named leases, each once.
create or replace function app.each_once(p_job_ids uuid[], p_lease_tokens uuid[], out job_ids uuid[], out lease_tokens uuid[])
language plpgsql immutable
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
as $$
begin
    select array_agg(n.job_id), array_agg(n.lease_token) into job_ids, lease_tokens
      from (select distinct * from unnest(p_job_ids, p_lease_tokens) u (job_id, lease_token)) n;
end;
$$;

-- Locks the leases that still exist. FOR KEY SHARE blocks expiry (a DELETE), but not concurrent recorders (an UPDATE of positions).
create or replace function app.hold_leases(p_organization_id uuid, p_job_ids uuid[], p_lease_tokens uuid[]) returns public.lookup_leases[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_sort = off
as $$
declare
    v_named  record                 := app.each_once(p_job_ids, p_lease_tokens);
    v_lease  public.lookup_leases;
    v_leases public.lookup_leases[] := '{}';
begin
    for n in 1 .. coalesce(cardinality(v_named.job_ids), 0) loop
        select * into v_lease
          from public.lookup_leases
         where organization_id = p_organization_id and job_id = v_named.job_ids[n] and lease_token = v_named.lease_tokens[n]
           for key share;
        if found then
            v_leases := v_leases || v_lease;
        end if;
    end loop;
    return v_leases;
end;
$$;

-- The leases that contain some of the items, by job and token: what they hold, and what of it has ended.
create or replace function app.ended_leases(p_leases public.lookup_leases[], p_items public.lookup_queue_items[])
returns table (job_id uuid, lease_token uuid, held int4multirange, ended int4multirange)
language plpgsql immutable
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
set enable_hashjoin = on set enable_nestloop = off set enable_mergejoin = off
as $$
begin
    return query
    select l.job_id, l.lease_token, l.positions, range_agg(int4range(i.position, i.position + 1))
      from unnest(p_leases) l
      join unnest(p_items) i on i.job_id = l.job_id and i.position <@ l.positions
     group by l.job_id, l.lease_token, l.positions
     order by l.job_id, l.lease_token;
end;
$$;

-- Removes items from their leases, which the caller has locked, in the order of job and token. A lease that becomes empty is deleted; one
-- that others have locked stays, empty, until it expires.
create or replace function app.end_leases(p_organization_id uuid, p_leases public.lookup_leases[], p_items public.lookup_queue_items[]) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_sort = off
as $$
declare
    v_lease    record;
    v_is_empty boolean;
begin
    for v_lease in select * from app.ended_leases(p_leases, p_items) loop
        if v_lease.held <@ v_lease.ended then
            perform
               from public.lookup_leases
              where organization_id = p_organization_id and job_id = v_lease.job_id and lease_token = v_lease.lease_token
                and positions <@ v_lease.ended
                for update skip locked;
            if found then
                delete from public.lookup_leases
                 where organization_id = p_organization_id and job_id = v_lease.job_id and lease_token = v_lease.lease_token;
                continue;
            end if;
        end if;
        update public.lookup_leases
           set positions = positions - v_lease.ended
         where organization_id = p_organization_id and job_id = v_lease.job_id and lease_token = v_lease.lease_token
        returning isempty(positions) into v_is_empty;
        if v_is_empty then
            perform
               from public.lookup_leases
              where organization_id = p_organization_id and job_id = v_lease.job_id and lease_token = v_lease.lease_token
                for update skip locked;
            if found then
                delete from public.lookup_leases
                 where organization_id = p_organization_id and job_id = v_lease.job_id and lease_token = v_lease.lease_token;
            end if;
        end if;
    end loop;
end;
$$;

create or replace function api.extend_leases(p_organization_id uuid, p_job_ids uuid[], p_positions integer[], p_lease_tokens uuid[])
returns table (job_id uuid, "position" integer, expires_in double precision)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_sort = off
as $$
#variable_conflict use_column
declare
    v_now        timestamptz := app.clock();
    v_expires_at timestamptz := v_now + (select app.seconds(lease_seconds) from app.settings);
    v_lease      record;
begin
    for v_lease in
        select c.job_id, c.lease_token, array_agg(c.position) as positions
          from unnest(p_job_ids, p_positions, p_lease_tokens) c (job_id, position, lease_token)
         group by c.job_id, c.lease_token
         order by c.job_id, c.lease_token
    loop
        -- A locked lease is not waited for: the others would miss their renewal.
        perform
           from public.lookup_leases l
          where l.organization_id = p_organization_id and l.job_id = v_lease.job_id and l.lease_token = v_lease.lease_token
            for no key update skip locked;
        if found then
            update public.lookup_leases l
               set expires_at = v_expires_at, is_overdue = false
             where l.organization_id = p_organization_id and l.job_id = v_lease.job_id and l.lease_token = v_lease.lease_token;
        end if;
        return query
        select l.job_id, p, extract(epoch from l.expires_at - v_now)::double precision
          from public.lookup_leases l
         cross join unnest(v_lease.positions) p
         where l.organization_id = p_organization_id and l.job_id = v_lease.job_id and l.lease_token = v_lease.lease_token
           and p <@ l.positions;
    end loop;
end;
$$;

comment on function api.extend_leases(uuid, uuid[], integer[], uuid[]) is 'Renews the leases of lookups in flight, given as parallel arrays, and returns the items that are still held under them, with the seconds until their lease expires. A lease that another transaction has locked is skipped and not extended: renew it again soon.';

-- Those of the given items that the leases have, by lease.
create or replace function app.positions_of_leases(
    p_leases public.lookup_leases[], p_job_ids uuid[], p_positions integer[], p_lease_tokens uuid[]
) returns table (job_id uuid, lease_token uuid, first integer, last integer, positions integer[])
language plpgsql immutable
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
set enable_hashjoin = on set enable_nestloop = off set enable_mergejoin = off
as $$
begin
    return query
    select l.job_id, l.lease_token, min(c.position), max(c.position), array_agg(c.position)
      from unnest(p_leases) l
      join unnest(p_job_ids, p_positions, p_lease_tokens) c (job_id, position, lease_token)
        on c.job_id = l.job_id and c.lease_token = l.lease_token and c.position <@ l.positions
     group by l.job_id, l.lease_token
     order by l.job_id, l.lease_token;
end;
$$;

create or replace function api.release_lookups(
    p_organization_id uuid, p_job_ids uuid[], p_positions integer[], p_lease_tokens uuid[], p_were_sent boolean default false
) returns integer
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp set lock_timeout = '100ms' set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_sort = off
as $$
declare
    v_now       timestamptz                 := app.clock();
    v_leases    public.lookup_leases[]      := app.hold_leases(p_organization_id, p_job_ids, p_lease_tokens);
    v_lease     record;
    v_held      record;
    -- Indexed by the distance from the first position.
    v_versions  xid[];
    v_item      public.lookup_queue_items;
    v_released  public.lookup_queue_items[] := '{}';
    v_days      date[]                      := '{}';
begin
    for v_lease in select * from app.positions_of_leases(v_leases, p_job_ids, p_positions, p_lease_tokens) loop
        -- If the same items are released concurrently, the second call finds newer versions.
        v_versions := '{}';
        for v_held in
            select i.position, i.xmin as version
              from public.lookup_leases l
              join public.lookup_queue_items i on i.organization_id = p_organization_id and i.job_id = l.job_id
             where l.organization_id = p_organization_id and l.job_id = v_lease.job_id and l.lease_token = v_lease.lease_token
               and i.job_id = v_lease.job_id and i.position >= v_lease.first and i.position <= v_lease.last
               and i.position = any (v_lease.positions) and i.position <@ l.positions
        loop
            v_versions[v_held.position - v_lease.first + 1] := v_held.version;
        end loop;
        for v_item in
            update public.lookup_queue_items i
               set retry_at = v_now
             where i.organization_id = p_organization_id and i.job_id = v_lease.job_id
               and i.position >= v_lease.first and i.position <= v_lease.last and i.position = any (v_lease.positions)
               and i.status = 'pending' and i.xmin = v_versions[i.position - v_lease.first + 1]
         returning i.*
        loop
            v_released := v_released || v_item;
            v_days := v_days || app.claimed_on(v_lease.lease_token);
        end loop;
    end loop;
    perform app.end_leases(p_organization_id, v_leases, v_released);
    if p_were_sent is not true then
        perform app.uncount_lookups(p_organization_id, array(select r.job_id from unnest(v_released) r), v_days);
    end if;
    perform app.publish_item_changes(p_organization_id, v_released, v_now);
    -- Another item may have received the response in the meantime.
    perform app.answer_duplicates(p_organization_id, v_released, v_now);
    return cardinality(v_released);
end;
$$;

comment on function api.release_lookups(uuid, uuid[], integer[], uuid[], boolean) is 'Releases claimed items whose lookups will not finish, as parallel arrays; no retry is counted. Their lookups do not count either, unless they were sent (p_were_sent). Returns how many were still held. 55P03 (lock_not_available): another transaction holds a row of them; try again later.';

create or replace function api.release_lost_claims(p_organization_id uuid, p_worker text, p_lease_tokens uuid[]) returns integer
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp set lock_timeout = '100ms'
as $$
declare
    v_lost record;
begin
    -- The organization may have been deleted since.
    if not exists (select from app.organizations where id = p_organization_id) then
        return 0;
    end if;
    -- Once this is locked, a claim whose caller is gone has ended.
    perform app.hold_queue(p_organization_id);
    select array_agg(l.job_id) as job_ids, array_agg(p) as positions, array_agg(l.lease_token) as tokens into v_lost
      from public.lookup_leases l
     cross join unnest(l.positions) r
     cross join generate_series(lower(r), upper(r) - 1) p
     where l.organization_id = p_organization_id and l.worker = p_worker and l.lease_token <> all (p_lease_tokens);
    return api.release_lookups(p_organization_id, v_lost.job_ids, v_lost.positions, v_lost.tokens);
end;
$$;

comment on function api.release_lost_claims(uuid, text, uuid[]) is 'Releases leases that a worker holds without knowing it, because the connection broke before it received its claim: all but those given; no retry is counted. Returns how many items. 55P03 (lock_not_available): another transaction holds a row of the organization; try again later.';

-- No lease expires before its worker could have renewed it: not within one lease after the server started, nor after a period in which no
-- worker could write, because the database was read-only or unreachable or no worker ran.
create or replace function app.expiry_is_suspended_here(p_now timestamptz) returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_lease interval := (select app.seconds(lease_seconds) from app.settings);
begin
    return p_now between pg_postmaster_start_time() and pg_postmaster_start_time() + v_lease
           or exists (select from app.workers where returned_at > p_now - v_lease and returned_at <= p_now);
end;
$$;

-- The same on a cluster, whose workers may connect to any node. A node that does not respond has no lease that could expire.
create or replace function app.expiry_is_suspended(p_now timestamptz) returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_answer boolean := app.expiry_is_suspended_here(p_now);
begin
    if not v_answer and app.spans_nodes() then
        execute 'select coalesce(bool_or(success and result = ''t''), false) from run_command_on_workers($1)'
           into v_answer using 'select app.expiry_is_suspended_here(app.clock())';
    end if;
    return v_answer;
end;
$$;

-- Extends expired leases once if their worker has sent a heartbeat since: something may have kept it from renewing them. Returns the
-- others.
create or replace function app.spare_living_workers(p_organization_id uuid, p_leases public.lookup_leases[], p_until timestamptz) returns public.lookup_leases[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_lease  public.lookup_leases;
    v_spared public.lookup_leases[];
begin
    v_spared := array(select l
                        from unnest(p_leases) l
                        join app.last_heard_of(array(select h.worker from unnest(p_leases) h)) w on w.id = l.worker
                       where not l.is_overdue and w.seen_at >= l.expires_at);
    if v_spared = '{}' then
        return p_leases;
    end if;
    foreach v_lease in array v_spared loop
        update public.lookup_leases
           set expires_at = p_until, is_overdue = true
         where organization_id = p_organization_id and job_id = v_lease.job_id and lease_token = v_lease.lease_token;
    end loop;
    return array(select l from unnest(p_leases) l where l.lease_token not in (select s.lease_token from unnest(v_spared) s));
end;
$$;

-- Returns the items of a silent worker to the queue and counts the attempt; after the last attempt, the item fails. It waits for no lock: a
-- locked lease is being recorded, and a locked job is handled in the next run.
create or replace function app.expire_leases(p_organization_id uuid, p_now timestamptz) returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_sort = off
as $$
declare
    v_settings    app.settings;
    v_max_retries integer;
    v_job_ids     uuid[];
    v_leases      public.lookup_leases[];
    v_lease       public.lookup_leases;
    v_held        record;
    v_item        public.lookup_queue_items;
    v_expired     public.lookup_queue_items[] := '{}';
begin
    select * into v_settings from app.settings;
    v_max_retries := v_settings.max_retries;
    v_job_ids := array(select distinct l.job_id from public.lookup_leases l where l.organization_id = p_organization_id and l.expires_at < p_now);
    if v_job_ids = '{}' or app.expiry_is_suspended(p_now) then
        return 0;
    end if;
    v_job_ids := app.lock_free_jobs(p_organization_id, v_job_ids);
    select coalesce(array_agg(row(l.*)::public.lookup_leases), '{}') into v_leases
      from (select *
              from public.lookup_leases
             where organization_id = p_organization_id and job_id = any (v_job_ids) and expires_at < p_now
               for update skip locked) l;
    v_leases := app.spare_living_workers(p_organization_id, v_leases, p_now + app.seconds(v_settings.lease_seconds / 3));
    for v_held in select l.job_id, r as positions from unnest(v_leases) l cross join unnest(l.positions) r loop
        for v_item in
            update public.lookup_queue_items i
               set status        = case when retry_count < v_max_retries then 'pending' else 'failed' end,
                   retry_count   = least(retry_count + 1, v_max_retries),
                   retry_at      = case when retry_count < v_max_retries then p_now end,
                   error_code    = case when retry_count >= v_max_retries then 'lease_expired' end,
                   error_message = case when retry_count >= v_max_retries
                                        then 'The lookup was started ' || case when retry_count = 0 then 'once' else (retry_count + 1)::text || ' times' end
                                             || ' and never came to an end' end,
                   processed_at  = case when retry_count >= v_max_retries then p_now end
             where i.organization_id = p_organization_id and i.job_id = v_held.job_id
               and i.position >= lower(v_held.positions) and i.position < upper(v_held.positions) and i.status = 'pending'
         returning i.*
        loop
            v_expired := v_expired || v_item;
        end loop;
    end loop;
    perform app.record_expired_attempts(p_organization_id, v_leases, v_expired, p_now);
    -- One by one, because a planner without statistics would compare each with all leases of the organization.
    foreach v_lease in array v_leases loop
        delete from public.lookup_leases
         where organization_id = p_organization_id and job_id = v_lease.job_id and lease_token = v_lease.lease_token;
    end loop;
    perform app.publish_item_changes(p_organization_id, v_expired, p_now);
    perform app.count_unanswered(p_organization_id, v_expired, 'failed', 'lease_expired', p_now);
    perform app.answer_duplicates(p_organization_id, v_expired, p_now);
    return cardinality(v_expired);
end;
$$;
