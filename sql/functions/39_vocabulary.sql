-- Chapter 39, vocabulary: the words that people, CRMs and spreadsheets use for our columns and values.

-- A name in normal form for comparison: without case, accents, spaces, punctuation, and the __c of Salesforce's custom fields. normalize()
-- sorts combining accents in quadratic time, which no time-out interrupts: a space is inserted after every 16 characters beyond ASCII.
create or replace function app.plain_name(p_text text) returns text
language sql immutable
return lower(regexp_replace(normalize(regexp_replace(replace(regexp_replace(btrim(p_text), '__[cC]$', ''), 'ß', 'ss'), '[^\u0001-\u007F]{16}', '\& ', 'g'), NFKD),
                            '[^A-Za-z0-9]+', '', 'g'));

comment on function app.plain_name(text) is 'A name without case, accents, spaces and punctuation: Zip/Postal Code and ZIP_POSTAL_CODE are zippostalcode.';

-- The names that a city may have in app.programs: St. Paul is Saint Paul, Ft. Wayne is Fort Wayne, and Mt. Vernon is Mount Vernon.
create or replace function app.city_names(p_city text) returns text[]
language sql immutable
return array[
    app.plain_name(p_city),
    app.plain_name(regexp_replace(regexp_replace(regexp_replace(p_city, '\mst(e?)\M', 'saint\1', 'gi'), '\mft\M', 'fort', 'gi'), '\mmt\M', 'mount', 'gi')),
    app.plain_name(regexp_replace(regexp_replace(regexp_replace(p_city, '\msaint(e?)\M', 'st\1', 'gi'), '\mfort\M', 'ft', 'gi'), '\mmount\M', 'mt', 'gi'))];

create or replace function app.with_marks(p_text text) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_text text := p_text;
    v_mark text;
begin
    loop
        v_mark := substring(v_text from '[\u0001-\u0008\u000B\u000C\u000E-\u001F\u007F-\u00A0\u00AD\u2000-\u200F\u2028-\u202F\u205F-\u206F\u3000\uFEFF]');
        exit when v_mark is null;
        v_text := replace(v_text, v_mark, format('<U+%s>', lpad(upper(to_hex(ascii(v_mark))), 4, '0')));
    end loop;
    return v_text;
end;
$$;

comment on function app.with_marks(text) is 'A text for people, with invisible characters and odd spaces by their numbers: 02134<U+200B>.';

-- Whose address it is, or where.
create or replace function app.address_prefixes() returns text[]
language sql immutable
return array['billing', 'shipping', 'mailing', 'mail', 'site', 'service', 'property', 'installation', 'install', 'project', 'job', 'customer', 'client',
             'account', 'company', 'home', 'work', 'primary', 'location', 'physical', 'delivery', 'building', 'other', 'address', 'situs',
             'facility', 'premise', 'premises', 'parcel', 'prop', 'store', 'owner', 'svc'];

-- Of these, where the site is, and not who lives or pays elsewhere.
create or replace function app.site_prefixes() returns text[]
language sql immutable
return array['site', 'service', 'property', 'installation', 'install', 'project', 'job', 'physical', 'building', 'situs', 'facility', 'premise', 'premises', 'parcel', 'svc'];

-- What Pipedrive calls the parts of an address, as in House number of Address and Organization - State/county of Site address.
create or replace function app.part_of_name(p_text text) returns text
language sql immutable
return (select app.plain_name(concat(m.found[1], regexp_replace(m.found[3], '\s*address\s*$', '', 'i'))) || n.part
          from regexp_match(p_text, '^\s*(.* - )?(apartment/suite no|house number|street/road name|city/town/village/locality|state/county|country|zip/postal code) of (.*)$', 'i') m (found)
          join (values ('apartment/suite no', 'unit'), ('house number', 'housenumber'), ('street/road name', 'street'), ('city/town/village/locality', 'city'),
                       ('state/county', 'state'), ('country', 'country'), ('zip/postal code', 'zip')) n (name, part) on n.name = lower(m.found[2]));

