-- What a file brings is one parameter, whether its reader made items of it or left its rows to the database.

-- squawk-ignore-file ban-drop-function
drop function if exists api.create_batch_lookup(uuid, jsonb, boolean, jsonb);
drop function if exists api.submit_batch_lookup(uuid, jsonb, boolean, jsonb, text, bytea, integer[], jsonb);
drop function if exists app.create_batch(uuid, jsonb, boolean, jsonb, integer[], jsonb);
drop function if exists app.marked_items(app.batch_item[], jsonb, boolean);
drop function if exists app.item_warnings(app.batch_item[], integer[]);
