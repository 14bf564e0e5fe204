-- Chapter 49, drafts: a file is kept as it came, judged by the rules for every upload as often as it changes, and started as a batch.

create or replace function app.find_upload(p_organization_id uuid, p_upload_id uuid) returns public.lookup_uploads
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_upload public.lookup_uploads;
begin
    select * into v_upload
      from public.lookup_uploads
     where organization_id = p_organization_id and id = p_upload_id and expires_at > app.clock();
    if not found then
        perform app.refuse(404, 'upload_not_found', 'Upload not found');
    end if;
    return v_upload;
end;
$$;

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

create or replace function app.upload_summary_json(p_upload public.lookup_uploads) returns json
language sql stable
return json_build_object(
    'id', p_upload.id,
    'name', p_upload.name,
    'status', p_upload.status,
    'job_id', p_upload.job_id,
    'created_at', app.rfc3339(p_upload.created_at),
    'updated_at', app.rfc3339(p_upload.updated_at),
    'expires_at', app.rfc3339(p_upload.expires_at),
    'total_rows', p_upload.total_rows,
    'valid_rows', p_upload.valid_rows,
    'invalid_rows', p_upload.invalid_rows,
    'skipped_rows', p_upload.skipped_rows,
    'warning_rows', p_upload.warning_rows);

-- The fields that every item needs and that neither a column nor a default gives.
create or replace function app.missing_fields(p_columns jsonb, p_defaults jsonb) returns text[]
language sql immutable
return array(
    select f.field
      from unnest(app.required_fields()) with ordinality f (field, n)
     where not p_defaults ? f.field and not jsonb_path_exists(p_columns, '$[*] ? (@.field == $field)', jsonb_build_object('field', f.field))
     order by f.n);

create or replace function app.upload_json(p_upload public.lookup_uploads) returns json
language sql stable
return app.join_objects(app.upload_summary_json(p_upload), json_build_object(
    'columns', (select json_agg(json_build_object('number', c -> 'number', 'header', c -> 'header', 'field', c -> 'field', 'how', c -> 'how',
                                                  'samples', c -> 'samples') order by n)
                  from jsonb_array_elements(p_upload.columns) with ordinality u (c, n)),
    'missing_fields', app.missing_fields(p_upload.columns, p_upload.defaults),
    'defaults', p_upload.defaults,
    'value_maps', p_upload.value_maps,
    'problem_groups', p_upload.problem_groups,
    'warning_groups', p_upload.warning_groups,
    'notes', (select coalesce(json_agg(json_build_object('code', u -> 'code', 'message', u -> 'message') order by n), '[]')
                from jsonb_array_elements(p_upload.notes) with ordinality x (u, n)),
    'estimate', json_build_object('lookups', p_upload.valid_rows, 'seconds', app.estimated_seconds(p_upload.organization_id, p_upload.valid_rows))));

-- The cells with what was edited in them.
create or replace function app.edited_cells(p_cells jsonb, p_edits jsonb) returns jsonb
language sql immutable
return case when p_edits is null then p_cells else (
    select jsonb_agg(coalesce(p_edits -> n::text, p_cells -> (n - 1), '""') order by n)
      from generate_series(1, greatest(jsonb_array_length(p_cells), (select max(k::integer) from jsonb_object_keys(p_edits) k))) n) end;

-- The draft as p_file of api.create_batch_lookup: all of it, or the rows that are not skipped.
create or replace function app.upload_file(p_upload public.lookup_uploads, p_with_skipped boolean) returns jsonb
language sql stable
return (
    select jsonb_build_object(
               'header_row', 1,
               'rows', jsonb_build_array(jsonb_path_query_array(p_upload.columns, '$[*].header')) || coalesce(r.rows, '[]'),
               'lines', '[0]' || coalesce(r.lines, '[]'),
               'columns', (select jsonb_object_agg(f.field, c.it -> 'number')
                             from unnest(app.file_fields()) f (field)
                             left join jsonb_array_elements(p_upload.columns) c (it) on c.it ->> 'field' = f.field),
               'defaults', p_upload.defaults,
               'value_maps', p_upload.value_maps,
               'notes', p_upload.notes)
      from (select jsonb_agg(app.edited_cells(cells, edits) order by position) as rows, jsonb_agg(line order by position) as lines
              from public.lookup_upload_rows
             where organization_id = p_upload.organization_id and upload_id = p_upload.id and (p_with_skipped or not is_skipped)) r);

