begin;
select plan(83);

-- The header
select is(app.find_header('[[], ["Sites for March"], ["Deal ID", "Street", "City"], ["d-1", "1 Elm St", "Boston"]]', '{}'), 3,
          'the header is the row that names most columns, whatever stands above it');
select is(app.find_header('[["Key", "Where"], ["1", "City"]]', '{"reference_id": "key", "street_1": "WHERE"}'), 1,
          'names that the request gives make a header too');
select is(app.find_header('[[], ["x"], ["y"]]', '{}'), 2, 'where no row seems to be the header, the first filled one is taken for it');

select is(app.find_header('[["Leads"], [], ["", "Open", ""], ["Name", "Where", "Phone"], ["Kim", "12 Main St", "1"]]', '{}'), 4,
    'where no row seems to be the header, a title above the table is not taken for it');
select is(array[app.find_header('[["1", "12 Main St", "Boise", "ID", "83702"], ["2", "14 Main St", "Boise", "ID", "83702"]]', '{}'),
                app.find_header('[["A", "12 Main St, Boston, MA 02134"]]', '{}'), app.find_header('[["2024 kWh", "Where", "ZIP 5"], ["3", "12 Main St", "02134"]]', '{}'),
                app.find_header('[["12 Main St", "Where", "10001"]]', '{"street_1": 1}')], array[0, 0, 1, 0],
          'where the first row is a site, there is no header, even if a state has the name of a column');
select is(array[app.find_header('[["1", "12 Main St", "Boston", "MA", ""], ["2", "14 Main St", "Boston", "MA", ""]]', '{}'),
                app.find_header('[["a", "12 Main St", "Boise", "ID", ""]]', '{}'), app.find_header('[["2024 kWh", "City", "ST"], ["3", "Boston", "MA"]]', '{}'),
                app.find_header('[["12 Main St", "Where", "FOO"]]', '{}')], array[0, 0, 1, 1],
          'a site without a ZIP code is one by its street, city and state, where they are no names of columns');
select results_eq(
    $$ select field, how from app.file_columns(array['Deal ID', 'Billing Street', 'Billing City', 'Billing State/Province', 'Billing Zip/Postal Code', 'Notes', 'Bldg Type'],
                                               '{}', '{"device_ids": "1"}') $$,
    $$ values ('reference_id', 'name'), ('street_1', 'name'), ('city', 'name'), ('state_or_province_code', 'name'), ('postal_code', 'name'),
              (null, null), ('building_type', 'name') $$,
    'columns are recognized by the names of a CRM, and others are kept');
select is((select array_agg(field) from app.file_columns(array['Key', 'A', 'B', 'C', 'D'],
               '{"reference_id": "KEY", "address.street_1": 2, "city": 3, "state_or_province_code": 4, "postal_code": 5}',
               '{"building_type": "RESIDENTIAL", "device_ids": "1"}')),
          array['reference_id', 'street_1', 'city', 'state_or_province_code', 'postal_code'], 'the request names columns by name or by number');
select is((select array_agg(field) from app.file_columns(array['Owner', 'City', 'Zip'], '{}', '{}', '{"owner": null}', true)), array[null, 'city', 'postal_code'],
          'a column that is remembered as unused leaves the others to their names');
select throws_ok(
    $$ select app.file_columns(array['Deal ID', 'Billing City', 'Shipping City'], '{}', '{}') $$,
    'PT400', 'More than one column may be the city: Billing City, Shipping City', 'two columns that match equally well are an error, not a guess');
select throws_ok(
    $$ select app.file_columns(array['Deal ID'], '{"city": "Nowhere"}', '{}') $$, 'PT400', 'No column is called Nowhere',
    'a named column must exist');
select throws_ok(
    $$ select app.file_columns(array['Deal ID'], '{"colour": "Deal ID"}', '{}') $$, 'PT400', 'There is no field colour', 'a named field must exist');
