-- Chapter 34, catalogue export: the rows of a catalogue in the form of its files, and what an import changes in them.

-- A value of a table in the form of a cell.
create or replace function app.catalogue_cell(p_kind text, p_value jsonb) returns text
language sql immutable
return case when p_kind = 'list' and p_value <> 'null'
            then (select string_agg(e.value, ' ' order by e.n) from jsonb_array_elements_text(p_value) with ordinality e (value, n))
            when p_kind = 'limits' and p_value <> 'null'
            then (select string_agg(l.key || ':' || concat_ws('-', l.value ->> 0, nullif(l.value ->> 1, l.value ->> 0)), ' ' order by length(l.key), l.key)
                    from jsonb_each(p_value) l)
            else p_value #>> '{}' end;

-- The rows of a file, of one catalogue or of all, from the tables, without retired ones and what belongs to these.
create or replace function app.catalogue_stored(p_file text, p_name text default null) returns table (catalogue text, key text, stored jsonb)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select s.catalogue, s.key, s.stored from (
        select c.catalogue, c.key, to_jsonb(row(c.*)::app.device_categories) as stored
          from app.device_categories c
         where p_file = 'device_categories' and c.retired_at is null
         union all
        select c.catalogue, s.category_key || ' ' || s.unit, to_jsonb(row(s.*)::app.device_category_sizes)
          from app.device_category_sizes s
          join app.device_categories c on c.key = s.category_key and c.retired_at is null
         where p_file = 'device_category_sizes'
         union all
        select d.catalogue, d.id::text, to_jsonb(row(d.*)::app.devices)
          from app.devices d
         where p_file = 'devices' and d.retired_at is null
         union all
        select u.catalogue, u.key, to_jsonb(row(u.*)::app.utilities)
          from app.utilities u
         where p_file = 'utilities' and u.retired_at is null
         union all
        select u.catalogue, a.prefix || ' ' || a.utility_key, to_jsonb(row(a.*)::app.utility_service_areas)
          from app.utility_service_areas a
          join app.utilities u on u.key = a.utility_key and u.retired_at is null
         where p_file = 'utility_service_areas'
         union all
        select p.catalogue, p.id, to_jsonb(row(p.*)::app.programs)
          from app.programs p
         where p_file = 'programs' and p.retired_at is null
         union all
        select p.catalogue, u.program_id || ' ' || u.utility_key, to_jsonb(row(u.*)::app.program_utilities)
          from app.program_utilities u
          join app.programs p on p.id = u.program_id and p.retired_at is null
         where p_file = 'program_utilities'
         union all
        select p.catalogue, t.program_id || ' ' || t.id, to_jsonb(row(t.*)::app.program_tiers)
          from app.program_tiers t
          join app.programs p on p.id = t.program_id and p.retired_at is null
         where p_file = 'program_tiers'
    ) s
     where p_name is null or s.catalogue = p_name;
end;
$$;

-- A row in the form of its file, given the names and kinds of the columns: the cells in order, null for empty ones.
create or replace function app.catalogue_cells(p_names text[], p_kinds text[], p_stored jsonb) returns json
language sql immutable
return (select json_object_agg(c.name, app.catalogue_cell(c.kind, p_stored -> c.name) order by c.n)
          from unnest(p_names, p_kinds) with ordinality c (name, kind, n));

create or replace function api.export_catalogue(p_name text) returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_files json;
begin
    select json_object_agg(f.file, f.lines order by f.n) into v_files
      from (select o.file, o.n, json_agg(app.catalogue_cells(c.names, c.kinds, s.stored) order by s.key collate "C") as lines
              from unnest(app.catalogue_files()) with ordinality o (file, n)
              join (select k.file, array_agg(k.name order by k.n) as names, array_agg(k.kind order by k.n) as kinds
                      from app.catalogue_columns() with ordinality k (file, name, kind, required, choices, refers_to, n)
                     group by k.file) c on c.file = o.file
             cross join lateral app.catalogue_stored(o.file, p_name) s
             group by o.file, o.n) f;
    if v_files is null then
        perform app.refuse(
            404, 'catalogue_not_found', 'There is no catalogue with this name',
            format('The catalogues are %s.', (select string_agg(distinct p.catalogue, ', ') from app.programs p where p.retired_at is null)));
    end if;
    return app.join_objects(json_build_object('catalogue', p_name), v_files);
end;
$$;