-- Writes what was found out about the rows, where it differs. Whatever the statistics of a table say that is filled in one transaction and
-- read in the same, ten thousand rows are not compared with as many items one by one.
create or replace function app.note_rows(p_organization_id uuid, p_upload_id uuid, p_noted app.batch_item[]) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp set jit = off set enable_nestloop = off
as $$
begin
    update public.lookup_upload_rows r
       set problems = j.problems,
           warnings = j.warnings
      from (select w.position, i.problems, i.details as warnings
              from public.lookup_upload_rows w
              left join unnest(p_noted) i on i.position = w.position
             where w.organization_id = p_organization_id and w.upload_id = p_upload_id
               and (w.problems is distinct from i.problems or w.warnings is distinct from i.details)) j
     where r.organization_id = p_organization_id and r.upload_id = p_upload_id and r.position = j.position;
end;
$$;

-- Judges all rows again, by the rules for every upload, and writes what differs.
create or replace function app.judge_upload(p_organization_id uuid, p_upload_id uuid, p_now timestamptz) returns public.lookup_uploads
language plpgsql volatile
set search_path = pg_catalog, pg_temp set jit = off
as $$
declare
    v_upload  public.lookup_uploads := app.find_upload(p_organization_id, p_upload_id);
    v_file    record;
    v_items   app.batch_item[];
    v_noted   app.batch_item[];
    v_skipped integer[] := array(select position from public.lookup_upload_rows
                                  where organization_id = p_organization_id and upload_id = p_upload_id and is_skipped);
    v_invalid integer;
begin
    v_file := app.read_file(null, app.upload_file(v_upload, true), true);
    v_items := array(select i from app.parse_batch_items(v_file.items, v_upload.check_devices) i);
    if v_skipped <> '{}' then
        v_items := array(select i from unnest(v_items) i where i.position <> all (v_skipped));
    end if;
    v_items := app.marked_items(v_items, v_file.warnings, v_file.problems, true);
    v_noted := app.noted_items(v_items);
    v_invalid := (select count(*) from unnest(v_noted) where problems is not null);

    perform app.note_rows(p_organization_id, p_upload_id, v_noted);
    update public.lookup_uploads
       set valid_rows     = cardinality(v_items) - v_invalid,
           invalid_rows   = v_invalid,
           skipped_rows   = cardinality(v_skipped),
           warning_rows   = app.count_warned(v_noted),
           problem_groups = app.problem_groups(v_noted, false, v_file.lines, v_file.places),
           warning_groups = app.problem_groups(v_noted, true, v_file.lines, v_file.places),
           updated_at     = p_now
     where organization_id = p_organization_id and id = p_upload_id
    returning * into v_upload;
    return v_upload;
end;
$$;

-- Items in JSON as a table, {rows, columns}: a column for each field that is required or that any item has, and one for each further member,
-- such as those of metadata. The columns are as app.file_layout has them.
create or replace function app.items_as_file(p_items jsonb) returns jsonb
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_fields constant text[] := app.file_fields();
    v_items  jsonb[];
    v_names  text[];
    v_rows   jsonb;
begin
    v_items := array(
        select coalesce((select jsonb_object_agg(case when m.key = any (v_fields) then 'metadata.' || m.key else m.key end, m.value)
                           from jsonb_each(case jsonb_typeof(i.item -> 'metadata') when 'object' then i.item -> 'metadata' else '{}' end) m), '{}')
               || case jsonb_typeof(i.item) when 'object' then i.item - array['address', 'metadata'] else '{}' end
               || case jsonb_typeof(i.item -> 'address') when 'object' then i.item -> 'address' else '{}' end
          from jsonb_array_elements(p_items) with ordinality i (item, n)
         order by i.n);
    v_names := array(
        select k.name
          from (select m.name, min(array[i.n, m.n]) as place
                  from unnest(v_items) with ordinality i (item, n)
                 cross join jsonb_object_keys(i.item) with ordinality m (name, n)
                 group by m.name
                 union all
                select f, null from unnest(app.required_fields()) f where not exists (select from unnest(v_items) i where i ? f)) k (name, place)
         order by array_position(v_fields, k.name), k.place);
    v_rows := (select jsonb_agg((select jsonb_agg(coalesce(nullif(i.item -> u.name, 'null'), '""') order by u.n)
                                   from unnest(v_names) with ordinality u (name, n)) order by i.n)
                 from unnest(v_items) with ordinality i (item, n));
    return jsonb_build_object(
        'columns', (select jsonb_agg(jsonb_build_object('number', n, 'header', name, 'field', case when name = any (v_fields) then name end,
                                                        'how', case when name = any (v_fields) then 'name' end,
                                                        'samples', app.column_samples(v_rows, 1, n::integer)) order by n)
                      from unnest(v_names) with ordinality u (name, n)),
        'rows', v_rows);
