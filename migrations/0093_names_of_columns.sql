-- squawk-ignore-file ban-drop-view, ban-drop-function
-- The view also had every name with a prefix, such as billing, which app.known_columns now finds.

drop view if exists app.column_names;
-- Now app.redundant_columns.
drop function if exists app.empty_ambiguous_columns(jsonb, jsonb, integer, integer);
