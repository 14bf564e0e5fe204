-- Chapter 41, validation of uploads. Set-based: 10,000 items take one statement, not 10,000 calls.

-- Every item of an upload with its errors and its warnings, in one pass. Nothing here may raise, whatever the items contain. A rule is one
-- `case` that is null if the rule is met; messages come in the order of the rules. `offset 0` makes the planner read each member once, not
-- wherever it is named.
create or replace function app.parse_batch_items(p_items jsonb, p_check_devices boolean) returns setof app.batch_item
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_devices        integer[] := array(select id from app.devices where retired_at is null);
    v_item_fields    text[]    := array['reference_id', 'address', 'building_type', 'device_ids', 'create_application', 'webhook_custom_fields', 'metadata'];
    v_address_fields text[]    := array['street_1', 'street_2', 'city', 'state_or_province_code', 'postal_code', 'country_code'];
begin
    return query
    select f.position, f.reference_id, jsonb_strip_nulls(f.address), f.building_type, f.device_ids,
           coalesce(f.create_application = 'true', false),
           nullif(f.webhook_custom_fields, 'null'),
           case when f.postal_code_is_valid and not f.postal_code_is_near
                then array[format('address.postal_code %s does not lie in %s', f.postal_code, f.region)] end,
           nullif(concat_ws('; ',
               case when not f.is_object then 'An item must be an object' end,
               case when f.is_object then 'Missing required fields: ' || nullif(concat_ws(', ',
                   case when coalesce(btrim(f.reference_id), '') = '' then 'reference_id' end,
                   case when coalesce(f.item -> 'address', 'null') = 'null' then 'address' end,
                   case when f.has_address and coalesce(btrim(f.street_1), '') = '' then 'address.street_1' end,
                   case when f.has_address and coalesce(btrim(f.city), '') = '' then 'address.city' end,
                   case when f.has_address and coalesce(btrim(f.region), '') = '' then 'address.state_or_province_code' end,
                   case when f.has_address and coalesce(btrim(f.postal_code), '') = '' then 'address.postal_code' end,
                   case when f.has_address and coalesce(btrim(f.country), '') = '' then 'address.country_code' end,
                   case when coalesce(btrim(f.building_type), '') = '' then 'building_type' end,
                   case when coalesce(f.item -> 'device_ids', 'null') = 'null' then 'device_ids' end), '') end,
               case when f.item - v_item_fields <> '{}' or f.address - v_address_fields <> '{}'
                    then 'Unknown fields: ' || (
                        select string_agg(left(u.name, 100), ', ' order by u.name)
                          from (select jsonb_object_keys(f.item - v_item_fields)
                                 union all
                                select 'address.' || jsonb_object_keys(f.address - v_address_fields)
                                 order by 1
                                 limit 10) u (name)) end,
               case when jsonb_typeof(f.item -> 'address') not in ('object', 'null') then 'address must be an object' end,
               -- A quick check that most items pass.
               case when pg_column_size(f.item) > 500
                         or jsonb_path_exists(f.address, '$.* ? (@.type() != "string")')
                    then (select string_agg(v.name || ' must be a string of at most 500 characters', '; ' order by v.number)
                            from (values (1, 'address.street_1', f.address -> 'street_1'),
                                         (2, 'address.street_2', f.address -> 'street_2'),
                                         (3, 'address.city', f.address -> 'city'),
                                         (4, 'address.postal_code', f.address -> 'postal_code')) v (number, name, value)
                           where jsonb_typeof(v.value) not in ('string', 'null') or length(v.value #>> '{}') > 500) end,
               case when (jsonb_typeof(f.item -> 'reference_id') <> 'string' or f.reference_id !~ '^[A-Za-z0-9._~-]+$'
                          or length(f.reference_id) not between 3 and 256) and btrim(f.reference_id) <> ''
                    then 'reference_id must be a string of 3 to 256 characters and use only A-Z, a-z, 0-9 and . _ ~ -' end,
               case when f.building_type not in ('RESIDENTIAL', 'MULTIFAMILY', 'MANUFACTURED_HOME', 'COMMERCIAL') and btrim(f.building_type) <> ''
                    then 'building_type must be one of RESIDENTIAL, MULTIFAMILY, MANUFACTURED_HOME, COMMERCIAL' end,
               case when f.country not in ('US', 'CA') and btrim(f.country) <> '' then 'address.country_code must be US or CA' end,
               case when f.country in ('US', 'CA') and not f.region_is_known and btrim(f.region) <> ''
                    then format('address.state_or_province_code %s is not a state or province of %s', left(f.region, 20), f.country) end,
               case when not f.postal_code_is_valid and btrim(f.postal_code) <> ''
                    then format('address.postal_code %s is not %s', left(f.postal_code, 20),
                                case f.country when 'US' then 'a ZIP code (12345 or 12345-6789)' else 'a Canadian postal code (A1A 1A1)' end) end,
               case when f.device_ids is null and f.item -> 'device_ids' <> 'null'
                    then 'device_ids must be an array of 1 to 100 positive integers' end,
               case when p_check_devices and not f.device_ids <@ v_devices
                    then 'Unknown device_ids: ' || array_to_string(array(
                             select distinct d from unnest(f.device_ids) d where d <> all (v_devices) order by d limit 10), ', ') end,
               case when jsonb_typeof(f.create_application) not in ('boolean', 'null') then 'create_application must be true or false' end,
               case when jsonb_typeof(f.webhook_custom_fields) not in ('object', 'null') or length(f.webhook_custom_fields::text) > 16384
                    then 'webhook_custom_fields must be an object of at most 16,384 characters' end,
               case when jsonb_path_exists(f.webhook_custom_fields, 'strict $.**{64 to last}')
                    then 'webhook_custom_fields may have at most 64 levels' end,
               case when jsonb_typeof(f.item -> 'metadata') not in ('object', 'null') or octet_length((f.item -> 'metadata')::text) > 4096
                    then 'metadata must be an object of at most 4,096 bytes' end,
               case when jsonb_path_exists(f.item -> 'metadata', 'strict $.**{64 to last}')
                    then 'metadata may have at most 64 levels' end), '')
      from (select e.*, r.code is not null as region_is_known,
                   case e.country
                       when 'US' then e.postal_code ~ '^[0-9]{5}(-[0-9]{4})?$'
                       when 'CA' then e.postal_code ~* '^[ABCEGHJ-NPRSTVXY][0-9][ABCEGHJ-NPRSTV-Z] ?[0-9][ABCEGHJ-NPRSTV-Z][0-9]$'
                   end as postal_code_is_valid,
                   case e.country
                       when 'US' then e.postal_code !~ '^[0-9]{5}' or r.zip3 @> left(e.postal_code, 3)::integer
                       when 'CA' then strpos(r.postal_letters, upper(left(e.postal_code, 1))) > 0
                   end as postal_code_is_near
              from (select i.position, i.is_object, i.item, i.address,
                           coalesce(jsonb_typeof(i.item -> 'address') = 'object', false) as has_address,
                           i.item -> 'create_application'         as create_application,
                           i.item -> 'webhook_custom_fields'      as webhook_custom_fields,
                           i.item ->> 'reference_id'              as reference_id,
                           i.address ->> 'street_1'               as street_1,
                           i.address ->> 'city'                   as city,
                           i.address ->> 'state_or_province_code' as region,
                           i.address ->> 'postal_code'            as postal_code,
                           i.address ->> 'country_code'           as country,
                           i.item ->> 'building_type'             as building_type,
                           case when i.device_ids ~ '^\[[1-9][0-9]{0,8}(, [1-9][0-9]{0,8})*\]$'
                                then translate(i.device_ids, '[]', '{}')::integer[] end as device_ids
                      from (select (e.n - 1)::integer as position, jsonb_typeof(e.item) = 'object' as is_object,
                                   case when jsonb_typeof(e.item) = 'object' then e.item else '{}' end as item,
                                   case when jsonb_typeof(e.item -> 'address') = 'object' then e.item -> 'address' else '{}' end as address,
                                   case when jsonb_typeof(e.item -> 'device_ids') = 'array'
                                        then case when jsonb_array_length(e.item -> 'device_ids') <= 100 then e.item ->> 'device_ids' end end as device_ids
                              from jsonb_array_elements(p_items) with ordinality as e (item, n)
                            offset 0) i
                    offset 0) e
              left join app.regions r on r.country_code = e.country and r.code = e.region
            offset 0) f
     order by f.position;
end;
$$;

-- The items of a request body, {"items": [...]} or the bare array.
create or replace function app.batch_request_items(p_request jsonb) returns jsonb
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_items   jsonb := case when jsonb_typeof(p_request) = 'array' then p_request else p_request -> 'items' end;
    v_unknown text;
begin
    if jsonb_typeof(p_request) = 'object' then
        v_unknown := (select string_agg(left(k, 100), ', ')
                        from (select jsonb_object_keys(p_request - array['items', 'name', 'dry_run', 'on_invalid']) limit 10) u (k));
    end if;
    if jsonb_typeof(v_items) is distinct from 'array' then
        perform app.refuse(
            400, 'items_missing', 'The body must be a JSON object with an array of items',
            '{"items": [{"reference_id": ..., "address": {...}, "building_type": ..., "device_ids": [...]}]}');
    elsif v_unknown is not null then
        perform app.refuse(400, 'unknown_fields', format('Unknown fields: %s', v_unknown));
    elsif jsonb_array_length(v_items) not between 1 and 10000 then
        perform app.refuse(
            400, 'invalid_item_count',
            format('A batch must have 1 to 10,000 items; this one has %s', to_char(jsonb_array_length(v_items), 'FM999,999,990')));
    end if;
    return v_items;
end;
$$;

-- The problems of the first hundred invalid items: the index of each and, for a file, the record (from 1) and the line on which it begins.
-- The answer stays small whatever the request holds, and so does what is logged and stored of it.
create or replace function app.item_problems(p_items app.batch_item[], p_lines integer[]) returns json
language sql immutable
return (select coalesce(json_agg(json_strip_nulls(json_build_object(
                           'index', i.position,
                           'record', case when p_lines is not null then i.position + 1 end,
                           'line', p_lines[i.position + 1],
                           'error', i.errors)) order by i.position), '[]')
          from (select * from unnest(p_items) where errors is not null order by position limit 100) i);

-- The first hundred of them.
create or replace function app.duplicate_reference_ids(p_items app.batch_item[]) returns text[]
language sql immutable
return array(select i.reference_id from unnest(p_items) i where i.reference_id is not null group by i.reference_id having count(*) > 1 order by min(i.position) limit 100);

create or replace function app.check_batch_items(p_items app.batch_item[], p_lines integer[] default null) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_invalid    integer := (select count(*) from unnest(p_items) i where i.errors is not null);
    v_duplicates text[]  := app.duplicate_reference_ids(p_items);
begin
    if v_invalid > 0 then
        perform app.refuse(
            400, 'invalid_items', format('%s item(s) failed validation', v_invalid),
            p_members => json_strip_nulls(json_build_object('invalid_items', app.item_problems(p_items, p_lines), 'total_invalid', v_invalid,
                                                            'duplicates', nullif(v_duplicates, '{}'))));
    elsif v_duplicates <> '{}' then
        perform app.refuse(
            400, 'duplicate_reference_ids', 'Duplicate reference_ids found in batch',
            p_members => json_build_object('duplicates', v_duplicates));
    end if;
end;
$$;
