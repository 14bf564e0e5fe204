begin;
select plan(27);
\ir fixtures.psql
select pg_temp.submit(:'org', 4) as job \gset
select id as report from public.incentive_reports where job_id = :'job' \gset
select pg_temp.look_up(:'org', 1, 200, :'answer') as recorded \gset
select pg_temp.look_up(:'org', 1, 200, '{}') as recorded \gset
select pg_temp.look_up(:'org', 1, 200, '{"utility": {"eiaid": 5, "name": "City, \"Light\""}, "incentives": {"total_incentive_amount": 2000,
    "by_program": [{"program_id": "solar", "program_name": "Solar", "total_incentive": 2000}]}}') as recorded \gset
select pg_temp.look_up(:'org', 1, 200, :'answer') as recorded \gset
update public.incentive_report_sites set state_or_province_code = 'CA' where report_id = :'report' and position = 3;

-- The reference ids of a page.
create function pg_temp.sites(
    p_sort text default 'position', p_limit integer default 10, p_offset integer default 0, p_eligible boolean default null, p_state text default null,
    p_utility text default null, p_program text default null, p_q text default null
) returns text
language plpgsql as $$
begin
    return (select string_agg(s ->> 'reference_id', ' ' order by n)
              from public.incentive_reports r
             cross join lateral json_array_elements(api.get_incentive_report(r.organization_id, r.id, p_limit, p_offset, null, p_sort, p_eligible, p_state,
                                                                             p_utility, p_program, p_q) -> 'sites') with ordinality e (s, n));
end;
$$;

select is(pg_temp.sites(), 'site-1 site-2 site-3 site-4', 'sites come in the order of the upload');
select is(pg_temp.sites('-position'), 'site-4 site-3 site-2 site-1', 'sites come from the last to the first');
select is(pg_temp.sites('amount'), 'site-2 site-1 site-4 site-3', 'sites come by amount, the smallest first');
select is(pg_temp.sites('-amount'), 'site-3 site-1 site-4 site-2', 'sites come by amount, the largest first');
select is(pg_temp.sites('-reference_id'), 'site-4 site-3 site-2 site-1', 'sites come by reference_id');
select throws_ok($$ select pg_temp.sites('city') $$, 'PT400', 'sort must be one of position, -position, amount, -amount, reference_id, -reference_id',
    'an unknown order is refused');
