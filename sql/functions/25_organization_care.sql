-- Chapter 25, management of organizations by operators: listing, renaming and deleting them.

create or replace function api.list_organizations()
returns table (id uuid, name text, clerk_organization_id text, created_at timestamptz, api_keys integer, open_jobs integer, open_items integer,
               last_upload_at timestamptz)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := app.clock();
begin
    for id, name, clerk_organization_id, created_at, api_keys in
        select o.id, o.name, o.clerk_organization_id, o.created_at,
               (select count(*)::integer
                  from app.api_keys k
                 where k.organization_id = o.id and k.revoked_at is null and (k.expires_at is null or k.expires_at > v_now))
          from app.organizations o
         order by o.name
    loop
        select count(*), coalesce(sum(b.total_items - b.processed_items), 0) into open_jobs, open_items
          from public.batch_lookup_jobs b
         where b.organization_id = list_organizations.id and b.status in ('pending', 'processing');
        select max(b.created_at) into last_upload_at from public.batch_lookup_jobs b where b.organization_id = list_organizations.id;
        return next;
    end loop;
end;
$$;

comment on function api.list_organizations() is 'All organizations by name: {id, name, clerk_organization_id, created_at, api_keys (usable ones), open_jobs, open_items, last_upload_at (null: none)}.';

create or replace function api.list_relinked_organizations() returns table (id uuid, name text, clerk_organization_id text)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select o.id, o.name, o.clerk_organization_id
      from app.organizations o
     where app.is_relinked(o.id, o.clerk_organization_id)
     order by o.name;
end;
$$;

comment on function api.list_relinked_organizations() is 'Organizations that are linked to another Clerk organization than the one from which their id is derived, as was possible once: members of the former one can still access them by SQL and PostgREST. Create a new organization for the current one, and delete these when their data is no longer needed.';

create or replace function api.rename_organization(p_organization_id uuid, p_name text) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_name text;
begin
    perform app.check_organization_name(p_name);
    select name into v_name from app.organizations where id = p_organization_id for update;
    if not found then
        perform app.refuse_organization();
    end if;
    update app.organizations set name = p_name where id = p_organization_id;
    perform app.audit(p_organization_id, 'organization.renamed', p_details => jsonb_build_object('name', jsonb_build_object('from', v_name, 'to', p_name)));
exception
    when unique_violation then
        perform app.refuse(
            409, 'organization_name_taken', 'Another organization has this name',
            'Choose another name; api.list_organizations() lists those that are taken.');
end;
$$;

comment on function api.rename_organization(uuid, text) is 'Gives an organization another name. 400 invalid_name. 404: no such organization. 409: organization_name_taken, organization_of_clerk.';

-- The tables with rows of an organization, in the order of deletion: referencing tables first. Jobs and reports are deleted before, each as
-- a whole.
create or replace function app.tables_of_organizations() returns text[]
language sql immutable
return array['public.lookup_upload_rows', 'public.lookup_uploads', 'app.column_memory', 'public.applications', 'public.lookup_leases',
             'public.lookup_attempts', 'public.lookup_usage', 'app.usage_days', 'app.job_budgets', 'app.job_traces', 'app.job_names', 'app.known_results', 'app.known_jobs', 'app.known_organizations', 'app.customers', 'app.incentive_calls', 'app.incentive_profiles', 'app.idempotency_keys',
             'app.webhook_attempts', 'app.webhook_deliveries', 'app.webhook_secrets', 'app.webhook_configs', 'app.webhook_queue_state',
             'app.webhook_wakeups', 'app.queued_jobs', 'app.queue_wakeups', 'app.organization_queue_state', 'app.work_minutes',
             'app.report_shares', 'app.ended_changes', 'app.ended_totals', 'app.deleted_rows', 'app.recent_writes', 'app.api_key_uses', 'app.api_keys'];

-- Deletes up to p_limit rows of an organization from the tables above and returns how many; returns p_limit, too, if a row is left that was
-- changed concurrently.
create or replace function app.delete_rows_of_organization(p_organization_id uuid, p_limit integer) returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_table   text;
    v_count   integer;
    v_deleted integer := 0;
    v_is_left boolean;