comment on function api.export_catalogue(text) is
'The rows of a catalogue as api.import_catalogue takes them: {"catalogue": its name, "devices": [rows], ...}, without retired ones and without files that it has no rows of; an empty cell is null. Importing it again changes nothing; importing an earlier export undoes a mistake. 404 catalogue_not_found.';

create or replace function api.list_catalogues() returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return json_build_object('catalogues', (
        select coalesce(json_agg(json_build_object('catalogue', c.name, 'files', c.files) order by c.name collate "C"), '[]')
          from (select f.name, json_object_agg(f.file, json_build_object('rows', f.kept, 'retired', f.retired) order by f.n) as files
                  from (select o.catalogue as name, o.file, o.n, count(*) filter (where o.retired_at is null) as kept, count(o.retired_at) as retired
                          from (select 1, 'device_categories', catalogue, retired_at from app.device_categories
                                 union all select 3, 'devices', catalogue, retired_at from app.devices
                                 union all select 4, 'utilities', catalogue, retired_at from app.utilities
                                 union all select 5, 'utility_service_areas', u.catalogue, u.retired_at
                                             from app.utility_service_areas a join app.utilities u on u.key = a.utility_key
                                 union all select 6, 'programs', catalogue, retired_at from app.programs
                                 union all select 8, 'program_tiers', p.catalogue, p.retired_at
                                             from app.program_tiers t join app.programs p on p.id = t.program_id) o (n, file, catalogue, retired_at)
                         group by o.catalogue, o.file, o.n) f
                 group by f.name) c));
end;
$$;

comment on function api.list_catalogues() is
'The catalogues that were imported, by name: {catalogues: [{catalogue, files: {programs: {rows, retired}, ...}}]}. A row belongs to the catalogue that imported it last; retired ones no longer count in lookups.';

-- What the tables contain of the files of a catalogue, across all catalogues: {file: {key: row}}.
create or replace function app.catalogue_state(p_catalogue jsonb) returns jsonb
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (select coalesce(jsonb_object_agg(f.file, s.lines), '{}')
              from unnest(app.catalogue_files()) f (file)
             cross join lateral (select coalesce(jsonb_object_agg(c.key, c.stored || jsonb_build_object('catalogue', c.catalogue)), '{}') as lines
                                   from app.catalogue_stored(f.file) c) s
             where p_catalogue ? f.file);
end;
$$;

-- The cells in which a row differs from another; without another, all cells that are not empty. The row's catalogue counts as a cell.
create or replace function app.cells_apart(p_file text, p_row jsonb, p_other jsonb) returns jsonb
language sql immutable
return (
    select jsonb_object_agg(c.name, c.value)
      from (select k.name, app.catalogue_cell(k.kind, p_row -> k.name) as value, app.catalogue_cell(k.kind, p_other -> k.name) as other
              from app.catalogue_columns() k
             where k.file = p_file
             union all
            select 'catalogue', p_row ->> 'catalogue', p_other ->> 'catalogue') c
     where p_row is not null and c.value is distinct from c.other);

-- The rows that exist in only one state, or differ between the two.
create or replace function app.catalogue_differences(p_before jsonb, p_after jsonb) returns table (file text, key text, before jsonb, after jsonb)
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select f.file, d.key, d.before, d.after
      from unnest(app.catalogue_files()) with ordinality f (file, n)
     cross join lateral (select coalesce(b.key, a.key) as key, b.value as before, a.value as after
                           from jsonb_each(p_before -> f.file) b
                           full join jsonb_each(p_after -> f.file) a on a.key = b.key
                          where b.value is distinct from a.value) d
     order by f.n, d.key collate "C";
end;
$$;

create or replace function app.catalogue_differences_json(p_before jsonb, p_after jsonb, p_limit integer default 1000) returns jsonb
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select jsonb_build_object(
                   'total_differences', count(*),
                   'differences', coalesce(jsonb_agg(jsonb_build_object(
                       'file', d.file, 'key', d.key,
                       'change', case when d.before is null then 'added' when d.after is null then 'retired' else 'changed' end,
                       'before', app.cells_apart(d.file, d.before, d.after),
                       'after', app.cells_apart(d.file, d.after, d.before)) order by d.n) filter (where d.n <= p_limit), '[]'))
          from app.catalogue_differences(p_before, p_after) with ordinality d (file, key, before, after, n));
end;
$$;
