-- Chapter 93, SQL users: those who have psql, a BI tool or rpc() and want no HTTP. Views to select from, a batch out of any table, and
-- waiting for its end.

-- The views of members show what the policies let them see: they run with the rights of whoever selects.
create or replace view api.jobs with (security_invoker = true) as
select j.organization_id, j.id, j.name, j.status, j.total_items, j.processed_items, j.failed_items,
       round(100.0 * j.processed_items / j.total_items, 1) as percent, j.report_id, j.created_at, j.started_at, j.completed_at,
       coalesce(j.completed_at, j.updated_at) - j.started_at as took
  from public.batch_lookup_jobs j;

comment on view api.jobs is 'Batches: status, counters, percent done, and how long it took or has taken so far.';

create or replace view api.items with (security_invoker = true) as
select i.organization_id, i.job_id, i.id, i.position,
       case when i.status = 'pending' and i.retry_at is null
                 and exists (select from public.lookup_leases l
                              where l.organization_id = i.organization_id and l.job_id = i.job_id and i.position <@ l.positions)
            then 'processing' else i.status end as status,
       i.reference_id, i.address, i.building_type, i.device_ids,
       i.result #>> '{utility,name}' as utility, (i.result #> '{incentives,total_incentive_amount}') as total_incentive_amount,
       i.result, i.error_code, i.error_message, i.warnings, i.retry_count, i.retry_at, i.created_at, i.processed_at
  from public.lookup_queue_items i;

comment on view api.items is 'Sites of batches with what came of each, in upload order by position. total_incentive_amount: US dollars, as the provider gave it.';

create or replace view api.reports with (security_invoker = true) as
select r.organization_id, r.id, r.job_id, r.name, r.description, r.status, r.report_type, r.total_sites, r.eligible_sites,
       r.total_incentive_value, r.created_at, r.completed_at
  from public.incentive_reports r;

comment on view api.reports is 'Reports with their totals, in US dollars.';

create or replace view api.report_sites with (security_invoker = true) as
select s.organization_id, s.report_id, s.position, s.item_id, s.reference_id, s.street_1, s.street_2, s.city, s.state_or_province_code,
       s.postal_code, s.country_code, s.building_type, s.device_categories, s.utility_eiaid, s.utility_name, s.eligible,
       s.total_incentive_amount, s.created_at
  from public.incentive_report_sites s;

comment on view api.report_sites is 'Sites of reports: utility, eligible or not, and the amount in US dollars.';

-- Without functions of ours: a view's functions need the caller's privileges, its tables do not.
create or replace view api.queue_health as
select (select count(*) from public.batch_lookup_jobs where status in ('pending', 'processing'))                     as open_jobs,
       (select coalesce(sum(end_position - next_position), 0) from app.queued_jobs)                                  as ready_items,
       (select count(*) from public.lookup_queue_items where status = 'pending' and retry_at is not null)            as items_waiting_for_retry,
       (select coalesce(sum(upper(r) - lower(r)), 0) from public.lookup_leases l, unnest(l.positions) r)             as items_in_flight,
       (select coalesce(sum(upper(r) - lower(r)), 0) from public.lookup_leases l, unnest(l.positions) r
         where l.expires_at < c.now)                                                                                 as expired_leases,
       c.now - (select min(created_at) from public.batch_lookup_jobs where status in ('pending', 'processing'))      as oldest_open_job,
       (select count(*) from app.organization_queue_state where ready_at <= c.now)                                   as ready_organizations,
       (select count(*) from app.workers where seen_at > c.now - interval '15 seconds')                              as workers,
       s.lookups_per_second,
       s.max_in_flight,
       floor(least(u.in_flight_limit, s.max_in_flight))                                                              as in_flight_limit,
       u.unavailable_since                                                                                           as upstream_unavailable_since,
       u.failures_in_a_row                                                                                           as upstream_failures_in_a_row,
       nullif(greatest(u.paused_until, case when u.unavailable_since is not null then u.probe_at end, c.now), c.now) as upstream_closed_until,
       u.base_latency                                                                                                as upstream_base_latency,
       nullif(m.ran_at, '-infinity')                                                                                 as maintenance_ran_at
  from app.settings s, app.upstream_state u, app.maintenance_state m, clock_timestamp() c (now);

comment on view api.queue_health is 'One row, for operators: what is open, ready, waiting, in flight and overdue in all organizations, the workers of the last 15 seconds, the pace, how many lookups the incentives API bears at once, since when it is unavailable, until when nothing starts (an outage, or a Retry-After), and its latency at rest in seconds.';

