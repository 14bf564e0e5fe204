-- Chapter 13, CSV: cells and lines of files that people open in a spreadsheet.

-- A cell of a CSV file (RFC 4180). Text that a spreadsheet would take for a formula gets an apostrophe in front, unless it is a plain
-- number (https://owasp.org/www-community/attacks/CSV_Injection).
create or replace function app.csv_cell(p_text text) returns text
language sql immutable
return case
    when p_text is null or p_text = '' then ''
    when p_text ~ '^[-=+@＝＋－＠]|^[\t\r\n]' and p_text !~ '^[-+]?\d+(\.\d+)?$' then '"''' || replace(p_text, '"', '""') || '"'
    when p_text ~ '[",;\r\n]|^\s|\s$' then '"' || replace(p_text, '"', '""') || '"'
    else p_text
end;

create or replace function app.csv_line(variadic p_cells text[]) returns text
language sql immutable
begin atomic
    select string_agg(app.csv_cell(c.cell), ',' order by c.n) || E'\r\n' from unnest(p_cells) with ordinality c (cell, n);
end;
