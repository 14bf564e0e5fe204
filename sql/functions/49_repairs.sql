-- Chapter 49, repairs of drafts: maps columns and words, edits cells, skips rows; then validates all rows again.

-- Locks a draft before a change.
create or replace function app.lock_draft(p_organization_id uuid, p_upload_id uuid) returns public.lookup_uploads
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_upload public.lookup_uploads;
begin
    perform from public.lookup_uploads where organization_id = p_organization_id and id = p_upload_id for update;
    v_upload := app.find_upload(p_organization_id, p_upload_id);
    if v_upload.status <> 'draft' then
        perform app.refuse(
            409, 'upload_started', 'The upload has already been started',
            format('It became the job %s.', v_upload.job_id),
            p_members => json_build_object('job_id', v_upload.job_id));
    end if;
    return v_upload;
end;
$$;

-- The columns with the changed fields: {field: name or number of its column, or null: no column has it}. Those that were ambiguous may follow
-- from these, as a city from its street.
create or replace function app.mapped_columns(p_columns jsonb, p_changes jsonb) returns jsonb
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_headers constant text[] := array(select c ->> 'header' from jsonb_array_elements(p_columns) with ordinality u (c, n) order by n);
    v_field   text;
    v_wanted  jsonb;
    v_number  integer;
    v_given   jsonb;
    v_unused  jsonb;
begin
    for v_field, v_wanted in select regexp_replace(key, '^address\.', ''), value from jsonb_each(p_changes) loop
        perform app.check_field(v_field);
        v_number := case when v_wanted <> 'null' then app.column_number(v_headers, v_wanted) end;
        p_columns := (
            select jsonb_agg(case when n = v_number then c || jsonb_build_object('field', v_field, 'how', 'given')
                                  when c ->> 'field' = v_field then c || '{"field": null, "how": "given"}' else c end order by n)
              from jsonb_array_elements(p_columns) with ordinality u (c, n));
    end loop;
    if p_changes <> '{}' and jsonb_path_exists(p_columns, '$[*] ? (@.how == "ambiguous")') then
        v_given := (select coalesce(jsonb_object_agg(key, value), '{}') from jsonb_each(p_changes) where value = 'null')
                   || (select coalesce(jsonb_object_agg(c ->> 'field', c -> 'number'), '{}') from jsonb_array_elements(p_columns) c where c ->> 'field' is not null);
        v_unused := (select coalesce(jsonb_object_agg(app.plain_name(c ->> 'header'), null::text), '{}')
                       from jsonb_array_elements(p_columns) c
                      where c ->> 'how' = 'given' and c ->> 'field' is null);
        p_columns := (
            select jsonb_agg(case when u.c ->> 'how' = 'ambiguous' then u.c || jsonb_build_object('field', f.field, 'how', f.how) else u.c end order by n)
              from jsonb_array_elements(p_columns) with ordinality u (c, n)
              join app.file_columns(v_headers, v_given, '{}', v_unused, true) with ordinality f (header, field, how, n) using (n));
    end if;
    return p_columns;
end;
$$;

-- Refuses positions that the draft does not have.
create or replace function app.check_positions(p_option text, p_upload public.lookup_uploads, p_positions integer[]) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_unknown constant integer := (select max(p) from unnest(p_positions) p where p >= p_upload.total_rows);
begin
    if v_unknown is not null then
        perform app.refuse_option(p_option, format('for rows at positions from 0 to %s, not %s', p_upload.total_rows - 1, v_unknown));
    end if;
end;
$$;

-- Replaces cells; a value of null reverts the edit.
create or replace function app.edit_upload_rows(p_upload public.lookup_uploads, p_edits jsonb) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_columns integer;
    v_column  integer;
