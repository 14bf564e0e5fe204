-- What samples the values of a column is given the rows that are to be sampled.

-- squawk-ignore-file ban-drop-function
drop function if exists app.column_samples(jsonb, integer, integer);
