begin;
select plan(59);

-- The item of a file with a header and one row, with the columns recognized by their names.
create function pg_temp.items(p_rows jsonb, p_defaults jsonb default '{}', p_value_maps jsonb default '{}')
returns table (item jsonb, messages text[], problems text[])
language sql as $$
    select i.item, array(select w ->> 'message' from unnest((i.notes).warnings) w), array(select app.problem_message(p) from unnest((i.notes).problems) p)
      from (select app.find_header(p_rows, '{}') as header) h
     cross join lateral (select array(select jsonb_array_elements_text(p_rows -> (h.header - 1))) as names) n
     cross join lateral (select jsonb_object_agg(c.field, jsonb_build_object('place', c.n - 1, 'header', c.header)) filter (where c.field is not null) as columns
                           from app.file_columns(n.names, '{}', p_defaults, '{}', true) with ordinality c (header, field, how, n)) c
     cross join lateral app.file_items(array(select r.cells from jsonb_array_elements(p_rows) with ordinality r (cells, n)
                                              where r.n between h.header + 1 and app.last_row(p_rows, h.header) and r.cells <> '[]' order by r.n),
                                       null, cardinality(n.names), c.columns, p_defaults, p_value_maps) i;
$$;
\set header '["Deal ID", "Street", "Unit", "City", "State", "ZIP", "Country", "Building Type", "Devices"]'

select is((select item from pg_temp.items(format('[%s, ["d-1", "1 Elm St", "", "Boston", "MA", "02134", "US", "RESIDENTIAL", "1;4"]]', :'header')::jsonb)),
          '{"reference_id": "d-1", "address": {"street_1": "1 Elm St", "city": "Boston", "state_or_province_code": "MA", "postal_code": "02134", "country_code": "US"},
            "building_type": "RESIDENTIAL", "device_ids": [1, 4]}', 'a row becomes an item');
select is((select messages from pg_temp.items(format('[%s, ["d-1", "1 Elm St", "", "Boston", "ma", "02134", "USA", "residential", "1"]]', :'header')::jsonb)),
          '{}', 'other spellings of the same word cause no warning');
select results_eq(
    format($$ select item #>> '{address,state_or_province_code}', item #>> '{address,country_code}', messages from pg_temp.items('[%s,
           ["d-1", "1 Elm St", "", "Boston", "Massachusetts", "02134", "", "RESIDENTIAL", "1"], ["d-2", "1 Calle Sol", "", "San Juan", "", "00901", "Puerto Rico", "RESIDENTIAL", "1"],
           ["d-3", "1 Rue A", "", "Montreal", "Quebec", "", "", "RESIDENTIAL", "1"]]') $$, :'header'),
    $$ values ('MA', 'US', array['State: Massachusetts was read as MA']), ('PR', 'US', array['Country: Puerto Rico was read as PR']),
              ('QC', 'CA', array['State: Quebec was read as QC']) $$,
    'states are known by name, territories as countries, and a province gives its country');
select results_eq(
    format($$ select item ->> 'building_type', item ->> 'device_ids', messages from pg_temp.items('[%s,
           ["d-1", "1 Elm St", "", "Boston", "MA", "02134", "", "Single Family", "flux"], ["d-2", "1 Elm St", "", "Boston", "MA", "02134", "", "Ours", "pump"]]',
           p_value_maps => '{"building_type": {"Ours": "commercial"}, "device_ids": {"pump": "1;4"}}') $$, :'header'),
    $$ values ('RESIDENTIAL', 'flux', array['Building Type: Single Family was read as RESIDENTIAL']),
              ('COMMERCIAL', '[1, 4]', array['Building Type: Ours was read as COMMERCIAL', 'Devices: pump was read as [1, 4]']) $$,
    'building types and devices are known by their names, and by those that the request gives');
select results_eq(
    format($$ select item #>> '{address,street_1}', item #>> '{address,street_2}', messages from pg_temp.items('[%s,
           ["d-1", "#N/A", "None", "Boston", "MA", "02134", "", "RESIDENTIAL", "1"], ["d-2", "NULL", "", "Boston", "MA", "02134", "", "RESIDENTIAL", "1"]]') $$, :'header'),
    $$ values (null, null, array['Street: #N/A was left out, because it is a placeholder', 'Unit: None was left out, because it is a placeholder']),
              ('NULL', null, array['Street: NULL looks like a placeholder']) $$,
    'placeholders are removed, and words that may be names stay with a warning');
select results_eq(
    format($$ select item #>> '{address,city}', messages from pg_temp.items('[%s,
           ["d-1", "1 Elm St", "", "Same as above", "MA", "02134", "", "RESIDENTIAL", "1"], ["d-2", "=A1", "", "unknown", "MA", "02134", "", "RESIDENTIAL", "1"]]') $$, :'header'),
    $$ values (null, array['City: Same as above was left out, because it is a placeholder']),
              ('unknown', array['Street: =A1 was left out, because it is a formula', 'City: unknown looks like a placeholder']) $$,
    'what refers to another cell is no city and no street');