-- The plain name of a column without what a question or a remark adds, as in What is the ZIP code?, and State (two letters). Whose address
-- it is, as in City (mailing), is no remark.
create or replace function app.column_name(p_text text) returns text
language sql immutable
return case
    -- House # is the number of a house, but a lone # numbers the rows.
    when p_text ~ '[A-Za-z.]\s*#\s*$' then app.plain_name(regexp_replace(p_text, '#\s*$', 'number'))
    when p_text ~* '^.{7,100} of ' and app.part_of_name(p_text) is not null then app.part_of_name(p_text)
    when length(p_text) > 300 or p_text !~ '[(\[?*]' then app.plain_name(p_text)
    when app.plain_name(substring(p_text from '\(([^()]*)\)\s*$')) = any (app.address_prefixes())
    then app.plain_name(substring(p_text from '\(([^()]*)\)\s*$')) || app.plain_name(regexp_replace(p_text, '\([^()]*\)\s*$', ''))
    else coalesce(
        nullif(app.plain_name(regexp_replace(regexp_replace(
            regexp_replace(p_text, '\s*(\([^()]*\)|\[[^\[\]]*\])', '', 'g'),
            '^\s*(what(( i|[''’])s| are)?|which|(please )?(enter|provide|select|choose))\s+((the|your|all)\s+)*', '', 'i'),
            '\s*((of|for|at) (the|your) (property|home|house|building|site|project)|are you interested in|is it( in)?)?\s*[?*:]*\s*$', '', 'i')), ''),
        app.plain_name(p_text))
end;

comment on function app.column_name(text) is 'The plain name of a column, of which a question or a remark is left out: What is the ZIP code? is zipcode.';

-- The parts of a street line, as USPS Publication 28 and the FGDC address standard name them. field_after: the field of a column to the
-- right of the street, as in Queen, St, W. is_bare: the name says so only beside the street.
create or replace view app.street_part_names as
select n.name, n.field, n.field_after, n.is_bare
  from (select s || n, 'street_number' as field, null as field_after, false as is_bare
          from unnest(array['street', 'str', 'st', 'house', 'hse', 'address', 'addr', 'add', 'civic']) s
         cross join unnest(array['number', 'num', 'nbr', 'no', 'nr']) n
         union all
        select n, 'street_number' as field, null as field_after, false as is_bare from unnest(array['numerocivique', 'nocivique', 'civique', 'hausnummer', 'hausnr']) n
         union all
        select s || n || x, 'street_number_suffix' as field, null as field_after, false as is_bare
          from unnest(array['street', 'house', 'hse', 'address', 'addr', 'add']) s
         cross join unnest(array['number', 'num', 'no', '']) n
         cross join unnest(array['suffix', 'sfx', 'suf', 'fraction', 'frac']) x
         where n <> '' or s in ('house', 'hse') or x in ('fraction', 'frac')
         union all
        select n, 'street_number_suffix' as field, null as field_after, false as is_bare from unnest(array['suffixecivique', 'hausnummerzusatz']) n
         union all
        select s || d.side || n, d.field, d.field_after, false as is_bare
          from unnest(array['street', 'str', 'st', 'address', 'addr', '']) s
         cross join (values ('', 'street_predirectional', 'street_postdirectional'), ('pre', 'street_predirectional', null),
                            ('post', 'street_postdirectional', null), ('pos', 'street_postdirectional', null)) d (side, field, field_after)
         cross join unnest(array['dir', 'direction', 'directional']) n
         where s || d.side <> ''
         union all
        select s || n || d.side, d.field, null as field_after, false as is_bare
          from unnest(array['street', 'st', '']) s
         cross join unnest(array['dir', 'direction']) n
         cross join (values ('prefix', 'street_predirectional'), ('left', 'street_predirectional'), ('suffix', 'street_postdirectional'),
                            ('right', 'street_postdirectional')) d (side, field)
         union all
        select s || n, 'street_predirectional' as field, null as field_after, false as is_bare from unnest(array['street', 'str', 'st']) s cross join unnest(array['prefix', 'pfx']) n
         union all
        select s || 'pre' || n, 'street_pretype' as field, null as field_after, false as is_bare from unnest(array['street', 'str', 'st', '']) s cross join unnest(array['type', 'typ']) n
         union all
        select s || n, 'street_suffix' as field, null as field_after, false as is_bare
          from unnest(array['street', 'st']) s
         cross join unnest(array['suffix', 'suff', 'suf', 'sfx', 'mode', 'type', 'typ', 'posttype', 'postype', 'posttyp', 'postyp']) n
         union all
        select n, 'street_pretype' as field, null as field_after, false as is_bare from unnest(array['typederue', 'typerue', 'typedevoie', 'typevoie', 'generique']) n
         union all
        select * from (values ('number', 'street_number', null), ('primarynumber', 'street_number', null), ('num', 'street_number', null), ('nbr', 'street_number', null), ('numero', 'street_number', null),
                              ('fraction', 'street_number_suffix', null), ('frac', 'street_number_suffix', null),
                              ('dir', 'street_predirectional', 'street_postdirectional'), ('direction', 'street_predirectional', 'street_postdirectional'),
                              ('prefix', 'street_predirectional', null), ('orientation', 'street_postdirectional', null),
                              ('suffix', 'street_number_suffix', 'street_suffix'), ('sfx', 'street_number_suffix', 'street_suffix'),
                              ('addresssuffix', 'street_number_suffix', 'street_suffix'), ('addrsuffix', 'street_number_suffix', 'street_suffix'),
                              ('addrsfx', 'street_number_suffix', 'street_suffix'),
                              ('type', 'street_suffix', null), ('mode', 'street_suffix', null)) b (name, field, field_after)
         cross join (values (true)) t (is_bare)) n (name, field, field_after, is_bare);

