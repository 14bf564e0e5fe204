-- Chapter 48, sources: the columns or metadata of an upload are returned with the results, in their order and under their names.

-- The names made non-empty and distinct from each other and from `p_taken`, regardless of case: a clashing name gets the label or a number.
create or replace function app.distinct_names(p_names text[], p_taken text[] default '{}', p_label text default null) returns text[]
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_names text[] := '{}';
    v_taken text[] := array(select lower(t) from unnest(p_taken) t);
    v_given text[] := array(select lower(n) from unnest(p_names) n);
    -- By name, the last number assigned: 500 columns may have the same name.
    v_last  jsonb  := '{}';
    v_name  text;
    v_next  text;
    v_times integer;
begin
    for v_number in 1 .. cardinality(p_names) loop
        v_name := coalesce(nullif(btrim(p_names[v_number]), ''), 'Column ' || v_number);
        v_next := v_name;
        v_times := coalesce((v_last ->> lower(v_name))::integer, 1);
        while lower(v_next) = any (v_taken) or v_times > 1 and lower(v_next) = any (v_given) loop
            v_times := v_times + 1;
            v_next := format('%s (%s)', v_name, case when p_label is null then v_times::text
                                                     else concat_ws(' ', p_label, nullif(v_times - 1, 1)) end);
        end loop;
        if v_times > 1 then
            v_last := v_last || jsonb_build_object(lower(v_name), v_times);
        end if;
        v_names := v_names || v_next;
        v_taken := v_taken || lower(v_next);
    end loop;
    return v_names;
end;
$$;

-- Whether a file has more than our result columns under our names; if not, only the order of its columns is kept.
create or replace function app.has_own_columns(p_columns jsonb) returns boolean
language sql immutable
return exists (select from jsonb_array_elements(p_columns) c
                where c ->> 'header' <> '' and (c ->> 'field' is distinct from c ->> 'header' or c ->> 'field' <> all (app.result_columns())));

-- The members of the metadata of all items, in order of first occurrence.
create or replace function app.metadata_names(p_sources jsonb[]) returns text[]
language sql immutable
return array(
    select k.name
      from unnest(p_sources) with ordinality s (metadata, n)
     cross join jsonb_object_keys(case when jsonb_typeof(s.metadata) = 'object' then s.metadata else '{}' end) with ordinality k (name, place)
     group by k.name
     order by min(array[s.n, k.place]));

-- Stores the sources of the items of a new job. p_items: all items uploaded; those with problems are not stored. p_sources: the source of
-- each, or null, or null for all: only the order of the columns is kept. p_header: the columns of the file; null: the sources are metadata.
create or replace function app.store_sources(
    p_organization_id uuid, p_job_id uuid, p_items app.batch_item[], p_header text[], p_sources jsonb[]
) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_is_stored boolean[] := array(select i.problems is null from unnest(p_items) i order by i.position);
    v_header    text[]    := coalesce(p_header, app.metadata_names(p_sources));
begin
    if v_header = '{}' then
        return;
    elsif cardinality(v_header) > 500 then
        perform app.refuse(
            400, 'too_many_columns',
            format('The metadata of all items has %s different members; a batch may have 500', cardinality(v_header)));
    end if;
    perform app.check_column_names(v_header);
    insert into public.lookup_job_columns (organization_id, job_id, header, names, has_cells)
    values (p_organization_id, p_job_id, v_header, case when p_header is null then v_header else app.distinct_names(v_header) end, p_sources is not null);
    insert into public.lookup_item_sources (organization_id, job_id, position, cells)
    select p_organization_id, p_job_id, s.position, s.cells
      from (select u.cells, row_number() over (order by u.n) - 1 as position
              from unnest(v_is_stored, p_sources) with ordinality u (is_stored, cells, n)
             where u.is_stored) s
     where s.cells <> 'null';
end;
$$;

