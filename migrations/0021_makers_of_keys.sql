-- squawk-ignore-file ban-drop-function
alter table app.api_keys add column created_by text;
comment on column app.api_keys.created_by is 'The id of the API key, or the Clerk id of the user, that made it; null: an operator did.';

drop function if exists api.create_api_key(uuid, bytea, text, text, text, text[], timestamptz, cidr[], text[]);
drop function if exists api.request_api_key(uuid, bytea, text, text, jsonb, text[]);
drop function if exists api.rotate_api_key(uuid, uuid, bytea, text, jsonb, text[]);
drop function if exists api.get_api_key(uuid, uuid);
drop function if exists api.list_api_keys(uuid, integer, integer, text);
drop function if exists api.revoke_api_key(uuid, uuid);
drop function if exists app.lock_api_key(uuid, uuid);
drop function if exists app.find_api_key(uuid, uuid);