select throws_ok(
    $$ select app.file_columns(array['Deal ID', 'Street', 'City', 'State', 'ZIP'], '{}', '{}') $$, 'PT400',
    'Columns are missing: building_type, device_ids', 'a field without a column or a default is missing');
select results_eq(
    $$ select field from app.file_columns(array['Key', 'Plant Address', 'Plant City', 'Plant State', 'Plant Address Postal Code', 'Email Address'],
                                          '{"reference_id": "Key"}', '{"building_type": "RESIDENTIAL", "device_ids": "1"}') $$,
    $$ values ('reference_id'), ('street_1'), ('city'), ('state_or_province_code'), ('postal_code'), (null) $$,
    'columns of an address are recognized whatever precedes all their names, but an e-mail address is none');
select results_eq(
    $$ select field from app.file_columns(array['Key', 'Plant Street Address', 'Plant City', 'Plant State', 'Plant Zip Code'],
                                          '{"reference_id": "Key"}', '{"building_type": "RESIDENTIAL", "device_ids": "1"}') $$,
    $$ values ('reference_id'), ('street_1'), ('city'), ('state_or_province_code'), ('postal_code') $$,
    'what precedes the longest name that a column may have is its prefix');
select throws_ok(
    $$ select app.file_columns(array['ID', 'Street', 'State', 'Zip', 'Birth City', 'Birth State'], '{}', '{"building_type": "RESIDENTIAL", "device_ids": "1"}') $$,
    'PT400', 'Columns are missing: city', 'a prefix that is not known and has no street is not that of an address');
select throws_ok(
    $$ select app.file_columns(array['ID', 'Street', 'Mailing Address', 'Mailing City', 'Mailing State', 'Mailing Zip'], '{}',
                               '{"building_type": "RESIDENTIAL", "device_ids": "1"}') $$,
    'PT400', 'Columns are missing: city, state_or_province_code, postal_code', 'a street does not get the city of another address');
select is((select field from app.file_columns(array['ID', 'Street', 'City', 'State', 'Zip', 'Mailing Zip', 'Mailing Unit'], '{}',
                                              '{"building_type": "RESIDENTIAL", "device_ids": "1"}') where header = 'Mailing Unit'),
    null, 'a street does not get the unit of another address, of which only the ZIP code is given');
select throws_ok(
    $$ select app.file_columns(array['ID', 'Situs Address', 'Situs City', 'Situs State', 'Billing Zip'], '{"street_1": "Situs Address"}',
                               '{"building_type": "RESIDENTIAL", "device_ids": "1"}') $$,
    'PT400', 'Columns are missing: postal_code', 'a street that the request names does not get the ZIP code of another address');
select is((select field from app.file_columns(array['ID', 'Site Address', 'Site City', 'Site State', 'Site Zip', 'Billing Country'], '{}',
                                              '{"building_type": "RESIDENTIAL", "device_ids": "1"}') where header = 'Billing Country'),
    'country_code', 'the only country of a file is that of all its addresses');
select is((select how from app.file_columns(array['ID', 'Site Address', 'Mailing Address', 'Mailing Country'], '{}', '{}', p_lenient => true) where header = 'Mailing Country'),
    'name', 'a draft takes the only country of a file before it is known which address is meant');
select throws_ok(
    $$ select app.file_columns(array['APN', 'Situs Address', 'Situs City', 'Situs Zip', 'Mailing Address', 'Mailing City', 'Mailing State', 'Mailing Zip'], '{}', '{}') $$,
    'PT400', 'More than one column may be the street_1: Situs Address, Mailing Address', 'the address of a site and that of its owner are not mixed up');
select throws_ok(
    $$ select app.file_columns(array['ID', 'Plant City', 'Mailing City', 'Plant Addr', 'Mailing Addr', 'Mailing State', 'Mailing Zip'], '{}',
                               '{"building_type": "RESIDENTIAL", "device_ids": "1"}') $$,
    'PT400', 'More than one column may be the street_1: Plant Addr, Mailing Addr', 'a prefix that is not known does not leave the address to one that is');
