-- Chapter 61, the sites of a report: filtered, sorted and paged, and as CSV.

create or replace function app.site_address_json(p_site public.incentive_report_sites) returns json
language sql immutable
as $$
    select json_strip_nulls(json_build_object(
        'street_1', (p_site).street_1,
        'street_2', (p_site).street_2,
        'city', (p_site).city,
        'state_or_province_code', (p_site).state_or_province_code,
        'postal_code', (p_site).postal_code,
        'country_code', (p_site).country_code))
$$;

create or replace function app.site_json(p_site public.incentive_report_sites) returns json
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return json_build_object(
        'item_id', p_site.item_id,
        'reference_id', p_site.reference_id,
        'address', app.site_address_json(p_site),
        'building_type', p_site.building_type,
        'device_categories', p_site.device_categories,
        'utility', json_build_object('eiaid', app.eiaid(p_site.utility_eiaid), 'name', p_site.utility_name),
        'eligible', p_site.eligible,
        'total_incentive_amount', round(p_site.total_incentive_amount, 2),
        'programs', (select coalesce(json_agg(json_build_object(
                                'program_id', p.program_id, 'program_name', p.program_name, 'total_incentive', round(p.total_incentive, 2),
                                'eligible_combinations', p.eligible_combinations) order by p.total_incentive desc, p.program_id), '[]')
                       from public.incentive_report_site_programs p
                      where p.organization_id = p_site.organization_id and p.report_id = p_site.report_id and p.position = p_site.position),
        'conditional_incentive_amount', round(p_site.conditional_incentive_amount, 2));
end;
$$;

