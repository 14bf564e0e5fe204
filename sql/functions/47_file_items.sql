-- Chapter 47, items of a file: each row becomes an item, corrected if it is clear what was meant.

-- The cleaned cell, else the default. `p_is_name`: a word such as None may be a name.
create or replace function app.cell(p_cell text, p_is_clean boolean, p_is_name boolean, p_default text) returns text
language sql immutable
return coalesce(nullif(case
    when p_is_clean then btrim(p_cell)
    when app.is_placeholder(app.clean_cell(p_cell)) or not p_is_name and app.may_be_placeholder(app.clean_cell(p_cell)) then ''
    else app.clean_cell(p_cell) end, ''), p_default);

create or replace function app.number_of_cell(p_text text) returns jsonb
language sql immutable
return case when p_text ~ '^[0-9]{1,15}(\.[0-9]{1,6})?$' then to_jsonb(trim_scale(p_text::numeric)) else to_jsonb(nullif(p_text, '')) end;

-- What cells tell of a household: $60,000 is 60000, an owner a homeowner. What is not understood stays as it is, to be refused.
create or replace function app.household_of_cells(p_income text, p_size text, p_owner_status text, p_tax_filing text) returns jsonb
language sql immutable
return jsonb_strip_nulls(jsonb_build_object(
    'income', app.number_of_cell(translate(app.clean_cell(p_income), '$ ,', '')),
    'size', app.number_of_cell(app.clean_cell(p_size)),
    'owner_status', case app.plain_name(p_owner_status) when 'owner' then 'homeowner' when 'homeowner' then 'homeowner' when 'tenant' then 'renter'
                                                        when 'renter' then 'renter' else nullif(app.clean_cell(p_owner_status), '') end,
    'tax_filing', case app.plain_name(p_tax_filing)
                      when 'single' then 'single'
                      when 'joint' then 'joint' when 'marriedfilingjointly' then 'joint'
                      when 'separate' then 'separate' when 'marriedfilingseparately' then 'separate'
                      when 'headofhousehold' then 'head_of_household'
                      when 'survivingspouse' then 'surviving_spouse' when 'qualifyingsurvivingspouse' then 'surviving_spouse'
                      else nullif(app.clean_cell(p_tax_filing), '') end));

-- An item for each non-empty row: its position, the line on which it begins, the item as JSON, the corrections, and errors that
-- app.parse_batch_items cannot see. Most files need no cleaning, which one check of the whole file tells.
create or replace function app.file_items(
    p_rows jsonb, p_lines integer[], p_header integer, p_last integer, p_columns jsonb, p_defaults jsonb, p_value_maps jsonb
) returns table ("position" integer, line integer, item text, warnings jsonb, problems jsonb)
language plpgsql stable
set search_path = pg_catalog, pg_temp set jit = off
as $$
declare
    v_first     constant integer := p_header + 1;
    v_is_clean  constant boolean := not app.may_need_cleaning(p_rows::text);
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
    v_income             integer := p_columns #>> '{household_income,place}';
    v_size               integer := p_columns #>> '{household_size,place}';
    v_owner_status       integer := p_columns #>> '{owner_status,place}';
    v_tax_filing         integer := p_columns #>> '{tax_filing,place}';
    v_has_household constant boolean := coalesce(v_income, v_size, v_owner_status, v_tax_filing) is not null;
    v_width     constant integer := jsonb_array_length(p_rows -> (p_header - 1));
    v_countries jsonb;
    v_regions   jsonb;
    v_buildings jsonb;
    v_devices   jsonb;
