begin;
select plan(18);

create function pg_temp.parts(p_text text, variadic p_given text[]) returns text
language sql as $$
    select concat_ws(' | ', p ->> 'street_1', p ->> 'city', p ->> 'state_or_province_code', p ->> 'postal_code')
      from app.parts_of_address(p_text, p_given, app.known_regions()) p;
$$;

select is(array(select pg_temp.parts(t, 'street_1')
                  from unnest(array['1 Main St, Oakland, CA 94601', '1 MAIN ST, APT 4, BATON ROUGE, LOUISIANA, 70801-1234, USA', E'1 Main St\nOakland CA\n94601',
                                    E'1 Main St\nOakland, CA 94601\nUnited States', '8 Rue A, Montréal, QC H2Y 1C6, Canada', '1 Main St, Barre, VT 5641']) t),
          array['1 Main St | Oakland | CA | 94601', '1 MAIN ST, APT 4 | BATON ROUGE | LOUISIANA | 70801-1234', '1 Main St | Oakland | CA | 94601',
                '1 Main St | Oakland | CA | 94601', '8 Rue A | Montréal | QC | H2Y 1C6', '1 Main St | Barre | VT | 5641'],
          'a whole address in one cell is split into its parts');
select is(array(select pg_temp.parts(t, 'street_1')
                  from unnest(array[U&'1 Main St, Oakland, CA 94601\20131234', '1 Main St, Oakland, CA 94601 1234', '1 Main St, Oakland, CA 946011234', '1 Main St, Oakland, CA 94601 - 1234.',
                                    '1 Main St, Oakland, CA 94601, U.S.A.', '1 Main St, Oakland, CA 94601, U.S.', '8 Rue A, Laval, QC H7A-0A1', '8 Rue A, Laval, QC H7A  0A1']) t),
          array[U&'1 Main St | Oakland | CA | 94601\20131234', '1 Main St | Oakland | CA | 94601 1234', '1 Main St | Oakland | CA | 946011234', '1 Main St | Oakland | CA | 94601 - 1234',
                '1 Main St | Oakland | CA | 94601', '1 Main St | Oakland | CA | 94601', '8 Rue A | Laval | QC | H7A-0A1', '8 Rue A | Laval | QC | H7A  0A1'],
          'a postal code at the end of an address may be written in any way that can be corrected');
select is(array(select pg_temp.parts(t, 'street_1', 'postal_code')
                  from unnest(array['1 Main St, Oakland, CA 94601', '1 Main St, Oakland, CA', '1 Main St, Oakland 94601', '1 Main St']) t)
          || pg_temp.parts('Oakland, CA 94601', 'street_1', 'city', 'postal_code'),
          array['1 Main St | Oakland | CA', '1 Main St | Oakland | CA', '', '', 'Oakland | CA'], 'an address may repeat the postal code, which has a column of its own');
select is(array(select pg_temp.parts(t, 'street_1') from unnest(array['1 Main St', '1 Main St Oakland CA 94601', '1 Main St, Oakland 94601', '1 Main St, 94601', ', Oakland, CA 94601', '', null]) t),
          array['', '', '', '', '', '', ''], 'nothing is guessed of an address without a state or without a comma before its city');
select is(array(select pg_temp.parts(t, 'street_1')
                  from unnest(array['1 Main St, Apt 4 Oakland, CA 94601', '1 Main St, # 4 Oakland, CA 94601', '1 Main St, Oakland, Alameda County, CA 94601',
                                    '1 Main St, Lothian, MD 20711']) t),
          array['', '', '', '1 Main St | Lothian | MD | 20711'], 'a unit or a county is not read as the city');
select is(array(select pg_temp.parts(t, 'street_1', 'city') from unnest(array['Oakland, CA 94601', 'Oakland CA 94601', 'Port Washington 11050', 'CA 94601']) t),
          array['Oakland | CA | 94601', 'Oakland | CA | 94601', '', ''], 'a cell with a city may have the state and the postal code too');
select is(array(select pg_temp.parts(t, 'street_1', 'city', 'postal_code') from unnest(array['Oakland, CA', 'New York, New York', 'Oakland ca', 'New York', 'Oakland', 'Orange County, CA']) t),
          array['Oakland | CA', 'New York | New York', 'Oakland | ca', '', '', 'Orange County | CA'], 'a cell with a city may have the state alone');
select is(array(select pg_temp.parts(t, 'street_1', 'city', 'state_or_province_code') from unnest(array['CA 94601', 'New York, 10001', 'Oakland, CA 94601', 'CA']) t),
          array['CA | 94601', 'New York | 10001', '', ''], 'a cell with a state may have the postal code too');
