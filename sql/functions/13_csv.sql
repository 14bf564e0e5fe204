-- Chapter 13, CSV: cells and lines of files that people open in a spreadsheet.

-- What may precede a formula invisibly: white space of any kind and zero-width characters, for a bracket expression.
create or replace function app.blanks() returns text
language sql immutable
return ' \v\f\u0085\u00A0\u00AD\u1680\u180E\u2000-\u200F\u2028-\u202F\u205F-\u206F\u3000\uFEFF';

-- A cell of a CSV file (RFC 4180). Text that a spreadsheet would take for a formula gets an apostrophe in front, unless it is a plain
-- number (https://owasp.org/www-community/attacks/CSV_Injection). If the spreadsheet splits at `;`, `|` or tabs, quotes in the middle of a
-- line have no effect and our cell becomes several: so the text after each of these and after a line break gets one, too.
create or replace function app.csv_cell(p_text text) returns text
language sql immutable
return case
    when p_text is null or p_text = '' then ''
    when p_text ~ ('(^|[;|\t\r\n])["' || app.blanks() || ']*[-=+@＝＋－＠]|^[\t\r\n]') and p_text !~ '^[-+]?\d+(\.\d+)?$'
    then '"' || case when p_text ~ ('^([' || app.blanks() || ']*[-=+@＝＋－＠]|[\t\r\n])') then '''' else '' end
             || replace(regexp_replace(p_text, '([;|\t\r\n])(?=["' || app.blanks() || ']*[-=+@＝＋－＠])', '\1''', 'g'), '"', '""') || '"'
    when p_text ~ '[",;\r\n]|^\s|\s$' then '"' || replace(p_text, '"', '""') || '"'
    else p_text
end;

create or replace function app.csv_line(variadic p_cells text[]) returns text
language sql immutable
return case
    -- One check of the whole line: in most, no cell needs quotes or an apostrophe.
    when array_to_string(p_cells, E'\x01', '') !~ ('[",;|\t\r\n]|(^|\x01)[-=+@＝＋－＠\s' || app.blanks() || ']|\s(\x01|$)')
    then array_to_string(p_cells, ',', '')
    else (select string_agg(app.csv_cell(c.cell), ',' order by c.n) from unnest(p_cells) with ordinality c (cell, n)) end || E'\r\n';
