-- Chapter 12, cursors: the pages of a list.

create or replace function app.check_page(p_limit integer, p_offset integer, p_max_limit integer) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_limit is null or p_limit not between 1 and p_max_limit then
        perform app.refuse(400, 'invalid_limit', format('limit must be a whole number from 1 to %s', p_max_limit));
    elsif p_offset is null or p_offset < 0 then
        perform app.refuse(400, 'invalid_offset', 'offset must be a whole number from 0 to 2147483647');
    end if;
end;
$$;

-- A cursor is opaque to clients; its content may change.
create or replace function app.cursor(p_page app.page_cursor) returns text
language sql stable
as $$
    select translate(encode(convert_to(json_strip_nulls(to_json(p_page))::text, 'UTF8'), 'base64'), E'+/=\n', '-_')
$$;

-- The content of a cursor, which must belong to the same sort order as the list; null: no cursor was given.
create or replace function app.read_cursor(p_cursor text, p_sort text) returns app.page_cursor
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_cursor app.page_cursor;
    v_base64 text := translate(p_cursor, '-_', '+/');
begin
    if p_cursor is null then
        return null;
    end if;
    v_cursor := jsonb_populate_record(null::app.page_cursor, convert_from(decode(v_base64 || repeat('=', -length(v_base64) & 3), 'base64'), 'UTF8')::jsonb);
    if v_cursor.sort is distinct from p_sort then
        raise data_exception;
    end if;
    return v_cursor;
exception
    when data_exception or statement_too_complex then
        perform app.refuse(
            400, 'invalid_cursor', 'cursor does not belong to this list and sort order',
            'Pass the next_cursor of the page before, with the same sort.');
        return null;
end;
$$;

-- Whether the reference_id, street or city of a site contains the text, case-insensitively; null: no text is given.
create or replace function app.site_contains(p_text text, p_reference_id text, p_street_1 text, p_city text) returns boolean
language sql immutable
return p_text is null or strpos(lower(coalesce(p_reference_id, '') || E'\n' || coalesce(p_street_1, '') || E'\n' || coalesce(p_city, '')), lower(p_text)) > 0;

create or replace function app.check_search(p_name text, p_text text) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if length(p_text) > 200 then
        perform app.refuse_option(p_name, 'a text of at most 200 characters');
    end if;
end;
$$;

-- Where the previous page ended; null: the page is chosen by its offset.
create or replace function app.read_page(p_cursor text, p_sort text, p_limit integer, p_offset integer, p_max_limit integer) returns app.page_cursor
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    perform app.check_page(p_limit, p_offset, p_max_limit);
    if p_cursor is not null and p_offset > 0 then
        perform app.refuse(400, 'cursor_with_offset', 'Provide either cursor or offset, not both');
    end if;
    return app.read_cursor(p_cursor, p_sort);
end;
$$;
