-- squawk-ignore-file ban-drop-function
-- A file with our fields alone gets its columns back in its order.

alter table public.lookup_job_columns add column has_cells boolean not null default true;
comment on column public.lookup_job_columns.has_cells is 'false: the file had our fields alone under our names, so only their order is kept.';

drop function if exists app.text_columns(text[]);
