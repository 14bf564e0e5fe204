-- squawk-ignore-file ban-drop-function
-- Items of a batch say what is known of the household, too.

alter table public.lookup_queue_items add column household jsonb;

comment on column public.lookup_queue_items.household is 'What is known of the people there: {income, size, owner_status, tax_filing}, as in POST /incentives; null: nothing.';

alter type app.batch_item add attribute household jsonb;

drop function if exists app.lookup_request(text, jsonb, text, integer[], boolean);
