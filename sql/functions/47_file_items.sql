-- Chapter 47, items of a file: each row becomes an item, corrected if it is clear what was meant.

-- The cleaned cell, else the default. `p_is_name`: a word such as None may be a name.
create or replace function app.cell(p_cell text, p_is_clean boolean, p_is_name boolean, p_default text) returns text
language sql immutable
return coalesce(nullif(case
    when p_is_clean then btrim(p_cell)
    when app.is_placeholder(app.clean_cell(p_cell)) or not p_is_name and app.may_be_placeholder(app.clean_cell(p_cell)) then ''
    else app.clean_cell(p_cell) end, ''), p_default);

-- The number of cells of a row, without empty ones at its end.
create or replace function app.filled_width(p_cells jsonb) returns integer
language sql immutable
return (select max(n)::integer from jsonb_array_elements_text(p_cells) with ordinality c (cell, n) where cell <> '');

create or replace function app.number_of_cell(p_text text) returns jsonb
language sql immutable
return case when p_text ~ '^[0-9]{1,15}(\.[0-9]{1,6})?$' then to_jsonb(trim_scale(p_text::numeric)) else to_jsonb(p_text) end;

-- The household facts in cells: $60,000 is 60000, an owner a homeowner. What is not understood is kept, so that validation refuses it, as
-- are numbers that may be in another notation: 60.000 or 60.000,00.
create or replace function app.household_of_cells(p_income text, p_size text, p_owner_status text, p_tax_filing text) returns jsonb
language sql immutable
return jsonb_strip_nulls(jsonb_build_object(
    'income', case when p_income ~ '^[$ ]*(?![0-9]{1,3}[.][0-9]{3}[$ ]*$)([0-9]{1,3}([, ][0-9]{3})+|[0-9]+)([.][0-9]+)?[$ ]*$'
                   then app.number_of_cell(translate(p_income, '$ ,', '')) else to_jsonb(p_income) end,
    'size', app.number_of_cell(p_size),
    'owner_status', case app.plain_name(p_owner_status) when 'owner' then 'homeowner' when 'homeowner' then 'homeowner' when 'own' then 'homeowner' when 'tenant' then 'renter' when 'rent' then 'renter'
                                                        when 'renter' then 'renter' else p_owner_status end,
    'tax_filing', case app.plain_name(p_tax_filing)
                      when 'single' then 'single'
                      when 'joint' then 'joint' when 'marriedfilingjointly' then 'joint'
                      when 'separate' then 'separate' when 'marriedfilingseparately' then 'separate'
                      when 'headofhousehold' then 'head_of_household'
                      when 'survivingspouse' then 'surviving_spouse' when 'qualifyingsurvivingspouse' then 'surviving_spouse'
                      else p_tax_filing end));

-- A cell with a JSON object as a member of an item. Anything else, or an object out of bounds, is kept, so that validation refuses it.
create or replace function app.custom_fields_of_cell(p_text text) returns jsonb
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_fields jsonb := to_jsonb(p_text);
begin
    begin
        if length(p_text) <= 32768 and jsonb_typeof(p_text::jsonb) = 'object' then
            perform app.check_json(p_text::jsonb);
            v_fields := p_text::jsonb;
        end if;
    exception
        when data_exception or statement_too_complex or sqlstate 'PT400' then null;
    end;
    return case when p_text is null then '{}' else jsonb_build_object('webhook_custom_fields', v_fields) end;
end;
$$;

-- An item for each row, with notes on what was corrected in it or is wrong with the row itself. Whatever depends on one word alone, such as
-- the state that it stands for, is computed once per word. Most files need no cleaning, which is checked for 500 rows at a time. p_lines:
-- the line of each row in its file; null: counted from 1. p_width: the number of cells of the header.
create or replace function app.file_items(p_rows jsonb[], p_lines integer[], p_width integer, p_columns jsonb, p_defaults jsonb, p_value_maps jsonb)
returns table (item jsonb, notes app.cell_notes)
language plpgsql stable
set search_path = pg_catalog, pg_temp set jit = off
as $$
declare
    v_is_clean  constant boolean := not exists (
        select from (select string_agg(r.cells::text, '') as cells from unnest(p_rows) with ordinality r (cells, n) group by r.n / 500) p
         where app.may_need_cleaning(p.cells));
    v_reference_id       integer := p_columns #>> '{reference_id,place}';
    v_street_1           integer := p_columns #>> '{street_1,place}';
    v_street_2           integer := p_columns #>> '{street_2,place}';
    v_city               integer := p_columns #>> '{city,place}';
    v_region             integer := p_columns #>> '{state_or_province_code,place}';
    v_postal_code        integer := p_columns #>> '{postal_code,place}';
    v_country            integer := p_columns #>> '{country_code,place}';
    v_building_type      integer := p_columns #>> '{building_type,place}';
    v_device_ids         integer := p_columns #>> '{device_ids,place}';
    v_create_application integer := p_columns #>> '{create_application,place}';
    v_custom_fields      integer := p_columns #>> '{webhook_custom_fields,place}';
    v_street_number      integer := p_columns #>> '{street_number,place}';
    v_number_suffix      integer := p_columns #>> '{street_number_suffix,place}';
    v_predirectional     integer := p_columns #>> '{street_predirectional,place}';
    v_pretype            integer := p_columns #>> '{street_pretype,place}';
    v_suffix             integer := p_columns #>> '{street_suffix,place}';
    v_postdirectional    integer := p_columns #>> '{street_postdirectional,place}';
    v_income             integer := p_columns #>> '{household_income,place}';
    v_size               integer := p_columns #>> '{household_size,place}';
    v_owner_status       integer := p_columns #>> '{owner_status,place}';
    v_tax_filing         integer := p_columns #>> '{tax_filing,place}';
    -- Without fields that have only a default.
    v_given        constant text[]  := array(select c.key from jsonb_each(p_columns) c where c.value ? 'place');
    v_shared       constant text    := app.field_of_shared_cells(v_given);
    v_shared_place constant integer := p_columns #>> array[v_shared, 'place'];
    v_parts        jsonb[];
    v_has_street_parts constant boolean := p_columns ?| app.street_part_fields();
    v_has_household constant boolean := p_columns ?| array['household_income', 'household_size', 'owner_status', 'tax_filing'];
    -- Each row may have words of its own.
    v_names     constant jsonb := app.device_names();
    v_countries jsonb;
    v_regions   jsonb;
    v_buildings jsonb;
    v_devices   jsonb;
