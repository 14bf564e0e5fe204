-- Chapter 49, drafts: a file is kept as uploaded, and validated by the rules for every upload whenever it changes. Repairs, starts and the
-- listing of rows have files of their own.

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
        perform app.refuse(
            404, 'upload_not_found', 'Upload not found',
            app.hint_for_caller(null, 'select organization_id, id, name, expires_at from api.uploads lists them.'));
    end if;
    return v_upload;
end;
$$;

create or replace function app.upload_summary_json(p_upload public.lookup_uploads) returns json
language sql stable
as $$
    select json_build_object(
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
        'warning_rows', p_upload.warning_rows)
$$;

-- Required fields that neither a column nor a default gives, nor, as far as the first rows show, the cells of another column.
create or replace function app.missing_fields(p_columns jsonb, p_defaults jsonb) returns text[]
language sql stable
return array(
    select f.field
      from unnest(app.required_fields()) with ordinality f (field, n)
     cross join app.fields_in_shared_cells(p_columns) s (fields)
     where not p_defaults ? f.field and not jsonb_path_exists(p_columns, '$[*] ? (@.field == $field)', jsonb_build_object('field', f.field))
       and f.field <> all (s.fields)
     order by f.n);

create or replace function app.upload_json(p_upload public.lookup_uploads) returns json
language sql stable
as $$
    select app.join_objects(app.upload_summary_json(p_upload), json_build_object(
        'columns', (select json_agg(json_build_object('number', c -> 'number', 'header', c -> 'header', 'field', c -> 'field', 'how', c -> 'how',
                                                      'samples', c -> 'samples') order by n)
                      from jsonb_array_elements(p_upload.columns) with ordinality u (c, n)),
        'missing_fields', app.missing_fields(p_upload.columns, p_upload.defaults),
        'defaults', p_upload.defaults,
        'value_maps', p_upload.value_maps,
        'problem_groups', p_upload.problem_groups,
        'warning_groups', p_upload.warning_groups,
        'notes', (select coalesce(json_agg(json_strip_nulls(json_build_object('code', u -> 'code', 'message', u -> 'message',
                                                                              'sheet', u -> 'sheet', 'sheets', u -> 'sheets')) order by n), '[]')
                    from jsonb_array_elements(p_upload.notes) with ordinality x (u, n)),
        'reuse_results', case when p_upload.reuse_days is not null then json_build_object('max_age_days', p_upload.reuse_days) end,
        'estimate', json_build_object(
            'lookups', p_upload.valid_rows - p_upload.known_rows,
            'known_already', p_upload.known_rows,
            'seconds', app.estimated_seconds(p_upload.organization_id, p_upload.valid_rows - p_upload.known_rows))))
$$;

-- The cells with the edits applied.
create or replace function app.edited_cells(p_cells jsonb, p_edits jsonb) returns jsonb
language sql immutable
return case when p_edits is null then p_cells else (
    select jsonb_agg(coalesce(e.edits -> c.n::text, c.cell, '""'))
      from (select app.fetched(p_edits) as edits offset 0) e
     cross join rows from (jsonb_array_elements(p_cells), generate_series(1, (select max(k::integer) from jsonb_object_keys(e.edits) k)))
                with ordinality c (cell, number, n)) end;  -- in the order of the cells

-- The draft as p_file of api.create_batch_lookup, without the rows that are skipped.
create or replace function app.upload_file(p_upload public.lookup_uploads) returns jsonb
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (     select jsonb_build_object(
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
                 where organization_id = p_upload.organization_id and upload_id = p_upload.id and not is_skipped) r);
end;
$$;

