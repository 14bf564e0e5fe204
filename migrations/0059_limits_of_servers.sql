-- Processes behind one port count together.
comment on column app.settings.requests_per_minute is 'Requests per minute of one API key or one signed-in user, at each API server; null: no limit.';
comment on column app.settings.organization_requests_per_minute is 'Requests per minute of all API keys and users of an organization together, at each API server; null: four times requests_per_minute.';
