-- squawk-ignore-file ban-drop-function
-- A heartbeat also says how an outage stands, and whether claims may be for several organizations.

drop function if exists api.heartbeat(
    text, integer, integer, integer, integer, integer, integer, double precision, double precision, double precision, double precision);
