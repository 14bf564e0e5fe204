-- One function deletes ended jobs and ended reports; what both return is named alike.

-- squawk-ignore-file ban-drop-function
drop function if exists app.prune_jobs(timestamptz, integer);
drop function if exists app.prune_reports(timestamptz, integer);
drop function if exists app.prune_expired();
drop function if exists app.delete_ended_jobs(uuid, timestamptz, integer);
drop function if exists app.delete_ended_reports(uuid, timestamptz, integer);
