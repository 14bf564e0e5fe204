-- squawk-ignore-file ban-drop-function
-- Functions with names of their own: app.correction, app.corrected_postal_code, app.complete_expired_items.

drop function if exists app.mended(text, text, text, text, text);
drop function if exists app.mended_postal_code(text, text);
drop function if exists app.mend_expired_items(uuid, app.lookup_outcome[], text[], jsonb[], public.lookup_queue_items[], timestamptz);

comment on type app.cell_notes is 'What reading a row of a file found out: {field, code, message, was, now} of what was corrected in it; {field, code, value, of} of what is wrong with it. null: nothing.';
comment on column public.lookup_upload_rows.warnings is 'What was corrected or looks wrong: {field, code, was, now, ...}; null: nothing.';
comment on column public.applications.total_incentive is 'US dollars, as of the last lookup that found the program before it was submitted.';
