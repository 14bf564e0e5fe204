-- squawk-ignore-file ban-drop-function
-- Maintenance sees to some organizations in each run, and reads on where it has not been.

create table app.maintenance_rounds (
    round   text not null,
    last_id uuid not null default '00000000-0000-0000-0000-000000000000',

    constraint maintenance_rounds_pkey primary key (round)
);

comment on table app.maintenance_rounds is 'How far maintenance has come in its rounds of all organizations: a run sees to some of them, and the next one to those that follow.';
comment on column app.maintenance_rounds.last_id is 'The last organization that was seen to.';

insert into app.maintenance_rounds (round) select unnest(array['attempts', 'calls', 'checks', 'jobs', 'queues', 'reports', 'results', 'webhooks']);

create table app.known_organizations (
    organization_id uuid        not null,
    read_until      timestamptz not null default '-infinity',

    constraint known_organizations_pkey primary key (organization_id)
);

comment on table app.known_organizations is 'Organizations that have asked for reuse_results, for which maintenance reads on.';
comment on column app.known_organizations.read_until is 'app.known_results has all jobs that ended more than an hour before.';

insert into app.known_organizations (organization_id) select distinct organization_id from app.known_jobs;

-- Their successors take a limit.
drop function if exists app.close_orphaned_jobs(uuid, timestamptz);
drop function if exists app.maintain_webhooks(timestamptz);
drop function if exists app.find_violations(timestamptz, timestamptz);