select results_eq(
    $$ select field, how from app.file_columns(array['ID', 'Situs Address', 'Situs City', 'Situs State', 'Situs Zip', 'Mailing Address', 'Mailing City', 'Mailing State',
                                                     'Mailing Zip', 'Mailing Unit'],
                                               '{"street_1": "Situs Address"}', '{"building_type": "RESIDENTIAL", "device_ids": "1"}') $$,
    $$ values ('reference_id', 'name'), ('street_1', 'given'), ('city', 'name'), ('state_or_province_code', 'name'), ('postal_code', 'name'),
              (null, null), (null, null), (null, null), (null, null), (null, null) $$,
    'the columns of an address follow its street, which the request gives');
select throws_ok(
    $$ select app.file_columns(array['ID', 'Site Address', 'Site City', 'Billing State', 'Billing Zip'], '{}', '{"building_type": "RESIDENTIAL", "device_ids": "1"}') $$,
    'PT400', 'Columns are missing: state_or_province_code, postal_code', 'an address is not put together from two');
select is(
    (select array_agg(field order by header) from app.file_columns(
        array['ID', 'Street', 'City', 'State', 'Zip', 'Billing Street', 'Billing Street 2', 'Billing City', 'Billing State', 'Billing Zip', 'Billing Country'], '{}',
        '{"building_type": "RESIDENTIAL", "device_ids": "1"}') where header like 'Billing%'),
    array_fill(null::text, array[6]), 'the unit and the country of an address whose street is not used are not used either');
select is(
    (select array_agg(field) from app.file_columns(array['ID', 'Property Address', 'City', 'State', 'Zip', 'Billing Country'], '{}',
                                                   '{"building_type": "RESIDENTIAL", "device_ids": "1"}')),
    array['reference_id', 'street_1', 'city', 'state_or_province_code', 'postal_code', 'country_code'], 'columns without a prefix go with any');
select is(
    (select array_agg(field) from app.file_columns(array['ID', 'Country', 'Billing Street', 'Billing City', 'Billing State', 'Billing Zip', 'Billing Country'], '{}',
                                                   '{"building_type": "RESIDENTIAL", "device_ids": "1"}')),
    array['reference_id', null, 'street_1', 'city', 'state_or_province_code', 'postal_code', 'country_code'], 'a country without a prefix does not make another address of the rest');
select is((select array_agg(array(select c.header from app.file_columns(array['ID', 'Address', 'City', 'State', 'Zip', 'Property Address', 'Property City', 'Property State', 'Property Zip'],
                                                                        format('{"street_1": "%s"}', street)::jsonb, '{"building_type": "RESIDENTIAL", "device_ids": "1"}') c
                                   where c.field = any ('{city,state_or_province_code,postal_code}')) order by street)
             from unnest(array['Address', 'Property Address']) street),
          array[['City', 'State', 'Zip'], ['Property City', 'Property State', 'Property Zip']], 'a street that the request names gets the city, state and ZIP code of its own');
select is((select array_agg(header) from app.file_columns(array['ID', 'City', 'Zip', 'Property Address', 'Property City', 'Property State', 'Property Zip'], '{}',
                                                          '{"building_type": "RESIDENTIAL", "device_ids": "1"}') where field is not null),
          array['ID', 'Property Address', 'Property City', 'Property State', 'Property Zip'], 'the city of a street is that with its prefix before one without any');
select throws_ok(
    $$ select app.file_columns(array['ID', 'Address', 'City', 'State', 'Zip', 'Property Address'], '{}', '{"building_type": "RESIDENTIAL", "device_ids": "1"}') $$,
    'PT400', 'More than one column may be the street_1: Address, Property Address', 'an address may be another one than that of the site');
