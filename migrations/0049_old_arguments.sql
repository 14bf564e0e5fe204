-- squawk-ignore-file ban-drop-function
-- It takes the devices and their categories as arguments now.

drop function if exists app.result_categories(integer[], jsonb);
