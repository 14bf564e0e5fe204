-- Chapter 55, outcomes: what the response to a lookup means for its item.
--
-- The statements of chapters 50 to 55 that run for every claim and every flush are planned once per connection, with indexes whatever the
-- statistics say: a queue's statistics are always out of date, and a cached plan may date from when the table was nearly empty. So they
-- change the items of one job at a time, between two positions, and apply_outcomes hashes the new values. JIT is off: these settings raise
-- a plan's cost above the threshold at which PostgreSQL compiles.

-- null: the text is not JSON, so it is not a valid response.
create or replace function app.parse_response(p_response text) returns jsonb
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return p_response::jsonb;
exception
    when data_exception or statement_too_complex or program_limit_exceeded then
        return null;
end;
$$;

-- All in one cast; if one of them is not JSON, one by one.
create or replace function app.parse_responses(p_responses text[]) returns jsonb[]
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return p_responses::jsonb[];
exception
    when data_exception or statement_too_complex or program_limit_exceeded then
        return array(select app.parse_response(r.response) from unnest(p_responses) with ordinality r (response, n) order by r.n);
end;
$$;

create or replace function app.find_retry_policy(p_http_status integer, p_error_class text) returns app.retry_policy
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_outcomes text[] := array[p_error_class, p_http_status::text, p_http_status / 100 || 'xx', 'other'];
    v_policy   app.retry_policy;
begin
    select * into v_policy
      from app.retry_policy
     where outcome = any (v_outcomes)
     order by array_position(v_outcomes, outcome)
     limit 1;
    return v_policy;
end;
$$;

-- Whether a response completes its item: a success with an object.
create or replace function app.completes_item(p_http_status integer, p_error_class text, p_result jsonb) returns boolean
language sql immutable
return coalesce(p_http_status between 200 and 299 and p_error_class is null and jsonb_typeof(p_result) = 'object', false);

