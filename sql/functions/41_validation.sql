-- Chapter 41, validation: what an upload must look like. Set-based: 10,000 items take a handful of passes, not 10,000 calls.

-- Every item of an upload with what is wrong (errors) and what looks wrong (warnings) with it. Nothing here may raise, whatever the
-- items hold. A rule is one select of `error`; its number orders the messages of an item.
create or replace function app.parse_batch_items(p_items jsonb, p_check_devices boolean) returns setof app.batch_item
language plpgsql stable
set search_path = ''
as $$
declare
    v_devices integer[] := array(select id from app.devices where retired_at is null);
begin
    return query
    with element as materialized (
        select (e.n - 1)::integer as position, jsonb_typeof(e.item) = 'object' as is_object,
               case when jsonb_typeof(e.item) = 'object' then e.item else '{}' end as item,
               case when jsonb_typeof(e.item -> 'address') = 'object' then e.item -> 'address' else '{}' end as address
          from jsonb_array_elements(p_items) with ordinality as e (item, n)
    ), field as materialized (
        select e.position, e.is_object, e.item, e.address,
               coalesce(jsonb_typeof(e.item -> 'address') = 'object', false) as has_address,
               e.item ->> 'reference_id'              as reference_id,
               e.address ->> 'street_1'               as street_1,
               e.address ->> 'city'                   as city,
               e.address ->> 'state_or_province_code' as region,
               e.address ->> 'postal_code'            as postal_code,
               e.address ->> 'country_code'           as country,
               e.item ->> 'building_type'             as building_type,
               case when e.item ->> 'device_ids' ~ '^\[[1-9][0-9]*(, [1-9][0-9]*)*\]$' and e.item ->> 'device_ids' !~ '[0-9]{10}'
                    then translate(e.item ->> 'device_ids', '[]', '{}')::integer[] end as device_ids
          from element e
    ), located as materialized (
        select f.position, f.country, f.region, f.postal_code, r.code is not null as region_is_known,
               case f.country
                   when 'US' then f.postal_code ~ '^[0-9]{5}(-[0-9]{4})?$'
                   when 'CA' then f.postal_code ~* '^[ABCEGHJ-NPRSTVXY][0-9][ABCEGHJ-NPRSTV-Z] ?[0-9][ABCEGHJ-NPRSTV-Z][0-9]$'
               end as postal_code_is_valid,
               case f.country
                   when 'US' then f.postal_code !~ '^[0-9]{5}' or r.zip3 @> left(f.postal_code, 3)::integer
                   when 'CA' then strpos(r.postal_letters, upper(left(f.postal_code, 1))) > 0
               end as postal_code_is_near
          from field f
          left join app.regions r on r.country_code = f.country and r.code = f.region
    ), error as (
        select position, 1 as number, 'An item must be an object' as message
          from field
         where not is_object
         union all
        select f.position, 2, 'Missing required fields: ' || m.names
          from field f
         cross join lateral (select concat_ws(', ',
                   case when coalesce(btrim(f.reference_id), '') = '' then 'reference_id' end,
                   case when coalesce(f.item -> 'address', 'null') = 'null' then 'address' end,
                   case when f.has_address and coalesce(btrim(f.street_1), '') = '' then 'address.street_1' end,
                   case when f.has_address and coalesce(btrim(f.city), '') = '' then 'address.city' end,
                   case when f.has_address and coalesce(btrim(f.region), '') = '' then 'address.state_or_province_code' end,
                   case when f.has_address and coalesce(btrim(f.postal_code), '') = '' then 'address.postal_code' end,
                   case when f.has_address and coalesce(btrim(f.country), '') = '' then 'address.country_code' end,
                   case when coalesce(btrim(f.building_type), '') = '' then 'building_type' end,
                   case when coalesce(f.item -> 'device_ids', 'null') = 'null' then 'device_ids' end) as names offset 0) m
         where f.is_object and m.names <> ''
         union all
        select f.position, 3, 'Unknown fields: ' || string_agg(left(u.name, 100), ', ' order by u.name)
          from field f
         cross join lateral (
               select jsonb_object_keys(f.item - array['reference_id', 'address', 'building_type', 'device_ids', 'create_application', 'webhook_custom_fields'])
                union all
               select 'address.' || jsonb_object_keys(f.address - array['street_1', 'street_2', 'city', 'state_or_province_code', 'postal_code', 'country_code'])) u (name)
         where f.item - array['reference_id', 'address', 'building_type', 'device_ids', 'create_application', 'webhook_custom_fields'] <> '{}'
            or f.address - array['street_1', 'street_2', 'city', 'state_or_province_code', 'postal_code', 'country_code'] <> '{}'
         group by f.position
         union all
        select position, 4, 'address must be an object'
          from field
         where jsonb_typeof(item -> 'address') not in ('object', 'null')
         union all
        select f.position, 5, string_agg(v.name || ' must be a string of at most 500 characters', '; ')
          from field f
         cross join lateral (values ('reference_id', f.item -> 'reference_id'), ('building_type', f.item -> 'building_type'),
                                    ('address.street_1', f.address -> 'street_1'), ('address.street_2', f.address -> 'street_2'),
                                    ('address.city', f.address -> 'city'), ('address.state_or_province_code', f.address -> 'state_or_province_code'),
                                    ('address.postal_code', f.address -> 'postal_code'), ('address.country_code', f.address -> 'country_code')) v (name, value)
         where jsonb_typeof(v.value) not in ('string', 'null') or length(v.value #>> '{}') > 500
         group by f.position
         union all
        select position, 6, 'reference_id must be 3 to 256 characters out of A-Z, a-z, 0-9 and . _ ~ -'
          from field
         where (reference_id !~ '^[A-Za-z0-9._~-]+$' or length(reference_id) not between 3 and 256) and btrim(reference_id) <> ''
         union all
        select position, 7, 'building_type must be one of RESIDENTIAL, MULTIFAMILY, MANUFACTURED_HOME, COMMERCIAL'
          from field
         where building_type not in ('RESIDENTIAL', 'MULTIFAMILY', 'MANUFACTURED_HOME', 'COMMERCIAL') and btrim(building_type) <> ''
         union all
        select position, 8, 'address.country_code must be US or CA'
          from field
         where country not in ('US', 'CA') and btrim(country) <> ''
         union all
        select position, 9, format('address.state_or_province_code %s is not a state or province of %s', left(region, 20), country)
          from located
         where country in ('US', 'CA') and not region_is_known and btrim(region) <> ''
         union all
        select position, 10, format('address.postal_code %s is not %s', left(postal_code, 20),
                                    case country when 'US' then 'a ZIP code (12345 or 12345-6789)' else 'a Canadian postal code (A1A 1A1)' end)
          from located
         where not postal_code_is_valid and btrim(postal_code) <> ''
         union all
        select position, 11, 'device_ids must be an array of 1 to 100 positive integers'
          from field
         where (device_ids is null or cardinality(device_ids) > 100) and item -> 'device_ids' <> 'null'
         union all
        select position, 12, 'Unknown device_ids: ' || array_to_string(array(
                   select distinct d from unnest(device_ids) d where d <> all (v_devices) order by d), ', ')
          from field
         where p_check_devices and not device_ids <@ v_devices
         union all
        select position, 13, 'create_application must be true or false'
          from field
         where jsonb_typeof(item -> 'create_application') not in ('boolean', 'null')
         union all
        select position, 14, 'webhook_custom_fields must be an object of at most 16,384 characters'
          from field
         where jsonb_typeof(item -> 'webhook_custom_fields') not in ('object', 'null') or length(item ->> 'webhook_custom_fields') > 16384
    ), message as (
        select e.position, string_agg(e.message, '; ' order by e.number) as errors from error e group by e.position
    )
    select f.position, f.reference_id, jsonb_strip_nulls(f.address), f.building_type, f.device_ids,
           coalesce(f.item -> 'create_application' = 'true', false),
           nullif(f.item -> 'webhook_custom_fields', 'null'),
           case when l.postal_code_is_valid and not l.postal_code_is_near
                then array[format('address.postal_code %s does not lie in %s', l.postal_code, l.region)] end,
           m.errors
      from field f
      join located l on l.position = f.position
      left join message m on m.position = f.position;
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
        v_unknown := (select string_agg(left(k, 100), ', ') from jsonb_object_keys(p_request - array['items', 'name', 'dry_run', 'on_invalid']) k);
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

-- What is wrong with an item: its index, and for a file the record (from 1) and the line where that begins.
create or replace function app.item_problems(p_items app.batch_item[], p_lines integer[]) returns json
language sql immutable
return (select coalesce(json_agg(json_strip_nulls(json_build_object(
                           'index', i.position,
                           'record', case when p_lines is not null then i.position + 1 end,
                           'line', p_lines[i.position + 1],
                           'error', i.errors)) order by i.position), '[]')
          from unnest(p_items) i
         where i.errors is not null);

create or replace function app.duplicate_reference_ids(p_items app.batch_item[]) returns text[]
language sql immutable
return array(select i.reference_id from unnest(p_items) i where i.reference_id is not null group by i.reference_id having count(*) > 1 order by min(i.position));

create or replace function app.check_batch_items(p_items app.batch_item[], p_lines integer[] default null) returns void
language plpgsql stable
set search_path = ''
as $$
declare
    v_invalid    integer := (select count(*) from unnest(p_items) i where i.errors is not null);
    v_duplicates text[];
begin
    if v_invalid > 0 then
        raise sqlstate 'PT400' using
            message    = format('%s item(s) failed validation', v_invalid),
            detail     = json_build_object('invalid_items', app.item_problems(p_items, p_lines), 'total_invalid', v_invalid)::text,
            constraint = 'invalid_items';
    end if;
    v_duplicates := app.duplicate_reference_ids(p_items);
    if v_duplicates <> '{}' then
        raise sqlstate 'PT400' using
            message    = 'Duplicate reference_ids found in batch',
            detail     = json_build_object('duplicates', v_duplicates)::text,
            constraint = 'duplicate_reference_ids';
    end if;
end;
$$;
