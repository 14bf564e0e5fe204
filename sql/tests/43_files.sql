begin;
select plan(36);

-- The header
select is(app.find_header('[[], ["Sites for March"], ["Deal ID", "Street", "City"], ["d-1", "1 Elm St", "Boston"]]', '{}'), 3,
          'the header is the row that names most columns, whatever stands above it');
select is(app.find_header('[["Key", "Where"], ["1", "City"]]', '{"reference_id": "key", "street_1": "WHERE"}'), 1,
          'names that the request gives make a header too');
select is(app.find_header('[[], ["x"], ["y"]]', '{}'), 2, 'where no row seems to be the header, the first filled one is taken for it');

select results_eq(
    $$ select field, how from app.file_columns(array['Deal ID', 'Billing Street', 'Billing City', 'Billing State/Province', 'Billing Zip/Postal Code', 'Notes', 'Bldg Type'],
                                               '{}', '{"device_ids": "1"}') $$,
    $$ values ('reference_id', 'name'), ('street_1', 'name'), ('city', 'name'), ('state_or_province_code', 'name'), ('postal_code', 'name'),
              (null, null), ('building_type', 'name') $$,
    'columns are known by the names of a CRM, and further ones are left');
select is((select array_agg(field) from app.file_columns(array['Key', 'A', 'B', 'C', 'D'],
               '{"reference_id": "KEY", "address.street_1": 2, "city": 3, "state_or_province_code": 4, "postal_code": 5}',
               '{"building_type": "RESIDENTIAL", "device_ids": "1"}')),
          array['reference_id', 'street_1', 'city', 'state_or_province_code', 'postal_code'], 'the request names columns by name or by number');
select is((select array_agg(field) from app.file_columns(array['Owner', 'City', 'Zip'], '{}', '{}', '{"owner": null}', true)), array[null, 'city', 'postal_code'],
          'a column that is remembered as unused leaves the others to their names');
select throws_ok(
    $$ select app.file_columns(array['Deal ID', 'Billing City', 'Shipping City'], '{}', '{}') $$,
    'PT400', 'More than one column may be the city: Billing City, Shipping City', 'two columns that fit equally well are asked for, not guessed');
select throws_ok(
    $$ select app.file_columns(array['Deal ID'], '{"city": "Nowhere"}', '{}') $$, 'PT400', 'No column is called Nowhere',
    'a column that is named must be there');
select throws_ok(
    $$ select app.file_columns(array['Deal ID'], '{"colour": "Deal ID"}', '{}') $$, 'PT400', 'There is no field colour', 'a field that is named must be one');
select throws_ok(
    $$ select app.file_columns(array['Deal ID', 'Street', 'City', 'State', 'ZIP'], '{}', '{}') $$, 'PT400',
    'Columns are missing: building_type, device_ids', 'what neither a column nor a default gives is missing');

-- The footer
select is(app.last_row('[["a", "b", "c"], ["1", "2", "3"], [], ["Open Deals"], ["Copyright (c) 2026"]]', 1), 2,
          'rows below an empty one that fill only their first cell are a footer');
select is(app.last_row('[["a", "b", "c"], ["1", "2", "3"], ["Grand Total"]]', 1), 2, 'a row that reads like a footer is one');
select is(app.last_row('[["a", "b", "c"], ["1", "2", "3"], ["d-2"]]', 1), 3, 'a row that is merely incomplete is none');
select is(app.last_row('[["a", "b", "c"], ["1", "2", "3"], [], ["4", "5", "6"]]', 1), 4, 'an empty row within the table ends nothing');

-- Cells
select is(app.clean_cell('="02134"'), '02134', 'a formula that only holds a text is that text');
select is(app.clean_cell('''02134'), '02134', 'a leading apostrophe keeps a spreadsheet from reading a number, and goes');
select is(app.clean_cell('''t Hooft St'), '''t Hooft St', 'an apostrophe that belongs to a name stays');
select is(app.clean_cell(E'\uFEFFBoston\u200B'), 'Boston', 'characters that nobody sees go');
select is(app.clean_cell(E'12\u00A0Elm\u00A0St'), '12 Elm St', 'a no-break space is a space');
select is((select array_agg(c) from unnest(array['#N/A', '\N', '#REF!', '(null)', 'Null Street', 'NULL']) c where app.is_placeholder(c)),
          array['#N/A', '\N', '#REF!', '(null)'], 'what a program writes where it has nothing is a placeholder, as a whole cell only');

-- Postal codes
select results_eq(
    $$ select app.corrected_postal_code('US', z)
         from unnest(array['02134', '021341234', '21341234', '02134 1234', '02134' || U&'\2013' || '1234', '02134-', '2134.0', '501', '2134-1234', '0 2134', '21']) z $$,
    $$ values ('02134'), ('02134-1234'), ('02134-1234'), ('02134-1234'), ('02134-1234'), ('02134'), ('02134'), ('00501'), ('02134-1234'), ('0 2134'), ('21') $$,
    'a ZIP is corrected where it is plain what was meant, else left');
select results_eq(
    $$ select app.corrected_postal_code('CA', z) from unnest(array['M5V 3L9', 'M5V3L9', 'm5v-3l9', 'M5V  3L9', 'KOA 1LO', '12345']) z $$,
    $$ values ('M5V 3L9'), ('M5V3L9'), ('M5V 3L9'), ('M5V 3L9'), ('K0A 1L0'), ('12345') $$,
    'a Canadian code likewise, a letter O for a zero included');

-- Devices
select is(app.read_device_ids('1;4'), '[1, 4]', 'ids are parted by semicolons');
select is(app.read_device_ids('[1, 4]'), '[1, 4]', 'ids may be an array');
select is(app.read_device_ids('1.0'), '[1]', 'a whole number that a spreadsheet gave a fraction is whole');
select is(app.read_device_ids('1 4|7'), '[1, 4, 7]', 'ids may be parted by spaces and bars');
select is(app.read_device_ids((select name from app.devices where id = 1)), '[1]', 'a device may be given by its name');
select is(app.read_device_ids((select upper(name) from app.devices where id = 1) || '; 4'), '[1, 4]', 'names and ids may stand side by side');
select is(jsonb_array_length(app.read_device_ids(repeat('1;', 5000))), 101, 'no more ids are read than are refused');
select is(jsonb_array_length(app.read_device_ids((select repeat(name || ';', 5000) from app.devices where id = 1))), 101, 'no more names are read than are refused');
select is(app.read_device_ids('—'), '"—"', 'what is no name at all is no device');
select is(app.read_device_ids('flux capacitor'), '"flux capacitor"', 'what is no device stays a text, for the validation to refuse');
select is(app.read_device_ids('1234567890'), '"1234567890"', 'a number that is too large to be an id stays a text');

-- Warnings
select is(app.correction('address.city', 'City', 'cleaned', '''Boston', 'Boston'),
          '{"field": "address.city", "code": "cleaned", "message": "City: ''Boston was read as Boston", "was": "''Boston", "now": "Boston"}',
          'a warning names the field, the column, what it said and as what it was read');
select is(app.correction('address.city', 'City', 'cleaned', E'Boston\u200B', 'Boston') ->> 'message', 'City: Boston<U+200B> was read as Boston',
          'a warning shows what cannot be seen');
select ok(app.may_need_cleaning('["a", "N/A"]') and app.may_need_cleaning('["''1"]') and not app.may_need_cleaning('["12 Main St", "Null Street", "a-b"]'),
          'one look at the JSON tells whether there may be anything to clean');

select * from finish();
rollback;
