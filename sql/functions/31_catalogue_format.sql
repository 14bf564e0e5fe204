-- Chapter 31, the format of a catalogue: the columns of its files, and the checks. Rows are as in the CSV files: objects of text, with an
-- absent or empty cell for null.

-- The first or last day of 2023-05-31, 2023-05 or 2023; null: not a date.
create or replace function app.catalogue_date(p_text text, p_last boolean default false) returns date
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_first date;
begin
    if p_text ~ '^[0-9]{4}$' then
        v_first := make_date(p_text::integer, 1, 1);
        return case when p_last then (v_first + interval '1 year - 1 day')::date else v_first end;
    elsif p_text ~ '^[0-9]{4}-[0-9]{2}$' then
        v_first := make_date(left(p_text, 4)::integer, right(p_text, 2)::integer, 1);
        return case when p_last then (v_first + interval '1 month - 1 day')::date else v_first end;
    elsif p_text ~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}$' then
        return make_date(left(p_text, 4)::integer, substr(p_text, 6, 2)::integer, right(p_text, 2)::integer);
    end if;
    return null;
exception
    when data_exception then
        return null;
end;
$$;

-- Values in a cell are separated by spaces or bars.
create or replace function app.catalogue_list(p_text text) returns text[]
language sql immutable
return regexp_split_to_array(p_text, '[ |]+');

-- The limits of a cell, such as 1:62600 2:71550-80000 joint:150000, lower and upper, by household size or tax filing; null: malformed.
create or replace function app.income_limits(p_text text) returns jsonb
language sql immutable
return case when p_text ~ '^(([1-9]|1[0-9]|20|single|joint|separate|head_of_household|surviving_spouse):[0-9]{1,9}(-[0-9]{1,9})?( |$))+$'
            then (select case when count(*) = count(distinct l[1]) and bool_and(l[2]::numeric <= coalesce(l[4], l[2])::numeric)
                              then jsonb_object_agg(l[1], jsonb_build_array(l[2]::numeric, coalesce(l[4], l[2])::numeric)) end
                    from regexp_matches(p_text, '([a-z_0-9]+):([0-9]+)(-([0-9]+))?', 'g') l) end;

-- A row may give its line in the file as _line; otherwise the rows follow the header, one per line. `offset 0` keeps the planner from
-- rebuilding the cells for each cell that a caller reads.
create or replace function app.catalogue_rows(p_catalogue jsonb, p_file text) returns table (line integer, cells jsonb)
language sql immutable
begin atomic
    select case when r.cells ->> '_line' ~ '^[1-9][0-9]{0,8}$' then (r.cells ->> '_line')::integer else (r.n + 1)::integer end,
           (select coalesce(jsonb_object_agg(c.key, btrim(c.value)), '{}')
              from jsonb_each_text(r.cells) c
             where btrim(c.value) <> '' and c.key <> '_line')
      from jsonb_array_elements(p_catalogue -> p_file) with ordinality as r (cells, n)
    offset 0;
end;

-- The files, each after those that it references.
create or replace function app.catalogue_files() returns text[]
language sql immutable
return array['device_categories', 'device_category_sizes', 'devices', 'utilities', 'utility_service_areas', 'programs', 'program_utilities',
             'program_tiers'];

