-- squawk-ignore-file ban-drop-constraint, constraint-missing-not-valid, renaming-column, ban-drop-view
-- Answers keep the order of their members, which jsonb forgets: they are stored as json. What was recorded before stays where it is.
-- The new check reads the table once; workers wait for it.

alter table public.lookup_queue_items rename column result to parsed_result;
alter table public.lookup_queue_items add column result json;
comment on column public.lookup_queue_items.result is 'The answer of the incentives API, member for member as it came.';
comment on column public.lookup_queue_items.parsed_result is 'The answer in an item on its way through the functions that record it, and in rows from before result was kept as it came; else null.';

alter table public.lookup_queue_items
    drop constraint lookup_queue_items_outcome_check,
    add constraint lookup_queue_items_outcome_check
        check ((status = 'completed') = (result is not null or parsed_result is not null)
               and (status = 'failed') = (error_code is not null and error_message is not null and processed_at is not null));

alter type app.lookup_outcome add attribute response text;

-- Its address and result become json.
drop view if exists api.items;
