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
return case
    -- One look at the whole line: in most, no cell needs more than to be written down.
    when array_to_string(p_cells, E'\x01', '') !~ '[",;\r\n]|(^|\x01)[-=+@＝＋－＠\s]|\s(\x01|$)' then array_to_string(p_cells, ',', '')
    else (select string_agg(app.csv_cell(c.cell), ',' order by c.n) from unnest(p_cells) with ordinality c (cell, n)) end || E'\r\n';
