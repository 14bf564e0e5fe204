-- Chapter 33, reference: the lists that requests refer to, for instance to fill a form. They are the same for all organizations.

create or replace function api.list_device_categories() returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return json_build_object('device_categories', (
        select coalesce(json_agg(json_build_object(
                   'key', c.key,
                   'name', c.name,
                   'typical_cost', c.typical_cost,
                   'sizes', (select coalesce(json_agg(json_build_object('unit', s.unit, 'typical_size', s.typical_size) order by s.unit), '[]')
                               from app.device_category_sizes s
                              where s.category_key = c.key)) order by c.name, c.key), '[]')
          from app.device_categories c
         where c.retired_at is null));
end;
$$;

comment on function api.list_device_categories() is
'{device_categories: [{key, name, typical_cost, sizes: [{unit, typical_size}]}]}, by name, without retired ones. typical_cost in US dollars and typical_size in its unit are assumed where the device_facts of a lookup say nothing.';
grant execute on function api.list_device_categories() to authenticated;

create or replace function api.list_devices(p_category text default null) returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    return json_build_object('devices', (
        select coalesce(json_agg(json_build_object('id', d.id, 'name', d.name, 'category_key', c.key, 'category_name', c.name) order by d.id), '[]')
          from app.devices d
          join app.device_categories c on c.key = d.category_key
         where d.retired_at is null and (p_category is null or c.key = p_category)));
end;
$$;

comment on function api.list_devices(text) is '{devices: [{id, name, category_key, category_name}]}, by id, without retired ones: what device_ids may name where our own catalogue answers. Optional: the key of a category.';
grant execute on function api.list_devices(text) to authenticated;

create or replace function app.country_name(p_country_code text) returns text
language sql immutable
return case p_country_code when 'US' then 'United States' when 'CA' then 'Canada' end;

create or replace function api.list_regions(p_country_code text default null) returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform app.check_choice('country_code', p_country_code, array['US', 'CA']);
    return json_build_object('regions', (
        select json_agg(json_build_object(
                   'country_code', country_code,
                   'country_name', app.country_name(country_code),
                   'state_or_province_code', code,
                   'name', name) order by country_code = 'US' desc, name)
          from app.regions
         where p_country_code is null or country_code = p_country_code));
end;
$$;

comment on function api.list_regions(text) is '{regions: [{country_code, country_name, state_or_province_code, name}]}: the states, territories and military regions of the United States, then the provinces of Canada, by name. Optional: US or CA. 400: another country.';
grant execute on function api.list_regions(text) to authenticated;

create or replace function app.is_postal_code(p_text text) returns boolean
language sql immutable
return p_text ~ '^[0-9]{5}(-[0-9]{4})?$' or p_text ~* '^[ABCEGHJ-NPRSTVXY][0-9][ABCEGHJ-NPRSTV-Z] ?[0-9][ABCEGHJ-NPRSTV-Z][0-9]$';

create or replace function api.find_utilities(p_postal_code text default null) returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_country text := case when p_postal_code ~ '^[0-9]' then 'US' else 'CA' end;
begin
    if app.is_postal_code(p_postal_code) is not true then
        perform app.refuse_option('postal_code', 'a ZIP code (12345 or 12345-6789) or a Canadian postal code (A1A 1A1)');
    end if;
    return json_build_object('postal_code', p_postal_code, 'utilities', (
        select coalesce(json_agg(json_build_object(
                   'eiaid', (f.found[n]).eiaid,
                   'name', (f.found[n]).name,
                   'country_code', r.country_code,
                   'state_or_province_code', r.code) order by f.is_usual desc, r.code, n), '[]')
          from app.regions r
         cross join lateral (
               select app.find_utilities(r.country_code, r.code, p_postal_code) as found,
                      coalesce(substring(p_postal_code from '^[0-9]{3}')::integer <@ r.zip3,
                               strpos(r.postal_letters, upper(left(p_postal_code, 1))) > 0, false) as is_usual) f
         cross join lateral generate_subscripts(f.found, 1) n
         where r.country_code = v_country));
end;
$$;

comment on function api.find_utilities(text) is
'The electric utilities that serve a ZIP code or a Canadian postal code, as far as the catalogue knows: {postal_code, utilities: [{eiaid, name, country_code, state_or_province_code}]}. A lookup uses the first one in the site''s state unless its request names another; a code on a border has the utilities of both states, its own state''s first. 400 invalid_postal_code.';
grant execute on function api.find_utilities(text) to authenticated;
