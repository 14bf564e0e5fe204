begin;
select plan(8);
\ir fixtures.psql

select is(app.csv_line('a', null, 'b'), E'a,,b\r\n', 'a line ends as RFC 4180 has it');

select row('amount', 5, 12.50, 'site-5', null, null, null)::app.page_mark as mark \gset
select is(app.read_cursor(app.cursor(:'mark'), 'amount'), :'mark'::app.page_mark, 'a cursor holds where a page ended');
select matches(app.cursor(:'mark'), '^[A-Za-z0-9_-]+$', 'a cursor needs no escaping in a URL');
select throws_ok(format($$ select app.read_cursor(%L, %L) $$, c, 'amount'), 'PT400', 'cursor does not belong to this list and sort order', what)
  from (values ('', 'an empty cursor is none'),
               ('!', 'text that is not base64 is no cursor'),
               (app.cursor(row('position', 5, null, null, null, null, null)), 'a cursor of another order is refused'),
               (translate(encode('{"sort": "amount", "position": "x"}', 'base64'), '+/=', '-_'), 'a cursor with a value of another type is refused')) v (c, what);
select is(app.read_cursor(null, 'amount'), null, 'the first page has no cursor');

select * from finish();
rollback;
