-- Chapter 32, warnings about the catalogue: programs that have ended, and what looks like a mistake in the source. It changes nothing.

create or replace function app.tier_warnings(p_date date, p_days integer) returns table (warning text, program_id text, tier_id text, explanation text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    with tier as (
        select t.*, p.catalogue, d.cost,
               t.amount * case t.amount_type when 'percent' then d.cost / 100 when 'per_unit' then coalesce(s.size, 1) else 1 end as value
          from app.program_tiers t
          join app.programs p on p.id = t.program_id and p.retired_at is null
         cross join lateral (select max(c.typical_cost) as cost from app.device_categories c where c.key = any (t.category_keys)) d
         cross join lateral (select max(z.typical_size) as size
                               from app.device_category_sizes z
                              where z.category_key = any (t.category_keys) and z.unit = t.unit) s
    )
    select 'ended', t.program_id, t.id, format('on %s', app.iso_date(t.end_date)) from tier t where t.end_date < p_date
     union all
    select 'ends soon', t.program_id, t.id, format('on %s', app.iso_date(t.end_date)) from tier t where p_days > 0 and t.end_date between p_date and p_date + p_days
     union all
    select 'not started', t.program_id, t.id, format('starts on %s', app.iso_date(t.start_date)) from tier t where t.start_date > p_date
     union all
    select 'pays nothing', t.program_id, t.id, 'the amount is 0' from tier t where t.amount = 0
     union all
    select 'has no typical size', t.program_id, t.id, format('%s has none for %s', c.key, t.unit)
      from tier t
     cross join unnest(t.category_keys) c (key)
     where t.unit is not null and not exists (select from app.device_category_sizes z where z.category_key = c.key and z.unit = t.unit)
     union all
    select 'pays less than 1 percent', t.program_id, t.id, format('%s is a percentage, not a fraction', f.value)
      from tier t
     cross join lateral (select least(case t.amount_type when 'percent' then nullif(t.amount, 0) end, t.cap_percent) as value) f
     where f.value < 1
     union all
    select 'pays more than the device costs', t.program_id, t.id, format('%s of a typical cost of %s', app.dollars(round(t.value)), app.dollars(t.cost))
      from tier t
     where least(t.value, t.cap, t.shared_cap) > t.cost and t.cap_percent is null
     union all
    select 'pays all without a cap', t.program_id, t.id, '100% of the cost, whatever it is'
      from tier t
     where t.amount_type = 'percent' and least(t.amount, t.cap_percent) = 100 and t.cap is null and t.shared_cap is null
     union all
    select 'never pays its amount', t.program_id, t.id, format('%s is capped at %s', app.dollars(t.amount), app.dollars(least(t.cap, t.shared_cap)))
      from tier t
     where t.amount_type = 'flat' and least(t.cap, t.shared_cap) < t.amount;
end;
$$;

create or replace function app.program_warnings(p_date date) returns table (warning text, program_id text, tier_id text, explanation text)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select 'has no offer', p.id, null, 'no tier says what it pays'
      from app.programs p
     where p.retired_at is null and not exists (select from app.program_tiers t where t.program_id = p.id)
     union all
    select 'has no customers', p.id, null, 'none of its utilities is in the catalogue any more'
      from app.programs p
     where p.retired_at is null and p.scope = 'utility'
       and not exists (select
                         from app.program_utilities a
                         join app.utilities u on u.key = a.utility_key and u.retired_at is null
                        where a.program_id = p.id)
     union all
    select 'names a retired utility', p.id, null, format('%s is no longer in the catalogue', string_agg(u.key, ', ' order by u.key))
      from app.programs p
      join app.program_utilities a on a.program_id = p.id
      join app.utilities u on u.key = a.utility_key and u.retired_at is not null
     where p.retired_at is null and p.scope = 'utility'
       and exists (select
                     from app.program_utilities o
                     join app.utilities k on k.key = o.utility_key and k.retired_at is null
                    where o.program_id = p.id)
     group by p.id
     union all
    select 'names a retired category', t.program_id, t.id, format('%s is no longer in the catalogue', string_agg(c.key, ', ' order by c.key))
      from app.program_tiers t
      join app.programs p on p.id = t.program_id and p.retired_at is null
      join app.device_categories c on c.key = any (t.category_keys) and c.retired_at is not null
     group by t.program_id, t.id
     union all
    select 'reaches no address', p.id, null, 'none of its utilities serves a postal code'
      from app.programs p
     where p.retired_at is null and p.scope = 'utility'
       and exists (select
                     from app.program_utilities a
                     join app.utilities u on u.key = a.utility_key and u.retired_at is null
                    where a.program_id = p.id)
       and not exists (select
                         from app.program_utilities a
                         join app.utilities u on u.key = a.utility_key and u.retired_at is null
                         join app.utility_service_areas s on s.utility_key = u.key
                        where a.program_id = p.id)
     union all
    select 'is old', p.id, null, format('its facts are of %s', app.iso_date(p.source_date))
      from app.programs p
     where p.retired_at is null and p.source_date < p_date - 730;
end;
$$;

create or replace function api.find_catalogue_warnings(p_days integer default 0, p_name text default null) returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_date date := (app.clock() at time zone 'UTC')::date;
begin
    if p_days is null or p_days not between 0 and 3650 then
        perform app.refuse_option('days', 'a whole number from 0 to 3650');
    end if;
    return (
        select coalesce(json_agg(json_build_object('warning', d.warning, 'program_id', d.program_id, 'tier_id', d.tier_id, 'catalogue', p.catalogue,
                                                   'explanation', d.explanation) order by d.warning, d.program_id, d.tier_id), '[]')
          from (select * from app.tier_warnings(v_date, p_days) union all select * from app.program_warnings(v_date)) d
          join app.programs p on p.id = d.program_id
         where p_name is null or p.catalogue = p_name);
end;
$$;

comment on function api.find_catalogue_warnings(integer, text) is
'Programs and offers that have ended or look wrong, in one catalogue or in all: [{warning, program_id, tier_id, catalogue, explanation}], such as "ended" or "pays more than the device costs". p_days above 0: also offers that end within this many days, today included ("ends soon"). tier_id null: it concerns the whole program. 400 invalid_days.';
