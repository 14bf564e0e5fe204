-- squawk-ignore-file ban-drop-function
-- Lists tell how many ended jobs and reports there are from counters. Maintenance counts each organization once, some minutes later, because
-- calls that began before this end jobs without a word.

create table app.ended_totals (
    organization_id uuid   not null,
    kind            text   not null,
    status          text   not null,
    total           bigint not null,

    constraint ended_totals_pkey primary key (organization_id, kind, status),
    constraint ended_totals_kind_check check (kind in ('jobs', 'reports'))
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 0);

comment on table app.ended_totals is 'How many ended jobs and reports an organization has, by status, together with app.ended_changes. An organization without a row has not been counted yet. No foreign key: maintenance, which writes it, would wait for whoever holds the organization.';

create table app.ended_changes (
    organization_id uuid    not null,
    id              uuid    not null,
    kind            text    not null,
    status          text    not null,
    change          integer not null,

    constraint ended_changes_pkey primary key (organization_id, id),
    constraint ended_changes_kind_check check (kind in ('jobs', 'reports'))
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_cost_delay = 0);

comment on table app.ended_changes is 'Additions to app.ended_totals, one row each, so that whoever ends or deletes a job waits for nobody; maintenance takes them in.';
comment on column app.ended_changes.change is 'How many more there are of this status; less than nothing: how many fewer.';

insert into app.ended_changes (organization_id, id, kind, status, change)
select id, gen_random_uuid(), 'jobs', 'completed', 0 from app.organizations;

alter table app.maintenance_state add column counts_from timestamptz not null default '-infinity';
comment on column app.maintenance_state.counts_from is 'Organizations that have no totals yet are counted from then on.';
do $$
declare
    -- Citus takes no volatile function beside a table of organizations.
    v_from timestamptz := clock_timestamp() + interval '2 minutes';
begin
    if exists (select from app.organizations) then
        update app.maintenance_state set counts_from = v_from;
    end if;
end $$;

-- These return the status of what they deleted.
drop function if exists app.delete_job(uuid, uuid);
drop function if exists app.delete_report(uuid, uuid);
