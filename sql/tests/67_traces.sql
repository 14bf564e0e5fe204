begin;
select plan(20);
\ir fixtures.psql
\set traceparent '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'

-- What is a traceparent
select is(app.read_traceparent(:'traceparent'), :'traceparent', 'a valid traceparent is kept as it is');
select is(
    app.read_traceparent('00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03'), '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03',
    'flags of version 00 that are not known here are kept, too');
select is(app.read_traceparent(t.value), null, t.what)
  from (values (null, 'null is not a traceparent'),
               ('', 'an empty traceparent is not valid'),
               ('00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01', 'capital letters are not valid'),
               ('00-00000000000000000000000000000000-b7ad6b7169203331-01', 'a trace of zeros is not valid'),
               ('00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01', 'a span of zeros is not valid'),
               ('ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01', 'version ff is not valid'),
               ('00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more', 'version 00 with further fields is not valid'),
               ('cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.more', 'a later version must have a dash before further fields'),
               ('00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331', 'without flags it is not valid'),
               (E'00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nx: y', 'a line break is not valid')) t (value, what);
select is(
    app.read_traceparent('cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0b-what-the-future-brings'), :'traceparent',
    'a later version is read as version 00, and of its flags whether the trace is recorded');
select is(
    app.read_traceparent('cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0a'), '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00',
    'a trace of a later version that is not recorded stays so');

-- From the upload to the lookup and the webhook
select api.set_webhook_config(:'org', '{"url": "https://hooks.example.com/x", "events": ["lookup.completed"]}') as config \gset
select body ->> 'job_id' as job from api.submit_batch_lookup(:'org', pg_temp.items(2), p_traceparent => :'traceparent') \gset
select body ->> 'job_id' as other_job from api.submit_batch_lookup(:'org', pg_temp.items(2), p_traceparent => 'nonsense') \gset
select is(
    (select string_agg(job_id || ' ' || traceparent, ', ') from app.job_traces), :'job' || ' ' || :'traceparent',
    'a job keeps the traceparent of its upload only if it is valid');
select array_agg(job_id) as jobs, array_agg(position) as positions, array_agg(lease_token) as tokens,
       count(distinct (job_id, traceparent)) as pairs, count(*) filter (where traceparent = :'traceparent' and job_id = :'job') as traced
  from api.claim_lookups(:'org', 'tester', 10) \gset
select is(row(:pairs, :traced)::text, '(2,2)', 'a claim returns the traceparent of each item''s job');
select pg_temp.record(:'org', :'jobs', :'positions', :'tokens', 404) as recorded \gset
select body ->> 'job_id' as retry from api.submit_batch_lookup(:'org', pg_temp.items(1), p_traceparent => :'traceparent') \gset
select pg_temp.look_up(:'org', 1, 200, :'answer');
select is(
    (select string_agg(event || ' ' || traceparent, ', ') from api.claim_webhooks(:'org', 'sender', 10)), 'lookup.completed ' || :'traceparent',
    'a webhook has the traceparent of its job');
\set other_traceparent '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203332-01'
select a.body ->> 'job_id' as one, b.body ->> 'job_id' as two, c.body ->> 'job_id' as three
  from api.submit_batch_lookup(:'org', pg_temp.items(1), p_traceparent => :'traceparent') a, api.submit_batch_lookup(:'org', pg_temp.items(1), p_traceparent => :'other_traceparent') b,
       api.submit_batch_lookup(:'org', pg_temp.items(1)) c \gset
select pg_temp.look_up(:'org', 3, 200, :'answer');
select bag_eq(
    format($$ select body::json #>> '{data,job_id}', traceparent from api.claim_webhooks(%L, 'sender', 10) $$, :'org'),
    format($$ values (%L, %L), (%L, %L), (%L, null) $$, :'one', :'traceparent', :'two', :'other_traceparent', :'three'), 'webhooks that are claimed together each have the traceparent of their own job');
select api.retry_batch_lookup(:'org', :'other_job', p_traceparent => :'traceparent') ->> 'job_id' as second_retry \gset
select is(
    (select traceparent from app.job_traces where job_id = :'second_retry'), :'traceparent',
    'a retry belongs to the trace of its own request, not to that of the first upload');
select api.delete_batch_lookup(:'org', :'retry') as deleted \gset
select is_empty(format('select from app.job_traces where job_id = %L', :'retry'), 'a traceparent is deleted with its job');
select * from finish();
rollback;