create or replace function app.classify_outcomes(
    p_job_ids uuid[], p_positions integer[], p_lease_tokens uuid[], p_http_statuses integer[], p_error_classes text[], p_results jsonb[],
    p_retry_afters double precision[], p_latencies double precision[]
) returns app.lookup_outcome[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return array(
        select row(
                   a.job_id, a.position, a.lease_token,
                   case when a.is_complete then 'complete' when p.action = 'wait' and a.retry_after is null then 'retry' else p.action end,
                   p.error_code,
                   case when a.is_complete then null
                        when a.http_status between 400 and 499 and jsonb_typeof(a.result -> 'error') = 'string' and a.result ->> 'error' <> ''
                        then left(a.result ->> 'error', 1000)
                        else p.error_message || coalesce(' (HTTP ' || a.http_status || ')', '') end,
                   case when p.action = 'wait' and a.retry_after is not null
                        then make_interval(secs => least(greatest(a.retry_after, 0), 86400)) end,
                   coalesce(p.outage, false), a.latency, a.http_status, a.number)::app.lookup_outcome
          from (select o.*, app.completes_item(o.http_status, o.error_class, o.result) as is_complete
                  from unnest(p_job_ids, p_positions, p_lease_tokens, p_http_statuses, p_error_classes, p_results, p_retry_afters, p_latencies)
                       with ordinality o (job_id, position, lease_token, http_status, error_class, result, retry_after, latency, number)
                offset 0) a
          left join lateral (select r.* from app.find_retry_policy(a.http_status, a.error_class) r where not a.is_complete offset 0) p on true);
end;
$$;

-- Of several outcomes of an item, the one that may change it: the latest success, or else one whose lease still holds. A worker has several
-- if a lease expires before its response is recorded, and the worker claims the item again.
create or replace function app.one_for_each_item(p_outcomes app.lookup_outcome[], p_leases public.lookup_leases[]) returns app.lookup_outcome[]
language plpgsql immutable
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
as $$
begin
    return array(
        select distinct on (o.job_id, o.position) o
          from unnest(p_outcomes) o
         order by o.job_id, o.position, o.action = 'complete' desc,
                  exists (select from unnest(p_leases) l where l.job_id = o.job_id and l.lease_token = o.lease_token) desc, o.number desc);
end;
$$;

-- The result of a flush: a verdict for each outcome, in order, and what they say about the upstream.
create or replace function app.record_outcomes(
    p_organization_id uuid,
    p_job_ids         uuid[],
    p_positions       integer[],
    p_lease_tokens    uuid[],
    p_http_statuses   integer[],
    p_error_classes   text[],
    p_responses       text[],
    p_retry_afters    double precision[],
    p_latencies       double precision[]
) returns app.recorded_lookups
language plpgsql volatile
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_sort = off
as $$
declare
    v_now       timestamptz := app.clock();
    v_settings  app.settings;
    v_results   jsonb[]     := app.parse_responses(p_responses);
    v_outcomes  app.lookup_outcome[];
    v_others    app.lookup_outcome[];
    v_signs     app.outage_signs;
    v_is_outage boolean;
    v_leases    public.lookup_leases[];
    v_items     public.lookup_queue_items[];
    v_late      public.lookup_queue_items[];
    v_jobs      public.batch_lookup_jobs[];
begin
    v_outcomes := app.classify_outcomes(p_job_ids, p_positions, p_lease_tokens, p_http_statuses, p_error_classes, v_results, p_retry_afters, p_latencies);
    v_signs := app.find_outage_signs(p_organization_id, v_outcomes);
    v_is_outage := app.would_be_outage(p_organization_id, v_signs, v_now);
    v_leases := app.hold_outcome_leases(p_organization_id, v_outcomes);
    select * into v_settings from app.settings;
    v_items := app.complete_in_flight(p_organization_id, v_outcomes, p_responses, v_results, v_leases, v_now);
    if cardinality(v_items) < cardinality(v_outcomes) then
        v_outcomes := app.one_for_each_item(v_outcomes, v_leases);
        v_others := array(select o
                            from unnest(v_outcomes) o
                           where o.action <> 'complete' or (o.job_id, o.position) not in (select i.job_id, i.position from unnest(v_items) i));
        select v_items || array_agg(a.item) into v_items
          from app.apply_outcomes(p_organization_id, v_others, p_responses, v_results, v_leases, v_is_outage, v_settings, v_now) a;
    end if;
    v_late := app.complete_expired_items(p_organization_id, v_outcomes, p_responses, v_results, v_items, v_now);
    if v_settings.record_all_attempts or v_signs.completions < cardinality(p_job_ids) or app.has_attempts(p_organization_id, app.distinct_ids(p_job_ids)) then
        perform app.record_attempts(p_organization_id, v_outcomes, v_is_outage, v_leases, v_items || v_late, v_now);
    end if;
    perform app.add_report_sites(p_organization_id, v_items, v_now);
    perform app.file_item_applications(p_organization_id, v_items, v_now);
    perform app.end_leases(p_organization_id, v_leases, v_items);
    v_jobs := app.publish_item_changes(p_organization_id, v_items, v_now);
    -- Tested here, because that function plans its statements for each call.
    if v_settings.deduplicate_seconds is not null then
        perform app.answer_duplicates(p_organization_id, v_items || v_late, v_now);
    end if;
    if v_signs.completions > 0 and v_signs.completions = cardinality(p_job_ids) and v_signs.completions = cardinality(v_items) then
        perform app.count_completed_lookups(p_organization_id, v_jobs, p_job_ids, p_latencies, v_now);
    else
        perform app.count_outcomes(p_organization_id, v_outcomes, v_items, v_now);
    end if;
    if cardinality(v_items) = cardinality(p_job_ids) then
        return row(array_fill('accepted'::text, array[cardinality(p_job_ids)]), v_signs)::app.recorded_lookups;
    end if;
    return row(app.judge_outcomes(p_organization_id, p_job_ids, p_positions, v_items || v_late), v_signs)::app.recorded_lookups;
end;
$$;

-- A verdict for each outcome, in order. p_accepted: the items that an outcome has changed.
create or replace function app.judge_outcomes(
    p_organization_id uuid, p_job_ids uuid[], p_positions integer[], p_accepted public.lookup_queue_items[]
) returns text[]
language plpgsql stable
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_sort = off
as $$
declare
    v_verdicts text[];
begin
    v_verdicts := array(
        select case when (o.job_id, o.position) in (select a.job_id, a.position from unnest(p_accepted) a) then 'accepted'
                    when exists (select from public.lookup_queue_items i
                                  where i.organization_id = p_organization_id and i.job_id = o.job_id and i.position = o.position) then 'stale'
                    else 'unknown' end
          from unnest(p_job_ids, p_positions) o (job_id, position));
    return v_verdicts;
end;
$$;

create or replace function api.record_lookups(
    p_organization_id uuid,
    p_job_ids         uuid[],
    p_positions       integer[],
    p_lease_tokens    uuid[],
    p_http_statuses   integer[],
    p_error_classes   text[],
    p_responses       text[],
    p_retry_afters    double precision[],
    p_latencies       double precision[] default null
) returns table (job_id uuid, "position" integer, verdict text)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp set lock_timeout = '200ms'
as $$
declare
    v_recorded app.recorded_lookups;
begin
    v_recorded := app.record_outcomes(
        p_organization_id, p_job_ids, p_positions, p_lease_tokens, p_http_statuses, p_error_classes, p_responses, p_retry_afters, p_latencies);
    perform app.record_result(p_organization_id, v_recorded.signs, app.clock());
    return query select * from unnest(p_job_ids, p_positions, v_recorded.verdicts);
end;
$$;

comment on function api.record_lookups(uuid, uuid[], integer[], uuid[], integer[], text[], text[], double precision[], double precision[]) is
'Records the outcomes of claimed items, as parallel arrays: job and position, lease token, HTTP status, error class (timeout, unreachable, connection, dns, tls, invalid_response, response_too_large, other; null when an answer came), the answer as text, Retry-After in seconds, how long the lookup took in seconds (for api.work_history and api.explain_item). app.retry_policy decides. Returns a verdict for each item: accepted; stale, when the lease was lost or the item has ended; unknown. A success is still accepted for an item that has not ended, or that failed only because its lease expired, or because a limit or a cancel then allowed no other lookup of it. Calling it again with the same outcomes changes nothing. 55P03 (lock_not_available): another transaction holds a row of these items, jobs or reports; try again later.';

-- Locks the leases of the outcomes, and those under which the items of late successes are now in flight.
create or replace function app.hold_outcome_leases(p_organization_id uuid, p_outcomes app.lookup_outcome[]) returns public.lookup_leases[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_sort = off
as $$
declare
    v_leases  public.lookup_leases[];
    v_late    app.lookup_outcome[];
    v_new     record;
begin
    v_leases := app.hold_leases(p_organization_id, array(select o.job_id from unnest(p_outcomes) o), array(select o.lease_token from unnest(p_outcomes) o));
    v_late := app.late_successes(p_outcomes, v_leases);
    if v_late <> '{}' then
        v_new := app.leases_in_flight(p_organization_id, v_late);
        v_leases := v_leases || app.hold_leases(p_organization_id, v_new.job_ids, v_new.lease_tokens);
    end if;
    return v_leases;
end;
$$;

-- The successes whose items none of the leases has.
create or replace function app.late_successes(p_outcomes app.lookup_outcome[], p_leases public.lookup_leases[]) returns app.lookup_outcome[]
language plpgsql immutable
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan set enable_hashjoin = on set enable_nestloop = off
as $$
begin
    return array(
        select o
          from unnest(p_outcomes) o
         where o.action = 'complete' and not exists (select from unnest(p_leases) l where l.job_id = o.job_id and o.position <@ l.positions));
end;
$$;

create or replace function app.leases_in_flight(
    p_organization_id uuid, p_outcomes app.lookup_outcome[], out job_ids uuid[], out lease_tokens uuid[]
)
language plpgsql stable
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = on set enable_nestloop = off set enable_mergejoin = off
set enable_sort = off
as $$
begin
    select array_agg(l.job_id), array_agg(l.lease_token)
      into job_ids, lease_tokens
      from public.lookup_leases l
     where l.organization_id = p_organization_id
       and exists (select from unnest(p_outcomes) o where o.job_id = l.job_id and o.position <@ l.positions);
end;
$$;

create or replace function app.is_final(p_action text, p_retry_count integer, p_max_retries integer) returns boolean
language sql immutable
return p_action in ('complete', 'fail') or p_action = 'retry' and p_retry_count >= p_max_retries;

-- The delays before each retry, in order and before jitter.
create or replace function app.retry_backoffs(p_settings app.settings) returns interval[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return array(select app.seconds(least(p_settings.retry_backoff_seconds * 2 ^ n, p_settings.retry_backoff_max_seconds))
                   from generate_series(0, p_settings.max_retries - 1) n);
end;
$$;

-- Completes items of one job, between two positions, if they are in flight; returns them. p_numbers are the places of the responses to
-- p_positions.
create or replace function app.complete_items(
    p_organization_id uuid, p_job_id uuid, p_first integer, p_last integer, p_positions integer[], p_numbers integer[], p_responses text[],
    p_results jsonb[], p_in_flight int4multirange, p_now timestamptz
) returns public.lookup_queue_items[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
    -- Indexed by the distance from the first position.
    v_numbers   integer[]                   := '{}';
    v_responses text[]                      := '{}';
    v_item      public.lookup_queue_items;
    v_items     public.lookup_queue_items[] := '{}';
begin
    for n in 1 .. cardinality(p_positions) loop
        v_numbers[p_positions[n] - p_first + 1] := p_numbers[n];
        v_responses[p_positions[n] - p_first + 1] := p_responses[p_numbers[n]];
    end loop;
    for v_item in
        update public.lookup_queue_items
           set status = 'completed', retry_at = null, result = v_responses[position - p_first + 1]::json, processed_at = p_now
         where organization_id = p_organization_id and job_id = p_job_id and position >= p_first and position <= p_last
           and v_responses[position - p_first + 1] is not null and position <@ p_in_flight and status = 'pending'
     returning *
    loop
        v_item.parsed_result := p_results[v_numbers[v_item.position - p_first + 1]];
        v_item.result := null;
        v_items := v_items || v_item;
    end loop;
    return v_items;
end;
$$;

-- Completes items whose responses came under one of p_leases, which the caller has locked.
create or replace function app.complete_in_flight(
    p_organization_id uuid, p_outcomes app.lookup_outcome[], p_responses text[], p_results jsonb[], p_leases public.lookup_leases[], p_now timestamptz
) returns public.lookup_queue_items[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp set enable_hashjoin = on set enable_nestloop = off
as $$
declare
    v_job   record;
    v_items public.lookup_queue_items[] := '{}';
    v_part  public.lookup_queue_items[] := '{}';
begin
    for v_job in
        select o.*, l.in_flight
          from (select u.job_id, min(u.position) as first, max(u.position) as last, array_agg(u.position) as positions, array_agg(u.number) as numbers
                  from unnest(p_outcomes) u
                 where u.action = 'complete'
                 group by u.job_id) o
          join (select h.job_id, range_agg(h.positions) as in_flight from unnest(p_leases) h group by h.job_id) l on l.job_id = o.job_id
         order by o.job_id
    loop
        -- Each addition copies the whole array, and there may be a thousand jobs.
        if cardinality(v_part) > 50 then
            v_items := v_items || v_part;
            v_part := '{}';
        end if;
        v_part := v_part || app.complete_items(
            p_organization_id, v_job.job_id, v_job.first, v_job.last, v_job.positions, v_job.numbers, p_responses, p_results, v_job.in_flight, p_now);
    end loop;
    return v_items || v_part;
end;
$$;

-- One statement for each job. The lease token is the fencing token: an outcome of a lost lease finds no row, unless it is a success and the
-- item waits or is in flight again. In an outage, a retry is a short wait that costs nothing: the upstream is probed, not the item. A pause
-- that a response asked for is kept by the circuit breaker, for everybody, not by the item. Items that used up their retries stay failed:
-- they are the dead letters, and api.retry_batch_lookup creates a new batch of them.
create or replace function app.apply_outcomes(
    p_organization_id uuid, p_outcomes app.lookup_outcome[], p_responses text[], p_results jsonb[], p_leases public.lookup_leases[],
    p_is_outage boolean, p_settings app.settings, p_now timestamptz
) returns table ("position" integer, item public.lookup_queue_items)
language plpgsql volatile
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = on set enable_nestloop = off set enable_mergejoin = off
set enable_sort = off
as $$
declare
    v_max_retries integer            := p_settings.max_retries;
    v_backoffs    interval[]         := app.retry_backoffs(p_settings);
    v_jitters     double precision[] := array(select 0.5 + random() / 2 from unnest(p_responses));
    v_soon        timestamptz        := p_now + interval '1 second';
    v_job         record;
begin
    for v_job in
        select o.*, l.leases
          from (select u.job_id, min(u.position) as first_position, max(u.position) as last_position, array_agg(u) as outcomes
                  from unnest(p_outcomes) u
                 group by u.job_id) o
          left join (select h.job_id, array_agg(h) as leases from unnest(p_leases) h group by h.job_id) l on l.job_id = o.job_id
         order by o.job_id
    loop
        return query
        with lease as materialized (
            select l.*
              from unnest(v_job.leases) h
             cross join lateral (select n.job_id, n.lease_token, n.positions
                                   from public.lookup_leases n
                                  where n.organization_id = p_organization_id and n.job_id = h.job_id and n.lease_token = h.lease_token
                                 offset 0) l
        ), outcome as materialized (
            select o.job_id, o.position, o.number, o.error_code, o.error_message,
                   case when p_is_outage and o.action = 'retry' then 'wait' else o.action end as action,
                   l.lease_token is not null as is_in_flight,
                   -- If another flush of this lease is changing the item, there is a newer version.
                   case when o.action <> 'complete' and l.lease_token = o.lease_token
                        then (select v.xmin from public.lookup_queue_items v
                               where v.organization_id = p_organization_id and v.job_id = o.job_id and v.position = o.position) end as version
              from unnest(v_job.outcomes) o
              left join lease l on o.position <@ l.positions
        )
        update public.lookup_queue_items i
           set status           = case when o.action = 'complete' then 'completed'
                                       when app.is_final(o.action, i.retry_count, v_max_retries) then 'failed'
                                       else 'pending' end,
               retry_count      = i.retry_count + case when o.action = 'retry' and not app.is_final(o.action, i.retry_count, v_max_retries) then 1 else 0 end,
               retry_at         = case when o.action = 'wait' then v_soon
                                       when not app.is_final(o.action, i.retry_count, v_max_retries)
                                       then app.time_after(p_now, v_jitters[o.number] * v_backoffs[i.retry_count + 1]) end,
               result           = case when o.action = 'complete' then p_responses[o.number]::json end,
               error_code       = case when app.is_final(o.action, i.retry_count, v_max_retries) then o.error_code end,
               error_message    = case when app.is_final(o.action, i.retry_count, v_max_retries)
                                       then o.error_message || case when o.action <> 'retry' then ''
                                                                    when i.retry_count = 0 then ', after 1 attempt'
                                                                    else ', after ' || (i.retry_count + 1)::text || ' attempts' end end,
               processed_at     = case when app.is_final(o.action, i.retry_count, v_max_retries) then p_now end
          from outcome o
         where i.organization_id = p_organization_id and i.job_id = v_job.job_id
           and i.position between v_job.first_position and v_job.last_position and i.position = o.position and i.status = 'pending'
           and (i.xmin = o.version or o.action = 'complete' and (o.is_in_flight or i.retry_at is not null))
     returning i.position, app.with_parsed_result(row(i.*)::public.lookup_queue_items, case when o.action = 'complete' then p_results[o.number] end) as item;
    end loop;
end;
$$;

-- Whether an item failed only because its lease expired, or because a limit or a cancel then allowed no other lookup of it.
create or replace function app.failed_without_answer(p_item public.lookup_queue_items) returns boolean
language sql immutable
as $$
    select (p_item).status = 'failed'
       and ((p_item).error_code in ('lease_expired', 'lookup_limit_reached') or (p_item).error_code = 'job_cancelled' and (p_item).retry_count > 0)
$$;

-- A success of such an item replaces its failure, even in a job that has ended.
create or replace function app.complete_expired_items(
    p_organization_id uuid, p_outcomes app.lookup_outcome[], p_responses text[], p_results jsonb[], p_accepted public.lookup_queue_items[],
    p_now timestamptz
) returns public.lookup_queue_items[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan
as $$
declare
    v_late     app.lookup_outcome[];
    v_items    public.lookup_queue_items[] := '{}';
    v_webhooks app.webhook_configs;
    v_row      record;
    v_counts   record;
    v_job      public.batch_lookup_jobs;
begin
    if cardinality(p_accepted) = cardinality(p_outcomes) then
        return '{}';
    end if;
    v_late := array(select o
                      from unnest(p_outcomes) o
                     where o.action = 'complete'
                       and (o.job_id, o.position) not in (select a.job_id, a.position from unnest(p_accepted) a));
    if v_late = '{}' then
        return '{}';
    end if;
    select array_agg(o) into v_late
      from unnest(v_late) o
      join public.lookup_queue_items i
        on i.organization_id = p_organization_id and i.job_id = o.job_id and i.position = o.position
     where app.failed_without_answer(row(i.*)::public.lookup_queue_items);
    if v_late is null then
        return '{}';
    end if;
    perform app.lock_jobs(p_organization_id, array(select o.job_id from unnest(v_late) o union select a.job_id from unnest(p_accepted) a));
    for v_row in
        update public.lookup_queue_items i
           set status = 'completed', result = p_responses[o.number]::json, error_code = null, error_message = null, processed_at = p_now
          from unnest(v_late) o
         where i.organization_id = p_organization_id and i.job_id = o.job_id and i.position = o.position
           and app.failed_without_answer(row(i.*)::public.lookup_queue_items)
     returning i.position, app.with_parsed_result(row(i.*)::public.lookup_queue_items, p_results[o.number]) as item
    loop
        v_items := v_items || v_row.item;
    end loop;
    perform app.add_report_sites(p_organization_id, v_items, p_now);
    perform app.file_item_applications(p_organization_id, v_items, p_now);
    for v_counts in select * from app.counts_by_job(v_items) loop
        select * into v_job from public.batch_lookup_jobs where organization_id = p_organization_id and id = v_counts.id;
        if v_job.status = 'failed' then
            perform app.count_ended(p_organization_id, -1, 'failed');
            perform app.count_ended(p_organization_id, 1, 'completed');
        end if;
        update public.batch_lookup_jobs
           set failed_items = failed_items - v_counts.processed,
               status       = case when status = 'failed' then 'completed' else status end,
               updated_at   = p_now
         where organization_id = p_organization_id and id = v_job.id;
        perform app.notify_change('UPDATE', 'batch_lookup_jobs', p_organization_id, v_job.id);
        perform app.update_report(
            p_organization_id, v_job, p_now, v_counts.processed, v_counts.eligible, v_counts.value, v_counts.conditional);
        if v_job.status = 'failed' then
            perform app.enqueue_job_webhook(p_organization_id, v_job.id, p_now);
        end if;
    end loop;
    v_webhooks := app.webhook_config_for(p_organization_id, array['lookup.completed']);
    if v_webhooks.organization_id is not null then
        perform app.enqueue_item_webhooks(v_webhooks, p_organization_id, v_items, p_now);
        if v_webhooks.enabled and cardinality(v_items) > 0 then
            perform app.wake_webhooks(p_organization_id, p_now);
        end if;
    end if;
    perform app.count_outcomes(p_organization_id, v_late, v_items, p_now);
    return v_items;
end;
$$;
