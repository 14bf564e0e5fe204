begin;
select plan(14);

select is(app.rfc3339('2026-11-24 10:00:00.1234+02'), '2026-11-24T08:00:00.123Z', 'timestamps are RFC 3339 in UTC with milliseconds');
select is(app.rfc3339(null), null, 'a null timestamp remains null');
select is(app.seconds(90.5), interval '1 minute 30.5 seconds', 'seconds make an interval');
select is(app.parse_timestamp('2026-05-31T08:00:00.5+02:00'), timestamptz '2026-05-31 06:00:00.5+00', 'a timestamp with an offset is read');
select is(app.parse_timestamp('2026-05-31'), timestamptz '2026-05-31 00:00:00+00', 'a day begins in UTC');
select is_empty(
    $$ select t from unnest(array['', 'now', 'tomorrow', 'infinity', '2026-05-31T08:00:00', '2026-02-30', '2026-05-31T24:00:00Z', '2026-05-31T08:00:00+15:00', '31.05.2026']) t
        where app.parse_timestamp(t) is not null $$, 'what is not RFC 3339 is not a timestamp');
select is(app.read_timestamp('since', '"2026-05-31"'), timestamptz '2026-05-31 00:00:00+00', 'a member that is a timestamp is read');
select is(app.read_timestamp('since', 'null'), null, 'a member that is null is not a timestamp');
select throws_ok($$ select app.read_timestamp('since', '5') $$, 'PT400', 'since must be a date such as 2026-05-31 or a time such as 2026-05-31T08:00:00Z',
    'a member that is not a timestamp is refused');
select ok(app.uuid_v7_floor('2026-05-31T08:00:00.123Z') <= app.uuid_v7('2026-05-31T08:00:00.123Z'), 'the lowest id of a millisecond is not greater than others of it');
select ok(app.uuid_v7_floor('2026-05-31T08:00:00.123Z') > app.uuid_v7('2026-05-31T08:00:00.122Z'), 'the lowest id of a millisecond is greater than those of the one before');
select is(app.uuid_v7_floor('-infinity'), app.uuid_v7_floor('1970-01-01T00:00:00Z'), 'no id is older than 1970');
select is(app.time_after('2026-05-31T08:00:00.123456Z', '90.5 seconds'), '2026-05-31T08:01:30.623456Z', 'a wait is added to a time, to the microsecond');

select results_eq(
    $$ select h, string_agg(r.code, ' ' order by r.country_code desc, r.code)
         from unnest(array['05:30', '06:30', '07:30', '10:30', '11:30']) h
         left join app.regions r on app.local_day(r.country_code, r.code, ('2027-07-01 ' || h || '+00')::timestamptz) = date '2027-06-30'
        group by h order by h $$,
    $$ values ('05:30', 'AK AS AZ CA CO HI ID MT NM NV OR UT WA WY AB BC NT SK YT'), ('06:30', 'AK AS AZ CA HI NV OR WA BC YT'), ('07:30', 'AK AS HI'),
              ('10:30', 'AS'), ('11:30', null) $$,
    'a day ends in the east first, and last in American Samoa');

select * from finish();
rollback;
