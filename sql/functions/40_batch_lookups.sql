-- Chapter 40, batch lookups: an upload becomes a job, its items and its report, all or nothing.

-- Every item of an upload with what is wrong (errors) and what looks wrong (warnings) with it. Set-based: 10,000 items are one
-- query of a few stages. Nothing here may raise, whatever the item holds.
create or replace function app.parse_batch_items(p_items jsonb, p_check_devices boolean)
returns setof app.batch_item
language plpgsql stable
set search_path = ''
as $$
declare
    v_devices integer[] := array(select id from app.devices);
begin
    return query
    with element as materialized (
        select (e.n - 1)::integer as position, e.item,
               case when jsonb_typeof(e.item) = 'object' then e.item else '{}' end as o,
               case when jsonb_typeof(e.item -> 'address') = 'object' then e.item -> 'address' else '{}' end as a
          from jsonb_array_elements(p_items) with ordinality as e (item, n)
    ), field as materialized (
        select e.position, e.item, e.o, e.a,
               btrim(e.o ->> 'reference_id') as reference_id,
               btrim(e.a ->> 'street_1') as street_1,
               btrim(e.a ->> 'city') as city,
               btrim(e.a ->> 'state_or_province_code') as region,
               btrim(e.a ->> 'postal_code') as postal_code,
               btrim(e.a ->> 'country_code') as country,
               e.o ->> 'building_type' as building_type,
               case when (e.o -> 'device_ids')::text ~ '^\[[1-9][0-9]{0,8}(, [1-9][0-9]{0,8}){0,99}\]$'
                    then translate(e.o ->> 'device_ids', '[]', '{}')::integer[] end as device_ids
          from element e
    ), judged as (
        select f.*, r.code is not null as region_known,
               case f.country
                   when 'US' then f.postal_code ~ '^[0-9]{5}(-[0-9]{4})?$'
                   when 'CA' then f.postal_code ~* '^[ABCEGHJ-NPRSTVXY][0-9][ABCEGHJ-NPRSTV-Z] ?[0-9][ABCEGHJ-NPRSTV-Z][0-9]$'
               end as postal_code_fits,
               case f.country
                   when 'US' then f.postal_code ~ '^[0-9]{5}' and not r.zip3 @> left(f.postal_code, 3)::integer
                   when 'CA' then strpos(r.postal_letters, upper(left(f.postal_code, 1))) = 0
               end as postal_code_elsewhere
          from field f
          left join app.regions r on r.country_code = f.country and r.code = f.region
    )
    select j.position, j.reference_id, jsonb_strip_nulls(j.a), j.building_type, j.device_ids,
           coalesce(j.o -> 'create_application' = 'true', false),
           nullif(j.o -> 'webhook_custom_fields', 'null'),
           nullif(array_remove(array[
               case when j.postal_code_elsewhere and j.postal_code_fits
                    then format('address.postal_code %s does not lie in %s', j.postal_code, j.region) end
           ], null), '{}'),
           case when jsonb_typeof(j.item) <> 'object' then 'An item must be an object' else nullif(concat_ws('; ',
               'Missing required fields: ' || nullif(concat_ws(', ',
                   case when coalesce(j.reference_id, '') = '' then 'reference_id' end,
                   case when coalesce(jsonb_typeof(j.o -> 'address'), 'null') = 'null' then 'address' end,
                   case when jsonb_typeof(j.o -> 'address') = 'object' then nullif(concat_ws(', ',
                       case when coalesce(j.street_1, '') = '' then 'address.street_1' end,
                       case when coalesce(j.city, '') = '' then 'address.city' end,
                       case when coalesce(j.region, '') = '' then 'address.state_or_province_code' end,
                       case when coalesce(j.postal_code, '') = '' then 'address.postal_code' end,
                       case when coalesce(j.country, '') = '' then 'address.country_code' end), '') end,
                   case when coalesce(btrim(j.building_type), '') = '' then 'building_type' end,
                   case when coalesce(jsonb_typeof(j.o -> 'device_ids'), 'null') = 'null' then 'device_ids' end), ''),
               'Unknown fields: ' || nullif(concat_ws(', ',
                   (select string_agg(left(k, 100), ', ') from jsonb_object_keys(j.o - array['reference_id', 'address', 'building_type',
                       'device_ids', 'create_application', 'webhook_custom_fields']) k),
                   (select string_agg('address.' || left(k, 100), ', ') from jsonb_object_keys(j.a - array['street_1', 'street_2', 'city',
                       'state_or_province_code', 'postal_code', 'country_code']) k)), ''),
               case when jsonb_typeof(j.o -> 'address') not in ('object', 'null') then 'address must be an object' end,
               (select string_agg(format('%s must be a string of at most 500 characters', v.name), '; ')
                  from (values ('reference_id', j.o -> 'reference_id'), ('building_type', j.o -> 'building_type'),
                               ('address.street_1', j.a -> 'street_1'), ('address.street_2', j.a -> 'street_2'),
                               ('address.city', j.a -> 'city'), ('address.state_or_province_code', j.a -> 'state_or_province_code'),
                               ('address.postal_code', j.a -> 'postal_code'), ('address.country_code', j.a -> 'country_code')) v (name, value)
                 where jsonb_typeof(v.value) not in ('string', 'null') or length(v.value #>> '{}') > 500),
               case when j.reference_id !~ '^[A-Za-z0-9._~-]+$' and j.reference_id <> '' or length(j.o ->> 'reference_id') not between 3 and 256
                    then 'reference_id must be 3 to 256 characters out of A-Z, a-z, 0-9 and . _ ~ -' end,
               case when j.building_type not in ('RESIDENTIAL', 'MULTIFAMILY', 'MANUFACTURED_HOME', 'COMMERCIAL') and btrim(j.building_type) <> ''
                    then 'building_type must be one of RESIDENTIAL, MULTIFAMILY, MANUFACTURED_HOME, COMMERCIAL' end,
               case when j.country not in ('US', 'CA') and j.country <> '' then 'address.country_code must be US or CA' end,
               case when j.country in ('US', 'CA') and j.region <> '' and not j.region_known
                    then format('address.state_or_province_code %s is not a state or province of %s', left(j.region, 20), j.country) end,
               case when not j.postal_code_fits and j.postal_code <> '' then case j.country
                    when 'US' then format('address.postal_code %s is not a ZIP code (12345 or 12345-6789)', left(j.postal_code, 20))
                    else format('address.postal_code %s is not a Canadian postal code (A1A 1A1)', left(j.postal_code, 20)) end end,
               case when j.device_ids is null and jsonb_typeof(j.o -> 'device_ids') <> 'null'
                    then 'device_ids must be an array of 1 to 100 positive integers' end,
               case when p_check_devices and not j.device_ids <@ v_devices then 'Unknown device_ids: ' || array_to_string(
                    array(select distinct d from unnest(j.device_ids) d where d <> all (v_devices) order by d), ', ') end,
               case when jsonb_typeof(j.o -> 'create_application') not in ('boolean', 'null') then 'create_application must be true or false' end,
               case when jsonb_typeof(j.o -> 'webhook_custom_fields') not in ('object', 'null') then 'webhook_custom_fields must be an object'
                    when length((j.o -> 'webhook_custom_fields')::text) > 16384 then 'webhook_custom_fields may hold at most 16 kB' end
           ), '') end
      from judged j;
end;
$$;

-- The items of a request body, which is {"items": [...]} or the bare array.
create or replace function app.batch_request_items(p_request jsonb) returns jsonb
language plpgsql immutable
set search_path = ''
as $$
declare
    v_items   jsonb := case when jsonb_typeof(p_request) = 'array' then p_request else p_request -> 'items' end;
    v_unknown text;
begin
    if jsonb_typeof(p_request) = 'object' then
        v_unknown := (select string_agg(left(k, 100), ', ') from jsonb_object_keys(p_request - 'items') k);
    end if;
    if jsonb_typeof(v_items) is distinct from 'array' then
        raise sqlstate 'PT400' using
            message    = 'The body must be a JSON object with an array of items',
            hint       = '{"items": [{"reference_id": ..., "address": {...}, "building_type": ..., "device_ids": [...]}]}',
            constraint = 'items_required';
    elsif v_unknown is not null then
        raise sqlstate 'PT400' using message = format('Unknown fields: %s', v_unknown), constraint = 'unknown_fields';
    elsif jsonb_array_length(v_items) not between 1 and 10000 then
        raise sqlstate 'PT400' using
            message    = format('A batch must have 1 to 10,000 items, this one has %s', jsonb_array_length(v_items)),
            constraint = 'invalid_item_count';
    end if;
    return v_items;
end;
$$;

create or replace function app.check_batch_items(p_items app.batch_item[]) returns void
language plpgsql stable
set search_path = ''
as $$
declare
    v_invalid    integer := (select count(*) from unnest(p_items) i where i.errors is not null);
    v_duplicates text[]  := array(select i.reference_id from unnest(p_items) i group by i.reference_id having count(*) > 1 order by min(i.position));
begin
    if v_invalid > 0 then
        raise sqlstate 'PT400' using
            message    = format('%s item(s) failed validation', v_invalid),
            detail     = (select json_build_object(
                                     'invalid_items', json_agg(json_build_object('index', i.position, 'error', i.errors) order by i.position),
                                     'total_invalid', v_invalid)
                            from unnest(p_items) i
                           where i.errors is not null)::text,
            constraint = 'invalid_items';
    elsif v_duplicates <> '{}' then
        raise sqlstate 'PT400' using
            message    = 'Duplicate reference_ids found in batch',
            detail     = json_build_object('duplicates', v_duplicates)::text,
            constraint = 'duplicate_reference_ids';
    end if;
end;
$$;

create or replace function api.create_batch_lookup(p_organization_id uuid, p_request jsonb, p_check_devices boolean default true) returns json
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_now    timestamptz := app.clock();
    v_items  jsonb       := app.batch_request_items(p_request);
    v_parsed app.batch_item[];
    v_job    public.batch_lookup_jobs;
    v_report public.incentive_reports;
begin
    perform app.check_organization(p_organization_id);
    v_parsed := array(select i from app.parse_batch_items(v_items, p_check_devices) i);
    perform app.check_batch_items(v_parsed);

    insert into public.batch_lookup_jobs (organization_id, id, total_items, report_id, created_at, updated_at)
    values (p_organization_id, app.uuid_v7(v_now), cardinality(v_parsed), app.uuid_v7(v_now), v_now, v_now)
    returning * into v_job;
    v_report := app.create_report(p_organization_id, v_job);
    perform app.enqueue_items(p_organization_id, v_job.id, v_parsed, v_now);

    return json_build_object(
        'job_id', v_job.id,
        'status', v_job.status,
        'total_items', v_job.total_items,
        'created_at', app.rfc3339(v_job.created_at),
        'report', json_build_object(
            'id', v_report.id,
            'name', v_report.name,
            'description', v_report.description,
            'status', v_report.status,
            'report_type', v_report.report_type,
            'total_sites', v_report.total_sites,
            'created_at', app.rfc3339(v_report.created_at)),
        'message', format('Batch lookup of %s site(s) accepted', v_job.total_items));
end;
$$;

comment on function api.create_batch_lookup(uuid, jsonb, boolean) is
'Creates a batch: 1 to 10,000 items, validated all or nothing, with its report, and wakes a worker. p_request is {"items": [...]} or the array itself; p_check_devices false leaves device ids to an external provider. 400: invalid_items (with index and error of each), duplicate_reference_ids, invalid_item_count, items_required, unknown_fields.';

create or replace function app.find_job(p_organization_id uuid, p_job_id uuid) returns public.batch_lookup_jobs
language plpgsql stable
set search_path = ''
as $$
declare
    v_job public.batch_lookup_jobs;
begin
    select * into v_job
      from public.batch_lookup_jobs
     where organization_id = p_organization_id and id = p_job_id;
    if not found then
        raise sqlstate 'PT404' using message = 'Batch job not found', constraint = 'job_exists';
    end if;
    return v_job;
end;
$$;

-- The counters of the row and the leased items of one snapshot: the four counts always sum to the total.
create or replace function app.job_json(p_job public.batch_lookup_jobs) returns json
language plpgsql stable
set search_path = ''
as $$
declare
    v_processing integer := 0;
begin
    if p_job.processed_items < p_job.total_items then
        select count(*) into v_processing
          from public.lookup_queue_items
         where organization_id = p_job.organization_id and status = 'processing' and job_id = p_job.id;
    end if;
    return json_build_object(
        'id', p_job.id,
        'organization_id', p_job.organization_id,
        'status', p_job.status,
        'total_items', p_job.total_items,
        'processed_items', p_job.processed_items,
        'failed_items', p_job.failed_items,
        'report_id', p_job.report_id,
        'created_at', app.rfc3339(p_job.created_at),
        'started_at', app.rfc3339(p_job.started_at),
        'completed_at', app.rfc3339(p_job.completed_at),
        'item_counts', json_build_object(
            'pending', p_job.total_items - p_job.processed_items - v_processing,
            'processing', v_processing,
            'completed', p_job.processed_items - p_job.failed_items,
            'failed', p_job.failed_items));
end;
$$;

create or replace function app.item_json(p_item public.lookup_queue_items) returns json
language plpgsql stable
set search_path = ''
as $$
begin
    return json_build_object(
        'id', p_item.id,
        'job_id', p_item.job_id,
        'status', p_item.status,
        'reference_id', p_item.reference_id,
        'address', p_item.address,
        'building_type', p_item.building_type,
        'device_ids', p_item.device_ids,
        'result', p_item.result,
        'error_code', p_item.error_code,
        'error_message', p_item.error_message,
        'warnings', coalesce(p_item.warnings, '{}'),
        'retry_count', p_item.retry_count,
        'created_at', app.rfc3339(p_item.created_at),
        'processed_at', app.rfc3339(p_item.processed_at));
end;
$$;

create or replace function api.list_batch_lookups(
    p_organization_id uuid,
    p_status          text    default null,
    p_limit           integer default 20,
    p_offset          integer default 0
) returns json
language plpgsql stable security definer
set search_path = ''
as $$
begin
    perform app.check_page(p_limit, p_offset, 200);
    perform app.check_choice('status', p_status, array['pending', 'processing', 'completed', 'failed', 'cancelled']);
    return json_build_object(
        'jobs', (select coalesce(json_agg(app.job_json(j) order by j.created_at desc, j.id desc), '[]')
                   from (select *
                           from public.batch_lookup_jobs
                          where organization_id = p_organization_id and (p_status is null or status = p_status)
                          order by created_at desc, id desc
                          limit p_limit offset p_offset) j),
        'total', (select count(*)
                    from public.batch_lookup_jobs
                   where organization_id = p_organization_id and (p_status is null or status = p_status)),
        'limit', p_limit,
        'offset', p_offset);
end;
$$;

comment on function api.list_batch_lookups(uuid, text, integer, integer) is 'The jobs of an organization, newest first: {jobs, total, limit, offset}. 400: an unknown status, limit not in 1 to 200.';

create or replace function api.get_batch_lookup(p_organization_id uuid, p_job_id uuid, p_include_items boolean default false) returns json
language plpgsql stable security definer
set search_path = ''
as $$
declare
    v_job public.batch_lookup_jobs := app.find_job(p_organization_id, p_job_id);
begin
    if not p_include_items then
        return app.job_json(v_job);
    end if;
    return (app.job_json(v_job)::jsonb || jsonb_build_object('items',
        (select jsonb_agg(app.item_json(i) order by i.position)
           from public.lookup_queue_items i
          where i.organization_id = p_organization_id and i.job_id = p_job_id)))::json;
end;
$$;

comment on function api.get_batch_lookup(uuid, uuid, boolean) is 'One job with its counts, and its items when asked. 404: no such job in this organization.';

create or replace function api.list_batch_lookup_items(
    p_organization_id uuid,
    p_job_id          uuid,
    p_status          text    default null,
    p_limit           integer default 50,
    p_offset          integer default 0
) returns json
language plpgsql stable security definer
set search_path = ''
as $$
declare
    v_job public.batch_lookup_jobs := app.find_job(p_organization_id, p_job_id);
begin
    perform app.check_page(p_limit, p_offset, 500);
    perform app.check_choice('status', p_status, array['pending', 'processing', 'completed', 'failed']);
    return json_build_object(
        'items', (select coalesce(json_agg(app.item_json(i) order by i.position), '[]')
                    from (select *
                            from public.lookup_queue_items
                           where organization_id = p_organization_id and job_id = p_job_id
                             and (p_status is null or status = p_status)
                             -- Without a status, the place in the upload is the offset: the last page costs what the first does.
                             and (p_status is not null or position >= p_offset)
                           order by position
                           limit p_limit offset case when p_status is null then 0 else p_offset end) i),
        'total', case when p_status is null then v_job.total_items
                      else (select count(*)
                              from public.lookup_queue_items
                             where organization_id = p_organization_id and job_id = p_job_id and status = p_status) end,
        'limit', p_limit,
        'offset', p_offset);
end;
$$;

comment on function api.list_batch_lookup_items(uuid, uuid, text, integer, integer) is 'The items of a job in upload order: {items, total, limit, offset}. 400: an unknown status, limit not in 1 to 500. 404: no such job in this organization.';

-- What is still pending in a cancelled job ends as failed; answers how many items did.
create or replace function app.cancel_pending_items(p_organization_id uuid, p_job_id uuid, p_now timestamptz) returns integer
language plpgsql volatile
set search_path = ''
as $$
declare
    v_count integer;
begin
    update public.lookup_queue_items
       set status        = 'failed',
           retry_at      = null,
           error_code    = 'job_cancelled',
           error_message = 'Job cancelled',
           processed_at  = p_now
     where organization_id = p_organization_id and job_id = p_job_id and status = 'pending';
    get diagnostics v_count = row_count;
    return v_count;
end;
$$;

create or replace function api.cancel_batch_lookup(p_organization_id uuid, p_job_id uuid) returns json
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_now       timestamptz := app.clock();
    v_job       public.batch_lookup_jobs;
    v_cancelled integer;
begin
    select * into v_job
      from public.batch_lookup_jobs
     where organization_id = p_organization_id and id = p_job_id
       for update;
    if not found then
        raise sqlstate 'PT404' using message = 'Batch job not found', constraint = 'job_exists';
    elsif v_job.status not in ('pending', 'processing') then
        raise sqlstate 'PT409' using
            message    = format('The job is already %s', v_job.status),
            hint       = 'Only a pending or processing job can be cancelled.',
            constraint = 'job_is_open';
    end if;

    v_cancelled := app.cancel_pending_items(p_organization_id, p_job_id, v_now);
    update public.batch_lookup_jobs
       set status          = 'cancelled',
           processed_items = processed_items + v_cancelled,
           failed_items    = failed_items + v_cancelled,
           completed_at    = v_now,
           updated_at      = v_now
     where organization_id = p_organization_id and id = p_job_id;
    perform app.update_report(p_organization_id, p_job_id, v_now);
    return json_build_object('message', 'Job cancelled successfully', 'job_id', p_job_id);
end;
$$;

comment on function api.cancel_batch_lookup(uuid, uuid) is 'Cancels an open job: pending items fail with "Job cancelled", items in flight finish and count. 404: no such job. 409: it has ended.';
