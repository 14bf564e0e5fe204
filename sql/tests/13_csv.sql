begin;
select plan(4);

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

select * from finish();
rollback;
