-- squawk-ignore-file ban-drop-function, ban-drop-column
-- Problems and warnings by cell. What depends on the attribute goes first; the functions come back with those of this version.

drop function if exists app.marked_items(app.batch_item[], jsonb, jsonb, boolean);
drop function if exists app.valid_items(app.batch_item[]);
drop function if exists app.item_warnings(app.batch_item[], integer[], jsonb);
drop function if exists app.item_problems(app.batch_item[], integer[]);
drop function if exists app.check_batch_items(app.batch_item[], integer[]);
drop function if exists app.changed_item(app.batch_item, integer, text[], text);
drop function if exists app.read_file(jsonb, jsonb);
alter type app.batch_item drop attribute errors, add attribute problems jsonb[], add attribute details jsonb[];
comment on type app.batch_item is 'An item of an upload as the validator reads it. problems: {field, code, value, ...}, null: it is valid; details: its warnings, {field, code, was, now, ...}.';
