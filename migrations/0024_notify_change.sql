-- The function that notifies of a change says so by its name.

-- squawk-ignore-file ban-drop-function
drop function if exists app.announce(text, text, uuid, uuid);
