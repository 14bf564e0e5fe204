-- Chapter 56, duplicates: with deduplicate_seconds set, the same question is looked up once, and all items that ask it get the response.
-- Planned for each call, because the number of duplicates varies.

create or replace function app.sorted_ids(p_ids integer[]) returns text
language sql immutable
return case cardinality(p_ids) when 1 then p_ids[1]::text else (select string_agg(d::text, ',' order by d) from unnest(p_ids) d) end;

-- The deduplication key: items with the same key ask the same question. It ignores case and punctuation of the address. An item that
-- creates an application has none.
create or replace function app.dedup_key(p_item app.batch_item) returns uuid
language sql immutable
as $$
    select case when not coalesce((p_item).create_application, false) then md5(
        btrim(regexp_replace(lower(((p_item).address ->> 'street_1') || ' ' || coalesce((p_item).address ->> 'street_2', '')), '[^[:alnum:]]+', ' ', 'g')) || '|'
        || btrim(regexp_replace(lower((p_item).address ->> 'city'), '[^[:alnum:]]+', ' ', 'g')) || '|'
        || upper(((p_item).address ->> 'country_code') || ((p_item).address ->> 'state_or_province_code')) || '|'
        || left(regexp_replace(upper((p_item).address ->> 'postal_code'), '[^A-Z0-9]', '', 'g'), case (p_item).address ->> 'country_code' when 'US' then 5 else 6 end) || '|'
        || (p_item).building_type || '|'
        || app.sorted_ids((p_item).device_ids)
        || coalesce('|' || (p_item).household::text, ''))::uuid end
$$;

-- When a duplicate stops waiting for the response to another item.
create or replace function app.wait_for_duplicates_until(p_now timestamptz) returns timestamptz
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (select p_now + 2 * app.seconds(lease_seconds + lookup_timeout_seconds) from app.settings);
end;
$$;

