-- Chapter 10, foundation: ids, the clock, the form of timestamps and errors, the settings.

create or replace function app.clock() returns timestamptz
language sql volatile
return clock_timestamp();

comment on function app.clock() is 'The one place where the time is read; tests replace it.';

-- RFC 9562: 48 bits of Unix milliseconds, then version and variant, the rest random.
create or replace function app.uuid_v7(p_at timestamptz default null) returns uuid
language plpgsql volatile
set search_path = ''
as $$
declare
    v_milliseconds text := lpad(to_hex(floor(extract(epoch from coalesce(p_at, app.clock())) * 1000)::bigint), 12, '0');
begin
    return left(v_milliseconds, 8) || '-' || right(v_milliseconds, 4) || '-7' || substr(gen_random_uuid()::text, 16);
end;
$$;

comment on function app.uuid_v7(timestamptz) is 'A time-ordered UUID (version 7) of the time given, else of now.';

-- Ids made together, in the order of their numbers: 14 bits of counter after the milliseconds, then the random bits of the first one (RFC
-- 9562, 6.2, method 1). In order, they fill an index from the left to the right instead of everywhere at once.
create or replace function app.numbered_uuid_v7(p_first uuid, p_number integer) returns uuid
language sql immutable
return (left(p_first::text, 15) || lpad(to_hex(p_number >> 2 & 4095), 3, '0') || '-' || to_hex(8 + (p_number & 3))
        || substr(p_first::text, 21))::uuid;

comment on function app.numbered_uuid_v7(uuid, integer) is 'A UUID of the same millisecond as p_first; those of greater numbers, up to 16383, come later.';