select is((select array_agg(header) from app.file_columns(array['ID', 'Address', 'City', 'State', 'Zip', 'Site Address', 'Site City', 'Site State', 'Site Zip', 'Billing Address'], '{}', '{}', p_lenient => true)
            where how = 'ambiguous'),
          array['Address', 'City', 'State', 'Zip', 'Site Address', 'Site City', 'Site State', 'Site Zip'], 'a draft leaves all parts of such addresses open');
select is((select array_agg(header) from app.file_columns(array['ID', 'Street Number', 'Street Name', 'City', 'State', 'Zip', 'Site Address'], '{}', '{"building_type": "RESIDENTIAL", "device_ids": "1"}')
            where field is not null),
          array['ID', 'Street Number', 'Street Name', 'City', 'State', 'Zip'], 'the name of a street is part of the address of the site');
select is(
    (select array_agg(field) from app.file_columns(array['ID', 'Site Street', 'Site Unit', 'Where', 'Site State', 'Site Zip'], '{"city": "Where", "street_2": null}',
                                                   '{"building_type": "RESIDENTIAL", "device_ids": "1"}')),
    array['reference_id', 'street_1', null, 'city', 'state_or_province_code', 'postal_code'], 'a field that the request gives leaves the others to their names');
select is(
    (select array_agg(field) from app.file_columns(
        array['ID', 'Situs House Number', 'Situs Street Name', 'Situs Street Type', 'Situs City', 'Situs State', 'Situs Zip', 'Owner Street Number', 'Owner Street Name'],
        '{"street_1": "Situs Street Name"}', '{"building_type": "RESIDENTIAL", "device_ids": "1"}')),
    array['reference_id', 'street_number', 'street_1', 'street_suffix', 'city', 'state_or_province_code', 'postal_code', null, null],
    'the number of a house goes with its own street');
select is(
    (select array_agg(field) from app.file_columns(
        array['reference_id', 'address.street_1', 'address.street_2', 'address.city', 'address.state_or_province_code', 'address.postal_code', 'address.country_code'], '{}',
        '{"building_type": "RESIDENTIAL", "device_ids": "1"}')),
    array['reference_id', 'street_1', 'street_2', 'city', 'state_or_province_code', 'postal_code', 'country_code'], 'the members of an item in JSON are names of columns, too');
select is(
    (select array_agg((select h.name from unnest(n.names) with ordinality h (name, number)
                         join app.file_columns(n.names, '{}', '{}', '{}', true) with ordinality c (header, field, how, number) using (number)
                        where c.field = 'postal_code') order by n.i)
       from (values (1, array['Street', 'City', 'Zip5', 'Zip4']), (2, array['Street', 'ZIP+4', 'City', 'Postal']), (3, array['Street', 'City', 'ZIP+4']),
                    (4, array['Site Street', 'Site City', 'Site Zip5', 'Zip4']), (5, array['Zip 4', 'Street', 'Site City', 'Site Zip'])) n (i, names)),
    array['Zip5', 'Postal', 'ZIP+4', 'Site Zip5', 'Site Zip'], 'the last four digits of a ZIP code are not taken for it');


-- The parts of a street
create function pg_temp.fields(p_headers text[]) returns text
language sql return (select string_agg(coalesce(regexp_replace(field, '^street_', ''), case how when 'ambiguous' then '?' else '-' end), ' ' order by n)
                       from app.file_columns(p_headers, '{}', '{}', '{}', true) with ordinality c (header, field, how, n));
