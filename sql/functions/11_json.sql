-- Chapter 11, JSON: checks requests, joins and orders responses.

-- Concatenates the members of two non-empty objects, in order.
create or replace function app.join_objects(p_first json, p_second json) returns json
language sql immutable
return (left(p_first::text, -1) || ', ' || substr(p_second::text, 2))::json;

-- Raises every error that a caller is meant to see: the SQLSTATE is PT and the HTTP status, as PostgREST has it. The code is in the
-- constraint's name and, because PostgREST drops that, in DETAIL, before the further members of the body.
create or replace function app.refuse(p_status integer, p_code text, p_message text, p_hint text default null, p_members json default null) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_detail text := concat_ws(', ', left(json_build_object('code', p_code)::text, -1), nullif(substr(p_members::text, 2), '}'))
                     || case when coalesce(p_members::text, '{}') = '{}' then '}' else '' end;
begin
    if p_hint is null then
        raise exception using errcode = 'PT' || p_status, message = p_message, detail = v_detail, constraint = p_code;
    end if;
    raise exception using errcode = 'PT' || p_status, message = p_message, detail = v_detail, constraint = p_code, hint = p_hint;
end;
$$;

comment on function app.refuse(integer, text, text, text, json) is 'Raises an error for the caller: its HTTP status, its code, which names what happened, and what the body holds besides. It never returns.';
-- Functions that run with the caller's rights refuse requests, too.
grant execute on function app.refuse(integer, text, text, text, json) to batch_lookups_shell, authenticated, service_role;

-- Whether it contains a number that PostgreSQL writes with very many digits: 131,072 for 1e131071, which takes a few bytes as jsonb.
create or replace function app.small_has_extreme_number(p_value jsonb) returns boolean
language sql immutable
return jsonb_path_exists(p_value, 'strict $.** ? (@.type() == "number" && (@ > 1e15 || @ < -1e15 || @ != 0 && @ > -1e-30 && @ < 1e-30))');

-- The same for jsonb. A jsonpath comparison keeps some 600 bytes per number until it has seen the last one, so large values are taken
-- apart. The value must not be deeply nested.
create or replace function app.has_extreme_number(p_value jsonb) returns boolean
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if pg_column_size(p_value) > 16384 and jsonb_typeof(p_value) = 'object' then
        return exists (select from jsonb_each(p_value) m where app.has_extreme_number(m.value));
    elsif pg_column_size(p_value) > 16384 and jsonb_typeof(p_value) = 'array' then
        return exists (
            select
              from jsonb_array_elements(p_value) e (value)
             where case when pg_column_size(e.value) <= 16384 then app.small_has_extreme_number(e.value) else app.has_extreme_number(e.value) end);
    end if;
    return app.small_has_extreme_number(p_value);
end;
$$;

-- Checks what a client sends before any of it becomes text: most parsers fail on deep nesting, too. pyshell/api/json_bodies.py refuses the
-- same before it reaches the database.
create or replace function app.check_json(p_value jsonb, p_max_bytes integer default null) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if jsonb_path_exists(p_value, 'strict $.**{65}') then
        perform app.refuse(400, 'body_too_complex', 'The body is nested more than 64 levels deep');
    elsif app.has_extreme_number(p_value) then
        perform app.refuse(
            400, 'number_out_of_range', 'The body contains a number that is out of range',
            'Numbers may have at most 15 digits before the point.');
    elsif pg_column_size(p_value) > p_max_bytes then
        perform app.refuse(413, 'body_too_large', format('The body may have at most %s bytes', to_char(p_max_bytes, 'FM999,999,990')));
    end if;
end;
$$;

create or replace function app.check_members(p_request jsonb, p_known text[]) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if jsonb_typeof(p_request) is distinct from 'object' then
        perform app.refuse(400, 'invalid_body', 'The body must be a JSON object');
    end if;
    perform app.check_json(p_request);
    perform app.refuse_unknown_members(p_request, p_known);
end;
$$;

create or replace function app.refuse_unknown_members(p_request jsonb, p_known text[]) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_unknown constant text := (select string_agg(left(k, 100), ', ') from (select jsonb_object_keys(p_request - p_known) limit 10) u (k));
begin
    if v_unknown is not null then
        perform app.refuse(400, 'unknown_fields', format('Unknown fields: %s', v_unknown), format('The fields are %s.', array_to_string(p_known, ', ')));
    end if;
end;
$$;