select is(pg_temp.sites(p_limit => 2, p_offset => 1), 'site-2 site-3', 'a page begins at its offset');
select results_eq(format(
    $$ with recursive page as (
           select s.sort, api.get_incentive_report(%1$L, %2$L, 1, p_sort => s.sort) as body
             from unnest(array['position', '-position', 'amount', '-amount', 'reference_id', '-reference_id']) s (sort)
            union all
           select p.sort, api.get_incentive_report(%1$L, %2$L, 1, p_sort => p.sort, p_cursor => p.body ->> 'next_cursor')
             from page p where p.body ->> 'next_cursor' is not null
       )
       select sort, count(distinct body #>> '{sites,0,reference_id}'), count(*) from page group by sort order by sort collate "C" $$, :'org', :'report'),
    $$ select s, 4::bigint, 4::bigint from unnest(array['-amount', '-position', '-reference_id', 'amount', 'position', 'reference_id']) s $$,
    'cursors lead through all sites once, in every order');

select is(pg_temp.sites(p_eligible => false), 'site-2', 'sites that are not eligible are found');
select is(pg_temp.sites(p_state => 'ca'), 'site-4', 'sites are found by their state');
select is(pg_temp.sites(p_utility => '1015'), 'site-1 site-4', 'sites are found by the number of the utility');
select is(pg_temp.sites(p_utility => 'austin energy'), 'site-1 site-4', 'sites are found by the name of the utility');
select is(pg_temp.sites(p_program => 'solar'), 'site-3', 'sites are found by a program');
select is(pg_temp.sites(p_program => '7', p_state => 'TX'), 'site-1', 'filters narrow each other');
select is(api.get_incentive_report(:'org', :'report', p_eligible => true) ->> 'total', '3', 'the total counts the sites that pass the filters');

select is(pg_temp.sites(p_q => 'SITE-3'), 'site-3', 'sites are found by a part of their reference_id, whatever its case');
select is(pg_temp.sites(p_q => '2 congress'), 'site-2', 'sites are found by a part of their street');
select is(pg_temp.sites(p_q => '_ite%'), null, 'a search text has no wildcards');
select is(api.get_incentive_report(:'org', :'report', p_q => 'austin', p_state => 'CA') ->> 'total', '1', 'a text narrows other filters, and the total counts the sites that remain');

-- Beside another report
savepoint before;
select pg_temp.submit(:'org', 4) as beside, pg_temp.look_up(:'org', 4, 200, '{"incentives": {"total_incentive_amount": 1,
    "by_program": [{"program_id": "elsewhere", "program_name": "Elsewhere", "total_incentive": 1}]}}') as recorded \gset
select r ->> 'total' as total, r #>> '{sites,0,programs}' like '%lsewhere%' as has_programs from api.get_incentive_report(:'org', :'report', p_eligible => true) r \gset
select api.get_incentive_report(:'org', :'report', p_program => 'elsewhere') ->> 'total' as with_program \gset
select array[regexp_count(lines, E'\r\n'), regexp_count(lines, 'lsewhere')] as lines from api.get_incentive_report_csv(:'org', :'report') \gset
rollback to before;
select is(array[:'total', :'has_programs', :'with_program', :'lines'], '{3,f,0,"{5,0}"}', 'a report has neither sites nor programs of another one of its organization');

-- Files
select is(split_part((api.get_incentive_report_csv(:'org', :'report')).lines, E'\r\n', 4),
    'site-3,3 Congress Ave,,Austin,TX,78701,US,RESIDENTIAL,' || (select device_categories[1] from public.incentive_report_sites where report_id = :'report' and position = 2)
    || ',5,"City, ""Light""",true,2000.00,Solar: 2000.00,0.00', 'a line of the file has all facts about a site');
select is((api.get_incentive_report_csv(:'org', :'report')).last_position, null, 'the file of a small report is one piece');
select results_eq(format($$ select regexp_count(lines, E'\r\n'), last_position from api.get_incentive_report_csv(%L, %L, p_after => 0, p_limit => 2) $$, :'org', :'report'),
    'values (2, 2)', 'a piece has up to its limit of lines without a header, and says where the next one starts');
select is((select regexp_count(lines, E'\r\n') from api.get_incentive_report_csv(:'org', :'report', p_state => 'ON')), 1, 'a file without sites has its header');
select throws_ok(format('select api.get_incentive_report_csv(%L, %L)', :'other_org', :'report'), 'PT404', 'Report not found', 'another organization cannot download the file');

-- Large sites
update public.incentive_report_site_programs set program_name = repeat('x', 9000000) where report_id = :'report' and position in (0, 2);
select results_eq(
    format($$ select json_array_length(r -> 'sites'), json_array_length(n -> 'sites'), n -> 'sites' -> 0 ->> 'reference_id', n ->> 'next_cursor' is null
                from api.get_incentive_report(%1$L, %2$L, p_sort => '-position') r, api.get_incentive_report(%1$L, %2$L, p_sort => '-position', p_cursor => r ->> 'next_cursor') n $$, :'org', :'report'),
    $$ values (2, 2, 'site-2', true) $$, 'a page of large sites ends at 8 MB, and the next one continues after it');
select results_eq(
    format($$ with recursive pieces (lines, last_position) as (
                 select c.lines, c.last_position from api.get_incentive_report_csv(%1$L, %2$L) c
                  union all
                 select c.lines, c.last_position from pieces p cross join lateral api.get_incentive_report_csv(%1$L, %2$L, p_after => p.last_position) c where p.last_position is not null)
              select array_agg(regexp_count(lines, E'\r\n')::integer order by last_position nulls last) from pieces $$, :'org', :'report'),
    $$ values ('{2,1,1,1}'::integer[]) $$, 'the pieces of a file with large programs end at 8 MB, and hold each site once');

select * from finish();
rollback;
