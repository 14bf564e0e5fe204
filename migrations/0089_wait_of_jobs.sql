-- squawk-ignore-file ban-drop-function
-- It answers until when, too.

drop function if exists app.job_waits_for(public.batch_lookup_jobs);
