-- squawk-ignore-file ban-drop-function, require-concurrent-index-creation
-- Arguments that nothing read are gone, and what came of webhooks has a type of its own. Every foreign key begins an index: these tables are small.

create type app.webhook_outcome as (
    delivery_id uuid,
    lease_token uuid,
    http_status integer,
    error_class text,
    latency     double precision,
    body        text,
    retry_after double precision
);

comment on type app.webhook_outcome is 'What came of sending one delivery: the HTTP status or why there was none, latency and Retry-After in seconds, the start of the answer.';

drop function if exists api.record_webhooks(uuid, text, uuid[], uuid[], integer[], text[], double precision[], text[], double precision[]);
drop function if exists app.apply_webhook_attempts(uuid, uuid[], uuid[], integer[], text[], double precision[], timestamptz);
drop function if exists app.judge_receiver(uuid, app.webhook_deliveries[], timestamptz);
drop function if exists app.pause_webhooks(uuid, app.webhook_deliveries[], integer[], double precision[], timestamptz);
drop function if exists app.settle_webhooks(uuid, timestamptz);
drop function if exists app.webhook_body(app.webhook_deliveries, text[]);

create index devices_category_idx on app.devices (category_key);
create index utilities_region_idx on app.utilities (country_code, region_code);
