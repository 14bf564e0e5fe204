-- Chapter 90, maintenance: what is repaired and pruned every minute.

create table app.maintenance_state (
    singleton boolean     not null default true,
    ran_at    timestamptz not null default '-infinity',
    checked_at    timestamptz not null default '-infinity',
    checked_since timestamptz not null default '-infinity',
    violations    integer     not null default 0,
    counts_from   timestamptz not null default '-infinity',

    constraint maintenance_state_pkey primary key (singleton),
    constraint maintenance_state_singleton_check check (singleton)
);

comment on table app.maintenance_state is 'When app.run_maintenance last ran: a worker runs it where pg_cron does not.';
comment on column app.maintenance_state.checked_at is 'When maintenance last looked for violated invariants, which it does every ten minutes.';
comment on column app.maintenance_state.checked_since is 'It checked the jobs that were updated since then; it stays while there are violations.';
comment on column app.maintenance_state.violations is 'How many violations it found: api.check_invariants() lists them.';
comment on column app.maintenance_state.counts_from is 'Organizations that have no totals yet, or whose names of jobs are not in app.job_names, are counted from then on.';

insert into app.maintenance_state default values;

create table app.maintenance_rounds (
    round   text not null,
    last_id uuid not null default '00000000-0000-0000-0000-000000000000',

    constraint maintenance_rounds_pkey primary key (round)
);

comment on table app.maintenance_rounds is 'How far maintenance has come in its rounds of all organizations: a run sees to some of them, and the next one to those that follow.';
comment on column app.maintenance_rounds.last_id is 'The last organization that was seen to.';

insert into app.maintenance_rounds (round) select unnest(array['attempts', 'calls', 'checks', 'jobs', 'queues', 'reports', 'results', 'webhooks']);
