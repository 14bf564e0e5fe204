-- squawk-ignore-file ban-drop-function
-- app.start_request has taken its place.

drop function if exists app.begin_request(uuid, text, text, bytea);