end;
$$;

-- Refuses a further draft of an organization that has as many as it may have.
create or replace function app.check_open_uploads(p_organization_id uuid, p_now timestamptz) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_max  constant integer := (select max_open_uploads from app.settings);
    v_open integer;
begin
    perform app.serialize_uploads(p_organization_id);
    v_open := (select count(*) from public.lookup_uploads
                where organization_id = p_organization_id and status = 'draft' and expires_at > p_now);
    if v_open >= v_max then
        perform app.refuse(
            409, 'too_many_open_uploads', format('The organization has %s drafts already', v_open),
            'Start or delete one of them.',
            p_members => json_build_object('open_uploads', v_open, 'max_open_uploads', v_max));
    end if;
end;
$$;

create or replace function app.check_upload_name(p_name text) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if btrim(p_name) = '' or length(p_name) > 200 then
        perform app.refuse_option('name', 'a string of 1 to 200 characters');
    end if;
end;
$$;

-- A new draft of a table: p_rows are its rows from p_first on up to p_last, with the lines that belong to them.
create or replace function app.store_upload(
    p_upload public.lookup_uploads, p_rows jsonb, p_first integer, p_last integer, p_lines integer[]
) returns json
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_count constant integer := (select count(*) from jsonb_array_elements(p_rows) with ordinality r (cells, n)
                                  where r.n between p_first and p_last and r.cells <> '[]');
begin
    if v_count not between 1 and 10000 then
        perform app.refuse(
            400, 'invalid_item_count', format('A batch must have 1 to 10,000 items; this one has %s', to_char(v_count, 'FM999,999,990')));
    end if;
    p_upload.id         := app.uuid_v7(p_upload.created_at);
    p_upload.total_rows := v_count;
    p_upload.expires_at := p_upload.created_at + make_interval(days => (select upload_retention_days from app.settings));
    insert into public.lookup_uploads
           (organization_id, id, name, columns, defaults, value_maps, notes, check_devices, total_rows, created_at, updated_at, expires_at)
    values (p_upload.organization_id, p_upload.id, p_upload.name, p_upload.columns, p_upload.defaults, p_upload.value_maps, p_upload.notes,
            p_upload.check_devices, p_upload.total_rows, p_upload.created_at, p_upload.created_at, p_upload.expires_at);
    insert into public.lookup_upload_rows (organization_id, upload_id, position, line, cells)
    select p_upload.organization_id, p_upload.id, (row_number() over (order by r.n) - 1)::integer,
           coalesce(p_lines[r.n], row_number() over (order by r.n))::integer, r.cells
      from jsonb_array_elements(p_rows) with ordinality r (cells, n)
     where r.n between p_first and p_last and r.cells <> '[]'
     order by r.n;
    return app.upload_json(app.judge_upload(p_upload.organization_id, p_upload.id, p_upload.created_at));
end;
$$;

create or replace function app.create_upload(
    p_organization_id uuid, p_request jsonb, p_check_devices boolean, p_name text, p_file jsonb
) returns json
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now    constant timestamptz := app.clock();
    v_lines  constant integer[]   := translate(p_file ->> 'lines', '[]', '{}')::integer[];
    v_upload public.lookup_uploads;
    v_layout record;
    v_file   jsonb;
begin
    perform app.check_upload_name(p_name);
    perform app.check_file(p_file);
    perform app.check_open_uploads(p_organization_id, v_now);
    v_upload.organization_id := p_organization_id;
    v_upload.name            := p_name;
    v_upload.check_devices   := coalesce(p_check_devices, true);
    v_upload.created_at      := v_now;
    v_upload.defaults        := coalesce(p_file -> 'defaults', '{}');
    if p_file -> 'rows' is null then
        v_file := app.items_as_file(app.batch_request_items(p_request));
        v_upload.columns    := v_file -> 'columns';
        v_upload.notes      := coalesce(p_file -> 'notes', '[]');
        v_upload.value_maps := '{}';
        return app.store_upload(v_upload, v_file -> 'rows', 1, jsonb_array_length(v_file -> 'rows'), v_lines);
    end if;
    v_layout := app.file_layout(p_file, true, app.remembered_fields(p_organization_id));
    v_upload.columns    := coalesce(v_layout.columns, '[]');
    v_upload.notes      := v_layout.notes;
    v_upload.value_maps := app.remembered_values(p_organization_id, v_upload.columns) || coalesce(p_file -> 'value_maps', '{}');
    return app.store_upload(v_upload, p_file -> 'rows', v_layout.header_row + 1, v_layout.last_row, v_lines);
