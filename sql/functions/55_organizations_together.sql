-- Chapter 55, several organizations in one call, where one PostgreSQL holds them all: thin loops over the calls for one organization, which
-- share their commit. Each organization has a subtransaction. Whose rows another transaction holds is passed over, so that it neither stops
-- the others nor lets their rows wait; the caller tries it by itself. PostgreSQL keeps 64 subtransactions of a transaction at hand, so
-- callers give at most 50 organizations.

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
'api.claim_lookups for several organizations in one transaction: of each, up to as many items as p_limits has in its place, until there are p_total or more. An organization whose rows another transaction holds is passed over: a row of nulls names it. Call it without a rate limit only: with one, the first claim holds the next slot until the commit. Where organizations are distributed over several nodes, call api.claim_lookups.';

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
    v_organization_ids uuid[]             := '{}';
    v_signs            app.outage_signs[] := '{}';
begin
    -- In the order of ids, so that two of these calls cannot deadlock.
    for v_part in
        select u.organization_id as id, (sum(u.items) over (order by u.n) - u.items + 1)::integer as f, (sum(u.items) over (order by u.n))::integer as l
          from unnest(p_organization_ids, p_counts) with ordinality u (organization_id, items, n)
         order by u.organization_id
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
    -- The row of the circuit breaker, which all share, comes last. If another transaction holds it, the next flush tells what these would.
    perform from app.upstream_state for update skip locked;
    if found then
        for n in 1 .. cardinality(v_signs) loop
            perform app.record_result(v_organization_ids[n], v_signs[n], app.clock());
        end loop;
    end if;
end;
$$;

comment on function api.record_for_organizations(uuid[], integer[], uuid[], integer[], uuid[], integer[], text[], text[], double precision[], double precision[]) is
'api.record_lookups for several organizations in one transaction: the arrays hold the outcomes of one organization after those of the other, p_counts how many each has. Answers how often each verdict was given to each organization. The verdict busy says that nothing of the organization was recorded, because another transaction holds a row of it: call api.record_lookups for it. Where organizations are distributed over several nodes, call only that.';