-- The format of the files. A choice lists the allowed values; refers_to names the file whose first column must contain the value.
create or replace function app.catalogue_columns()
returns table (file text, name text, kind text, required boolean, choices text[], refers_to text)
language sql immutable
begin atomic
    values
        ('device_categories',     'key',            'key',    true,  null::text[], null),
        ('device_categories',     'name',           'text',   true,  null, null),
        ('device_categories',     'typical_cost',   'number', true,  null, null),
        ('device_categories',     'basis',          'text',   true,  null, null),
        ('device_category_sizes', 'category_key',   'key',    true,  null, 'device_categories'),
        ('device_category_sizes', 'unit',           'key',    true,  null, null),
        ('device_category_sizes', 'typical_size',   'number', true,  null, null),
        ('device_category_sizes', 'basis',          'text',   true,  null, null),
        ('devices',               'id',             'id',     true,  null, null),
        ('devices',               'category_key',   'key',    true,  null, 'device_categories'),
        ('devices',               'name',           'text',   true,  null, null),
        ('utilities',             'key',            'key',    true,  null, null),
        ('utilities',             'eiaid',          'id',     false, null, null),
        ('utilities',             'name',           'text',   true,  null, null),
        ('utilities',             'country_code',   'key',    true,  array['US', 'CA'], null),
        ('utilities',             'region_code',    'key',    true,  null, null),
        ('utilities',             'source',         'text',   true,  null, null),
        ('utilities',             'source_date',    'date',   false, null, null),
        ('utility_service_areas', 'prefix',         'prefix', true,  null, null),
        ('utility_service_areas', 'utility_key',    'key',    true,  null, 'utilities'),
        ('utility_service_areas', 'rank',           'id',     true,  null, null),
        ('programs',              'id',             'key',    true,  null, null),
        ('programs',              'name',           'text',   true,  null, null),
        ('programs',              'authority',      'text',   true,  null, null),
        ('programs',              'authority_type', 'key',    true,  array['utility', 'state', 'city', 'county', 'other'], null),
        ('programs',              'country_code',   'key',    true,  array['US', 'CA'], null),
        ('programs',              'region_code',    'key',    true,  null, null),
        ('programs',              'scope',          'key',    true,  array['state', 'utility'], null),
        ('programs',              'url',            'text',   false, null, null),
        ('programs',              'source',         'text',   true,  null, null),
        ('programs',              'source_id',      'text',   false, null, null),
        ('programs',              'source_date',    'date',   false, null, null),
        ('programs',              'cities',         'list',   false, null, null),
        ('program_utilities',     'program_id',     'key',    true,  null, 'programs'),
        ('program_utilities',     'utility_key',    'key',    true,  null, 'utilities'),
        ('program_tiers',         'program_id',     'key',    true,  null, 'programs'),
        ('program_tiers',         'id',             'key',    true,  null, null),
        ('program_tiers',         'name',           'text',   true,  null, null),
        ('program_tiers',         'category_keys',  'list',   true,  null, 'device_categories'),
        ('program_tiers',         'device_ids',     'list',   false, null, 'devices'),
        ('program_tiers',         'amount_type',    'key',    true,  array['flat', 'per_unit', 'percent'], null),
        ('program_tiers',         'amount',         'number', true,  null, null),
        ('program_tiers',         'unit',           'key',    false, null, null),
        ('program_tiers',         'cap',            'number', false, null, null),
        ('program_tiers',         'cap_percent',    'number', false, null, null),
        ('program_tiers',         'building_types', 'list',   false, array['RESIDENTIAL', 'MULTIFAMILY', 'MANUFACTURED_HOME', 'COMMERCIAL'], null),
        ('program_tiers',         'owner_statuses', 'list',   false, array['homeowner', 'renter'], null),
        ('program_tiers',         'start_date',     'date',   false, null, null),
        ('program_tiers',         'end_date',       'date',   false, null, null),
        ('program_tiers',         'note',           'text',   false, null, null),
        ('program_tiers',         'income_requirement', 'text', false, null, null),
        ('program_tiers',         'income_limits',  'limits', false, null, null),
        ('program_tiers',         'excludes',       'list',   false, null, 'programs'),
        ('program_tiers',         'shared_cap',     'number', false, null, null),
        ('program_tiers',         'other_requirements', 'text', false, null, null);
end;

-- A number mangled by a spreadsheet, such as $1,500.00, in the right form; null: not such a number.
create or replace function app.plain_number(p_text text) returns text
language sql immutable
return case when p_text ~ '^[$ ]*([0-9]{1,3}(,[0-9]{3})+|[0-9]+)([.][0-9]+)?[ %]*$' then translate(p_text, '$, %', '') end;

-- A date mangled by a spreadsheet, such as 11/30/2026, in the right form, or both if day and month are ambiguous; null: not such a date.
create or replace function app.plain_dates(p_text text) returns text
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_year_first text[] := regexp_match(p_text, '^([0-9]{4})[-/.]([0-9]{1,2})[-/.]([0-9]{1,2})([ T].*)?$');
    v_year_last  text[] := regexp_match(p_text, '^([0-9]{1,2})[-/.]([0-9]{1,2})[-/.]([0-9]{4}|[0-9]{2})([ T].*)?$');
begin
    return (select string_agg(distinct f.date, ' or ' order by f.date)
              from (values (v_year_first[1], v_year_first[2], v_year_first[3]),
                           (v_year_last[3], v_year_last[1], v_year_last[2]),
                           (v_year_last[3], v_year_last[2], v_year_last[1])) d (year, month, day)
             cross join lateral (select right('20' || d.year, 4) || '-' || lpad(d.month, 2, '0') || '-' || lpad(d.day, 2, '0')) f (date)
             where app.catalogue_date(f.date) is not null);