comment on view app.street_part_names is 'Names of the columns that have parts of a street line, as app.plain_name leaves them, and the part that each has.';

-- Columns of the name of a street, whose number is elsewhere.
create or replace function app.street_name_names() returns text[]
language sql immutable
return array['streetname', 'strname', 'stname', 'streetnm', 'stnm', 'nomderue', 'nomdelarue', 'nomrue', 'strassenname'];

-- What follows a prefix such as billing in the name of a column.
create or replace view app.address_column_names as
select n.name, n.field
  from (values ('street', 'street_1'), ('street1', 'street_1'), ('streetaddress', 'street_1'), ('streetaddress1', 'street_1'), ('address', 'street_1'),
               ('addr', 'street_1'), ('addr1', 'street_1'), ('address1', 'street_1'), ('addressline1', 'street_1'), ('addressline', 'street_1'),
               ('addressfull', 'street_1'), ('streetline1', 'street_1'), ('addressstreet', 'street_1'), ('addressstreetname', 'street_1'),
               -- Both lines in one cell, as in Shipping Address 1&2.
               ('address12', 'street_1'),
               ('street2', 'street_2'), ('streetaddress2', 'street_2'), ('address2', 'street_2'), ('addr2', 'street_2'), ('addressline2', 'street_2'),
               ('streetline2', 'street_2'), ('extendedaddress', 'street_2'), ('addressunit', 'street_2'), ('addressunitnumber', 'street_2'),
               ('addressunitvalue', 'street_2'), ('addresssuitenumber', 'street_2'), ('aptsuite', 'street_2'),
               ('city', 'city'), ('town', 'city'), ('addresscity', 'city'), ('cityname', 'city'),
               ('citytown', 'city'), ('municipality', 'city'),
               ('state', 'state_or_province_code'), ('province', 'state_or_province_code'), ('stateprovince', 'state_or_province_code'),
               ('statecode', 'state_or_province_code'), ('stateorprovince', 'state_or_province_code'), ('stateregion', 'state_or_province_code'),
               ('stateorprovincecode', 'state_or_province_code'), ('stateprovincetextonly', 'state_or_province_code'),
               ('stateprovincecode', 'state_or_province_code'), ('provincecode', 'state_or_province_code'), ('stateabbreviation', 'state_or_province_code'),
               ('stateabbr', 'state_or_province_code'), ('region', 'state_or_province_code'), ('st', 'state_or_province_code'), ('addressstate', 'state_or_province_code'),
               ('zip', 'postal_code'), ('zip5', 'postal_code'), ('zipcode', 'postal_code'), ('postalcode', 'postal_code'), ('postcode', 'postal_code'),
               ('zippostalcode', 'postal_code'), ('addresszip', 'postal_code'), ('zippostal', 'postal_code'),
               ('postalzipcode', 'postal_code'), ('postalzip', 'postal_code'), ('country', 'country_code'), ('countrycode', 'country_code'), ('countryregion', 'country_code'),
               ('countrytextonly', 'country_code')) n (name, field)
