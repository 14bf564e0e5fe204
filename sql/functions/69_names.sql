-- Chapter 69, names: finds jobs by a part of their name. An index holds every pair of adjacent characters of each name, by organization,
-- and each pair of the search text must occur in the name. So few jobs need to be compared, unless many have such a name.

-- Every pair of adjacent characters in a name, case-insensitively, as one number: 20 bits of the organization, so that the index of all
-- organizations keeps them apart, and both code points, of 21 bits each.
create or replace function app.name_parts(p_organization_id uuid, p_name text) returns bigint[]
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_characters text[] := string_to_array(lower(p_name), null);
    v_bits       bigint := ('x' || right(p_organization_id::text, 5))::bit(20)::bigint << 42;
begin
    return array(select distinct v_bits | (ascii(c.first)::bigint << 21) | ascii(c.second)
                   from unnest(v_characters, v_characters[2:]) c (first, second)
                  where c.second is not null);
end;
$$;

create or replace function app.keep_name(p_organization_id uuid, p_job_id uuid, p_name text) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_parts bigint[];
begin
    if p_name is not null then
        v_parts := app.name_parts(p_organization_id, p_name);
        insert into app.job_names (organization_id, job_id, parts) values (p_organization_id, p_job_id, v_parts) on conflict do nothing;
    end if;
end;
$$;

-- Whether the names of all jobs of an organization are indexed.
create or replace function app.keeps_names(p_organization_id uuid) returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return exists (select from app.job_names
                    where organization_id = p_organization_id and job_id = '00000000-0000-0000-0000-000000000000');
end;
$$;

-- The jobs whose names have these parts; null: there are more than p_limit.
create or replace function app.jobs_with_parts(p_organization_id uuid, p_parts bigint[], p_limit integer) returns uuid[]
language plpgsql stable
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan set enable_seqscan = off set enable_indexscan = off
as $$
declare
    v_ids uuid[] := array(select n.job_id
                            from app.job_names n
                           where n.organization_id = p_organization_id and n.parts @> p_parts
                           limit p_limit + 1);
begin
    return case when cardinality(v_ids) <= p_limit then v_ids end;
end;
$$;

-- The jobs whose names may contain the text, including false positives; null: look at all. That is as fast if many contain it, judging by
-- the newest jobs, and the only way for a single character, or before all names of the organization are indexed.
create or replace function app.jobs_named(p_organization_id uuid, p_name text, p_limit integer default 1000) returns uuid[]
language plpgsql stable
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan set enable_seqscan = off
as $$
declare
    v_parts  bigint[] := app.name_parts(p_organization_id, p_name);
    v_common bigint;
begin
    if v_parts = '{}' or not app.keeps_names(p_organization_id) then
        return null;
    end if;
    select count(*) into v_common
      from (select j.name
              from public.batch_lookup_jobs j
             where j.organization_id = p_organization_id
             order by j.created_at desc, j.id desc
             limit 50) n
     where strpos(lower(n.name), lower(p_name)) > 0;
    return case when v_common < 10 then app.jobs_with_parts(p_organization_id, v_parts, p_limit) end;
end;
$$;

-- Indexes up to p_limit names that are not indexed yet; once there are no more, records that.
create or replace function app.keep_names(p_organization_id uuid, p_limit integer default 5000) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp set enable_seqscan = off
as $$
declare
    v_count integer := 0;
    v_job   record;
begin
    if app.keeps_names(p_organization_id) then
        return;
    end if;
    for v_job in
        select j.id, j.name
          from public.batch_lookup_jobs j
         where j.organization_id = p_organization_id and j.name is not null
           and not exists (select from app.job_names n where n.organization_id = p_organization_id and n.job_id = j.id)
         limit p_limit
    loop
        perform app.keep_name(p_organization_id, v_job.id, v_job.name);
        v_count := v_count + 1;
    end loop;
    if v_count < p_limit then
        insert into app.job_names (organization_id, job_id, parts)
        values (p_organization_id, '00000000-0000-0000-0000-000000000000', '{}')
            on conflict do nothing;
    end if;
end;
$$;