end;
$$;

-- Why the text of a cell is not of its kind; null: it is.
create or replace function app.catalogue_cell_error(p_kind text, p_text text) returns text
language sql immutable
return case p_kind
    when 'id'     then case when p_text !~ '^[1-9][0-9]{0,8}$' then 'is not a positive integer' end
    when 'number' then case when p_text !~ '^[0-9]{1,9}([.][0-9]{1,6})?$' then concat('is not a number', ': write ' || app.plain_number(p_text)) end
    when 'date'   then case when app.catalogue_date(p_text) is null
                            then concat('is not a date (2023-05-31, 2023-05 or 2023)', ': write ' || app.plain_dates(p_text)) end
    when 'prefix' then case when p_text !~ '^([0-9]{1,5}|[A-Z]([0-9]([A-Z]([0-9]([A-Z][0-9]?)?)?)?)?)$' then 'is not the beginning of a postal code' end
    when 'limits' then case when app.income_limits(p_text) is null
                            then 'is not a list of limits by household size or tax filing (1:62600 2:71550-80000 joint:150000)' end
    when 'key'    then case when p_text !~ '^[^ |]{1,200}$' then 'must have no space or bar, and at most 200 characters' end
    else               case when length(p_text) > 2000 then 'has more than 2,000 characters' end
end;

