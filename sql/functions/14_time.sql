-- Chapter 14, time: timestamps as clients read and write them.

create or replace function app.rfc3339(p_at timestamptz) returns text
language sql stable
return to_char(p_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"');

comment on function app.rfc3339(timestamptz) is 'RFC 3339 in UTC with milliseconds, such as 2026-11-24T09:30:00.000Z.';

-- A date such as 2026-11-24, whatever the DateStyle of the session.
create or replace function app.iso_date(p_day date) returns text
language sql stable
return to_char(p_day, 'YYYY-MM-DD');

create or replace function app.seconds(p_seconds double precision) returns interval
language sql immutable
return make_interval(secs => p_seconds);

-- A time plus an interval without days and months: the sum does not depend on the time zone, although the operator is not immutable.
create or replace function app.time_after(p_at timestamptz, p_wait interval) returns timestamptz
language sql immutable
return to_timestamp((extract(epoch from p_at) + extract(epoch from p_wait))::double precision);

-- A date (midnight UTC) or an RFC 3339 timestamp; null: neither. pyshell/api/routes/parameters.py has the same grammar.
create or replace function app.parse_timestamp(p_text text) returns timestamptz
language plpgsql immutable
set search_path = pg_catalog, pg_temp set timezone = 'UTC'
as $$
begin
    return case when p_text ~ '^\d{4}-\d\d-\d\d([Tt ]([01]\d|2[0-3])(:[0-5]\d){2}(\.\d{1,9})?([Zz]|[+-](0\d|1[0-4]):[0-5]\d))?$' then p_text::timestamptz end;
exception
    when data_exception then
        return null;
end;
$$;

-- A timestamp in a request; null if it is null or absent. Raises PT400 for anything else.
create or replace function app.read_timestamp(p_name text, p_value jsonb) returns timestamptz
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_at timestamptz := case when jsonb_typeof(p_value) = 'string' then app.parse_timestamp(p_value #>> '{}') end;
begin
    if v_at is null and p_value <> 'null' then
        perform app.refuse_option(p_name, 'a date such as 2026-05-31 or a time such as 2026-05-31T08:00:00Z');
    end if;
    return v_at;
end;
$$;

-- The lowest UUIDv7 of the millisecond.
create or replace function app.uuid_v7_floor(p_at timestamptz) returns uuid
language sql immutable
return (lpad(to_hex(floor(extract(epoch from greatest(p_at, '1970-01-01T00:00:00Z')) * 1000)::bigint), 12, '0') || '70008000000000000000')::uuid;

-- The local date at a site, by which programs begin and end: in states with several time zones, that of most of their population; at
-- military addresses, UTC.
create or replace function app.local_day(p_country_code text, p_region_code text, p_at timestamptz) returns date
language sql immutable
return (p_at at time zone case
    when p_country_code = 'US' then case
        when p_region_code in ('CA', 'NV', 'OR', 'WA') then 'America/Los_Angeles'
        when p_region_code in ('CO', 'ID', 'MT', 'NM', 'UT', 'WY') then 'America/Denver'
        when p_region_code in ('AL', 'AR', 'IA', 'IL', 'KS', 'LA', 'MN', 'MO', 'MS', 'ND', 'NE', 'OK', 'SD', 'TN', 'TX', 'WI') then 'America/Chicago'
        when p_region_code = 'AZ' then 'America/Phoenix'
        when p_region_code = 'AK' then 'America/Anchorage'
        when p_region_code = 'HI' then 'Pacific/Honolulu'
        when p_region_code = 'AS' then 'Pacific/Pago_Pago'
        when p_region_code in ('FM', 'GU', 'MP', 'PW') then 'Pacific/Guam'
        when p_region_code = 'MH' then 'Pacific/Majuro'
        when p_region_code in ('PR', 'VI') then 'America/Puerto_Rico'
        when p_region_code in ('AA', 'AE', 'AP') then 'UTC'
        else 'America/New_York' end
    else case
        when p_region_code = 'BC' then 'America/Vancouver'
        when p_region_code = 'YT' then 'America/Whitehorse'
        when p_region_code in ('AB', 'NT') then 'America/Edmonton'
        when p_region_code = 'SK' then 'America/Regina'
        when p_region_code = 'MB' then 'America/Winnipeg'
        when p_region_code in ('NB', 'NS', 'PE') then 'America/Halifax'
        when p_region_code = 'NL' then 'America/St_Johns'
        else 'America/Toronto' end end)::date;
