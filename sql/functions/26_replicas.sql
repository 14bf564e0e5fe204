-- Chapter 26, replicas: whether a standby may serve an organization. Positions come from the primary, and are compared at the standby.

-- A standby knows its timeline only up to the last page that it has written: for a while after a promotion, it differs from the primary's.
create or replace function app.wal_history() returns text
language sql volatile
return (select system_identifier from pg_control_system()) || '/'
       || case when pg_is_in_recovery() then (select min_recovery_end_timeline from pg_control_recovery())
               else ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::integer end;

comment on function app.wal_history() is 'The cluster and its timeline, such as 7712875660715648259/1. Positions of one cannot be compared with those of another.';

create or replace function api.note_write(p_organization_id uuid, p_has_ended boolean default true) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now     timestamptz := app.clock();
    v_history text        := app.wal_history();
    v_lsn     pg_lsn      := case when p_has_ended then pg_current_wal_insert_lsn() else 'FFFFFFFF/FFFFFFFF' end;
begin
    if p_organization_id is null then
        perform app.refuse(404, 'organization_not_found', 'Organization not found');
    end if;
    insert into app.recent_writes as w (organization_id, wal_history, lsn, written_at)
    values (p_organization_id, v_history, v_lsn, v_now)
    on conflict (organization_id) do update
       set wal_history = excluded.wal_history,
           lsn         = excluded.lsn,
           written_at  = excluded.written_at
     where w.wal_history <> excluded.wal_history or w.lsn <= excluded.lsn;
end;
$$;

comment on function api.note_write(uuid, boolean) is 'Notes that the organization has written, after the commit: replicas that have not replayed everything up to now no longer answer it. p_has_ended false: it is not known whether the write has ended, so no replica answers it for five minutes. 404: no organization is given.';

create or replace function api.read_position(
    p_organization_id uuid, out wal_history text, out written pg_lsn, out lsn pg_lsn, out read_at timestamptz
)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_history text   := app.wal_history();
    v_now_lsn pg_lsn := pg_current_wal_insert_lsn();
    v_known   boolean;
begin
    wal_history := v_history;
    lsn := pg_current_wal_lsn();
    read_at := app.clock();
    select max(w.lsn), count(*) filter (where w.organization_id = app.installation_id()) > 0 into written, v_known
      from app.recent_writes w
     where w.organization_id in (p_organization_id, app.installation_id()) and w.wal_history = v_history;
    if not v_known then
        -- Earlier notes are lost: any organization may have written up to now.
        written := greatest(written, v_now_lsn);
        insert into app.recent_writes as w (organization_id, wal_history, lsn, written_at)
        values (app.installation_id(), v_history, v_now_lsn, read_at)
        on conflict (organization_id) do update
           set wal_history = excluded.wal_history,
               lsn         = excluded.lsn,
               written_at  = excluded.written_at
         where w.wal_history <> excluded.wal_history;
    end if;
end;
$$;

comment on function api.read_position(uuid) is 'For api.replica_lag, at the primary: its history, the position up to which the organization has written, the position and the time of the primary now.';

create or replace function api.replica_lag(
    p_wal_history text, p_written pg_lsn, p_lsn pg_lsn, p_read_at timestamptz,
    out has_written boolean, out lag double precision, out replayed pg_lsn
)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if pg_is_in_recovery() and app.wal_history() = p_wal_history then
        replayed := pg_last_wal_replay_lsn();
        has_written := replayed >= p_written;
        lag := case when replayed >= p_lsn then 0
                    else greatest(extract(epoch from p_read_at - pg_last_xact_replay_timestamp()), 0) end;
    end if;
end;
$$;

comment on function api.replica_lag(text, pg_lsn, pg_lsn, timestamptz) is 'At a replica, with the answer of api.read_position: whether it has replayed what was written (null: it is not a standby of that primary), by how many seconds it lags at most (null: not known), and its position.';

-- Removes notes older than any lag that a replica is read with, and records their latest position for the installation, so that none is
-- lost.
create or replace function app.prune_recent_writes(p_now timestamptz) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_history          text   := app.wal_history();
    v_now_lsn          pg_lsn := pg_current_wal_insert_lsn();
    v_organization_ids uuid[];
    v_lsn              pg_lsn;
begin
    select array_agg(w.organization_id), max(least(w.lsn, v_now_lsn)) filter (where w.wal_history = v_history) into v_organization_ids, v_lsn
      from (select *
              from app.recent_writes
             where written_at < p_now - interval '5 minutes' and organization_id <> app.installation_id()
               for update skip locked) w;
    update app.recent_writes
       set lsn = v_lsn
     where organization_id = app.installation_id() and wal_history = v_history and lsn < v_lsn;
    delete from app.recent_writes where organization_id = any (v_organization_ids);
end;
$$;
