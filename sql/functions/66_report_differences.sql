-- Chapter 66, differences of reports: which sites were added, removed or changed from one report to another.

-- Sites are matched by reference_id. Each report is read once, completely.
create or replace function app.report_differences(p_organization_id uuid, p_from_report_id uuid, p_to_report_id uuid)
returns table (reference_id text, change text, from_position integer, to_position integer, difference numeric, conditional_difference numeric)
language plpgsql stable
set search_path = pg_catalog, pg_temp set jit = off
as $$
begin
    return query
    select coalesce(f.reference_id, t.reference_id),
           case when f.reference_id is null then 'added'
                when t.reference_id is null then 'removed'
                when (f.total_incentive_amount, f.conditional_incentive_amount, f.eligible)
                   = (t.total_incentive_amount, t.conditional_incentive_amount, t.eligible) then 'unchanged'
                else 'changed' end,
           f.position, t.position,
           coalesce(t.total_incentive_amount, 0) - coalesce(f.total_incentive_amount, 0),
           coalesce(t.conditional_incentive_amount, 0) - coalesce(f.conditional_incentive_amount, 0)
      from (select * from public.incentive_report_sites s where s.organization_id = p_organization_id and s.report_id = p_from_report_id) f
      full join (select * from public.incentive_report_sites s where s.organization_id = p_organization_id and s.report_id = p_to_report_id) t
        on t.reference_id = f.reference_id;
end;
$$;

create or replace function app.compared_site_json(p_site public.incentive_report_sites) returns json
language sql immutable
as $$
    select case when (p_site).position is not null then json_build_object(
        'eligible', (p_site).eligible,
        'total_incentive_amount', round((p_site).total_incentive_amount, 2),
        'conditional_incentive_amount', round((p_site).conditional_incentive_amount, 2)) end
$$;

create or replace function app.difference_json(
    p_organization_id uuid, p_from_report_id uuid, p_to_report_id uuid, p_reference_id text, p_change text, p_from_position integer,
    p_to_position integer, p_difference numeric, p_conditional_difference numeric
) returns json
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_from public.incentive_report_sites;
    v_to   public.incentive_report_sites;
begin
    select * into v_from from public.incentive_report_sites s
     where s.organization_id = p_organization_id and s.report_id = p_from_report_id and s.position = p_from_position;
    select * into v_to from public.incentive_report_sites s
     where s.organization_id = p_organization_id and s.report_id = p_to_report_id and s.position = p_to_position;
    return json_build_object(
        'reference_id', p_reference_id,
        'change', p_change,
        'address', app.site_address_json(case when p_to_position is null then v_from else v_to end),
        'from', app.compared_site_json(v_from),
        'to', app.compared_site_json(v_to),
        'difference', round(p_difference, 2),
        'conditional_difference', round(p_conditional_difference, 2));
end;
$$;

create or replace function api.diff_incentive_reports(
    p_organization_id uuid    default app.claimed_organization_id(),
    p_from_report_id  uuid    default null,
    p_to_report_id    uuid    default null,
    p_change          text    default null,
    p_limit           integer default 100,
    p_offset          integer default 0,
    p_cursor          text    default null
) returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set jit = off
as $$
declare
    v_from   public.incentive_reports;
    v_to     public.incentive_reports;
    v_after  text;
    v_totals jsonb;
    v_count  bigint;
    v_page   json[];
    v_ids    text[];
begin
    perform app.authorize(p_organization_id, 'reports:read');
    v_from := app.find_report(p_organization_id, p_from_report_id);
    v_to   := app.find_report(p_organization_id, p_to_report_id);
    perform app.check_choice('change', p_change, array['added', 'removed', 'changed']);
    v_after := (app.read_page(p_cursor, 'differences', p_limit, p_offset, 500)).reference_id;

    select jsonb_object_agg(k.change, jsonb_build_object(
               'sites', coalesce(d.sites, 0),
               'difference', round(coalesce(d.difference, 0), 2),
               'conditional_difference', round(coalesce(d.conditional_difference, 0), 2))),
           coalesce(sum(d.sites) filter (where k.change <> 'unchanged' and (p_change is null or k.change = p_change)), 0)
      into v_totals, v_count
      from unnest(array['added', 'removed', 'changed', 'unchanged']) k (change)
      left join (select r.change, count(*) as sites, sum(r.difference) as difference, sum(r.conditional_difference) as conditional_difference
                   from app.report_differences(p_organization_id, p_from_report_id, p_to_report_id) r
                  group by r.change) d on d.change = k.change;

    -- One more than fits on the page, to see whether another page follows.
    select array_agg(app.difference_json(p_organization_id, p_from_report_id, p_to_report_id, d.reference_id, d.change, d.from_position,
                                         d.to_position, d.difference, d.conditional_difference) order by d.reference_id),
           array_agg(d.reference_id order by d.reference_id)
      into v_page, v_ids
      from (select r.*
              from app.report_differences(p_organization_id, p_from_report_id, p_to_report_id) r
             where r.change <> 'unchanged' and (p_change is null or r.change = p_change) and (v_after is null or r.reference_id > v_after)
             order by r.reference_id
             limit p_limit + 1 offset p_offset) d;
    return json_build_object(
        'from', app.report_json(v_from),
        'to', app.report_json(v_to),
        'totals', json_build_object(
            'added', v_totals -> 'added', 'removed', v_totals -> 'removed', 'changed', v_totals -> 'changed',
            'unchanged', v_totals -> 'unchanged',
            'difference', round(v_to.total_incentive_value - v_from.total_incentive_value, 2),
            'conditional_difference', round(v_to.conditional_incentive_amount - v_from.conditional_incentive_amount, 2)),
        'differences', to_json(coalesce(v_page[:p_limit], '{}')),
        'total', v_count,
        'limit', p_limit,
        'offset', p_offset,
        'next_cursor', case when cardinality(v_page) > p_limit then app.cursor(row('differences', null, null, v_ids[p_limit], null, null, null)) end);
end;
$$;

comment on function api.diff_incentive_reports(uuid, uuid, uuid, text, integer, integer, text) is
'What differs between two reports of an organization, site by site, by reference_id: {from, to, totals, differences, total, limit, offset, next_cursor}. totals has added, removed, changed (another amount or eligibility) and unchanged, each {sites, difference, conditional_difference}, and the difference and conditional_difference of all: how much more the second report has, in US dollars, for certain and at most under conditions. differences, in the order of their reference_id: {reference_id, change, address, from, to, difference, conditional_difference}, from and to {eligible, total_incentive_amount, conditional_incentive_amount} or null. Optional: change, one of added, removed, changed. p_cursor is the next_cursor of the page before. 400: an unknown change, limit not in 1 to 500, invalid_cursor, cursor_with_offset. 404: one of the reports is not in this organization.';
grant execute on function api.diff_incentive_reports(uuid, uuid, uuid, text, integer, integer, text) to authenticated;
