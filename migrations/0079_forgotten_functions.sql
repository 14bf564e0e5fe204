-- Earlier releases had these, and nothing dropped them. While a deploy commits, a call of before it could find two of one name.

-- squawk-ignore-file ban-drop-function
drop function if exists app.counted_upload(public.lookup_uploads, integer, app.batch_item[], integer[]);
drop function if exists app.delete_job(uuid, uuid);
drop function if exists app.delete_report(uuid, uuid);
drop function if exists app.file_columns(text[], jsonb, jsonb, jsonb, boolean);