end;
$$;

create or replace function app.remembered_fields(p_organization_id uuid) returns jsonb
language sql stable
return (select coalesce(jsonb_object_agg(name, field), '{}') from app.column_memory where organization_id = p_organization_id);

-- What the organization said of the words in these columns: {field: {text: value}}.
create or replace function app.remembered_values(p_organization_id uuid, p_columns jsonb) returns jsonb
language sql stable
return (select coalesce(jsonb_object_agg(c ->> 'field', m.values), '{}')
          from jsonb_array_elements(p_columns) c
          join app.column_memory m on m.organization_id = p_organization_id and m.name = app.plain_name(c ->> 'header')
         where c ->> 'field' is not null and m.values <> '{}');

-- Remembers what was said of the columns of a draft, of the 1,000 columns that were used last.
create or replace function app.remember_columns(p_upload public.lookup_uploads, p_now timestamptz) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into app.column_memory as m (organization_id, name, field, values, used_at)
    select distinct on (name) p_upload.organization_id, name, field, values, p_now
      from (select app.plain_name(c ->> 'header') as name, c ->> 'field' as field, c ->> 'how' as how,
                   coalesce(p_upload.value_maps -> (c ->> 'field'), '{}') as values
              from jsonb_array_elements(p_upload.columns) c) u
     where name <> '' and (how in ('given', 'remembered') or values <> '{}')
     order by name, field
    on conflict (organization_id, name) do update
       set field = excluded.field, values = excluded.values, used_at = excluded.used_at;
    delete from app.column_memory
     where organization_id = p_upload.organization_id
       and name in (select name from app.column_memory where organization_id = p_upload.organization_id
                     order by used_at desc, name offset 1000);
end;
$$;

create or replace function api.create_upload(
    p_organization_id uuid    default app.claimed_organization_id(),
    p_request         jsonb   default null,
    p_check_devices   boolean default true,
    p_name            text    default null,
    p_file            jsonb   default null
) returns json
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform app.authorize(p_organization_id, 'jobs:write');
    perform app.check_organization(p_organization_id);
    perform app.check_json(v) from unnest(array[p_request, p_file]) v;
    return app.create_upload(p_organization_id, p_request, p_check_devices, p_name, p_file);
end;
$$;

comment on function api.create_upload(uuid, jsonb, boolean, text, jsonb) is
'Keeps a file as a draft, to be looked through, repaired and started. p_request or p_file as for api.create_batch_lookup, but nothing in the rows is refused: what is wrong is listed, and columns that are missing or ambiguous wait to be named. Columns and values that the organization named when it started an earlier draft are taken over (how: remembered). Returns {id, name, status, job_id, created_at, updated_at, expires_at, total_rows, valid_rows, invalid_rows, skipped_rows, warning_rows, columns: [{number, header, field, how, samples}], missing_fields, defaults, value_maps, problem_groups, warning_groups: [{field, code, count, examples}], notes, estimate: {lookups, seconds}}. 400: invalid_item_count, items_missing, invalid_p_file, invalid_columns, invalid_name. 409 too_many_open_uploads: see the setting max_open_uploads.';
grant execute on function api.create_upload(uuid, jsonb, boolean, text, jsonb) to authenticated;

create or replace function api.list_uploads(
    p_organization_id uuid    default app.claimed_organization_id(),
    p_status          text    default null,
    p_limit           integer default 20,
    p_offset          integer default 0,
    p_cursor          text    default null
) returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan set jit = off
as $$
declare
    v_now     constant timestamptz := app.clock();
    v_cursor  app.page_cursor;
    v_uploads public.lookup_uploads[];