-- The deduplication keys of items in flight; none while deduplication is off.
create or replace function app.keys_in_flight(p_organization_id uuid) returns uuid[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if (select deduplicate_seconds is null from app.settings) then
        return '{}';
    end if;
    return array(select distinct i.deduplication_key
                   from public.lookup_leases l
                  cross join unnest(l.positions) r
                   join public.lookup_queue_items i
                     on i.organization_id = p_organization_id and i.job_id = l.job_id and i.position >= lower(r) and i.position < upper(r)
                  where l.organization_id = p_organization_id and i.status = 'pending' and i.deduplication_key is not null);
end;
$$;

-- The pending items with these keys. is_asking: it is in flight, or will be looked up in its turn; is_waiting: it waits for the response to
-- another one. The others are held, behind a sample or a limit.
create or replace function app.pending_with_keys(p_organization_id uuid, p_keys uuid[], p_now timestamptz)
returns table (deduplication_key uuid, id uuid, job_id uuid, "position" integer, retry_at timestamptz, created_at timestamptz,
               is_asking boolean, is_waiting boolean)
language plpgsql stable
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan
as $$
declare
    -- In an outage, what is asked waits for a second.
    v_soon timestamptz := p_now + interval '1 second';
begin
    return query
    select i.deduplication_key, i.id, i.job_id, i.position, i.retry_at, i.created_at,
           case when i.retry_at is null
                then not exists (select from app.job_budgets b
                                  where b.organization_id = p_organization_id and b.job_id = i.job_id and b.held_position <= i.position)
                     or exists (select from public.lookup_leases l
                                 where l.organization_id = p_organization_id and l.job_id = i.job_id and i.position <@ l.positions)
                else i.retry_at <= v_soon or i.retry_count > 0 and i.retry_at < 'infinity' end,
           coalesce(i.retry_at > v_soon and i.retry_at < 'infinity' and i.retry_count = 0, false)
      from public.lookup_queue_items i
     where i.organization_id = p_organization_id and i.deduplication_key = any (p_keys) and i.status = 'pending';
end;
$$;

-- For the items of a new or continued job that are not in flight: recent responses are used immediately; duplicates of pending items are
-- deferred for at most two leases and time-outs, then looked up. The first of them is deferred only if an item of another job asks the same,
-- whichever is older: that job may have been created at the same time, and saw only its own items. Does nothing while deduplication is off.
create or replace function app.defer_duplicates(p_organization_id uuid, p_job_id uuid, p_now timestamptz) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan
as $$
declare
    v_until     timestamptz;
    v_items     public.lookup_queue_items[];
    v_keys      uuid[];
    v_leased    int4multirange;
    v_positions integer[];
begin
    if (select deduplicate_seconds is null from app.settings) then
        return;
    end if;
    v_until  := app.wait_for_duplicates_until(p_now);
    v_leased := app.positions_in_flight(p_organization_id, p_job_id);
    select array_agg(row(i.*)::public.lookup_queue_items) into v_items
      from public.lookup_queue_items i
     where i.organization_id = p_organization_id and i.job_id = p_job_id and i.deduplication_key is not null;
    perform app.answer_duplicates(p_organization_id, v_items, p_now, p_job_id);
    -- Each question is read once: many items may ask it, and as many may have answered it.
    v_keys := array(select distinct i.deduplication_key from unnest(v_items) i);
    v_positions := array(select o.position
                           from (select u.job_id, u.position, u.is_own,
                                        row_number() over (partition by u.deduplication_key
                                                           order by u.is_asking and not u.is_own desc, u.is_own desc, u.id) as place
                                   from (select a.*, a.job_id = p_job_id and not a.position <@ v_leased as is_own
                                           from app.pending_with_keys(p_organization_id, v_keys, p_now) a) u) o
                          where o.is_own and o.place > 1);
    update public.lookup_queue_items
       set retry_at = v_until
     where organization_id = p_organization_id and job_id = p_job_id and position = any (v_positions) and status = 'pending';
end;
$$;

-- For the items that wait in these jobs, which the caller has locked, for the responses to p_items, which ended or were deferred without one.
-- While another item asks, they wait on, up to an hour after their upload; if none does, the first of them is looked up now. It waits for no
-- lock: a locked item waits out its time.
create or replace function app.ask_again(
    p_organization_id uuid, p_items public.lookup_queue_items[], p_job_ids uuid[], p_now timestamptz
) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan
as $$
declare
    v_until     timestamptz := app.wait_for_duplicates_until(p_now);
    -- Not every time, because thousands of items may wait.
    v_extends   timestamptz := p_now + (v_until - p_now) / 2;
    v_keys      uuid[];
    v_job_ids   uuid[];
    v_positions integer[];
    v_is_next   boolean[];
    v_retry_ats timestamptz[];
begin
    v_keys := array(select distinct i.deduplication_key from unnest(p_items) i where i.status <> 'completed' and i.deduplication_key is not null);
    if v_keys = '{}' then
        return;
    end if;
    select array_agg(w.job_id), array_agg(w.position), array_agg(w.is_next) into v_job_ids, v_positions, v_is_next
      from (select a.*, not bool_or(a.is_asking) over same
                        and row_number() over (partition by a.deduplication_key, a.is_waiting order by a.id) = 1 as is_next
              from app.pending_with_keys(p_organization_id, v_keys, p_now) a
             where a.is_asking or a.is_waiting and a.job_id = any (p_job_ids)
            window same as (partition by a.deduplication_key)) w
     where w.is_waiting and (w.is_next or w.retry_at < v_extends and w.created_at > p_now - interval '1 hour');
    select array_agg(l.job_id), array_agg(l.position), array_agg(l.retry_at) into v_job_ids, v_positions, v_retry_ats
      from (select i.job_id, i.position, case when w.is_next then p_now else v_until end as retry_at
              from unnest(v_job_ids, v_positions, v_is_next) w (job_id, position, is_next)
              join public.lookup_queue_items i on i.organization_id = p_organization_id and i.job_id = w.job_id and i.position = w.position
             where i.status = 'pending' and i.retry_at > p_now and i.retry_at < 'infinity'
               for update of i skip locked) l;
    if v_job_ids is null then
        return;
    end if;
    update public.lookup_queue_items i
       set retry_at = w.retry_at
      from unnest(v_job_ids, v_positions, v_retry_ats) w (job_id, position, retry_at)
     where i.organization_id = p_organization_id and i.job_id = w.job_id and i.position = w.position;
    if p_now = any (v_retry_ats) then
        perform app.mark_ready(p_organization_id, p_now);
    end if;
end;
$$;

-- The response to another item, adapted to this one.
create or replace function app.duplicate_result(p_result json, p_reference_id text) returns json
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (select json_object_agg(m.key, case m.key when 'reference_id' then to_json(p_reference_id) else m.value end order by m.n)
              from (select key, value, ordinality as n from json_each(p_result) with ordinality where key <> 'deduplicated'
                     union all
                    select 'reference_id', null, 0 where p_result -> 'reference_id' is null
                     union all
                    select 'deduplicated', 'true', 2147483647) m);
end;
$$;

-- Copies the responses of completed items to the duplicates of p_items that are not in flight, whether they wait or were never claimed;
-- where there is no response, one of those that wait asks next. It waits for no lock: locked jobs and items are skipped, and looked up later.
-- p_job_id: only duplicates in this job, because the transaction of an upload may stay open for long and would keep the jobs of others
-- locked.
create or replace function app.answer_duplicates(
    p_organization_id uuid, p_items public.lookup_queue_items[], p_now timestamptz, p_job_id uuid default null
) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan
as $$
declare
    v_since          timestamptz := p_now - (select app.seconds(deduplicate_seconds) from app.settings);
    v_keys           uuid[];
    v_job_ids        uuid[];
    v_queued         app.queued_jobs[];
    v_to_job_ids     uuid[];
    v_positions      integer[];
    v_from_job_ids   uuid[];
    v_from_positions integer[];
begin
    if v_since is null then
        return;
    end if;
    v_keys := array(select distinct i.deduplication_key from unnest(p_items) i where i.deduplication_key is not null);
    if v_keys = '{}' then
        return;
    end if;
    v_job_ids := array(select j.id
                         from public.batch_lookup_jobs j
                        where j.organization_id = p_organization_id and j.status in ('pending', 'processing')
                          and (p_job_id is null or j.id = p_job_id)
                          and j.id in (select i.job_id from public.lookup_queue_items i
                                        where i.organization_id = p_organization_id and i.deduplication_key = any (v_keys) and i.status = 'pending'));
    if v_job_ids = '{}' then
        return;
    end if;
    v_job_ids := app.lock_free_jobs(p_organization_id, v_job_ids);
    select array_agg(row(q.*)::app.queued_jobs) into v_queued
      from (select * from app.queued_jobs where organization_id = p_organization_id and job_id = any (v_job_ids) for update skip locked) q;
    select d.job_ids, d.positions, d.from_job_ids, d.from_positions into v_to_job_ids, v_positions, v_from_job_ids, v_from_positions
      from app.hold_duplicates(p_organization_id, v_keys, v_since, v_job_ids, v_queued) d;
    perform app.copy_results(p_organization_id, v_to_job_ids, v_positions, v_from_job_ids, v_from_positions, false, p_now);
    if p_job_id is null then
        perform app.ask_again(p_organization_id, p_items, v_job_ids, p_now);
    end if;
end;
$$;

-- Locks the items of these jobs that wait with these keys, and returns their places and those of the newest responses to them. There may be
-- ten thousand of both: they are hash-joined, whatever the planner expects without statistics; the caller's settings forbid that for its
-- own statements.
create or replace function app.hold_duplicates(
    p_organization_id uuid, p_keys uuid[], p_since timestamptz, p_job_ids uuid[], p_queued app.queued_jobs[],
    out job_ids uuid[], out positions integer[], out from_job_ids uuid[], out from_positions integer[]
)
language plpgsql volatile
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan set jit = off set enable_nestloop = off set enable_hashjoin = on
as $$
begin
    with answer as materialized (
        select distinct on (a.deduplication_key) a.deduplication_key, a.job_id, a.position
          from public.lookup_queue_items a
         where a.organization_id = p_organization_id and a.deduplication_key = any (p_keys) and a.status = 'completed' and a.processed_at >= p_since
         order by a.deduplication_key, a.processed_at desc
    )
    select array_agg(w.job_id), array_agg(w.position), array_agg(w.from_job_id), array_agg(w.from_position)
      into job_ids, positions, from_job_ids, from_positions
      from (select i.job_id, i.position, a.job_id as from_job_id, a.position as from_position
              from public.lookup_queue_items i
              join answer a on a.deduplication_key = i.deduplication_key
              left join unnest(p_queued) q on q.job_id = i.job_id
             where i.organization_id = p_organization_id and i.deduplication_key = any (p_keys) and i.status = 'pending' and i.job_id = any (p_job_ids)
               and (i.retry_at is not null or i.position >= q.next_position)
             order by i.job_id, i.position
               for update of i skip locked) w;
end;
$$;

-- Adds the completed items of a job to app.known_results. Responses copied from another item do not count, as they are older than they
-- look.
create or replace function app.learn_job(p_organization_id uuid, p_job_id uuid, p_completed_items integer) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into app.known_results (organization_id, deduplication_key, job_id, position, looked_up_at)
    select p_organization_id, k.deduplication_key, p_job_id, i.position, i.processed_at
      from public.lookup_queue_items i
     cross join lateral (select coalesce(i.deduplication_key, app.dedup_key(app.uploaded_item(row(i.*)::public.lookup_queue_items, 0))) as deduplication_key) k
     where i.organization_id = p_organization_id and i.job_id = p_job_id and i.status = 'completed' and i.reused_from_job_id is null
       and k.deduplication_key is not null
       and strpos(app.item_result(row(i.*)::public.lookup_queue_items)::text, '"deduplicated"') = 0
        on conflict do nothing;
    insert into app.known_jobs as k (organization_id, job_id, completed_items)
    values (p_organization_id, p_job_id, p_completed_items)
    on conflict (organization_id, job_id) do update
       set completed_items = excluded.completed_items;
end;
$$;

-- The jobs of an organization that changed since p_since and have completed items that app.known_results lacks, newest first. Those that
-- ended more than an hour before everything was read need no second look.
create or replace function app.unread_jobs(p_organization_id uuid, p_since timestamptz) returns table (job_id uuid, completed_items integer)
language plpgsql stable
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan set jit = off
as $$
declare
    v_ended_since timestamptz := coalesce((select k.read_until - interval '1 hour' from app.known_organizations k where k.organization_id = p_organization_id),
                                          '-infinity');
begin
    return query
    select c.id, c.completed
      from (select j.id, j.processed_items - j.failed_items as completed
              from public.batch_lookup_jobs j
             where j.organization_id = p_organization_id and j.status in ('pending', 'processing') and j.updated_at >= p_since
             union all
            select j.id, j.processed_items - j.failed_items
              from public.batch_lookup_jobs j
             where j.organization_id = p_organization_id and j.completed_at >= v_ended_since and j.updated_at >= p_since) c
      left join lateral (select k.completed_items
                           from app.known_jobs k
                          where k.organization_id = p_organization_id and k.job_id = c.id
                         offset 0) k on true
     where c.completed > 0 and k.completed_items is distinct from c.completed
     order by c.id desc;
end;
$$;

-- Updates app.known_results, and returns how many jobs are left to read: one call reads 20,000 items or one job, so that the first upload
-- that reuses results does not read the organization's whole history. Maintenance reads the rest. It waits at most a second for another
-- upload of the organization, then uses what is known.
create or replace function app.learn_results(p_organization_id uuid, p_since timestamptz) returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp set lock_timeout = '1s'
as $$
declare
    v_now  timestamptz := app.clock();
    v_read integer     := 0;
    v_left integer     := 0;
    v_job  record;
begin
    perform app.lock_organization(p_organization_id);
    insert into app.known_organizations (organization_id) values (p_organization_id) on conflict do nothing;
    for v_job in select * from app.unread_jobs(p_organization_id, p_since) loop
        if v_read > 0 and v_read + v_job.completed_items > 20000 then
            v_left := v_left + 1;
        else
            perform app.learn_job(p_organization_id, v_job.job_id, v_job.completed_items);
            v_read := v_read + v_job.completed_items;
        end if;
    end loop;
    if v_left = 0 then
        update app.known_organizations k
           set read_until = v_now
         where k.organization_id = p_organization_id and k.read_until < v_now - interval '1 minute' and k.read_until >= p_since;
    end if;
    return v_left;
exception
    when lock_not_available then
        return (select count(*) from app.unread_jobs(p_organization_id, p_since));
end;
$$;

-- Continues reading in the background for organizations that reuse results: one organization with unread jobs per run.
create or replace function app.learn_results_in_turn() returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_organization_ids uuid[] := array(select organization_id from app.known_organizations order by organization_id);
    v_organization_id  uuid;
    v_is_unread        boolean;
    v_after            uuid;
begin
    foreach v_organization_id in array app.in_turn('results', v_organization_ids, 20) loop
        v_after := v_organization_id;
        continue when not app.try_lock_organization(v_organization_id);
        v_is_unread := exists (select from app.unread_jobs(v_organization_id, '-infinity'));
        perform app.learn_results(v_organization_id, '-infinity');
        exit when v_is_unread;
    end loop;
    perform app.end_turn('results', v_after);
end;
$$;

create or replace function app.known_results_of(p_organization_id uuid, p_items app.batch_item[], p_since timestamptz)
returns table ("position" integer, from_job_id uuid, from_position integer)
language plpgsql stable
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan
as $$
begin
    return query
    with wanted as materialized (
        select u.position, app.dedup_key(u) as deduplication_key from unnest(p_items) u
    ), known as materialized (
        -- Each key once: many items may ask the same question, and as many may have answered it.
        select w.deduplication_key, k.job_id, k.position
          from (select distinct deduplication_key from wanted) w
         cross join lateral (select r.job_id, r.position
                               from app.known_results r
                              where r.organization_id = p_organization_id and r.deduplication_key = w.deduplication_key and r.looked_up_at >= p_since
                              order by r.looked_up_at desc
                              limit 1) k
    )
    select w.position, k.job_id, k.position
      from wanted w
      join known k on k.deduplication_key = w.deduplication_key;
end;
$$;

-- The notes for an upload that reuses results before all of them have been read: [{code, message}]. p_job_id: the upload's own job.
create or replace function app.unread_notes(p_organization_id uuid, p_max_age_days integer, p_job_id uuid default null) returns jsonb
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_unread integer;
begin
    if p_max_age_days is null then
        return '[]';
    end if;
    v_unread := (select count(*)
                   from app.unread_jobs(p_organization_id, app.clock() - make_interval(days => p_max_age_days)) u
                  where u.job_id is distinct from p_job_id);
    return case when v_unread = 0 then '[]' else jsonb_build_array(jsonb_build_object(
        'code', 'results_unread',
        'message', format('%s not been read yet: what is known from there alone is looked up again. Repeat a dry run in a minute, until this note is gone',
                          case v_unread when 1 then '1 earlier batch has' else v_unread || ' earlier batches have' end))) end;
end;
$$;

-- How many of the valid items of an upload would be answered from results at most p_max_age_days old.
create or replace function app.count_known(p_organization_id uuid, p_items app.batch_item[], p_max_age_days integer) returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_since timestamptz := app.clock() - make_interval(days => p_max_age_days);
begin
    if v_since is null then
        return 0;
    end if;
    perform app.learn_results(p_organization_id, v_since);
    return (select count(*) from app.known_results_of(p_organization_id, array(select i from unnest(p_items) i where i.problems is null), v_since));
end;
$$;

-- Completes the items of a new job whose results are known, and returns how many. The others are claimed in their turn; if few of many are
-- left, they are scheduled immediately, because a claim would step over all the others.
create or replace function app.reuse_results(
    p_organization_id uuid, p_job_id uuid, p_items app.batch_item[], p_max_age_days integer, p_now timestamptz
) returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_since          timestamptz := p_now - make_interval(days => p_max_age_days);
    v_positions      integer[];
    v_job_ids        uuid[];
    v_from_positions integer[];
    v_reused         integer;
begin
    perform app.learn_results(p_organization_id, v_since);
    select array_agg(k.position order by k.position), array_agg(k.from_job_id order by k.position), array_agg(k.from_position order by k.position)
      into v_positions, v_job_ids, v_from_positions
      from app.known_results_of(p_organization_id, p_items, v_since) k;
    v_reused := app.copy_results(
        p_organization_id, array_fill(p_job_id, array[coalesce(cardinality(v_positions), 0)]), v_positions, v_job_ids, v_from_positions, true, p_now);
    if v_reused > 0.9 * cardinality(p_items) then
        delete from app.queued_jobs where organization_id = p_organization_id and job_id = p_job_id;
        update public.lookup_queue_items
           set retry_at = p_now
         where organization_id = p_organization_id and job_id = p_job_id and status = 'pending' and retry_at is null;
    end if;
    return v_reused;
end;
$$;

-- Completes items with the results of others, given as parallel arrays in the order of jobs and positions, and returns how many.
-- p_is_reuse: they record their source. At most as many at a time as a flush has, or as have 8 MB of results: processing takes a dozen
-- times that.
create or replace function app.copy_results(
    p_organization_id uuid, p_job_ids uuid[], p_positions integer[], p_from_job_ids uuid[], p_from_positions integer[], p_is_reuse boolean,
    p_now timestamptz
) returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_first integer := 1;
    v_last  integer;
    v_items public.lookup_queue_items[];
    v_count integer := 0;
begin
    foreach v_last in array app.pieces_of_results(p_organization_id, p_from_job_ids, p_from_positions) loop
        v_items := app.copy_piece(p_organization_id, p_job_ids[v_first : v_last], p_positions[v_first : v_last], p_from_job_ids[v_first : v_last],
                                  p_from_positions[v_first : v_last], p_is_reuse, p_now);
        if cardinality(v_items) > 0 then
            perform app.add_report_sites(p_organization_id, v_items, p_now);
            perform app.publish_item_changes(p_organization_id, v_items, p_now);
            perform app.count_unanswered(p_organization_id, v_items, 'deduplicated', null, p_now);
        end if;
        v_count := v_count + cardinality(v_items);
        v_first := v_last + 1;
    end loop;
    return v_count;
end;
$$;

-- The last place of each piece. After 256 MB, which take ten seconds, there are no more: the rest is looked up, so that the transaction
-- stays within its time limit.
create or replace function app.pieces_of_results(p_organization_id uuid, p_job_ids uuid[], p_positions integer[]) returns integer[]
language plpgsql stable
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
begin
    return array(select max(b.n)::integer
                   from (select k.n, (k.n - 1) / 1000 as thousand, sum(s.bytes) over (order by k.n) / (8 * 1024 * 1024) as part
                           from unnest(p_job_ids, p_positions) with ordinality k (job_id, position, n)
                          cross join lateral (select octet_length(app.item_result(row(i.*)::public.lookup_queue_items)::text) as bytes
                                                from public.lookup_queue_items i
                                               where i.organization_id = p_organization_id and i.job_id = k.job_id and i.position = k.position
                                              offset 0) s) b
                  where b.part < 32
                  group by b.thousand, b.part
                  order by 1);
end;
$$;

-- A copy has no deduplication key: it is older than it looks, and does not answer other items.
create or replace function app.copy_piece(
    p_organization_id uuid, p_job_ids uuid[], p_positions integer[], p_from_job_ids uuid[], p_from_positions integer[], p_is_reuse boolean,
    p_now timestamptz
) returns public.lookup_queue_items[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp set jit = off set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set enable_sort = off
as $$
declare
    v_row   record;
    v_items public.lookup_queue_items[] := '{}';
begin
    for v_row in
        with known as materialized (
            select k.job_id, k.position, k.from_job_id, k.from_position, s.result
              from unnest(p_job_ids, p_positions, p_from_job_ids, p_from_positions) k (job_id, position, from_job_id, from_position)
             cross join lateral (select app.item_result(row(i.*)::public.lookup_queue_items) as result
                                   from public.lookup_queue_items i
                                  where i.organization_id = p_organization_id and i.job_id = k.from_job_id and i.position = k.from_position
                                    and i.status = 'completed'
                                 offset 0) s
        )
        update public.lookup_queue_items i
           set status               = 'completed',
               retry_at             = null,
               result               = app.duplicate_result(k.result, i.reference_id),
               processed_at         = p_now,
               deduplication_key    = null,
               reused_from_job_id   = case when p_is_reuse then k.from_job_id end,
               reused_from_position = case when p_is_reuse then k.from_position end
          from known k
         where i.organization_id = p_organization_id and i.job_id = k.job_id and i.position = k.position and i.status = 'pending'
     returning i.position, app.with_parsed_result(row(i.*)::public.lookup_queue_items, i.result::jsonb) as item
    loop
        v_items := v_items || v_row.item;
    end loop;
    return v_items;
end;
$$;
