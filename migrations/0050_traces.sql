-- squawk-ignore-file ban-drop-function, adding-foreign-key-constraint, constraint-missing-not-valid
-- Jobs keep the trace context of their upload.

create table app.job_traces (
    organization_id uuid not null,
    job_id          uuid not null,
    traceparent     text not null,

    constraint job_traces_pkey primary key (organization_id, job_id),
    constraint job_traces_job_fkey foreign key (organization_id, job_id) references public.batch_lookup_jobs (organization_id, id),
    constraint job_traces_traceparent_check check (traceparent ~ '^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$')
);

comment on table app.job_traces is 'The trace context that the upload of a job came with, which its lookups and webhooks go on with. Other jobs have no row.';
comment on column app.job_traces.traceparent is 'As in the header of that name (W3C Trace Context): version 00, trace, span, flags.';

-- New arguments, and more columns in what they return.
drop function if exists api.submit_batch_lookup(uuid, jsonb, boolean, jsonb, text, bytea, jsonb);
drop function if exists api.start_upload(uuid, uuid, jsonb, text, bytea);
drop function if exists api.retry_batch_lookup(uuid, uuid, text);
drop function if exists api.claim_lookups(uuid, text, integer);
drop function if exists api.claim_webhooks(uuid, text, integer);
drop function if exists api.start_webhook_test(uuid, text);
drop function if exists app.webhook_requests(app.webhook_configs, app.webhook_deliveries[], timestamptz);
drop function if exists app.buildable_requests(uuid, app.webhook_configs, app.webhook_deliveries[], timestamptz);
