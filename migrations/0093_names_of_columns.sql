-- squawk-ignore-file ban-drop-view
-- The view also had every name with a prefix, such as billing, which app.known_columns now finds.

drop view if exists app.column_names;
