begin;
select plan(52);
\ir fixtures.psql

select is(app.join_objects('{"b": 1, "a": 2}', '{"d": 3, "c": {"e": 4}}')::text, '{"b": 1, "a": 2, "d": 3, "c": {"e": 4}}', 'joined objects keep the order of their members');

-- Errors for callers
create function pg_temp.refusal(p_hint text, p_members json, out state text, out code text, out detail text, out hint text)
language plpgsql as $$
begin
    perform app.refuse(409, 'job_ended', 'The job has already failed', p_hint, p_members);
exception
    when others then
        get stacked diagnostics state = returned_sqlstate, code = constraint_name, detail = pg_exception_detail, hint = pg_exception_hint;
end;
$$;
select results_eq($$ select * from pg_temp.refusal('Wait.', null) $$, $$ values ('PT409', 'job_ended', '{"code" : "job_ended"}', 'Wait.') $$, 'a refusal has its code in the detail, where PostgREST shows it');
select results_eq($$ select * from pg_temp.refusal(null, '{"b": 1, "a": [2]}') $$, $$ values ('PT409', 'job_ended', '{"code" : "job_ended", "b": 1, "a": [2]}', '') $$, 'further members follow in their order');
select results_eq($$ select * from pg_temp.refusal(null, '{}') $$, $$ values ('PT409', 'job_ended', '{"code" : "job_ended"}', '') $$, 'an object without members adds none');

-- What clients send
select lives_ok($$ select app.check_members('{"a": 1}', array['a', 'b']) $$, 'known members of a body pass');
select throws_ok($$ select app.check_members('{"a": 1, "c": 2}', array['a', 'b']) $$, 'PT400', 'Unknown fields: c', 'unknown members of a body are named');
select is(pg_temp.hint($$ select app.check_members('{"a": 1, "c": 2}', array['a', 'b']) $$), 'The fields are a, b.', 'a hint lists the known members');
select throws_ok(format($$ select app.check_json(%L) $$, v), 'PT400', 'The body contains a number that is out of range', 'a number is refused wherever it is: ' || v)
  from unnest(array['1e131071', '-1e16', '{"a": [{"b": 1e99}]}', '[1e-40]', '[-1e-16383]']) v;
select lives_ok(format($$ select app.check_json(%L) $$, v), 'a usual number passes: ' || v)
  from unnest(array['{"a": [0, -0.5, 1e15, 1e-15]}', '"1e131071"', '{"1e131071": null}']) v;
select throws_ok(format($$ select app.check_json(%L) $$, format(v, repeat('9', 40000))), 'PT400', 'The body contains a number that is out of range',
    'a number of 40,000 digits is refused wherever it is: ' || v)
  from unnest(array['%s', '[%s]', '{"a": %s}']) v;
-- Large values are checked in parts.
select throws_ok(format($$ select app.check_json(%L) $$, format(v, array_to_string(array_fill('12345'::text, array[5000]), ','))), 'PT400',
    'The body contains a number that is out of range', 'a number is refused wherever it is in a large value: ' || v)
  from unnest(array['[%s, 1e16]', '[%s, -1e131071]', '[1e-40, %s]', '{"a": [%s], "b": {"c": [1e99]}}', '{"a": [%s], "b": -1e99}', '{"items": [{"a": [%s, {"b": 1e16}]}]}']) v;
select lives_ok(format($$ select app.check_json(%L) $$, format(v, array_to_string(array_fill('12345'::text, array[5000]), ','))), 'a large value of usual numbers passes: ' || v)
  from unnest(array['[%s, 0, -1e15, 1e-15]', '{"a": [%s], "b": "1e131071", "c": true, "d": null}', '{"1e131071": [%s, "1e131071", false, null, {}, []]}']) v;
select throws_ok(format($$ select app.check_json(%L) $$, repeat('[', d) || '1' || repeat(']', d)), 'PT400', 'The body is nested more than 64 levels deep', d || ' levels are too deep')
  from unnest(array[65, 3000]) d;
select throws_ok(format($$ select app.check_json(%L, 1024) $$, json_build_array(repeat('x', 1024))), 'PT413', 'The body may have at most 1,024 bytes', 'the size of a body is limited');
select lives_ok(format($$ select app.check_json(%L, 1024) $$, repeat('[', 64) || '"1e131071"' || repeat(']', 64)), 'a body with 64 levels passes');
select lives_ok($$ select app.check_json(null) $$, 'null contains no number out of range');
select throws_ok($$ select app.check_members('{"a": 1e99}', array['a']) $$, 'PT400', 'The body contains a number that is out of range', 'the members of a body are checked for numbers out of range');
select throws_ok($$ select app.check_members('[]', array['a']) $$, 'PT400', 'The body must be a JSON object', 'a body that is not an object is refused');
select throws_ok($$ select app.refuse_option('grace_seconds', 'a number') $$, 'PT400', 'grace_seconds must be a number', 'a refusal of an option names the form that it must have');
select lives_ok($$ select app.check_choice('sort', null, array['up', 'down']) $$, 'a choice may be omitted');
select throws_ok($$ select app.check_choice('sort', 'left', array['up', 'down']) $$, 'PT400', 'sort must be one of up, down', 'a refusal of a choice lists the possible values');

-- What answers hold
select is(app.amount('"12"'), 0::numeric, 'a string is not an amount');
select is(app.amount('-5'), 0::numeric, 'a negative number is not an amount');
select is(app.amount('1e300'), 0::numeric, 'an absurd number is not an amount');
select is(app.amount('12.345'), 12.35::numeric, 'an amount is rounded to cents');
select is(app.amount(null), 0::numeric, 'null is an amount of zero');
select is(app.elements('[1, 2]'), '[1, 2]', 'the elements of an array are the array');
select is(app.elements('{"a": 1}'), '[]', 'a value that is not an array has no elements');
select is(app.text_array('["b", "a", "b"]'), array['a', 'b'], 'an array of strings is sorted, each string once');
select is(app.text_array('["a", 1]'), null, 'an array with a number is not an array of strings');
select is(app.text_array('"a"'), null, 'a string is not an array of strings');
select throws_ok(format($$ select app.check_strings('scopes', %L) $$, v), 'PT400', 'scopes must be an array of 1 to 100 strings', 'what must be strings is refused: ' || v)
  from unnest(array['[["a"]]', '["a", []]', '["a", 1]', '[]', '"a"']) v;

select * from finish();
rollback;