begin
    if v_shared is not null or exists (select from unnest(p_rows) r (cells) where app.has_gap(r.cells, v_region, v_postal_code)) then
        v_parts := array(select case when app.has_gap(r.cells, v_region, v_postal_code) then app.parts_in_row(r.cells, v_given, p_columns, k.regions)
                                     when v_shared is not null
                                     then app.parts_of_address(r.cells ->> v_shared_place, v_given, k.regions)
                                          || jsonb_build_object('field', v_shared, 'cell', r.cells ->> v_shared_place) end
                           from app.known_regions() k (regions)
                          cross join unnest(p_rows) with ordinality r (cells, n)
                          order by r.n);
    end if;

    with used as materialized (
        select distinct btrim(r.cells ->> v_country) as country, btrim(coalesce(r.parts ->> 'state_or_province_code', r.cells ->> v_region)) as region,
               btrim(r.cells ->> v_building_type) as building_type, btrim(r.cells ->> v_device_ids) as devices
          from unnest(p_rows, v_parts) r (cells, parts)
         union all
        select p_defaults ->> 'country_code', p_defaults ->> 'state_or_province_code', p_defaults ->> 'building_type', p_defaults ->> 'device_ids')
    select (select coalesce(jsonb_object_agg(t.text, jsonb_build_object(
                       'country', c.country_code,
                       'region', c.region_code,
                       'warning', case when upper(t.text) <> upper(c.region_code)
                                       then app.correction('address.state_or_province_code', p_columns #>> '{country_code,header}', 'value_recognized',
                                                       t.text, c.region_code) end)), '{}')
              from (select distinct country from used) t (text)
              join app.country_names c on c.name = app.plain_name(coalesce(p_value_maps -> 'country_code' ->> t.text, app.clean_cell(t.text)))),
           (select coalesce(jsonb_object_agg(r.country_code || t.text, jsonb_build_object(
                       'is', r.code,
                       'warning', case when upper(t.text) <> upper(r.code)
                                       then app.correction('address.state_or_province_code', p_columns #>> '{state_or_province_code,header}', 'value_recognized',
                                                       t.text, r.code) end)), '{}')
              from (select distinct region from used) t (text)
              join app.region_names r on r.name = app.plain_name(coalesce(p_value_maps -> 'state_or_province_code' ->> t.text, app.clean_cell(t.text)))),
           (select coalesce(jsonb_object_agg(t.text, jsonb_build_object(
                       'is', b.building_type,
                       'warning', case when app.plain_name(t.text) <> app.plain_name(b.building_type)
                                       then app.correction('building_type', p_columns #>> '{building_type,header}', 'value_recognized',
                                                       t.text, b.building_type) end)), '{}')
              from (select distinct building_type from used) t (text)
              join app.building_type_names b
                on b.name = app.plain_name(coalesce(p_value_maps -> 'building_type' ->> t.text, app.clean_cell(t.text)))),
           (select coalesce(jsonb_object_agg(t.text, jsonb_build_object(
                       'is', d.ids,
                       'warning', case when jsonb_typeof(d.ids) = 'array' and t.text ~ '[A-Za-z]'
                                       then app.correction('device_ids', p_columns #>> '{device_ids,header}', 'value_recognized', t.text, d.ids::text) end)), '{}')
              from (select distinct devices from used) t (text)
             cross join lateral app.read_device_ids(coalesce(p_value_maps -> 'device_ids' ->> t.text, app.clean_cell(t.text)), v_names) d (ids)
             where t.text <> '')
      into v_countries, v_regions, v_buildings, v_devices;

    return query
    select jsonb_strip_nulls(jsonb_build_object(
               'reference_id', m.reference_id,
               'address', jsonb_object(array['street_1', 'street_2', 'city', 'state_or_province_code', 'postal_code', 'country_code'],
                                       array[m.street_line, case when not m.is_unit_repeated then m.street_2 end, m.city_alone, m.region_code, m.postal_code, m.country_code]),
               'building_type', m.type_code,
               'device_ids', m.devices,
               'create_application', m.application,
               'household', case when v_has_household then app.household_of_cells(
                   app.cell(m.raw ->> v_income, m.is_clean, false, p_defaults ->> 'household_income'),
                   app.cell(m.raw ->> v_size, m.is_clean, false, p_defaults ->> 'household_size'),
                   app.cell(m.raw ->> v_owner_status, m.is_clean, false, p_defaults ->> 'owner_status'),
                   app.cell(m.raw ->> v_tax_filing, m.is_clean, false, p_defaults ->> 'tax_filing')) end))
           || case when jsonb_typeof(m.raw -> v_custom_fields) = 'object' then jsonb_build_object('webhook_custom_fields', m.raw -> v_custom_fields)
                   when p_columns ? 'webhook_custom_fields'
                   then app.custom_fields_of_cell(app.cell(m.raw ->> v_custom_fields, m.is_clean, false, p_defaults ->> 'webhook_custom_fields')) else '{}' end,
           case when m.warnings <> '{}' or m.problems is not null then row(nullif(m.warnings, '{}'), m.problems)::app.cell_notes end
      from (select c.*,
                   array_remove(case when not c.is_clean or c.was_decimal then array[
                       case when nullif(btrim(c.raw ->> v_reference_id), '') <> coalesce(c.reference_id, '')
                            then app.correction('reference_id', p_columns #>> '{reference_id,header}', 'cleaned', c.raw ->> v_reference_id, c.reference_id) end,
                       case when nullif(btrim(coalesce(c.parts ->> 'street_1', c.raw ->> v_street_1)), '') <> coalesce(c.street_1, '') or not c.is_clean and app.may_be_placeholder(c.street_1)
                            then app.correction('address.street_1', p_columns #>> '{street_1,header}', 'cleaned', c.raw ->> v_street_1, c.street_1) end,
                       case when nullif(btrim(c.raw ->> v_street_2), '') <> coalesce(c.street_2, '')
                            then app.correction('address.street_2', p_columns #>> '{street_2,header}', 'cleaned', c.raw ->> v_street_2, c.street_2) end,
                       case when nullif(btrim(coalesce(c.parts ->> 'city', c.raw ->> v_city)), '') <> coalesce(c.city, '') or not c.is_clean and app.may_be_placeholder(c.city)
                            then app.correction('address.city', p_columns #>> '{city,header}', 'cleaned', c.raw ->> v_city, c.city) end] end
                   || array[
                       case when c.parts is not null
                            then app.correction('address.' || (c.parts ->> 'field'), p_columns #>> array[c.parts ->> 'field', 'header'], 'value_recognized', c.parts ->> 'cell',
                                            concat_ws(' | ', c.parts ->> 'street_1', c.parts ->> 'city', c.region_code,
                                                      case when c.parts ? 'postal_code' then c.postal_code end))
                            when c.region is null then nullif(v_countries -> c.country -> 'warning', 'null')
                            else nullif(c.known_region -> 'warning', 'null') end,
                       case when not coalesce(c.parts ? 'postal_code', false) and c.spoilt_postal_code <> c.postal_code and upper(c.spoilt_postal_code) <> c.postal_code
                            then app.correction('address.postal_code', p_columns #>> '{postal_code,header}', 'postal_code_corrected', c.spoilt_postal_code, c.postal_code) end,
                       nullif(c.known_building -> 'warning', 'null'),
                       nullif(c.known_devices -> 'warning', 'null'),
                       case when c.city_alone <> c.city
                            then app.correction('address.city', p_columns #>> '{city,header}', 'value_recognized', c.city, c.city_alone) end,
                       case when c.is_unit_repeated
                            then app.correction('address.street_2', p_columns #>> '{street_2,header}', 'repeated_unit', c.street_2, null) end,
                       case when app.may_be_date(c.street_2)
                            then app.correction('address.street_2', p_columns #>> '{street_2,header}', 'looks_like_date', c.street_2, c.street_2) end,
                       case when app.may_be_date(btrim(c.raw ->> v_street_number))
                            then app.correction('address.street_1', p_columns #>> '{street_number,header}', 'looks_like_date',
                                                btrim(c.raw ->> v_street_number), btrim(c.raw ->> v_street_number)) end,
                       case when app.may_be_date(btrim(c.raw ->> v_number_suffix))
                            then app.correction('address.street_1', p_columns #>> '{street_number_suffix,header}', 'looks_like_date',
                                                btrim(c.raw ->> v_number_suffix), btrim(c.raw ->> v_number_suffix)) end,
                       case when length(c.street_1) <= 12 and app.may_be_date(c.street_1)
                            then app.correction('address.street_1', p_columns #>> '{street_1,header}', 'looks_like_date', c.street_1, c.street_1)
                            when c.street_line !~ '[0-9]' and c.street_line !~* '^(one|two|three|four|five|six|seven|eight|nine|ten)\M' and not app.may_be_placeholder(c.street_1)
                            then app.correction('address.street_1', p_columns #>> '{street_1,header}', 'no_house_number', c.street_line, c.street_line)
                            when length(c.street_line) < 8 and c.street_line ~ '^[0-9]+[A-Za-z]?$'
                            then app.correction('address.street_1', p_columns #>> '{street_1,header}', 'no_street_name', c.street_line, c.street_line)
                            when c.raw ->> v_street_number <> '' and c.street_1 ~ '^[0-9]+[A-Za-z]? +[A-Za-z]' and not starts_with(c.street_line, c.street_1)
                            then app.correction('address.street_1', p_columns #>> '{street_1,header}', 'two_house_numbers', c.street_1, c.street_line)
                            when not v_has_street_parts and c.street_line <> c.street_1
                            then app.correction('address.street_1', p_columns #>> '{street_1,header}', 'value_recognized', c.street_1, c.street_line) end], null) as warnings,
                   case when c.reference_id ~* '^[0-9]([.,][0-9]+)?E\+[0-9]+$' or jsonb_array_length(c.raw) > p_width or pg_column_size(c.raw) > 32768
                        then nullif(array_remove(array[
                       case when c.reference_id ~* '^[0-9]([.,][0-9]+)?E\+[0-9]+$'
                            then app.problem('reference_id', 'rounded_by_spreadsheet', to_jsonb(c.reference_id), p_columns #>> '{reference_id,header}') end,
                       case when app.filled_width(c.raw) > p_width
                            then app.problem(null, 'too_many_cells', to_jsonb(app.filled_width(c.raw)), p_width::text) end,
                       case when pg_column_size(c.raw) > 32768
                            then app.problem(null, 'row_too_large') end], null), '{}') end as problems
              from (select b.n, b.is_clean, b.raw, b.parts, b.street_1, b.city, b.region, b.country, b.spoilt_postal_code, b.country_code,
                           b.known_region, b.known_building, b.known_devices,
                           case when position(',' in b.city) > 0
                                then app.city_alone(b.city, coalesce(b.known_region ->> 'is', b.region), b.region) else b.city end as city_alone,
                           b.street_2 is not null and app.repeats_unit(b.street_1, b.street_2) as is_unit_repeated,
                           b.reference_id ~ '^[0-9]+\.0+$' or b.street_2 ~ '^[0-9]+\.0+$' as was_decimal,
                           case when b.reference_id ~ '^[0-9]+\.0+$' then split_part(b.reference_id, '.', 1) else b.reference_id end as reference_id,
                           case when b.street_2 ~ '^[0-9]+\.0+$' then split_part(b.street_2, '.', 1) else b.street_2 end as street_2,
                           coalesce(b.known_region ->> 'is', b.region, v_countries -> b.country ->> 'region') as region_code,
                           case when v_has_street_parts then app.joined_street(
                                    app.house_number(app.cell(b.raw ->> v_street_number, b.is_clean, false, p_defaults ->> 'street_number')),
                                    app.cell(b.raw ->> v_number_suffix, b.is_clean, false, p_defaults ->> 'street_number_suffix'),
                                    app.cell(b.raw ->> v_predirectional, b.is_clean, false, p_defaults ->> 'street_predirectional'),
                                    app.cell(b.raw ->> v_pretype, b.is_clean, false, p_defaults ->> 'street_pretype'),
                                    b.street_1,
                                    app.cell(b.raw ->> v_suffix, b.is_clean, false, p_defaults ->> 'street_suffix'),
                                    app.cell(b.raw ->> v_postdirectional, b.is_clean, false, p_defaults ->> 'street_postdirectional'))
                                when position(left(b.spoilt_postal_code, 5) in b.street_1) > 0
                                then app.street_alone(b.street_1, b.city, coalesce(b.known_region ->> 'is', b.region), b.spoilt_postal_code) else b.street_1 end as street_line,
                           case when b.spoilt_postal_code ~ '^[0-9]{5}(-[0-9]{4})?$' then b.spoilt_postal_code
                                else app.corrected_postal_code(b.country_code, b.spoilt_postal_code) end as postal_code,
                           coalesce(b.known_building ->> 'is', b.building_type) as type_code,
                           b.known_devices -> 'is' as devices,
                           case when b.application ~* '^(true|yes|y|1|oui|ja|s[ií]|x)$' then 'true'::jsonb
                                when b.application ~* '^(false|no|n|0|non|nein)$' then 'false' else to_jsonb(b.application) end as application
                      from (select a.*, v_regions -> (a.country_code || a.region) as known_region, v_buildings -> a.building_type as known_building,
                                   v_devices -> a.device_ids as known_devices
                              from (select t.*,
                                           coalesce(v_countries -> t.country ->> 'country', t.country,
                                                    case when t.spoilt_postal_code ~* '^[A-Z][0-9O][A-Z]'
                                                              or not v_regions ? ('US' || t.region) and v_regions ? ('CA' || t.region) then 'CA' else 'US' end) as country_code
                                      from (select r.n, r.is_clean, r.cells as raw, r.parts,
                                                   app.cell(r.cells ->> v_reference_id, r.is_clean, false, replace(p_defaults ->> 'reference_id', '{line}', r.line::text))               as reference_id,
                                                   app.cell(coalesce(r.parts ->> 'street_1', r.cells ->> v_street_1), r.is_clean, true, p_defaults ->> 'street_1')                      as street_1,
                                                   app.cell(r.cells ->> v_street_2, r.is_clean, false, p_defaults ->> 'street_2')                                                       as street_2,
                                                   app.cell(coalesce(r.parts ->> 'city', r.cells ->> v_city), r.is_clean, true, p_defaults ->> 'city')                                  as city,
                                                   app.cell(coalesce(r.parts ->> 'state_or_province_code', r.cells ->> v_region), true, false, p_defaults ->> 'state_or_province_code') as region,
                                                   app.cell(coalesce(r.parts ->> 'postal_code', r.cells ->> v_postal_code), r.is_clean, false, p_defaults ->> 'postal_code')            as spoilt_postal_code,
                                                   app.cell(r.cells ->> v_country, true, false, p_defaults ->> 'country_code')                                                          as country,
                                                   app.cell(r.cells ->> v_building_type, true, false, p_defaults ->> 'building_type')                                                   as building_type,
                                                   app.cell(r.cells ->> v_device_ids, true, false, p_defaults ->> 'device_ids')                                                         as device_ids,
                                                   app.cell(r.cells ->> v_create_application, r.is_clean, false, p_defaults ->> 'create_application')                                   as application
                                              from (select u.n, u.cells, u.parts, v_is_clean or not app.may_need_cleaning(u.cells::text) as is_clean,
                                                           coalesce(p_lines[u.n], u.n) as line
                                                      from unnest(p_rows, v_parts) with ordinality u (cells, parts, n)
                                                    offset 0) r
                                            offset 0) t
                                    offset 0) a
                            offset 0) b
                    offset 0) c
            offset 0) m
     order by m.n;
end;
$$;

-- Every row may get these values: 10,000 copies must fit into memory.
create or replace function app.check_given_values(p_defaults jsonb, p_value_maps jsonb) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if position('{line}' in p_defaults ->> 'reference_id') = 0 then
        perform app.refuse_option('default_reference_id', 'a text with {line}, which tells the rows apart, such as row-{line}');
    elsif octet_length(p_defaults::text) > 2048 then
        perform app.refuse_option('defaults', 'at most 2,048 bytes altogether');
    elsif exists (select from jsonb_path_query(p_value_maps, '$.*.*') v where octet_length(v::text) > 2048) then
        perform app.refuse_option('value_maps', 'of values of at most 2,048 bytes each');
    end if;
end;
$$;

-- Only expressions, no queries: to plan a query, PostgreSQL copies the whole file for each reference to it.
create or replace function app.check_file(p_file jsonb) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if jsonb_typeof(p_file -> 'rows') <> 'array' or jsonb_path_exists(p_file -> 'rows', 'strict $[*] ? (@.type() != "array")')
       or jsonb_typeof(p_file -> 'lines') <> 'array'
       or jsonb_path_exists(p_file -> 'lines', 'strict $[*] ? (@.type() != "number" || @ % 1 != 0 || @ < 0 || @ > 1000000000)')
       or jsonb_path_exists(p_file -> 'header_row', 'strict $ ? (@.type() != "number" || @ % 1 != 0 || @ < 1 || @ > 1000000000)')
       or jsonb_typeof(p_file -> 'notes') <> 'array'
       or jsonb_typeof(p_file -> 'columns') <> 'object' or jsonb_typeof(p_file -> 'defaults') <> 'object' or jsonb_typeof(p_file -> 'value_maps') <> 'object' then
        perform app.refuse_option('p_file', '{rows: [[cell, ...], ...], lines?: [number, ...], header_row?: number, notes?: [...], columns?, defaults?, value_maps?: {...}}');
    end if;
    perform app.check_given_values(p_file -> 'defaults', p_file -> 'value_maps');
end;
$$;

-- The places of the fields: {field: {place, header}}, with the place from 0; a default has no place.
create or replace function app.column_places(p_columns jsonb, p_defaults jsonb) returns jsonb
language sql immutable
return coalesce((select jsonb_object_agg(d, jsonb_build_object('header', 'default_' || d)) from jsonb_object_keys(p_defaults) d), '{}')
    || coalesce((select jsonb_object_agg(c ->> 'field', jsonb_build_object('place', (c ->> 'number')::integer - 1, 'header', c -> 'header'))
                   from jsonb_array_elements(p_columns) c
                  where c ->> 'field' is not null), '{}');

-- The distinct values of a column in the first five rows; null: all empty.
create or replace function app.column_samples(p_rows jsonb, p_number integer) returns jsonb
language sql immutable
return (select jsonb_agg(distinct left(r.cells ->> (p_number - 1), 200))
          from jsonb_array_elements(jsonb_path_query_array(p_rows, '$[0 to 4]')) r (cells)
         where r.cells ->> (p_number - 1) <> '');

-- Every line of results as JSON repeats the names, and many functions scan all of them.
create or replace function app.check_column_names(p_names text[]) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if octet_length(array_to_string(p_names, '')) > 65536 then
        perform app.refuse(
            400, 'column_names_too_long',
            format('The names of all columns have %s bytes; they may have 65,536', octet_length(array_to_string(p_names, ''))));
    end if;
end;
$$;

-- The columns of a file, without parts of a street whose names say so only beside it, such as Number, if the streets have their numbers.
create or replace function app.without_row_numbers(p_columns jsonb) returns jsonb
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return case
        when jsonb_path_exists(p_columns, '$[*] ? (@.field == "street_number" && @.how == "name")')
             and jsonb_path_exists(p_columns, '$[*] ? (@.field == "street_1").samples[*]')
             and not jsonb_path_exists(p_columns, '$[*] ? (@.field == "street_1").samples[*] ? (!(@ like_regex "^[0-9]+[A-Za-z]? +[A-Za-z]"))')
        then (select jsonb_agg(case when c ->> 'how' = 'name' and app.plain_name(c ->> 'header') in (select p.name from app.street_part_names p where p.is_bare)
                                    then c || '{"field": null, "how": null}' else c end order by n)
                from jsonb_array_elements(p_columns) with ordinality u (c, n))
        else p_columns end;
end;
$$;

create or replace function app.guessed_columns(p_names text[], p_columns jsonb, p_defaults jsonb, p_remembered jsonb) returns jsonb
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (select jsonb_agg(jsonb_build_object('number', c.n, 'header', c.header, 'field', c.field, 'how', c.how) order by c.n)
              from app.file_columns(p_names, coalesce(p_columns, '{}'), p_defaults, p_remembered, true) with ordinality c (header, field, how, n));
end;
$$;

-- The names of ambiguous columns in which no row has anything and, if two addresses are the same in each row, of the columns of the second,
-- as {plain name: null}: CRMs export all the addresses that a contact may have.
create or replace function app.redundant_columns(p_columns jsonb, p_rows jsonb, p_header integer, p_last integer) returns jsonb
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if not jsonb_path_exists(p_columns, '$[*] ? (@.how == "ambiguous")') or p_last <= p_header then
        return '{}';
    end if;
    return (select coalesce(jsonb_object_agg(e.name, null) filter (where e.is_empty or e.copy > 1 and e.have_copies), '{}')
              from (select d.*, bool_and(d.is_empty or d.copies > 1) over () as have_copies
                      from (select c.*, row_number() over (partition by c.cells order by c.number) as copy, count(*) over (partition by c.cells) as copies
                              from (select app.plain_name(c.it ->> 'header') as name, min((c.it ->> 'number')::integer) as number,
                                           bool_and(coalesce(r.cells ->> ((c.it ->> 'number')::integer - 1), '') = '') as is_empty,
                                           array_agg(lower(coalesce(r.cells ->> ((c.it ->> 'number')::integer - 1), '')) order by r.n) as cells
                                      from jsonb_array_elements(p_columns) c (it)
                                     cross join jsonb_array_elements(p_rows) with ordinality r (cells, n)
                                     where c.it ->> 'how' = 'ambiguous' and r.n between p_header + 1 and p_last
                                     group by 1) c) d) e);
end;
$$;

-- The column of units by its name if no row has anything in it, as {plain name: null}: another column may have them.
create or replace function app.empty_unit_column(p_columns jsonb, p_rows jsonb, p_header integer, p_last integer) returns jsonb
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_column constant jsonb := jsonb_path_query_first(p_columns, '$[*] ? (@.field == "street_2" && @.how == "name")');
begin
    return case
        when v_column is not null
             and not jsonb_path_exists(p_rows, '$[$from to $to][$place] ? (@ != "")',
                                       jsonb_build_object('from', p_header, 'to', greatest(p_header, p_last - 1), 'place', (v_column -> 'number')::integer - 1))
        then jsonb_build_object(app.plain_name(v_column ->> 'header'), null) else '{}' end;
end;
$$;

-- Whether a row has totals: its first text says so, and it has no id and no address. p_places: numbers of the columns with these.
create or replace function app.has_totals(p_cells jsonb, p_places integer[]) returns boolean
language sql immutable
return coalesce((select c.cell ~* '^((grand |sub[- ]?)?totals?\M|.*\m(sub[- ]?)?totals?:?$)'
                        and not exists (select from unnest(p_places) p where p <> c.number and p_cells ->> (p - 1) <> '')
                   from jsonb_array_elements_text(p_cells) with ordinality c (cell, number)
                  where c.cell <> ''
                  order by c.number
                  limit 1), false);

-- Whether a row is the heading of a group, or has nothing about a site. p_heading: the pattern of headings in the first column; null: it may
-- have none. p_used: numbers of the columns that have a field; p_is_complete: they or defaults give all that is required.
create or replace function app.has_heading(p_cells jsonb, p_used integer[], p_is_complete boolean, p_heading text) returns boolean
language sql immutable
return p_is_complete and not exists (select from unnest(p_used) u where p_cells ->> (u - 1) <> '')
    or p_cells ->> 0 ~ p_heading and app.filled_width(p_cells) = 1;

-- The rows of a file that may be items, with the line of each: those of its layout, without totals and headings of groups within the table,
-- and repetitions of its header, as of files put together. A heading stands alone in the first column, which has nothing else, or ids
-- that are single words; where all required columns are known, a row with nothing in any column that is used is none of a site, either.
create or replace function app.rows_of_items(
    p_file jsonb, p_header_row integer, p_last_row integer, p_columns jsonb, p_notes jsonb, out cells jsonb[], out lines integer[], out notes jsonb
)
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_lines  constant integer[] := app.integers(p_file -> 'lines');
    v_header constant jsonb     := case when p_header_row > 0 then p_file -> 'rows' -> (p_header_row - 1) end;
    v_street constant integer   := jsonb_path_query_first(p_columns, '$[*] ? (@.field == "street_1").number');
    v_places constant integer[] := array(select (c -> 'number')::integer from jsonb_array_elements(p_columns) c
                                          where c ->> 'field' in ('reference_id', 'street_1', 'street_number', 'city', 'state_or_province_code', 'postal_code'));
    v_used   constant integer[] := array(select (c -> 'number')::integer from jsonb_array_elements(p_columns) c where c ->> 'field' is not null);
    v_is_complete constant boolean := app.required_fields() <@ array(select c ->> 'field' from jsonb_array_elements(p_columns) c
                                                                      union all
                                                                     select jsonb_object_keys(coalesce(p_file -> 'defaults', '{}')));
    -- A heading stands in a column that is not used, or has several words among ids.
    v_heading text := case when p_columns #>> '{0,field}' = 'reference_id' then '\S\s+\S'
                           when p_columns #>> '{0,field}' is null and p_columns #>> '{0,how}' is distinct from 'ambiguous' then '.' end;
    v_left_out text;
begin
    -- Judged by the first fifty rows: no site has such a text there.
    if v_street is null
       or exists (select from jsonb_array_elements(jsonb_path_query_array(p_file -> 'rows', '$[$from to $to]',
                                                                          jsonb_build_object('from', p_header_row, 'to', p_header_row + 49))) u (cells)
                   where u.cells ->> 0 ~ v_heading and u.cells ->> (v_street - 1) <> '' and u.cells is distinct from v_header) then
        v_heading := null;
    end if;
    select array_agg(r.cells order by r.n) filter (where not r.is_left_out), array_agg(v_lines[r.n] order by r.n) filter (where not r.is_left_out),
           string_agg(coalesce(v_lines[r.n], r.n)::text, ', ' order by r.n) filter (where r.is_left_out)
      into cells, lines, v_left_out
      from (select u.cells, u.n,
                   -- Most rows begin their street with a digit.
                   coalesce(not p_file ? 'header_row'
                            and (u.cells = v_header or coalesce(ascii(u.cells ->> (v_street - 1)), 0) not between 48 and 57
                                                      and (app.has_totals(u.cells, v_places)
                                                           or coalesce(u.cells ->> (v_street - 1), '') = '' and app.has_heading(u.cells, v_used, v_is_complete, v_heading))), false) as is_left_out
              from jsonb_array_elements(p_file -> 'rows') with ordinality u (cells, n)
             where u.n between p_header_row + 1 and p_last_row and u.cells <> '[]'
            offset 0) r;
    notes := p_notes;
    if v_left_out <> '' then
        notes := notes || jsonb_build_array(jsonb_build_object(
            'code', 'rows_skipped',
            'message', 'Rows without a site, such as totals, headings or names of columns, were left out: '
                       || case when length(v_left_out) > 100 then regexp_replace(left(v_left_out, 100), ',[^,]*$', '') || ' and others' else v_left_out end));
    end if;
end;
$$;

-- The layout of a file: the numbers of the header row and of the last row that may be an item, the names in the header, and the columns as
-- [{number, header, field, how, samples}]. If header_row is given, that is the header, and all rows below it may be items.
create or replace function app.file_layout(
    p_file jsonb, p_lenient boolean, p_remembered jsonb,
    out header_row integer, out last_row integer, out names text[], out columns jsonb, out notes jsonb
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_rows     jsonb := p_file -> 'rows';
    v_defaults jsonb := coalesce(p_file -> 'defaults', '{}');
    v_first    jsonb;
    v_guess    jsonb;
    v_spare    jsonb;
    v_empty    jsonb;
    v_other    jsonb;
begin
    header_row := coalesce((p_file -> 'header_row')::integer, app.find_header(v_rows, p_file -> 'columns'), 1);
    last_row := case when p_file ? 'header_row' then jsonb_array_length(v_rows) else app.last_row(v_rows, header_row) end;
    names := case when header_row > 0 then array(select jsonb_array_elements_text(v_rows -> (header_row - 1)))
                  else array(select 'Column ' || n from generate_series(1, (select max(jsonb_array_length(r.cells)) from jsonb_array_elements(v_rows) r (cells))) n) end;
    if cardinality(names) > 500 then
        perform app.refuse(400, 'too_many_columns', format('The header has %s columns; a file may have 500', cardinality(names)));
    end if;
    perform app.check_column_names(names);
    v_first := jsonb_path_query_array(
        v_rows, '$[$from to $to]', jsonb_build_object('from', header_row, 'to', least(header_row + 5, last_row) - 1));
    v_guess := app.guessed_columns(names, p_file -> 'columns', v_defaults, p_remembered);
    v_spare := app.redundant_columns(v_guess, v_rows, header_row, last_row);
    if v_spare <> '{}' then
        v_guess := app.guessed_columns(names, p_file -> 'columns', v_defaults, v_spare || p_remembered);
    end if;
    v_empty := app.empty_unit_column(v_guess, v_rows, header_row, last_row);
    if v_empty <> '{}' then
        v_other := app.guessed_columns(names, p_file -> 'columns', v_defaults, v_spare || v_empty || p_remembered);
        if jsonb_path_exists(v_other, '$[*] ? (@.field == "street_2")') then
            v_guess := v_other;
            v_spare := v_spare || v_empty;
        end if;
    end if;
    if not p_lenient then
        -- A field that the cells of another column contain is not missing.
        select v_defaults || coalesce(jsonb_object_agg(f.field, null), '{}')
          into v_defaults
          from unnest(app.fields_in_shared_cells(v_guess, v_rows)) f (field);
        perform app.file_columns(names, coalesce(p_file -> 'columns', '{}'), v_defaults, v_spare || p_remembered, false, coalesce(p_file -> 'notes', '[]'));
    end if;
    columns := (
        select jsonb_agg(c || jsonb_build_object(
                   'how', case when c ->> 'field' is not null or not v_spare - array(select jsonb_object_keys(p_remembered)) ? app.plain_name(c ->> 'header') then c -> 'how' end,
                   'samples', app.column_samples(v_first, (c ->> 'number')::integer)) order by n)
          from jsonb_array_elements(v_guess) with ordinality u (c, n));
    columns := app.without_row_numbers(columns);
    notes := coalesce(p_file -> 'notes', '[]');
    if header_row = 0 then
        notes := notes || jsonb_build_array(jsonb_build_object('code', 'no_header', 'message', 'No row has the names of the columns: the first row is a site, and the columns are numbered'));
    end if;
    if exists (select from generate_series(last_row, jsonb_array_length(v_rows) - 1) r (n) where v_rows -> r.n <> '[]') then
        notes := notes || jsonb_build_array(jsonb_build_object('code', 'footer_skipped', 'message', 'The last rows look like a footer, and were left out'));
    end if;
end;
$$;

-- The items of a request. For a file also the line of each item, what reading found out about each, the recognized columns, notes about the
-- whole file, its header, if the source of each item is to be returned with the results, and the place (from 0) and header of each field.
create or replace function app.read_file(
    p_request jsonb, p_file jsonb,
    out items jsonb[], out lines integer[], out item_notes app.cell_notes[], out columns jsonb, out notes jsonb, out header text[], out sources jsonb[],
    out places jsonb
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_rows     jsonb     := p_file -> 'rows';
    v_defaults jsonb     := coalesce(p_file -> 'defaults', '{}');
    v_layout   record;
    v_cells    jsonb[];
begin
    perform app.check_file(p_file);
    columns := '[]';
    notes := coalesce(p_file -> 'notes', '[]');
    if v_rows is null then
        items := app.batch_request_items(p_request);
        lines := nullif(app.integers(p_file -> 'lines'), '{}');
        if exists (select from unnest(items) i where i -> 'metadata' is not null) then
            sources := array(select i -> 'metadata' from unnest(items) i);
        end if;
        return;
    end if;
    if jsonb_array_length(v_rows) = 0 then
        v_rows := '[[]]';
        p_file := p_file || jsonb_build_object('rows', v_rows);
    end if;
    v_layout := app.file_layout(p_file, false, '{}');
    columns := coalesce(v_layout.columns, '[]');
    places := app.column_places(columns, v_defaults);
    select r.cells, r.lines, r.notes into v_cells, lines, notes
      from app.rows_of_items(p_file, v_layout.header_row, v_layout.last_row, columns, v_layout.notes) r;
    perform app.check_item_count(coalesce(cardinality(v_cells), 0));
    select array_agg(i.item), array_agg(i.notes)
      into items, item_notes
      from app.file_items(v_cells, lines, cardinality(v_layout.names), places, v_defaults, coalesce(p_file -> 'value_maps', '{}')) i;  -- in the order of the rows
    header := array(select n from unnest(v_layout.names) with ordinality u (n, number) where n <> '' order by number);
    if app.has_own_columns(columns) then
        header := v_layout.names;
        sources := v_cells;
    end if;
end;
$$;
