-- squawk-ignore-file ban-drop-function
-- Of the settings, an outcome needs how often a lookup is tried and the waits in between.

drop function if exists app.is_final(text, integer, app.settings);
drop function if exists app.retry_backoff(integer, app.settings);
