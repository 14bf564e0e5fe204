-- Chapter 59, spending: samples and limits. A job that reaches one leaves the queue: its items fail, or the job is held until it is
-- continued.

-- How many more lookups an organization may make this month; null: any number.
create or replace function app.lookups_left(p_organization_id uuid, p_now timestamptz) returns bigint
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_limit integer := (select monthly_lookups from app.organizations where id = p_organization_id);
begin
    return case when v_limit is not null then greatest(v_limit - app.lookups_of_month(p_organization_id, p_now), 0) end;
end;
$$;

-- Whether an organization has jobs with a sample or a limit of their own.
create or replace function app.has_budgets(p_organization_id uuid) returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
begin
    perform from app.job_budgets where organization_id = p_organization_id limit 1;
    return found;
end;
$$;

-- Whether claims of an organization have to observe limits of its own.
create or replace function app.has_limits(p_organization_id uuid) returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set enable_seqscan = off
as $$
begin
    if app.has_budgets(p_organization_id) then
        return true;
    end if;
    perform from app.organizations where id = p_organization_id and monthly_lookups is not null;
    return found;
end;
$$;

-- Stores what the upload of a new job said about lookups. The items of a sample are due in the order of their hashes, which is random, but
-- the same for the same file; claims never see the others. Those that wait for the response to another item come last, and continue to
-- wait.
create or replace function app.set_budget(p_organization_id uuid, p_job_id uuid, p_spending jsonb, p_now timestamptz) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_sample  integer := p_spending ->> 'sample';
    v_pending integer;
begin
    insert into app.job_budgets (organization_id, job_id, sample, max_lookups, when_limit_reached)
    values (p_organization_id, p_job_id, v_sample, (p_spending ->> 'max_lookups')::integer, coalesce(p_spending ->> 'when_limit_reached', 'fail'));
    v_pending := (select count(*) from public.lookup_queue_items where organization_id = p_organization_id and job_id = p_job_id and status = 'pending');
    if v_sample is null or v_pending <= v_sample then
        return;
    end if;
    delete from app.queued_jobs where organization_id = p_organization_id and job_id = p_job_id;
    update app.job_budgets set held_position = 0 where organization_id = p_organization_id and job_id = p_job_id;
    update public.lookup_queue_items i
       set retry_at = case when s.place > v_sample then null
                           when i.retry_at > p_now then i.retry_at
                           else app.time_after(p_now, (s.place - v_sample) * interval '1 microsecond') end
      from (select position, row_number() over (order by coalesce(retry_at > p_now, false), md5(reference_id)) as place
              from public.lookup_queue_items
             where organization_id = p_organization_id and job_id = p_job_id and status = 'pending') s
     where i.organization_id = p_organization_id and i.job_id = p_job_id and i.position = s.position
       and (s.place <= v_sample or i.retry_at is not null);
end;
$$;

