-- Chapter 56, duplicates: with deduplicate_seconds set, the same question is looked up once, and all items that ask it get the answer.
-- Planned for each call, because the number of duplicates varies.

-- The deduplication key: items with the same key ask the same question. It ignores case and punctuation of the address. An item that
-- creates an application has none.
create or replace function app.dedup_key(p_item app.batch_item) returns uuid
language sql immutable
return case when not coalesce((p_item).create_application, false) then md5(
    btrim(regexp_replace(lower(((p_item).address ->> 'street_1') || ' ' || coalesce((p_item).address ->> 'street_2', '')), '[^[:alnum:]]+', ' ', 'g')) || '|'
    || btrim(regexp_replace(lower((p_item).address ->> 'city'), '[^[:alnum:]]+', ' ', 'g')) || '|'
    || upper(((p_item).address ->> 'country_code') || ((p_item).address ->> 'state_or_province_code')) || '|'
    || left(regexp_replace(upper((p_item).address ->> 'postal_code'), '[^A-Z0-9]', '', 'g'), case (p_item).address ->> 'country_code' when 'US' then 5 else 6 end) || '|'
    || (p_item).building_type || '|'
    || (select string_agg(d::text, ',' order by d) from unnest((p_item).device_ids) d))::uuid end;

-- For the items of a new job: recent answers are used at once; duplicates of pending items are deferred for at most twice a lease and a
-- time-out, then looked up.
create or replace function app.defer_duplicates(p_organization_id uuid, p_job_id uuid, p_now timestamptz) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan
as $$
declare
    v_settings app.settings;
    v_until    timestamptz;
begin
    select * into v_settings from app.settings;
    v_until := p_now + 2 * app.seconds(v_settings.lease_seconds + v_settings.lookup_timeout_seconds);
    perform app.answer_duplicates(
        p_organization_id,
        array(select i from public.lookup_queue_items i where i.organization_id = p_organization_id and i.job_id = p_job_id and i.deduplication_key is not null),
        p_now);
    update public.lookup_queue_items i
       set retry_at = v_until
     where i.organization_id = p_organization_id and i.job_id = p_job_id and i.status = 'pending' and i.deduplication_key is not null
       and exists (select from public.lookup_queue_items o
                    where o.organization_id = p_organization_id and o.deduplication_key = i.deduplication_key and o.status = 'pending' and o.id < i.id);
end;
$$;

-- The answer to another item, adapted to this one.
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

-- Copies the answers of completed items to the duplicates of p_items that are not in flight, whether they wait or were never claimed. It
-- waits for no lock: jobs and items that others hold are skipped, and looked up later.
create or replace function app.answer_duplicates(p_organization_id uuid, p_items public.lookup_queue_items[], p_now timestamptz) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan
as $$
declare
    v_since   timestamptz := p_now - (select app.seconds(deduplicate_seconds) from app.settings);
    v_keys    uuid[];
    v_job_ids uuid[];
    v_queued  app.queued_jobs[];
    v_items   public.lookup_queue_items[];
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
                          and j.id in (select i.job_id from public.lookup_queue_items i
                                        where i.organization_id = p_organization_id and i.deduplication_key = any (v_keys) and i.status = 'pending')
                          for update skip locked);
    v_queued := array(select q from app.queued_jobs q where q.organization_id = p_organization_id and q.job_id = any (v_job_ids) for update skip locked);
    with answer as materialized (
        select distinct on (a.deduplication_key) a.deduplication_key, app.item_result(a) as result
          from public.lookup_queue_items a
         where a.organization_id = p_organization_id and a.deduplication_key = any (v_keys) and a.status = 'completed' and a.processed_at >= v_since
         order by a.deduplication_key, a.processed_at desc
    ), waiting as materialized (
        select i.job_id, i.position, a.result
          from public.lookup_queue_items i
          join answer a on a.deduplication_key = i.deduplication_key
          left join unnest(v_queued) q on q.job_id = i.job_id
         where i.organization_id = p_organization_id and i.status = 'pending' and i.job_id = any (v_job_ids)
           and (i.retry_at is not null or i.position >= q.next_position)
           for update of i skip locked
    ), answered as (
        update public.lookup_queue_items i
           set status       = 'completed',
               retry_at     = null,
               result       = app.duplicate_result(w.result, i.reference_id),
               processed_at = p_now
          from waiting w
         where i.organization_id = p_organization_id and i.job_id = w.job_id and i.position = w.position
     returning app.with_parsed_result(i, i.result::jsonb) as item
    )
    select coalesce(array_agg(item), '{}') into v_items from answered;
    perform app.add_report_sites(p_organization_id, v_items, p_now);
    perform app.publish_item_changes(p_organization_id, v_items, p_now);
    perform app.count_unanswered(p_organization_id, v_items, 'deduplicated', null, p_now);
end;
$$;
