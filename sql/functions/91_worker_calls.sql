-- Chapter 91, worker calls: on Supabase, pg_cron and pg_net can call POST /functions/v1/batch-lookups-worker instead of a worker process.
-- Nothing is scheduled until api.schedule_worker_calls is called.

create or replace function app.check_worker_calls() returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_missing text[] := array(select e from unnest(array['pg_cron', 'pg_net', 'supabase_vault']) with ordinality x (e, n)
                               where not app.has_extension(e, (array['cron', 'net', 'vault'])[n]));
begin
    if v_missing <> '{}' then
        perform app.refuse(
            501, 'extensions_missing', format('This database lacks %s', array_to_string(v_missing, ', ')),
            'Supabase has these extensions; elsewhere run a worker: python -m pyshell worker.');
    end if;
end;
$$;

create or replace function app.keep_secret(p_name text, p_secret text) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_id uuid;
begin
    select id into v_id from vault.secrets where name = p_name;
    if v_id is null then
        perform vault.create_secret(p_secret, p_name);
    else
        perform vault.update_secret(v_id, p_secret);
    end if;
end;
$$;

-- Run by the schedule. It sends nothing if there is no work, and does not wait for the response. A call during a run does not start a
-- second one.
create or replace function app.call_worker() returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_url text;
    v_key text;
begin
    if not exists (select 1 from app.organization_queue_state where ready_at <= app.clock())
       and not exists (select 1 from app.queue_wakeups where ready_at <= app.clock())
       and not exists (select 1 from app.webhook_queue_state where ready_at <= app.clock())
       and not exists (select 1 from app.webhook_wakeups where ready_at <= app.clock()) then
        return null;
    end if;
    select decrypted_secret into v_url from vault.decrypted_secrets where name = 'batch_lookups_worker_url';
    select decrypted_secret into v_key from vault.decrypted_secrets where name = 'batch_lookups_service_role_key';
    return net.http_post(
        url                  := v_url,
        body                 := '{}'::jsonb,
        headers              := jsonb_build_object('content-type', 'application/json', 'authorization', 'Bearer ' || v_key,
                                                   'x-supabase-internal', 'true', 'prefer', 'respond-async'),
        timeout_milliseconds := 5000);
end;
$$;

create or replace function api.schedule_worker_calls(p_url text, p_service_role_key text, p_schedule text default '* * * * *') returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform app.check_worker_calls();
    if p_url is null or p_url !~ '^https?://[^/ ]+/' or p_service_role_key is null or p_service_role_key = '' then
        perform app.refuse(
            400, 'invalid_worker_url', 'The URL of the worker endpoint and the service role key are required',
            'The URL looks like https://api.example.com/functions/v1/batch-lookups-worker.');
    end if;
    perform app.keep_secret('batch_lookups_worker_url', p_url);
    perform app.keep_secret('batch_lookups_service_role_key', p_service_role_key);
    perform cron.schedule('batch-lookups-worker', p_schedule, 'select app.call_worker()');
end;
$$;

comment on function api.schedule_worker_calls(text, text, text) is
'On Supabase: lets pg_cron call POST p_url with pg_net whenever there is work, by default every minute; newer versions of pg_cron take 10 seconds too. Each call runs at most items_per_run items (api.update_settings). URL and key are kept in Vault. Call it again to change them. 400: an invalid URL. 501: pg_cron, pg_net or Vault is missing.';

create or replace function api.unschedule_worker_calls() returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform app.check_worker_calls();
    perform cron.unschedule(jobid) from cron.job where jobname = 'batch-lookups-worker';
    delete from vault.secrets where name in ('batch_lookups_worker_url', 'batch_lookups_service_role_key');
end;
$$;

comment on function api.unschedule_worker_calls() is 'Removes the schedule of api.schedule_worker_calls with its URL and key. 501: pg_cron, pg_net or Vault is missing.';
