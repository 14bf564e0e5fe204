-- What the reader of a file notes is no option any more: app.upload_options answers less, api.submit_batch_lookup takes more.

-- squawk-ignore-file ban-drop-function
drop function if exists app.upload_options(jsonb, jsonb);
drop function if exists api.submit_batch_lookup(uuid, jsonb, boolean, jsonb, text, bytea);
