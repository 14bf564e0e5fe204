-- squawk-ignore-file ban-drop-function, ban-drop-column
-- One row counts the end of a job and of its report.
alter table app.ended_changes add column job_status text, add column report_status text;
update app.ended_changes
   set job_status = case kind when 'jobs' then status end, report_status = case kind when 'reports' then status end;
alter table app.ended_changes drop column kind, drop column status;
comment on column app.ended_changes.change is 'How many more there are, of jobs with job_status and of reports with report_status; less than nothing: how many fewer.';

-- Their successors take or answer the status of a job that has just ended, or how many organizations have their turn.
drop function if exists app.count_ended(uuid, text, text, integer);
drop function if exists app.advance_job(uuid, uuid, integer, integer, timestamptz);
drop function if exists app.update_report(uuid, uuid, timestamptz, integer, integer, numeric, numeric);
drop function if exists app.organizations_in_turn(text);
