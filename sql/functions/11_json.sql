-- Chapter 11, JSON: checks requests, joins and orders responses.

-- The members of both objects in their order; neither object is empty.
create or replace function app.join_objects(p_first json, p_second json) returns json
language sql immutable
return (left(p_first::text, -1) || ', ' || substr(p_second::text, 2))::json;

-- PostgreSQL writes 1e131071, which takes a few bytes as jsonb, with 131,072 digits: what a client sends must pass here before anything
-- becomes text.
create or replace function app.check_numbers(p_value jsonb) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if jsonb_path_exists(p_value, 'strict $.** ? (@.type() == "number" && (@ > 1e15 || @ < -1e15 || @ != 0 && @ > -1e-30 && @ < 1e-30))') then
        raise sqlstate 'PT400' using
            message    = 'The body contains a number that is out of range',
            hint       = 'Numbers may have at most 15 digits before the point.',
            constraint = 'number_out_of_range';
    end if;
end;
$$;

create or replace function app.check_members(p_request jsonb, p_known text[]) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_unknown text;
begin
    if jsonb_typeof(p_request) is distinct from 'object' then
        raise sqlstate 'PT400' using message = 'The body must be a JSON object', constraint = 'invalid_body';
    end if;
    perform app.check_numbers(p_request);
    v_unknown := (select string_agg(left(k, 100), ', ') from (select jsonb_object_keys(p_request - p_known) limit 10) u (k));
    if v_unknown is not null then
        raise sqlstate 'PT400' using message = format('Unknown fields: %s', v_unknown), constraint = 'unknown_fields';
    end if;
end;
$$;

-- Checks of a request: known members of the right form.
create or replace function app.refuse_option(p_name text, p_form text) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    raise sqlstate 'PT400' using message = format('%s must be %s', p_name, p_form), constraint = 'invalid_' || p_name;
end;
$$;

create or replace function app.check_choice(p_name text, p_value text, p_choices text[]) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_value is not null and p_value <> all (p_choices) then
        raise sqlstate 'PT400' using
            message    = format('%s must be one of %s', p_name, array_to_string(p_choices, ', ')),
            constraint = 'invalid_' || p_name;
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
                                               or jsonb_path_exists(p_value, '$[*] ? (@.type() != "string")')) then
        perform app.refuse_option(p_name, 'an array of 1 to 100 strings');
    end if;
end;
$$;

-- Readers of an answer of unknown form: an amount that is no number or out of bounds counts as missing.
create or replace function app.amount(p_value jsonb) returns numeric
language sql immutable
return case when jsonb_typeof(p_value) = 'number' and p_value::numeric >= 0 and p_value::numeric < 1e12 then round(p_value::numeric, 2) else 0.00 end;

create or replace function app.elements(p_value jsonb) returns jsonb
language sql immutable
return case when jsonb_typeof(p_value) = 'array' then p_value else '[]' end;

-- A JSON array of strings as text[]; null: it is something else.
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

-- The members of our responses, in an order that is right for every one of them.
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

-- The same value with known members of objects in their documented order, and unknown ones after them. Slow: only for single values that
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
