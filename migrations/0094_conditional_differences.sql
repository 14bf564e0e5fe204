-- squawk-ignore-file ban-drop-function
-- It returns other columns now, which replacing a function cannot change.

drop function if exists app.report_differences(uuid, uuid, uuid);