-- Errors in single cells: a missing or unknown column, text of another kind, a value that is not allowed, or a reference to a row that
-- exists neither in the files nor in the tables (a catalogue may build on another).
create or replace function app.catalogue_cell_errors(p_catalogue jsonb) returns table (file text, line integer, error text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    with files as materialized (
        select f.file, r.line, r.cells
          from unnest(app.catalogue_files()) f (file)
         cross join app.catalogue_rows(p_catalogue, f.file) r
    ), known as materialized (
        select 'device_categories' as file, key from app.device_categories
         union select 'devices', id::text from app.devices
         union select 'utilities', key from app.utilities
         union select 'programs', id from app.programs
         union select f.file, coalesce(f.cells ->> 'key', f.cells ->> 'id')
                 from files f
                where f.file in ('device_categories', 'devices', 'utilities', 'programs')
    ), cell as (
        select f.file, f.line, c.name, c.kind, c.required, c.choices, c.refers_to, f.cells ->> c.name as value
          from files f
          join app.catalogue_columns() c on c.file = f.file
    ), element as (
        select c.file, c.line, c.name, c.choices, c.refers_to, v.value
          from cell c
         cross join lateral unnest(case c.kind when 'list' then app.catalogue_list(c.value) else array[c.value] end) v (value)
         where c.value is not null and (c.choices is not null or c.refers_to is not null)
    )
    select c.file, c.line, c.name || ' is missing' from cell c where c.required and c.value is null
     union all
    select c.file, c.line, format('%s "%s" %s', c.name, left(c.value, 100), app.catalogue_cell_error(c.kind, c.value))
      from cell c
     where c.value is not null and app.catalogue_cell_error(c.kind, c.value) is not null
     union all
    select e.file, e.line, format('%s "%s" is not one of %s', e.name, left(e.value, 100), array_to_string(e.choices, ', '))
      from element e
     where e.value <> all (e.choices)
     union all
    select e.file, e.line, format('%s "%s" is not in %s', e.name, left(e.value, 100), e.refers_to)
      from element e
     where e.refers_to is not null and not exists (select from known k where k.file = e.refers_to and k.key = e.value)
     union all
    -- Reported for the header: once for each unknown column, however many rows have it, even if its cells are empty.
    select n.file, 1, format('unknown column "%s"; the columns are %s', left(n.name, 100),
                             (select string_agg(c.name, ', ' order by c.n)
                                from app.catalogue_columns() with ordinality c (file, name, kind, required, choices, refers_to, n)
                               where c.file = n.file))
      from (select distinct f.file, k.name
              from unnest(app.catalogue_files()) f (file)
             cross join lateral jsonb_array_elements(p_catalogue -> f.file) r (cells)
             cross join lateral jsonb_object_keys(r.cells) k (name)) n
     where n.name <> '_line' and not exists (select from app.catalogue_columns() c where c.file = n.file and c.name = n.name);
end;
$$;

-- The three-digit prefixes of ZIP codes that begin with a prefix.
create or replace function app.zip3_of(p_prefix text) returns int4range
language sql immutable
return int4range(rpad(left(p_prefix, 3), 3, '0')::integer, rpad(left(p_prefix, 3), 3, '9')::integer, '[]');

-- Errors between cells of a row and between rows, once the single cells are valid.
create or replace function app.catalogue_row_errors(p_catalogue jsonb) returns table (file text, line integer, error text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_name constant text := p_catalogue ->> 'catalogue';
begin
    return query
    with recursive owned as materialized (
        select w.file, w.key, w.catalogue
          from (select 'device_categories', key, catalogue from app.device_categories
                 union all select 'utilities', key, catalogue from app.utilities
                 union all select 'programs', id, catalogue from app.programs) w (file, key, catalogue)
         where w.catalogue <> v_name
    ), named as materialized (
        select f.file, r.line, array(select r.cells ->> k.name from unnest(f.key) k (name)) as key
          from (values ('device_categories', array['key']), ('device_category_sizes', array['category_key', 'unit']), ('devices', array['id']),
                       ('utilities', array['key']), ('utility_service_areas', array['prefix', 'utility_key']), ('programs', array['id']),
                       ('program_utilities', array['program_id', 'utility_key']), ('program_tiers', array['program_id', 'id'])) f (file, key)
         cross join app.catalogue_rows(p_catalogue, f.file) r
    ), left_alone as materialized (
        -- Programs that stay with another catalogue: the starter catalogue takes nothing over.
        select o.file, o.key
          from owned o
         where v_name = 'starter' or not exists (select from named n where n.file = o.file and n.key = array[o.key])
    ), tier as materialized (
        select r.line, r.cells ->> 'program_id' as program_id, r.cells ->> 'amount_type' as amount_type, (r.cells ->> 'amount')::numeric as amount,
               r.cells ->> 'unit' as unit, r.cells ->> 'income_limits' is not null and r.cells ->> 'income_requirement' is null as has_only_limits,
               (r.cells ->> 'cap')::numeric as cap, (r.cells ->> 'cap_percent')::numeric as cap_percent,
               app.catalogue_list(r.cells ->> 'category_keys') as category_keys, app.catalogue_list(r.cells ->> 'device_ids') as device_ids,
               app.catalogue_list(r.cells ->> 'excludes') as excludes,
               app.catalogue_date(r.cells ->> 'start_date') as start_date, app.catalogue_date(r.cells ->> 'end_date', true) as end_date
          from app.catalogue_rows(p_catalogue, 'program_tiers') r
         where r.cells ->> 'program_id' not in (select l.key from left_alone l where l.file = 'programs')
    ), kept as materialized (
        -- Existing offers that this import does not replace.
        select t.program_id, t.category_keys, t.unit, t.excludes
          from app.program_tiers t
          join app.programs p on p.id = t.program_id and p.retired_at is null
         where p.id in (select l.key from left_alone l where l.file = 'programs')
            or not p_catalogue ? 'program_tiers'
               and (not p_catalogue ? 'programs' or exists (select from named n where n.file = 'programs' and n.key = array[p.id]))
    ), size as materialized (
        select s.category_key, s.unit
          from app.device_category_sizes s
         where not p_catalogue ? 'device_category_sizes' or s.category_key in (select l.key from left_alone l where l.file = 'device_categories')
         union select r.cells ->> 'category_key', r.cells ->> 'unit' from app.catalogue_rows(p_catalogue, 'device_category_sizes') r
    ), device as materialized (
        select id::text, category_key from app.devices
         union select r.cells ->> 'id', r.cells ->> 'category_key' from app.catalogue_rows(p_catalogue, 'devices') r
    ), place as materialized (
        select f.file, r.line, r.cells ->> 'country_code' as country_code, r.cells ->> 'region_code' as region_code
          from (values ('utilities'), ('programs')) f (file)
         cross join app.catalogue_rows(p_catalogue, f.file) r
    ), exclusion as materialized (
        select t.line, t.program_id, e.program_id as excluded_id, c.key as category_key
          from (select f.line, f.program_id, f.category_keys, f.excludes from tier f
                 union all select null, k.program_id, k.category_keys, k.excludes from kept k) t
         cross join lateral unnest(t.excludes) e (program_id)
         cross join lateral unnest(t.category_keys) c (key)
    ), excluding (program_id, excluded_id, category_key) as (
        -- Directly, or because it excludes a program that does.
        select x.program_id, x.excluded_id, x.category_key from exclusion x
         union
        select g.program_id, x.excluded_id, g.category_key
          from excluding g
          join exclusion x on x.program_id = g.excluded_id and x.category_key = g.category_key
    ), belonging as materialized (
        select f.file, r.line, f.name, f.refers_to, r.cells ->> f.name as key
          from (values ('device_category_sizes', 'category_key', 'device_categories'), ('utility_service_areas', 'utility_key', 'utilities'),
                       ('program_utilities', 'program_id', 'programs'), ('program_tiers', 'program_id', 'programs')) f (file, name, refers_to)
         cross join app.catalogue_rows(p_catalogue, f.file) r
    )
    select n.file, max(n.line), format('%s is there twice', array_to_string(n.key, ', '))
      from named n
     group by n.file, n.key
    having count(*) > 1
     union all
    select p.file, p.line, format('%s is not a state or province of %s', p.region_code, p.country_code)
      from place p
     where not exists (select from app.regions g where g.country_code = p.country_code and g.code = p.region_code)
     union all
    -- Otherwise the utility would silently lose its area.
    select 'utility_service_areas', r.line,
           format('prefix "%s" begins no ZIP code of %s, but "0%s" does: a spreadsheet drops leading zeros', r.cells ->> 'prefix', g.code, r.cells ->> 'prefix')
      from app.catalogue_rows(p_catalogue, 'utility_service_areas') r
      join (select f.cells ->> 'key' as key, f.cells ->> 'country_code' as country_code, f.cells ->> 'region_code' as region_code
              from app.catalogue_rows(p_catalogue, 'utilities') f
             union
            select u.key, u.country_code, u.region_code from app.utilities u
             where u.key not in (select f.cells ->> 'key' from app.catalogue_rows(p_catalogue, 'utilities') f)) u on u.key = r.cells ->> 'utility_key'
      join app.regions g on g.country_code = u.country_code and g.code = u.region_code
     where r.cells ->> 'prefix' ~ '^[1-9][0-9]{0,3}$'
       and not app.zip3_of(r.cells ->> 'prefix') && g.zip3 and app.zip3_of('0' || (r.cells ->> 'prefix')) && g.zip3
     union all
    select f.file, r.line, f.name || ' must be more than 0'
      from (values ('device_categories', 'typical_cost'), ('device_category_sizes', 'typical_size'), ('program_tiers', 'cap'),
                   ('program_tiers', 'cap_percent'), ('program_tiers', 'shared_cap')) f (file, name)
     cross join app.catalogue_rows(p_catalogue, f.file) r
     where (r.cells ->> f.name)::numeric = 0
     union all
    select 'program_tiers', t.line, e.error
      from tier t
     cross join lateral (values
         (case when t.amount_type = 'percent' and t.amount > 100 then 'a percent amount must be at most 100' end),
         (case when t.cap_percent > 100 then 'cap_percent must be at most 100' end),
         (case when (t.amount_type = 'per_unit') <> (t.unit is not null) then 'unit goes with amount_type per_unit, and only with it' end),
         (case when t.has_only_limits then 'income_limits go with an income_requirement' end),
         (case when t.program_id = any (t.excludes) then 'excludes its own program, whose offers are alternatives anyway' end),
         (case when t.start_date > t.end_date then 'end_date is before start_date' end)) e (error)
     where e.error is not null
     union all
    -- Neither of them would ever pay.
    select 'program_tiers', (select max(x.line) from exclusion x where x.program_id = g.program_id),
           format('%s and %s exclude each other', g.program_id, string_agg(distinct g.excluded_id, ' and '))
      from excluding g
     where g.program_id <> g.excluded_id and g.program_id in (select x.program_id from exclusion x where x.line is not null)
       and exists (select from excluding o
                    where o.program_id = g.excluded_id and o.excluded_id = g.program_id and o.category_key = g.category_key)
     group by g.program_id
     union all
    -- Otherwise existing offers would lose the size of a device.
    select distinct 'device_category_sizes', 1, format('there must be a %s for %s, by which %s pays', s.unit, s.category_key, k.program_id)
      from kept k
      join app.device_category_sizes s on s.unit = k.unit and s.category_key = any (k.category_keys)
     where v_name <> 'starter' and not exists (select from size z where z.category_key = s.category_key and z.unit = s.unit)
     union all
    select 'program_tiers', t.line, format('device_category_sizes has no %s for %s', t.unit, c.key)
      from tier t
     cross join lateral unnest(t.category_keys) c (key)
     where t.unit is not null and not exists (select from size s where s.category_key = c.key and s.unit = t.unit)
     union all
    select 'program_tiers', t.line, format('device %s is of none of the categories %s', d.id, array_to_string(t.category_keys, ', '))
      from tier t
     cross join lateral unnest(t.device_ids) d (id)
     where not exists (select from device v where v.id = d.id and v.category_key = any (t.category_keys))
     union all
    -- The starter catalogue's rows may have been taken over by another. Any other catalogue would silently lose what it adds to a row of
    -- another.
    select b.file, b.line, format('%s "%s" is of the catalogue "%s", so it needs a row in %s, too', b.name, o.key, o.catalogue, b.refers_to)
      from belonging b
      join owned o on o.file = b.refers_to and o.key = b.key
     where v_name <> 'starter'
       and not exists (select from named n where n.file = b.refers_to and n.key = array[o.key])
     union all
    select 'devices', r.line, format('id %s is a device of %s in the catalogue "%s", and ids never change their meaning', d.id, d.category_key, d.catalogue)
      from app.catalogue_rows(p_catalogue, 'devices') r
      join app.devices d on d.id = (r.cells ->> 'id')::integer
     where v_name not in ('starter', d.catalogue) and d.category_key <> r.cells ->> 'category_key'
     union all
    select 'programs', r.line, case r.cells ->> 'scope' when 'state' then 'a program of scope state has no rows in program_utilities'
                                                      else 'a program of scope utility needs a row in program_utilities' end
      from app.catalogue_rows(p_catalogue, 'programs') r
     where p_catalogue ? 'program_utilities'
       and (r.cells ->> 'scope' = 'state') = (r.cells ->> 'id' in (select u.cells ->> 'program_id'
                                                                    from app.catalogue_rows(p_catalogue, 'program_utilities') u));
end;
$$;

create or replace function app.check_catalogue(p_catalogue jsonb) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_files   text[] := app.catalogue_files();
    v_unknown text;
    v_errors  jsonb;
begin
    if jsonb_typeof(p_catalogue) is distinct from 'object' then
        perform app.refuse(400, 'invalid_catalogue', 'A catalogue must be an object of files');
    end if;
    v_unknown := (select string_agg(left(f.file, 100), ', ') from jsonb_object_keys(p_catalogue - array['catalogue', 'source']) f (file) where f.file <> all (v_files));
    if v_unknown is not null then
        perform app.refuse(
            400, 'invalid_catalogue', format('Unknown files in the catalogue: %s', v_unknown),
            format('The files are %s.', array_to_string(v_files, ', ')));
    elsif exists (select
                    from jsonb_each(p_catalogue - array['catalogue', 'source']) f (file, lines)
                   where case jsonb_typeof(f.lines) when 'array'
                              then exists (select from jsonb_array_elements(f.lines) r (cells) where jsonb_typeof(r.cells) <> 'object')
                              else true end) then
        perform app.refuse(400, 'invalid_catalogue', 'Each file of a catalogue must be an array of objects');
    elsif jsonb_typeof(p_catalogue -> 'catalogue') is distinct from 'string' or btrim(p_catalogue ->> 'catalogue') = '' then
        perform app.refuse(400, 'invalid_catalogue', 'catalogue must be the name of the catalogue');
    elsif jsonb_typeof(p_catalogue -> 'source') <> 'string' or btrim(p_catalogue ->> 'source') = '' then
        -- An empty prefix would match every source.
        perform app.refuse(400, 'invalid_catalogue', 'source must be a prefix of the source of the programs');
    end if;

    select jsonb_agg(to_jsonb(e) order by e.file, e.line, e.error) into v_errors from app.catalogue_cell_errors(p_catalogue) e;
    if v_errors is null then
        select jsonb_agg(to_jsonb(e) order by e.file, e.line, e.error) into v_errors from app.catalogue_row_errors(p_catalogue) e;
    end if;
    if v_errors is not null then
        perform app.refuse(
            400, 'invalid_catalogue',
            case when jsonb_array_length(v_errors) > 1 then format('The catalogue has %s errors, the first in ', jsonb_array_length(v_errors)) else '' end
            || format('%s.csv, line %s: %s', v_errors #>> '{0,file}', v_errors #>> '{0,line}', v_errors #>> '{0,error}'),
            p_members => json_build_object('catalogue_errors', jsonb_path_query_array(v_errors, '$[0 to 99]')));
    end if;
end;
$$;
