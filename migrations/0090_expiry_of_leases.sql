-- squawk-ignore-file ban-drop-function
-- It answers when each lease expires, too.

drop function if exists api.extend_leases(uuid, uuid[], integer[], uuid[]);