-- Checks of a request: known members of the right form.
create or replace function app.refuse_option(p_name text, p_form text) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    perform app.refuse(400, 'invalid_' || p_name, format('%s must be %s', p_name, p_form));
end;
$$;

create or replace function app.check_choice(p_name text, p_value text, p_choices text[]) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_value is not null and p_value <> all (p_choices) then
        perform app.refuse(400, 'invalid_' || p_name, format('%s must be one of %s', p_name, array_to_string(p_choices, ', ')));
    end if;
end;
$$;

create or replace function app.check_strings(p_name text, p_value jsonb) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if jsonb_typeof(p_value) not in ('array', 'null')
       or jsonb_typeof(p_value) = 'array' and (jsonb_array_length(p_value) not between 1 and 100
                                               or jsonb_path_exists(p_value, 'strict $[*] ? (@.type() != "string")')) then
        perform app.refuse_option(p_name, 'an array of 1 to 100 strings');
    end if;
end;
$$;

-- Readers of a response of unknown form: an amount that is not a number or out of bounds counts as missing.
create or replace function app.amount(p_value jsonb) returns numeric
language sql immutable
return case when jsonb_typeof(p_value) = 'number' and p_value::numeric >= 0 and p_value::numeric < 1e12 then round(p_value::numeric, 2) else 0.00 end;

create or replace function app.elements(p_value jsonb) returns jsonb
language sql immutable
return case when jsonb_typeof(p_value) = 'array' then p_value else '[]' end;

-- A JSON array of strings as text[]; null: anything else.
create or replace function app.text_array(p_value jsonb) returns text[]
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if jsonb_typeof(p_value) is distinct from 'array' or exists (select from jsonb_array_elements(p_value) e where jsonb_typeof(e) <> 'string') then
        return null;
    end if;
    return array(select distinct e from jsonb_array_elements_text(p_value) e order by e);
end;
$$;

-- The integers of a JSON array, which may be written as 30.0; null: it has none.
create or replace function app.integers(p_array jsonb) returns integer[]
language sql immutable
return case when p_array is not null then array(select e::integer from jsonb_array_elements(p_array) with ordinality u (e, n) order by n) end;

-- The members of our responses, in an order that suits all of them.
create or replace function app.member_order() returns text[]
language sql immutable
return array[
    'id', 'organization_id', 'job_id', 'item_id', 'status', 'total_items', 'processed_items', 'failed_items', 'report_id', 'created_at',
    'started_at', 'completed_at', 'item_counts', 'pending', 'processing', 'completed', 'failed', 'customer_id', 'reference_id', 'address',
    'street_1', 'street_2', 'city', 'state_or_province_code', 'postal_code', 'country_code', 'building_type', 'device_ids', 'result',
    'utility', 'eiaid', 'name', 'possible_utilities', 'programs_evaluated', 'incentives', 'total_incentive_amount',
    'total_eligible_combinations', 'by_program', 'program_id', 'program_name', 'total_incentive', 'eligible_combinations',
    'device_tier_results', 'device_id', 'device_name', 'tier_id', 'tier_name', 'eligible', 'incentive_amount', 'calculation_details',
    'failed_requirements', 'ignored_requirements', 'completed_requirements', 'connect_url', 'upstream', 'error_code', 'error_message',
    'processed_at', 'webhook_custom_fields'];

-- The same value with known members of objects in their documented order and unknown ones after them. Slow: only for single values that
-- were stored as jsonb.
create or replace function app.in_documented_order(p_value jsonb) returns json
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return case jsonb_typeof(p_value)
        when 'object' then (select coalesce(json_object_agg(m.key, app.in_documented_order(m.value)
                                                            order by array_position(app.member_order(), m.key), m.ordinality), '{}')
                              from jsonb_each(p_value) with ordinality m)
        when 'array' then (select coalesce(json_agg(app.in_documented_order(e.value) order by e.ordinality), '[]')
                             from jsonb_array_elements(p_value) with ordinality e)
        else p_value::json end;
end;
$$;

-- The same value, but in memory: PostgreSQL fetches a long value of a table, and decompresses it, each time that a part of it is read. The
-- query that calls this needs an `offset 0`, or it would be computed each time, too.
create or replace function app.fetched(p_value jsonb) returns jsonb
language sql immutable
return case jsonb_typeof(p_value) when 'array' then p_value || '[]' when 'object' then p_value || '{}' else p_value end;
