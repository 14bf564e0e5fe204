-- Both return something now, which `create or replace` cannot add: whether all jobs were stopped, and how many items failed.

-- squawk-ignore-file ban-drop-function
drop function if exists app.stop_at_limits(uuid, boolean, timestamptz);
drop function if exists app.fail_at_limit(uuid, uuid, timestamptz);
