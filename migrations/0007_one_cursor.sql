-- Every list goes by one cursor. Its functions have a new signature, and those before it would be called in their place.

-- squawk-ignore-file ban-drop-function
drop function if exists api.list_batch_lookups(uuid, text, integer, integer);
drop function if exists api.list_api_keys(uuid, integer, integer);
drop function if exists api.list_applications(uuid, text, text, integer, text);
