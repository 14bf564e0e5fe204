-- Chapter 43, addresses: finds the parts of an address that share a cell, such as 1 Main St, Oakland, CA 94601 or CA 94601.

-- The field whose cells may end in other parts of the address, because these have no column of their own; null: none. p_given: fields that
-- have a column; a default replaces what a cell lacks.
create or replace function app.field_of_shared_cells(p_given text[]) returns text
language sql immutable
return case
    when 'state_or_province_code' = any (p_given) then case when 'postal_code' <> all (p_given) then 'state_or_province_code' end
    when 'city' = any (p_given) then 'city'
    when 'street_1' = any (p_given) then 'street_1' end;

-- The parts of the address as {field: text}, if it has all of them: the state must be known, and a comma must precede the city. p_regions:
-- plain names of states.
create or replace function app.parts_of_address(p_text text, p_given text[], p_regions text[]) returns jsonb
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_field  constant text := app.field_of_shared_cells(p_given);
    -- Mailchimp separates the parts by two spaces each: 1 Main St  Oakland  CA  94601  US.
    v_rest   text := btrim(regexp_replace(regexp_replace(btrim(app.clean_cell(case when p_text ~ '^[^,]*  [A-Za-z]{2}  [^,]*$' then replace(p_text, '  ', ', ') else p_text end),
                                                               E' ,.\n\r'), '[,\s]*[\n\r][,\s]*', ', ', 'g'),
                                          '[, ]+(USA?|U\.S(\.A)?|United States( of America)?|Canada|(?<=[A-Z][0-9][A-Z][- ]?[0-9][A-Z][0-9][, ]+)CA)$', '', 'i'));
    -- As app.corrected_postal_code takes it.
    v_postal text := substring(v_rest from '(?i)[, ]([0-9]{4,5}(?: ?[-\u2010-\u2015\u2212 ]? ?[0-9]{4})?|[A-Z][0-9][A-Z][- \u2010-\u2015]*[0-9][A-Z][0-9])$');
    v_region text;
    v_city   text;
begin
    if v_postal is not null or 'postal_code' <> all (p_given) then
        v_rest := rtrim(left(v_rest, -length(v_postal)), ' ,');
    end if;
    -- Washington DC is a state, and also a city with its state.
    v_region := case when v_field <> 'state_or_province_code' then substring(v_rest from '[ ,]([A-Za-z]{2}|[Dd]\.[Cc])$') end;
    if coalesce(app.plain_name(v_region) <> all (p_regions), true) then
        v_region := substring(v_rest from '[^,]+$');
    end if;
    if v_rest is null or coalesce(app.plain_name(v_region) <> all (p_regions), true) then
        return null;
    end if;
    v_rest := rtrim(left(v_rest, -length(v_region)), ' ,');
    if v_field = 'street_1' then
        v_city := substring(v_rest from ',([^,]+)$');
        v_rest := rtrim(left(v_rest, -length(v_city)), ' ,');
    elsif v_field = 'city' then
        v_city := v_rest;
    end if;
    -- Apt 4 Oakland is no city, nor is Alameda County; Boston, Suffolk is more than one.
    if (v_field = 'state_or_province_code') <> (coalesce(v_rest, '') = '')
       or v_field = 'city' and position(',' in v_city) > 0
       or v_field = 'street_1' and v_city ~* '^\s*((apt|apartment|unit|suite|ste|bldg|floor|room|rm|lot)\M|#)|\m(county|co\.)\s*$' then
        return null;
    end if;
    return jsonb_strip_nulls(jsonb_build_object(
        'street_1', case when v_field = 'street_1' then v_rest end, 'city', btrim(v_city), 'state_or_province_code', btrim(v_region),
        'postal_code', case when 'postal_code' <> all (p_given) then v_postal end));
end;
$$;

comment on function app.parts_of_address(text, text[], text[]) is 'What a cell with several parts of an address says, as {field: text}; null: it is not clear.';

-- Whether a row lacks the state or the ZIP code that have columns, at these places.
create or replace function app.has_gap(p_cells jsonb, p_region integer, p_postal_code integer) returns boolean
language sql immutable
return p_region is not null
       and (coalesce(p_cells ->> p_region, '') = '' or p_postal_code is not null and coalesce(p_cells ->> p_postal_code, '') = '');

