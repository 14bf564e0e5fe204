-- squawk-ignore-file ban-drop-function
-- Items and sites of reports are found by a text: functions that know it take the place of those that do not.

drop function if exists app.count_items(public.batch_lookup_jobs, text, text);
drop function if exists app.find_items(uuid, uuid, int4multirange, text, text, integer, integer, integer);
drop function if exists app.read_items(uuid, uuid, text, text, text, integer, integer, integer, public.lookup_job_columns);
drop function if exists api.list_batch_lookup_items(uuid, uuid, text, integer, integer, text, text);
drop function if exists app.site_matches(public.incentive_report_sites, boolean, text, text);
drop function if exists api.get_incentive_report(uuid, uuid, integer, integer, text, text, boolean, text, text, text);
drop function if exists api.get_incentive_report_csv(uuid, uuid, boolean, text, text, text, integer, integer);