select is((select array_agg(pg_temp.fields(h) order by n)
             from (values (1, array['HOUSE_NO', 'HOUSE_SFX', 'PRE_DIR', 'STREET', 'SUFFIX', 'POST_DIR', 'UNIT']),
                          (2, array['StreetNumber', 'StreetDirPrefix', 'StreetName', 'StreetSuffix', 'StreetDirSuffix', 'UnitNumber']),
                          (3, array['Add_Number', 'AddNum_Suf', 'St_PreDir', 'St_PreTyp', 'St_Name', 'St_PosTyp', 'St_PosDir']),
                          (4, array['STREETNUM', 'STREETDIR', 'STREETNAME', 'STREETSUF', 'UNITNUM']),
                          (5, array['No civique', 'Type de rue', 'Nom de rue', 'Orientation', 'No app.']),
                          (6, array['Number', 'Direction', 'Street', 'Type', 'Apt'])) v (n, h)),
          array['number number_suffix predirectional 1 suffix postdirectional 2', 'number predirectional 1 suffix postdirectional 2',
                'number number_suffix predirectional pretype 1 suffix postdirectional', 'number predirectional 1 suffix 2', 'number pretype 1 postdirectional 2',
                'number predirectional 1 suffix 2'],
          'the parts of a street are recognized by the names that assessors, listings and address points give them');
select is((select array_agg(pg_temp.fields(h) order by n)
             from (values (1, array['SITUS_NUM', 'SITUS_FRAC', 'SITUS_DIR', 'SITUS_STREET', 'SITUS_TYPE', 'SITUS_CITY']),
                          (2, array['SITUS HOUSE NUMBER', 'SITUS HOUSE NUMBER SUFFIX', 'SITUS DIRECTION LEFT', 'SITUS STREET NAME', 'SITUS MODE', 'SITUS DIRECTION RIGHT', 'SITUS CITY']),
                          (3, array['L_AddressNumber', 'L_AddressDirection', 'L_AddressStreet', 'L_City']),
                          (4, array['PropertyAddressHouseNumber', 'PropertyAddressStreetDirection', 'PropertyAddressStreetName', 'PropertyAddressStreetSuffix', 'PropertyAddressStreetPostDirection', 'PropertyAddressUnitValue'])) v (n, h)),
          array['number number_suffix predirectional 1 suffix city', 'number number_suffix predirectional 1 suffix postdirectional city', 'number predirectional 1 city',
                'number predirectional 1 suffix postdirectional 2'],
          'the parts of a street are recognized behind a prefix');
select is(array[pg_temp.fields(array['No dossier', 'Adresse', 'App.', 'Ville']), pg_temp.fields(array['Name', 'Address', 'App', 'City'])], array['reference_id 1 2 city', '- 1 - city'],
          'App. is the number of an apartment beside French names');
select is(pg_temp.fields(array['Nº', 'Referencia', 'Dirección física', 'Apartamento', 'Municipio', 'Estado', 'Código postal']), '- reference_id 1 2 city state_or_province_code postal_code',
          'columns are recognized by their Spanish names');
select is(pg_temp.fields(array['LON', 'LAT', 'NUMBER', 'STREET', 'UNIT', 'CITY', 'DISTRICT', 'REGION', 'POSTCODE']), '- - number 1 2 city - state_or_province_code postal_code',
          'a number beside the street is that of the house');
select is((select array_agg(pg_temp.fields(h) order by n)
             from (values (1, array['Number', 'Name', 'Street']), (2, array['Job Number', 'Customer Type', 'Street']), (3, array['Street', 'City', 'Type']), (4, array['Street', 'Type', 'City']),
                          (5, array['Prefix', 'Name', 'Suffix', 'House Number', 'Street']), (6, array['Number', 'Street Address']),
                          (7, array['Primary Number', 'Business Unit', 'Street', 'Land/Lot Size'])) v (n, h)),
          array['- - 1', 'reference_id - 1', '1 city -', '1 - city', '- - - number 1', '- 1', '- - 1 -'],
          'a number or a type elsewhere, or without a number of a house, is no part of a street');
