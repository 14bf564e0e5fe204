-- Chapter 30, catalogue: the import. Chapter 31 has the format of the files.
--
-- A row belongs to the catalogue that imported it last. The starter catalogue, which every deploy imports, never takes a row back from
-- another catalogue. Sizes belong to their category, service areas to their utility, tiers to their program.

create or replace function app.import_device_categories(p_catalogue jsonb, p_name text, p_now timestamptz) returns json
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_rows    app.device_categories[];
    v_retired integer;
begin
    select coalesce(array_agg(n), '{}') into v_rows
      from app.catalogue_rows(p_catalogue, 'device_categories') r
     cross join jsonb_populate_record(null::app.device_categories, r.cells || jsonb_build_object('catalogue', p_name)) n
      left join app.device_categories t on t.key = n.key
     where t.key is null or (t.*) is distinct from (n.*) and (t.catalogue = p_name or p_name <> 'starter');
    insert into app.device_categories
    select * from unnest(v_rows)
        on conflict (key) do update
       set (name, typical_cost, basis, catalogue, retired_at)
         = (excluded.name, excluded.typical_cost, excluded.basis, excluded.catalogue, null);

    update app.device_categories
       set retired_at = p_now
     where catalogue = p_name and retired_at is null
       and key not in (select r.cells ->> 'key' from app.catalogue_rows(p_catalogue, 'device_categories') r);
    get diagnostics v_retired = row_count;
    return json_build_object('changed', cardinality(v_rows), 'retired', v_retired);
end;
$$;

create or replace function app.import_device_category_sizes(p_catalogue jsonb, p_name text) returns json
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_rows    app.device_category_sizes[];
    v_retired integer;
begin
    select coalesce(array_agg(n), '{}') into v_rows
      from app.catalogue_rows(p_catalogue, 'device_category_sizes') r
     cross join jsonb_populate_record(null::app.device_category_sizes, r.cells) n
      join app.device_categories c on c.key = n.category_key and c.catalogue = p_name
      left join app.device_category_sizes t on t.category_key = n.category_key and t.unit = n.unit
     where t.category_key is null or (t.*) is distinct from (n.*);
    insert into app.device_category_sizes
    select * from unnest(v_rows)
        on conflict (category_key, unit) do update
       set (typical_size, basis) = (excluded.typical_size, excluded.basis);

    delete from app.device_category_sizes s
     using app.device_categories c
     where c.key = s.category_key and c.catalogue = p_name
       and (s.category_key, s.unit) not in (select r.cells ->> 'category_key', r.cells ->> 'unit'
                                              from app.catalogue_rows(p_catalogue, 'device_category_sizes') r);
    get diagnostics v_retired = row_count;
    return json_build_object('changed', cardinality(v_rows), 'retired', v_retired);
end;
$$;

create or replace function app.import_devices(p_catalogue jsonb, p_name text, p_now timestamptz) returns json
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_rows    app.devices[];
    v_retired integer;
begin
    select coalesce(array_agg(n), '{}') into v_rows
      from app.catalogue_rows(p_catalogue, 'devices') r
     cross join jsonb_populate_record(null::app.devices, r.cells || jsonb_build_object('catalogue', p_name)) n
      left join app.devices t on t.id = n.id
     where t.id is null or (t.*) is distinct from (n.*) and (t.catalogue = p_name or p_name <> 'starter');
    insert into app.devices
    select * from unnest(v_rows)
        on conflict (id) do update
       set (category_key, name, catalogue, retired_at) = (excluded.category_key, excluded.name, excluded.catalogue, null);

    update app.devices
       set retired_at = p_now
     where catalogue = p_name and retired_at is null
       and id not in (select (r.cells ->> 'id')::integer from app.catalogue_rows(p_catalogue, 'devices') r);
    get diagnostics v_retired = row_count;
    return json_build_object('changed', cardinality(v_rows), 'retired', v_retired);
end;
$$;

create or replace function app.import_utilities(p_catalogue jsonb, p_name text, p_now timestamptz) returns json
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_rows    app.utilities[];
    v_retired integer;
