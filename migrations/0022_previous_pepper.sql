-- squawk-ignore ban-drop-function
drop function if exists api.authenticate_api_key(bytea, inet);