select is(pg_temp.fields(array['Street No', 'Street Name', 'Street Type', 'Street Direction']), 'number 1 suffix postdirectional', 'a direction to the right of the street stands behind it');
select is(pg_temp.fields(array['ADDR_NUM', 'ADDR_SFX', 'ST_PREFIX', 'ST_NAME', 'ST_TYPE', 'ST_SUFFIX']), 'number number_suffix predirectional 1 suffix postdirectional',
          'beside the type of a street, its suffix is a direction');
select is((select array_agg(pg_temp.fields(h) order by n)
             from (values (1, array['Address', 'Street Name', 'City']), (2, array['Address', 'House Number', 'Street Name', 'City']), (3, array['Delivery Line 1', 'Primary Number', 'Street Name', 'City Name']),
                          (4, array['Property Address', 'Property Street Address 1', 'Property City'])) v (n, h)),
          array['1 - city', '- number 1 city', '1 number - city', '- 1 city'], 'the name of a street is not taken for its address, unless its number has a column');
select is((select array_agg(pg_temp.fields(h) order by n)
             from (values (1, array['Street', 'City/Town/Village', 'State/Region/Province', 'Zip/Post Code']), (2, array['Adresse / Address', 'Ville / City', 'ZIP or Postal Code']),
                          (3, array['Street', 'Name/City', 'Job/Project Name'])) v (n, h)),
          array['1 city state_or_province_code postal_code', '1 city postal_code', '1 city -'], 'alternatives in the name of a column are recognized');
select results_eq(
    $$ select field from app.file_columns(array['ID', 'Billing Street', 'Billing City', 'Billing State', 'Billing Zip', 'Billing Country', 'Shipping Country'], '{}',
                                          '{"building_type": "RESIDENTIAL", "device_ids": "1"}') $$,
    $$ values ('reference_id'), ('street_1'), ('city'), ('state_or_province_code'), ('postal_code'), ('country_code'), (null) $$,
    'a street gets its own country if a file has several');
select throws_ok(
    $$ select app.file_columns(array['12 Elm St', 'Boston'], '{}', '{}') $$, 'PT400',
    'Columns are missing: reference_id, street_1, city, state_or_province_code, postal_code, building_type, device_ids', 'a site is no header');

select is((select array_agg(pg_temp.fields(h) order by n)
             from (values (1, array['Record Id', 'Billing Street', 'Billing City', 'Billing State', 'Billing Code', 'Billing Country']),
                          (2, array['Property Code', 'Address', 'City', 'State', 'Zip', 'Billing Code']),
                          (3, array['Account Number', 'SVC_ADDR', 'SVC_CITY', 'SVC_ST', 'SVC_ZIP', 'Service Cost']),
                          (4, array['Kundennr.', 'Straße und Hausnummer', 'PLZ', 'Ort', 'Staat']),
                          (5, array['N° client', 'Adresse', 'Complément d''adresse', 'Code postal', 'Ville', 'État']),
                          (6, array['Nº de cliente', 'Calle', 'Número', 'Ciudad', 'Estado', 'C.P.']), (7, array['Address', 'City St Zip'])) v (n, h)),
          array['reference_id 1 city state_or_province_code postal_code country_code', '- 1 city state_or_province_code postal_code -',
                'reference_id 1 city state_or_province_code postal_code -', 'reference_id 1 postal_code city state_or_province_code',
                'reference_id 1 2 postal_code city state_or_province_code', 'reference_id 1 number city state_or_province_code postal_code', '1 city'],
          'columns are recognized by the names of Zoho, of utilities, and in other languages');

-- The footer
select is(app.last_row('[["a", "b", "c"], ["1", "2", "3"], [], ["Open Deals"], ["Copyright (c) 2026"]]', 1), 2,
          'rows below an empty one that fill only their first cell are a footer');
