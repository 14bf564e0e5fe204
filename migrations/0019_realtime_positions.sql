-- squawk-ignore-file ban-drop-function
-- Another signature: which rows changed is asked by position, no longer by time.
drop function if exists api.realtime_changes(uuid[], timestamptz);
