-- Chapter 55, several organizations in one call, where one PostgreSQL holds them all: thin loops over the calls for one organization, which
-- share a commit. Each organization has a subtransaction. An organization with rows that another transaction has locked is skipped, so that
-- it neither stops the others nor keeps their rows locked; the caller retries it by itself. PostgreSQL caches 64 subtransactions of a
-- transaction, so callers pass at most 50 organizations.

create or replace function api.claim_for_organizations(p_organization_ids uuid[], p_worker text, p_limits integer[], p_total integer)
returns table (
    organization_id uuid, job_id uuid, "position" integer, lease_token uuid, start_in double precision, retry_count integer, request text,
    traceparent text
)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_organization_id uuid;
    v_left            integer := p_total;
    v_count           integer;
begin
    for n in 1 .. coalesce(cardinality(p_organization_ids), 0) loop
        exit when v_left <= 0;
        v_organization_id := p_organization_ids[n];
        begin
            perform from app.organization_queue_state q where q.organization_id = v_organization_id for update skip locked;
            if not found and exists (select from app.organization_queue_state q where q.organization_id = v_organization_id) then
                raise lock_not_available using message = 'another transaction holds the organization''s row of the ready list';
            end if;
            return query
            select v_organization_id, c.job_id, c.position, c.lease_token, c.start_in, c.retry_count, c.request, c.traceparent
              from api.claim_lookups(v_organization_id, p_worker, p_limits[n]) c;
            get diagnostics v_count = row_count;
            v_left := v_left - v_count;
        exception
            when lock_not_available then
                return query select v_organization_id, null::uuid, null::integer, null::uuid, null::double precision, null::integer, null::text, null::text;
        end;
    end loop;
end;
$$;

comment on function api.claim_for_organizations(uuid[], text, integer[], integer) is
'api.claim_lookups for several organizations in one transaction: from each, up to as many items as the element of p_limits at its index, until there are p_total or more. An organization whose rows another transaction holds is skipped: a row of nulls names it. Call it only without a rate limit: with one, the first claim holds the next slot until the commit. On a cluster of several nodes, call api.claim_lookups.';

-- Records successes of several organizations set-based, with the effect of app.record_outcomes for one organization after the other.
-- Returns the organizations of which everything was recorded (done), and those whose jobs, reports or leases are locked by others (held).
-- The rest have webhooks, earlier attempts, or outcomes that are not successes under valid leases; nothing of theirs is recorded.
-- lock_not_available: an item is locked by another transaction, or a trigger moved a row, and nothing is recorded at all. Rows are locked
-- first, without waiting; then they are updated by ctid, so that no plan depends on statistics.
create or replace function app.complete_together(
    p_organization_ids uuid[], p_job_ids uuid[], p_positions integer[], p_lease_tokens uuid[], p_http_statuses integer[], p_error_classes text[],
    p_responses text[], p_latencies double precision[], p_now timestamptz, out done uuid[], out held uuid[]
)
language plpgsql volatile
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_mergejoin = off
as $$
declare
    v_results jsonb[]                     := app.parse_responses(p_responses);
    v_minute  timestamptz                 := date_trunc('minute', p_now, 'UTC');
    v_jobs    app.held_job[];
    v_leases  public.lookup_leases[];
    v_items   public.lookup_queue_items[] := '{}';
    v_part    public.lookup_queue_items[] := '{}';
    v_changed integer                     := 0;
    v_ended   uuid[]                      := '{}';
    v_tokens  uuid[]                      := '{}';
    v_token   uuid;
    v_row     record;