select is(app.last_row('[["a", "b", "c"], ["1", "2", "3"], ["Grand Total"]]', 1), 2, 'a row that reads like a footer is one');
select is(array[app.last_row('[["a", "b", "c", "d"], ["1", "2", "3", "4"], ["Total", "", "", "15700"], ["Copyright 2026"]]', 1),
                app.last_row('[["a", "b", "c", "d"], ["1", "2", "3", "4"], ["Total", "1 Elm St", "Boston", "02134"]]', 1),
                app.last_row('[["a", "b", "c", "d"], ["1", "2", "3", "4"], ["Total Wine", "", "", "02134"]]', 1)], array[2, 3, 3],
          'a row of totals is a footer, but a site by that name is not');
select is(array(select app.has_totals(c::jsonb, '{1,3,4}')
                    from unnest(array['["", "Subtotal", "", "", "3"]', '["Oak Court Total", "", "", ""]', '["Total for Oak Court", "1"]', '["Total", "", "1 Elm St", ""]', '["d-1", "Total Wine", "", ""]',
                                      '["d-2", "", "", ""]', '["Totally", ""]', '["", ""]']) with ordinality u (c, n) order by n),
          array[true, true, true, false, false, false, false, false], 'a row within the table that has no id and no address, but reads like totals, has totals');
select is(app.last_row('[["a", "b", "c"], ["1", "2", "3"], ["d-2"]]', 1), 3, 'a row that is merely incomplete is not a footer');
select is(app.last_row('[["a", "b", "c"], ["1", "2", "3"], [], ["4", "5", "6"]]', 1), 4, 'an empty row within the table does not end it');

