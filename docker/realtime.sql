-- Supabase's Realtime server keeps its own tables there.
create schema if not exists _realtime;
alter schema _realtime owner to supabase_admin;