create or replace function app.rfc3339(p_at timestamptz) returns text
language sql stable
return to_char(p_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"');

comment on function app.rfc3339(timestamptz) is 'RFC 3339 in UTC with milliseconds, such as 2026-11-24T09:30:00.000Z.';

create or replace function app.seconds(p_seconds double precision) returns interval
language sql immutable
return make_interval(secs => p_seconds);

create or replace function app.check_page(p_limit integer, p_offset integer, p_max_limit integer) returns void
language plpgsql immutable
set search_path = ''
as $$
begin
    if p_limit is null or p_limit not between 1 and p_max_limit then
        raise sqlstate 'PT400' using
            message    = format('limit must be from 1 to %s', p_max_limit),
            constraint = 'invalid_limit';
    elsif p_offset is null or p_offset < 0 then
        raise sqlstate 'PT400' using message = 'offset must be 0 or more', constraint = 'invalid_offset';
    end if;
end;
$$;

-- A cursor is opaque to clients: what it holds may change.
create or replace function app.cursor(p_mark app.page_mark) returns text
language sql stable
return translate(encode(convert_to(json_strip_nulls(to_json(p_mark))::text, 'UTF8'), 'base64'), E'+/=\n', '-_');

-- What a cursor holds. It must be of the same order as the list; null where there is none.
create or replace function app.read_cursor(p_cursor text, p_sort text) returns app.page_mark
language plpgsql stable
set search_path = ''
as $$
declare
    v_mark   app.page_mark;
    v_base64 text := translate(p_cursor, '-_', '+/');
begin
    if p_cursor is null then
        return null;
    end if;
    v_mark := jsonb_populate_record(null::app.page_mark, convert_from(decode(v_base64 || repeat('=', -length(v_base64) & 3), 'base64'), 'UTF8')::jsonb);
    if v_mark.sort is distinct from p_sort then
        raise data_exception;
    end if;
    return v_mark;
exception
    when data_exception or statement_too_complex then
        raise sqlstate 'PT404' using
            message    = 'cursor is not the next_cursor of this list in this order',
            constraint = 'invalid_cursor';
end;
$$;

create or replace function app.check_choice(p_name text, p_value text, p_choices text[]) returns void
language plpgsql immutable
set search_path = ''
as $$
begin
    if p_value is not null and p_value <> all (p_choices) then
        raise sqlstate 'PT400' using
            message    = format('%s must be one of %s', p_name, array_to_string(p_choices, ', ')),
            constraint = 'invalid_' || p_name;
    end if;
end;
$$;

-- What is asked for in a JSON object: members that are known, of the right form.
create or replace function app.refuse_option(p_name text, p_form text) returns void
language plpgsql volatile
set search_path = ''
as $$
begin
    raise sqlstate 'PT400' using message = format('%s must be %s', p_name, p_form), constraint = 'invalid_' || p_name;
end;
$$;

create or replace function app.check_members(p_request jsonb, p_known text[]) returns void
language plpgsql immutable
set search_path = ''
as $$
declare
    v_unknown text;
begin
    if jsonb_typeof(p_request) is distinct from 'object' then
        raise sqlstate 'PT400' using message = 'The body must be a JSON object', constraint = 'object_required';
    end if;
    v_unknown := (select string_agg(left(k, 100), ', ') from (select jsonb_object_keys(p_request - p_known) limit 10) u (k));
    if v_unknown is not null then
        raise sqlstate 'PT400' using message = format('Unknown fields: %s', v_unknown), constraint = 'unknown_fields';
    end if;
end;
$$;

create or replace function api.get_settings() returns json
language plpgsql stable security definer
set search_path = ''
as $$
begin
    return (select to_jsonb(s) - array['singleton', 'internal_key'] from app.settings s)::json;
end;
$$;

comment on function api.get_settings() is 'The settings as one object; units are in the names, and in the comments of app.settings.';

create or replace function api.update_settings(p_changes jsonb) returns json
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_unknown text[];
    v_now     timestamptz := app.clock();
begin
    if jsonb_typeof(p_changes) is distinct from 'object' then
        raise sqlstate 'PT400' using message = 'The changes must be a JSON object of settings', constraint = 'invalid_settings';
    end if;
    v_unknown := array(select jsonb_object_keys(p_changes) except select json_object_keys(api.get_settings()));
    if v_unknown <> '{}' or p_changes ? 'updated_at' then
        raise sqlstate 'PT400' using
            message    = format('Unknown settings: %s', array_to_string(v_unknown || array(select 'updated_at' where p_changes ? 'updated_at'), ', ')),
            hint       = 'api.get_settings() lists them all.',
            constraint = 'unknown_setting';
    end if;

    update app.settings s
       set (lookups_per_second, max_in_flight, max_retries, retry_backoff_seconds, retry_backoff_max_seconds,
            lookup_timeout_seconds, lease_seconds, max_response_bytes, items_per_run, create_clerk_organizations,
            incentive_call_retention_days, outage_failures, outage_patience_seconds, deduplicate_seconds, max_open_items, requests_per_minute,
            job_retention_days, updated_at)
         = (select n.lookups_per_second, n.max_in_flight, n.max_retries, n.retry_backoff_seconds, n.retry_backoff_max_seconds,
                   n.lookup_timeout_seconds, n.lease_seconds, n.max_response_bytes, n.items_per_run, n.create_clerk_organizations,
                   n.incentive_call_retention_days, n.outage_failures, n.outage_patience_seconds, n.deduplicate_seconds, n.max_open_items,
                   n.requests_per_minute, n.job_retention_days, v_now
              from jsonb_populate_record(s, p_changes) n);
    -- A slower pace's far-off slot must not hold up a faster one.
    update app.upstream_state set next_slot_at = least(next_slot_at, v_now);
    perform pg_notify('batch_lookups_ready', '');
    return api.get_settings();
exception
    when check_violation or not_null_violation or invalid_text_representation or numeric_value_out_of_range then
        raise sqlstate 'PT400' using
            message    = format('A setting has a value that is not allowed: %s', sqlerrm),
            constraint = 'invalid_settings';
end;
$$;

comment on function api.update_settings(jsonb) is 'Changes the settings named in the object, such as {"lookups_per_second": 50}, and answers all of them. Effective at once, without a restart. 400: an unknown setting, a value out of range.';

create or replace function api.internal_key() returns text
language plpgsql stable security definer
set search_path = ''
as $$
begin
    return (select internal_key from app.settings);
end;
$$;

comment on function api.internal_key() is 'The secret that the worker and the API of this database share when no SERVICE_ROLE_KEY is set.';

create or replace function api.applied_migrations() returns json
language plpgsql stable security definer
set search_path = ''
as $$
begin
    return (select coalesce(json_agg(json_build_object('name', m.name, 'checksum', m.checksum) order by m.name), '[]')
              from app.schema_migrations m);
end;
$$;

comment on function api.applied_migrations() is 'The migrations that this database has: [{name, checksum}], with the SHA-256 of each file.';
