begin;
select plan(14);
\ir fixtures.psql
select pg_temp.submit(:'org', 3) as job \gset

select results_eq('select open_jobs, ready_items, items_in_flight, expired_leases from api.queue_health', $$ values (1::bigint, 3::bigint, 0::bigint, 0::bigint) $$,
    'api.queue_health shows the state of the queue in one row');
select count(*) from api.claim_lookups(:'org', 'w', 1) \gset claimed_
select results_eq(format('select status from api.items where job_id = %L order by position', :'job'), $$ values ('processing'), ('pending'), ('pending') $$,
    'api.items calls an item under a lease processing');
select pg_temp.look_up(:'org', 10, 200, :'answer') as recorded \gset
select results_eq(format('select utility, total_incentive_amount from api.items where job_id = %L and position = 1', :'job'),
    $$ values ('Austin Energy', 1200.50) $$, 'api.items shows what a lookup found');

select results_eq(format('select sum(total_incentive_amount), bool_and(eligible), min(utility_eiaid) from api.items where job_id = %L', :'job'),
    $$ values (2401.00, true, 1015::bigint) $$, 'numbers of api.items can be summed');

-- Possible answers.
select pg_temp.submit(:'org', 3) as odd \gset
select pg_temp.look_up(:'org', 1, 200, '{"utility": {"eiaid": "x", "name": 5}, "incentives": {"total_incentive_amount": "12"}}'),
       pg_temp.look_up(:'org', 1, 200, '{"incentives": {"total_incentive_amount": 0, "total_eligible_combinations": 1}}'),
       pg_temp.look_up(:'org', 1, 404);
select results_eq(format('select total_incentive_amount, eligible, utility_eiaid from api.items where job_id = %L order by position', :'odd'),
    $$ values (null::numeric, false, null::bigint), (0, true, null), (null, null, null) $$, 'amounts in an answer that are not numbers are null');
select pg_temp.submit(:'org', 5) as extreme \gset
select pg_temp.look_up(:'org', 1, 200, format('{"incentives": {"total_incentive_amount": %s, "total_eligible_combinations": %s}}', n.amount, n.combinations))
  from (values ('0.005', '-1'), ('0.0049', '0.0049'), ('1e12', '1e12'), ('-5', '1'), ('"12"', '0.001')) n (amount, combinations);
select results_eq(format('select i.eligible from api.items i where i.job_id = %L order by i.position', :'extreme'),
    format('select s.eligible from api.report_sites s join api.reports r on r.organization_id = s.organization_id and r.id = s.report_id where r.job_id = %L order by s.position', :'extreme'),
    'api.items and the report agree on which sites are eligible');
select results_eq(format('select i.eligible from api.items i where i.job_id = %L order by i.position', :'extreme'), $$ values (true), (false), (false), (true), (false) $$,
    'neither an amount below a cent nor one out of bounds makes a site eligible');

select results_eq(
    $$ select program_name, sum(total_incentive), count(*) from api.report_programs where created_at > now() - interval '1 month' group by 1 order by 2 desc limit 2 $$,
    $$ values ('Heat pumps', 1600::numeric, 2::bigint), ('Water heaters', 801.00, 2) $$, 'the top programs of a month are one query');

-- As PostgREST embeds them.
select app.is_distributed() as on_cluster \gset
\if :on_cluster
select skip('PostgREST embeds for members, and those have no access to a cluster', 2);
\else
select results_eq(
    format($$ select j.status, r.total_sites, count(distinct s.reference_id), sum(p.total_incentive)
                from api.reports r
               cross join lateral api.jobs(r) j
               cross join lateral api.report_sites(r) s
               cross join lateral api.report_programs(s) p
               where r.job_id = %L
               group by 1, 2 $$, :'job'),
    $$ values ('processing', 2, 2::bigint, 2401.00) $$, 'a report leads to its batch, sites and programs');
select results_eq(
    format($$ select distinct a.id = b.id and b.id = c.id, n.reference_id is not distinct from s.reference_id
                from api.jobs j
               cross join lateral api.reports(j) a
               cross join lateral api.report_programs(a) p
               cross join lateral api.report_sites(p) s
               cross join lateral api.reports(s) b
               cross join lateral api.reports(p) c
               cross join lateral api.report_programs(s) n
               where j.id = %L $$, :'job'),
    $$ values (true, true) $$, 'a batch, a site and a program lead to their report');
\endif

select is((select to_jsonb(count(*)) from pg_class where oid = 'api.jobs'::regclass and xmin = pg_current_xact_id()::xid), '0', 'the view is as it was');
select is((select count(*)::integer from json_to_recordset(api.get_operations() -> 'settings') s (name text, value json, description text)
            where description is not null and (name <> 'max_retries' or value::text = '3')),
    (select count(*)::integer - 1 from json_object_keys(api.get_settings())), 'operators read every setting with what it means');

select is((select array_agg(concat_ws('|', c.name, c.state, c.finding, c.advice) order by c.name, c.finding)
             from json_to_recordset(api.get_operations() -> 'checks') c (name text, state text, finding text, advice text)),
    (select array_agg(concat_ws('|', d."check", d.state, d.finding, d.advice) order by d."check", d.finding) from api.diagnose() d),
    'operators read what every check found');
select is((select array_agg(c.state order by c.n)
             from json_array_elements(api.get_operations() -> 'checks') with ordinality e (value, n)
            cross join lateral (select e.value ->> 'state', e.n) c (state, n)),
    (select array_agg(d.state order by array_position(array['problem', 'warning', 'ok'], d.state)) from api.diagnose() d),
    'problems come before warnings, and checks without findings come last');

select * from finish();
rollback;
