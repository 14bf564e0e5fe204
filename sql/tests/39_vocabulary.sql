begin;
select plan(23);

select is(app.plain_name(' Zip/Postal Code '), 'zippostalcode', 'a name is compared without case, spaces and punctuation');
select is(app.plain_name('Straße'), 'strasse', 'a name is compared without accents, and the German sharp s is two letters');
select is(app.plain_name('Québec'), 'quebec', 'an accented letter is compared as the plain one');
select is(app.with_marks(E'12\u00A0Elm St\u200B\t\u0007'), E'12<U+00A0>Elm St<U+200B>\t<U+0007>', 'an invisible character is shown by its number');
select is(app.with_marks('Québec 東京'), 'Québec 東京', 'visible characters stay as they are');
select is(app.plain_name(repeat(U&'e\0301', 20)), repeat('e', 20), 'accents are removed wherever they are in a long text');
select performs_ok($$ select app.plain_name('a' || repeat(U&'\0301\0316', 20000)) $$, 2000, 'many accents on one letter do not slow down the server');
select is(app.plain_name('Building_Type__c'), 'buildingtype', 'a custom field of Salesforce is compared without its ending');
select is((select array_agg(distinct field) from app.known_columns(array['billingprovincecode', 'shippingstateabbr', 'mailingstateprovincecode'])), array['state_or_province_code'],
          'states are known by the names that shops give them, whoever''s they are');
select is((select array_agg(building_type) from app.building_type_names where name in (app.plain_name('K-12 School'), app.plain_name('Supermarket/Grocery Store'), app.plain_name('Condo/Townhome'))),
          array['COMMERCIAL', 'COMMERCIAL'], 'uses of buildings are commercial, but one of two types is not guessed');
select is((select array_agg(distinct field) from app.known_columns(array['billingzippostalcode', 'mailingzip', 'plz', 'codepostal', 'zip4'])), array['postal_code'], 'postal codes are known by the names that CRMs and other languages give them');
select is_empty($$ select k.name
                      from app.known_columns(array(select p || n.name
                                                     from unnest(app.address_prefixes() || ''::text) p
                                                    cross join (select name from app.column_names union select name from app.address_column_names
                                                                 union select name from app.street_part_names) n)) k
                     group by k.name having count(*) > 1 $$, 'each name of a column is for one field, whatever precedes it');
select results_eq($$ select name, field, prefix, part from app.known_columns(array['mailingcity', 'mailingcity', 'addresscity', 'situsnumber', 'jobnumber', 'buildingunit', 'city', 'mail', 'notes']) order by name $$,
                  $$ values ('addresscity', 'city', '', 'city'), ('city', 'city', '', 'city'), ('jobnumber', 'reference_id', '', 'jobnumber'),
                            ('mailingcity', 'city', 'mailing', 'city'), ('situsnumber', 'street_number', 'situs', 'number') $$,
                  'the name of a column says of what it is, and whose address it is');
select is_empty($$ select name from app.column_names where name <> app.plain_name(name) $$, 'each name of a column is in its plain form');
select is_empty($$ select name from app.country_names group by name having count(*) > 1 $$, 'each name of a country is for one country');
select is_empty($$ select country_code, name from app.region_names group by country_code, name having count(distinct code) > 1 $$,
                'each name of a state is for one state of its country');
select is(array(select n.country_code || ' ' || n.code from unnest(array['Massachusetts', 'ma', 'US-MA', 'Mass.', 'MA - Massachusetts', 'Massachusetts (MA)', 'QC – Québec']) with ordinality a (text, place)
                  left join app.region_names n on n.name = app.plain_name(a.text) order by a.place),
          array['US MA', 'US MA', 'US MA', 'US MA', 'US MA', 'US MA', 'CA QC'], 'a state is known by its name, its code, both of them, its ISO code and its abbreviation');
select is(array(select n.code from unnest(array['N. Dak.', 'S. Dak.', 'N. Mex.', 'N.W.T.', 'T.N.-O.', 'T.-N.-L.', 'Î.-P.-É.', 'C.-B.', 'Alb.']) with ordinality a (text, place)
                  left join app.region_names n on n.name = app.plain_name(a.text) order by a.place),
          array['ND', 'SD', 'NM', 'NT', 'NT', 'NL', 'PE', 'BC', 'AB'], 'states of two words and provinces are known by their older and their French abbreviations');
select is((select region_code from app.country_names where name = app.plain_name('Puerto Rico')), 'PR', 'a territory that is given as a country is a state');
select is_empty($$ select name from app.building_type_names group by name having count(*) > 1 $$, 'each name of a building type is for one type');

select is(array(select app.column_name(h) from unnest(array['What is the address of the property?', 'What''s your ZIP code?', 'What city is it in?', 'Please enter your City *', 'State (two letters)',
                  'Which devices are you interested in? (Select all that apply)', 'What is your e-mail address?', 'Where did you hear of us?', '(Do Not Modify) Contact', 'City (Mailing)', '(?)', repeat('(', 400)]) with ordinality u (h, n) order by n),
          array['address', 'zipcode', 'city', 'city', 'state', 'devices', 'emailaddress', 'wheredidyouhearofus', 'contact', 'mailingcity', '', ''], 'what a question asks for, and what a remark explains, is the name of a column');
select is(array(select app.column_name(h) from unnest(array['House number of Address', 'Street/road name of Address', 'Organization - State/county of Address', 'Deal - ZIP/Postal code of Site address',
                  'City/town/village/locality of Address', 'Region of Address', 'Country of origin', 'Number of rooms', 'Street #', 'Apt. #', '#']) with ordinality u (h, n) order by n),
          array['housenumber', 'street', 'organizationstate', 'dealsitezip', 'city', 'regionofaddress', 'origincountry', 'numberofrooms', 'streetnumber', 'aptnumber', ''],
          'the parts of an address in Pipedrive, and numbers, have the names of other columns');
select is_empty($$ select name from app.street_part_names group by name having count(*) > 1 $$, 'each name of a part of a street is for one part');

select * from finish();
rollback;
