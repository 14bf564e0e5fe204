begin;
select plan(8);

select results_eq(
    $$ select app.csv_cell(t) from unnest(array['plain', 'a "b"', 'a,b', E'a\nb', ' a', '', null]) t $$,
    $$ values ('plain'), ('"a ""b"""'), ('"a,b"'), (E'"a\nb"'), ('" a"'), (''), ('') $$,
    'cells are quoted where they must be');
select results_eq(
    $$ select app.csv_cell(t) from unnest(array['=1+1', '-x', '+1 a', '@a', E'\ta', '＝1']) t $$,
    $$ values ('"''=1+1"'), ('"''-x"'), ('"''+1 a"'), ('"''@a"'), (E'"''\ta"'), ('"''＝1"') $$,
    'formulas in cells are escaped');
select results_eq(
    $$ select app.csv_cell(t) from unnest(array['x;=1+1;y', E'a\t@b', 'a|+b', E'a\n -b', 'a;;=1', E';\u200B=1', E'\t=1', 'a;''=1', 'a; b', 'a|b', 'a; "=1']) t $$,
    $$ values ('"x;''=1+1;y"'), (E'"a\t''@b"'), ('"a|''+b"'), (E'"a\n'' -b"'), ('"a;;''=1"'), (E'";''\u200B=1"'), (E'"''\t''=1"'), ('"a;''=1"'), ('"a; b"'), ('a|b'), ('"a;'' ""=1"') $$,
    'formulas are escaped wherever another separator would begin a cell');
select is_empty(
    $$ select codepoint from unnest(array[9, 10, 11, 12, 13, 32, 133, 160, 173, 5760, 8195, 8203, 8206, 8232, 8239, 8288, 8297, 12288, 65279]) codepoint
        where app.csv_cell(chr(codepoint) || '=1') !~ '^"''' or app.csv_line('x', chr(codepoint) || '=1') !~ '^x,"''' $$,
    'formulas are escaped after white space of any kind and after invisible characters');
select is_empty(
    $$ select cell from unnest(array['x;=1', E'\t=1', '=1', E'\u00A0=1', 'a | -b', E'=\n=1', '";=1']) cell
        where regexp_split_to_array(app.csv_line('x', cell, 'y'), '[;|\t\r\n,]"?\s*"?') && array['=1', '-b'] $$,
    'no separator of spreadsheets turns a cell into a formula');
select results_eq($$ select app.csv_cell(t) from unnest(array['-12.5', '+3', '90012']) t $$, $$ values ('-12.5'), ('+3'), ('90012') $$, 'numbers stay as they are');
select is(app.csv_line('a', null, 'b, c'), E'a,,"b, c"\r\n', 'a line ends as RFC 4180 says');
select is_empty(
    $$ select t from unnest(array['a', '', 'a"b', 'a;b', 'a-b', '-x', '-12.5', '=1', '＝1', ' a', 'a ', E'a\nb', E'\ta', E'a\t']) t
        where app.csv_line(t, 'x') <> app.csv_cell(t) || E',x\r\n' or app.csv_line('x', t) <> 'x,' || app.csv_cell(t) || E'\r\n' $$,
    'a cell is written the same by itself and anywhere in a line');

select * from finish();
rollback;
