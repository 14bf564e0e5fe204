-- What the columns say since events of disabled webhooks are kept, and since names without an address are refused like private ones.

comment on column app.webhook_configs.url is 'Where deliveries are POSTed; null: nowhere, and no event is kept. Events of a disabled config are kept as failed deliveries.';
comment on column app.webhook_attempts.error_class is 'Why there was no answer: timeout, connection, tls, refused_address (the host has no address, or one that webhooks may not be sent to), invalid_url, invalid_response or other.';
