-- Chapter 45, results: the items of a job in upload order, as pages and as files, also while the job runs.

create or replace function app.check_item_filter(p_status text, p_error_code text) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    perform app.check_choice('status', p_status, array['pending', 'processing', 'completed', 'failed']);
    if p_error_code !~ '^[a-z0-9_]{1,100}$' then
        perform app.refuse(400, 'invalid_error_code', 'error_code must consist of a-z, 0-9 and _, such as upstream_timeout');
    end if;
end;
$$;

-- The number of items that match a filter, from the job's counters and indexes; only a text search reads the whole job.
create or replace function app.count_items(p_job public.batch_lookup_jobs, p_status text, p_error_code text, p_q text default null) returns integer
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_q is not null then
        return (select count(*)
                  from app.find_items(p_job.organization_id, p_job.id, app.positions_in_flight(p_job.organization_id, p_job.id), p_status,
                                      p_error_code, -1, null, 0, p_q));
    elsif p_error_code is null then
        return case when p_status is null then p_job.total_items else (app.job_json(p_job) #>> array['item_counts', p_status])::integer end;
    end if;
    return (select count(*)
              from public.lookup_queue_items
             where organization_id = p_job.organization_id and job_id = p_job.id and status = 'failed'
               and error_code = p_error_code and (p_status is null or p_status = 'failed'));
end;
$$;

create or replace function app.find_items(
    p_organization_id uuid, p_job_id uuid, p_in_flight int4multirange, p_status text, p_error_code text, p_after integer, p_limit integer,
    p_offset integer default 0, p_q text default null
) returns setof public.lookup_queue_items
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select *
      from public.lookup_queue_items i
     where i.organization_id = p_organization_id and i.job_id = p_job_id and i.position > p_after
       and (p_status is null or app.item_status(row(i.*)::public.lookup_queue_items, p_in_flight) = p_status)
       and (p_error_code is null or i.status = 'failed' and i.error_code = p_error_code)
       and (app.site_contains(p_q, i.reference_id, i.address ->> 'street_1', i.address ->> 'city')
            or exists (select from public.lookup_item_sources s
                        where s.organization_id = p_organization_id and s.job_id = p_job_id and s.position = i.position
                          and app.source_contains(s.cells, p_q)))
     order by i.position
     limit p_limit offset p_offset;
end;
$$;

-- Items as JSON or as lines of a file, up to p_limit or 8 MB of them: a few hundred results can fill the memory of a server.
create or replace function app.read_items(
    p_organization_id uuid, p_job_id uuid, p_format text, p_status text, p_error_code text, p_after integer, p_limit integer, p_offset integer,
    p_columns public.lookup_job_columns default null, p_q text default null,
    out items text[], out last_position integer, out has_more boolean
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_in_flight int4multirange := app.positions_in_flight(p_organization_id, p_job_id);
    v_bytes     bigint         := 0;
    v_is_text   boolean[]      := case when p_format = 'xlsx' then app.text_columns(p_columns) end;
    v_order     integer[]      := app.result_order(p_columns);
    v_item      public.lookup_queue_items;
    v_cells     jsonb;
    v_text      text;
begin
    items    := '{}';
    has_more := false;
    for v_item in
        select * from app.find_items(p_organization_id, p_job_id, v_in_flight, p_status, p_error_code, p_after, p_limit + 1, p_offset, p_q)
    loop
        has_more := cardinality(items) = p_limit or v_bytes >= 8 * 1024 * 1024;
        exit when has_more;
        if p_columns.has_cells then
            v_cells := (select cells from public.lookup_item_sources where organization_id = p_organization_id and job_id = p_job_id and position = v_item.position);
        end if;
        v_text := case
            when p_format = 'csv' then app.csv_line(variadic app.file_cells(p_columns, v_order, v_cells, v_item, v_in_flight))
            when p_format = 'xlsx' then app.workbook_row(app.file_cells(p_columns, v_order, v_cells, v_item, v_in_flight), v_is_text)
            when p_columns.has_cells is not true then app.item_json(v_item, v_in_flight)::text
            else app.join_objects(json_build_object('source', app.source_json(p_columns.names, v_cells)), app.item_json(v_item, v_in_flight))::text end;
        if p_format = 'ndjson' then
            v_text := translate(v_text, E'\r\n', '') || E'\n';
        end if;
        v_bytes       := v_bytes + octet_length(v_text);
        items         := items || v_text;
        last_position := v_item.position;
    end loop;
end;
$$;

create or replace function api.list_batch_lookup_items(
    p_organization_id uuid    default app.claimed_organization_id(),
    p_job_id          uuid    default null,
    p_status          text    default null,
    p_limit           integer default 50,
    p_offset          integer default 0,
    p_error_code      text    default null,
    p_cursor          text    default null,
    p_q               text    default null
) returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_job   public.batch_lookup_jobs;
    v_after integer;
    v_items text[];
    v_last  integer;
    v_more  boolean;
begin
    perform app.authorize(p_organization_id, 'jobs:read');
    v_job   := app.find_job(p_organization_id, p_job_id);
    v_after := coalesce((app.read_page(p_cursor, 'items', p_limit, p_offset, 500)).position, -1);
    perform app.check_item_filter(p_status, p_error_code);
    perform app.check_search('q', p_q);
    if coalesce(p_cursor, p_status, p_error_code, p_q) is null then
        -- Without a filter, the offset is the position in the upload: the last page costs the same as the first.
        select * into v_items, v_last, v_more from app.read_items(p_organization_id, p_job_id, 'json', null, null, p_offset - 1, p_limit, 0);
    else
        select * into v_items, v_last, v_more from app.read_items(p_organization_id, p_job_id, 'json', p_status, p_error_code, v_after, p_limit, p_offset, null, p_q);
    end if;
    return json_build_object(
        'items', format('[%s]', array_to_string(v_items, ','))::json,
        'total', app.count_items(v_job, p_status, p_error_code, p_q),
        'limit', p_limit,
        'offset', p_offset,
        'next_cursor', case when v_more then app.cursor(row('items', v_last, null, null, null, null, null)) end);
end;
$$;

comment on function api.list_batch_lookup_items(uuid, uuid, text, integer, integer, text, text, text) is 'The items of a job in upload order: {items, total, limit, offset, next_cursor}; p_cursor is the next_cursor of the page before; p_q is searched for in reference_id, street_1, city and the upload''s own columns or metadata, without wildcards and ignoring case. A page of large results ends at 8 MB, with fewer items than p_limit and a next_cursor. 400: an unknown status, limit not in 1 to 500, invalid_cursor, cursor_with_offset. 404: no such job in this organization.';
grant execute on function api.list_batch_lookup_items(uuid, uuid, text, integer, integer, text, text, text) to authenticated;

create or replace function app.result_columns() returns text[]
language sql immutable
return array['reference_id', 'status', 'street_1', 'street_2', 'city', 'state_or_province_code', 'postal_code', 'country_code', 'building_type', 'device_ids',
             'utility_eiaid', 'utility_name', 'eligible', 'total_incentive_amount', 'programs', 'error_code', 'error_message', 'warnings', 'retry_count',
             'processed_at', 'item_id', 'conditional_incentive_amount'];

-- A text for each of app.result_columns, null or empty for missing values.
create or replace function app.result_cells(p_item public.lookup_queue_items, p_in_flight int4multirange) returns text[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    -- Detoast the result once: every access would fetch and decompress it again.
    v_result   jsonb := coalesce(p_item.parsed_result, p_item.result::jsonb) || '{}';
    v_programs text  := (select string_agg(p.program_name, '; ' order by p.place) from app.result_programs(v_result) p);
begin
    return array[
        p_item.reference_id,
        app.item_status(p_item, p_in_flight),
        p_item.address ->> 'street_1',
        p_item.address ->> 'street_2',
        p_item.address ->> 'city',
        p_item.address ->> 'state_or_province_code',
        p_item.address ->> 'postal_code',
        p_item.address ->> 'country_code',
        p_item.building_type,
        array_to_string(p_item.device_ids, ';'),
        v_result #>> '{utility,eiaid}',
        v_result #>> '{utility,name}',
        case when v_result is not null then app.result_is_eligible(v_result)::text end,
        case when v_result is not null then app.result_amount(v_result)::text end,
        v_programs,
        p_item.error_code,
        p_item.error_message,
        array_to_string(p_item.warnings, '; '),
        p_item.retry_count::text,
        app.rfc3339(p_item.processed_at),
        p_item.id::text,
        case when v_result is not null then app.result_conditional_amount(v_result)::text end];
end;
$$;

-- A row of the results, below that header.
create or replace function app.file_cells(
    p_columns public.lookup_job_columns, p_order integer[], p_cells jsonb, p_item public.lookup_queue_items, p_in_flight int4multirange
) returns text[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_cells constant text[] := app.result_cells(p_item, p_in_flight);
begin
    return case when p_order is null then app.source_cells(p_columns.names, p_cells) || v_cells
                else array(select v_cells[o.place] from unnest(p_order) with ordinality o (place, n) order by o.n) end;
end;
$$;

-- A row of a workbook as a JSON array: numbers as numbers if they lose nothing, everything else as text.
create or replace function app.workbook_row(p_cells text[], p_is_text boolean[]) returns text
language sql immutable
return '[' || (select string_agg(case when c.cell is null then 'null'
                                      when not c.is_text and ascii(c.cell) in (45, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 102, 116) and length(c.cell) <= 15 and c.cell ~ '^(-?(0|[1-9]\d*)(\.\d+)?|true|false)$' then c.cell
                                      else to_json(c.cell)::text end, ',' order by c.n)
                 from unnest(p_cells, p_is_text) with ordinality c (cell, is_text, n)) || E']\n';

create or replace function api.get_batch_lookup_results(
    p_organization_id uuid    default app.claimed_organization_id(),
    p_job_id          uuid    default null,
    p_format          text    default 'csv',
    p_status          text    default null,
    p_error_code      text    default null,
    p_after           integer default -1,
    p_limit           integer default 500,
    p_layout          text    default 'append',
    out lines         text,
    out last_position integer
)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_columns public.lookup_job_columns;
    v_header  text[];
    v_piece   record;
begin
    perform app.authorize(p_organization_id, 'jobs:read');
    perform app.find_job(p_organization_id, p_job_id);
    perform app.check_page(p_limit, 0, 10000);
    perform app.check_choice('format', p_format, array['csv', 'ndjson', 'xlsx']);
    perform app.check_choice('layout', p_layout, array['append', 'plain']);
    perform app.check_item_filter(p_status, p_error_code);
    if p_layout = 'append' then
        select * into v_columns from public.lookup_job_columns where organization_id = p_organization_id and job_id = p_job_id;
    end if;
    v_piece := app.read_items(p_organization_id, p_job_id, p_format, p_status, p_error_code, p_after, p_limit, 0, v_columns);
    if p_after < 0 then
        v_header := app.result_header(v_columns);
    end if;
    lines := concat(case p_format when 'csv' then app.csv_line(variadic v_header) when 'xlsx' then to_json(v_header)::text || E'\n' end,
                    array_to_string(v_piece.items, ''));
    last_position := case when v_piece.has_more then v_piece.last_position end;
end;
$$;

comment on function api.get_batch_lookup_results(uuid, uuid, text, text, text, integer, integer, text) is
'A piece of a job''s results as text, in upload order, as they are now.

- p_format csv: RFC 4180, with a header first; a cell that a spreadsheet would read as a formula begins with an apostrophe. ndjson: one item per line. xlsx: the rows of a workbook, with a header first, one JSON array per line, numbers as numbers.
- p_layout append: where an upload had columns or metadata of its own, these come first, with their names and order, followed by our columns, with (lookup) after a name that is taken; in NDJSON as the member source. plain: without them.
- last_position is the p_after of the next piece; null: this is the last one.

400: an unknown format, layout or status. 404: no such job in this organization.';
grant execute on function api.get_batch_lookup_results(uuid, uuid, text, text, text, integer, integer, text) to authenticated;
