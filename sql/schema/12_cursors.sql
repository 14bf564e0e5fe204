-- Chapter 12, cursors: pages of a list.

create type app.page_cursor as (
    sort         text,
    "position"   integer,
    amount       numeric,
    reference_id text,
    created_at   timestamptz,
    id           uuid,
    number       bigint
);

comment on type app.page_cursor is 'The place where a page of a list ended, as a cursor encodes it.';