union all
select n.name, 'street_1' from unnest(app.street_name_names()) n (name)
union all
select u || n, 'street_2' from unnest(array['unit', 'apt', 'apartment', 'suite', 'ste']) u cross join unnest(array['', 'number', 'num', 'no', 'nbr']) n
union all
select p.name, p.field from app.street_part_names p where not p.is_bare;

comment on view app.address_column_names is 'Names of the parts of an address, as app.plain_name leaves them, which a prefix such as billing may precede.';

-- If several columns of a file fit a field, the lowest rank wins; two of the same rank are ambiguous, such as a billing and a shipping
-- city.
create or replace view app.column_names as
select n.name, f.field, 2 * n.rank::integer as rank
  from (values
        ('reference_id', array['referenceid', 'reference', 'refid', 'ref', 'referencenumber', 'referenceno', 'refnumber', 'refno', 'dealid', 'deal', 'externalid', 'opportunityid', 'opportunityid18',
                               'casesafeid', 'projectid', 'siteid', 'systemid', 'premiseid', 'locationid', 'propertyid', 'portfoliomanagerid', 'portfoliomanagerpropertyid', 'hudid', 'recordid', 'recordidcompany', 'recordidcontact',
                               'recordiddeal', 'customerid', 'accountid', 'accountid18', 'leadid', 'contactid', 'organizationid', 'personid', 'leadnumber',
                               'dealnumber', 'projectnumber', 'projectno',
                               'jobid', 'jobnumber', 'jobno', 'customernumber', 'customerno', 'accountnumber', 'accountno', 'referenznummer', 'referenz',
                               'kennung', 'identifiant', 'kundennummer', 'kundennr', 'numerodedossier', 'nodedossier', 'nodossier', 'numerodeclient', 'noclient', 'nclient', 'referencia', 'numerodereferencia',
                               'identificador', 'numerodecliente', 'nodecliente', 'iddecliente', 'numerodecuenta', 'numerodeproyecto', 'iddeproyecto', 'iddelaoportunidad', 'iddecontacto',
                               'iddeempresa', 'idderegistro', 'id', 'job']),
        ('street_1', array['street1', 'street', 'streetaddress', 'streetaddress1', 'addressline1', 'address1', 'streetline1', 'deliveryline1',
                           'fullstreet', 'adresse1', 'ligneadresse1', 'lignedadresse1', 'rue', 'strasse', 'strassehausnummer',
                           'strasseundhausnummer', 'anschrift', 'adresse', 'adressecivique', 'address', 'addr', 'addr1', 'fulladdress', 'fulladdr',
                           'completeaddress', 'staddr', 'address12', 'addressline12',
                           -- In Puerto Rico, where the site is, and where its mail goes.
                           'direccionfisica', 'direccion1', 'direccion', 'lineadedireccion1', 'direccioncompleta', 'calleynumero', 'calle', 'domicilio', 'direccionpostal',
                           -- HUD's names.
                           'projadd', 'addressline1text', 'stdaddr']),
        ('street_2', array['street2', 'streetaddress2', 'addressline2', 'address2', 'addr2', 'streetline2', 'deliveryline2', 'unit', 'unitnumber', 'unitnum',
                           'unitno', 'unitnbr', 'unitapt', 'aptunit', 'apartment', 'apartmentsuite', 'apartmentsuiteetc', 'aptsuite', 'aptsuiteunit', 'apt',
                           'aptnumber', 'aptnum', 'aptno', 'apartmentnumber', 'apartmentno', 'suite', 'suitenumber', 'suiteno', 'ste', 'stenumber', 'addressline2text', 'adresse2',
                           'ligneadresse2', 'lignedadresse2', 'appartement', 'noappartement', 'nodappartement', 'noapp', 'complementdadresse', 'complementadresse', 'adresszusatz',
                           'direccion2', 'lineadedireccion2', 'apartamento', 'numerodeapartamento', 'unidad']),
        ('city', array['city', 'town', 'citytown', 'towncity', 'municipality', 'citymunicipality', 'locality', 'cityname', 'municipalite', 'ville', 'ort',
                       'stadt', 'ciudad', 'municipio', 'pueblo', 'localidad', 'citystate', 'citystatezip', 'citystatezipcode', 'citystzip', 'projcty', 'citynametext', 'stdcity']),
        ('state_or_province_code', array['stateorprovincecode', 'stateorprovince', 'stateprovince', 'provincestate', 'stateprovincecode',
                                         'stateprovincetextonly', 'stateregion', 'statecode', 'stateabbreviation', 'stateabbr', 'provincecode', 'state',
                                         'province', 'provinceoustate', 'provinceetat', 'etatprovince', 'bundesstaat', 'bundesland', 'staat', 'etat', 'region',
                                         'estadoregion', 'estadoprovincia', 'estadooprovincia', 'estado', 'provincia', 'prov', 'st', 'statezip', 'statezipcode', 'projst', 'stdst']),
        ('postal_code', array['postalcode', 'zipcode', 'zip', 'zip5', 'zippostalcode', 'postalzipcode', 'zippostal', 'postalzip',
                              'postcode', 'postal', 'codepostal', 'postleitzahl', 'plz', 'codigopostal', 'codigozip', 'cp', 'projzip', 'stdzip5']),
        ('country_code', array['countrycode', 'country', 'countryregion', 'countrytextonly', 'pays', 'land', 'pais', 'paisregion']),
        ('building_type', array['buildingtype', 'propertytype', 'typeofbuilding', 'typeofproperty', 'typeofhome', 'hometype', 'buildingcategory', 'building',
                                'bldgtype', 'bldg', 'primarypropertytypeselfselected', 'primarypropertytype', 'typedebatiment', 'typebatiment',
                                'typedhabitation', 'gebaudetyp', 'gebaudeart', 'tipodeedificio', 'tipodepropiedad', 'tipodevivienda', 'tipodeinmueble']),
        ('device_ids', array['deviceids', 'deviceid', 'devices', 'device', 'equipment', 'measures', 'appareils', 'equipements', 'gerate', 'gerateids', 'dispositivos', 'equipos']),
        ('create_application', array['createapplication']),
        ('webhook_custom_fields', array['webhookcustomfields']),
        -- Only these: what CRMs call ownership or income is something else.
        ('household_income', array['householdincome', 'annualhouseholdincome']),
        ('household_size', array['householdsize', 'peopleinhousehold', 'numberofpeopleinhousehold', 'howmanypeopleliveinyourhousehold']),
        ('owner_status', array['ownerstatus', 'homeownerorrenter', 'ownerorrenter', 'ownorrent', 'doyouownorrent', 'doyouownorrentyourhome']),
        ('tax_filing', array['taxfiling', 'taxfilingstatus'])) f (field, names)
 cross join unnest(f.names) with ordinality n (name, rank)
 union all
