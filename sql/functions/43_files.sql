-- Chapter 43, files: recognizes the columns and cleans the cells of a spreadsheet. Files, drafts and SQL tables follow the same rules.

-- Columns that have parts of street_1, in the order in which they stand around it.
create or replace function app.street_part_fields() returns text[]
language sql immutable
return array['street_number', 'street_number_suffix', 'street_predirectional', 'street_pretype', 'street_suffix', 'street_postdirectional'];

create or replace function app.file_fields() returns text[]
language sql immutable
return array['reference_id', 'street_1', 'street_2', 'city', 'state_or_province_code', 'postal_code', 'country_code', 'building_type', 'device_ids',
             'create_application', 'webhook_custom_fields', 'household_income', 'household_size', 'owner_status', 'tax_filing'] || app.street_part_fields();

-- Whether a row is a site, and not a header: it has a street with a number, and a cell ends in a ZIP or postal code or, if no more than
-- one cell could name a column, a city and the code of a state follow.
create or replace function app.looks_like_site(p_cells jsonb, p_names bigint) returns boolean
language sql immutable
return (select bool_or(c.is_street)
               and (bool_or(c.cell ~ '(^|[ ,])([0-9]{5}(-[0-9]{4})?|[A-Z][0-9][A-Z] ?[0-9][A-Z][0-9])$')
                    or p_names <= 1 and bool_or(c.is_street and c.next ~ '^[A-Za-z][A-Za-z .''-]+$' and c.after_next ~ '^[A-Z]{2}$'))
          from (select r.cell, r.cell ~ '^[0-9]+[A-Za-z]? +.*[A-Za-z]{2}' as is_street, p_cells ->> r.n::integer as next, p_cells ->> r.n::integer + 1 as after_next
                  from jsonb_array_elements_text(p_cells) with ordinality r (cell, n)) c);

-- The header is, of the first 25 rows, the one with the most columns that we recognize or that the request names.
create or replace function app.find_header(p_rows jsonb, p_columns jsonb) returns integer
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_header integer;
    v_names  bigint;
begin
    with cells as materialized (
        select r.n, app.column_name(c.cell) as name, app.plain_name(c.cell) as plain
          from (select * from jsonb_array_elements(p_rows) with ordinality r (cells, n) limit 25) r
         cross join jsonb_array_elements_text(r.cells) c (cell))
    select c.n, count(distinct coalesce(g.field, k.field))
      into v_header, v_names
      from cells c
      left join app.known_columns(array(select o.name from cells o)) k on k.name = c.name
      left join (select app.plain_name(value) as name, key as field from jsonb_each_text(coalesce(p_columns, '{}'))) g on g.name = c.plain
     where k.name is not null or g.name is not null
     group by c.n
     order by count(distinct coalesce(g.field, k.field)) desc, c.n
     limit 1;
    if not found then
        -- A title stands in a row of its own.
        v_header := coalesce(
            (select min(r.n) from (select * from jsonb_array_elements(p_rows) with ordinality r (cells, n) limit 25) r
              where jsonb_array_length(jsonb_path_query_array(r.cells, '$[*] ? (@ != "")')) > 1),
            (select min(r.n) from jsonb_array_elements(p_rows) with ordinality r (cells, n) where r.cells <> '[]'));
    end if;
    -- ID is a name, and also Idaho.
    return case when app.looks_like_site(p_rows -> (v_header - 1), coalesce(v_names, 0)) then 0 else v_header end;
end;
$$;

comment on function app.find_header(jsonb, jsonb) is 'Number of the header row, from 1; if no row looks like a header, the first with more than one cell, else the first non-empty one. 0: that is a site, so there is none. null: all rows are empty.';

-- The fields without which there is no item; the country follows from the rest of the address.
create or replace function app.required_fields() returns text[]
language sql immutable
return array['reference_id', 'street_1', 'city', 'state_or_province_code', 'postal_code', 'building_type', 'device_ids'];

