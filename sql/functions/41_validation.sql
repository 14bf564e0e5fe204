-- Chapter 41, validation of uploads. Set-based: 10,000 items take one statement, not 10,000 calls.

-- What is wrong with a field of an item: {field, code, value?, of?}. The wording comes last, because it depends on the reader: see
-- app.problem_message. p_of: the context of the value, if the rule depends on it, such as the country of a postal code.
create or replace function app.problem(p_field text, p_code text, p_value jsonb default null, p_of text default null) returns jsonb
language sql immutable
return jsonb_strip_nulls(jsonb_object(
    array['field', 'code', 'value', 'of'],
    array[p_field, p_code, left(case when jsonb_typeof(p_value) = 'string' then p_value #>> '{}' else left(p_value::text, 100) end, 100), left(p_of, 100)]));

-- Whether a text has nothing to see: only spaces, tabs, line breaks and invisible characters. Most texts pass the first, quick check.
create or replace function app.is_blank(p_text text) returns boolean
language sql immutable
return coalesce(ascii(p_text) not between 33 and 126
                and p_text !~ '[^\u0001-\u0020\u007F-\u00A0\u00AD\u2000-\u200F\u2028-\u202F\u205F-\u206F\u3000\uFEFF]', true);

-- All items of an upload with their problems and warnings, in one pass. p_notes: what reading a file found out about each. Nothing here may
-- raise, whatever the items contain. A rule is one `case` that is null if the rule is met; problems come in the order of the rules. `offset
-- 0` makes the planner compute each member once, not at each reference. These rules apply to every item, whether from JSON, a file, a draft
-- or a table.
create or replace function app.parse_batch_items(p_items jsonb[], p_check_devices boolean, p_notes app.cell_notes[] default null) returns setof app.batch_item
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_devices        integer[] := array(select id from app.devices where retired_at is null);
    v_regions        app.regions[];
    v_item_fields    text[]    := array['reference_id', 'address', 'building_type', 'device_ids', 'create_application', 'webhook_custom_fields', 'metadata', 'household'];
    v_address_fields text[]    := array['street_1', 'street_2', 'city', 'state_or_province_code', 'postal_code', 'country_code'];
begin
    -- As an array: not knowing how many items there are, the planner would look up the region of each.
    select array_agg(row(r.*)::app.regions) into v_regions from app.regions r;
    return query
    select f.position, f.reference_id, jsonb_strip_nulls(f.address), f.building_type, f.device_ids,
           coalesce(f.create_application = 'true', false),
           nullif(f.webhook_custom_fields, 'null'),
           case when f.warnings is not null then array(select w ->> 'message' from unnest(f.warnings) w) end
           || case when f.postal_code_is_valid and not f.postal_code_is_near
                   then array[format('address.postal_code %s does not lie in %s', f.postal_code, f.region)] end,
           nullif(array_remove(f.problems || array[
               case when not f.is_object then app.problem(null, 'not_an_object', null) end,
               case when f.is_object and coalesce(btrim(f.reference_id), '') = '' then app.problem('reference_id', 'missing', null) end,
               case when f.is_object and coalesce(f.item -> 'address', 'null') = 'null' then app.problem('address', 'missing', null) end,
               case when f.has_address and app.is_blank(f.street_1) then app.problem('address.street_1', 'missing', null) end,
               case when f.has_address and app.is_blank(f.city) then app.problem('address.city', 'missing', null) end,
               case when f.has_address and coalesce(btrim(f.region), '') = '' then app.problem('address.state_or_province_code', 'missing', null) end,
               case when f.has_address and coalesce(btrim(f.postal_code), '') = '' then app.problem('address.postal_code', 'missing', null) end,
               case when f.has_address and coalesce(btrim(f.country), '') = '' then app.problem('address.country_code', 'missing', null) end,
               case when f.is_object and coalesce(btrim(f.building_type), '') = '' then app.problem('building_type', 'missing', null) end,
               case when f.is_object and coalesce(f.item -> 'device_ids', 'null') = 'null' then app.problem('device_ids', 'missing', null) end]
            || case when f.item - v_item_fields <> '{}' or f.address - v_address_fields <> '{}'
                    then array(select app.problem(left(u.name, 100), 'unknown_field', u.value)
                                 from (select * from jsonb_each(f.item - v_item_fields)
                                        union all
                                       select 'address.' || key, value from jsonb_each(f.address - v_address_fields)
                                        order by 1
                                        limit 10) u (name, value)) end
            || case when jsonb_typeof(f.item -> 'address') not in ('object', 'null') then app.problem('address', 'not_an_object', f.item -> 'address') end
               -- A quick check that most items pass.
            || case when pg_column_size(f.item) > 500
                         or jsonb_path_exists(f.address, 'strict $.* ? (@.type() != "string")')
                    then array(select app.problem('address.' || m.name, 'invalid_text', f.address -> m.name)
                                 from unnest(array['street_1', 'street_2', 'city', 'postal_code']) with ordinality m (name, number)
                                where jsonb_typeof(f.address -> m.name) not in ('string', 'null') or length(f.address ->> m.name) > 500
                                order by m.number) end
            || array[
               case when (jsonb_typeof(f.item -> 'reference_id') <> 'string' or f.reference_id !~ '^[A-Za-z0-9._~-]+$'
                          or length(f.reference_id) not between 3 and 256) and btrim(f.reference_id) <> ''
                    then app.problem('reference_id', 'invalid_reference_id', f.item -> 'reference_id') end,
               case when f.building_type not in ('RESIDENTIAL', 'MULTIFAMILY', 'MANUFACTURED_HOME', 'COMMERCIAL') and btrim(f.building_type) <> ''
                    then app.problem('building_type', 'unknown_building_type', f.item -> 'building_type') end,
               case when f.country not in ('US', 'CA') and btrim(f.country) <> ''
                    then app.problem('address.country_code', 'unknown_country', f.address -> 'country_code') end,
               case when f.country in ('US', 'CA') and not f.region_is_known and btrim(f.region) <> ''
                    then app.problem('address.state_or_province_code', 'unknown_state', f.address -> 'state_or_province_code', f.country) end,
               case when not f.postal_code_is_valid and btrim(f.postal_code) <> ''
                    then app.problem('address.postal_code', 'invalid_postal_code', f.address -> 'postal_code', f.country) end,
               case when f.device_ids is null and f.item -> 'device_ids' <> 'null'
                    then app.problem('device_ids', 'invalid_device_ids', f.item -> 'device_ids') end,
               case when p_check_devices and not f.device_ids <@ v_devices
                    then app.problem('device_ids', 'unknown_device', to_jsonb(array_to_string(array(
                             select distinct d from unnest(f.device_ids) d where d <> all (v_devices) order by d limit 10), ', '))) end,
               case when jsonb_typeof(f.create_application) not in ('boolean', 'null')
                    then app.problem('create_application', 'not_a_boolean', f.create_application) end,
               case when jsonb_typeof(f.webhook_custom_fields) not in ('object', 'null') or length(f.webhook_custom_fields::text) > 16384
                    then app.problem('webhook_custom_fields', 'invalid_webhook_custom_fields', f.webhook_custom_fields) end,
               case when jsonb_path_exists(f.webhook_custom_fields, 'strict $.**{64 to last}')
                    then app.problem('webhook_custom_fields', 'too_deep', null) end,
               case when jsonb_typeof(f.item -> 'metadata') not in ('object', 'null') or octet_length((f.item -> 'metadata')::text) > 4096
                    then app.problem('metadata', 'invalid_metadata', f.item -> 'metadata') end,
               case when jsonb_path_exists(f.item -> 'metadata', 'strict $.**{64 to last}')
                    then app.problem('metadata', 'too_deep', null) end,
               case when f.item ? 'household' and app.household_error(f.item -> 'household') is not null
                    then app.problem(split_part(app.household_error(f.item -> 'household'), ' ', 1), 'invalid_household', f.item -> 'household',
                                     app.household_error(f.item -> 'household')) end], null), '{}'),
           f.warnings
           || case when f.postal_code_is_valid and not f.postal_code_is_near
                   then array[jsonb_build_object('field', 'address.postal_code', 'code', 'postal_code_not_in_state', 'was', f.postal_code,
                                                 'now', f.postal_code, 'of', f.region)] end,
           app.household(f.item -> 'household')
      from (select e.*, r.code is not null as region_is_known,
                   case e.country
                       when 'US' then e.postal_code ~ '^[0-9]{5}(-[0-9]{4})?$'
                       when 'CA' then e.postal_code ~* '^[ABCEGHJ-NPRSTVXY][0-9][ABCEGHJ-NPRSTV-Z] ?[0-9][ABCEGHJ-NPRSTV-Z][0-9]$'
                   end as postal_code_is_valid,
                   case e.country
                       when 'US' then e.postal_code !~ '^[0-9]{5}' or r.zip3 @> left(e.postal_code, 3)::integer
                       when 'CA' then strpos(r.postal_letters, upper(left(e.postal_code, 1))) > 0
                   end as postal_code_is_near
              from (select i.position, i.is_object, i.item, i.address, i.warnings, i.problems,
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
                      from (select (e.n - 1)::integer as position, e.warnings, e.problems, jsonb_typeof(e.item) = 'object' as is_object,
                                   case when jsonb_typeof(e.item) = 'object' then e.item else '{}' end as item,
                                   case when jsonb_typeof(e.item -> 'address') = 'object' then e.item -> 'address' else '{}' end as address,
                                   case when jsonb_typeof(e.item -> 'device_ids') = 'array'
                                        then case when jsonb_array_length(e.item -> 'device_ids') <= 100 then e.item ->> 'device_ids' end end as device_ids
                              from unnest(p_items, p_notes) with ordinality as e (item, warnings, problems, n)
                            offset 0) i
                    offset 0) e
              left join unnest(v_regions) r on r.country_code = e.country and r.code = e.region
            offset 0) f
     order by f.position;
end;
$$;

create or replace function app.check_item_count(p_count integer) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_count not between 1 and 10000 then
        perform app.refuse(
            400, 'invalid_item_count', format('A batch must have 1 to 10,000 items; this one has %s', to_char(p_count, 'FM999,999,990')));
    end if;
end;
$$;

-- The items of a request body, {"items": [...]} or the bare array.
create or replace function app.batch_request_items(p_request jsonb) returns jsonb[]
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_items jsonb := case when jsonb_typeof(p_request) = 'array' then p_request else p_request -> 'items' end;
begin
    if jsonb_typeof(v_items) is distinct from 'array' then
        perform app.refuse(
            400, 'items_missing', 'The body must be a JSON object with an array of items',
            '{"items": [{"reference_id": ..., "address": {...}, "building_type": ..., "device_ids": [...]}]}');
    elsif jsonb_typeof(p_request) = 'object' then
        perform app.refuse_unknown_members(p_request, array['items'] || app.upload_option_names());
    end if;
    perform app.check_item_count(jsonb_array_length(v_items));
    return array(select jsonb_array_elements(v_items));
end;
$$;

-- A problem, worded for senders of JSON.
create or replace function app.problem_message(p_problem jsonb) returns text
language sql immutable
return case p_problem ->> 'code'
    when 'missing' then p_problem ->> 'field' || ' is missing'
    when 'unknown_field' then p_problem ->> 'field' || ' is not a known field'
    when 'not_an_object' then coalesce(p_problem ->> 'field', 'An item') || ' must be an object'
    when 'invalid_text' then p_problem ->> 'field' || ' must be a string of at most 500 characters'
    when 'invalid_reference_id' then 'reference_id must be a string of 3 to 256 characters and use only A-Z, a-z, 0-9 and . _ ~ -'
    when 'duplicate_reference_id' then format('Duplicate reference_id %s, as at index %s', p_problem ->> 'value', p_problem ->> 'of')
    when 'unknown_building_type' then 'building_type must be one of RESIDENTIAL, MULTIFAMILY, MANUFACTURED_HOME, COMMERCIAL'
    when 'unknown_country' then 'address.country_code must be US or CA'
    when 'unknown_state' then format('address.state_or_province_code %s is not a state or province of %s', left(p_problem ->> 'value', 20), p_problem ->> 'of')
    when 'invalid_postal_code' then format('address.postal_code %s is not %s', left(p_problem ->> 'value', 20), app.postal_code_form(p_problem ->> 'of'))
    when 'invalid_device_ids' then 'device_ids must be an array of 1 to 100 positive integers'
    when 'unknown_device' then 'Unknown device_ids: ' || (p_problem ->> 'value')
    when 'not_a_boolean' then p_problem ->> 'field' || ' must be true or false'
    when 'invalid_webhook_custom_fields' then 'webhook_custom_fields must be an object of at most 16,384 characters'
    when 'invalid_household' then p_problem ->> 'of'
    when 'invalid_metadata' then 'metadata must be an object of at most 4,096 bytes'
    when 'too_deep' then p_problem ->> 'field' || ' may have at most 64 levels'
    when 'rounded_by_spreadsheet' then format('%s %s was rounded by a spreadsheet: format the column as text, and fill it in again', p_problem ->> 'of', p_problem ->> 'value')
    when 'too_many_cells' then format('The row has %s cells, the header %s', p_problem ->> 'value', p_problem ->> 'of')
    when 'row_too_large' then 'The row has more than 32,768 bytes'
end;

comment on function app.problem_message(jsonb) is 'What is wrong, in words, for senders of JSON; null: an unknown code. For files: app.cell_message.';

-- A problem, worded for senders of spreadsheets. p_place: its column; null: no column has the field. p_lines: the row of each item; null:
-- they are numbered from 1.
create or replace function app.cell_message(p_problem jsonb, p_place text, p_position integer, p_lines integer[]) returns text
language sql immutable
return concat_ws(', ', p_place, 'row ' || coalesce(p_lines[p_position + 1], p_position + 1)) || ': ' || case p_problem ->> 'code'
    when 'missing' then case when p_place is null then format('there is no %s, and no column for it', p_problem ->> 'field') else 'the cell is empty' end
    when 'invalid_text' then 'the cell has more than 500 characters'
    when 'invalid_reference_id' then format('%s must have 3 to 256 characters and use only A-Z, a-z, 0-9 and . _ ~ -', p_problem ->> 'value')
    when 'duplicate_reference_id' then format('%s is also in row %s', p_problem ->> 'value',
                                              coalesce(p_lines[(p_problem ->> 'of')::integer + 1], (p_problem ->> 'of')::integer + 1))
    when 'unknown_building_type' then format('%s is not a building type (RESIDENTIAL, MULTIFAMILY, MANUFACTURED_HOME, COMMERCIAL)', p_problem ->> 'value')
    when 'unknown_country' then format('%s is not a country that has lookups (US, CA)', p_problem ->> 'value')
    when 'unknown_state' then format('%s is not a state or province of %s', p_problem ->> 'value', p_problem ->> 'of')
    when 'invalid_postal_code' then format('%s is not %s', p_problem ->> 'value', app.postal_code_form(p_problem ->> 'of'))
    when 'invalid_device_ids' then format('%s is not a list of devices: write their ids or their names, such as 1;4', p_problem ->> 'value')
    when 'unknown_device' then format('there is no device %s', p_problem ->> 'value')
    when 'not_a_boolean' then format('%s is neither yes nor no', p_problem ->> 'value')
    when 'invalid_webhook_custom_fields' then 'the cell must hold a JSON object of at most 16,384 characters'
    when 'rounded_by_spreadsheet' then format('%s was rounded by a spreadsheet: format the column as text, and fill it in again', p_problem ->> 'value')
    when 'too_many_cells' then format('the row has %s cells, the header %s', p_problem ->> 'value', p_problem ->> 'of')
    when 'row_too_large' then 'the row has more than 32,768 bytes'
    else app.problem_message(p_problem)
end;

-- What was probably meant, if that is unambiguous. In PL/pgSQL, like the next ones, because that caches plans.
create or replace function app.suggestion(p_problem jsonb) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_value constant text := p_problem ->> 'value';
    v_name  constant text := app.plain_name(v_value);
    v_text  text;
begin
    case p_problem ->> 'code'
        when 'invalid_reference_id' then
            v_text := btrim(regexp_replace(v_value, '[^A-Za-z0-9._~-]+', '-', 'g'), '-');
            return case when length(v_value) < 100 and length(v_text) >= 3 then nullif(v_text, v_value) end;
        when 'unknown_building_type' then
            return (select building_type from app.building_type_names where name = v_name);
        when 'unknown_country' then
            return (select country_code from app.country_names where name = v_name and region_code is null);
        when 'unknown_state' then
            return (select code from app.region_names where name = v_name and country_code = p_problem ->> 'of');
        when 'invalid_postal_code' then
            return nullif(app.corrected_postal_code(p_problem ->> 'of', v_value), v_value);
        else
            return null;
    end case;
end;
$$;

-- What a file calls a field of an item.
create or replace function app.file_field(p_field text) returns text
language sql immutable
return regexp_replace(regexp_replace(p_field, '^address\.|^household\.(?!income|size)', ''), '^household\.', 'household_');

-- A problem as the sender sees it: {field, column, code, message, value, suggestion}. p_columns: {field: {place, header}} for a file.
create or replace function app.told_problem(p_problem jsonb, p_position integer, p_lines integer[], p_columns jsonb) returns json
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_column constant jsonb := p_columns -> app.file_field(p_problem ->> 'field');
    v_place  constant text  := case when v_column ? 'place' then 'column ' else '' end || (v_column ->> 'header');
begin
    return json_build_object(
        'field', p_problem -> 'field',
        'column', (v_column ->> 'place')::integer + 1,
        'code', p_problem -> 'code',
        'message', app.with_marks(
            case when p_columns is null then app.problem_message(p_problem) else app.cell_message(p_problem, v_place, p_position, p_lines) end),
        'value', p_problem -> 'value',
        'suggestion', app.suggestion(p_problem));
end;
$$;

-- A warning in the same form: {field, column, code, message, was, now}.
create or replace function app.told_warning(p_warning jsonb, p_columns jsonb) returns json
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_column constant jsonb := p_columns -> app.file_field(p_warning ->> 'field');
begin
    return json_build_object(
        'field', p_warning -> 'field',
        'column', (v_column ->> 'place')::integer + 1,
        'code', p_warning -> 'code',
        'message', coalesce(p_warning ->> 'message', format('%s %s does not lie in %s', coalesce((v_column ->> 'header') || ':', 'address.postal_code'),
                                                            p_warning ->> 'was', p_warning ->> 'of')),
        'was', p_warning -> 'was',
        'now', p_warning -> 'now');
end;
$$;

-- All problems of an item as one text; null: it is valid.
create or replace function app.problems_text(p_problems jsonb[]) returns text
language sql immutable
return (select nullif(app.with_marks(concat_ws('; ',
                   'Missing required fields: ' || string_agg(p ->> 'field', ', ' order by n) filter (where p ->> 'code' = 'missing'),
                   'Unknown fields: ' || string_agg(p ->> 'field', ', ' order by n) filter (where p ->> 'code' = 'unknown_field'),
                   string_agg(app.problem_message(p), '; ' order by n) filter (where p ->> 'code' not in ('missing', 'unknown_field')))), '')
          from unnest(p_problems) with ordinality u (p, n));

-- The first hundred invalid items: the index of each, for a file also the record (from 1) and the line on which it begins, and up to a
-- hundred of their problems. This bounds the response, and what is logged and stored of it, whatever the request contains.
create or replace function app.invalid_items(p_items app.batch_item[], p_lines integer[], p_columns jsonb) returns json
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select (select coalesce(json_agg(app.join_objects(
                       json_strip_nulls(json_build_object(
                           'index', i.position,
                           'record', case when p_lines is not null then i.position + 1 end,
                           'line', p_lines[i.position + 1],
                           'error', app.problems_text(i.problems))),
                       json_build_object(
                           'problems', (select coalesce(json_agg(app.told_problem(p, i.position, p_lines, p_columns) order by n), '[]')
                                          from unnest(i.problems) with ordinality u (p, n)
                                         where i.told + n <= 100))) order by i.position), '[]')
              from (select u.position, u.problems,
                           sum(cardinality(u.problems)) over (order by u.position) - cardinality(u.problems) as told
                      from unnest(p_items) u
                     where u.problems is not null
                     order by u.position
                     limit 100) i)
$$;

-- What is wrong with all items, or was corrected in them, by field and code: at most a hundred groups of {field, code, count, examples},
-- the most frequent first, with up to three examples of different values each. There may be hundreds of thousands of problems: one pass
-- groups them all by hash, whatever the planner expects of an array.
create or replace function app.problem_groups(p_items app.batch_item[], p_of_warnings boolean, p_lines integer[], p_columns jsonb) returns json
language sql stable
set search_path = pg_catalog, pg_temp set enable_nestloop = off
as $$
    with problems as materialized (
        select i.position, u.it, u.it ->> 'field' as field, u.it ->> 'code' as code, coalesce(u.it ->> 'value', u.it ->> 'was') as value
          from unnest(p_items) i
         cross join unnest(case when p_of_warnings then i.details else i.problems end) u (it)),
    groups as (
        select field, code, sum(count) as count, (array_agg(first order by first))[:3] as firsts
          from (select field, code, value, count(*) as count, min(position) as first from problems group by field, code, value) v
         group by field, code
         order by sum(count) desc, field, code
         limit 100),
    told as (
        select g.field, g.code, g.count,
               json_agg(json_build_object(
                   'position', p.position,
                   'line', p_lines[p.position + 1],
                   'value', p.value,
                   'message', case when p_of_warnings then app.told_warning(p.it, p_columns)
                                   else app.told_problem(p.it, p.position, p_lines, p_columns) end -> 'message') order by p.position) as examples
          from (select *, unnest(firsts) as position from groups) g
          join problems p on p.position = g.position and p.code = g.code and p.field is not distinct from g.field
         group by g.field, g.code, g.count)
    select coalesce(json_agg(json_build_object('field', t.field, 'code', t.code, 'count', t.count, 'examples', t.examples)
                             order by t.count desc, t.field, t.code), '[]')
      from told t;
$$;

-- The first hundred of them.
create or replace function app.duplicate_reference_ids(p_items app.batch_item[]) returns text[]
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select array(select i.reference_id from unnest(p_items) i where i.reference_id is not null group by i.reference_id having count(*) > 1 order by min(i.position) limit 100)
$$;

create or replace function app.check_batch_items(
    p_items app.batch_item[], p_lines integer[] default null, p_columns jsonb default null, p_notes jsonb default '[]'
) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_invalid    integer := (select count(*) from unnest(p_items) i where i.problems is not null);
    v_duplicates text[]  := app.duplicate_reference_ids(p_items);
    v_members    json;
begin
    if v_invalid > 0 then
        v_members := json_build_object('invalid_items', app.invalid_items(p_items, p_lines, p_columns), 'total_invalid', v_invalid);
        if v_duplicates <> '{}' then
            v_members := app.join_objects(v_members, json_build_object('duplicates', v_duplicates));
        end if;
        perform app.refuse(
            400, 'invalid_items', format('%s item(s) failed validation', v_invalid),
            -- Why cells may lack what the sender sees in them.
            (select n ->> 'message' from jsonb_array_elements(p_notes) n where n ->> 'code' = 'formulas_without_results' limit 1),
            p_members => v_members);
    elsif v_duplicates <> '{}' then
        perform app.refuse(
            400, 'duplicate_reference_ids', 'Duplicate reference_ids found in batch',
            p_members => json_build_object('duplicates', v_duplicates));
    end if;
end;
$$;