-- After those of whole addresses.
select n.name, 'street_1' as field, 99 as rank from unnest(app.street_name_names()) n (name)
 union all
select p.name, p.field, 50 as rank from app.street_part_names p where not p.is_bare
 union all
-- Alone a whole ZIP code, but beside one its last digits.
select n.name, 'postal_code' as field, 101 as rank from unnest(array['zip4', 'zipplus4', 'zipcode4']) n (name);

comment on view app.column_names is 'Names of columns without a prefix such as billing, as app.plain_name leaves them, and the field that each is for; lower ranks win.';

-- What these names of columns, as app.plain_name leaves them, are for. prefix: whose address it is; empty: it does not say. part: the name
-- without its prefix. All names that a prefix may precede would be thousands: only prefixes of the given names are tried.
create or replace function app.known_columns(p_names text[]) returns table (name text, field text, rank integer, prefix text, part text)
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    with given as materialized (select distinct u.name from unnest(p_names) u (name)),
    unprefixed as materialized (select c.name, c.field, c.rank from app.column_names c join given g on g.name = c.name)
    select u.name, u.field, u.rank, '', u.name from unprefixed u
     union all
    select g.name, n.field, case n.name when 'code' then 101 else 100 end, case when p.prefix <> 'address' then p.prefix else '' end, n.name
      from given g
      -- The first letters are for a hash join: the first rows of a file may have 12,500 cells.
      join unnest(app.address_prefixes()) p (prefix) on left(g.name, 3) = left(p.prefix, 3) and starts_with(g.name, p.prefix)
      join (select a.name, a.field, false as is_bare from app.address_column_names a
             union all
            select s.name, s.field, true from app.street_part_names s where s.is_bare
             union all
            select 'code', 'postal_code', false) n on n.name = substr(g.name, length(p.prefix) + 1)
     where g.name not in (select u.name from unprefixed u)
       and g.name not in ('buildingunit', 'addressaddr', 'addressaddr1', 'addressaddr2')
       -- A job number is no house number, but a situs number is one.
       and (p.prefix = 'situs' or not n.is_bare)
       -- Zoho's ZIP code; a property code is none.
       and (n.name <> 'code' or p.prefix in ('billing', 'shipping'));
