-- Chapter 90, maintenance: when it last ran, and how far it has come.

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

comment on table app.maintenance_state is 'When app.run_maintenance last ran, and what its checks found; a worker runs it where pg_cron does not.';
comment on column app.maintenance_state.checked_at is 'When maintenance last looked for violated invariants, which it does every ten minutes.';
comment on column app.maintenance_state.checked_since is 'The last check covered the jobs updated since then; it does not advance while there are violations.';
comment on column app.maintenance_state.violations is 'Violations that the last check found; api.check_invariants() lists them.';
comment on column app.maintenance_state.counts_from is 'Organizations are counted, and the names of their jobs indexed, for the first time only after this: until then, calls that began before a migration may change jobs unrecorded.';

insert into app.maintenance_state default values;

create table app.maintenance_rounds (
    round   text not null,
    last_id uuid not null default '00000000-0000-0000-0000-000000000000',

    constraint maintenance_rounds_pkey primary key (round)
);

comment on table app.maintenance_rounds is 'How far maintenance has come in each of its rounds of all organizations: a run handles some of them, and the next run continues.';
comment on column app.maintenance_rounds.last_id is 'The organization that was handled last.';

insert into app.maintenance_rounds (round) select unnest(array['attempts', 'calls', 'checks', 'jobs', 'queues', 'reports', 'results', 'webhooks']);