begin
    done := '{}';
    held := '{}';
    if (select record_all_attempts or deduplicate_seconds is not null from app.settings) then
        return;
    end if;
    select array_agg(row(n.organization_id, n.job_id, j.created_at, j.place, r.id, r.place, null, null, null, null)::app.held_job) into v_jobs
      from (select distinct o.organization_id, o.job_id from unnest(p_organization_ids, p_job_ids) o (organization_id, job_id)) n
     cross join lateral (select b.created_at, b.report_id, b.ctid as place
                           from public.batch_lookup_jobs b
                          where b.organization_id = n.organization_id and b.id = n.job_id and b.status in ('pending', 'processing')
                            for update skip locked) j
     cross join lateral (select i.id, i.ctid as place
                           from public.incentive_reports i
                          where i.organization_id = n.organization_id and i.id = j.report_id
                            for update skip locked) r;
    select array_agg(l.lease) into v_leases
      from (select distinct * from unnest(p_organization_ids, p_job_ids, p_lease_tokens) o (organization_id, job_id, lease_token)) n
     cross join lateral (select row(h.*)::public.lookup_leases as lease
                           from public.lookup_leases h
                          where h.organization_id = n.organization_id and h.job_id = n.job_id and h.lease_token = n.lease_token
                            for no key update skip locked) l;
    done := array(
        select o.organization_id
          from unnest(p_organization_ids, p_job_ids, p_positions, p_lease_tokens, p_http_statuses, p_error_classes, v_results)
               o (organization_id, job_id, position, lease_token, http_status, error_class, result)
          left join unnest(v_jobs) j on j.organization_id = o.organization_id and j.job_id = o.job_id
          left join unnest(v_leases) l on l.organization_id = o.organization_id and l.job_id = o.job_id and l.lease_token = o.lease_token
         group by o.organization_id
        having bool_and(app.completes_item(o.http_status, o.error_class, o.result)
                        and j.job_id is not null and coalesce(o.position <@ l.positions, false)));
    held := array(
        select n.organization_id
          from (select distinct *
                  from unnest(p_organization_ids, p_job_ids, p_lease_tokens) o (organization_id, job_id, lease_token)
                 where o.organization_id <> all (done)) n
         cross join lateral (select b.status
                               from public.batch_lookup_jobs b
                              where b.organization_id = n.organization_id and b.id = n.job_id
                             offset 0) j
         cross join lateral (select h.lease_token
                               from public.lookup_leases h
                              where h.organization_id = n.organization_id and h.job_id = n.job_id and h.lease_token = n.lease_token
                             offset 0) l
         where j.status in ('pending', 'processing')
           and (not exists (select from unnest(v_jobs) u where u.organization_id = n.organization_id and u.job_id = n.job_id)
                or not exists (select from unnest(v_leases) u where u.lease_token = n.lease_token)));
    done := array(
        select d.id
          from unnest(done) d (id)
         where not exists (select from app.webhook_configs w where w.organization_id = d.id and w.url is not null));
    done := array(
        select d.id
          from unnest(done) d (id)
         where not app.has_attempts(d.id, array(select j.job_id from unnest(v_jobs) j where j.organization_id = d.id)));
    if done = '{}' then
        return;
    end if;

    for v_row in
        select o.organization_id, o.job_id, min(o.position) as first, max(o.position) as last, array_agg(o.position) as positions,
               array_agg(o.number::integer) as numbers
          from unnest(p_organization_ids, p_job_ids, p_positions) with ordinality o (organization_id, job_id, position, number)
         where o.organization_id = any (done)
         group by o.organization_id, o.job_id
         order by o.organization_id, o.job_id
    loop
        -- Each addition copies the whole array.
        if cardinality(v_part) > 50 then
            v_items := v_items || v_part;
            v_part := '{}';
        end if;
        v_part := v_part || app.complete_items(
            v_row.organization_id, v_row.job_id, v_row.first, v_row.last, v_row.positions, v_row.numbers, p_responses,
            v_results, '{(,)}', p_now);
    end loop;
    v_items := v_items || v_part;
    if cardinality(v_items) < (select count(*) from unnest(p_organization_ids) o where o = any (done)) then
        raise lock_not_available using message = 'another transaction has recorded an item';
    end if;
    select array_agg(row(j.organization_id, j.job_id, j.created_at, j.job_place, j.report_id, j.report_place, c.items, c.eligible, c.value,
                         c.conditional)::app.held_job) into v_jobs
      from (select i.organization_id, i.job_id, count(*) as items, count(*) filter (where app.result_is_eligible(i.parsed_result)) as eligible,
                   sum(app.result_amount(i.parsed_result)) as value, sum(app.result_conditional_amount(i.parsed_result)) as conditional
              from unnest(v_items) i
             group by i.organization_id, i.job_id) c
      join unnest(v_jobs) j on j.organization_id = c.organization_id and j.job_id = c.job_id;

    perform app.insert_report_sites(
        array(select j.organization_id from unnest(v_jobs) j), array(select j.job_id from unnest(v_jobs) j),
        array(select j.report_id from unnest(v_jobs) j), v_items, p_now);
    for v_row in
        select i.organization_id as id, array_agg(i) as items from unnest(v_items) i where i.create_application group by i.organization_id
    loop
        perform app.file_item_applications(v_row.id, v_row.items, p_now);
    end loop;

    for v_token in
        delete from public.lookup_leases l
         where l.organization_id = any (done)
           and l.ctid = any (array(
                   select d.place
                     from (select h.organization_id, h.job_id, h.lease_token, range_agg(int4range(i.position, i.position + 1)) as ended
                             from unnest(v_leases) h
                             join unnest(v_items) i on i.organization_id = h.organization_id and i.job_id = h.job_id and i.position <@ h.positions
                            group by h.organization_id, h.job_id, h.lease_token) e
                    cross join lateral (select n.ctid as place
                                          from public.lookup_leases n
                                         where n.organization_id = e.organization_id and n.job_id = e.job_id and n.lease_token = e.lease_token
                                           and n.positions <@ e.ended
                                           for update skip locked) d))
     returning l.lease_token
    loop
        v_tokens := v_tokens || v_token;
    end loop;
    for v_row in
        select l.organization_id as id, array_agg(l) as leases
          from unnest(v_leases) l
         where l.organization_id = any (done) and l.lease_token <> all (v_tokens)
         group by l.organization_id
    loop
        perform app.end_leases(v_row.id, v_row.leases, array(select i from unnest(v_items) i where i.organization_id = v_row.id));
    end loop;

    for v_row in
        update public.batch_lookup_jobs j
           set processed_items = j.processed_items + c.items,
               rate            = app.next_rate(row(j.*)::public.batch_lookup_jobs, c.items, p_now),
               status          = case when j.processed_items + c.items < j.total_items then 'processing' else 'completed' end,
               started_at      = coalesce(j.started_at, p_now),
               completed_at    = case when j.processed_items + c.items = j.total_items then p_now end,
               updated_at      = p_now
          from unnest(v_jobs) c
         where j.organization_id = c.organization_id and j.id = c.job_id and j.ctid = any (array(select u.job_place from unnest(v_jobs) u))
     returning j.organization_id, j.id, j.status
    loop
        v_changed := v_changed + 1;
        perform app.notify_change('UPDATE', 'batch_lookup_jobs', v_row.organization_id, v_row.id);
        if v_row.status = 'completed' then
            v_ended := v_ended || v_row.id;
        end if;
    end loop;
    for v_row in
        update public.incentive_reports r
           set total_sites                  = r.total_sites + c.items,
               eligible_sites               = r.eligible_sites + c.eligible,
               total_incentive_value        = r.total_incentive_value + c.value,
               conditional_incentive_amount = r.conditional_incentive_amount + c.conditional,
               status                       = case when c.job_id = any (v_ended) then 'complete' else 'processing' end,
               completed_at                 = case when c.job_id = any (v_ended) then p_now end,
               updated_at                   = p_now
          from unnest(v_jobs) c
         where r.organization_id = c.organization_id and r.id = c.report_id and r.ctid = any (array(select u.report_place from unnest(v_jobs) u))
     returning r.organization_id, r.id
    loop
        v_changed := v_changed + 1;
        perform app.notify_change('UPDATE', 'incentive_reports', v_row.organization_id, v_row.id);
    end loop;
    -- Triggers that somebody added may have moved a row since it was locked.
    if v_changed < 2 * cardinality(v_jobs) then
        raise lock_not_available using message = 'a job or its report is no longer in its place';
    end if;
    insert into app.ended_changes (organization_id, id, change, job_status, report_status)
    select j.organization_id, gen_random_uuid(), 1, 'completed', 'complete' from unnest(v_jobs) j where j.job_id = any (v_ended);

    insert into app.work_minutes as w (organization_id, minute, kind, outcome, error_class, recorder, items, latency_seconds, latency_buckets,
                                       wait_seconds, wait_buckets)
    select g.organization_id, v_minute, g.kind, 'completed', '', pg_backend_pid(), sum(g.items), sum(g.latency),
           app.fill_buckets(array_agg(g.latency_bucket), array_agg(g.items), app.latency_bounds()), sum(g.wait),
           app.fill_buckets(array_agg(case g.kind when 'lookup' then app.bucket_of(g.wait / g.items, app.wait_bounds()) end), array_agg(g.items), app.wait_bounds())
      from (select 'lookup' as kind, j.organization_id, j.job_id, app.bucket_of(o.latency, app.latency_bounds()) as latency_bucket, count(*) as items,
                   coalesce(sum(o.latency), 0) as latency,
                   greatest(date_part('epoch', p_now - j.created_at) * count(*) - coalesce(sum(o.latency), 0), 0) as wait
              from unnest(p_organization_ids, p_job_ids, p_latencies) o (organization_id, job_id, latency)
              join unnest(v_jobs) j on j.organization_id = o.organization_id and j.job_id = o.job_id
             group by j.organization_id, j.job_id, j.created_at, latency_bucket
             union all
            select 'job', j.organization_id, j.job_id, null, 1, 0, 0 from unnest(v_jobs) j where j.job_id = any (v_ended)) g
     group by g.organization_id, g.kind
        on conflict (organization_id, minute, kind, outcome, error_class, recorder) do update
       set items           = w.items + excluded.items,
           latency_seconds = w.latency_seconds + excluded.latency_seconds,
           latency_buckets = app.add_buckets(w.latency_buckets, excluded.latency_buckets),
           wait_seconds    = w.wait_seconds + excluded.wait_seconds,
           wait_buckets    = app.add_buckets(w.wait_buckets, excluded.wait_buckets);