begin
    if jsonb_typeof(p_edits) <> 'array' or jsonb_array_length(p_edits) > 10000
       or jsonb_path_exists(p_edits, 'strict $[*] ? (@.type() != "object")')
       or exists (select
                    from jsonb_array_elements(p_edits) e
                   where coalesce(e ->> 'position', '') !~ '^[0-9]{1,5}$' or coalesce(e ->> 'column', '') !~ '^[0-9]{1,3}$'
                      or coalesce(jsonb_typeof(e -> 'value'), '') not in ('string', 'null') or length(e ->> 'value') > 32768
                      or e - array['position', 'column', 'value'] <> '{}') then
        perform app.refuse_option('edits', 'an array of {"position": of the row, "column": its number, "value": a string, or null to undo the edit}');
    end if;
    perform app.check_positions('edits', p_upload, array(select (e ->> 'position')::integer from jsonb_array_elements(p_edits) e));
    v_columns := jsonb_array_length(p_upload.columns);
    select (e ->> 'column')::integer into v_column from jsonb_array_elements(p_edits) e where (e ->> 'column')::integer not between 1 and v_columns;
    if found then
        perform app.refuse_option('edits', format('for columns from 1 to %s, not %s', v_columns, v_column));
    end if;
    update public.lookup_upload_rows r
       set edits = nullif(jsonb_strip_nulls(coalesce(r.edits, '{}') || e.edits), '{}')
      from (select (e ->> 'position')::integer as position, jsonb_object_agg((e ->> 'column')::integer, e -> 'value' order by n) as edits
              from jsonb_array_elements(p_edits) with ordinality u (e, n)
             group by 1) e
     where r.organization_id = p_upload.organization_id and r.upload_id = p_upload.id and r.position = e.position;
    -- All rows are in memory when they are validated, so all edits together have the limit of a file.
    if (select sum(octet_length(edits::text)) from public.lookup_upload_rows
         where organization_id = p_upload.organization_id and upload_id = p_upload.id and edits is not null) > 20 * 1024 * 1024 then
        perform app.refuse_option('edits', 'at most 20 MB in all, including earlier ones');
    end if;
end;
$$;

-- Whether it selects rows: an array of positions, or {problem: code, field?}.
create or replace function app.names_rows(p_rows jsonb) returns boolean
language sql immutable
return case jsonb_typeof(p_rows)
    when 'array' then not jsonb_path_exists(p_rows, 'strict $[*] ? (@.type() != "number" || @ < 0 || @ > 10000 || @ % 1 != 0)')
    when 'object' then p_rows - array['problem', 'field'] = '{}' and p_rows <> '{}' and not jsonb_path_exists(p_rows, 'strict $.* ? (@.type() != "string")')
    else p_rows is null end;

create or replace function app.skip_upload_rows(p_upload public.lookup_uploads, p_rows jsonb, p_skip boolean) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_positions integer[] := case when jsonb_typeof(p_rows) = 'array' then app.integers(p_rows) end;
    v_rows      jsonb[];
    v_lines     integer[];
begin
    if v_positions is null and not p_skip then
        -- A skipped row is not judged, so its problems are found here.
        select array_agg(app.edited_cells(cells, edits) order by position), array_agg(line order by position) into v_rows, v_lines
          from public.lookup_upload_rows
         where organization_id = p_upload.organization_id and upload_id = p_upload.id;
        v_positions := array(select i.position from unnest(app.judged_rows(p_upload, v_rows, v_lines)) i
                              where app.has_problem(i.problems, p_rows ->> 'problem', p_rows ->> 'field'));
    end if;
    perform app.check_positions(case when p_skip then 'skip' else 'unskip' end, p_upload, v_positions);
    update public.lookup_upload_rows
       set is_skipped = p_skip
     where organization_id = p_upload.organization_id and upload_id = p_upload.id and is_skipped <> p_skip
       and case when v_positions is null then app.has_problem(problems, p_rows ->> 'problem', p_rows ->> 'field') else position = any (v_positions) end;
end;
$$;

-- The value maps merged with p_changes: {field: {text: value, or null to forget it}, or null to forget all}.
create or replace function app.merged_value_maps(p_value_maps jsonb, p_changes jsonb) returns jsonb
language sql immutable
return (select coalesce(jsonb_object_agg(f.field, f.map) filter (where f.map <> '{}'), '{}')
          from (select field, jsonb_strip_nulls(case when p_changes -> field = 'null' then '{}'
                                                     else coalesce(p_value_maps -> field, '{}') || coalesce(p_changes -> field, '{}') end) as map
                  from (select jsonb_object_keys(p_value_maps || p_changes)) k (field)) f);

create or replace function api.update_upload(
    p_organization_id uuid  default app.claimed_organization_id(),
    p_upload_id       uuid  default null,
    p_changes         jsonb default null
) returns json
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_upload     public.lookup_uploads;
    v_columns    constant jsonb := coalesce(nullif(p_changes -> 'columns', 'null'), '{}');
    v_defaults   constant jsonb := coalesce(nullif(p_changes -> 'defaults', 'null'), '{}');
    v_value_maps constant jsonb := coalesce(nullif(p_changes -> 'value_maps', 'null'), '{}');
    v_reuse      jsonb;
    v_now        timestamptz;