-- The items of a claim that fit within the limits of their jobs. The others become due immediately; the next claim finds the limits
-- reached, and stops their jobs.
create or replace function app.within_budgets(p_organization_id uuid, p_items public.lookup_queue_items[], p_now timestamptz) returns public.lookup_queue_items[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp set lock_timeout = '1ms'
as $$
declare
    v_job record;
begin
    for v_job in
        select b.job_id, array_agg(i.position) as positions
          from (select u.job_id, u.position, row_number() over (partition by u.job_id order by u.position) as place from unnest(p_items) u) i
          join app.job_budgets b on b.organization_id = p_organization_id and b.job_id = i.job_id
         where i.place > b.max_lookups - b.lookups
         group by b.job_id
    loop
        update public.lookup_queue_items
           set retry_at = p_now
         where organization_id = p_organization_id and job_id = v_job.job_id and position = any (v_job.positions);
        p_items := array(select i from unnest(p_items) i where i.job_id <> v_job.job_id or i.position <> all (v_job.positions));
    end loop;
    return p_items;
end;
$$;

-- Stops jobs that have reached a limit, their own or the month's, and returns whether that was all of them: an organization may have as
-- many open jobs as items, and a claim stops at most a hundred of them, or 10,000 items. A job held at its limit is resumed if lookups have
-- been returned since; otherwise it is held again if one of its items is among the first that will be due. Claims take none of the
-- others (app.within_budgets). The caller has locked the queue, so that nothing is claimed meanwhile.
create or replace function app.stop_at_limits(p_organization_id uuid, p_is_month_spent boolean, p_now timestamptz) returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_sort = off
as $$
declare
    v_job   record;
    v_keys  uuid[];
    v_count integer;
    v_items integer := 0;
    v_jobs  integer := 0;
begin
    for v_job in
        select j.id, coalesce(b.when_limit_reached, 'fail') as when_limit_reached, b.max_lookups > b.lookups and b.held_position is not null
               and coalesce(b.sample, j.total_items) >= j.total_items as has_room
          from public.batch_lookup_jobs j
          left join app.job_budgets b on b.organization_id = j.organization_id and b.job_id = j.id
         where j.organization_id = p_organization_id and j.status in ('pending', 'processing')
           and case when b.max_lookups > b.lookups and b.held_position is not null and coalesce(b.sample, j.total_items) >= j.total_items then true
                    when (p_is_month_spent or b.max_lookups <= b.lookups) is not true then false
                    when b.when_limit_reached = 'wait' then
                        b.max_lookups <= b.lookups
                        and (b.held_position is null or j.id in (select i.job_id
                                                                   from public.lookup_queue_items i
                                                                  where i.organization_id = p_organization_id and i.status = 'pending'
                                                                    and i.retry_at < 'infinity'
                                                                  order by i.retry_at
                                                                  limit 1000))
                    -- What is in flight does not fail.
                    else j.total_items - j.processed_items > (select coalesce(sum(app.count_positions(l.positions)), 0)
                                                                from public.lookup_leases l
                                                               where l.organization_id = p_organization_id and l.job_id = j.id) end
    loop
        if v_job.has_room then
            perform app.resume_job(p_organization_id, v_job.id, p_now);
            continue;
        end if;
        if v_jobs >= 100 or v_items >= 10000 then
            return false;
        elsif v_job.when_limit_reached = 'fail' then
            v_keys := coalesce(v_keys, app.keys_in_flight(p_organization_id));
            v_count := app.fail_at_limit(p_organization_id, v_job.id, v_keys, p_now);
            -- A job with nothing left to fail waits for answers in flight, and does not count here.
            v_items := v_items + v_count;
            v_jobs  := v_jobs + least(v_count, 1);
        else
            perform app.hold_job(p_organization_id, v_job.id);
        end if;
    end loop;
    return true;
end;
$$;

-- Fails the items of a job that are not in flight, and returns how many. If those in flight have to be retried, they fail at the next
-- claim. p_keys: the deduplication keys in flight. Items with one of them wait for its response, which takes no lookup of theirs.
create or replace function app.fail_at_limit(p_organization_id uuid, p_job_id uuid, p_keys uuid[], p_now timestamptz) returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_next_position integer;
    v_until         timestamptz                 := app.wait_for_duplicates_until(p_now);
    v_in_flight     int4multirange;
    v_item          public.lookup_queue_items;
    v_items         public.lookup_queue_items[] := '{}';
begin
    delete from app.queued_jobs where organization_id = p_organization_id and job_id = p_job_id returning next_position into v_next_position;
    v_next_position := coalesce(
        v_next_position, (select held_position from app.job_budgets where organization_id = p_organization_id and job_id = p_job_id));
    update app.job_budgets set held_position = null where organization_id = p_organization_id and job_id = p_job_id and held_position is not null;
    -- Read the leases in the same snapshot as the items: what a recorder returns meanwhile is still in one of them.
    for v_item in
        update public.lookup_queue_items i
           set status        = 'failed',
               retry_at      = null,
               error_code    = 'lookup_limit_reached',
               error_message = 'The allowed lookups are used up',
               processed_at  = p_now
         where i.organization_id = p_organization_id and i.job_id = p_job_id and i.status = 'pending'
           and (i.retry_at is not null or i.position >= v_next_position)
           and (i.retry_at <= p_now or coalesce(i.deduplication_key <> all (p_keys), true))
           and not i.position <@ (select coalesce(range_agg(r), '{}')
                                    from public.lookup_leases l
                                   cross join unnest(l.positions) r
                                   where l.organization_id = p_organization_id and l.job_id = p_job_id)
     returning i.*
    loop
        v_items := v_items || v_item;
    end loop;
    v_in_flight := app.positions_in_flight(p_organization_id, p_job_id);
    update public.lookup_queue_items i
       set retry_at = v_until
     where i.organization_id = p_organization_id and i.job_id = p_job_id and i.status = 'pending' and i.deduplication_key = any (p_keys)
       and i.retry_at is null and i.position >= v_next_position and not i.position <@ v_in_flight;
    if cardinality(v_items) > 0 then
        perform app.publish_item_changes(p_organization_id, v_items, p_now);
        perform app.answer_duplicates(p_organization_id, v_items, p_now);
    end if;
    return cardinality(v_items);
end;
$$;

-- Holds a job until it is continued: claims see neither its new items nor those that wait for a retry.
create or replace function app.hold_job(p_organization_id uuid, p_job_id uuid) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_next_position integer;
    v_items         public.lookup_queue_items[];
begin
    delete from app.queued_jobs where organization_id = p_organization_id and job_id = p_job_id returning next_position into v_next_position;
    update app.job_budgets b
       set held_position = coalesce(v_next_position, (select total_items from public.batch_lookup_jobs where organization_id = p_organization_id and id = p_job_id))
     where b.organization_id = p_organization_id and b.job_id = p_job_id and b.held_position is null;
    update public.lookup_queue_items
       set retry_at = 'infinity'
     where organization_id = p_organization_id and job_id = p_job_id and status = 'pending' and retry_at < 'infinity';
    if v_next_position is not null or found then
        perform app.notify_change('UPDATE', 'batch_lookup_jobs', p_organization_id, p_job_id);
        if (select deduplicate_seconds is not null from app.settings) then
            select array_agg(row(i.*)::public.lookup_queue_items) into v_items
              from public.lookup_queue_items i
             where i.organization_id = p_organization_id and i.job_id = p_job_id and i.status = 'pending';
            perform app.answer_duplicates(p_organization_id, v_items, app.clock());
        end if;
    end if;
end;
$$;

-- When the next item of a job that fails at a limit stops waiting, such as for the response to its duplicate; null: there is none.
create or replace function app.next_failure_at(p_organization_id uuid) returns timestamptz
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (select min(i.retry_at)
              from public.lookup_queue_items i
              left join app.job_budgets b on b.organization_id = i.organization_id and b.job_id = i.job_id
             where i.organization_id = p_organization_id and i.status = 'pending' and i.retry_at < 'infinity'
               and coalesce(b.when_limit_reached, 'fail') = 'fail');
end;
$$;

-- Stops the jobs of an organization that have reached a limit, and returns how many of p_limit items a claim may take. The caller has
-- locked the queue. Once the month's limit is reached, the organization is not ready before the next month.
create or replace function app.keep_limits(p_organization_id uuid, p_limit integer, p_now timestamptz) returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_left     bigint := app.lookups_left(p_organization_id, p_now);
    v_ready_at timestamptz;
begin
    if not app.stop_at_limits(p_organization_id, coalesce(v_left = 0, false), p_now) then
        -- The next claim continues, after the claims of others.
        update app.organization_queue_state set served_at = p_now where organization_id = p_organization_id;
        return 0;
    end if;
    if v_left = 0 then
        delete from app.queue_wakeups where organization_id = p_organization_id;
        -- A wake-up may have come with a higher limit.
        v_ready_at := case when app.lookups_left(p_organization_id, p_now) is distinct from 0 then p_now
                           when app.next_ready_at(p_organization_id, p_now) is not null
                           then least(app.next_month(p_now), app.next_failure_at(p_organization_id)) end;
        update app.organization_queue_state
           set ready_at = v_ready_at
         where organization_id = p_organization_id;
    end if;
    return least(p_limit, v_left);
end;
$$;

-- What a job waits for: continue (its sample is done) or lookup_limit; null: it does not wait, or its last lookups are in progress. until:
-- when it resumes by itself, with the lookups of the next month; null: once it is continued.
create or replace function app.job_waits_for(p_job public.batch_lookup_jobs, out reason text, out until timestamptz)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now    timestamptz := app.clock();
    v_budget app.job_budgets;
begin
    if p_job.status not in ('pending', 'processing') then
        return;
    end if;
    select * into v_budget from app.job_budgets where organization_id = p_job.organization_id and job_id = p_job.id;
    if v_budget.held_position is not null and not app.is_busy(p_job.organization_id, p_job.id) then
        reason := case when v_budget.max_lookups <= v_budget.lookups then 'lookup_limit' else 'continue' end;
    elsif v_budget.when_limit_reached = 'wait' and app.lookups_left(p_job.organization_id, v_now) = 0
          and not app.is_in_flight(p_job.organization_id, p_job.id)
    then
        reason := 'lookup_limit';
        until  := app.next_month(v_now);
    end if;
end;
$$;

-- The same for an item that is pending and not in flight: continue, lookup_limit (of its job) or next_month.
create or replace function app.item_is_held(p_item public.lookup_queue_items, p_now timestamptz) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_budget app.job_budgets;
begin
    select * into v_budget from app.job_budgets where organization_id = p_item.organization_id and job_id = p_item.job_id;
    return case when v_budget.max_lookups <= v_budget.lookups then 'lookup_limit'
                when v_budget.held_position is not null and coalesce(p_item.retry_at, 'infinity') = 'infinity' then 'continue'
                when app.lookups_left(p_item.organization_id, p_now) = 0 then 'next_month' end;
end;
$$;

create or replace function app.is_in_flight(p_organization_id uuid, p_job_id uuid) returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return exists (select from public.lookup_leases where organization_id = p_organization_id and job_id = p_job_id and not isempty(positions));
end;
$$;

-- Whether any item of a held job is in flight, or will be without being continued.
create or replace function app.is_busy(p_organization_id uuid, p_job_id uuid) returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if app.is_in_flight(p_organization_id, p_job_id) then
        return true;
    end if;
    return exists (select from public.lookup_queue_items
                    where organization_id = p_organization_id and job_id = p_job_id and status = 'pending' and retry_at < 'infinity');
end;
$$;

-- Puts a held job back into the queue. From now on, it has no sample.
create or replace function app.resume_job(p_organization_id uuid, p_job_id uuid, p_now timestamptz) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_held_position integer := (select held_position from app.job_budgets where organization_id = p_organization_id and job_id = p_job_id);
    v_total_items   integer := (select total_items from public.batch_lookup_jobs where organization_id = p_organization_id and id = p_job_id);
    v_position      integer;
begin
    update app.job_budgets set held_position = null, sample = null where organization_id = p_organization_id and job_id = p_job_id;
    update public.lookup_queue_items
       set retry_at = p_now
     where organization_id = p_organization_id and job_id = p_job_id and status = 'pending' and retry_at = 'infinity';
    v_position := (select min(position)
                     from public.lookup_queue_items
                    where organization_id = p_organization_id and job_id = p_job_id and status = 'pending' and retry_at is null
                      and position >= v_held_position);
    if v_position is not null then
        perform app.queue_job(p_organization_id, p_job_id, v_position, v_total_items);
    end if;
    perform app.defer_duplicates(p_organization_id, p_job_id, p_now);
    perform app.mark_ready(p_organization_id, p_now);
    perform app.notify_change('UPDATE', 'batch_lookup_jobs', p_organization_id, p_job_id);
end;
$$;

create or replace function api.continue_batch_lookup(
    p_organization_id uuid default app.claimed_organization_id(), p_job_id uuid default null, p_max_lookups integer default null
) returns json
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_job    public.batch_lookup_jobs;
    v_wait   record;
    v_budget app.job_budgets;
begin
    perform app.authorize(p_organization_id, 'jobs:write');
    perform app.find_job(p_organization_id, p_job_id);
    perform app.hold_queue(p_organization_id);
    v_job := app.lock_job(p_organization_id, p_job_id);
    select * into v_budget from app.job_budgets where organization_id = p_organization_id and job_id = p_job_id;
    v_wait := app.job_waits_for(v_job);
    if v_wait.reason is null then
        perform app.refuse(409, 'job_not_waiting', 'The job is not waiting to be continued', 'Its waiting_for says when it does.');
    elsif v_wait.until is not null then
        perform app.refuse(
            409, 'job_not_waiting', 'The organization has used up this month''s lookups; the job continues by itself next month',
            'Its waiting_until says when.');
    elsif p_max_lookups < 1 then
        perform app.refuse_option('max_lookups', 'a whole number from 1 to 2147483647');
    elsif coalesce(p_max_lookups, v_budget.max_lookups) <= v_budget.lookups then
        perform app.refuse(
            409, 'lookup_limit_reached', format('The job has made %s and may make no more', app.counted(v_budget.lookups, 'lookup', 'lookups')),
            'Pass a higher max_lookups.');
    end if;
    if p_max_lookups is not null then
        update app.job_budgets set max_lookups = p_max_lookups where organization_id = p_organization_id and job_id = p_job_id;
    end if;
    perform app.resume_job(p_organization_id, p_job_id, app.clock());
    return app.job_progress_json(app.find_job(p_organization_id, p_job_id));
end;
$$;

comment on function api.continue_batch_lookup(uuid, uuid, integer) is
'Continues a job that waits after its sample (waiting_for continue) or at its limit (lookup_limit; give a higher p_max_lookups), and returns it. One with waiting_until continues by itself. 404: no such job. 409: job_not_waiting, lookup_limit_reached. 400: invalid_max_lookups.';
grant execute on function api.continue_batch_lookup(uuid, uuid, integer) to authenticated;

create or replace function api.set_monthly_lookups(p_organization_id uuid, p_lookups integer) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_before integer;
begin
    if p_lookups < 0 then
        perform app.refuse_option('monthly_lookups', 'a whole number from 0 to 2147483647');
    end if;
    select monthly_lookups into v_before from app.organizations where id = p_organization_id for no key update;
    if not found then
        perform app.refuse_organization();
    end if;
    update app.organizations set monthly_lookups = p_lookups where id = p_organization_id;
    if p_lookups is distinct from v_before then
        perform app.audit(p_organization_id, 'organization.changed',
                          p_details => jsonb_build_object('changed', array['monthly_lookups'],
                                                          'monthly_lookups', jsonb_build_object('from', v_before, 'to', p_lookups)));
    end if;
    perform app.mark_ready(p_organization_id, app.clock());
end;
$$;

comment on function api.set_monthly_lookups(uuid, integer) is
'For operators: how many lookups an organization may make in a calendar month (UTC), all its batches together; null: no limit. At the limit, the remaining items of its batches fail with lookup_limit_reached, or wait for the next month or a higher limit, as when_limit_reached of each batch says. Takes effect immediately. 404: no such organization. 400: invalid_monthly_lookups.';
