-- squawk-ignore-file ban-drop-function
-- Functions of webhooks are told the organization, and what they need of a delivery instead of all of it.

drop function if exists app.webhook_bodies(app.webhook_deliveries[], text[]);
drop function if exists app.webhook_is_final(app.webhook_deliveries, integer, interval[]);
