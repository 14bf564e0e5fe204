begin;
select plan(5);

select results_eq(
    $$ select app.csv_cell(t) from unnest(array['plain', 'a "b"', 'a,b', E'a\nb', ' a', '', null]) t $$,
    $$ values ('plain'), ('"a ""b"""'), ('"a,b"'), (E'"a\nb"'), ('" a"'), (''), ('') $$,
    'cells are quoted where they must be');
select results_eq(
    $$ select app.csv_cell(t) from unnest(array['=1+1', '-x', '+1 a', '@a', E'\ta', '＝1']) t $$,
    $$ values ('"''=1+1"'), ('"''-x"'), ('"''+1 a"'), ('"''@a"'), (E'"''\ta"'), ('"''＝1"') $$,
    'formulas are made harmless');
select results_eq($$ select app.csv_cell(t) from unnest(array['-12.5', '+3', '90012']) t $$, $$ values ('-12.5'), ('+3'), ('90012') $$, 'numbers stay as they are');
select is(app.csv_line('a', null, 'b, c'), E'a,,"b, c"\r\n', 'a line ends as RFC 4180 has it');
select is_empty(
    $$ select t from unnest(array['a', '', 'a"b', 'a;b', 'a-b', '-x', '-12.5', '=1', '＝1', ' a', 'a ', E'a\nb', E'\ta', E'a\t']) t
        where app.csv_line(t, 'x') <> app.csv_cell(t) || E',x\r\n' or app.csv_line('x', t) <> 'x,' || app.csv_cell(t) || E'\r\n' $$,
    'a cell is written in a line as it is by itself, wherever it stands');

select * from finish();
rollback;