begin
    perform app.authorize(p_organization_id, 'jobs:read');
    perform app.check_choice('status', p_status, array['draft', 'started']);
    v_cursor := app.read_page(p_cursor, 'uploads', p_limit, p_offset, 200);
    v_uploads := array(
        select u
          from public.lookup_uploads u
         where organization_id = p_organization_id and expires_at > v_now and (p_status is null or status = p_status)
           and (p_cursor is null or (created_at, id) < (v_cursor.created_at, v_cursor.id))
         order by created_at desc, id desc
         limit p_limit + 1 offset p_offset);
    return json_build_object(
        'uploads', (select coalesce(json_agg(app.upload_summary_json(u) order by u.created_at desc, u.id desc), '[]') from unnest(v_uploads[:p_limit]) u),
        'total', (select count(*)
                    from public.lookup_uploads
                   where organization_id = p_organization_id and expires_at > v_now and (p_status is null or status = p_status)),
        'limit', p_limit,
        'offset', p_offset,
        'next_cursor', case when cardinality(v_uploads) > p_limit
                            then app.cursor(row('uploads', null, null, null, v_uploads[p_limit].created_at, v_uploads[p_limit].id, null)) end);
end;
$$;

comment on function api.list_uploads(uuid, text, integer, integer, text) is 'The drafts of an organization, and what became of those that were started, newest first: {uploads, total, limit, offset, next_cursor}. An upload is as api.create_upload returns it, without what comes after warning_rows. 400: an unknown status, limit not in 1 to 200, invalid_cursor, cursor_with_offset.';
grant execute on function api.list_uploads(uuid, text, integer, integer, text) to authenticated;

create or replace function api.get_upload(p_organization_id uuid default app.claimed_organization_id(), p_upload_id uuid default null) returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform app.authorize(p_organization_id, 'jobs:read');
    return app.upload_json(app.find_upload(p_organization_id, p_upload_id));
end;
$$;

comment on function api.get_upload(uuid, uuid) is 'A draft, or what was started of it, as api.create_upload returns it. 404 upload_not_found: no such upload, or it has expired.';
grant execute on function api.get_upload(uuid, uuid) to authenticated;

-- Whether any of the problems, or of the warnings, is of the code and the field; `any` is every code.
create or replace function app.has_problem(p_problems jsonb[], p_code text, p_field text) returns boolean
language sql immutable
return exists (select
                 from unnest(p_problems) p
                where coalesce(p_code, 'any') in ('any', p ->> 'code') and coalesce(p_field, p ->> 'field', '') = coalesce(p ->> 'field', ''));

create or replace function app.upload_row_json(p_row public.lookup_upload_rows, p_columns jsonb) returns json
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return json_build_object(
        'position', p_row.position,
        'line', p_row.line,
        'cells', p_row.cells,
        'edits', coalesce(p_row.edits, '{}'),
        'skipped', p_row.is_skipped,
        -- Without a list of lines, the words count rows from 1.
        'problems', (select coalesce(json_agg(app.told_problem(p, p_row.line - 1, null, p_columns) order by n), '[]')
                       from unnest(p_row.problems) with ordinality u (p, n)),
        'warnings', (select coalesce(json_agg(app.told_warning(w, p_columns) order by n), '[]')
                       from unnest(p_row.warnings) with ordinality u (w, n)));
end;
$$;

create or replace function api.get_upload_rows(
    p_organization_id uuid    default app.claimed_organization_id(),
    p_upload_id       uuid    default null,
    p_problem         text    default null,
    p_warning         text    default null,
    p_field           text    default null,
    p_q               text    default null,
    p_skipped         boolean default null,
    p_limit           integer default 100,
    p_offset          integer default 0,
    p_cursor          text    default null
) returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan set jit = off
as $$
declare
    v_upload  public.lookup_uploads;
    v_cursor  app.page_cursor;
    v_columns jsonb;
    v_found   integer[];
    v_from    integer;
    v_page    integer[];
    v_last    integer;
begin
    perform app.authorize(p_organization_id, 'jobs:read');
    v_upload := app.find_upload(p_organization_id, p_upload_id);
    v_cursor := app.read_page(p_cursor, 'upload_rows', p_limit, p_offset, 500);
    v_columns := app.column_places(v_upload.columns, v_upload.defaults);
    v_found := array(
        select position
          from public.lookup_upload_rows
         where organization_id = p_organization_id and upload_id = p_upload_id
           and (p_skipped is null or is_skipped = p_skipped)
           and (p_problem is null and (p_field is null or p_warning is not null) or app.has_problem(problems, p_problem, p_field))
           and (p_warning is null or app.has_problem(warnings, p_warning, p_field))
           and (p_q is null or exists (select from jsonb_array_elements_text(app.edited_cells(cells, edits)) c where strpos(lower(c), lower(p_q)) > 0))
         order by position);
    v_from := case when p_cursor is null then p_offset else (select count(*) from unnest(v_found) p where p <= v_cursor.position) end;
    -- Rows may be long: a page ends before it has more than 2 MB, but has one row at least.
    v_page := array(
        select w.position
          from (select r.position, row_number() over before as n, sum(octet_length(r.cells::text) + coalesce(octet_length(r.edits::text), 0)) over before as bytes
                  from public.lookup_upload_rows r
                 where organization_id = p_organization_id and upload_id = p_upload_id
                   and position = any (v_found[v_from + 1 : v_from + p_limit])
                window before as (order by r.position)) w
         where w.n = 1 or w.bytes <= 2 * 1024 * 1024
         order by w.position);
    v_last := v_page[cardinality(v_page)];
    return json_build_object(
        'rows', (select coalesce(json_agg(app.upload_row_json(r, v_columns) order by r.position), '[]')
                   from public.lookup_upload_rows r
                  where organization_id = p_organization_id and upload_id = p_upload_id and position = any (v_page)),
        'total', cardinality(v_found),
        'limit', p_limit,
        'offset', p_offset,
        'next_cursor', case when v_last < v_found[cardinality(v_found)]
                            then app.cursor(row('upload_rows', v_last, null, null, null, null, null)) end);
