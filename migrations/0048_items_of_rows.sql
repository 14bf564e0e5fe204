-- squawk-ignore-file ban-drop-function
-- Rows of files are judged without becoming one JSON document first.

create type app.cell_notes as (
    warnings jsonb[],
    problems jsonb[]
);

comment on type app.cell_notes is 'What reading a row of a file found out: {field, code, message, was, now} of what was mended in it; {field, code, value, of} of what is wrong with it. null: nothing.';

drop function if exists app.parse_batch_items(jsonb, boolean);
drop function if exists app.batch_request_items(jsonb);
drop function if exists app.read_file(jsonb, jsonb, boolean);
drop function if exists app.file_items(jsonb, integer[], integer, integer, jsonb, jsonb, jsonb);
drop function if exists app.marked_items(app.batch_item[], jsonb, jsonb, boolean);
drop function if exists app.changed_item(app.batch_item, integer, text[], jsonb[], jsonb[]);
drop function if exists app.note_rows(uuid, uuid, app.batch_item[]);
drop function if exists app.upload_file(public.lookup_uploads, boolean);
drop function if exists app.items_as_file(jsonb);
