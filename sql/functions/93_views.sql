-- Chapter 93, views: what members, dashboards and operators may select from.

-- Replaces a view only if it differs: that waits for everybody who reads it, and blocks readers meanwhile.
create or replace function app.replace_view(p_view text, p_query text, p_options text default 'security_invoker = true') returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp set client_min_messages = warning
as $$
-- The query comes from this file. @plpgsql_check_options: security_warnings = off
declare
    v_names   constant text[] := array['pg_temp.batch_lookups_view', 'api.' || p_view];
    v_differs boolean;
begin
    execute format('create temporary view batch_lookups_view with (%s) as %s', p_options, p_query);
    select count(*) <> 2 or count(distinct row(c.reloptions, pg_get_viewdef(c.oid))) > 1 into v_differs
      from unnest(v_names) v (name)
      join pg_class c on c.oid = to_regclass(v.name);
    drop view batch_lookups_view;
    if v_differs then
        begin
            execute format('create or replace view api.%I with (%s) as %s', p_view, p_options, p_query);
        exception
            -- `migrate` drops the views then, and tries again.
            when invalid_table_definition then
                raise invalid_table_definition using
                    message = format('A newer release made the view api.%s, which has other columns: %s', p_view, sqlerrm),
                    hint    = 'Run the newer release, or `python -m pyshell migrate` of this one, which makes the views anew.';
        end;
    end if;
end;
$$;

-- Views for members run with the rights of the reader, so that the policies apply.
select app.replace_view('jobs', $view$
select j.organization_id, j.id, j.name, j.status, j.total_items, j.processed_items, j.failed_items,
       round(100.0 * j.processed_items / j.total_items, 1) as percent, j.report_id, j.created_at, j.started_at, j.completed_at,
       coalesce(j.completed_at, j.updated_at) - j.started_at as took,
       (select coalesce(jsonb_object_agg(l.key, l.value), '{}')
          from public.batch_lookup_job_labels l
         where l.organization_id = j.organization_id and l.job_id = j.id) as labels
  from public.batch_lookup_jobs j
$view$);

comment on view api.jobs is 'Batches: status, counters, percent done, and how long it took or has taken so far.';
comment on column api.jobs.organization_id is 'The organization that uploaded it.';
comment on column api.jobs.id is 'Its id, which the HTTP API calls job_id.';
comment on column api.jobs.name is 'The name given by the upload; null: none.';
comment on column api.jobs.status is 'pending, processing, completed, failed (every item failed) or cancelled.';
comment on column api.jobs.total_items is 'Sites in the batch.';
comment on column api.jobs.processed_items is 'Sites whose lookup has ended, completed and failed together.';
comment on column api.jobs.failed_items is 'Sites whose lookup failed.';
comment on column api.jobs.percent is 'processed_items of total_items, from 0 to 100, with one decimal.';
comment on column api.jobs.report_id is 'Its report in api.reports.';
comment on column api.jobs.created_at is 'When it was uploaded.';
comment on column api.jobs.started_at is 'When the first lookup was claimed; null: none yet.';
comment on column api.jobs.completed_at is 'When it ended, whether completed, failed or cancelled; null: it is open.';
comment on column api.jobs.took is 'From the first claim to the end or, while it is open, to the latest change.';
comment on column api.jobs.labels is 'The labels given by the upload, as an object; {}: none.';
grant select on api.jobs to authenticated, service_role;

