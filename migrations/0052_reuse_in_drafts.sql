-- squawk-ignore-file ban-drop-function
-- Drafts say how many of their rows have a result already; batches of tables take all options.

alter table public.lookup_uploads
    add column reuse_days integer,
    add column known_rows integer not null default 0;

comment on column public.lookup_uploads.reuse_days is 'Rows are given results that are at most so many days old; null: all are looked up.';
comment on column public.lookup_uploads.known_rows is 'Valid rows that had such a result at updated_at.';

drop function if exists app.create_upload(uuid, jsonb, boolean, text, jsonb);
drop function if exists api.create_upload(uuid, jsonb, boolean, text, jsonb);
drop function if exists api.create_upload_from(regclass, uuid, boolean, text);
drop function if exists api.create_batch_lookup_from(regclass, uuid, boolean, text, text, boolean);
drop function if exists app.learn_results(uuid, timestamptz);