begin
    with used as materialized (
        select distinct btrim(r.cells ->> v_country) as country, btrim(r.cells ->> v_region) as region,
               btrim(r.cells ->> v_building_type) as building_type, btrim(r.cells ->> v_device_ids) as devices
          from jsonb_array_elements(p_rows) with ordinality r (cells, n)
         where r.n between v_first and p_last
         union all
        select p_defaults ->> 'country_code', p_defaults ->> 'state_or_province_code', p_defaults ->> 'building_type', p_defaults ->> 'device_ids')
    select (select coalesce(jsonb_object_agg(t.text, jsonb_build_object('country', c.country_code, 'region', c.region_code)), '{}')
              from (select distinct country from used) t (text)
              join app.country_names c on c.name = app.plain_name(coalesce(p_value_maps -> 'country_code' ->> t.text, app.clean_cell(t.text)))),
           (select coalesce(jsonb_object_agg(r.country_code || t.text, r.code), '{}')
              from (select distinct region from used) t (text)
              join app.region_names r on r.name = app.plain_name(coalesce(p_value_maps -> 'state_or_province_code' ->> t.text, app.clean_cell(t.text)))),
           (select coalesce(jsonb_object_agg(t.text, b.building_type), '{}')
              from (select distinct building_type from used) t (text)
              join app.building_type_names b
                on b.name = app.plain_name(coalesce(p_value_maps -> 'building_type' ->> t.text, app.clean_cell(t.text)))),
           (select coalesce(jsonb_object_agg(t.text, app.read_device_ids(coalesce(p_value_maps -> 'device_ids' ->> t.text, app.clean_cell(t.text)))), '{}')
              from (select distinct devices from used) t (text)
             where t.text <> '')
      into v_countries, v_regions, v_buildings, v_devices;

    return query
    select (row_number() over (order by m.n) - 1)::integer, p_lines[m.n],
           -- Built as text, because json_build_object would take as long as everything else.
           '{' || concat_ws(',',
               '"reference_id":' || to_json(m.reference_id)::text,
               '"address":{' || concat_ws(',',
                   '"street_1":' || to_json(m.street_1)::text,
                   '"street_2":' || to_json(m.street_2)::text,
                   '"city":' || to_json(m.city)::text,
                   '"state_or_province_code":' || to_json(m.region_code)::text,
                   '"postal_code":' || to_json(m.postal_code)::text,
                   '"country_code":' || to_json(m.country_code)::text) || '}',
               '"building_type":' || to_json(m.type_code)::text,
               '"device_ids":' || m.devices::text,
               '"create_application":' || m.application::text,
               '"webhook_custom_fields":' || nullif(m.raw -> v_custom_fields, '""')::text,
               case when v_has_household then '"household":' || app.household_of_cells(
                   m.raw ->> v_income, m.raw ->> v_size, m.raw ->> v_owner_status, m.raw ->> v_tax_filing)::text end) || '}',
           case when m.is_as_it_was then '[]' else to_jsonb(array_remove(array[
               case when nullif(btrim(m.raw ->> v_reference_id), '') <> coalesce(m.reference_id, '')
                    then app.mended('reference_id', p_columns #>> '{reference_id,header}', 'cleaned', m.raw ->> v_reference_id, m.reference_id) end,
               case when nullif(btrim(m.raw ->> v_street_1), '') <> coalesce(m.street_1, '') or not m.is_clean and app.may_be_placeholder(m.street_1)
                    then app.mended('address.street_1', p_columns #>> '{street_1,header}', 'cleaned', m.raw ->> v_street_1, m.street_1) end,
               case when nullif(btrim(m.raw ->> v_street_2), '') <> coalesce(m.street_2, '')
                    then app.mended('address.street_2', p_columns #>> '{street_2,header}', 'cleaned', m.raw ->> v_street_2, m.street_2) end,
               case when nullif(btrim(m.raw ->> v_city), '') <> coalesce(m.city, '') or not m.is_clean and app.may_be_placeholder(m.city)
                    then app.mended('address.city', p_columns #>> '{city,header}', 'cleaned', m.raw ->> v_city, m.city) end,
               case when upper(coalesce(m.region, m.country)) <> upper(m.region_code)
                    then app.mended('address.state_or_province_code',
                                    case when m.region is null then p_columns #>> '{country_code,header}' else p_columns #>> '{state_or_province_code,header}' end,
                                    'value_recognized', coalesce(m.region, m.country), m.region_code) end,
               case when m.spoilt_postal_code <> m.postal_code and upper(m.spoilt_postal_code) <> m.postal_code
                    then app.mended('address.postal_code', p_columns #>> '{postal_code,header}', 'postal_code_mended', m.spoilt_postal_code, m.postal_code) end,
               case when app.plain_name(m.building_type) <> app.plain_name(m.type_code)
                    then app.mended('building_type', p_columns #>> '{building_type,header}', 'value_recognized', m.building_type, m.type_code) end,
               case when jsonb_typeof(m.devices) = 'array' and m.device_ids ~ '[A-Za-z]'
                    then app.mended('device_ids', p_columns #>> '{device_ids,header}', 'value_recognized', m.device_ids, m.devices::text) end], null)) end,
           case when m.reference_id !~* '^[0-9]([.,][0-9]+)?E\+[0-9]+$' and jsonb_array_length(m.raw) <= v_width and pg_column_size(m.raw) <= 32768 then '[]' else to_jsonb(array_remove(array[
               case when m.reference_id ~* '^[0-9]([.,][0-9]+)?E\+[0-9]+$'
                    then app.problem('reference_id', 'rounded_by_spreadsheet', to_jsonb(m.reference_id), p_columns #>> '{reference_id,header}') end,
               case when jsonb_array_length(m.raw) > v_width
                    then app.problem(null, 'too_many_cells', to_jsonb(jsonb_array_length(m.raw)), v_width::text) end,
               case when pg_column_size(m.raw) > 32768
                    then app.problem(null, 'row_too_large') end], null)) end
      from (select c.*,
                   c.spoilt_postal_code is not distinct from c.postal_code and c.is_clean and upper(c.region) = c.region_code
                       and upper(c.building_type) = c.type_code and c.device_ids !~ '[A-Za-z]' and c.reference_id !~ '\.0+$' as is_as_it_was
              from (select b.n, b.is_clean, b.raw, b.street_1, b.street_2, b.city, b.region, b.country, b.spoilt_postal_code, b.building_type, b.device_ids,
                           case when b.reference_id ~ '^[0-9]+\.0+$' then split_part(b.reference_id, '.', 1) else b.reference_id end as reference_id,
                           b.country_code,
                           coalesce(v_regions ->> (b.country_code || b.region), b.region, v_countries -> b.country ->> 'region') as region_code,
                           case when b.spoilt_postal_code ~ '^[0-9]{5}(-[0-9]{4})?$' then b.spoilt_postal_code
                                else app.mended_postal_code(b.country_code, b.spoilt_postal_code) end as postal_code,
                           coalesce(v_buildings ->> b.building_type, b.building_type) as type_code,
                           v_devices -> b.device_ids as devices,
                           case when b.application ~* '^(true|yes|y|1|oui|ja|x)$' then 'true'::jsonb
                                when b.application ~* '^(false|no|n|0|non|nein)$' then 'false' else to_jsonb(b.application) end as application
                      from (select a.*,
                                   coalesce(v_countries -> a.country ->> 'country', a.country,
                                            case when a.spoilt_postal_code ~* '^[A-Z][0-9O][A-Z]'
                                                      or not v_regions ? ('US' || a.region) and v_regions ? ('CA' || a.region) then 'CA' else 'US' end) as country_code
                              from (select r.n, r.is_clean, r.cells as raw,
                                           app.cell(r.cells ->> v_reference_id, r.is_clean, false, null)                                 as reference_id,
                                           app.cell(r.cells ->> v_street_1, r.is_clean, true, p_defaults ->> 'street_1')                 as street_1,
                                           app.cell(r.cells ->> v_street_2, r.is_clean, false, p_defaults ->> 'street_2')                as street_2,
                                           app.cell(r.cells ->> v_city, r.is_clean, true, p_defaults ->> 'city')                         as city,
                                           app.cell(r.cells ->> v_region, true, false, p_defaults ->> 'state_or_province_code')          as region,
                                           app.cell(r.cells ->> v_postal_code, r.is_clean, false, p_defaults ->> 'postal_code')          as spoilt_postal_code,
                                           app.cell(r.cells ->> v_country, true, false, p_defaults ->> 'country_code')                   as country,
                                           app.cell(r.cells ->> v_building_type, true, false, p_defaults ->> 'building_type')            as building_type,
                                           app.cell(r.cells ->> v_device_ids, true, false, p_defaults ->> 'device_ids')                  as device_ids,
                                           app.cell(r.cells ->> v_create_application, r.is_clean, false, p_defaults ->> 'create_application') as application
                                      from (select e.n, e.cells, v_is_clean or not app.may_need_cleaning(e.cells::text) as is_clean
                                              from jsonb_array_elements(p_rows) with ordinality e (cells, n)
                                             where e.n between v_first and p_last and e.cells <> '[]'
                                            offset 0) r
                                    offset 0) a
                            offset 0) b
                    offset 0) c
            offset 0) m;
end;
$$;

create or replace function app.check_file(p_file jsonb) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if jsonb_typeof(p_file -> 'rows') <> 'array' or jsonb_path_exists(p_file -> 'rows', 'strict $[*] ? (@.type() != "array")')
       or jsonb_path_exists(coalesce(p_file -> 'lines', '[]'), '$[*] ? (@.type() != "number" || @ % 1 != 0 || @ > 1000000000)')
       or coalesce((p_file -> 'header_row') @? '$ ? (@.type() != "number" || @ % 1 != 0 || @ < 1 || @ > 1000000000)', false)
       or exists (select from unnest(array['columns', 'defaults', 'value_maps']) m where jsonb_typeof(p_file -> m) <> 'object') then
        perform app.refuse_option('p_file', '{rows: [[cell, ...], ...], lines?: [number, ...], columns?, defaults?, value_maps?: {...}}');
    end if;
end;
$$;

-- Where the fields are: {field: {place, header}}, with the place from 0; a default has no place.
create or replace function app.column_places(p_columns jsonb, p_defaults jsonb) returns jsonb
language sql immutable
return coalesce((select jsonb_object_agg(d, jsonb_build_object('header', 'default_' || d)) from jsonb_object_keys(p_defaults) d), '{}')
    || coalesce((select jsonb_object_agg(c ->> 'field', jsonb_build_object('place', (c ->> 'number')::integer - 1, 'header', c -> 'header'))
                   from jsonb_array_elements(p_columns) c
                  where c ->> 'field' is not null), '{}');

-- The first values of a column, each once, from the five rows from p_first on; null: they are empty.
create or replace function app.column_samples(p_rows jsonb, p_first integer, p_number integer) returns jsonb
language sql immutable
return (select jsonb_agg(distinct left(r.cells ->> (p_number - 1), 200))
          from jsonb_array_elements(jsonb_path_query_array(p_rows, '$[$from to $to]', jsonb_build_object('from', p_first - 1, 'to', p_first + 3))) r (cells)
         where r.cells ->> (p_number - 1) <> '');

-- How the rows of a file are laid out: the numbers of the header row and of the last row that may be an item, the names in the header, and
-- the columns as [{number, header, field, how, samples}]. A given header_row is the header, and all rows below it may be items.
create or replace function app.file_layout(
    p_file jsonb, p_lenient boolean, p_remembered jsonb,
    out header_row integer, out last_row integer, out names text[], out columns jsonb, out notes jsonb
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_rows jsonb := p_file -> 'rows';
begin
    header_row := coalesce((p_file ->> 'header_row')::integer, app.find_header(v_rows, p_file -> 'columns'), 1);
    last_row := case when p_file ? 'header_row' then jsonb_array_length(v_rows) else app.last_row(v_rows, header_row) end;
    names := array(select jsonb_array_elements_text(v_rows -> (header_row - 1)));
    columns := (
        select jsonb_agg(jsonb_build_object(
                   'number', c.n, 'header', c.header, 'field', c.field, 'how', c.how,
                   'samples', app.column_samples(v_rows, header_row + 1, c.n::integer)) order by c.n)
          from app.file_columns(names, coalesce(p_file -> 'columns', '{}'), coalesce(p_file -> 'defaults', '{}'), p_remembered, p_lenient)
               with ordinality c (header, field, how, n));
    notes := coalesce(p_file -> 'notes', '[]');
    if exists (select from generate_series(last_row, jsonb_array_length(v_rows) - 1) r (n) where v_rows -> r.n <> '[]') then
        notes := notes || jsonb_build_array(jsonb_build_object('code', 'footer_skipped', 'message', 'The last rows look like a footer, and were left out'));
    end if;
end;
$$;

-- The items of a request. If they come from a file: also the line of each, warnings and problems by position, the recognized columns,
-- notes about the whole file, its header, where there is something to give back what each item came from, and the place (from 0) and header
-- of each field. p_lenient, for drafts: a field without a column is a problem of every row, and what the rows were is known already.
create or replace function app.read_file(
    p_request jsonb, p_file jsonb, p_lenient boolean default false,
    out items jsonb, out lines integer[], out warnings jsonb, out problems jsonb, out columns jsonb, out notes jsonb, out header text[], out sources jsonb[],
    out places jsonb
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_rows     jsonb     := p_file -> 'rows';
    v_defaults jsonb     := coalesce(p_file -> 'defaults', '{}');
    v_layout   record;
    v_lines    integer[];
begin
    perform app.check_file(p_file);
    warnings := '{}';
    problems := '{}';
    columns := '[]';
    notes := coalesce(p_file -> 'notes', '[]');
    v_lines := translate(p_file ->> 'lines', '[]', '{}')::integer[];
    if v_rows is null then
        items := app.batch_request_items(p_request);
        lines := nullif(v_lines, '{}');
        if jsonb_path_exists(items, '$[*].metadata') then
            sources := array(select i -> 'metadata' from jsonb_array_elements(items) i);
        end if;
        return;
    end if;
    if jsonb_array_length(v_rows) = 0 then
        v_rows := '[[]]';
    end if;
    v_layout := app.file_layout(p_file || jsonb_build_object('rows', v_rows), p_lenient, '{}');
    columns := coalesce(v_layout.columns, '[]');
    notes := v_layout.notes;
    places := app.column_places(columns, v_defaults);
    select ('[' || string_agg(i.item, ',') || ']')::jsonb, array_agg(i.line),
           coalesce(jsonb_object_agg(i.position, i.warnings) filter (where i.warnings <> '[]'), '{}'),
           coalesce(jsonb_object_agg(i.position, i.problems) filter (where i.problems <> '[]'), '{}')
      into items, lines, warnings, problems
      from app.file_items(v_rows, v_lines, v_layout.header_row, v_layout.last_row, places, v_defaults,
                          coalesce(p_file -> 'value_maps', '{}')) i;  -- in the order of the rows
    items := app.batch_request_items(coalesce(items, '[]'));
    header := array(select n from unnest(v_layout.names) with ordinality u (n, number) where n <> '' order by number);
    if not p_lenient and app.has_own_columns(columns) then
        header := v_layout.names;
        sources := array(select r.cells
                           from jsonb_array_elements(v_rows) with ordinality r (cells, n)
                          where r.n between v_layout.header_row + 1 and v_layout.last_row and r.cells <> '[]'
                          order by r.n);
    end if;
end;
$$;
