-- Chapter 63, labels: given with an upload, shown with its job, and a filter for lists of jobs.

create or replace function app.check_labels(p_labels jsonb) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if coalesce(p_labels, 'null') <> 'null' and (jsonb_typeof(p_labels) <> 'object' or exists (
           select
             from jsonb_each(case jsonb_typeof(p_labels) when 'object' then p_labels end) with ordinality l (key, value, n)
            where l.n > 16 or l.key !~ '^[A-Za-z0-9._~/-]{1,64}$' or jsonb_typeof(l.value) <> 'string'
               or length(l.value #>> '{}') not between 1 and 256)) then
        perform app.refuse_option('labels', 'an object of at most 16 strings: keys of 1 to 64 characters of A-Z, a-z, 0-9 and . _ ~ / -, values of 1 to 256 characters');
    end if;
end;
$$;

create or replace function app.store_labels(p_organization_id uuid, p_job_id uuid, p_labels jsonb) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into public.batch_lookup_job_labels (organization_id, job_id, key, value)
    select p_organization_id, p_job_id, l.key, l.value from jsonb_each_text(p_labels) l;
end;
$$;

-- Not from the index of values alone: between those of a job it has all labels of the organization, which the planner, going by the mean of
-- all organizations, underestimates.
create or replace function app.labels_json(p_organization_id uuid, p_job_id uuid) returns json
language plpgsql stable
set search_path = pg_catalog, pg_temp set enable_indexonlyscan = off
as $$
begin
    return (select coalesce(json_object_agg(key, value order by key), '{}')
              from public.batch_lookup_job_labels
             where organization_id = p_organization_id and job_id = p_job_id);
end;
$$;

-- The jobs that have all of the labels; null: no labels are given.
create or replace function app.jobs_with_labels(p_organization_id uuid, p_labels jsonb) returns uuid[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    perform app.check_labels(p_labels);
    if coalesce(p_labels, '{}') in ('{}', 'null') then
        return null;
    end if;
    return array(
        select f.job_id
          from jsonb_each_text(p_labels) w
         cross join lateral (
               select l.job_id
                 from public.batch_lookup_job_labels l
                where l.organization_id = p_organization_id and l.key = w.key and l.value = w.value
               offset 0) f
         group by f.job_id
        having count(*) = (select count(*) from jsonb_object_keys(p_labels)));
end;
$$;
