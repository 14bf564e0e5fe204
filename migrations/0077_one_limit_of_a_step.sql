-- What deletes ended jobs and reports is told by its caller when to stop.

-- squawk-ignore-file ban-drop-function
drop function if exists app.delete_ended_jobs(uuid, timestamptz, integer);
drop function if exists app.delete_ended_reports(uuid, timestamptz, integer);