-- Cells
select is(array[app.clean_cell('１２３ Ｍａｉｎ Ｓｔ＃４'), app.clean_cell('Ｏ＇Ｆａｌｌｏｎ　～')], array['123 Main St#4', 'O''Fallon ~'], 'letters and digits of another width become the usual ones');
select is(app.clean_cell('="02134"'), '02134', 'a formula that only holds a text is that text');
select is(app.clean_cell('''02134'), '02134', 'a leading apostrophe, which keeps a spreadsheet from reading a number, is removed');
select is(app.clean_cell('''t Hooft St'), '''t Hooft St', 'an apostrophe that belongs to a name stays');
select is(app.clean_cell(E'\uFEFFBoston\u200B'), 'Boston', 'invisible characters are removed');
select is(app.clean_cell(E'12\u00A0Elm\u00A0St'), '12 Elm St', 'a no-break space counts as a space');
select is((select array_agg(c) from unnest(array['#N/A', '\N', '#REF!', '(null)', 'Null Street', 'NULL']) c where app.is_placeholder(c)),
          array['#N/A', '\N', '#REF!', '(null)'], 'placeholders of programs are recognized, as whole cells only');

select is((select array_agg(c order by n) from unnest(array['Same as above', 'ditto', '"', U&'\3003', '...', '-', '?', ',', '.. .', U&'\2193', '=A1&" Main"', '&', 'Same St', '#4', '+1', U&'\00BD', '(rear)'])
                                                  with ordinality u (c, n) where app.is_placeholder(c) and app.may_need_cleaning(jsonb_build_array('a', c, 'b')::text)),
          array['Same as above', 'ditto', '"', U&'\3003', '...', '-', '?', ',', '.. .', U&'\2193', '=A1&" Main"', '&'],
          'signs alone, formulas, and words for the cell above are placeholders');
select is(array(select app.clean_cell(c) from unnest(array['=HYPERLINK("https://example.com/1","d-1")', '=hyperlink("https://example.com/1"; "d-1")', '="12"&" Main"']) with ordinality u (c, n) order by n),
          array['d-1', 'd-1', '="12"&" Main"'], 'a link is its text, and a formula of several texts is none of them');

-- Postal codes
select results_eq(
    $$ select app.corrected_postal_code('US', z)
         from unnest(array['02134', '021341234', '21341234', '02134 1234', '02134' || U&'\2013' || '1234', '02134-', '2134.0', '501', '2134-1234', '0 2134', '21',
                           '94,601', '2,134', '12,000', '9,460.00', '945,000']) z $$,
    $$ values ('02134'), ('02134-1234'), ('02134-1234'), ('02134-1234'), ('02134-1234'), ('02134'), ('02134'), ('00501'), ('02134-1234'), ('0 2134'), ('21'),
              ('94601'), ('02134'), ('12000'), ('09460'), ('945,000') $$,
    'a ZIP is corrected if its meaning is clear, otherwise left as it is');
select results_eq(
    $$ select app.corrected_postal_code('CA', z) from unnest(array['M5V 3L9', 'M5V3L9', 'm5v-3l9', 'M5V  3L9', 'KOA 1LO', '12345']) z $$,
    $$ values ('M5V 3L9'), ('M5V3L9'), ('M5V 3L9'), ('M5V 3L9'), ('K0A 1L0'), ('12345') $$,
    'a Canadian code is corrected likewise, including a letter O for a zero');

-- Devices
select is(app.read_device_ids('1;4'), '[1, 4]', 'ids are separated by semicolons');
select is(app.read_device_ids('[1, 4]'), '[1, 4]', 'ids may be an array');
select is(app.read_device_ids('1.0'), '[1]', 'a whole number to which a spreadsheet added a fraction is read as whole');
select is(app.read_device_ids('1 4|7'), '[1, 4, 7]', 'ids may be separated by spaces and bars');
select is(array(select app.read_device_ids(t) from unnest(array['1,000', '0', '01;4', '1;0']) t), array['"1,000"', '"0"', '[1, 4]', '"1;0"']::jsonb[], 'no device has the id 0, so that the text stays as it is');
select is(app.read_device_ids((select name from app.devices where id = 1)), '[1]', 'a device may be given by its name');
select is(app.read_device_ids((select upper(name) from app.devices where id = 1) || '; 4'), '[1, 4]', 'names and ids may be mixed');
select is(jsonb_array_length(app.read_device_ids(repeat('1;', 5000))), 101, 'ids are read only until there are too many');
select is(jsonb_array_length(app.read_device_ids((select repeat(name || ';', 5000) from app.devices where id = 1))), 101, 'names are read only until there are too many');
select is(app.read_device_ids('—'), '"—"', 'a text that cannot be a name is not a device');
select results_eq($$ select app.read_device_ids(t, '{"heatpump": 1, "airsourceheatpumpducted": 2, "thermostat": 3}')
                      from unnest(array['Heat pump, Thermostat', 'Air-source heat pump, ducted,Thermostat', 'Thermostat; Air-source heat pump, ducted; 7', 'Heat pump, Toaster', 'Thermostat, 7']) with ordinality u (t, n) order by n $$,
                  $$ values ('[1, 3]'::jsonb), ('[2, 3]'), ('[3, 2, 7]'), ('"Heat pump, Toaster"'), ('"Thermostat, 7"') $$, 'names may be separated by commas, and have commas themselves');
select is(app.read_device_ids('flux capacitor'), '"flux capacitor"', 'a text that is not a device stays as it is, to be refused by the validation');
select is(app.read_device_ids('1234567890'), '"1234567890"', 'a number that is too large to be an id stays a text');

-- Warnings
select is(app.correction('address.city', 'City', 'cleaned', '''Boston', 'Boston'),
          '{"field": "address.city", "code": "cleaned", "message": "City: ''Boston was read as Boston", "was": "''Boston", "now": "Boston"}',
          'a warning names the field, the column, the text and how it was read');
select is(app.correction('address.city', 'City', 'cleaned', E'Boston\u200B', 'Boston') ->> 'message', 'City: Boston<U+200B> was read as Boston',
          'a warning shows invisible characters');
select ok(app.may_need_cleaning('["a", "N/A"]') and app.may_need_cleaning('["''1"]') and not app.may_need_cleaning('["12 Main St", "Null Street", "a-b"]'),
          'one check of the JSON shows whether there may be anything to clean');

select * from finish();
rollback;
