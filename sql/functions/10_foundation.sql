-- Chapter 10, foundation: ids, the clock, the settings.

create or replace function app.clock() returns timestamptz
language sql volatile
return clock_timestamp();

comment on function app.clock() is 'The one place where the time is read; tests replace it.';

-- Such as "1 worker" and "2 workers".
create or replace function app.counted(p_count numeric, p_one text, p_many text) returns text
language sql immutable
return p_count || ' ' || case p_count when 1 then p_one else p_many end;

-- RFC 9562: 48 bits of Unix milliseconds, then version and variant, the rest random.
create or replace function app.uuid_v7(p_at timestamptz default null) returns uuid
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_milliseconds text := lpad(to_hex(floor(extract(epoch from coalesce(p_at, app.clock())) * 1000)::bigint), 12, '0');
begin
    return left(v_milliseconds, 8) || '-' || right(v_milliseconds, 4) || '-7' || substr(gen_random_uuid()::text, 16);
end;
$$;

comment on function app.uuid_v7(timestamptz) is 'A time-ordered UUID (version 7) of the given time; default: now.';

-- Ids that are created together, in the order of their numbers: a 14-bit counter after the milliseconds, then the random bits of the first
-- one (RFC 9562, 6.2, method 1). In this order they fill an index from left to right.
create or replace function app.numbered_uuid_v7(p_first uuid, p_number integer) returns uuid
language sql immutable
return (left(p_first::text, 15) || lpad(to_hex(p_number >> 2 & 4095), 3, '0') || '-' || to_hex(8 + (p_number & 3))
        || substr(p_first::text, 21))::uuid;

comment on function app.numbered_uuid_v7(uuid, integer) is 'A UUID of the same millisecond as p_first; greater numbers, up to 16383, sort later.';

create or replace function api.get_settings() returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return (select to_jsonb(s) - array['singleton', 'internal_key'] from app.settings s)::json;
end;
$$;

comment on function api.get_settings() is 'The settings as one object; units are in the names, and in the comments of app.settings.';

-- What the type and the check of a setting allow, such as "a whole number from 1 to 10000".
create or replace function app.setting_form(p_name text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_setting record;
begin
    select format_type(a.atttypid, null) as type, not a.attnotnull as is_nullable,
           (regexp_match(pg_get_constraintdef(c.oid), '>=? \(?([0-9.]+)'))[1] as least,
           (regexp_match(pg_get_constraintdef(c.oid), '<=? \(?([0-9.]+)'))[1] as greatest
      into v_setting
      from pg_attribute a
      left join pg_constraint c on c.conrelid = a.attrelid and c.conname = format('settings_%s_check', p_name)
     where a.attrelid = 'app.settings'::regclass and a.attname = p_name;
    return case v_setting.type when 'boolean' then 'true or false' when 'integer' then 'a whole number' else 'a number' end
           || coalesce(format(' from %s to ', v_setting.least) || v_setting.greatest, ' above ' || v_setting.least, '')
           || case when v_setting.is_nullable then ', or null' else '' end;
end;
$$;

-- The first change whose value does not have the type of its setting; null: none.
create or replace function app.unreadable_setting(p_changes jsonb) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_name text;
begin
    for v_name in select jsonb_object_keys(p_changes) loop
        perform jsonb_populate_record(null::app.settings, jsonb_build_object(v_name, p_changes -> v_name));
    end loop;
    return null;
exception
    when data_exception then
        return v_name;
end;
$$;

create or replace function api.update_settings(p_changes jsonb) returns json
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_unknown text[];
    v_now     timestamptz := app.clock();
    v_before  jsonb;
    v_new     app.settings;
    v_column  text;
    v_check   text;
    v_name    text;
begin
    if jsonb_typeof(p_changes) is distinct from 'object' then
        perform app.refuse(400, 'invalid_settings', 'The changes must be a JSON object of settings');
    end if;
    v_unknown := array(select jsonb_object_keys(p_changes) except select json_object_keys(api.get_settings()));
    if v_unknown <> '{}' or p_changes ? 'updated_at' then
        perform app.refuse(
            400, 'unknown_setting',
            format('Unknown settings: %s', array_to_string(v_unknown || array(select 'updated_at' where p_changes ? 'updated_at'), ', ')),
            'api.get_settings() lists them all.');
    end if;

    select * into v_new from app.settings for update;
    v_before := to_jsonb(v_new);
    v_new := jsonb_populate_record(v_new, p_changes);
    update app.settings
       set (lookups_per_second, max_in_flight, max_retries, retry_backoff_seconds, retry_backoff_max_seconds,
            lookup_timeout_seconds, lease_seconds, max_response_bytes, items_per_run, create_clerk_organizations,
            incentive_call_retention_days, outage_failures, max_outage_wait_seconds, deduplicate_seconds, max_open_items, requests_per_minute,
            job_retention_days, report_retention_days, record_all_attempts, attempt_retention_days, audit_retention_days,
            organization_requests_per_minute, max_api_keys, upload_retention_days,
            max_open_uploads, updated_at)
         = (v_new.lookups_per_second, v_new.max_in_flight, v_new.max_retries, v_new.retry_backoff_seconds, v_new.retry_backoff_max_seconds,
            v_new.lookup_timeout_seconds, v_new.lease_seconds, v_new.max_response_bytes, v_new.items_per_run, v_new.create_clerk_organizations,
            v_new.incentive_call_retention_days, v_new.outage_failures, v_new.max_outage_wait_seconds, v_new.deduplicate_seconds,
            v_new.max_open_items, v_new.requests_per_minute, v_new.job_retention_days, v_new.report_retention_days, v_new.record_all_attempts,
            v_new.attempt_retention_days, v_new.audit_retention_days, v_new.organization_requests_per_minute, v_new.max_api_keys,
            v_new.upload_retention_days, v_new.max_open_uploads, v_now);
    perform app.audit(app.installation_id(), 'settings.changed', p_details => app.differences(v_before, api.get_settings()::jsonb - 'updated_at'));
    perform pg_notify('batch_lookups_ready', '');
    return api.get_settings();
exception
    when check_violation or not_null_violation or invalid_text_representation or numeric_value_out_of_range then
        -- Another node of a cluster passes on only the message, without the names.
        get stacked diagnostics v_column = column_name, v_check = constraint_name;
        v_name := coalesce(nullif(v_column, ''), substring(coalesce(nullif(v_check, ''), sqlerrm) from 'settings_([a-z_]+)_check'),
                           app.unreadable_setting(p_changes), substring(sqlerrm from '"([a-z_]+)"'));
        perform app.refuse(
            400, 'invalid_settings', format('%s must be %s', v_name, app.setting_form(v_name)),
            (select col_description(attrelid, attnum) from pg_attribute where attrelid = 'app.settings'::regclass and attname = v_name));
        return null;
end;
$$;

comment on function api.update_settings(jsonb) is 'Changes the settings named in the object, such as {"lookups_per_second": 50}, and returns all of them. Takes effect immediately, without a restart. 400: an unknown setting, a value out of range.';

create or replace function api.internal_key() returns text
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return (select internal_key from app.settings);
end;
$$;

comment on function api.internal_key() is 'The secret that the worker and the API of this database share when no SERVICE_ROLE_KEY is set.';

create or replace function api.applied_migrations() returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return (select coalesce(json_agg(json_build_object('name', m.name, 'checksum', m.checksum) order by m.name), '[]')
              from app.schema_migrations m);
end;
$$;

comment on function api.applied_migrations() is 'The migrations that this database has: [{name, checksum}], with the SHA-256 of each file.';
