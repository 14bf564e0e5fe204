-- Chapter 49, reading drafts: lists them, and their rows with what is wrong.

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
    select coalesce(array_agg(row(u.*)::public.lookup_uploads), '{}') into v_uploads
      from (select *
              from public.lookup_uploads
             where organization_id = p_organization_id and expires_at > v_now and (p_status is null or status = p_status)
               and (p_cursor is null or (created_at, id) < (v_cursor.created_at, v_cursor.id))
             order by created_at desc, id desc
             limit p_limit + 1 offset p_offset) u;
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

comment on function api.list_uploads(uuid, text, integer, integer, text) is 'The uploads of an organization, drafts and started ones, newest first: {uploads, total, limit, offset, next_cursor}. Uploads are as api.create_upload returns them, up to warning_rows. 400: an unknown status, limit not in 1 to 200, invalid_cursor, cursor_with_offset.';
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

comment on function api.get_upload(uuid, uuid) is 'A draft, or a started upload, as api.create_upload returns it. 404 upload_not_found: no such upload, or it has expired.';
grant execute on function api.get_upload(uuid, uuid) to authenticated;

-- Whether any of the problems, or of the warnings, has the code and the field; `any` matches every code.
create or replace function app.has_problem(p_problems jsonb[], p_code text, p_field text) returns boolean
language sql immutable
return exists (select
                 from unnest(p_problems) p
                where coalesce(p_code, 'any') in ('any', p ->> 'code') and coalesce(p_field, p ->> 'field', '') = coalesce(p ->> 'field', ''));

-- Whether a cell with the edits applied contains the text, case-insensitively.
create or replace function app.row_contains(p_cells jsonb, p_edits jsonb, p_text text) returns boolean
language sql immutable
return exists (select from jsonb_each_text(p_edits) e where strpos(lower(e.value), lower(p_text)) > 0)
    or exists (select
                 from jsonb_array_elements_text(p_cells) with ordinality c (cell, n)
                where strpos(lower(c.cell), lower(p_text)) > 0 and c.n not in (select k::bigint from jsonb_object_keys(p_edits) k));

create or replace function app.upload_row_json(p_row public.lookup_upload_rows, p_columns jsonb) returns json
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_first constant integer := (select (p ->> 'of')::integer from unnest(p_row.problems) p where p ->> 'code' = 'duplicate_reference_id');
    v_line  integer;
begin
    if v_first is not null then
        -- The row that the id was in before.
        select line into v_line
          from public.lookup_upload_rows
         where organization_id = p_row.organization_id and upload_id = p_row.upload_id and position = v_first;
    end if;
    return json_build_object(
        'position', p_row.position,
        'line', p_row.line,
        'cells', p_row.cells,
        'edits', coalesce(p_row.edits, '{}'),
        'skipped', p_row.is_skipped,
        -- Without a list of lines, the message counts rows from 1.
        'problems', (select coalesce(json_agg(app.told_problem(case when p ->> 'code' = 'duplicate_reference_id' then p || jsonb_build_object('of', v_line - 1) else p end,
                                                               p_row.line - 1, null, p_columns) order by n), '[]')
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
    v_rows    public.lookup_upload_rows[];
begin
    perform app.authorize(p_organization_id, 'jobs:read');
    v_upload := app.find_upload(p_organization_id, p_upload_id);
    perform app.check_search('q', p_q);
    v_cursor := app.read_page(p_cursor, 'upload_rows', p_limit, p_offset, 500);
    v_columns := app.column_places(v_upload.columns, v_upload.defaults);
    v_found := array(
        select position
          from public.lookup_upload_rows
         where organization_id = p_organization_id and upload_id = p_upload_id
           and (p_skipped is null or is_skipped = p_skipped)
           and (p_problem is null and (p_field is null or p_warning is not null) or app.has_problem(problems, p_problem, p_field))
           and (p_warning is null or app.has_problem(warnings, p_warning, p_field))
           and (p_q is null or app.row_contains(cells, edits, p_q))
         order by position);
    v_from := case when p_cursor is null then least(p_offset, cardinality(v_found)) else (select count(*) from unnest(v_found) p where p <= v_cursor.position) end;
    -- Rows may be long: a page ends before it exceeds 2 MB, but has at least one row.
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
    select array_agg(row(r.*)::public.lookup_upload_rows) into v_rows
      from public.lookup_upload_rows r
     where organization_id = p_organization_id and upload_id = p_upload_id and position = any (v_page);
    return json_build_object(
        'rows', (select coalesce(json_agg(app.upload_row_json(r, v_columns) order by r.position), '[]') from unnest(v_rows) r),
        'total', cardinality(v_found),
        'limit', p_limit,
        'offset', p_offset,
        'next_cursor', case when v_last < v_found[cardinality(v_found)]
                            then app.cursor(row('upload_rows', v_last, null, null, null, null, null)) end);
end;
$$;

comment on function api.get_upload_rows(uuid, uuid, text, text, text, text, boolean, integer, integer, text) is
'The rows of a draft in their order: {rows: [{position, line, cells: [as sent], edits: {number of the column: text}, skipped, problems: [{field, column, code, message, value, suggestion}], warnings: [{field, column, code, message, was, now}]}], total, limit, offset, next_cursor}. p_problem, p_warning: rows with that code, or `any`; p_field: of that field, such as address.postal_code; p_q: text in any cell; p_skipped: only those that are, or are not. A page has fewer rows than asked for if they are long. 404 upload_not_found. 400: limit not in 1 to 500, invalid_q, invalid_cursor, cursor_with_offset.';
grant execute on function api.get_upload_rows(uuid, uuid, text, text, text, text, boolean, integer, integer, text) to authenticated;