begin
    select coalesce(array_agg(n), '{}') into v_rows
      from app.catalogue_rows(p_catalogue, 'utilities') r
     cross join jsonb_populate_record(null::app.utilities, r.cells || jsonb_build_object(
                    'source_date', app.catalogue_date(r.cells ->> 'source_date'), 'catalogue', p_name)) n
      left join app.utilities t on t.key = n.key
     where t.key is null or (t.*) is distinct from (n.*) and (t.catalogue = p_name or p_name <> 'starter');
    insert into app.utilities
    select * from unnest(v_rows)
        on conflict (key) do update
       set (eiaid, name, country_code, region_code, source, source_date, catalogue, retired_at)
         = (excluded.eiaid, excluded.name, excluded.country_code, excluded.region_code, excluded.source, excluded.source_date,
            excluded.catalogue, null);

    update app.utilities
       set retired_at = p_now
     where catalogue = p_name and retired_at is null
       and key not in (select r.cells ->> 'key' from app.catalogue_rows(p_catalogue, 'utilities') r);
    get diagnostics v_retired = row_count;
    return json_build_object('changed', cardinality(v_rows), 'retired', v_retired);
end;
$$;

create or replace function app.import_utility_service_areas(p_catalogue jsonb, p_name text) returns json
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_rows    app.utility_service_areas[];
    v_retired integer;
begin
    select coalesce(array_agg(n), '{}') into v_rows
      from app.catalogue_rows(p_catalogue, 'utility_service_areas') r
     cross join jsonb_populate_record(null::app.utility_service_areas, r.cells) n
      join app.utilities u on u.key = n.utility_key and u.catalogue = p_name
      left join app.utility_service_areas t on t.prefix = n.prefix and t.utility_key = n.utility_key
     where t.prefix is null or t.rank <> n.rank;
    insert into app.utility_service_areas
    select * from unnest(v_rows)
        on conflict (prefix, utility_key) do update
       set rank = excluded.rank;

    delete from app.utility_service_areas a
     using app.utilities u
     where u.key = a.utility_key and u.catalogue = p_name
       and (a.prefix, a.utility_key) not in (select r.cells ->> 'prefix', r.cells ->> 'utility_key'
                                               from app.catalogue_rows(p_catalogue, 'utility_service_areas') r);
    get diagnostics v_retired = row_count;
    return json_build_object('changed', cardinality(v_rows), 'retired', v_retired);
end;
$$;

create or replace function app.import_programs(p_catalogue jsonb, p_name text, p_now timestamptz) returns json
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_rows    app.programs[];
    v_retired integer;
begin
    select coalesce(array_agg(n), '{}') into v_rows
      from app.catalogue_rows(p_catalogue, 'programs') r
     cross join jsonb_populate_record(null::app.programs, r.cells || jsonb_build_object(
                    'source_date', app.catalogue_date(r.cells ->> 'source_date'), 'catalogue', p_name,
                    'cities', (select array_agg(app.plain_name(c)) from unnest(app.catalogue_list(r.cells ->> 'cities')) c))) n
      left join app.programs t on t.id = n.id
     where t.id is null or (t.*) is distinct from (n.*) and (t.catalogue = p_name or p_name <> 'starter');
    insert into app.programs
    select * from unnest(v_rows)
        on conflict (id) do update
       set (name, authority, authority_type, country_code, region_code, scope, url, source, source_id, source_date, catalogue, retired_at, cities)
         = (excluded.name, excluded.authority, excluded.authority_type, excluded.country_code, excluded.region_code, excluded.scope,
            excluded.url, excluded.source, excluded.source_id, excluded.source_date, excluded.catalogue, null, excluded.cities);

    update app.programs
       set retired_at = p_now
     where catalogue = p_name and retired_at is null
       and id not in (select r.cells ->> 'id' from app.catalogue_rows(p_catalogue, 'programs') r);
    get diagnostics v_retired = row_count;
    return json_build_object('changed', cardinality(v_rows), 'retired', v_retired);
end;
$$;

