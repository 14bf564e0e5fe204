-- Earlier releases had these, and nothing dropped them.

-- squawk-ignore-file ban-drop-function
drop function if exists app.delete_job(uuid, uuid);
drop function if exists app.delete_report(uuid, uuid);