select is(array[pg_temp.parts('1 Main St, Washington DC 20500', 'street_1'), pg_temp.parts('Washington DC 20500', 'street_1', 'city'),
                pg_temp.parts('Washington DC 20500', 'street_1', 'city', 'state_or_province_code')],
          array['1 Main St | Washington | DC | 20500', 'Washington | DC | 20500', 'Washington DC | 20500'], 'Washington DC can be a state, or a city with its state');
select is(app.field_of_shared_cells(array['street_1', 'city', 'state_or_province_code', 'postal_code']), null, 'columns of their own are read as they are');
select is(app.fields_in_shared_cells('[{"number": 1, "field": null}, {"number": 2, "field": "street_1"}]', '[["", "?"], ["", "1 Main St, Oakland, CA 94601"]]'),
          array['city', 'street_1', 'postal_code', 'state_or_province_code'], 'the rows determine which fields share cells');
select results_eq(
    $$ select app.missing_fields(jsonb_build_array('{"number": 1, "field": "reference_id"}'::jsonb, jsonb_build_object('number', 2, 'field', 'street_1', 'samples', s.samples)),
                                 '{"building_type": "RESIDENTIAL", "device_ids": [1]}')
         from (values (1, '["1 Main St", "2 Main St, Oakland, CA 94601"]'::jsonb), (2, '["1 Main St"]'), (3, 'null')) s (n, samples)
        order by s.n $$,
    $$ values ('{}'::text[]), ('{city,state_or_province_code,postal_code}'), ('{city,state_or_province_code,postal_code}') $$,
    'the samples of a column show which fields a draft lacks');
select is(app.missing_fields('[{"number": 1, "field": "reference_id"}, {"number": 2, "field": "street_1", "samples": ["2 Main St, Oakland, CA 94601"]}]',
                             '{"state_or_province_code": "NV", "building_type": "RESIDENTIAL", "device_ids": [1]}'),
          '{}', 'a default for a part of an address does not change what its cells have');

-- The rest of the address beside the street.
select is(app.street_alone('12 Elm St Boston, MA 02134', 'Boston', 'MA', '02134'), '12 Elm St', 'what other columns say of the address is taken off the street');
select is(app.street_alone('1 Main St Oak(land, ( 9460[', 'Oak(land', '(', '9460['), '1 Main St', 'no character of a cell has a meaning of its own there');

select is(array(select app.parts_of_address(t, '{street_1}', app.known_regions())
                    from unnest(array['123 Main St  Springfield  IL  62701  US', '123 Main St  Apt 4  Springfield  IL  62701', '12 Elm St  Montréal  QC  H2X 1Y4  CA',
                                      '123 N  Main St Springfield IL 62701', '123 Main St, Los Angeles, CA 90012'])
                         with ordinality u (t, n) order by n),
          array['{"city": "Springfield", "street_1": "123 Main St", "postal_code": "62701", "state_or_province_code": "IL"}',
                '{"city": "Springfield", "street_1": "123 Main St, Apt 4", "postal_code": "62701", "state_or_province_code": "IL"}',
                '{"city": "Montréal", "street_1": "12 Elm St", "postal_code": "H2X 1Y4", "state_or_province_code": "QC"}',
                null, '{"city": "Los Angeles", "street_1": "123 Main St", "postal_code": "90012", "state_or_province_code": "CA"}']::jsonb[],
          'two spaces separate the parts of an address, but only if they do so around the state');
select is(array(select app.repeats_unit(s, u) from (values (1, '12 Main St Apt 4', '4'), (2, '12 Main St, Unit 4B', 'unit 4B'), (3, '12 Main St #4', 'Apt. 4'), (4, '12 rue Main, app. 4', '# 4'),
                                                           (5, '12 Main St Apt 4', '5'), (6, '12 Route 4', '4'), (7, '12 Main St Apt 4', 'Apt'), (8, '12 Main St', null)) v (n, s, u) order by n),
          array[true, true, true, true, false, false, false, false], 'a street may end in its unit, but a number may also be its own');

select is(array[app.city_alone('Boston, MA', 'MA', 'Massachusetts'), app.city_alone('Boston, Massachusetts', 'MA', 'Massachusetts'), app.city_alone('Boston, Suffolk', 'MA', 'MA'), app.city_alone(', MA', 'MA', 'MA')],
          array['Boston', 'Boston', 'Boston, Suffolk', ', MA'], 'a city stands without its state');

select * from finish();
rollback;