-- What a cell of a row says of several parts of the address, with `field`, whose cell it is, and `cell`, its text. Cells that are empty where
-- the one before may have their part count as if they had no column: beside the city Boston, MA 02134 those of the state and the ZIP code,
-- beside the state MA 02134 that of the ZIP code.
create or replace function app.parts_in_row(p_cells jsonb, p_given text[], p_columns jsonb, p_regions text[]) returns jsonb
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_region constant text := p_cells ->> (p_columns #>> '{state_or_province_code,place}')::integer;
    v_given  text[] := p_given;
    v_field  text;
begin
    if coalesce(v_region, '') = '' and 'state_or_province_code' = any (p_given) then
        v_given := array(select g.field from unnest(p_given) g (field)
                          where g.field <> all (array['city', 'state_or_province_code', 'postal_code'])
                             or coalesce(p_cells ->> (p_columns #>> array[g.field, 'place'])::integer, '') <> '');
    elsif v_region ~ '[0-9]' and coalesce(p_cells ->> (p_columns #>> '{postal_code,place}')::integer, '') = '' then
        v_given := array_remove(p_given, 'postal_code');
    end if;
    v_field := app.field_of_shared_cells(v_given);
    return app.parts_of_address(p_cells ->> (p_columns #>> array[v_field, 'place'])::integer, v_given, p_regions)
           || jsonb_build_object('field', v_field, 'cell', p_cells ->> (p_columns #>> array[v_field, 'place'])::integer);
end;
$$;

-- Does not repeat what the street already contains, does not touch a street that begins with the number (12, 12A or 12-14, but not 12th),
-- and puts nothing before another number of a house.
create or replace function app.joined_street(
    p_number text, p_number_suffix text, p_predirectional text, p_pretype text, p_street text, p_suffix text, p_postdirectional text
) returns text
language sql immutable
return (select case when starts_with(lower(p_street), lower(p_number)) and substr(p_street, length(p_number) + 1) !~* '^([0-9]|[a-z]{2})' then p_street
                    when p_street is not null
                    then concat_ws(' ',
                                   -- 12A, but 12 1/2.
                                   case when p_number_suffix ~ '^[A-Za-z]$' then p_number || p_number_suffix
                                        when p_number is not null then concat_ws(' ', p_number, p_number_suffix) end,
                                   case when not l.is_line and lower(translate(p_predirectional, '.,', '')) is distinct from w.words[1] then p_predirectional end,
                                   case when not l.is_line and (lower(translate(p_pretype, '.,', '')) = any (w.words)) is not true then p_pretype end,
                                   p_street,
                                   case when (lower(translate(p_suffix, '.,', '')) = any (w.words[2:])) is not true then p_suffix end,
                                   case when (lower(translate(p_postdirectional, '.,', ''))
                                              = any (case when l.is_line then w.words[2:] else w.words[cardinality(w.words):] end)) is not true then p_postdirectional end) end
          from regexp_split_to_array(lower(translate(p_street, '.,', '')), '\s+') w (words)
         cross join (values (p_number is null and p_street ~ '^[0-9]+[A-Za-z]?([-/][0-9]+[A-Za-z]?)?\s')) l (is_line));

comment on function app.joined_street(text, text, text, text, text, text, text) is 'The street line of an address whose parts have columns of their own: 12, 1/2, N, Main, St gives 12 1/2 N Main St. null: the street has no name.';

-- The street without the rest of its address, such as 1 Main St Oakland, CA 94601, if the other columns say the same.
create or replace function app.street_alone(p_street text, p_city text, p_region_code text, p_postal_code text) returns text
language sql immutable
return case
    when length(p_street) <= 500
    then coalesce(nullif(regexp_replace(p_street, format('[,\s]+%s[,\s]+%s[,\s]+%s(-[0-9]{4})?([,\s]+(USA?|United States|Canada))?[,.\s]*$',
                                                         regexp_replace(p_city, '([^[:alnum:] ])', '\\\1', 'g'), regexp_replace(p_region_code, '([^[:alnum:] ])', '\\\1', 'g'),
                                                         regexp_replace(left(p_postal_code, case when p_postal_code ~ '^[0-9]' then 5 else 7 end), '([^[:alnum:] ])', '\\\1', 'g')),
                                        '', 'i'), ''), p_street)
    else p_street end;

-- The city without its state, as in Boston, MA, if another column says the same.
create or replace function app.city_alone(p_city text, p_region_code text, p_region text) returns text
language sql immutable
return case when app.plain_name(substring(p_city from '[^,]*$')) in (app.plain_name(p_region_code), app.plain_name(p_region))
            then coalesce(nullif(btrim(regexp_replace(p_city, ',[^,]*$', '')), ''), p_city) else p_city end;

-- What precedes the number of a unit, as a regular expression.
create or replace function app.unit_words() returns text
language sql immutable
return '(?:#|(?:apt|apartment|unit|suite|ste|app|appt|lot|rm|room)\M[.:]?\s*#?)';

-- Whether the street ends in the unit, as in 12 Main St Apt 4 beside 4, #4 or Unit 4.
create or replace function app.repeats_unit(p_street text, p_unit text) returns boolean
language sql immutable
return coalesce(
    app.plain_name(regexp_replace(p_unit, '^\s*' || app.unit_words(), '', 'i'))
    = app.plain_name(substring(p_street from '(?i)[\s,]' || app.unit_words() || '\s*([[:alnum:]-]+)\s*$')), false);

create or replace function app.known_regions() returns text[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return array(select distinct name from app.region_names);
end;
$$;

-- The fields that cells of another column contain as well, judged by the first cell with all parts. p_columns: [{number, field, samples}];
-- p_rows: the rows of the file; null: use the samples of the column.
create or replace function app.fields_in_shared_cells(p_columns jsonb, p_rows jsonb default null) returns text[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_given   constant text[]  := array(select c ->> 'field' from jsonb_array_elements(p_columns) c where c ->> 'field' is not null);
    v_field   constant text    := app.field_of_shared_cells(v_given);
    v_column  constant jsonb   := (select c from jsonb_array_elements(p_columns) c where c ->> 'field' = v_field);
    v_place   constant integer := (v_column ->> 'number')::integer - 1;
    v_regions text[];
begin
    if v_column is null then
        return '{}';
    end if;
    v_regions := app.known_regions();
    return coalesce((select array(select jsonb_object_keys(p.parts))
                       from jsonb_array_elements(coalesce(p_rows, nullif(v_column -> 'samples', 'null'), '[]')) e (value)
                      cross join lateral app.parts_of_address(case when p_rows is null then e.value #>> '{}' else e.value ->> v_place end, v_given, v_regions) p (parts)
                      where p.parts is not null
                      limit 1), '{}');
end;
$$;