create or replace function app.check_field(p_field text) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_field <> all (app.file_fields()) then
        perform app.refuse(
            400, 'invalid_columns', format('There is no field %s', left(p_field, 100)),
            format('The fields are %s.', array_to_string(app.file_fields(), ', ')));
    end if;
end;
$$;

create or replace function app.headers_hint(p_headers text[]) returns text
language sql immutable
return format('The header has %s.', array_to_string(array(select left(h, 50) from unnest(p_headers[1:50]) h where h <> ''), ', '));

-- The number of the column given by its name or number.
create or replace function app.column_number(p_headers text[], p_wanted jsonb) returns integer
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_places constant integer[] := array(
        select n from unnest(p_headers) with ordinality h (name, n)
         where case jsonb_typeof(p_wanted) when 'number' then n = (p_wanted #>> '{}')::numeric
                    else app.plain_name(name) = app.plain_name(p_wanted #>> '{}') end);
begin
    if cardinality(v_places) <> 1 then
        perform app.refuse(
            400, 'invalid_columns', format('%s column is called %s', case when v_places = '{}' then 'No' else 'More than one' end, left(p_wanted #>> '{}', 100)),
            app.headers_hint(p_headers));
    end if;
    return v_places[1];
end;
$$;

-- The fields that each column may have by its name. Besides the known prefixes, as in Billing Street, any other counts if a street and more
-- of its address have it, as in Plant Address and Plant ZIP, but not in Email Address. Of columns with the same prefix, the whole address
-- comes before its parts. A name such as Number or Type is that of a part of the street only if nothing but such columns stands between
-- the two. Of alternatives such as City/Town, the first one that is known counts, if it is a part of an address.
create or replace function app.column_candidates(p_headers text[]) returns table (n integer, name text, field text, rank integer, prefix text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    with headers as materialized (
        select h.n::integer as n, h.name, app.column_name(h.name) as plain from unnest(p_headers) with ordinality h (name, n)),
    words as materialized (
        select h.n, h.name, w.place, app.plain_name(w.word) as plain
          from headers h
         cross join regexp_split_to_table(h.name, '\s*(/|\||\mor\M)\s*') with ordinality w (word, place)
         where length(h.name) <= 100 and h.name ~ '/|\||\mor\M'),
    known as materialized (select * from app.known_columns(array(select h.plain from headers h union all select w.plain from words w))),
    parts as materialized (select a.name, a.field, length(a.name) as length from app.address_column_names a),
    street_parts as materialized (select p.name, p.field, p.field_after, p.is_bare from app.street_part_names p),
    direct as materialized (
        select h.n, h.name, k.field, k.rank, k.prefix, k.part from headers h join known k on k.name = h.plain),
    others as materialized (
        select h.n, h.name, a.field, regexp_replace(left(h.plain, -length(a.name)), 'address$', '') as prefix, a.name as part
          from headers h
         cross join lateral (select p.name, p.field from parts p where right(h.plain, p.length) = p.name and length(h.plain) > p.length order by p.length desc limit 1) a
         where h.n not in (select d.n from direct d)),
    alternatives as (
        select distinct on (w.n) w.n, w.name, k.field, case k.prefix when '' then 102 else 100 end as rank, k.prefix, k.part
          from words w
          join known k on k.name = w.plain
         where w.n not in (select d.n from direct d)
           and k.field in ('street_1', 'street_2', 'city', 'state_or_province_code', 'postal_code') and length(k.name) > 2
         order by w.n, w.place),
    named as materialized (
        select * from direct
         union all
        select o.n, o.name, o.field, 100, o.prefix, o.part
          from others o
         where o.prefix <> ''
           and (o.prefix = any (app.address_prefixes())
                or (select bool_or(s.field = 'street_1') and bool_or(s.field = any (array['city', 'state_or_province_code', 'postal_code']))
                      from others s
                     where s.prefix = o.prefix))
         union all
        -- In English, it is a program.
        select h.n, h.name, 'street_2', 103, '', h.plain from headers h
         where h.plain = 'app' and exists (select from headers o where o.plain = any ('{ville,municipalite,codepostal}'))
         union all
        select * from alternatives a where a.n not in (select o.n from others o where o.prefix = any (app.address_prefixes()))),
    streets as materialized (
        select c.prefix, coalesce(max(c.n) filter (where c.part like '%name'), min(c.n)) as n from named c where c.field = 'street_1' group by c.prefix),
    bare as materialized (
        select h.n, h.name, p.name as part, s.n as street
          from headers h
          join street_parts p on p.is_bare and p.name = h.plain
          join named s on s.field = 'street_1' and s.part = any ('{street,rue,strasse,calle}' || app.street_name_names())
         where h.n not in (select c.n from named c)),
    beside as (
        select b.n, b.name, b.part
          from bare b
         where not exists (select from generate_series(least(b.n, b.street) + 1, greatest(b.n, b.street) - 1) g (n)
                            where g.n not in (select o.n from bare o)
                              and g.n not in (select c.n from named c where c.field = any (app.street_part_fields())))),
    found as materialized (
        select * from named
         union all
        select b.n, b.name, p.field, 60, '', b.part
          from beside b
          join street_parts p on p.is_bare and p.name = b.part
         -- In postal order, as the name of a person may have a suffix, too.
         where p.field = 'street_number'
            or exists (select from beside o join street_parts q on q.is_bare and q.name = o.part and q.field = 'street_number' where o.n < b.n)
            or exists (select from named c where c.field = 'street_number' and c.n < b.n)),
    placed as (
        select f.n, f.name, f.prefix, f.part,
               case when p.field_after is not null and f.n > s.n then p.field_after
                    -- Beside the type of the street, its suffix is a direction.
                    when f.field = 'street_suffix' and f.part ~ '(suff?(ix)?|sfx)$'
                         and exists (select from found o where o.field = f.field and o.prefix = f.prefix and o.part ~ 'type?$') then 'street_postdirectional'
                    else f.field end as field,
               -- The name of a street is all of it if its number has a column.
               case when f.rank = 99 and exists (select from found o where o.field = 'street_number' and o.prefix = f.prefix) then 17 else f.rank end as rank
          from found f
          left join street_parts p on p.name = f.part and f.field = any (app.street_part_fields())
          left join streets s on s.prefix = f.prefix)
    select c.n, c.name, c.field, c.rank, c.prefix
      from (select p.*, rank() over (partition by p.prefix, p.field
                                     order by p.part like '%name', array_position(array['street', 'street1', 'streetaddress', 'streetaddress1', 'address1', 'addressline1', 'address',
                                                                   'addr', 'addr1'], p.part)) as place
              from placed p) c
     where c.place = 1 or c.prefix = '' or c.field <> 'street_1';
end;
$$;

-- The field of each column: as the request says, else as the organization said before, else by its name. `how` is given, remembered or
-- name; null: the column is not used. p_lenient: columns that fit the same field equally well are only marked as ambiguous, and missing
-- columns are accepted. The parts of an address come from columns with the prefix of its street or, if it has none of its own, without any:
-- neither from those of another address, whose street is not used, nor from the billing address where the street is that of the site.
-- Whether the address is an unprefixed one or that of a site, if there are both, is not clear.
create or replace function app.file_columns(
    p_headers text[], p_columns jsonb, p_defaults jsonb, p_remembered jsonb default '{}', p_lenient boolean default false,
    p_notes jsonb default '[]'
) returns table (header text, field text, how text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_fields text[] := array_fill(null::text, array[cardinality(p_headers)]);
    v_how    text[] := v_fields;
    v_known  text[] := '{}';
    v_field  text;
    v_wanted jsonb;
    v_number integer;
    v_places integer[];
    v_names  text[];
    v_may_be_of_other boolean;
begin
    for v_field, v_wanted in select regexp_replace(key, '^address\.', ''), value from jsonb_each(p_columns) loop
        perform app.check_field(v_field);
        v_known := v_known || v_field;
        continue when v_wanted = 'null';
        v_number := app.column_number(p_headers, v_wanted);
        v_fields[v_number] := v_field;
        v_how[v_number] := 'given';
    end loop;

    for v_number, v_field in
        select h.n, p_remembered ->> app.plain_name(h.name)
          from unnest(p_headers) with ordinality h (name, n)
         where p_remembered ? app.plain_name(h.name)
    loop
        continue when v_how[v_number] is not null or v_field = any (v_known);
        v_known := v_known || v_field;
        v_fields[v_number] := v_field;
        v_how[v_number] := 'remembered';
    end loop;

    for v_field, v_places, v_names, v_may_be_of_other in
        with named as materialized (select * from app.column_candidates(p_headers)),
        free as materialized (
            select c.*, (coalesce(bool_or(c.is_lost) filter (where c.field = 'street_1') over (partition by c.prefix),
                                  bool_or(c.is_lost) filter (where c.field in ('city', 'postal_code')) over (partition by c.prefix)))
                        and not exists (select from named g where v_fields[g.n] = 'street_1' and g.prefix = c.prefix) as is_of_other
              from (select u.*, u.prefix <> '' and (array_position(v_fields, u.field) is not null or u.has_unprefixed and not (u.field = 'street_1' and u.is_tied)) as is_lost
                      from (select k.*, k.prefix = any (app.site_prefixes()) and w.rank is not null as is_tied, least(k.rank, w.rank) as tied_rank,
                                   bool_or(k.prefix = '' and k.rank < 100) over (partition by k.field) as has_unprefixed
                              from named k
                              -- The name of a street is no address that a site could have beside another.
                              left join (select o.field, min(o.rank) as rank from named o where o.prefix = '' and o.rank not in (17, 99) and v_how[o.n] is null group by o.field) w
                                on w.field = k.field
                             where v_how[k.n] is null) u) c),
        street as materialized (
            select array_agg(distinct s.prefix) as prefixes, count(distinct s.prefix) > 1 as is_ambiguous,
                   case when count(distinct s.prefix) = 1 then min(s.prefix) else '' end as prefix
              from (select g.prefix from named g where v_fields[g.n] = 'street_1'
                     union all
                    (select f.prefix
                       from free f
                      where f.field = 'street_1' and f.is_of_other is not true and array_position(v_known, f.field) is null
                      order by rank() over (order by case when f.is_tied then f.tied_rank else f.rank end)
                      fetch first row with ties)) s),
        best as materialized (
            select b.*
              from (select f.*, rank() over (partition by f.field
                                             order by s.prefix <> '' and f.prefix <> s.prefix,
                                                      case when s.is_ambiguous and f.prefix = any (s.prefixes) and '' = any (s.prefixes) then f.tied_rank else f.rank end) as place
                      from free f
                     cross join street s
                     where f.is_of_other is not true and array_position(v_known, f.field) is null) b
             where b.place = 1)
        select b.field, array_agg(b.n order by b.n), array_agg(b.name order by b.n), bool_or(s.is_ambiguous and b.prefix <> '' and b.field <> 'country_code')
          from best b
         cross join street s
         where b.prefix in ('', s.prefix) or s.prefix = '' or b.field = 'street_1'
            or b.field = 'country_code' and not exists (select from best o where o.field = b.field and o.prefix in ('', s.prefix))
         group by b.field
         -- Naming the street is enough.
         order by b.field <> 'street_1', min(b.n)
    loop
        if cardinality(v_places) = 1 and not v_may_be_of_other then
            v_fields[v_places[1]] := v_field;
            v_how[v_places[1]] := 'name';
        elsif p_lenient then
            foreach v_number in array v_places loop
                v_how[v_number] := 'ambiguous';
            end loop;
        elsif cardinality(v_places) > 1 then
            perform app.refuse(
                400, 'ambiguous_columns', format('More than one column may be the %s: %s', v_field, array_to_string(v_names, ', ')),
                app.hint_for_caller(
                    format('Say which one is meant: ?columns={"%s": "%s"}', v_field, v_names[1]),
                    format('Leave out the others in a temporary view of the table; or, with p_file: {"columns": {"%s": "%s"}}', v_field, v_names[1])));
        end if;
    end loop;

    v_names := array(select f from unnest(app.required_fields()) f where array_position(v_fields, f) is null and not p_defaults ? f);
    if v_names <> '{}' and not p_lenient then
        perform app.refuse(
            400, 'missing_columns',
            -- The columns may be on another sheet.
            concat_ws('. ', format('Columns are missing: %s', array_to_string(v_names, ', ')),
                      (select n ->> 'message' from jsonb_array_elements(p_notes) n where n ->> 'code' = 'sheet_chosen')),
            case when array_position(v_how, 'name') is null and p_columns = '{}' then 'No name of a column is known: is there a row with the names above the sites? ' else '' end
            || app.headers_hint(p_headers) || app.hint_for_caller(
                case when v_names && array['building_type', 'device_ids'] then ' For all rows: ?default_building_type=RESIDENTIAL&default_device_ids=1' else '' end
                || case when 'reference_id' = any (v_names) then ' For rows without an id: ?default_reference_id=row-{line}' else '' end || ' Name a column with ?columns={"field": "Column"}.',
                ' Use a temporary view of the table to rename a column, or to give all rows a value: create temp view v as select *, ''RESIDENTIAL'' as building_type from ...;'
                ' In p_file, and in api.update_upload for a draft, columns and defaults do the same.'));
    end if;
    return query select * from unnest(p_headers, v_fields, v_how);
end;
$$;

comment on function app.file_columns(text[], jsonb, jsonb, jsonb, boolean, jsonb) is 'One row a column of a file. p_columns: {field: name or number of its column, from 1, or null: no column has it}; p_defaults: {field: value}; p_remembered: {plain name: field or null}; p_notes: what is noted of the file, [{code, message}]. 400: invalid_columns, ambiguous_columns, missing_columns.';

-- The last row that may be an item. Rows at the end with only a first cell are a footer, from the first one that is empty or reads like a
-- footer, and so are rows of totals, of which most cells are empty.
create or replace function app.last_row(p_rows jsonb, p_header integer) returns integer
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_last integer := jsonb_array_length(p_rows);
    v_width constant integer := jsonb_array_length(p_rows -> (greatest(p_header, 1) - 1));
    v_cells jsonb;
begin
    if v_width < 3 then
        return v_last;
    end if;
    for v_row in reverse v_last .. p_header + 1 loop
        v_cells := p_rows -> (v_row - 1);
        if v_cells ->> 0 ~* '^(grand |sub)?totals?:?$'
           and 2 * (select count(*) from jsonb_array_elements_text(v_cells) c where c <> '') <= v_width then
            v_last := v_row - 1;
            continue;
        end if;
        exit when v_cells <> '[]' and exists (select from jsonb_array_elements_text(v_cells - 0) c where c <> '');
        if v_cells = '[]'
           or v_cells ->> 0 ~* '^((grand |sub)?totals?\M|copyright|\(c\)|©|generated by|confidential|source:|page [0-9]|printed|exported)' then
            v_last := v_row - 1;
        end if;
    end loop;
    return v_last;
end;
$$;

-- Letters, digits and signs as wide as those of Chinese and Japanese become the usual ones: １２３ is 123.
create or replace function app.usual_width(p_text text) returns text
language sql immutable
return case when p_text ~ '[\uFF01-\uFF5E]' then translate(
    p_text, '！＂＃＄％＆＇（）＊＋，－．／０１２３４５６７８９：；＜＝＞？＠ＡＢＣＤＥＦＧＨＩＪＫＬＭＮＯＰＱＲＳＴＵＶＷＸＹＺ［＼］＾＿｀ａｂｃｄｅｆｇｈｉｊｋｌｍｎｏｐｑｒｓｔｕｖｗｘｙｚ｛｜｝～',
            '!"#$%&''()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefghijklmnopqrstuvwxyz{|}~') else p_text end;

-- Removes what spreadsheets and web pages leave in a cell: ="02134" or '02134, which keep text from becoming a number, the address of
-- =HYPERLINK("https://...", "02134"), and invisible characters.
create or replace function app.clean_cell(p_cell text) returns text
language sql immutable
return btrim(regexp_replace(regexp_replace(regexp_replace(regexp_replace(
    app.usual_width(p_cell), '[\u00AD\u200B-\u200F\u2028-\u202E\u2060-\u2069\uFEFF]', '', 'g'), '[\u00A0\u2000-\u200A\u202F\u205F\u3000]', ' ', 'g'),
    '^\s*=(?:HYPERLINK\("[^"]*"\s*[,;]\s*)?"((?:[^"]|"")*)"\)?\s*$', '\1', 'i'), '^''(?![a-z][ -])', ''));

comment on function app.clean_cell(text) is 'A cell without invisible characters and without the guards of a spreadsheet.';

-- What programs write for a missing value, formulas, what people write for the cell above, and signs alone.
create or replace function app.is_placeholder(p_cell text) returns boolean
language sql immutable
return p_cell ~* '^(#(n/a|getting_data|[a-z0-9/]+[!?])|err:5[0-9]{2}|\\n|[(<]null[)>]|\(blank\)|undefined|=.+|same( above| address| as [a-z ]{1,40})?|ditto)$'
    or p_cell ~ '^[-!"#$%&''()*+,./:;<=>?@\\^_`|~\u2010-\u2027\u2030-\u205E\u2190-\u21FF\u3003 ]+$';

-- In a street or a city, such a word may be a name: it stays, with a warning.

create or replace function app.may_be_placeholder(p_cell text) returns boolean
language sql immutable
return p_cell ~* '^(null|none|nil|n/a|n\.a\.|na|nan|tbd|unknown|not (available|applicable)(: .*)?)$';

-- What spreadsheets make of a house number or a unit such as 1-2: 2026-01-02, 2-Jan, Feb-01, 2. Jan, 1/2/2026.
create or replace function app.may_be_date(p_cell text) returns boolean
language sql immutable
return p_cell ~* '^([0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{1,2}[-. ]{1,2}(janv?|f[eé][bv]r?|m[aä]r[sz]?|mrz|apr|avr|ma[iy]|jui?n|jui?l|a[uo][gû]t?|sept?|o[ck]t|nov|d[eé][cz])[.]?|(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)-[0-9]{2}|[0-9]{1,2}(/[0-9]{1,2}/|[.][0-9]{1,2}[.])[0-9]{2,4})$';

-- The devices of the catalogue by their plain names, {name: id}, without ambiguous names.
create or replace function app.device_names() returns jsonb
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (select coalesce(jsonb_object_agg(d.name, d.id), '{}')
              from (select app.plain_name(name) as name, min(id) as id from app.devices where retired_at is null group by 1 having count(*) = 1) d
             where d.name <> '');
end;
$$;

-- The names in a list that commas separate, as forms write it; names may have commas themselves. null: any is unknown.
create or replace function app.split_device_names(p_text text, p_names jsonb) returns text[]
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_pieces constant text[] := (regexp_split_to_array(p_text, '\s*,\s*'))[:303];
    v_plain  constant text[] := array(select app.plain_name(p.piece) from unnest(v_pieces) with ordinality p (piece, n) order by p.n);
    v_names  text[] := '{}';
    v_from   integer := 1;
    v_to     integer;
begin
    while v_from <= cardinality(v_pieces) loop
        v_to := (select max(n) from generate_series(v_from, least(v_from + 3, cardinality(v_pieces))) n
                  where p_names ? array_to_string(v_plain[v_from:n], ''));
        if v_to is null then
            return null;
        end if;
        v_names := v_names || array_to_string(v_plain[v_from:v_to], '');
        v_from := v_to + 1;
    end loop;
    return v_names;
end;
$$;

-- The device ids in a cell: numbers such as 1;4 or [1, 4], or names from p_names; the text itself if any part is neither. Reads at most
-- 101, as more than 100 are refused anyway, because a single word may stand for them in 10,000 rows.
create or replace function app.read_device_ids(p_text text, p_names jsonb default app.device_names()) returns jsonb
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_list  constant text := btrim(p_text, '[]{} ;,|');
    v_parts text[];
    v_ids   integer[];
begin
    -- No id is 0: 1,000 is not the devices 1 and 0.
    if v_list ~ '^0*[1-9][0-9]{0,8}(\.0+)?([;,|\s]+0*[1-9][0-9]{0,8}(\.0+)?)*$' then
        return to_jsonb((string_to_array(regexp_replace(regexp_replace(v_list, '\.0+', '', 'g'), '[;,|\s]+', ',', 'g'), ','))[:101]::integer[]);
    end if;
    v_parts := (regexp_split_to_array(v_list, '\s*[;|\n]\s*'))[:101];
    if cardinality(v_parts) = 1 and not p_names ? app.plain_name(v_list) then
        v_parts := coalesce((app.split_device_names(v_list, p_names))[:101], v_parts);
    end if;
    v_ids := array(select case when p.name ~ '^0*[1-9][0-9]{0,8}$' then p.name else p_names ->> app.plain_name(p.name) end::integer
                     from unnest(v_parts) with ordinality p (name, n)
                    order by p.n);
    return case when array_position(v_ids, null) is null then to_jsonb(v_ids) else to_jsonb(p_text) end;
end;
$$;

-- A quick check of cells as JSON text: most files, and most rows of the others, need no cleaning.
create or replace function app.may_need_cleaning(p_cells text) returns boolean
language sql immutable
return p_cells ~ '[\u00A0\u00AD\u2000-\u200F\u2028-\u202F\u205F-\u206F\u3000\uFEFF\uFF01-\uFF5E]|"(''|=|#|[eE][rR][rR]:|\\|[(<]|,+"|[-!$%&*+./:;>?@^_`|~\u2010-\u2027\u2030-\u205E\u2190-\u21FF\u3003][-!$%&*+,./:;>?@^_`|~\u2010-\u2027\u2030-\u205E\u2190-\u21FF\u3003 ]*"|([nN][uU][lL][lL]|[nN][oO][nN][eE]|[nN][iI][lL]|[nN]/?[aA]|[nN]\.[aA]\.|[nN][aA][nN]|[uU][nN][dD][eE][fF][iI][nN][eE][dD]|[tT][bB][dD]|[uU][nN][kK][nN][oO][wW][nN]|[dD][iI][tT][tT][oO])")|"([nN][oO][tT] [aA]|[sS][aA][mM][eE][ "])';

create or replace function app.correction(p_field text, p_label text, p_code text, p_was text, p_now text) returns jsonb
language sql immutable
return jsonb_object(
    array['field', 'code', 'message', 'was', 'now'],
    array[p_field,
          case when p_now is null and p_code = 'cleaned' then 'placeholder_removed' when p_code = 'cleaned' and p_was = p_now then 'looks_like_placeholder' else p_code end,
          case when p_code = 'repeated_unit' then format('%s: %s is also at the end of the street, and was left out', p_label, left(p_was, 100))
               when p_now is null then format('%s: %s was left out, because it is a %s', p_label, app.with_marks(left(p_was, 100)), case when p_was ~ '^\s*=' then 'formula' else 'placeholder' end)
               when p_code = 'cleaned' and p_was = p_now then format('%s: %s looks like a placeholder', p_label, left(p_was, 100))
               when p_code = 'no_house_number' then format('%s: %s has no house number', p_label, left(p_was, 100))
               when p_code = 'no_street_name' then format('%s: %s is only a number', p_label, left(p_was, 100))
               when p_code = 'two_house_numbers' then format('%s: %s begins with a number, and another was put before it', p_label, left(p_was, 100))
               when p_code = 'looks_like_date' then format('%s: %s looks like a date that a spreadsheet made of something else', p_label, left(p_was, 100))
               else format('%s: %s was read as %s', p_label, app.with_marks(left(p_was, 100)), left(p_now, 100)) end,
          left(p_was, 500),
          left(p_now, 500)]);

comment on function app.correction(text, text, text, text, text) is 'A warning {field, code, message, was, now} about a cell that was corrected.';