-- The positions of a report's sites that are eligible for a program; null: no program is given.
create or replace function app.positions_with_program(p_organization_id uuid, p_report_id uuid, p_program text) returns integer[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_program is null then
        return null;
    end if;
    return array(select position
                   from public.incentive_report_site_programs
                  where organization_id = p_organization_id and report_id = p_report_id and program_id = p_program);
end;
$$;

-- Whether a site passes the filters of a report; null: no filter. A utility is given by its number or its name.
create or replace function app.site_matches(
    p_site public.incentive_report_sites, p_eligible boolean, p_state text, p_utility text, p_positions integer[], p_q text
) returns boolean
language sql immutable
as $$
    select (p_eligible is null or (p_site).eligible = p_eligible)
       and (p_state is null or (p_site).state_or_province_code = upper(p_state))
       and (p_utility is null or (p_site).utility_eiaid = p_utility or lower((p_site).utility_name) = lower(p_utility))
       and (p_positions is null or (p_site).position = any (p_positions))
       and app.site_contains(p_q, (p_site).reference_id, (p_site).street_1, (p_site).city)
$$;

-- Planned for each call, so that unused sort orders and filters vanish from the plan.
create or replace function api.get_incentive_report(
    p_organization_id uuid default app.claimed_organization_id(), p_report_id uuid default null, p_limit integer default 100,
    p_offset integer default 0, p_cursor text default null, p_sort text default 'position', p_eligible boolean default null, p_state text default null, p_utility text default null,
    p_program text default null, p_q text default null
) returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan set jit = off
as $$
declare
    v_report    public.incentive_reports;
    v_cursor    app.page_cursor;
    v_positions integer[];
    v_sites     public.incentive_report_sites[];
    v_last      public.incentive_report_sites;
    v_total     bigint;
    v_shown     json[] := '{}';
    v_bytes     bigint := 0;
begin
    perform app.authorize(p_organization_id, 'reports:read');
    v_report := app.find_report(p_organization_id, p_report_id);
    perform app.check_search('q', p_q);
    perform app.check_choice('sort', p_sort, array['position', '-position', 'amount', '-amount', 'reference_id', '-reference_id']);
    v_cursor    := app.read_page(p_cursor, p_sort, p_limit, p_offset, 500);
    v_positions := app.positions_with_program(p_organization_id, p_report_id, p_program);
    select coalesce(array_agg(row(p.*)::public.incentive_report_sites), '{}') into v_sites
      from (select s.*
              from public.incentive_report_sites s
             where s.organization_id = p_organization_id and s.report_id = p_report_id
               and app.site_matches(row(s.*)::public.incentive_report_sites, p_eligible, p_state, p_utility, v_positions, p_q)
               and (p_cursor is null or case p_sort
                       when 'position'      then s.position > v_cursor.position
                       when '-position'     then s.position < v_cursor.position
                       when 'amount'        then (s.total_incentive_amount, s.position) > (v_cursor.amount, v_cursor.position)
                       when '-amount'       then (-s.total_incentive_amount, s.position) > (-v_cursor.amount, v_cursor.position)
                       when 'reference_id'  then (s.reference_id, s.position) > (v_cursor.reference_id, v_cursor.position)
                       when '-reference_id' then (s.reference_id, -s.position) < (v_cursor.reference_id, -v_cursor.position) end)
             order by case p_sort when '-position' then s.position end desc,
                      case p_sort when 'amount' then s.total_incentive_amount end,
                      case p_sort when '-amount' then s.total_incentive_amount end desc,
                      case p_sort when 'reference_id' then s.reference_id end,
                      case p_sort when '-reference_id' then s.reference_id end desc,
                      s.position
             limit p_limit + 1 offset p_offset) p;
    if num_nonnulls(p_eligible, p_state, p_utility, p_program, p_q) > 0 then
        select count(*) into v_total
          from public.incentive_report_sites s
         where s.organization_id = p_organization_id and s.report_id = p_report_id
           and app.site_matches(row(s.*)::public.incentive_report_sites, p_eligible, p_state, p_utility, v_positions, p_q);
    end if;
    -- A site with the programs of a large response can be as large as the response.
    while cardinality(v_shown) < least(p_limit, cardinality(v_sites)) and v_bytes < 8 * 1024 * 1024 loop
        v_last  := v_sites[cardinality(v_shown) + 1];
        v_shown := v_shown || app.site_json(v_last);
        v_bytes := v_bytes + octet_length(v_shown[cardinality(v_shown)]::text);
    end loop;

    return app.join_objects(app.report_json(v_report), json_build_object(
        'sites', array_to_json(v_shown),
        'total', coalesce(v_total, v_report.total_sites),
        'limit', p_limit,
        'offset', p_offset,
        'next_cursor', case when cardinality(v_sites) > cardinality(v_shown)
                            then app.cursor(row(p_sort, v_last.position, v_last.total_incentive_amount, v_last.reference_id, null, null, null)) end));
end;
$$;

comment on function api.get_incentive_report(uuid, uuid, integer, integer, text, text, boolean, text, text, text, text) is
'One report with a page of its sites and the programs of each. p_sort: position (upload order), amount or reference_id, with a minus in front for descending. Filters: eligible; state or province code; utility, by number or name; id of a program that the site is eligible for; p_q, a text in reference_id, street_1 or city, ignoring case; total counts the sites that pass them. p_cursor is the next_cursor of the page before; a page of large sites ends at 8 MB, with fewer than p_limit and a next_cursor. Amounts in US dollars. 400: limit not in 1 to 500, invalid_sort, invalid_cursor, cursor_with_offset. 404: no such report in this organization.';
grant execute on function api.get_incentive_report(uuid, uuid, integer, integer, text, text, boolean, text, text, text, text) to authenticated;

-- A line of a file: of CSV, or the JSON array for a row of a workbook.
create or replace function app.file_line(p_format text, p_cells text[], p_is_text boolean[]) returns text
language sql immutable
return case p_format when 'xlsx' then app.workbook_row(p_cells, p_is_text) else app.csv_line(variadic p_cells) end;

-- How many of the sites, in the order of their positions, have programs whose names add up to p_bytes; at least one.
create or replace function app.sites_within(p_organization_id uuid, p_report_id uuid, p_sites public.incentive_report_sites[], p_bytes bigint) returns integer
language plpgsql stable
set search_path = pg_catalog, pg_temp set jit = off
as $$
begin
    return (select greatest(count(*) filter (where w.bytes <= p_bytes), 1)
              from (select sum(coalesce(p.bytes, 0)) over (order by s.position) as bytes
                      from unnest(p_sites) s
                     cross join lateral (select sum(octet_length(program_name)) as bytes
                                           from public.incentive_report_site_programs
                                          where organization_id = p_organization_id and report_id = p_report_id and position = s.position) p) w);
end;
$$;

-- Looks up the programs of each site by the primary key: a filter may have left a few of 10,000 sites, and all programs of the sites
-- between them may be a million.
create or replace function api.get_incentive_report_csv(
    p_organization_id uuid    default app.claimed_organization_id(),
    p_report_id       uuid    default null,
    p_eligible        boolean default null,
    p_state           text    default null,
    p_utility         text    default null,
    p_program         text    default null,
    p_after           integer default -1,
    p_limit           integer default 10000,
    p_q               text    default null,
    p_format          text    default 'csv',
    out lines         text,
    out last_position integer
)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan set jit = off
as $$
declare
    v_names     constant text[]    := array['reference_id', 'street_1', 'street_2', 'city', 'state_or_province_code', 'postal_code', 'country_code',
                                            'building_type', 'device_categories', 'utility_eiaid', 'utility_name', 'eligible',
                                            'total_incentive_amount', 'programs', 'conditional_incentive_amount'];
    v_is_text   constant boolean[] := array(select n.name not in ('utility_eiaid', 'eligible', 'total_incentive_amount', 'conditional_incentive_amount')
                                              from unnest(v_names) with ordinality n (name, place) order by n.place);
    v_positions integer[];
    v_sites     public.incentive_report_sites[];
    v_count     integer;
begin
    perform app.authorize(p_organization_id, 'reports:read');
    perform app.check_choice('format', p_format, array['csv', 'xlsx']);
    perform app.find_report(p_organization_id, p_report_id);
    perform app.check_page(p_limit, 0, 10000);
    perform app.check_search('q', p_q);
    v_positions := app.positions_with_program(p_organization_id, p_report_id, p_program);
    select coalesce(array_agg(row(p.*)::public.incentive_report_sites), '{}') into v_sites
      from (select s.*
              from public.incentive_report_sites s
             where s.organization_id = p_organization_id and s.report_id = p_report_id and s.position > p_after
               and app.site_matches(row(s.*)::public.incentive_report_sites, p_eligible, p_state, p_utility, v_positions, p_q)
             order by s.position
             limit p_limit + 1) p;
    v_count := least(cardinality(v_sites), p_limit, app.sites_within(p_organization_id, p_report_id, v_sites, 8 * 1024 * 1024));
    if cardinality(v_sites) > v_count then
        last_position := v_sites[v_count].position;
        v_sites       := v_sites[:v_count];
    end if;

    select string_agg(app.file_line(p_format, array[
                          s.reference_id, s.street_1, s.street_2, s.city, s.state_or_province_code, s.postal_code, s.country_code,
                          s.building_type, array_to_string(s.device_categories, ' '), s.utility_eiaid, s.utility_name,
                          s.eligible::text, round(s.total_incentive_amount, 2)::text, p.programs,
                          round(s.conditional_incentive_amount, 2)::text], v_is_text), '' order by s.position)
      into lines
      from unnest(v_sites) s
     cross join lateral (
           select string_agg(format('%s: %s', program_name, total_incentive), '; ' order by total_incentive desc, program_id) as programs
             from public.incentive_report_site_programs
            where organization_id = p_organization_id and report_id = p_report_id and position = s.position) p;
    if p_after < 0 then
        lines := concat(app.file_line(p_format, v_names, array_fill(true, array[cardinality(v_names)])), lines);
    end if;
end;
$$;

comment on function api.get_incentive_report_csv(uuid, uuid, boolean, text, text, text, integer, integer, text, text) is
'A piece of the sites of a report as lines of CSV (RFC 4180, CRLF, with a header first), or with p_format xlsx as the rows of a workbook (one JSON array per line, numbers as numbers), in upload order, with the filters of api.get_incentive_report; a batch''s report is one piece unless p_limit says otherwise, or the names of its programs take more than 8 MB. A cell that a spreadsheet would read as a formula begins with an apostrophe. Amounts in US dollars. last_position is the p_after of the next piece; null: this is the last one. 400: invalid_format, invalid_limit, invalid_after, or a filter is invalid. 404: no such report in this organization.';
grant execute on function api.get_incentive_report_csv(uuid, uuid, boolean, text, text, text, integer, integer, text, text) to authenticated;
