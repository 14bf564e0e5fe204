-- squawk-ignore-file ban-drop-function
-- The CSV of a report comes in pieces: its function answers each with the place where the next one begins.

drop function if exists api.get_incentive_report_csv(uuid, uuid, boolean, text, text, text);