end;
$$;

-- Territories are states to us, but countries in ISO 3166 and in many CRMs.
create or replace view app.country_names as
select n.name, c.country_code, c.region_code
  from (values ('US', null, array['us', 'usa', 'unitedstates', 'unitedstatesofamerica', 'america', 'etatsunis', 'etatsunisdamerique',
                                  'vereinigtestaaten', 'vereinigtestaatenvonamerika', 'estadosunidos', 'estadosunidosdeamerica', 'eeuu']),
               ('CA', null, array['ca', 'can', 'canada', 'kanada']),
               ('US', 'PR', array['pr', 'pri', 'puertorico']),
               ('US', 'GU', array['gu', 'gum', 'guam']),
               ('US', 'VI', array['vi', 'vir', 'usvirginislands', 'virginislandsus', 'unitedstatesvirginislands', 'virginislands']),
               ('US', 'AS', array['as', 'asm', 'americansamoa']),
               ('US', 'MP', array['mp', 'mnp', 'northernmarianaislands', 'northernmarianas'])) c (country_code, region_code, names)
 cross join unnest(c.names) n (name);

comment on view app.country_names is 'Names of countries as app.plain_name leaves them. region_code: it is a territory, which goes with US as a state.';

create or replace view app.region_names as
select n.name, r.country_code, r.code
  from (select app.plain_name(r.name) as name, r.country_code, r.code, lower(r.code) as short from app.regions r offset 0) r
 -- The last two as lists to choose from have them: MA - Massachusetts, Massachusetts (MA).
 cross join unnest(array[r.name, r.short, lower(r.country_code) || r.short, r.short || r.name, r.name || r.short]) n (name)