-- Copies to the items of a new job the sources of items of another one, at these positions.
create or replace function app.copy_sources(p_organization_id uuid, p_job_id uuid, p_from_job_id uuid, p_positions integer[]) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into public.lookup_job_columns (organization_id, job_id, header, names, has_cells)
    select p_organization_id, p_job_id, header, names, has_cells
      from public.lookup_job_columns
     where organization_id = p_organization_id and job_id = p_from_job_id;
    if not found then
        return;
    end if;
    insert into public.lookup_item_sources (organization_id, job_id, position, cells)
    select p_organization_id, p_job_id, p.n - 1, s.cells
      from unnest(p_positions) with ordinality p (position, n)
      join public.lookup_item_sources s on s.organization_id = p_organization_id and s.job_id = p_from_job_id and s.position = p.position;
end;
$$;

-- A text for each column, null where the item has none.
create or replace function app.source_cells(p_names text[], p_cells jsonb) returns text[]
language sql immutable
return array(
    select case jsonb_typeof(s.cells) when 'array' then s.cells ->> (n.number - 1)::integer else s.cells ->> n.name end
      from (select app.fetched(p_cells) as cells offset 0) s
     cross join unnest(p_names) with ordinality n (name, number)
     order by n.number);

-- The source of an item as one object, in the order of the columns.
create or replace function app.source_json(p_names text[], p_cells jsonb) returns json
language sql immutable
return case jsonb_typeof(p_cells)
    when 'array' then (select json_object_agg(n.name, s.cells -> (n.number - 1)::integer order by n.number)
                         from (select app.fetched(p_cells) as cells offset 0) s
                        cross join unnest(p_names) with ordinality n (name, number))
    else p_cells::json end;

-- Whether a cell of an item's source, or a member of its metadata, contains the text, case-insensitively.
create or replace function app.source_contains(p_cells jsonb, p_text text) returns boolean
language sql immutable
return strpos(lower((select string_agg(c.text, E'\n')
                       from jsonb_array_elements_text(case jsonb_typeof(p_cells) when 'array' then p_cells else jsonb_path_query_array(p_cells, '$.*') end) c (text))),
              lower(p_text)) > 0;

-- The header of the results: the original columns of the file, then ours. If the file had only columns of ours, these come first, in its
-- order.
create or replace function app.result_header(p_columns public.lookup_job_columns) returns text[]
language sql stable
as $$
    select case
        when p_columns.has_cells then p_columns.header || app.distinct_names(app.result_columns(), p_columns.header, 'lookup')
        when p_columns.header is null then app.result_columns()
        else p_columns.header || array(select c.name from unnest(app.result_columns()) with ordinality c (name, n) where c.name <> all (p_columns.header) order by c.n) end
$$;

-- The order of our columns in that header, as places in app.result_columns; null: in their own order.
create or replace function app.result_order(p_columns public.lookup_job_columns) returns integer[]
language sql stable
as $$
    select case when not p_columns.has_cells then array(
        select array_position(app.result_columns(), h.name) from unnest(app.result_header(p_columns)) with ordinality h (name, n) order by h.n) end
$$;

-- Columns that stay text in a workbook: ours except the numbers, and those of a file whose values only look like numbers, such as ZIP
-- codes, ids and telephone numbers.
create or replace function app.text_columns(p_columns public.lookup_job_columns) returns boolean[]
language sql stable
as $$
    select array(
        select case when p_columns.has_cells and h.n <= cardinality(p_columns.header)
                    then h.name ~* '(^|[^a-z])(ids?|no|nr|num|number|nummer|numero|code|phone|tel|fax|mobile|key|sku|ref|reference|account|parcel|apn|meter)[^a-z]*$'
                         or app.column_name(h.name) in (select k.name from app.known_columns(array(select app.column_name(c) from unnest(p_columns.header) c)) k)
                    else h.name not like all (array['utility_eiaid%', 'eligible%', 'total_incentive_amount%', 'retry_count%',
                                               'conditional_incentive_amount%']) end
          from unnest(app.result_header(p_columns)) with ordinality h (name, n)
         order by h.n)
$$;
