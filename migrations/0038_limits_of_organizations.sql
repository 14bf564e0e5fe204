-- squawk-ignore-file ban-drop-function
-- How much an organization may ask, and how many keys it may have, are settings.

alter table app.settings
    add column organization_requests_per_minute integer,
    add column max_api_keys integer not null default 100,
    add constraint settings_organization_requests_per_minute_check check (organization_requests_per_minute > 0),
    add constraint settings_max_api_keys_check check (max_api_keys between 1 and 10000);

comment on column app.settings.organization_requests_per_minute is 'Requests per minute of all API keys and users of an organization together, at each API process; null: four times requests_per_minute.';
comment on column app.settings.max_api_keys is 'API keys that work which an organization may have; while they are rotated, twice as many.';

-- It checks more than numbers, and is called app.check_json.
drop function if exists app.check_numbers(jsonb);