union
select n.name, a.country_code, a.code
  from (values ('US', 'AL', array['ala']), ('US', 'AZ', array['ariz']), ('US', 'AR', array['ark']), ('US', 'CA', array['calif', 'cal', 'cali']),
               ('US', 'CO', array['colo']), ('US', 'CT', array['conn']), ('US', 'DC', array['washingtondc', 'districtofcolumbia', 'dcwashington']),
               ('US', 'DE', array['del']), ('US', 'FL', array['fla']), ('US', 'IL', array['ill']), ('US', 'IN', array['ind']),
               ('US', 'KS', array['kans']), ('US', 'MA', array['mass']), ('US', 'MI', array['mich']), ('US', 'MN', array['minn']),
               ('US', 'MS', array['miss']), ('US', 'MT', array['mont']), ('US', 'ND', array['ndak']), ('US', 'NE', array['nebr']),
               ('US', 'NM', array['nmex']), ('US', 'NV', array['nev']), ('US', 'NY', array['newyorkstate']), ('US', 'OK', array['okla']),
               ('US', 'OR', array['ore', 'oreg']),
               ('US', 'PA', array['penn', 'penna']), ('US', 'SD', array['sdak']), ('US', 'TN', array['tenn']), ('US', 'TX', array['tex']),
               ('US', 'MP', array['cnmi', 'northernmarianas']), ('US', 'VI', array['usvirginislands', 'virginislands']), ('US', 'WA', array['wash', 'washingtonstate']),
               ('US', 'WI', array['wis', 'wisc']), ('US', 'WV', array['wva']), ('US', 'WY', array['wyo']),
               ('US', 'DC', array['distritodecolumbia']), ('US', 'HI', array['hawai']), ('US', 'LA', array['luisiana']), ('US', 'MO', array['misuri']),
               ('US', 'MS', array['misisipi']), ('US', 'NC', array['carolinadelnorte']), ('US', 'ND', array['dakotadelnorte']),
               ('US', 'NH', array['nuevohampshire']), ('US', 'NJ', array['nuevajersey']), ('US', 'NM', array['nuevomexico']), ('US', 'NY', array['nuevayork']),
               ('US', 'PA', array['pensilvania']), ('US', 'SC', array['carolinadelsur']), ('US', 'SD', array['dakotadelsur']), ('US', 'TX', array['tejas']),
               ('US', 'WV', array['virginiaoccidental']),
               ('CA', 'AB', array['alta', 'alb']), ('CA', 'BC', array['colombiebritannique', 'cb']), ('CA', 'MB', array['man']),
               ('CA', 'NB', array['nouveaubrunswick']), ('CA', 'NL', array['newfoundland', 'newfoundlandlabrador', 'terreneuveetlabrador', 'nf', 'nfld', 'tnl']),
               ('CA', 'NS', array['nouvelleecosse']), ('CA', 'NT', array['territoiresdunordouest', 'nwt', 'tno']), ('CA', 'ON', array['ont']),
               ('CA', 'PE', array['pei', 'ileduprinceedouard', 'ipe']), ('CA', 'QC', array['que', 'pq']), ('CA', 'SK', array['sask']),
               ('CA', 'YT', array['yukonterritory'])) a (country_code, code, names)
 cross join unnest(a.names) n (name);

comment on view app.region_names is 'Names, codes, both of them, ISO 3166-2 codes and usual abbreviations of states and provinces, as app.plain_name leaves them.';

create or replace view app.building_type_names as
select n.name, t.building_type
  from (values ('RESIDENTIAL', array['residential', 'res', 'singlefamily', 'singlefamilyhome', 'singlefamilyhouse', 'singlefamilyresidence',
                                     'singlefamilydetached', 'singlefamilyattached', 'sfh', 'sfr', 'house', 'home', 'detached', 'detachedhouse',
                                     'townhouse', 'townhome', 'rowhouse', 'residentiel', 'maison', 'maisonunifamiliale', 'einfamilienhaus', 'residencial', 'casa', 'unifamiliar', 'viviendaunifamiliar',
                                     'casaunifamiliar']),
               ('MULTIFAMILY', array['multifamily', 'multifamilyhome', 'multifamilyhousing', 'multifamilybuilding', 'multifamilyresidential', 'mf', 'mfh', 'apartment',
                                     'apartments', 'apartmentbuilding', 'apartmentcondo', 'condo', 'condominium', 'condos', 'multiunit', 'multilogement', 'multifamilial',
                                     'immeublecollectif', 'mehrfamilienhaus', 'multifamiliar', 'apartamento', 'apartamentos', 'edificiodeapartamentos', 'condominio']),
               ('MANUFACTURED_HOME', array['manufacturedhome', 'manufacturedhomes', 'manufacturedhousing', 'manufactured', 'mobilehome', 'mobile',
                                           'trailer', 'maisonmobile', 'mobilheim', 'casamovil', 'casaprefabricada']),
               ('COMMERCIAL', array['commercial', 'comm', 'business', 'smallbusiness', 'nonresidential', 'office', 'retail', 'industrial', 'warehouse',
                                    'commerce', 'gewerbe', 'gewerblich', 'comercial', 'negocio', 'oficina',
                                    -- As ENERGY STAR Portfolio Manager and property managers name uses of buildings.
                                    'k12school', 'school', 'adulteducation', 'collegeuniversity', 'preschooldaycare', 'library', 'hotel', 'motel', 'medicaloffice',
                                    'hospital', 'hospitalgeneralmedicalsurgical', 'outpatientrehabilitationphysicaltherapy', 'urgentcareclinicotheroutpatient',
                                    'bankbranch', 'financialoffice', 'officebuilding', 'courthouse', 'policestation', 'firestation', 'museum', 'performingarts',
                                    'worshipfacility', 'restaurant', 'fastfoodrestaurant', 'retailstore', 'shoppingcenter', 'stripmall', 'enclosedmall',
                                    'supermarketgrocerystore', 'grocerystore', 'conveniencestorewithgasstation', 'conveniencestorewithoutgasstation',
                                    'wholesaleclubsupercenter', 'automobiledealership', 'distributioncenter', 'nonrefrigeratedwarehouse', 'refrigeratedwarehouse',
                                    'selfstoragefacility', 'manufacturingindustrialplant', 'datacenter', 'laboratory', 'fitnesscenterhealthclubgym', 'healthcare', 'hospitality', 'flex'])) t (building_type, names)
 cross join unnest(t.names) n (name);

