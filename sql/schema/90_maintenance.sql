-- Chapter 90, maintenance: what is put right and cleared away every minute.

create table app.maintenance_state (
    singleton boolean     not null default true,
    ran_at    timestamptz not null default '-infinity',

    constraint maintenance_state_pkey primary key (singleton),
    constraint maintenance_state_singleton_check check (singleton)
);

comment on table app.maintenance_state is 'When app.run_maintenance last ran: a worker runs it where pg_cron does not.';

insert into app.maintenance_state default values;
