-- Chapter 62, the summary of a report: its sites counted and summed by state, utility, program and device category.

create or replace function app.state_sums(p_organization_id uuid, p_report_id uuid) returns json
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select coalesce(json_agg(json_build_object(
                   'country_code', s.country_code, 'state_or_province_code', s.state_or_province_code, 'name', r.name, 'sites', s.sites,
                   'eligible_sites', s.eligible_sites, 'total_incentive_value', round(s.value, 2)) order by s.value desc, s.sites desc, r.name), '[]')
          from (select country_code, state_or_province_code, count(*) as sites, count(*) filter (where eligible) as eligible_sites,
                       sum(total_incentive_amount) as value
                  from public.incentive_report_sites
                 where organization_id = p_organization_id and report_id = p_report_id
                 group by country_code, state_or_province_code) s
          left join app.regions r on r.country_code = s.country_code and r.code = s.state_or_province_code);
end;
$$;

create or replace function app.utility_sums(p_organization_id uuid, p_report_id uuid) returns json
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select coalesce(json_agg(json_build_object(
                   'eiaid', app.eiaid(s.utility_eiaid), 'name', s.utility_name, 'sites', s.sites, 'eligible_sites', s.eligible_sites,
                   'total_incentive_value', round(s.value, 2)) order by s.value desc, s.sites desc, s.utility_name, s.utility_eiaid), '[]')
          from (select utility_eiaid, utility_name, count(*) as sites, count(*) filter (where eligible) as eligible_sites,
                       sum(total_incentive_amount) as value
                  from public.incentive_report_sites
                 where organization_id = p_organization_id and report_id = p_report_id
                 group by utility_eiaid, utility_name) s);
end;
$$;

create or replace function app.program_sums(p_organization_id uuid, p_report_id uuid) returns json
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select coalesce(json_agg(json_build_object(
                   'program_id', s.program_id, 'program_name', s.program_name, 'eligible_sites', s.sites,
                   'total_incentive_value', round(s.value, 2)) order by s.value desc, s.sites desc, s.program_id), '[]')
          from (select program_id, max(program_name) as program_name, count(*) as sites, sum(total_incentive) as value
                  from public.incentive_report_site_programs
                 where organization_id = p_organization_id and report_id = p_report_id
                 group by program_id) s);
end;
$$;

-- A site counts in each category that it asks about, and is eligible there if it gets an amount for it.
create or replace function app.category_sums(p_organization_id uuid, p_report_id uuid) returns json
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select coalesce(json_agg(json_build_object(
                   'key', s.key, 'name', c.name, 'sites', s.sites, 'eligible_sites', s.eligible_sites,
                   'total_incentive_value', round(s.value, 2)) order by s.value desc, s.sites desc, s.key), '[]')
          from (select g.key, count(*) as sites, count(*) filter (where g.amount > 0) as eligible_sites, sum(g.amount) as value
                  from public.incentive_report_sites i
                 cross join unnest(i.device_categories, i.category_amounts) g (key, amount)
                 where i.organization_id = p_organization_id and i.report_id = p_report_id
                 group by g.key) s
          left join app.device_categories c on c.key = s.key);
end;
$$;

create or replace function api.get_incentive_report_summary(
    p_organization_id uuid default app.claimed_organization_id(), p_report_id uuid default null
) returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_report public.incentive_reports;
begin
    perform app.authorize(p_organization_id, 'reports:read');
    v_report := app.find_report(p_organization_id, p_report_id);
    return json_build_object(
        'report', app.report_json(v_report),
        'by_state', app.state_sums(p_organization_id, p_report_id),
        'by_utility', app.utility_sums(p_organization_id, p_report_id),
        'by_program', app.program_sums(p_organization_id, p_report_id),
        'by_device_category', app.category_sums(p_organization_id, p_report_id));
end;
$$;

comment on function api.get_incentive_report_summary(uuid, uuid) is
'The totals of a report: {report, by_state, by_utility, by_program, by_device_category}, the largest value first. Sites of by_state and by_utility sum to the report''s; a site counts in each program it is eligible for, and in each device category it asks about, with the amounts of its devices, as far as the lookup result distinguishes them. Amounts in US dollars. 404: no such report in this organization.';
grant execute on function api.get_incentive_report_summary(uuid, uuid) to authenticated;
