-- Chapter 67, traces: which trace an upload belongs to (https://www.w3.org/TR/trace-context/).

create table app.job_traces (
    organization_id uuid not null,
    job_id          uuid not null,
    traceparent     text not null,

    constraint job_traces_pkey primary key (organization_id, job_id),
    constraint job_traces_job_fkey foreign key (organization_id, job_id) references public.batch_lookup_jobs (organization_id, id),
    constraint job_traces_traceparent_check check (traceparent ~ '^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$')
);

comment on table app.job_traces is 'The trace context that the upload of a job came with; its lookups and webhooks belong to the same trace. Other jobs have no row.';
comment on column app.job_traces.traceparent is 'As in the header of that name (W3C Trace Context): version 00, trace id, span id, flags.';