select app.replace_view('items', $view$
select i.organization_id, i.job_id, i.id, i.position,
       case when i.status = 'pending' and i.retry_at is null
                 and exists (select from public.lookup_leases l
                              where l.organization_id = i.organization_id and l.job_id = i.job_id and i.position <@ l.positions)
            then 'processing' else i.status end as status,
       i.reference_id,
       json_strip_nulls(json_build_object(
           'street_1', i.address -> 'street_1', 'street_2', i.address -> 'street_2', 'city', i.address -> 'city',
           'state_or_province_code', i.address -> 'state_or_province_code', 'postal_code', i.address -> 'postal_code',
           'country_code', i.address -> 'country_code')) as address,
       i.building_type, i.device_ids,
       a.answer #>> '{utility,name}' as utility,
       case when a.answer #>> '{utility,eiaid}' ~ '^[0-9]{1,15}$' then (a.answer #>> '{utility,eiaid}')::bigint end as utility_eiaid,
       case when i.status = 'completed' then coalesce(n.amount >= 0.005 and n.amount < 1e12, false) or coalesce(n.combinations >= 0.005 and n.combinations < 1e12, false)
            end as eligible,
       n.amount as total_incentive_amount,
       a.answer as result, i.error_code, i.error_message, i.warnings, i.retry_count, i.retry_at, i.created_at, i.processed_at,
       (select case jsonb_typeof(s.cells) when 'object' then s.cells::json
                    else (select json_object_agg(m.name, s.cells -> (m.number - 1)::integer order by m.number) from unnest(c.names) with ordinality m (name, number)) end
          from public.lookup_item_sources s
          join public.lookup_job_columns c on c.organization_id = s.organization_id and c.job_id = s.job_id
         where s.organization_id = i.organization_id and s.job_id = i.job_id and s.position = i.position) as source,
       i.reused_from_job_id, i.reused_from_position
  from public.lookup_queue_items i
 cross join lateral (select coalesce(i.result, i.parsed_result::json) as answer) a
 cross join lateral (
       select case when json_typeof(a.answer #> '{incentives,total_incentive_amount}') = 'number'
                   then (a.answer #>> '{incentives,total_incentive_amount}')::numeric end as amount,
              case when json_typeof(a.answer #> '{incentives,total_eligible_combinations}') = 'number'
                   then (a.answer #>> '{incentives,total_eligible_combinations}')::numeric end as combinations) n
$view$);

comment on view api.items is 'Sites of batches with their results; position is the upload order. total_incentive_amount: US dollars, as the provider gave it.';
comment on column api.items.organization_id is 'The organization that uploaded it.';
comment on column api.items.job_id is 'Its batch in api.jobs.';
comment on column api.items.id is 'Its id.';
comment on column api.items.position is 'Position in the upload, from 0.';
comment on column api.items.status is 'pending, processing, completed or failed.';
comment on column api.items.reference_id is 'The uploader''s own id for the site.';
comment on column api.items.address is 'street_1, street_2, city, state_or_province_code, postal_code and country_code, as an object.';
comment on column api.items.building_type is 'RESIDENTIAL, MULTIFAMILY, MANUFACTURED_HOME or COMMERCIAL.';
comment on column api.items.device_ids is 'Ids of the devices that were asked about; a repeated id is a quantity.';
comment on column api.items.utility is 'Name of the utility that the lookup found.';
comment on column api.items.utility_eiaid is 'Number of that utility, assigned by the US Energy Information Administration; null: none.';
comment on column api.items.eligible is 'Whether any program pays for it; null: not completed.';
comment on column api.items.total_incentive_amount is 'US dollars, as the provider gave it; null: not completed, or no number.';
comment on column api.items.result is 'The full answer of the incentives API; null: not completed.';
comment on column api.items.error_code is 'Why it failed, such as upstream_timeout; null: it has not failed.';
comment on column api.items.error_message is 'The error in words.';
comment on column api.items.warnings is 'What looks wrong with the input but did not prevent the lookup.';
comment on column api.items.retry_count is 'Attempts beyond the first.';
comment on column api.items.retry_at is 'When it is retried; null: it is not waiting.';
comment on column api.items.created_at is 'When it was uploaded.';
comment on column api.items.processed_at is 'When its lookup ended; null: not yet.';
comment on column api.items.source is 'The columns of the file that it came from, or its metadata, as an object; null: neither.';
comment on column api.items.reused_from_job_id is 'With reuse_results: the batch of the site whose result was reused; null: the result is its own.';
comment on column api.items.reused_from_position is 'Position of that site in its batch, from 0.';
grant select on api.items to authenticated, service_role;

select app.replace_view('uploads', $view$
select u.organization_id, u.id, u.name, u.status, u.job_id, u.total_rows, u.valid_rows, u.invalid_rows, u.skipped_rows, u.warning_rows,
       u.created_at, u.updated_at, u.expires_at
  from public.lookup_uploads u
$view$);

comment on view api.uploads is 'Drafts, and those that were started, with their batches. Expired ones remain until they are deleted, within a minute.';
comment on column api.uploads.organization_id is 'The organization that uploaded it.';
comment on column api.uploads.id is 'Its id, which the HTTP API calls upload_id.';
comment on column api.uploads.name is 'Its name, such as that of the file; null: none.';
comment on column api.uploads.status is 'draft or started.';
comment on column api.uploads.job_id is 'The batch created from it, which may have been deleted; null: it is a draft.';
comment on column api.uploads.total_rows is 'Rows of the file: valid, invalid and skipped ones.';
comment on column api.uploads.valid_rows is 'Rows that would be looked up.';
comment on column api.uploads.invalid_rows is 'Rows with problems, which api.upload_rows names.';
comment on column api.uploads.skipped_rows is 'Rows that are left out.';
comment on column api.uploads.warning_rows is 'Valid rows with warnings.';
comment on column api.uploads.created_at is 'When it was uploaded.';
comment on column api.uploads.updated_at is 'When it was changed last.';
comment on column api.uploads.expires_at is 'When it is deleted.';
grant select on api.uploads to authenticated, service_role;

select app.replace_view('upload_rows', $view$
select r.organization_id, r.upload_id, r.position, r.line, r.cells, r.edits, r.is_skipped as skipped,
       to_jsonb(r.problems) as problems, to_jsonb(r.warnings) as warnings
  from public.lookup_upload_rows r
$view$);

comment on view api.upload_rows is 'Rows of uploads with what is wrong with each: select * from api.upload_rows where problems is not null.';
comment on column api.upload_rows.organization_id is 'The organization that uploaded it.';
comment on column api.upload_rows.upload_id is 'Its upload in api.uploads.';
comment on column api.upload_rows.position is 'Position among the rows, from 0.';
comment on column api.upload_rows.line is 'Line of the file, or row of the sheet, where it begins.';
comment on column api.upload_rows.cells is 'Its cells as they were sent.';
comment on column api.upload_rows.edits is '{number of the column, from 1: text}, which replaces cells; null: nothing was edited.';
comment on column api.upload_rows.skipped is 'Whether it is left out.';
comment on column api.upload_rows.problems is '[{field, code, value}]; null: it is valid, or skipped. api.get_upload_rows returns them as messages.';
comment on column api.upload_rows.warnings is '[{field, code, was, now}]; null: none.';
grant select on api.upload_rows to authenticated, service_role;

select app.replace_view('usage', $view$
select u.organization_id, u.day, u.job_id, j.name, u.lookups
  from public.lookup_usage u
  left join public.batch_lookup_jobs j on j.organization_id = u.organization_id and j.id = u.job_id
$view$);

comment on view api.usage is 'Lookups by day and batch: each attempt counts, including retries.';
comment on column api.usage.organization_id is 'The organization that the lookups were made for.';
comment on column api.usage.day is 'The day in UTC.';
comment on column api.usage.job_id is 'The batch in api.jobs, which may have been deleted.';
comment on column api.usage.name is 'The name of the batch; null: none, or it was deleted.';
comment on column api.usage.lookups is 'Lookups that were claimed on that day and not released unsent.';
grant select on api.usage to authenticated, service_role;

select app.replace_view('reports', $view$
select r.organization_id, r.id, r.job_id, r.name, r.description, r.status, r.report_type, r.total_sites, r.eligible_sites,
       r.total_incentive_value, r.created_at, r.completed_at, r.conditional_incentive_amount
  from public.incentive_reports r
$view$);

comment on view api.reports is 'Reports with their totals, in US dollars.';
comment on column api.reports.organization_id is 'The organization that it belongs to.';
comment on column api.reports.id is 'Its id.';
comment on column api.reports.job_id is 'Its batch in api.jobs, which may have been deleted.';
comment on column api.reports.name is 'Its name, which can be changed.';
comment on column api.reports.description is 'Its description, which can be changed.';
comment on column api.reports.status is 'processing, complete, or error (every item failed).';
comment on column api.reports.report_type is 'bulk_lookup.';
comment on column api.reports.total_sites is 'Sites in the report so far.';
comment on column api.reports.eligible_sites is 'Sites that are eligible for at least one program.';
comment on column api.reports.total_incentive_value is 'US dollars, all sites together.';
comment on column api.reports.created_at is 'When its batch was uploaded.';
comment on column api.reports.completed_at is 'When its batch ended; null: it is open.';
comment on column api.reports.conditional_incentive_amount is 'US dollars that depend on facts about the households that were not given; in no total.';
grant select on api.reports to authenticated, service_role;

select app.replace_view('report_sites', $view$
select s.organization_id, s.report_id, s.position, s.item_id, s.reference_id, s.street_1, s.street_2, s.city, s.state_or_province_code,
       s.postal_code, s.country_code, s.building_type, s.device_categories,
       case when s.utility_eiaid ~ '^[0-9]{1,15}$' then s.utility_eiaid::bigint end as utility_eiaid, s.utility_name, s.eligible,
       s.total_incentive_amount, s.created_at, s.conditional_incentive_amount
  from public.incentive_report_sites s
$view$);

comment on view api.report_sites is 'Sites of reports: utility, eligible or not, and the amount in US dollars.';
comment on column api.report_sites.organization_id is 'The organization that it belongs to.';
comment on column api.report_sites.report_id is 'Its report in api.reports.';
comment on column api.report_sites.position is 'Position in the upload, from 0.';
comment on column api.report_sites.item_id is 'Its item in api.items, which may have been deleted.';
comment on column api.report_sites.reference_id is 'The uploader''s own id for the site.';
comment on column api.report_sites.street_1 is 'First line of the address.';
comment on column api.report_sites.street_2 is 'Second line of the address; null: none.';
comment on column api.report_sites.city is 'City.';
comment on column api.report_sites.state_or_province_code is 'Two letters, such as TX or ON.';
comment on column api.report_sites.postal_code is 'ZIP code or Canadian postal code.';
comment on column api.report_sites.country_code is 'US or CA.';
comment on column api.report_sites.building_type is 'RESIDENTIAL, MULTIFAMILY, MANUFACTURED_HOME or COMMERCIAL.';
comment on column api.report_sites.device_categories is 'Keys of the device categories that were asked about, such as heat_pump.';
comment on column api.report_sites.utility_eiaid is 'Number of the utility at the US Energy Information Administration; null: none.';
comment on column api.report_sites.utility_name is 'Name of the utility.';
comment on column api.report_sites.eligible is 'Whether any program pays for the site.';
comment on column api.report_sites.total_incentive_amount is 'US dollars, all programs together.';
comment on column api.report_sites.created_at is 'When its lookup was completed.';
comment on column api.report_sites.conditional_incentive_amount is 'US dollars that depend on facts about the household that were not given; in no total.';
grant select on api.report_sites to authenticated, service_role;

select app.replace_view('report_programs', $view$
select p.organization_id, p.report_id, p.position, s.reference_id, s.country_code, s.state_or_province_code,
       case when s.utility_eiaid ~ '^[0-9]{1,15}$' then s.utility_eiaid::bigint end as utility_eiaid, s.utility_name,
       p.program_id, p.program_name, p.total_incentive, p.eligible_combinations, s.created_at
  from public.incentive_report_site_programs p
  join public.incentive_report_sites s on s.organization_id = p.organization_id and s.report_id = p.report_id and s.position = p.position
$view$);

comment on view api.report_programs is 'The programs that each site of a report is eligible for, one row each, with the amount in US dollars.';
comment on column api.report_programs.organization_id is 'The organization that it belongs to.';
comment on column api.report_programs.report_id is 'Its report in api.reports.';
comment on column api.report_programs.position is 'The site: its place in the upload, from 0, as in api.report_sites.';
comment on column api.report_programs.reference_id is 'The uploader''s own id for the site.';
comment on column api.report_programs.country_code is 'Where the site is: US or CA.';
comment on column api.report_programs.state_or_province_code is 'Where the site is: two letters, such as TX or ON.';
comment on column api.report_programs.utility_eiaid is 'Number of the site''s utility at the US Energy Information Administration; null: none.';
comment on column api.report_programs.utility_name is 'Name of the site''s utility.';
comment on column api.report_programs.program_id is 'Id of the program, as the provider gave it.';
comment on column api.report_programs.program_name is 'Name of the program.';
comment on column api.report_programs.total_incentive is 'US dollars that the program pays for the site, all its devices together.';
comment on column api.report_programs.eligible_combinations is 'Combinations of devices and tiers of the program that the site is eligible for.';
comment on column api.report_programs.created_at is 'When the lookup of the site was completed.';
grant select on api.report_programs to authenticated, service_role;

-- What PostgREST embeds, such as reports?select=name,report_programs(program_name,total_incentive). Foreign keys would do the same, but
-- would have to be checked for every recorded site and program.
create or replace function api.jobs(p_report api.reports) returns setof api.jobs
language sql stable rows 1
as $$
    select j.* from api.jobs j where j.organization_id = (p_report).organization_id and j.id = (p_report).job_id;
$$;

create or replace function api.reports(p_job api.jobs) returns setof api.reports
language sql stable rows 1
as $$
    select r.* from api.reports r where r.organization_id = (p_job).organization_id and r.id = (p_job).report_id;
$$;

create or replace function api.reports(p_site api.report_sites) returns setof api.reports
language sql stable rows 1
as $$
    select r.* from api.reports r where r.organization_id = (p_site).organization_id and r.id = (p_site).report_id;
$$;

create or replace function api.reports(p_program api.report_programs) returns setof api.reports
language sql stable rows 1
as $$
    select r.* from api.reports r where r.organization_id = (p_program).organization_id and r.id = (p_program).report_id;
$$;

create or replace function api.report_sites(p_report api.reports) returns setof api.report_sites
language sql stable
as $$
    select s.* from api.report_sites s where s.organization_id = (p_report).organization_id and s.report_id = (p_report).id;
$$;

create or replace function api.report_sites(p_program api.report_programs) returns setof api.report_sites
language sql stable rows 1
as $$
    select s.*
      from api.report_sites s
     where s.organization_id = (p_program).organization_id and s.report_id = (p_program).report_id and s.position = (p_program).position;
$$;

create or replace function api.report_programs(p_report api.reports) returns setof api.report_programs
language sql stable
as $$
    select p.* from api.report_programs p where p.organization_id = (p_report).organization_id and p.report_id = (p_report).id;
$$;

create or replace function api.report_programs(p_site api.report_sites) returns setof api.report_programs
language sql stable rows 10
as $$
    select p.*
      from api.report_programs p
     where p.organization_id = (p_site).organization_id and p.report_id = (p_site).report_id and p.position = (p_site).position;
$$;

comment on function api.jobs(api.reports) is 'The batch of a report.';
comment on function api.reports(api.jobs) is 'The report of a batch.';
comment on function api.reports(api.report_sites) is 'The report of a site.';
comment on function api.reports(api.report_programs) is 'The report of a site''s program.';
comment on function api.report_sites(api.reports) is 'The sites of a report.';
comment on function api.report_sites(api.report_programs) is 'The site of a program.';
comment on function api.report_programs(api.reports) is 'The programs of a report''s sites.';
comment on function api.report_programs(api.report_sites) is 'The programs of a site.';
grant execute on function api.jobs(api.reports), api.reports(api.jobs), api.reports(api.report_sites), api.reports(api.report_programs),
                          api.report_sites(api.reports), api.report_sites(api.report_programs),
                          api.report_programs(api.reports), api.report_programs(api.report_sites) to authenticated;

select app.replace_view('work_history', $view$
select w.organization_id, w.minute, w.kind, w.outcome, nullif(w.error_class, '') as error_class, w.items,
       w.latency_seconds, w.latency_buckets, w.wait_seconds, w.wait_buckets
  from app.work_minutes w
$view$);

comment on view api.work_history is 'The outcomes of each minute of the last 30 days: lookups, batches that ended, webhook attempts, pauses. Sum them: recent minutes may have several rows for the same outcome.';
comment on column api.work_history.organization_id is 'The organization whose work it was; for a pause, the one whose lookup met it.';
comment on column api.work_history.minute is 'The beginning of the minute.';
comment on column api.work_history.kind is 'lookup, job, webhook or pause.';
comment on column api.work_history.outcome is 'lookup: completed, failed, retried (another attempt follows) or deduplicated; job: completed, failed or cancelled; webhook: delivered, failed or retried; pause: outage or retry_after.';
comment on column api.work_history.error_class is 'The error code of a lookup, such as upstream_timeout; http_4xx, http_5xx or the class of the error of a webhook; null: none.';
comment on column api.work_history.items is 'How many.';
comment on column api.work_history.latency_seconds is 'How long the answers took, in seconds, in total: sum(latency_seconds) / sum(items) is the mean.';
comment on column api.work_history.latency_buckets is 'How many answers took up to 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30 and 60 seconds, and longer.';
comment on column api.work_history.wait_seconds is 'Of items that ended: the seconds from the upload until the lookup that ended them began, in total.';
comment on column api.work_history.wait_buckets is 'How many items waited up to 1, 5, 15, 60, 300, 900, 3600, 14400 and 86400 seconds, and longer.';
grant select on api.work_history to authenticated, service_role;

select app.replace_view('audit_events', $view$
select nullif(e.organization_id, '00000000-0000-0000-0000-000000000000'::uuid) as organization_id, e.id, e.action, e.actor_type, e.actor_id, e.target_id,
       e.details, e.created_at
  from app.audit_events e
$view$);

comment on view api.audit_events is 'Who created, changed, revoked or linked what: API keys, webhooks, organizations, settings, pauses, catalogues. Members see it as admins of their organization.';
comment on column api.audit_events.organization_id is 'The organization; null: the installation itself, such as its settings.';
comment on column api.audit_events.id is 'A UUID of version 7: later events have greater ids.';
comment on column api.audit_events.action is 'What happened, such as api_key.created.';
comment on column api.audit_events.actor_type is 'api_key; user: of Clerk; operator: somebody with SQL access or the command line; system: the product itself.';
comment on column api.audit_events.actor_id is 'The id of the API key, the id of the user, or the role of the operator in the database; null: not known.';
comment on column api.audit_events.target_id is 'The id of what was acted on; null: the action implies it.';
comment on column api.audit_events.details is 'Further facts, never a secret.';
comment on column api.audit_events.created_at is 'When it happened.';
grant select on api.audit_events to authenticated, service_role;

-- Uses hardly any of our functions: unlike tables, those require the caller's privileges. On several nodes, a function asks them.
select app.replace_view('queue_health', replace($view$
with clock as materialized (
       select app.clock() as now
), here as materialized (
       select s.lookups_per_second, s.max_in_flight, u.concurrency_limit, u.unavailable_since, u.consecutive_failures, u.paused_until, u.probe_at,
              u.base_latency, m.ran_at, u.workers
         from app.settings s, app.maintenance_state m, {nodes} u
), leases as materialized (
       select l.organization_id, l.job_id, sum(upper(r) - lower(r)) as items,
              sum(upper(r) - lower(r)) filter (where l.expires_at < c.now) as expired
         from clock c, public.lookup_leases l, unnest(l.positions) r
        group by l.organization_id, l.job_id
), organizations as materialized (
       select organization_id from app.organization_queue_state, clock where ready_at <= now
        union
       select organization_id from app.queue_wakeups, clock where ready_at <= now
), jobs as materialized (
       -- Reads no items, however many there are: the open ones of a job are in flight, or still to be claimed, or waiting.
       select j.organization_id, j.created_at, j.total_items - j.processed_items - coalesce(l.items, 0) as items,
              q.end_position - q.next_position as queued, o.id is not null as has_limit,
              b.held_position is not null as is_held, b.sample - b.lookups as sample
         from public.batch_lookup_jobs j
         left join app.organizations o on o.id = j.organization_id and o.monthly_lookups is not null
         left join app.queued_jobs q on q.organization_id = j.organization_id and q.job_id = j.id
         left join app.job_budgets b on b.organization_id = j.organization_id and b.job_id = j.id
         left join leases l on l.organization_id = j.organization_id and l.job_id = j.id
        where j.status in ('pending', 'processing')
), q as materialized (
       -- An organization whose month is used up is not on the ready list before the next one.
       select count(*) as open_jobs, min(n.created_at) as oldest,
              sum(n.new) filter (where not n.has_limit or r.organization_id is not null) as ready,
              sum(n.new) filter (where n.has_limit and r.organization_id is null)        as too_many,
              sum(n.items - n.new) filter (where n.is_held)                              as behind,
              sum(n.items - n.new) filter (where not n.is_held)                          as waiting
         from (select *, least(items, greatest(case when is_held then sample else queued end, 0)) as new from jobs) n
         left join organizations r on r.organization_id = n.organization_id
)
select q.open_jobs                                                                                                   as open_jobs,
       coalesce(q.ready, 0)::bigint                                                                                  as ready_items,
       coalesce(q.waiting, 0)::bigint                                                                                as items_waiting_for_retry,
       (select coalesce(sum(items), 0)::bigint from leases)                                                          as items_in_flight,
       (select coalesce(sum(expired), 0)::bigint from leases)                                                        as expired_leases,
       c.now - q.oldest                                                                                              as oldest_open_job,
       (select count(*) from organizations)                                                                          as ready_organizations,
       u.workers                                                                                                     as workers,
       u.lookups_per_second,
       u.max_in_flight,
       floor(least(u.concurrency_limit, u.max_in_flight))                                                            as concurrency_limit,
       u.unavailable_since                                                                                           as upstream_unavailable_since,
       u.consecutive_failures                                                                                        as upstream_consecutive_failures,
       nullif(greatest(u.paused_until, case when u.unavailable_since is not null then u.probe_at end, c.now), c.now)        as upstream_closed_until,
       u.base_latency                                                                                                as upstream_base_latency,
       nullif(u.ran_at, '-infinity')                                                                                 as maintenance_ran_at,
       (with held as materialized (
                select l.pid, l.virtualtransaction
                  from pg_locks l
                 where l.locktype = 'relation' and l.mode not in ('AccessShareLock') and l.granted
                   and l.relation in ('app.organization_queue_state'::regclass, 'app.queued_jobs'::regclass, 'app.rate_limit'::regclass,
                                      'app.upstream_state'::regclass, 'public.batch_lookup_jobs'::regclass,
                                      'public.incentive_reports'::regclass, 'public.lookup_leases'::regclass,
                                      'public.lookup_queue_items'::regclass, 'app.webhook_configs'::regclass,
                                      'app.webhook_queue_state'::regclass)
        ), holders as (
                select a.pid, a.xact_start as since, a.usename, a.application_name, a.state, left(a.query, 200) as query
                  from pg_stat_activity a
                 where a.datname = current_database() and a.pid <> pg_backend_pid() and (a.xact_start is null or a.xact_start < statement_timestamp() - interval '1 second')
                   -- Terminating one that waits for a synchronous standby does not help: it is already committed.
                   and a.wait_event is distinct from 'SyncRep'
                   and a.pid in (select held.pid from held)
                 union all
                -- It has no process: its locks are those held by its transaction id.
                select null as pid, p.prepared, p.owner, '' as application_name, 'prepared' as state, format('prepare transaction %L', p.gid)
                  from pg_prepared_xacts p
                 where p.database = current_database() and p.prepared < statement_timestamp() - interval '1 second'
                   and exists (select
                                 from pg_locks l
                                 join held on held.virtualtransaction = l.virtualtransaction and held.pid is null
                                where l.locktype = 'transactionid' and l.transactionid = p.transaction and l.pid is null)
        )
        select coalesce(json_agg(json_build_object('pid', h.pid, 'since', h.since, 'user', h.usename, 'application', h.application_name,
                                                   'state', h.state, 'query', h.query) order by h.since), '[]')
          from holders h)                                                                                            as blocking_transactions,
       (coalesce(q.too_many, 0) + coalesce(q.behind, 0))::bigint                                                     as held_items
  from here u, q, clock c
$view$, '{nodes}', case when app.spans_nodes() then 'app.nodes_together()'
                        else '(select t.*, (select count(*) from app.workers, clock where seen_at > now - interval ''15 seconds'') as workers
                                 from app.upstream_state t)' end), 'security_invoker = false');

comment on view api.queue_health is 'One row, for operators: what is open, ready, waiting, in flight and overdue in all organizations, the workers of the last 15 seconds, the rate and concurrency limits, and the state of the incentives API: since when it is unavailable, until when no lookup starts (an outage, or a Retry-After), and how long a lookup takes when it is not under load.';
comment on column api.queue_health.blocking_transactions is 'Transactions open for over a second that hold rows or tables of the queue, and so may hold up an organization: [{pid, since, user, application, state, query}]. pg_terminate_backend(pid) ends one; pid is null for a prepared transaction.';
comment on column api.queue_health.open_jobs is 'Jobs that are pending or processing.';
comment on column api.queue_health.ready_items is 'Items that have never been claimed and may be claimed now, including those that wait for the answer of a duplicate.';
comment on column api.queue_health.held_items is 'Items that may not be claimed, because their job waits to be continued, or their organization for the next month.';
comment on column api.queue_health.items_waiting_for_retry is 'Items that were claimed and wait for a retry. While a batch is still being claimed and some of its items were answered before their turn (reuse_results, deduplicate_seconds), as many of the waiting items count as ready.';
comment on column api.queue_health.items_in_flight is 'Items that workers are looking up.';
comment on column api.queue_health.expired_leases is 'Items whose worker has been silent for longer than its lease.';
comment on column api.queue_health.oldest_open_job is 'Age of the oldest open job; null: none is open.';
comment on column api.queue_health.ready_organizations is 'Organizations with something to claim.';
comment on column api.queue_health.workers is 'Workers seen in the last 15 seconds.';
comment on column api.queue_health.lookups_per_second is 'The rate limit, in lookups a second; null: none.';
comment on column api.queue_health.max_in_flight is 'The concurrency limit of all workers together.';
comment on column api.queue_health.concurrency_limit is 'How many concurrent lookups the incentives API seems to handle; null: not known yet.';
comment on column api.queue_health.upstream_unavailable_since is 'When the circuit breaker opened; null: it is closed.';
comment on column api.queue_health.upstream_consecutive_failures is 'Failures since the last answer.';
comment on column api.queue_health.upstream_closed_until is 'No lookup starts before this time, because of an outage or a Retry-After; null: lookups may start.';
comment on column api.queue_health.upstream_base_latency is 'Seconds that a lookup takes when the incentives API is not under load.';
comment on column api.queue_health.maintenance_ran_at is 'When maintenance ran last; null: never.';
grant select on api.queue_health to service_role;
grant execute on function app.clock() to service_role, batch_lookups_readonly;
do $$
begin
    if app.spans_nodes() then
        grant execute on function app.nodes_together() to service_role, batch_lookups_readonly;
    end if;
end;
$$;

create or replace function api.get_queue_health() returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set jit = off set enable_seqscan = off
as $$
begin
    if app.is_node() then
        return app.ask_coordinator('select api.get_queue_health()');
    end if;
    return (select row_to_json(h) from api.queue_health h);
end;
$$;

comment on function api.get_queue_health() is 'The row of api.queue_health as an object, for callers who may only call functions.';

create or replace function api.get_operations() returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_queue json;
begin
    if app.is_node() then
        return app.ask_coordinator('select api.get_operations()');
    end if;
    v_queue := api.get_queue_health();
    return json_build_object(
        'queue', v_queue,
        'checks', (select json_agg(json_build_object('name', d."check", 'state', d.state, 'finding', d.finding, 'advice', d.advice)
                                   order by array_position(array['problem', 'warning', 'ok'], d.state), d.n)
                     from rows from (app.diagnose(v_queue)) with ordinality d ("check", state, finding, advice, n)),
        'settings', (select json_agg(json_build_object('name', a.attname, 'value', s.value, 'description', col_description(a.attrelid, a.attnum)) order by a.attnum)
                       from pg_attribute a
                       join json_each(api.get_settings()) s on s.key = a.attname
                      where a.attrelid = 'app.settings'::regclass and a.attname <> 'updated_at'));
end;
$$;

comment on function api.get_operations() is 'For operators: {queue: as api.get_queue_health, checks: [{name, state, finding, advice}] as api.diagnose has them, problems first, settings: [{name, value, description}]}. api.update_settings changes the settings.';

select app.replace_view('sites', $view$
select null::text    as reference_id,
       null::text    as street_1,
       null::text    as street_2,
       null::text    as city,
       null::text    as state_or_province_code,
       null::text    as postal_code,
       null::text    as country_code,
       null::text    as building_type,
       null::text    as device_ids
 where false
$view$);

comment on view api.sites is 'An empty view with the columns of a CSV upload: create temp table sites (like api.sites), \copy a file into it, call api.create_batch_lookup_from. device_ids such as 1;4.';
comment on column api.sites.reference_id is 'Your own id for the site, unique in a batch.';
comment on column api.sites.street_1 is 'First line of the address.';
comment on column api.sites.street_2 is 'Second line of the address; null or empty: none.';
comment on column api.sites.city is 'City.';
comment on column api.sites.state_or_province_code is 'Two letters, such as TX or ON.';
comment on column api.sites.postal_code is 'ZIP code or Canadian postal code.';
comment on column api.sites.country_code is 'US or CA.';
comment on column api.sites.building_type is 'RESIDENTIAL, MULTIFAMILY, MANUFACTURED_HOME or COMMERCIAL.';
comment on column api.sites.device_ids is 'Ids of devices, such as 1;4; a repeated id is a quantity.';
grant select on api.sites to authenticated, service_role;