-- Applies the rules for every upload to a draft: an item for each row that is not skipped, with its problems and warnings.
create or replace function app.judged_rows(p_upload public.lookup_uploads, p_rows jsonb[], p_lines integer[], p_skipped integer[] default '{}') returns app.batch_item[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_read  jsonb[];
    v_notes app.cell_notes[];
    v_items app.batch_item[];
begin
    select array_agg(f.item), array_agg(f.notes)
      into v_read, v_notes
      from app.file_items(p_rows, p_lines, jsonb_array_length(p_upload.columns), app.column_places(p_upload.columns, p_upload.defaults), p_upload.defaults,
                          p_upload.value_maps) f;  -- in the order of the rows
    v_items := array(select i from app.parse_batch_items(v_read, p_upload.check_devices, v_notes) i);
    if p_skipped <> '{}' then
        v_items := array(select i from unnest(v_items) i where i.position <> all (p_skipped));
    end if;
    return app.marked_duplicates(v_items);
end;
$$;

-- The draft with the findings about its rows that are not skipped. p_noted: those with a problem or a warning.
create or replace function app.counted_upload(
    p_upload public.lookup_uploads, p_items app.batch_item[], p_noted app.batch_item[], p_lines integer[]
) returns public.lookup_uploads
language plpgsql volatile
set search_path = pg_catalog, pg_temp set jit = off
as $$
declare
    v_places constant jsonb := app.column_places(p_upload.columns, p_upload.defaults);
begin
    select count(problems), count(*) filter (where problems is null)
      into p_upload.invalid_rows, p_upload.warning_rows
      from unnest(p_noted);
    p_upload.valid_rows     := cardinality(p_items) - p_upload.invalid_rows;
    p_upload.skipped_rows   := p_upload.total_rows - cardinality(p_items);
    p_upload.known_rows     := app.count_known(p_upload.organization_id, p_items, p_upload.reuse_days);
    p_upload.problem_groups := app.problem_groups(p_noted, false, p_lines, v_places);
    p_upload.warning_groups := app.problem_groups(p_noted, true, p_lines, v_places);
    return p_upload;
end;
$$;

-- Validates all rows again, and writes what differs. The table may have been filled in this transaction and have no useful statistics: the
-- settings prevent a nested loop over ten thousand rows and as many items, and keep both in memory.
create or replace function app.judge_upload(p_organization_id uuid, p_upload_id uuid, p_now timestamptz) returns public.lookup_uploads
language plpgsql volatile
set search_path = pg_catalog, pg_temp set jit = off set enable_nestloop = off set work_mem = '16MB'
as $$
declare
    v_upload  public.lookup_uploads := app.find_upload(p_organization_id, p_upload_id);
    v_rows    jsonb[];
    v_lines   integer[];
    v_skipped integer[];
    v_items   app.batch_item[];
    v_noted   app.batch_item[];
begin
    select array_agg(r.cells), array_agg(r.line), coalesce(array_agg(r.position) filter (where r.is_skipped), '{}')
      into v_rows, v_lines, v_skipped
      from (select position, line, is_skipped, app.edited_cells(cells, edits) as cells
              from public.lookup_upload_rows
             where organization_id = p_organization_id and upload_id = p_upload_id
             order by position) r;
    v_items  := app.judged_rows(v_upload, v_rows, v_lines, v_skipped);
    v_noted  := app.noted_items(v_items);
    v_upload := app.counted_upload(v_upload, v_items, v_noted, v_lines);
    update public.lookup_upload_rows r
       set problems = j.problems,
           warnings = j.warnings
      from (select w.position, i.problems, i.details as warnings
              from public.lookup_upload_rows w
              left join unnest(v_noted) i on i.position = w.position
             where w.organization_id = p_organization_id and w.upload_id = p_upload_id
               and (w.problems is distinct from i.problems or w.warnings is distinct from i.details)) j
     where r.organization_id = p_organization_id and r.upload_id = p_upload_id and r.position = j.position;
    update public.lookup_uploads
       set valid_rows     = v_upload.valid_rows,
           invalid_rows   = v_upload.invalid_rows,
           skipped_rows   = v_upload.skipped_rows,
           warning_rows   = v_upload.warning_rows,
           known_rows     = v_upload.known_rows,
           problem_groups = v_upload.problem_groups,
           warning_groups = v_upload.warning_groups,
           updated_at     = p_now
     where organization_id = p_organization_id and id = p_upload_id
    returning * into v_upload;
    return v_upload;
end;
$$;

-- The items of a request as a table: a column for each field that is required or that any item has, and one for each further member, such
-- as those of metadata. An address, metadata or household that is not an object gets a column, too. The columns are as app.file_layout
-- returns them. The rows are an array of arrays: one JSON value takes ten times as much memory while it is built.
create or replace function app.items_as_file(p_request jsonb, out columns jsonb, out rows jsonb[])
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_fields constant text[] := app.file_fields();
    v_items  jsonb[];
    v_names  text[];
    v_first  jsonb;
begin
    v_items := array(
        select coalesce((select jsonb_object_agg(case when m.key = any (v_fields) then 'metadata.' || m.key else m.key end, m.value)
                           from jsonb_each(case jsonb_typeof(i.item -> 'metadata') when 'object' then i.item -> 'metadata' else '{}' end) m), '{}')
               || case jsonb_typeof(i.item) when 'object' then i.item - array(
                      select k.name from unnest(array['address', 'metadata', 'household']) k (name)
                       where jsonb_typeof(i.item -> k.name) in ('object', 'null')) else '{}' end
               || coalesce((select jsonb_object_agg(case when h.key in ('income', 'size') then 'household_' || h.key else h.key end, h.value)
                              from jsonb_each(case jsonb_typeof(i.item -> 'household') when 'object' then i.item -> 'household' else '{}' end) h), '{}')
               || case jsonb_typeof(i.item -> 'address') when 'object' then i.item -> 'address' else '{}' end
          from unnest(app.batch_request_items(p_request)) with ordinality i (item, n)
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
    if cardinality(v_names) > 500 then
        perform app.refuse(
            400, 'too_many_columns', format('All items together have %s different members; an upload may have 500', cardinality(v_names)));
    end if;
    perform app.check_column_names(v_names);
    rows := array(select (select jsonb_agg(coalesce(nullif(i.item -> u.name, 'null'), '""') order by u.n)
                            from unnest(v_names) with ordinality u (name, n))
                    from unnest(v_items) with ordinality i (item, n)
                   order by i.n);
    v_first := to_jsonb(rows[:5]);
    columns := (select jsonb_agg(jsonb_build_object('number', n, 'header', name, 'field', case when name = any (v_fields) then name end,
                                                    'how', case when name = any (v_fields) then 'name' end,
                                                    'samples', app.column_samples(v_first, n::integer)) order by n)
                  from unnest(v_names) with ordinality u (name, n));
end;
$$;

-- Refuses another draft of an organization that has as many as allowed.
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
            409, 'too_many_open_uploads', format('The organization already has %s drafts', v_open),
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

-- The name in a request body with items. Options that only a start has are refused: a limit of lookups must not be forgotten.
create or replace function app.upload_name(p_request jsonb) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_options constant text := (select string_agg(o, ', ' order by n) from unnest(app.upload_option_names()) with ordinality u (o, n)
                                 where o not in ('name', 'reuse_results') and p_request -> o not in ('null', 'false'));
begin
    if v_options is not null then
        perform app.refuse(
            400, 'unknown_fields', format('Options that only a start has: %s', v_options),
            app.hint_for_caller('Send them to POST /uploads/{upload_id}/start.', 'Give them to api.start_upload.'));
    elsif jsonb_typeof(p_request -> 'name') not in ('string', 'null') then
        perform app.refuse_option('name', 'a string of 1 to 200 characters');
    end if;
    return p_request ->> 'name';
end;
$$;

-- A new draft of a table. p_lines: the line of each row; null: counted from 1.
create or replace function app.store_upload(p_upload public.lookup_uploads, p_rows jsonb[], p_lines integer[]) returns json
language plpgsql volatile
set search_path = pg_catalog, pg_temp set jit = off set enable_nestloop = off set work_mem = '16MB'
as $$
declare
    v_lines constant integer[] := array(select coalesce(p_lines[n], n) from generate_subscripts(p_rows, 1) n);
    v_items app.batch_item[];
    v_noted app.batch_item[];
begin
    perform app.check_item_count(coalesce(cardinality(p_rows), 0));
    p_upload.id         := app.uuid_v7(p_upload.created_at);
    p_upload.status     := 'draft';
    p_upload.total_rows := cardinality(p_rows);
    p_upload.updated_at := p_upload.created_at;
    p_upload.expires_at := p_upload.created_at + make_interval(days => (select upload_retention_days from app.settings));
    v_items  := app.judged_rows(p_upload, p_rows, v_lines);
    v_noted  := app.noted_items(v_items);
    p_upload := app.counted_upload(p_upload, v_items, v_noted, v_lines);
    insert into public.lookup_uploads values (p_upload.*);
    insert into public.lookup_upload_rows (organization_id, upload_id, position, line, cells, problems, warnings)
    select p_upload.organization_id, p_upload.id, r.n - 1, r.line, r.cells, i.problems, i.details
      from unnest(p_rows, v_lines) with ordinality r (cells, line, n)
      left join unnest(v_noted) i on i.position = r.n - 1
     order by r.n;
    return app.upload_json(p_upload);
end;
$$;

create or replace function app.create_upload(
    p_organization_id uuid, p_request jsonb, p_check_devices boolean, p_name text, p_file jsonb, p_reuse_results jsonb
) returns json
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now    constant timestamptz := app.clock();
    v_given  constant text        := app.upload_name(p_request);
    v_name   constant text        := coalesce(p_name, v_given);
    v_lines  integer[];
    v_upload public.lookup_uploads;
    v_layout record;
    v_rows   jsonb[];
begin
    perform app.check_upload_name(v_name);
    perform app.check_file(p_file);
    perform app.check_open_uploads(p_organization_id, v_now);
    v_upload.organization_id := p_organization_id;
    v_upload.name            := v_name;
    v_upload.check_devices   := coalesce(p_check_devices, true);
    v_upload.created_at      := v_now;
    v_upload.defaults        := coalesce(p_file -> 'defaults', '{}');
    v_upload.reuse_days      := app.spending_options(jsonb_build_object('reuse_results', coalesce(p_reuse_results, p_request -> 'reuse_results'))) -> 'reuse_days';
    if p_file -> 'rows' is null then
        v_layout := app.items_as_file(p_request);
        v_upload.columns    := v_layout.columns;
        v_upload.notes      := coalesce(p_file -> 'notes', '[]');
        v_upload.value_maps := '{}';
        return app.store_upload(v_upload, v_layout.rows, app.integers(p_file -> 'lines'));
    end if;
    v_layout := app.file_layout(p_file, true, app.remembered_fields(p_organization_id));
    v_upload.columns    := coalesce(v_layout.columns, '[]');
    v_upload.value_maps := app.merged_value_maps(app.remembered_values(p_organization_id, v_upload.columns), coalesce(p_file -> 'value_maps', '{}'));
    select r.cells, r.lines, r.notes into v_rows, v_lines, v_upload.notes
      from app.rows_of_items(p_file, v_layout.header_row, v_layout.last_row, v_upload.columns, v_layout.notes) r;
    return app.store_upload(v_upload, v_rows, v_lines);
end;
$$;

create or replace function app.remembered_fields(p_organization_id uuid) returns jsonb
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (select coalesce(jsonb_object_agg(name, field), '{}') from app.column_memory where organization_id = p_organization_id);
end;
$$;

-- What the organization said these words mean in these columns: {field: {text: value}}.
create or replace function app.remembered_values(p_organization_id uuid, p_columns jsonb) returns jsonb
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (select coalesce(jsonb_object_agg(c ->> 'field', m.values), '{}')
              from jsonb_array_elements(p_columns) c
              join app.column_memory m on m.organization_id = p_organization_id and m.name = app.plain_name(c ->> 'header')
             where c ->> 'field' is not null and m.values <> '{}');
end;
$$;

create or replace function api.create_upload(
    p_organization_id uuid    default app.claimed_organization_id(),
    p_request         jsonb   default null,
    p_check_devices   boolean default true,
    p_name            text    default null,
    p_file            jsonb   default null,
    p_reuse_results   jsonb   default null
) returns json
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform app.authorize(p_organization_id, 'jobs:write');
    perform app.check_organization(p_organization_id);
    perform app.check_json(v) from unnest(array[p_request, p_file, p_reuse_results]) v;
    return app.create_upload(p_organization_id, p_request, p_check_devices, p_name, p_file, p_reuse_results);
end;
$$;

comment on function api.create_upload(uuid, jsonb, boolean, text, jsonb, jsonb) is
'Keeps a file as a draft, to be reviewed, corrected and started.

p_request and p_file are those of api.create_batch_lookup, with no options but name and reuse_results, but nothing in the rows is refused: problems are listed, and missing or ambiguous columns can be named later. Mappings of columns and values from earlier drafts that the organization started are applied (how: remembered). p_reuse_results {max_age_days: 1 to 3650}: rows that equal an item that was looked up for the organization within that time get its result at the start, and estimate.known_already counts them.

Returns {id, name, status, job_id, created_at, updated_at, expires_at, total_rows, valid_rows, invalid_rows, skipped_rows, warning_rows, columns: [{number, header, field, how, samples}], missing_fields, defaults, value_maps, problem_groups, warning_groups: [{field, code, count, examples}], notes: [{code, message, sheet, sheets}] (the last two of a workbook with several sheets), reuse_results, estimate: {lookups, known_already, seconds}}.

400: invalid_item_count, items_missing, invalid_p_file, invalid_columns, too_many_columns, column_names_too_long, invalid_name, invalid_reuse_results, unknown_fields. 404: no such organization. 409 too_many_open_uploads: see the setting max_open_uploads.';
grant execute on function api.create_upload(uuid, jsonb, boolean, text, jsonb, jsonb) to authenticated;

create or replace function api.submit_upload(
    p_organization_id uuid    default app.claimed_organization_id(),
    p_request         jsonb   default null,
    p_check_devices   boolean default true,
    p_name            text    default null,
    p_file            jsonb   default null,
    p_reuse_results   jsonb   default null,
    p_idempotency_key text    default null,
    p_fingerprint     bytea   default null,
    out status        integer,
    out replayed      boolean,
    out body          json
)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_route constant text := 'POST /uploads';
begin
    perform app.authorize(p_organization_id, 'jobs:write');
    perform app.check_organization(p_organization_id);
    perform app.check_json(v) from unnest(array[p_request, p_file, p_reuse_results]) v;
    -- An array, so that a missing argument cannot be confused with the next one.
    if p_fingerprint is null and p_idempotency_key is not null then
        p_fingerprint := sha256(convert_to(json_build_array(p_request, p_name, p_file, p_reuse_results)::text, 'UTF8'));
    end if;
    select r.status, r.replayed, r.body into status, replayed, body from app.start_request(p_organization_id, v_route, p_idempotency_key, p_fingerprint) r;
    if replayed then
        return;
    end if;

    body := app.create_upload(p_organization_id, p_request, p_check_devices, p_name, p_file, p_reuse_results);
    status := 201;
    perform app.end_request(p_organization_id, v_route, p_idempotency_key, status, body);
end;
$$;

comment on function api.submit_upload(uuid, jsonb, boolean, text, jsonb, jsonb, text, bytea) is
'api.create_upload for HTTP: its answer with the status (201). A request repeated with the same key within 7 days is answered as before (replayed) and does nothing: with the draft as it was when created, even if it has been changed, started or deleted since. A refused one leaves no trace. Further: 400 invalid_idempotency_key; 409 request_in_progress; 422 idempotency_key_reused: p_fingerprint, a hash of the request that is made of it when left out, differs.';
grant execute on function api.submit_upload(uuid, jsonb, boolean, text, jsonb, jsonb, text, bytea) to authenticated;

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

comment on function api.delete_upload(uuid, uuid) is 'Deletes a draft with its rows; the batch created from it is kept. 404 upload_not_found.';
grant execute on function api.delete_upload(uuid, uuid) to authenticated;

-- Expired drafts, oldest first: at least one, then more up to p_rows rows.
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
    loop
        exit when v_rows > 0 and v_rows + v_upload.total_rows > p_rows;
        perform
           from public.lookup_uploads
          where organization_id = v_upload.organization_id and id = v_upload.id
            for update skip locked;
        continue when not found;
        perform app.delete_upload(v_upload.organization_id, v_upload.id);
        v_count := v_count + 1;
        v_rows  := v_rows + v_upload.total_rows;
    end loop;
    return v_count;
end;
$$;
