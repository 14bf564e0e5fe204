begin;
select plan(8);
\ir fixtures.psql

select is(app.csv_line('a', null, 'b'), E'a,,b\r\n', 'a line ends as RFC 4180 has it');

select row('amount', 5, 12.50, 'site-5', null, null, null)::app.page_mark as mark \gset
select is(app.read_cursor(app.cursor(:'mark'), 'amount'), :'mark'::app.page_mark, 'a cursor holds where a page ended');
select matches(app.cursor(:'mark'), '^[A-Za-z0-9_-]+$', 'it needs no escaping in a URL');
select throws_ok(format($$ select app.read_cursor(%L, %L) $$, c, 'amount'), 'PT400', 'cursor does not belong to this list and sort order', what)
  from (values ('', 'an empty cursor is none'),
               ('!', 'nor is text that is not base64'),
               (app.cursor(row('position', 5, null, null, null, null, null)), 'nor one of another order'),
               (translate(encode('{"sort": "amount", "position": "x"}', 'base64'), '+/=', '-_'), 'nor one with a value of another type')) v (c, what);
select is(app.read_cursor(null, 'amount'), null, 'without a cursor there is no mark');

select * from finish();
rollback;