end;
$$;

comment on function api.get_upload_rows(uuid, uuid, text, text, text, text, boolean, integer, integer, text) is
'The rows of a draft in their order: {rows: [{position, line, cells: [as sent], edits: {number of the column: text}, skipped, problems: [{field, column, code, message, value, suggestion}], warnings: [{field, column, code, message, was, now}]}], total, limit, offset, next_cursor}. p_problem, p_warning: rows with that code, or `any`; p_field: of that field, such as address.postal_code; p_q: text in any cell; p_skipped: only those that are, or are not. A page has fewer rows than asked for where they are long. 404 upload_not_found. 400: limit not in 1 to 500, invalid_cursor, cursor_with_offset.';
grant execute on function api.get_upload_rows(uuid, uuid, text, text, text, text, boolean, integer, integer, text) to authenticated;

-- The columns with the changed fields: {field: name or number of its column, or null: no column has it}.
create or replace function app.mapped_columns(p_columns jsonb, p_changes jsonb) returns jsonb
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_headers constant text[] := array(select c ->> 'header' from jsonb_array_elements(p_columns) with ordinality u (c, n) order by n);
    v_field   text;
    v_wanted  jsonb;
    v_number  integer;
begin
    for v_field, v_wanted in select regexp_replace(key, '^address\.', ''), value from jsonb_each(p_changes) loop
        perform app.check_field(v_field);
        v_number := case when v_wanted <> 'null' then app.column_number(v_headers, v_wanted) end;
        p_columns := (
            select jsonb_agg(case when n = v_number then c || jsonb_build_object('field', v_field, 'how', 'given')
                                  when c ->> 'field' = v_field then c || '{"field": null, "how": "given"}' else c end order by n)
              from jsonb_array_elements(p_columns) with ordinality u (c, n));
    end loop;
    return p_columns;
end;
$$;

-- Replaces cells; a value of null takes the edit back.
create or replace function app.edit_upload_rows(p_upload public.lookup_uploads, p_edits jsonb) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if jsonb_typeof(p_edits) <> 'array' or jsonb_array_length(p_edits) > 10000
       or jsonb_path_exists(p_edits, 'strict $[*] ? (@.type() != "object")')
       or exists (select
                    from jsonb_array_elements(p_edits) e
                   where coalesce(e ->> 'position', '') !~ '^[0-9]{1,5}$' or coalesce(e ->> 'column', '') !~ '^[0-9]{1,3}$'
                      or coalesce(jsonb_typeof(e -> 'value'), '') not in ('string', 'null') or length(e ->> 'value') > 32768
                      or e - array['position', 'column', 'value'] <> '{}'
                      or (e ->> 'position')::integer >= p_upload.total_rows
                      or (e ->> 'column')::integer not between 1 and jsonb_array_length(p_upload.columns)) then
        perform app.refuse_option('edits', 'an array of {"position": of the row, "column": its number, "value": a string, or null to take the edit back}');
    end if;
    update public.lookup_upload_rows r
       set edits = nullif(jsonb_strip_nulls(coalesce(r.edits, '{}') || e.edits), '{}')
      from (select (e ->> 'position')::integer as position, jsonb_object_agg((e ->> 'column')::integer, e -> 'value' order by n) as edits
              from jsonb_array_elements(p_edits) with ordinality u (e, n)
             group by 1) e
     where r.organization_id = p_upload.organization_id and r.upload_id = p_upload.id and r.position = e.position;
end;
$$;

