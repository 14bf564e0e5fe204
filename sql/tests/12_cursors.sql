begin;
select plan(13);

select lives_ok('select app.check_page(1, 0, 200), app.check_page(200, 2147483647, 200)', 'the smallest and the largest page pass');
select throws_ok('select app.check_page(0, 0, 200)', 'PT400', 'limit must be a whole number from 1 to 200', 'a page has at least one row');
select throws_ok('select app.check_page(201, 0, 200)', 'PT400', 'limit must be a whole number from 1 to 200', 'a page has at most its limit of rows');
select throws_ok('select app.check_page(20, -1, 200)', 'PT400', 'offset must be a whole number from 0 to 2147483647', 'a negative offset is refused');

select row('amount', 5, 12.50, 'site-5', null, null, null)::app.page_cursor as page \gset
select is(app.read_cursor(app.cursor(:'page'), 'amount'), :'page'::app.page_cursor, 'a cursor holds where a page ended');
select matches(app.cursor(:'page'), '^[A-Za-z0-9_-]+$', 'a cursor needs no escaping in a URL');
select throws_ok(format($$ select app.read_cursor(%L, %L) $$, c, 'amount'), 'PT400', 'cursor does not belong to this list and sort order', what)
  from (values ('', 'an empty cursor is not a cursor'),
               ('!', 'text that is not base64 is not a cursor'),
               (app.cursor(row('position', 5, null, null, null, null, null)), 'a cursor of another order is refused'),
               (translate(encode('{"sort": "amount", "position": "x"}', 'base64'), '+/=', '-_'), 'a cursor with a value of another type is refused')) v (c, what);
select is(app.read_cursor(null, 'amount'), null, 'the first page has no cursor');

select is(app.read_page(app.cursor(:'page'), 'amount', 20, 0, 200), :'page'::app.page_cursor, 'a page starts at its cursor');
select throws_ok(format('select app.read_page(%L, %L, 20, 5, 200)', app.cursor(:'page'), 'amount'), 'PT400', 'Provide either cursor or offset, not both',
    'a page has a cursor or an offset, not both');

select * from finish();
rollback;