create or replace function api.get_queue_health() returns json
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return (select row_to_json(h) from api.queue_health h);
end;
$$;

comment on function api.get_queue_health() is 'The row of api.queue_health as an object, for those who may only call functions.';

create or replace view api.sites as
select null::text    as reference_id,
       null::text    as street_1,
       null::text    as street_2,
       null::text    as city,
       null::text    as state_or_province_code,
       null::text    as postal_code,
       null::text    as country_code,
       null::text    as building_type,
       null::text    as device_ids
 where false;

comment on view api.sites is 'No rows, but the columns of a CSV upload: create temp table sites (like api.sites), \copy a file into it, api.create_batch_lookup_from. device_ids such as 1;4.';

-- With the caller's own rights: it reads what the caller may read, and creates what the caller may create.
create or replace function api.create_batch_lookup_from(
    p_table           regclass,
    p_organization_id uuid    default app.claimed_organization_id(),
    p_check_devices   boolean default true
) returns json
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_address text[] := array['street_1', 'street_2', 'city', 'state_or_province_code', 'postal_code', 'country_code'];
    v_items   jsonb;
begin
    -- One row more than may be, so that too many are refused for what they are.
    execute format('select jsonb_agg(to_jsonb(t)) from (select * from %s limit 10001) t', p_table) into v_items;
    select jsonb_agg(
               (select coalesce(jsonb_object_agg(f.key, f.value), '{}')
                  from jsonb_each(r.site) f
                 where f.value <> 'null' and f.key <> all (v_address || array['device_ids']))
               || case when r.site ? 'address' then '{}'
                       else jsonb_build_object('address', (select coalesce(jsonb_object_agg(f.key, f.value), '{}')
                                                             from jsonb_each(r.site) f
                                                            where f.value <> 'null' and f.key = any (v_address))) end
               || jsonb_build_object('device_ids', case jsonb_typeof(r.site -> 'device_ids')
                       when 'string' then (select jsonb_agg(case when d ~ '^[0-9]{1,9}$' then to_jsonb(d::integer) else to_jsonb(d) end)
                                             from regexp_split_to_table(btrim(r.site ->> 'device_ids', '{}[] '), '[;,\s]+') d)
                       when 'number' then jsonb_build_array(r.site -> 'device_ids')
                       else r.site -> 'device_ids' end)
               order by r.n)
      into v_items
      from jsonb_array_elements(v_items) with ordinality r (site, n);
    return api.create_batch_lookup(p_organization_id, coalesce(v_items, '[]'), p_check_devices);
end;
$$;

comment on function api.create_batch_lookup_from(regclass, uuid, boolean) is
'Creates a batch of the rows of a table or view that the caller may read; a query becomes one as a temporary view. Columns by name, as api.sites has them; instead of the parts of the address there may be a column address (jsonb), and device_ids may be an array or text such as 1;4. Further columns are members of the item, such as create_application. Answers and errors are those of api.create_batch_lookup.';

-- With the caller's own rights, and one look at a time: each statement sees what was committed meanwhile.
create or replace function api.wait_for_batch(p_job_id uuid, p_timeout interval default '5 minutes', p_organization_id uuid default app.claimed_organization_id())
returns json
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_until timestamptz := clock_timestamp() + p_timeout;
    v_pause double precision := 0.02;
    v_seen  integer;
    v_job   api.jobs;
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise sqlstate 'PT400' using
            message    = 'Waiting needs a transaction that sees what others commit',
            hint       = 'Call it outside a transaction, or in one of isolation level read committed.',
            constraint = 'unsupported_isolation_level';
    end if;
    loop
        select * into v_job from api.jobs where id = p_job_id and (p_organization_id is null or organization_id = p_organization_id);
        if not found then
            raise sqlstate 'PT404' using message = 'Batch job not found', constraint = 'job_not_found';
        end if;
        if v_seen is distinct from v_job.processed_items then
            raise notice '% of % sites', v_job.processed_items, v_job.total_items;
            v_seen := v_job.processed_items;
        end if;
        exit when v_job.completed_at is not null or clock_timestamp() >= v_until or p_timeout is null;
        perform pg_sleep(least(v_pause, extract(epoch from v_until - clock_timestamp())));
        v_pause := least(v_pause * 1.5, 1);
    end loop;
    return row_to_json(v_job);
end;
$$;

comment on function api.wait_for_batch(uuid, interval, uuid) is
'Waits until a batch has ended, at most p_timeout, and answers its row of api.jobs as it is then: look at its status. Progress comes as notices. The caller must be allowed to select from api.jobs; the organization may be left out. 404: no such job.';
