-- Chapter 67, traces: a job keeps the trace context of its upload, for its lookups and its webhooks.

-- A valid traceparent (https://www.w3.org/TR/trace-context/#traceparent-header) in version 00; null for any other text, which is then
-- ignored. A later version is read as far as version 00 goes, and of its flags only whether the trace is recorded.
create or replace function app.read_traceparent(p_traceparent text) returns text
language sql immutable
return case when p_traceparent ~ '^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$' then p_traceparent
            when p_traceparent ~ '^(?!00|ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?$'
            then '00' || substr(p_traceparent, 3, 51) || case when substr(p_traceparent, 55, 1) ~ '[13579bdf]' then '01' else '00' end end;

-- Stores the trace context of a job's upload. Without a job, as after a dry run, or without a valid context there is nothing to store.
create or replace function app.keep_traceparent(p_organization_id uuid, p_created json, p_traceparent text) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_job_id      uuid := p_created ->> 'job_id';
    v_traceparent text := app.read_traceparent(p_traceparent);
begin
    if v_job_id is not null and v_traceparent is not null then
        insert into app.job_traces (organization_id, job_id, traceparent) values (p_organization_id, v_job_id, v_traceparent);
    end if;
end;
$$;

create or replace function app.traces_of(p_organization_id uuid, p_job_ids uuid[]) returns app.job_traces[]
language plpgsql stable
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
    v_traces app.job_traces[];
begin
    select array_agg(row(t.*)::app.job_traces) into v_traces from app.job_traces t where t.organization_id = p_organization_id and t.job_id = any (p_job_ids);
    return v_traces;
end;
$$;