begin
    perform app.authorize(p_organization_id, 'jobs:write');
    perform app.check_members(p_changes, array['name', 'columns', 'defaults', 'value_maps', 'edits', 'skip', 'unskip', 'reuse_results']);
    v_upload := app.lock_draft(p_organization_id, p_upload_id);
    v_reuse := app.spending_options(p_changes);
    if jsonb_typeof(p_changes -> 'name') not in ('string', 'null') or btrim(p_changes ->> 'name') = '' or length(p_changes ->> 'name') > 200 then
        perform app.refuse_option('name', 'a string of 1 to 200 characters');
    elsif jsonb_typeof(v_columns) <> 'object'
          or jsonb_path_exists(v_columns, 'strict $.* ? (@.type() != "string" && @.type() != "number" && @.type() != "null")') then
        perform app.refuse_option('columns', 'an object of fields and their columns, by name or by number, or null');
    elsif jsonb_typeof(v_defaults) <> 'object' or jsonb_path_exists(v_defaults, 'strict $.* ? (@.type() == "object")')
          or v_defaults - app.file_fields() <> '{}' then
        perform app.refuse_option('defaults', 'an object of fields and their values');
    elsif jsonb_typeof(v_value_maps) <> 'object' or jsonb_path_exists(v_value_maps, 'strict $.* ? (@.type() != "object" && @.type() != "null")')
          or jsonb_path_exists(v_value_maps, '$.* ? (@.type() == "object").* ? (@.type() == "object")')
          or v_value_maps - array['country_code', 'state_or_province_code', 'building_type', 'device_ids'] <> '{}' then
        perform app.refuse_option('value_maps', '{field: {text: value}} for country_code, state_or_province_code, building_type or device_ids');
    elsif not app.names_rows(p_changes -> 'skip') then
        perform app.refuse_option('skip', 'an array of positions of rows, or {"problem": a code, "field": ...}');
    elsif not app.names_rows(p_changes -> 'unskip') then
        perform app.refuse_option('unskip', 'an array of positions of rows, or {"problem": a code, "field": ...}');
    end if;

    perform app.check_given_values(v_upload.defaults || v_defaults, v_value_maps);
    v_upload.columns := app.mapped_columns(v_upload.columns, v_columns);
    update public.lookup_uploads
       set name       = case when p_changes ? 'name' then p_changes ->> 'name' else name end,
           columns    = v_upload.columns,
           defaults   = jsonb_strip_nulls(defaults || v_defaults),
           value_maps = app.merged_value_maps(value_maps, v_value_maps),
           reuse_days = case when p_changes ? 'reuse_results' then (v_reuse ->> 'reuse_days')::integer else reuse_days end
     where organization_id = p_organization_id and id = p_upload_id
    returning * into v_upload;
    if octet_length(v_upload.value_maps::text) > 65536 then
        perform app.refuse_option('value_maps', 'at most 64 KB in all');
    end if;
    if p_changes ? 'edits' then
        perform app.edit_upload_rows(v_upload, p_changes -> 'edits');
    end if;
    v_now := app.clock();
    if p_changes ? 'skip' then
        if jsonb_typeof(p_changes -> 'skip') = 'object' and p_changes ?| array['columns', 'defaults', 'value_maps', 'edits'] then
            -- What these changes repair is not skipped.
            v_upload := app.judge_upload(p_organization_id, p_upload_id, v_now);
        end if;
        perform app.skip_upload_rows(v_upload, p_changes -> 'skip', true);
    end if;
    if p_changes ? 'unskip' then
        perform app.skip_upload_rows(v_upload, p_changes -> 'unskip', false);
    end if;
    -- Which results are known may have changed since.
    if p_changes - 'name' = '{}' and v_upload.reuse_days is null then
        update public.lookup_uploads set updated_at = v_now where organization_id = p_organization_id and id = p_upload_id returning * into v_upload;
        return app.upload_json(v_upload);
    end if;
    return app.upload_json(app.judge_upload(p_organization_id, p_upload_id, v_now));
end;
$$;

comment on function api.update_upload(uuid, uuid, jsonb) is
'Changes a draft, checks all its rows again, and returns it as api.create_upload does. p_changes may have these members; what is not named stays as it is:

- name
- columns: {field: name or number of its column, or null: no column has it}.
- defaults: {field: value or null}, at most 2,048 bytes in all; for reference_id a text such as row-{line}, with the line of the row.
- value_maps: {field: {text in the file: value or null}} for country_code, state_or_province_code, building_type and device_ids, such as {"building_type": {"Single family": "RESIDENTIAL"}}.
- edits: [{position, column, value}], at most 20 MB for a draft in all; value null undoes an edit.
- skip, unskip: an array of positions, or {problem: code, field?}, for the rows with that problem after the other changes.
- reuse_results: {max_age_days}, or null for none.

404 upload_not_found. 409 upload_started. 400: unknown_fields, invalid_columns, invalid_defaults, invalid_default_reference_id, invalid_value_maps, invalid_edits, invalid_skip, invalid_unskip, invalid_name, invalid_reuse_results.';
grant execute on function api.update_upload(uuid, uuid, jsonb) to authenticated;