-- Whether it names rows: an array of positions, or {problem: code, field?}.
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
    v_positions constant integer[] := case when jsonb_typeof(p_rows) = 'array' then translate(p_rows::text, '[]', '{}')::integer[] end;
begin
    update public.lookup_upload_rows
       set is_skipped = p_skip
     where organization_id = p_upload.organization_id and upload_id = p_upload.id and is_skipped <> p_skip
       and case when v_positions is null then app.has_problem(problems, p_rows ->> 'problem', p_rows ->> 'field') else position = any (v_positions) end;
end;
$$;

-- The value maps with those of p_changes: {field: {text: value, or null to forget it}, or null to forget all}.
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
begin
    perform app.authorize(p_organization_id, 'jobs:write');
    perform app.check_members(p_changes, array['name', 'columns', 'defaults', 'value_maps', 'edits', 'skip', 'unskip']);
    v_upload := app.lock_draft(p_organization_id, p_upload_id);
    if jsonb_typeof(p_changes -> 'name') not in ('string', 'null') or btrim(p_changes ->> 'name') = '' or length(p_changes ->> 'name') > 200 then
        perform app.refuse_option('name', 'a string of 1 to 200 characters');
    elsif jsonb_typeof(v_columns) <> 'object'
          or jsonb_path_exists(v_columns, 'strict $.* ? (@.type() != "string" && @.type() != "number" && @.type() != "null")') then
        perform app.refuse_option('columns', 'an object of fields and their columns, by name or by number, or null');
    elsif jsonb_typeof(v_defaults) <> 'object' or jsonb_path_exists(v_defaults, 'strict $.* ? (@.type() == "object")')
          or v_defaults - app.file_fields() <> '{}' or octet_length(v_defaults::text) > 16384 then
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

    update public.lookup_uploads
       set name       = case when p_changes ? 'name' then p_changes ->> 'name' else name end,
           columns    = app.mapped_columns(columns, v_columns),
           defaults   = jsonb_strip_nulls(defaults || v_defaults),
           value_maps = app.merged_value_maps(value_maps, v_value_maps)
     where organization_id = p_organization_id and id = p_upload_id
    returning * into v_upload;
    if octet_length(v_upload.value_maps::text) > 65536 then
        perform app.refuse_option('value_maps', 'at most 64 KB altogether');
    end if;
    if p_changes ? 'edits' then
        perform app.edit_upload_rows(v_upload, p_changes -> 'edits');
    end if;
    if p_changes ? 'skip' then
        perform app.skip_upload_rows(v_upload, p_changes -> 'skip', true);
    end if;
    if p_changes ? 'unskip' then
        perform app.skip_upload_rows(v_upload, p_changes -> 'unskip', false);
    end if;
    if p_changes - 'name' = '{}' then
        update public.lookup_uploads set updated_at = app.clock() where organization_id = p_organization_id and id = p_upload_id returning * into v_upload;
        return app.upload_json(v_upload);
    end if;
    return app.upload_json(app.judge_upload(p_organization_id, p_upload_id, app.clock()));
end;
$$;

comment on function api.update_upload(uuid, uuid, jsonb) is
'Changes a draft, judges all its rows again, and returns it as api.create_upload does. p_changes may have: name; columns {field: name or number of its column, or null: no column has it}; defaults {field: value or null}; value_maps {field: {text in the file: value or null}} for country_code, state_or_province_code, building_type and device_ids, such as {"building_type": {"Single family": "RESIDENTIAL"}}; edits [{position, column, value}], with null to take an edit back; skip and unskip, each an array of positions or {problem: code, field?}. What is not named stays. 404 upload_not_found. 409 upload_started. 400: unknown_fields, invalid_columns, invalid_defaults, invalid_value_maps, invalid_edits, invalid_skip, invalid_unskip, invalid_name.';
grant execute on function api.update_upload(uuid, uuid, jsonb) to authenticated;

-- The answer of a new batch. A draft becomes one batch: who comes second finds it started.
create or replace function app.start_upload(p_organization_id uuid, p_upload_id uuid, p_options jsonb) returns json
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_upload  public.lookup_uploads := app.lock_draft(p_organization_id, p_upload_id);
    v_options jsonb;
    v_created json;