comment on view app.building_type_names is 'Names of building types, as app.plain_name leaves them.';

create or replace function app.postal_code_form(p_country_code text) returns text
language sql immutable
return case p_country_code when 'US' then 'a ZIP code (12345 or 12345-6789)' else 'a Canadian postal code (A1A 1A1)' end;

-- What a spreadsheet adds to a house number or a ZIP code is removed: decimals, as in 12.0 or 12,0, and the separator of 1,200. Six digits
-- are two numbers, as in 101,103.
create or replace function app.house_number(p_text text) returns text
language sql immutable
return regexp_replace(regexp_replace(p_text, '([.]0+|,00?)$', ''), '^([0-9]{1,2}),([0-9]{3})$', '\1\2');

-- Repairs a ZIP or postal code that lost zeros or hyphens, or gained a decimal point or a separator, as in 94,601.
create or replace function app.corrected_postal_code(p_country_code text, p_text text) returns text
language sql immutable
return case
    when p_country_code = 'US' and p_text !~ '^[0-9]{5}(-[0-9]{4})?$' then (
        select case
            when z ~ '^[0-9]{3,5}(-[0-9]{4})?-?$' then lpad(split_part(z, '-', 1), 5, '0') || coalesce(substring(z, '-[0-9]{4}'), '')
            when z ~ '^[0-9]{5} [0-9]{4}$' then replace(z, ' ', '-')
            when z ~ '^[0-9]{7,9}$' then overlay(lpad(z, 9, '0') placing '-' from 6 for 0)
            else p_text end
          -- Without the state, as in MA 02134.
          from (select regexp_replace(app.house_number(regexp_replace(p_text, '^[A-Za-z]{2}[- ]+(?=[0-9]{5})', '')), '\s*[-+\u2010-\u2015\u2212]\s*', '-')) m (z))
    when p_country_code = 'CA' and p_text !~ '^[A-Z][0-9][A-Z] ?[0-9][A-Z][0-9]$'
         and p_text ~* '^[A-Z][0-9O][A-Z][-. \u2010-\u2015]*[0-9O][A-Z][0-9O]$' then (
        -- The letter O in place of a digit.
        select left(z, 1) || translate(substr(z, 2, 1), 'O', '0') || substr(z, 3, 1) || ' ' || translate(substr(z, 4, 1), 'O', '0') || substr(z, 5, 1)
               || translate(substr(z, 6, 1), 'O', '0')
          from (select upper(regexp_replace(p_text, '[^A-Za-z0-9]', '', 'g'))) m (z))
    else p_text
end;

comment on function app.corrected_postal_code(text, text) is 'The correct code if it is clear which one was meant, else the text as it is.';