select results_eq(
    format($$ select item #>> '{address,street_2}', messages from pg_temp.items('[%s,
           ["d-1", "1 Elm St", "2-Jan", "Boston", "MA", "02134", "", "RESIDENTIAL", "1"], ["d-2", "1 Elm St", "2-B", "Boston", "MA", "02134", "", "RESIDENTIAL", "1"]]') $$, :'header'),
    $$ values ('2-Jan', array['Unit: 2-Jan looks like a date that a spreadsheet made of something else']), ('2-B', '{}') $$,
    'a unit that a spreadsheet turned into a date stays, with a warning');
select is((select array_agg(array_to_string(messages, '; ')) from pg_temp.items(
              '[["Deal ID", "House No", "Street", "City", "State", "ZIP", "Building Type", "Devices"], ["d-1", "2026-12-14", "Elm St", "Boston", "MA", "02134", "house", "1"],
                ["d-2", "12-14", "Elm St", "Boston", "MA", "02134", "RESIDENTIAL", "1"]]')),
          array['Building Type: house was read as RESIDENTIAL; House No: 2026-12-14 looks like a date that a spreadsheet made of something else', ''],
          'a house number that a spreadsheet turned into a date is named in a warning');
select is((select array_agg(app.may_be_date(cell) order by n)
             from unnest(array['2026-01-02', '14-Dec', 'Feb-01', '2. Jan', '02-janv.', '1/2/2026', '12-14', '2-B', 'Mar', '1-East', '12 Mason', '2026-1']) with ordinality c (cell, n)),
          array[true, true, true, true, true, true, false, false, false, false, false, false], 'dates in the forms of spreadsheets are recognized');
select is((select problems from pg_temp.items(format('[%s, ["1.23E+05", "1 Elm St", "", "Boston", "MA", "02134", "", "RESIDENTIAL", "1", "", "x"]]', :'header')::jsonb)),
          array['Deal ID 1.23E+05 was rounded by a spreadsheet: format the column as text, and fill it in again', 'The row has 11 cells, the header 9'],
          'an id that a spreadsheet has rounded and cells beyond the header are problems');
select results_eq(format($$ select problems from pg_temp.items('[%s, ["d-1", "1 Elm St", "", "Boston", "MA", "02134", "", "RESIDENTIAL", "1", ""],
           ["d-2", "1 Elm St", "", "Boston", "MA", "02134", "", "RESIDENTIAL", "1", "", "x", ""]]') $$, :'header'),
    $$ values ('{}'::text[]), (array['The row has 11 cells, the header 9']) $$, 'empty cells beyond the header are ignored');
select is((select array_agg(app.is_placeholder(cell) and app.may_need_cleaning(to_jsonb(cell)::text) order by n)
             from unnest(array['#N/A', '#REF!', '#NAME?', '#DIV/0!', '#ERROR!', '#GETTING_DATA', 'Err:508', 'Errol St', '#12', 'Err:5']) with ordinality c (cell, n)),
          array[true, true, true, true, true, true, true, false, false, false], 'the errors of spreadsheets are placeholders');
select is((select item ->> 'reference_id' from pg_temp.items(format('[%s, ["10017.0", "1 Elm St", "", "Boston", "MA", "02134", "", "RESIDENTIAL", "1"]]', :'header')::jsonb)),
          '10017', 'a number that became a decimal is whole again');
select is((select array_agg(item ->> 'building_type') from pg_temp.items(
              '[["Deal ID", "Street", "City", "State", "ZIP", "Building Type"], ["d-1", "1 Elm St", "Boston", "MA", "02134", ""], ["d-2", "1 Elm St", "Boston", "MA", "02134", "Office"]]',
              '{"building_type": "RESIDENTIAL", "device_ids": "1"}')), array['RESIDENTIAL', 'COMMERCIAL'], 'a default applies to empty cells');
select is((select count(*)::integer from pg_temp.items(format('[%s, ["d-1"], [], ["Total: 1"]]', :'header')::jsonb)), 1,
          'an empty row and the footer are skipped, but a row with only an id is an item');

select results_eq(
    $$ select item ->> 'address', messages from pg_temp.items('[["Job #", "Full Address", "Home Type", "Equipment"],
           ["1000", "1 Elm St, Boston, Massachusetts 2134", "RESIDENTIAL", "1"], ["1001", "1 Elm St", "RESIDENTIAL", "1"]]') $$,
    $$ values ('{"city": "Boston", "street_1": "1 Elm St", "postal_code": "02134", "country_code": "US", "state_or_province_code": "MA"}',
               array['Full Address: 1 Elm St, Boston, Massachusetts 2134 was read as 1 Elm St | Boston | MA | 02134']),
              ('{"street_1": "1 Elm St", "country_code": "US"}', '{}') $$,
    'an address in one cell is split, with a warning');
select is((select columns -> 1 ->> 'field' from app.file_layout(
              '{"rows": [["ID", "Street", "City", "State Zip", "Home Type", "Equipment"], ["d-1", "1 Elm St", "Boston", "MA 02134", "RESIDENTIAL", "1"]]}', false, '{}')),
          'street_1', 'a column is not missing if the cells of another one contain it');
select results_eq(
    $$ select item -> 'address' ->> 'state_or_province_code', messages from pg_temp.items('[["ID", "Street", "Home Type", "Equipment"],
           ["1", "1 Elm St, Boston, MA 02134", "RESIDENTIAL", "1"], ["2", "1 Elm St", "RESIDENTIAL", "1"]]', '{"state_or_province_code": "VT"}') $$,
    $$ values ('MA', array['Street: 1 Elm St, Boston, MA 02134 was read as 1 Elm St | Boston | MA | 02134']), ('VT', '{}') $$,
    'a default stands for what a cell lacks');
select is((select columns -> 1 ->> 'field' from app.file_layout(
              '{"rows": [["ID", "Street", "Home Type", "Equipment"], ["1", "1 Elm St, Boston, MA 02134", "RESIDENTIAL", "1"]], "defaults": {"state_or_province_code": "VT"}}', false, '{}')),
          'street_1', 'a column is not missing if the cells of another one contain it, whatever the defaults');

select results_eq(
    $$ select item ->> 'reference_id', messages from pg_temp.items('[["Deal ID", "Street"], ["d-1", "1 Elm St"], ["", "2 Elm St"], ["N/A", "3 Elm St"]]', '{"reference_id": "row-{line}"}') $$,
    $$ values ('d-1', '{}'::text[]), ('row-2', '{}'), ('row-3', array['Deal ID: N/A was read as row-3']) $$,
    'rows without a reference are numbered');
select is((select array_agg(i.item ->> 'reference_id') from app.file_items(array['["1 Elm St"]', '["2 Elm St"]']::jsonb[], '{2,7}', 1, '{"street_1": {"place": 0}}', '{"reference_id": "row-{line}"}', '{}') i),
          array['row-2', 'row-7'], 'rows are numbered by their lines if the file has lines');

select results_eq(
    format($$ select item #>> '{address,postal_code}', messages from pg_temp.items('[%s, ["d-1", "1 Elm St", "", "Boston", "MA", "2134", "", "RESIDENTIAL", "1"],
           ["d-2", "1 Rue A", "", "Halifax", "NS", "b3h 1a1", "", "RESIDENTIAL", "1"]]') $$, :'header'),
    $$ values ('02134', array['ZIP: 2134 was read as 02134']), ('B3H 1A1', '{}') $$,
    'a corrected postal code causes a warning, one in lower case does not');
select results_eq(
    format($$ select item ->> 'building_type', item -> 'address' ->> 'country_code', item -> 'create_application' from pg_temp.items(jsonb_build_array('%s'::jsonb || '["Create Application"]',
           jsonb_build_array('d-1', '1 Elm St', '', 'Boston', 'MA', '02134', 'U.S.A.' || chr(8203), 'Office' || chr(8203), '1', 'None'))) $$, :'header'),
    $$ values ('COMMERCIAL', 'US', null::jsonb) $$,
    'words with invisible characters are recognized, and a placeholder does not decide whether to apply');
select is(array(select item ->> 'create_application' from pg_temp.items('[["Deal ID", "Create Application"], ["d-1", "Sí"], ["d-2", "Oui"], ["d-3", "Ja"], ["d-4", "no"]]')),
          array['true', 'true', 'true', 'false'], 'whether to apply is understood in the languages of the columns');
select is((select columns #> '{0,samples}' from app.file_layout('{"rows": [["Street", "City", "Deal ID"], ["1 Elm St", "Boston", "d-1"], ["Total: 1"]]}', true, '{}')), '["1 Elm St"]',
          'the samples of a column leave the footer out');

select results_eq(
    $$ select item #>> '{address,street_1}', messages from pg_temp.items('[["Deal ID", "House No.", "Pre Dir", "Street Name", "Street Type", "Post Dir"],
           ["1", "12", "N", "Main", "St", "NW"], ["2", "12.0", "", "Main St", "", ""], ["3", "", "", "12 Main St", "", ""], ["4", "12", "N", "12 N Main St", "St", ""],
           ["5", "12", "n.a.", "Elm ", "N/A", ""], ["6", "12", "N", "", "St", "NW"]]') $$,
    $$ values ('12 N Main St NW', '{}'::text[]), ('12 Main St', '{}'), ('12 Main St', '{}'), ('12 N Main St', '{}'), ('12 Elm', '{}'), (null, '{}') $$,
    'the parts of a street that have columns of their own are joined');
select results_eq(
    $$ select item #>> '{address,street_1}', messages from pg_temp.items('[["Deal ID", "House No.", "House Suffix", "Pre Type", "Street Name", "Street Type"],
           ["1", "12", "1/2", "", "Main", "St"], ["2", "12", "A", "", "Main", "St"], ["3", "300", "", "Highway", "101", ""], ["4", "12", "REAR", "", "Main", "St"], ["5", "", "A", "", "Main 7", ""],
           ["6", "12", "2-Jan", "", "Main", ""]]') $$,
    $$ values ('12 1/2 Main St', '{}'::text[]), ('12A Main St', '{}'), ('300 Highway 101', '{}'), ('12 REAR Main St', '{}'), ('Main 7', '{}'),
              ('12 2-Jan Main', array['House Suffix: 2-Jan looks like a date that a spreadsheet made of something else']) $$,
    'a fraction or letter follows the number of a house, and a type may precede the name of a street');
select is((select array_agg(array_to_string(messages, '; ')) from pg_temp.items('[["Deal ID", "House No.", "Street"], ["1", "", "Main St"], ["2", "1", "12 Elm St"], ["3", "12", "12 Elm St"], ["4", "12", "7th St"], ["5", "", "8 Mile Rd"],
              ["6", "", "2-Jan"], ["7", "12", "NULL"], ["8", "", "ONE Larkin Center"], ["9", "", "Tenth St"]]')),
          array['Street: Main St has no house number', 'Street: 12 Elm St begins with a number, and another was put before it', '',
                '', '', 'Street: 2-Jan looks like a date that a spreadsheet made of something else', 'Street: NULL looks like a placeholder', '', 'Street: Tenth St has no house number'],
          'a street without a number, with two, or that was turned into a date is named in a warning');
select is((select array_agg(array[c ->> 'field', c ->> 'how'] order by n)
             from app.file_layout('{"rows": [["ID", "Home Street", "Home City", "Home State", "Home Zip", "Other Street", "Other City"], ["d-1", "1 Elm St", "Boston", "MA", "02134", "", ""], ["d-2", "2 Elm St", "Boston", "MA", "02134"]],
                                    "defaults": {"building_type": "RESIDENTIAL", "device_ids": "1"}}', l.lenient, '{}') f
            cross join jsonb_array_elements(f.columns) with ordinality u (c, n) where c ->> 'number' <> '1'),
          array[['street_1', 'name'], ['city', 'name'], ['state_or_province_code', 'name'], ['postal_code', 'name'], [null, null], [null, null]],
          'an address in which no row has anything is not one that may be meant' || l.label)
  from (values (false, ''), (true, ', in a draft')) l (lenient, label);
select is((select array_agg(coalesce(c ->> 'field', c ->> 'how', '-') order by n)
             from app.file_layout(jsonb_build_object('rows', '[["ID", "Billing Street", "Billing City", "Billing Zip", "Shipping Street", "Shipping City", "Shipping Zip"]]' || r.cells), true, '{}') f
            cross join jsonb_array_elements(f.columns) with ordinality u (c, n)), r.fields, r.label)
  from (values ('[["d-1", "1 Elm St", "Boston", "02134", "1 ELM ST", "Boston", "02134"], ["d-2", "2 Elm St", "Salem", "01970", "2 Elm St", "Salem", "01970"]]'::jsonb,
                '{reference_id,street_1,city,postal_code,-,-,-}'::text[], 'the first of two addresses that are the same in each row is used'),
               ('[["d-1", "1 Elm St", "Boston", "02134", "1 Elm St", "Boston", "02134"], ["d-2", "2 Elm St", "Salem", "01970", "2 Elm St", "Salem", "01971"]]',
                '{reference_id,ambiguous,ambiguous,ambiguous,ambiguous,ambiguous,ambiguous}', 'two addresses that differ in one cell are ambiguous'),
               ('[["d-1", "1 Elm St", "Boston", "", "1 Elm St", "Boston", "02134"]]',
                '{reference_id,ambiguous,ambiguous,-,ambiguous,ambiguous,ambiguous}', 'two addresses of which one lacks a part are ambiguous')) r (cells, fields, label);
select is((select array_agg(c -> 'field' order by n) from app.file_layout('{"rows": [["Number", "Street", "Type", "City"], ["1", "12 Elm St", "House", "Boston"], ["2", "8 Oak St", "House", "Boston"]]}', true, '{}') l
            cross join jsonb_array_elements(l.columns) with ordinality u (c, n)), array['null', '"street_1"', 'null', '"city"']::jsonb[], 'numbers beside streets that have their own are those of rows');
select is((select array_agg(c -> 'field' order by n) from app.file_layout('{"rows": [["Number", "Street", "Type", "City"], ["1", "8 Mile Rd", "", "Detroit"], ["2", "Oak", "St", "Detroit"]]}', true, '{}') l
            cross join jsonb_array_elements(l.columns) with ordinality u (c, n)), array['"street_number"', '"street_1"', '"street_suffix"', '"city"']::jsonb[], 'the name of a street may begin with a number');
select is((select array_agg(array[item #>> '{address,street_1}', coalesce(messages[1], '')] order by item ->> 'reference_id') from pg_temp.items('[["Deal ID", "Address", "City", "State", "ZIP"],
              ["1", "12 Elm St Boston, MA 02134", "Boston", "MA", "02134"], ["2", "12 Elm St, St. John''s, NL A1A 1A1", "St. John''s", "NL", "A1A 1A1"], ["3", "12 Elm St, Boston, MA 02134", "Salem", "MA", "02134"]]')),
          array[array['12 Elm St', 'Address: 12 Elm St Boston, MA 02134 was read as 12 Elm St'], array['12 Elm St', 'Address: 12 Elm St, St. John''s, NL A1A 1A1 was read as 12 Elm St'],
                array['12 Elm St, Boston, MA 02134', '']],
          'a street is not followed by the city, state and ZIP code that have columns');
select is((select array_agg(item #>> '{address,street_2}') from pg_temp.items('[["Deal ID", "Street", "Unit"], ["1", "1 Elm St", "Not Available"], ["2", "1 Elm St", "Not Applicable: Standalone Property"], ["3", "1 Elm St", "NOT A UNIT"]]')),
          array[null, null, 'NOT A UNIT'], 'words for a missing value are placeholders');
select results_eq(
    $$ select item #>> '{address,street_1}' from pg_temp.items('[["Deal ID", "House No.", "Street Name"], ["1", "12,000", "Main St"], ["2", "1,234", "Main St"], ["3", "1,200.00", "Main St"],
           ["4", "12,0", "Main St"], ["5", "12.000", "Main St"], ["6", "101,103", "Main St"], ["7", "1,200", "1200 Main St"], ["8", "100", "Main St"]]') $$,
    $$ values ('12000 Main St'), ('1234 Main St'), ('1200 Main St'), ('12 Main St'), ('12 Main St'), ('101,103 Main St'), ('1200 Main St'), ('100 Main St') $$,
    'a house number loses what a spreadsheet adds to a number, and no digits of its own');
select results_eq(
    format($$ select item #>> '{address,street_2}', messages from pg_temp.items('[%s, ["d-1", "1 Elm St", "101.0", "Boston", "MA", "02134", "", "RESIDENTIAL", "1"], ["d-2", "1 Elm St", "1.5", "Boston", "MA", "02134", "", "RESIDENTIAL", "1"],
           ["d-3", "1 Elm St", "", "Boston", "MA", "02134", "", "RESIDENTIAL", "1"]]') $$, :'header'),
    $$ values ('101', array['Unit: 101.0 was read as 101']), ('1.5', '{}'), (null, '{}') $$, 'a unit that a spreadsheet took for a number is read as one, with a warning');
select is(array(select concat_ws(' | ', i -> 'address' ->> 'street_1', i -> 'address' ->> 'city', i -> 'address' ->> 'state_or_province_code', i -> 'address' ->> 'postal_code')
                  from app.read_file(null, '{"rows": [["Deal ID", "Address"], ["d-1", "1 Main St, Reno, NV 89501"], ["d-2", "5 Elm St"]],
                                             "defaults": {"city": "Oakland", "state_or_province_code": "CA", "postal_code": "94601", "building_type": "RESIDENTIAL", "device_ids": "1"}}') f
                 cross join unnest(f.items) with ordinality u (i, n) order by n),
          array['1 Main St | Reno | NV | 89501', '5 Elm St | Oakland | CA | 94601'], 'a default is for the cells that lack a part of the address, and replaces none that they have');
select is(array(select concat_ws(' | ', i -> 'address' ->> 'street_1', i -> 'address' ->> 'city', i -> 'address' ->> 'state_or_province_code', i -> 'address' ->> 'postal_code')
                  from app.read_file(null, '{"rows": [["Deal ID", "Address", "Zip"], ["d-1", "1 Main St, Oakland, CA 94601", "94602"], ["d-2", "2 Main St, Oakland, CA", "94601"]],
                                             "defaults": {"building_type": "RESIDENTIAL", "device_ids": "1"}}') f
                 cross join unnest(f.items) with ordinality u (i, n) order by n),
          array['1 Main St | Oakland | CA | 94602', '2 Main St | Oakland | CA | 94601'], 'an address is split where the postal code has a column of its own, which counts');
select is(array(select concat_ws(' ', item -> 'address' ->> 'country_code', item -> 'address' ->> 'state_or_province_code', item ->> 'building_type', item -> 'device_ids')
                  from pg_temp.items(format('[%s, ["d-1", "1 Elm St", "", "Boston", " Mass ", "02134", " USA ", " House ", " 1 "], ["d-2", "1 Elm St", "", "Boston", "", "02134", "", "", ""]]', :'header')::jsonb,
                                     '{"country_code": "Canada", "state_or_province_code": "Ontario", "building_type": "Condo", "device_ids": "1;4"}')),
          '{"US MA RESIDENTIAL [1]","CA ON MULTIFAMILY [1, 4]"}', 'words with spaces around them, and those of defaults, are recognized');
select is((select item #>> '{address,street_1}' from pg_temp.items('[["Deal ID", "Street No", "Address"], ["1", 12, "Main St"]]')), '12 Main St',
          'a house number is put before an address that lacks one');
select results_eq(
    $$ select app.joined_street(number, null, predirectional, null, street, suffix, postdirectional)
         from (values (1, '12', 'N', '12 N Main St', 'St', 'W'), (2, '12', 'N', '12A Main', 'St', null), (3, '12', null, '12-14 Main St', 'St', null),
                      (4, '12', null, '12th', 'Ave', null), (5, '12', null, '125 Main St', null, null), (6, '12', 'N', 'N Main St. NW', 'St', 'NW'),
                      (7, '9', null, 'St Charles', 'St', null), (8, null, 'N', 'Main', null, null), (9, '12', 'N', null, 'St', null), (10, '1(2', null, 'Main', '*', null),
                      (11, '12', 'N.', 'N. Main St.', 'St.', null), (12, '12', 's.', 'S Main St NW', 'St.', 'N.W.'), (13, '5', null, 'Park', 'Park', null),
                      (14, '12', null, 'Main St', 'St', null), (15, null, 'N', '12 N Main St W Apt 4', 'St', 'W'), (16, null, 'W', '7th St', null, null), (17, null, 'N', '12 Main', 'St', null))
              v (n, number, predirectional, street, suffix, postdirectional) order by n $$,
    $$ values ('12 N Main St'), ('12A Main'), ('12-14 Main St'), ('12 12th Ave'), ('12 125 Main St'), ('12 N Main St. NW'), ('9 St Charles St'), ('N Main'), (null),
              ('1(2 Main *'), ('12 N. Main St.'), ('12 S Main St NW'), ('5 Park Park'), ('12 Main St'), ('12 N Main St W Apt 4'), ('W 7th St'), ('12 Main St') $$,
    'a street that starts with its number is not changed, and nothing is repeated');

select is(array(select item #>> '{address,state_or_province_code}' || ' ' || (item #>> '{address,country_code}')
                  from pg_temp.items(format('[%s, ["d-1", "1 Elm St", "", "Boston", "Bay", "02134", "Uncle Sam", "RESIDENTIAL", "1"], ["d-2", "1 Rue A", "", "Laval", "La Belle", "H7A 0A1", "Can", "RESIDENTIAL", "1"]]', :'header')::jsonb,
                                     p_value_maps => '{"country_code": {"Uncle Sam": "US", "Can": "Canada"}, "state_or_province_code": {"Bay": "Massachusetts", "La Belle": "QC"}}')),
          '{"MA US","QC CA"}', 'what the words for countries and states stand for can be told');
select results_eq(
    $$ select w, app.household_of_cells(null, null, w, null) ->> 'owner_status', app.household_of_cells(null, null, null, w) ->> 'tax_filing'
         from unnest(array['Owner', 'home owner', 'Tenant', 'RENTER', 'Single', 'joint', 'Married, filing jointly', 'Separate', 'Married filing separately', 'Head of household', 'Surviving spouse', 'Qualifying surviving spouse', 'guest']) w $$,
    $$ values ('Owner', 'homeowner', 'Owner'), ('home owner', 'homeowner', 'home owner'), ('Tenant', 'renter', 'Tenant'), ('RENTER', 'renter', 'RENTER'), ('Single', 'Single', 'single'), ('joint', 'joint', 'joint'),
              ('Married, filing jointly', 'Married, filing jointly', 'joint'), ('Separate', 'Separate', 'separate'), ('Married filing separately', 'Married filing separately', 'separate'),
              ('Head of household', 'Head of household', 'head_of_household'), ('Surviving spouse', 'Surviving spouse', 'surviving_spouse'), ('Qualifying surviving spouse', 'Qualifying surviving spouse', 'surviving_spouse'),
              ('guest', 'guest', 'guest') $$,
    'owners and tax filings are known by their words, and others are left to be refused');
select is((select jsonb_object_agg(h, (select item -> 'household' from pg_temp.items(jsonb_build_array(jsonb_build_array('Deal ID', h), '["d-1", "1"]'::jsonb)))) from unnest(array['household_income', 'household_size', 'owner_status', 'tax_filing']) h),
          '{"household_income": {"income": 1}, "household_size": {"size": 1}, "owner_status": {"owner_status": "1"}, "tax_filing": {"tax_filing": "1"}}', 'a file may tell one fact of a household');
select is((select array_agg(i.item -> 'webhook_custom_fields' order by i.item ->> 'reference_id')
             from pg_temp.items(jsonb_build_array('["Deal ID", "Webhook Custom Fields"]'::jsonb, jsonb_build_array('a', '{"deal": {"id": 7, "at": null}}'),
                                                  jsonb_build_array('b', '{"deal": 8}'::jsonb),
                                                  jsonb_build_array('c', '{deal: 9}'), jsonb_build_array('d', '[10]'), jsonb_build_array('e', '{"deal": 1e400}'),
                                                  jsonb_build_array('f', ''), jsonb_build_array('g', 'N/A')), '{"webhook_custom_fields": "{\"deal\": 0}"}') i),
          array['{"deal": {"id": 7, "at": null}}', '{"deal": 8}', '"{deal: 9}"', '"[10]"', '"{\"deal\": 1e400}"', '{"deal": 0}', '{"deal": 0}']::jsonb[],
          'a cell may have an object in JSON, and another text stays to be refused');

-- Households
select is((select array_agg(i.item -> 'household' -> 'income' order by i.item ->> 'reference_id')
             from pg_temp.items('[["Deal ID", "Household Income"], ["a", "$60,000"], ["b", "60 000.50 $"], ["c", "60.000,00"], ["d", "60.000"], ["e", "60000,50"], ["f", "60000.125"]]') i),
          array['60000', '60000.5', '"60.000,00"', '"60.000"', '"60000,50"', '60000.125']::jsonb[], 'an income in an ambiguous notation is not guessed');
select is((select array_agg(i.item -> 'household') from pg_temp.items('[["Deal ID", "Household Income", "Household Size", "Owner Status", "Tax Filing"], ["a", "N/A", "-", "None", "#N/A"]]') i),
          array['{}']::jsonb[], 'a placeholder gives no fact about a household');
select is((select array_agg(i.item -> 'household' order by i.item ->> 'reference_id')
             from pg_temp.items('[["Deal ID", "Household Income"], ["a", "50,000"], ["b", ""]]',
                                '{"household_income": "40000", "household_size": "2", "owner_status": "tenant", "tax_filing": "joint"}') i),
          array['{"income": 50000, "size": 2, "owner_status": "renter", "tax_filing": "joint"}', '{"income": 40000, "size": 2, "owner_status": "renter", "tax_filing": "joint"}']::jsonb[],
          'a default gives the facts about a household that cells lack');

select is(array(select (select string_agg(c ->> 'header', ', ') from jsonb_array_elements(l.columns) c where c ->> 'field' = 'street_2')
                    from unnest(array['["d-1", "1 Elm St", "", "4", "Boston", "MA", "02134"]', '["d-1", "1 Elm St", "Rear", "4", "Boston", "MA", "02134"]', '["d-1", "1 Elm St", "", "", "Boston", "MA", "02134"]'])
                         with ordinality r (cells, n)
                   cross join app.file_layout(format('{"rows": [["Deal ID", "Address Line 1", "Address Line 2", "Unit Number", "City", "State", "ZIP"], %s]}', r.cells)::jsonb, true, '{}') l
                   order by r.n), array['Unit Number', 'Address Line 2', 'Unit Number'], 'units are in the column that has any');

-- Parts of an address beside empty cells
select results_eq(
    format($$ select concat_ws(' | ', item #>> '{address,street_1}', item #>> '{address,city}', item #>> '{address,state_or_province_code}', item #>> '{address,postal_code}'), messages
                from pg_temp.items('[%s, ["d-1", "1 Elm St", "", "Boston, MA 02134", "", "", "", "RESIDENTIAL", "1"], ["d-2", "1 Elm St", "", "Washington D.C.", "", "20001", "", "RESIDENTIAL", "1"],
                                         ["d-3", "1 Elm St, Boston, MA 02134", "", "", "", "", "", "RESIDENTIAL", "1"], ["d-4", "1 Elm St", "", "Val-d''Or", "", "J9P 1A1", "", "RESIDENTIAL", "1"],
                                         ["d-5", "1 Elm St", "", "Boston, Suffolk, MA", "", "02134", "", "RESIDENTIAL", "1"], ["d-6", "1 Elm St", "", "New York", "", "10001", "", "RESIDENTIAL", "1"],
                                         ["d-7", "1 Elm St", "", "Boston", "MA 02134", "", "", "RESIDENTIAL", "1"], ["d-8", "1 Elm St", "", "Boston", "MA", "", "", "RESIDENTIAL", "1"]]') $$,
           :'header'),
    $$ values ('1 Elm St | Boston | MA | 02134', array['City: Boston, MA 02134 was read as Boston | MA | 02134']), ('1 Elm St | Washington | DC | 20001', array['City: Washington D.C. was read as Washington | DC']),
              ('1 Elm St | Boston | MA | 02134', array['Street: 1 Elm St, Boston, MA 02134 was read as 1 Elm St | Boston | MA | 02134']), ('1 Elm St | Val-d''Or | J9P 1A1', '{}'),
              ('1 Elm St | Boston, Suffolk, MA | 02134', '{}'), ('1 Elm St | New York | 10001', '{}'),
              ('1 Elm St | Boston | MA | 02134', array['State: MA 02134 was read as MA | 02134']), ('1 Elm St | Boston | MA', '{}') $$,
    'a city, a state or a street may have the parts of the address whose cells are empty');
select is((select array_agg(item #>> '{address,state_or_province_code}' order by item ->> 'reference_id')
             from pg_temp.items('[["Deal ID", "Street", "City", "State", "ZIP"], ["d-1", "1 Elm St", "Portsmouth, NH", "", "03801"], ["d-2", "1 Elm St", "Boston", "", "02134"]]',
                                '{"state_or_province_code": "MA"}')), array['NH', 'MA'], 'a default is not for a row whose city names its state');

-- Words of devices
insert into app.devices (id, category_key, name, catalogue)
select 100000 + n, (select min(key) from app.device_categories), case when n = 1 then '热泵' else 'device ' || n end, 'many' from generate_series(1, 2000) n;
select performs_ok($$ select count(*) from app.file_items(array(select jsonb_build_array('something else ' || n) from generate_series(1, 2000) n), null, 1, '{"device_ids": {"place": 0}}', '{}', '{}') $$,
                   3000, 'each name of the catalogue is read once, however many words the cells have');
select is((select array_agg(i.item -> 'device_ids') from app.file_items(array['["热泵"]', '["Device 2000; device 7"]']::jsonb[], null, 1, '{"device_ids": {"place": 0}}', '{}', '{}') i),
          array['"热泵"', '[102000, 100007]']::jsonb[], 'devices are recognized by their names, except those without a letter to compare');

select is(array(select array_length(r.cells, 1) || ' ' || r.lines::text || ' ' || coalesce(r.notes ->> 0, '')
                  from unnest(array['{}', '{"header_row": 1}', '{"lines": [1, 3, 6, 7]}']::jsonb[]) with ordinality f (file, n)
                 cross join app.rows_of_items('{"rows": [["Site", "Street", "City"], ["A", "1 Elm St", "Boston"], ["A Total"], ["B", "2 Elm St", "Boston"]]}' || f.file, 1, 4,
                                              '[{"number": 2, "field": "street_1"}, {"number": 3, "field": "city"}]', '[]') r
                 order by f.n),
          array['2 {NULL,NULL} {"code": "rows_skipped", "message": "Rows without a site, such as totals, headings or names of columns, were left out: 3"}', '3 {NULL,NULL,NULL} ',
                '2 {3,7} {"code": "rows_skipped", "message": "Rows without a site, such as totals, headings or names of columns, were left out: 6"}'], 'totals are left out by their lines, unless the header is given');
create function pg_temp.left_out(p_rows jsonb, p_defaults jsonb default '{}') returns text
language sql as $$
    select coalesce(substring(r.notes ->> -1 from ': ([0-9, ]+)"'), '')
      from (select jsonb_build_object('rows', p_rows, 'defaults', p_defaults)) f (file)
     cross join app.file_layout(f.file, true, '{}') l
     cross join app.rows_of_items(f.file, l.header_row, l.last_row, l.columns, l.notes) r;
$$;
select is(array[pg_temp.left_out('[["Owner", "Account", "Street", "City", "State", "Zip"], ["Owner: Kim (1 record)"], ["", "A", "1 Elm St", "Boston", "MA", "02134"], ["Owner: Lee"], ["", "B", "2 Elm St", "Boston", "MA", "02134"]]'),
                pg_temp.left_out('[["Deal ID", "Street", "City", "State", "Zip"], ["Building A"], ["d-1", "1 Elm St", "Boston", "MA", "02134"], ["d-2"], ["d-3", "Elm St"], ["Building B"], ["d-4", "2 Elm St", "Boston", "MA", "02134"]]'),
                pg_temp.left_out('[["Street", "City", "State", "Zip"], ["Elm Court"], ["1 Elm St", "Boston", "MA", "02134"]]'),
                -- A site without its address.
                pg_temp.left_out('[["Deal ID", "Street", "City", "State", "Zip"], ["Site 1", "1 Elm St", "Boston", "MA", "02134"], ["Site 2"], ["Site 3", "3 Elm St", "Boston", "MA", "02134"]]'),
                -- It may be the second device of the site above.
                pg_temp.left_out('[["Appliance", "Deal ID", "Street", "City", "State", "Zip"], ["HVAC", "d-1", "1 Elm St", "Boston", "MA", "02134"], ["Boiler"], ["HVAC", "d-2", "2 Elm St", "Boston", "MA", "02134"]]')],
          array['2, 4', '2, 6', '', '', ''], 'headings of groups are left out where they can be no site and no part of one');
select is(array[pg_temp.left_out(r, '{"building_type": "RESIDENTIAL", "device_ids": "1"}'), pg_temp.left_out(r, '{"building_type": "RESIDENTIAL"}')], array['3', ''],
          'a row with nothing in the columns that are used is left out where none is missing')
  from (values ('[["Deal ID", "Unit", "Tenant", "Street", "City", "State", "Zip", "Rent"], ["d-1", "1", "Kim", "1 Elm St", "Boston", "MA", "02134", "9"], ["", "", "1 Unit", "", "", "", "", "9"],
                  ["", "2"], ["d-3", "3", "Lee", "1 Elm St", "Boston", "MA", "02134", "9"]]'::jsonb)) v (r);

select * from finish();
rollback;