end;
$$;

create or replace function api.record_for_organizations(
    p_organization_ids uuid[],
    p_counts           integer[],
    p_job_ids          uuid[],
    p_positions        integer[],
    p_lease_tokens     uuid[],
    p_http_statuses    integer[],
    p_error_classes    text[],
    p_responses        text[],
    p_retry_afters     double precision[],
    p_latencies        double precision[]
) returns table (organization_id uuid, verdict text, items bigint)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp set lock_timeout = '10ms'
as $$
declare
    v_part             record;
    v_recorded         app.recorded_lookups;
    v_done             uuid[]             := '{}';
    v_held             uuid[]             := '{}';
    v_organization_ids uuid[]             := '{}';
    v_signs            app.outage_signs[] := '{}';
begin
    begin
        select c.done, c.held into v_done, v_held
          from app.complete_together(
                   array(select u.organization_id
                           from unnest(p_organization_ids, p_counts) with ordinality u (organization_id, items, n)
                          cross join generate_series(1, u.items)
                          order by u.n),
                   p_job_ids, p_positions, p_lease_tokens, p_http_statuses, p_error_classes, p_responses, p_latencies, app.clock()) c;
        if v_done <> '{}' then
            v_organization_ids := array[v_done[1]];
            v_signs := array[row(0, true, 0, null, false, 1)::app.outage_signs];
        end if;
    exception
        when lock_not_available then
            null;
    end;
    return query
    select u.organization_id, case when u.organization_id = any (v_done) then 'accepted' else 'busy' end, u.items::bigint
      from unnest(p_organization_ids, p_counts) u (organization_id, items)
     where u.organization_id = any (v_done || v_held);
    -- The others, in the order of ids, so that two of these calls cannot deadlock.
    for v_part in
        select p.organization_id as id, p.first_place as f, p.last_place as l
          from (select u.organization_id, (sum(u.items) over (order by u.n) - u.items + 1)::integer as first_place,
                       (sum(u.items) over (order by u.n))::integer as last_place
                  from unnest(p_organization_ids, p_counts) with ordinality u (organization_id, items, n)) p
         where p.organization_id <> all (v_done || v_held)
         order by p.organization_id
    loop
        begin
            v_recorded := app.record_outcomes(
                v_part.id, p_job_ids[v_part.f : v_part.l], p_positions[v_part.f : v_part.l], p_lease_tokens[v_part.f : v_part.l],
                p_http_statuses[v_part.f : v_part.l], p_error_classes[v_part.f : v_part.l], p_responses[v_part.f : v_part.l],
                p_retry_afters[v_part.f : v_part.l], p_latencies[v_part.f : v_part.l]);
            v_organization_ids := v_organization_ids || v_part.id;
            v_signs := v_signs || v_recorded.signs;
            return query select v_part.id, v.verdict, count(*) from unnest(v_recorded.verdicts) v (verdict) group by v.verdict;
        exception
            when lock_not_available then
                return query select v_part.id, 'busy', (v_part.l - v_part.f + 1)::bigint;
        end;
    end loop;
    -- The row of the circuit breaker is shared by all and comes last. If it is locked, the next flush reports what these would.
    perform from app.upstream_state for update skip locked;
    if found then
        for n in 1 .. cardinality(v_signs) loop
            perform app.record_result(v_organization_ids[n], v_signs[n], app.clock());
        end loop;
    end if;
end;
$$;

comment on function api.record_for_organizations(uuid[], integer[], uuid[], integer[], uuid[], integer[], text[], text[], double precision[], double precision[]) is
'api.record_lookups for several organizations in one transaction: the arrays hold the outcomes of each organization in turn, and p_counts how many each has. Returns how often each verdict was given to each organization. The verdict busy says that nothing of the organization was recorded, because another transaction holds a row of it: call api.record_lookups for it. On a cluster of several nodes, call only that.';