create or replace function app.import_program_utilities(p_catalogue jsonb, p_name text) returns json
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_rows    app.program_utilities[];
    v_retired integer;
begin
    select coalesce(array_agg(n), '{}') into v_rows
      from app.catalogue_rows(p_catalogue, 'program_utilities') r
     cross join jsonb_populate_record(null::app.program_utilities, r.cells) n
      join app.programs p on p.id = n.program_id and p.catalogue = p_name
      left join app.program_utilities t on t.utility_key = n.utility_key and t.program_id = n.program_id
     where t.utility_key is null;
    insert into app.program_utilities
    select * from unnest(v_rows)
        on conflict (utility_key, program_id) do nothing;

    delete from app.program_utilities u
     using app.programs p
     where p.id = u.program_id and p.catalogue = p_name
       and (u.utility_key, u.program_id) not in (select r.cells ->> 'utility_key', r.cells ->> 'program_id'
                                                   from app.catalogue_rows(p_catalogue, 'program_utilities') r);
    get diagnostics v_retired = row_count;
    return json_build_object('changed', cardinality(v_rows), 'retired', v_retired);
end;
$$;

create or replace function app.import_program_tiers(p_catalogue jsonb, p_name text) returns json
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_rows    app.program_tiers[];
    v_retired integer;
begin
    -- Keep the tiers of a program next to each other, so that a lookup reads few pages.
    select coalesce(array_agg(n order by n.program_id, n.id), '{}') into v_rows
      from app.catalogue_rows(p_catalogue, 'program_tiers') r
     cross join jsonb_populate_record(null::app.program_tiers, r.cells || jsonb_build_object(
                    'category_keys', app.catalogue_list(r.cells ->> 'category_keys'),
                    'device_ids', app.catalogue_list(r.cells ->> 'device_ids'),
                    'building_types', app.catalogue_list(r.cells ->> 'building_types'),
                    'owner_statuses', app.catalogue_list(r.cells ->> 'owner_statuses'),
                    'income_limits', app.income_limits(r.cells ->> 'income_limits'),
                    'excludes', app.catalogue_list(r.cells ->> 'excludes'),
                    'start_date', app.catalogue_date(r.cells ->> 'start_date'),
                    'end_date', app.catalogue_date(r.cells ->> 'end_date', true))) n
      join app.programs p on p.id = n.program_id and p.catalogue = p_name
      left join app.program_tiers t on t.program_id = n.program_id and t.id = n.id
     where t.program_id is null or (t.*) is distinct from (n.*);
    insert into app.program_tiers
    select * from unnest(v_rows)
        on conflict (program_id, id) do update
       set (name, category_keys, device_ids, amount_type, amount, unit, cap, cap_percent, building_types, owner_statuses, start_date,
            end_date, note, income_requirement, income_limits, excludes, shared_cap, other_requirements)
         = (excluded.name, excluded.category_keys, excluded.device_ids, excluded.amount_type, excluded.amount, excluded.unit, excluded.cap,
            excluded.cap_percent, excluded.building_types, excluded.owner_statuses, excluded.start_date, excluded.end_date, excluded.note,
            excluded.income_requirement, excluded.income_limits, excluded.excludes, excluded.shared_cap,
            excluded.other_requirements);

    delete from app.program_tiers t
     using app.programs p
     where p.id = t.program_id and p.catalogue = p_name
       and (t.program_id, t.id) not in (select r.cells ->> 'program_id', r.cells ->> 'id' from app.catalogue_rows(p_catalogue, 'program_tiers') r);
    get diagnostics v_retired = row_count;
    return json_build_object('changed', cardinality(v_rows), 'retired', v_retired);
end;
$$;

-- A catalogue that covers a whole source permanently takes over the rows of that source from other catalogues; the import that follows
-- retires those it lacks. So no program counts twice.
create or replace function app.adopt_source(p_name text, p_source text) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    update app.programs set catalogue = p_name where starts_with(source, p_source) and catalogue <> p_name;
end;
$$;

