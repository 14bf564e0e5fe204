-- squawk-ignore-file ban-drop-function
-- Who revokes a link is noted, and estimates are for one organization.
drop function if exists api.revoke_incentive_report_share(uuid, uuid, uuid);
drop function if exists app.estimated_seconds(bigint);