begin
    foreach v_table in array app.tables_of_organizations() loop
        execute format('delete from %s where organization_id = $1 and ctid = any (array(select ctid from %1$s where organization_id = $1 limit $2))',
                       v_table::regclass)
          using p_organization_id, p_limit - v_deleted;
        get diagnostics v_count = row_count;
        v_deleted := v_deleted + v_count;
        exit when v_deleted >= p_limit;
        execute format('select exists (select from %s where organization_id = $1)', v_table::regclass) into v_is_left using p_organization_id;
        if v_is_left then
            return p_limit;
        end if;
    end loop;
    return v_deleted;
end;
$$;

-- Locks an organization that is to be deleted, however long that takes: nothing new begins for it, as a concurrent upload either comes first,
-- or waits and then finds no organization. Its keys come first, as in their rotation.
create or replace function app.lock_deleted_organization(p_organization_id uuid) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp set lock_timeout = 0
as $$
begin
    perform from app.api_keys where organization_id = p_organization_id order by id for update;
    perform from app.organizations where id = p_organization_id for update;
end;
$$;

create or replace function api.delete_organization(p_organization_id uuid, p_force boolean default false) returns json
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp set lock_timeout = '1ms'
as $$
declare
    v_rows   constant integer := 10000;
    v_open   uuid[];
    v_job_id uuid;
    v_until  timestamptz;
    v_left   integer;
    v_name   text;
begin
    perform app.check_organization(p_organization_id);
    perform app.lock_deleted_organization(p_organization_id);
    v_open := array(select id from public.batch_lookup_jobs where organization_id = p_organization_id and status in ('pending', 'processing'));
    if v_open <> '{}' and p_force is not true then
        perform app.refuse(
            409, 'organization_busy',
            format('The organization has open work: %s', app.counted(cardinality(v_open), 'batch', 'batches')),
            'Wait until it has finished, or pass p_force => true to cancel it.');
    end if;
    delete from app.api_keys where organization_id = p_organization_id;
    perform app.notify_credentials(p_organization_id);
    v_until := app.step_ends_at();
    -- Who has locked one of its rows may be waiting for the organization: such a row is left for the next call, after a millisecond, because
    -- a longer wait would look like a deadlock to the other one.
    foreach v_job_id in array v_open loop
        begin
            perform api.cancel_batch_lookup(p_organization_id, v_job_id);
        exception
            -- Or it has just ended, or been deleted.
            when lock_not_available or sqlstate 'PT409' or sqlstate 'PT404' then null;
        end;
        exit when clock_timestamp() > v_until;
    end loop;
    begin
        v_left := v_rows - (select rows from app.delete_ended_jobs(p_organization_id, 'infinity', v_rows, v_until));
        v_left := v_left - (select rows from app.delete_ended_reports(p_organization_id, 'infinity', v_left, v_until));
        if v_left > 0 and not exists (select from public.batch_lookup_jobs where organization_id = p_organization_id)
           and not exists (select from public.incentive_reports where organization_id = p_organization_id) then
            -- Its history still counts in the totals.
            perform app.complete_work_minutes('infinity', p_organization_id);
            v_left := v_left - app.delete_rows_of_organization(p_organization_id, v_left);
            if v_left > 0 then
                delete from app.organizations where id = p_organization_id returning name into v_name;
                perform app.audit(p_organization_id, 'organization.deleted', p_details => jsonb_build_object('name', v_name));
            end if;
        end if;
    exception
        when lock_not_available then null;
    end;
    return json_build_object(
        'organization_id', p_organization_id,
        'deleted', not exists (select from app.organizations where id = p_organization_id),
        'remaining_jobs', (select count(*) from public.batch_lookup_jobs where organization_id = p_organization_id));
end;
$$;

comment on function api.delete_organization(uuid, boolean) is
'Deletes an organization with all its data, about ten thousand rows per call: call it again, each time in a transaction of its own, until it returns {"deleted": true}; in psql with \watch. Its API keys stop working with the first call. p_force cancels its open batches, as many as two seconds allow; lookups in flight still end or expire first, and their batches count as remaining_jobs. Rows that another transaction has locked are left for the next call. If members of a Clerk organization return afterwards, it is created again. 404: no such organization. 409: organization_busy.';