-- Imports the files of a validated catalogue.
create or replace function app.load_files(p_catalogue jsonb, p_now timestamptz) returns jsonb
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_name    text  := p_catalogue ->> 'catalogue';
    v_summary jsonb := jsonb_build_object();
    v_file    text;
begin
    if p_catalogue ? 'programs' then
        perform app.adopt_source(v_name, p_catalogue ->> 'source');
    end if;
    foreach v_file in array app.catalogue_files() loop
        continue when not p_catalogue ? v_file;
        v_summary := v_summary || jsonb_build_object(v_file, jsonb_build_object('rows', jsonb_array_length(p_catalogue -> v_file)) || case v_file
            when 'device_categories'     then app.import_device_categories(p_catalogue, v_name, p_now)
            when 'device_category_sizes' then app.import_device_category_sizes(p_catalogue, v_name)
            when 'devices'               then app.import_devices(p_catalogue, v_name, p_now)
            when 'utilities'             then app.import_utilities(p_catalogue, v_name, p_now)
            when 'utility_service_areas' then app.import_utility_service_areas(p_catalogue, v_name)
            when 'programs'              then app.import_programs(p_catalogue, v_name, p_now)
            when 'program_utilities'     then app.import_program_utilities(p_catalogue, v_name)
            when 'program_tiers'         then app.import_program_tiers(p_catalogue, v_name)
        end::jsonb);
    end loop;
    return v_summary;
end;
$$;

create or replace function api.import_catalogue(p_catalogue jsonb, p_dry_run boolean default false) returns json
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now         timestamptz := app.clock();
    v_before      jsonb;
    v_summary     jsonb;
    v_differences jsonb;
    v_changes     jsonb;
begin
    -- One import at a time, including its checks, which read what another import changes; lookups continue meanwhile.
    lock table app.programs in share row exclusive mode;
    perform app.check_catalogue(p_catalogue);
    if p_dry_run then
        v_before := app.catalogue_state(p_catalogue);
        begin
            v_summary     := app.load_files(p_catalogue, v_now);
            v_differences := app.catalogue_differences_json(v_before, app.catalogue_state(p_catalogue));
            -- Rolls back what the block has written; the variables keep their values.
            raise exception using errcode = 'PT200';
        exception
            when sqlstate 'PT200' then null;
        end;
        return (v_summary || v_differences)::json;
    end if;

    v_summary := app.load_files(p_catalogue, v_now);
    v_changes := (select jsonb_object_agg(f.key, f.value - 'rows') from jsonb_each(v_summary) f where f.value - 'rows' <> '{"changed": 0, "retired": 0}');
    if v_changes is not null then
        perform app.audit(app.installation_id(), 'catalogue.imported', p_target_id => p_catalogue ->> 'catalogue', p_details => v_changes);
    end if;
    -- The very first lookup needs statistics of these tables for its plans. Citus does not analyze what this transaction has written here.
    if not app.is_distributed() then
        analyze app.device_categories, app.device_category_sizes, app.devices, app.utilities, app.utility_service_areas, app.programs,
                app.program_utilities, app.program_tiers;
    end if;
    return v_summary::json;
end;
$$;

comment on function api.import_catalogue(jsonb, boolean) is
'Imports a catalogue, all or nothing: {"catalogue": its name, "devices": [rows], ...}, one member for each file of sql/catalogue; a row is an object of strings. Adds and updates rows, and retires those that the same catalogue had and no longer has; the rows of a missing file are left as they are. Returns, for each file, how many rows it has, how many changed and how many were retired; importing the same again changes nothing.

- source, if given, says that the catalogue is complete for sources with this prefix: programs of other catalogues from there become its own.
- What belongs to a row, such as the tiers of a program, comes with the row.
- _line of a row: its line in the file, for errors, if that is not its position after the header.
- What it changed is noted in api.audit_events as catalogue.imported, with these counts of each file.
- p_dry_run changes nothing and returns what would change, too: total_differences and the first 1,000 differences, {file, key, change (added, changed or retired), before, after}, with the cells that differ.

400 invalid_catalogue: a row is invalid; the message names the file, line and reason.';
