-- Chapter 55, outcomes: what is retried, and what fails.

create table app.retry_policy (
    outcome       text not null,
    action        text not null,
    error_code    text not null,
    error_message text not null,
    outage        boolean not null default false,

    constraint retry_policy_pkey primary key (outcome),
    constraint retry_policy_action_check check (action in ('retry', 'wait', 'fail')),
    constraint retry_policy_outcome_check check (outcome ~ '^([1-5][0-9][0-9]|[1-5]xx|[a-z_]+)$')
);

comment on table app.retry_policy is 'What to do about an unsuccessful lookup. The most specific row wins: the HTTP status or error class, then the class of the status (4xx), then other.';
comment on column app.retry_policy.action is 'retry: up to max_retries times; wait: like retry, but a Retry-After pauses all workers and costs no retry; fail: immediately.';
comment on column app.retry_policy.error_message is 'For users, unless the incentives API sent a message with a 4xx.';

comment on column app.retry_policy.outage is 'Whether the outcome means that the incentives API is unreachable, which is never due to the item: such a failure never costs an item its last attempt. Other failures are a sign of an outage only on the first attempt of an item.';

insert into app.retry_policy (outcome, action, error_code, error_message) values
    ('400',                'fail',  'upstream_rejected',       'The incentives service refused the request'),
    ('401',                'fail',  'upstream_unauthorized',   'The incentives service did not accept our credentials'),
    ('403',                'fail',  'upstream_unauthorized',   'The incentives service did not accept our credentials'),
    ('404',                'fail',  'not_found',               'The incentives service found nothing for this address'),
    ('408',                'retry', 'upstream_timeout',        'The incentives service did not answer in time'),
    ('425',                'retry', 'upstream_error',          'The incentives service asked to try again later'),
    ('429',                'wait',  'upstream_rate_limited',   'The incentives service refused too many requests'),
    ('503',                'wait',  'upstream_unavailable',    'The incentives service was not available'),
    ('2xx',                'retry', 'invalid_response',        'The incentives service sent an answer that could not be read'),
    ('3xx',                'fail',  'upstream_redirected',     'The incentives service answered with a redirect'),
    ('4xx',                'fail',  'upstream_rejected',       'The incentives service refused the request'),
    ('5xx',                'retry', 'upstream_error',          'The incentives service reported an error of its own'),
    ('timeout',            'retry', 'upstream_timeout',        'The incentives service did not answer in time'),
    ('connection',         'retry', 'upstream_unreachable',    'The connection to the incentives service broke off'),
    ('unreachable',        'retry', 'upstream_unreachable',    'The incentives service could not be reached'),
    ('dns',                'retry', 'upstream_unreachable',    'The address of the incentives service could not be resolved'),
    ('tls',                'retry', 'upstream_unreachable',    'No secure connection to the incentives service could be made'),
    ('invalid_response',   'retry', 'invalid_response',        'The incentives service sent an answer that could not be read'),
    ('response_too_large', 'fail',  'response_too_large',      'The incentives service sent an answer that is too large'),
    ('other',              'retry', 'upstream_error',          'The lookup did not succeed');

update app.retry_policy set outage = true where outcome in ('unreachable', 'dns', 'tls');

create type app.lookup_outcome as (
    job_id        uuid,
    "position"    integer,
    lease_token   uuid,
    action        text,
    error_code    text,
    error_message text,
    pause         interval,
    outage        boolean,
    latency       double precision,
    http_status   integer,
    number        integer
);

comment on type app.lookup_outcome is 'The outcome of one lookup. action: complete, retry, wait or fail, as app.retry_policy decides; pause: what Retry-After asked for; latency: in seconds; number: where the arrays of the flush have its answer.';

create type app.recorded_lookups as (
    verdicts text[],
    signs    app.outage_signs
);

comment on type app.recorded_lookups is 'The result of a flush: a verdict for each outcome, in their order, and what they say about the incentives API.';

create type app.held_job as (
    organization_id uuid,
    job_id          uuid,
    created_at      timestamptz,
    job_place       tid,
    report_id       uuid,
    report_place    tid,
    items           integer,
    eligible        integer,
    value           numeric,
    conditional     numeric
);

comment on type app.held_job is 'A job, with its report, that a flush of several organizations has locked: where the two rows are, and what it adds to them.';
