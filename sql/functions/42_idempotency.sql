-- Chapter 42, idempotency: requests that may be repeated without doing anything twice.

-- Registers a request under its idempotency key, if any: replayed false. Or finds the response that it got, with its status: replayed true.
create or replace function app.start_request(
    p_organization_id uuid, p_route text, p_key text, p_fingerprint bytea, out status integer, out replayed boolean, out body json
)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now     timestamptz := app.clock();
    v_expired timestamptz := v_now - interval '7 days';
    v_timeout text        := current_setting('lock_timeout');
    v_new     integer;
    v_earlier app.idempotency_keys;
begin
    replayed := false;
    if p_key is null then
        return;
    elsif p_key !~ '^[\x21-\x7e]{1,255}$' then
        perform app.refuse(400, 'invalid_idempotency_key', 'Idempotency-Key must be 1 to 255 visible ASCII characters');
    end if;
    begin
        -- The same request may be in progress: this waits briefly for its uncommitted row.
        perform set_config('lock_timeout', '200ms', true);
        insert into app.idempotency_keys as k (organization_id, route, key, fingerprint, created_at)
        values (p_organization_id, p_route, p_key, p_fingerprint, v_now)
        on conflict (organization_id, route, key) do update
           set fingerprint = excluded.fingerprint, status = null, response = null, created_at = excluded.created_at
         where k.created_at < v_expired;
        get diagnostics v_new = row_count;
        perform set_config('lock_timeout', v_timeout, true);
    exception
        when lock_not_available then
            perform app.refuse(
                409, 'request_in_progress', 'A request with this Idempotency-Key is in progress',
                'Repeat it in a moment to get its response.');
    end;

    if v_new = 0 then
        select * into v_earlier
          from app.idempotency_keys
         where organization_id = p_organization_id and route = p_route and key = p_key;
        if v_earlier.fingerprint <> p_fingerprint then
            perform app.refuse(
                422, 'idempotency_key_reused', 'This Idempotency-Key was used for another request',
                'Use a new key for each new request, and an old one only to repeat its request unchanged.');
        end if;
        status   := v_earlier.status;
        replayed := status is not null;
        body     := v_earlier.response;
    end if;
end;
$$;

-- Stores the response under the request's key, if any. A dry run may be repeated: it changes nothing, and its response may be long.
create or replace function app.end_request(p_organization_id uuid, p_route text, p_key text, p_status integer, p_response json) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_status = 200 then
        delete from app.idempotency_keys where organization_id = p_organization_id and route = p_route and key = p_key;
        return;
    end if;
    update app.idempotency_keys
       set status   = p_status,
           response = p_response
     where organization_id = p_organization_id and route = p_route and key = p_key;
end;
$$;

-- Oldest first. A key that a request has locked stays until the next run.
create or replace function app.prune_idempotency_keys(p_now timestamptz, p_limit integer default 10000) returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_before  timestamptz := p_now - interval '7 days';
    v_some    record;
    v_count   integer;
    v_deleted integer := 0;
begin
    for v_some in
        select organization_id, array_agg(route) as routes, array_agg(key) as keys
          from (select organization_id, route, key from app.idempotency_keys where created_at < v_before order by created_at limit p_limit) k
         group by organization_id
    loop
        delete from app.idempotency_keys
         where organization_id = v_some.organization_id
           and (route, key) in (select k.route, k.key
                                  from app.idempotency_keys k
                                  join unnest(v_some.routes, v_some.keys) s (route, key) on s.route = k.route and s.key = k.key
                                 where k.organization_id = v_some.organization_id and k.created_at < v_before
                                   for update of k skip locked);
        get diagnostics v_count = row_count;
        v_deleted := v_deleted + v_count;
    end loop;
    return v_deleted;
end;
$$;
