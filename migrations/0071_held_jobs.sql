-- What a flush of several organizations holds.

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

comment on type app.held_job is 'A job that a flush of several organizations holds, with its report: where the rows are, and what it adds to them.';