begin
    if jsonb_typeof(p_options) is distinct from 'object' then
        perform app.refuse_option('options', 'a JSON object');
    elsif jsonb_typeof(p_options -> 'skip_invalid') not in ('boolean', 'null') then
        perform app.refuse_option('skip_invalid', 'true or false');
    end if;
    v_options := jsonb_strip_nulls(jsonb_build_object('name', v_upload.name)) || (p_options - 'skip_invalid')
                 || case when (p_options ->> 'skip_invalid')::boolean then '{"on_invalid": "skip"}' else '{}' end::jsonb;
    if v_upload.skipped_rows = v_upload.total_rows then
        perform app.refuse(
            400, 'invalid_item_count', 'All rows of the upload are skipped',
            'Take at least one of them back: PATCH the upload with {"unskip": [...]}.');
    end if;
    v_created := app.create_batch(p_organization_id, null, v_upload.check_devices, v_options, app.upload_file(v_upload, false));
    if v_created ->> 'job_id' is not null then
        update public.lookup_uploads
           set status = 'started', job_id = (v_created ->> 'job_id')::uuid, updated_at = app.clock()
         where organization_id = p_organization_id and id = p_upload_id;
        perform app.remember_columns(v_upload, app.clock());
    end if;
    return v_created;
end;
$$;

create or replace function api.start_upload(
    p_organization_id uuid  default app.claimed_organization_id(),
    p_upload_id       uuid  default null,
    p_options         jsonb default '{}',
    p_idempotency_key text  default null,
    p_fingerprint     bytea default null,
    out status        integer,
    out replayed      boolean,
    out body          json
)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_route   constant text := 'POST /uploads/{upload_id}/start';
    v_earlier app.idempotency_keys;
begin
    perform app.authorize(p_organization_id, 'jobs:write');
    perform app.check_json(p_options);
    if p_idempotency_key is not null then
        v_earlier := app.begin_request(p_organization_id, v_route, p_idempotency_key,
                                       coalesce(p_fingerprint, sha256(convert_to(concat_ws(' ', p_upload_id, p_options), 'UTF8'))));
    end if;
    replayed := v_earlier.status is not null;
    if replayed then
        status := v_earlier.status;
        body := v_earlier.response;
        return;
    end if;
    body := app.start_upload(p_organization_id, p_upload_id, coalesce(p_options, '{}'));
    status := case when body ->> 'dry_run' is null then 201 else 200 end;
    perform app.end_request(p_organization_id, v_route, p_idempotency_key, status, body);
end;
$$;

comment on function api.start_upload(uuid, uuid, jsonb, text, bytea) is
'Makes a batch of a draft, without the rows that are skipped, and answers as api.submit_batch_lookup. p_options are those of api.create_batch_lookup, and skip_invalid (true: on_invalid skip); the name is the upload''s unless given. The columns and values that were given are remembered for the next file. The draft stays until it expires. Further: 404 upload_not_found; 409 upload_started, with its job_id.';
grant execute on function api.start_upload(uuid, uuid, jsonb, text, bytea) to authenticated;

create or replace function app.delete_upload(p_organization_id uuid, p_upload_id uuid) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from public.lookup_upload_rows where organization_id = p_organization_id and upload_id = p_upload_id;
    delete from public.lookup_uploads where organization_id = p_organization_id and id = p_upload_id;
end;
$$;

create or replace function api.delete_upload(p_organization_id uuid default app.claimed_organization_id(), p_upload_id uuid default null) returns json
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform app.authorize(p_organization_id, 'jobs:write');
    perform from public.lookup_uploads where organization_id = p_organization_id and id = p_upload_id for update;
    perform app.find_upload(p_organization_id, p_upload_id);
    perform app.delete_upload(p_organization_id, p_upload_id);
    return json_build_object('message', 'Upload deleted successfully', 'upload_id', p_upload_id);
end;
$$;

comment on function api.delete_upload(uuid, uuid) is 'Deletes a draft with its rows; the batch that it became stays. 404 upload_not_found.';
grant execute on function api.delete_upload(uuid, uuid) to authenticated;

-- Drafts that have expired, oldest first: at least one, further ones up to p_rows rows.
create or replace function app.prune_uploads(p_now timestamptz, p_rows integer default 10000) returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_upload record;
    v_count  integer := 0;
    v_rows   integer := 0;
begin
    for v_upload in
        select organization_id, id, total_rows
          from public.lookup_uploads
         where expires_at <= p_now
         order by expires_at
         limit 1000
           for update skip locked
    loop
        exit when v_rows > 0 and v_rows + v_upload.total_rows > p_rows;
        perform app.delete_upload(v_upload.organization_id, v_upload.id);
        v_count := v_count + 1;
        v_rows  := v_rows + v_upload.total_rows;
    end loop;
    return v_count;
end;
$$;
