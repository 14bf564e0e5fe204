-- Chapter 10, foundation: the schemas, the settings and the states and provinces.

create schema if not exists app;
create schema if not exists api;

comment on schema app is 'Internal tables and functions: organizations, settings, the catalogue, the state of the queue.';
comment on schema api is 'Functions and views for callers from outside: the HTTP API, workers, operators and users of SQL.';

create table app.settings (
    singleton                 boolean     not null default true,
    lookups_per_second        numeric     default 20,
    max_in_flight             integer     not null default 50,
    max_retries               integer     not null default 3,
    retry_backoff_seconds     numeric     not null default 2,
    retry_backoff_max_seconds numeric     not null default 300,
    lookup_timeout_seconds    numeric     not null default 30,
    lease_seconds             numeric     not null default 60,
    max_response_bytes        integer     not null default 1048576,
    items_per_run             integer     not null default 10,
    outage_failures           integer     not null default 10,
    max_outage_wait_seconds   numeric     not null default 3600,
    deduplicate_seconds       numeric,
    create_clerk_organizations boolean    not null default true,
    incentive_call_retention_days integer not null default 30,
    internal_key              text        not null default encode(sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), 'hex'),
    updated_at                timestamptz not null default now(),
    max_open_items            integer     not null default 200000,
    requests_per_minute       integer     default 120000,
    job_retention_days        integer,
    report_retention_days     integer,
    record_all_attempts       boolean     not null default false,
    attempt_retention_days    integer     not null default 30,
    audit_retention_days      integer     default 730,
    organization_requests_per_minute integer,
    max_api_keys              integer     not null default 100,
    upload_retention_days     integer     not null default 14,
    max_open_uploads          integer     not null default 20,

    constraint settings_pkey primary key (singleton),
    constraint settings_singleton_check check (singleton),
    constraint settings_lookups_per_second_check check (lookups_per_second between 0.001 and 100000),
    constraint settings_max_in_flight_check check (max_in_flight between 1 and 10000),
    constraint settings_max_retries_check check (max_retries between 0 and 20),
    constraint settings_retry_backoff_seconds_check check (retry_backoff_seconds between 0 and 3600),
    constraint settings_retry_backoff_max_seconds_check check (retry_backoff_max_seconds between 0 and 86400),
    constraint settings_lookup_timeout_seconds_check check (lookup_timeout_seconds between 0.1 and 600),
    constraint settings_lease_seconds_check check (lease_seconds between 1 and 3600),
    constraint settings_max_response_bytes_check check (max_response_bytes between 1024 and 67108864),
    constraint settings_items_per_run_check check (items_per_run between 1 and 1000),
    constraint settings_incentive_call_retention_days_check check (incentive_call_retention_days between 1 and 3650),
    constraint settings_outage_failures_check check (outage_failures between 1 and 10000),
    constraint settings_deduplicate_seconds_check check (deduplicate_seconds between 0 and 31536000),
    constraint settings_max_outage_wait_seconds_check check (max_outage_wait_seconds between 0 and 604800),
    constraint settings_max_open_items_check check (max_open_items between 1 and 1000000000),
    constraint settings_requests_per_minute_check check (requests_per_minute between 1 and 100000000),
    constraint settings_job_retention_days_check check (job_retention_days between 1 and 36500),
    constraint settings_report_retention_days_check check (report_retention_days between 1 and 36500),
    constraint settings_attempt_retention_days_check check (attempt_retention_days between 1 and 3650),
    constraint settings_audit_retention_days_check check (audit_retention_days between 1 and 36500),
    constraint settings_organization_requests_per_minute_check check (organization_requests_per_minute between 1 and 100000000),
    constraint settings_max_api_keys_check check (max_api_keys between 1 and 10000),
    constraint settings_upload_retention_days_check check (upload_retention_days between 1 and 3650),
    constraint settings_max_open_uploads_check check (max_open_uploads between 1 and 1000000)
);

comment on table app.settings is 'The settings, in a single row: changed with api.update_settings, effective without a restart.';
comment on column app.settings.lookups_per_second is 'Rate limit of all workers together, in lookups per second; null: no limit.';
comment on column app.settings.max_in_flight is 'Lookups that may be in flight at once, all workers together; the concurrency limit adapts below that.';
comment on column app.settings.max_retries is 'Retries of a lookup after its first attempt.';
comment on column app.settings.retry_backoff_seconds is 'Wait before the first retry, in seconds. It doubles with each further retry; jitter shortens each wait by up to half.';
comment on column app.settings.retry_backoff_max_seconds is 'Longest wait before a retry, in seconds.';
comment on column app.settings.lookup_timeout_seconds is 'Time limit for one lookup over HTTP, in seconds.';
comment on column app.settings.lease_seconds is 'Seconds after which a claimed item returns to the queue, unless its worker renews the lease.';
comment on column app.settings.max_response_bytes is 'Largest response of the incentives API that is accepted, in bytes.';
comment on column app.settings.items_per_run is 'Largest number of items that one call of POST /batch-lookups-worker looks up.';
comment on column app.settings.outage_failures is 'Failures in a row that open the circuit breaker; then one lookup at a time probes the incentives API.';
comment on column app.settings.deduplicate_seconds is 'Seconds for which the answer to an item is shared with the items of its organization that have the same address, building type, devices and household; null: no deduplication.';
comment on column app.settings.max_outage_wait_seconds is 'Seconds of an outage during which items wait without using up retries; after that, they use them up and fail.';
comment on column app.settings.create_clerk_organizations is 'Whether a new organization is created when its first member signs in with a Clerk token; if not, the member is refused.';
comment on column app.settings.incentive_call_retention_days is 'Days after which the logged calls of POST /incentives are deleted.';
comment on column app.settings.max_open_items is 'Unfinished items that an organization may have, in all its batches together.';
comment on column app.settings.requests_per_minute is 'Rate limit of each API key and each signed-in user at each API server, in requests per minute; null: no limit.';
comment on column app.settings.job_retention_days is 'Days from its end until a job is deleted with its items; its report stays. null: never.';
comment on column app.settings.report_retention_days is 'Days from its end until a report is deleted with its sites, whether or not its job still exists. null: never.';
comment on column app.settings.record_all_attempts is 'Whether every attempt is recorded, in a row each; if not, only the attempts of items whose first lookup does not succeed.';
comment on column app.settings.attempt_retention_days is 'Days after which recorded attempts are deleted; they never outlive their item.';
comment on column app.settings.audit_retention_days is 'Days after which audit events are deleted; null: never.';
comment on column app.settings.organization_requests_per_minute is 'Rate limit of all API keys and users of an organization together at each API server, in requests per minute; null: four times requests_per_minute.';
comment on column app.settings.max_api_keys is 'Valid API keys that an organization may have; twice as many while keys are being rotated.';
comment on column app.settings.upload_retention_days is 'Days after which a draft is deleted with its rows, whether or not it was started; its batch stays.';
comment on column app.settings.max_open_uploads is 'Drafts that an organization may have at once, not counting those that were started.';
comment on column app.settings.internal_key is 'Random secret for internal calls (worker, pg_cron), used if SERVICE_ROLE_KEY is not set.';

insert into app.settings default values;

create table app.regions (
    country_code   text          not null,
    code           text          not null,
    name           text          not null,
    zip3           int4multirange,
    postal_letters text,

    constraint regions_pkey primary key (country_code, code),
    constraint regions_country_code_check check (country_code in ('US', 'CA'))
);

comment on table app.regions is 'States, territories and military regions of the United States; provinces and territories of Canada. Sources: USPS Publication 28 and Canada Post; for the ZIP ranges, a CC0 list of ZIP prefixes by state.';
comment on column app.regions.zip3 is 'First three digits of the ZIP codes in use there, as ranges of numbers; null: not a US region.';
comment on column app.regions.postal_letters is 'First letters of its Canadian postal codes; null: not a Canadian region.';

insert into app.regions (country_code, code, name, zip3, postal_letters) values
    ('US', 'AL', 'Alabama', '{[350,353),[354,370)}', null),
    ('US', 'AK', 'Alaska', '{[995,1000)}', null),
    ('US', 'AZ', 'Arizona', '{[850,854),[855,858),[859,861),[863,866)}', null),
    ('US', 'AR', 'Arkansas', '{[716,730)}', null),
    ('US', 'CA', 'California', '{[900,909),[910,929),[930,962)}', null),
    ('US', 'CO', 'Colorado', '{[800,817)}', null),
    ('US', 'CT', 'Connecticut', '{[60,70)}', null),
    ('US', 'DE', 'Delaware', '{[197,200)}', null),
    ('US', 'DC', 'District of Columbia', '{[200,201),[202,206),[569,570)}', null),
    ('US', 'FL', 'Florida', '{[320,340),[341,343),[344,345),[346,348),[349,350)}', null),
    ('US', 'GA', 'Georgia', '{[300,320),[398,400)}', null),
    ('US', 'HI', 'Hawaii', '{[967,969)}', null),
    ('US', 'ID', 'Idaho', '{[832,839)}', null),
    ('US', 'IL', 'Illinois', '{[600,621),[622,630)}', null),
    ('US', 'IN', 'Indiana', '{[460,480)}', null),
    ('US', 'IA', 'Iowa', '{[500,517),[520,529)}', null),
    ('US', 'KS', 'Kansas', '{[660,663),[664,680)}', null),
    ('US', 'KY', 'Kentucky', '{[400,419),[420,428)}', null),
    ('US', 'LA', 'Louisiana', '{[700,702),[703,709),[710,715)}', null),
    ('US', 'ME', 'Maine', '{[39,50)}', null),
    ('US', 'MD', 'Maryland', '{[206,213),[214,220)}', null),
    ('US', 'MA', 'Massachusetts', '{[10,28),[55,56)}', null),
    ('US', 'MI', 'Michigan', '{[480,500)}', null),
    ('US', 'MN', 'Minnesota', '{[550,552),[553,568)}', null),
    ('US', 'MS', 'Mississippi', '{[386,398)}', null),
    ('US', 'MO', 'Missouri', '{[630,632),[633,642),[644,659)}', null),
    ('US', 'MT', 'Montana', '{[590,600)}', null),
    ('US', 'NE', 'Nebraska', '{[680,682),[683,694)}', null),
    ('US', 'NV', 'Nevada', '{[889,892),[893,896),[897,899)}', null),
    ('US', 'NH', 'New Hampshire', '{[30,39)}', null),
    ('US', 'NJ', 'New Jersey', '{[70,90)}', null),
    ('US', 'NM', 'New Mexico', '{[870,872),[873,885)}', null),
    ('US', 'NY', 'New York', '{[5,6),[100,150)}', null),
    ('US', 'NC', 'North Carolina', '{[270,290)}', null),
    ('US', 'ND', 'North Dakota', '{[580,589)}', null),
    ('US', 'OH', 'Ohio', '{[430,460)}', null),
    ('US', 'OK', 'Oklahoma', '{[730,732),[734,742),[743,750)}', null),
    ('US', 'OR', 'Oregon', '{[970,980)}', null),
    ('US', 'PA', 'Pennsylvania', '{[150,197)}', null),
    ('US', 'RI', 'Rhode Island', '{[28,30)}', null),
    ('US', 'SC', 'South Carolina', '{[290,300)}', null),
    ('US', 'SD', 'South Dakota', '{[570,578)}', null),
    ('US', 'TN', 'Tennessee', '{[370,386)}', null),
    ('US', 'TX', 'Texas', '{[733,734),[750,771),[772,800),[885,886)}', null),
    ('US', 'UT', 'Utah', '{[840,848)}', null),
    ('US', 'VT', 'Vermont', '{[50,55),[56,60)}', null),
    ('US', 'VA', 'Virginia', '{[201,202),[220,247)}', null),
    ('US', 'WA', 'Washington', '{[980,987),[988,995)}', null),
    ('US', 'WV', 'West Virginia', '{[247,269)}', null),
    ('US', 'WI', 'Wisconsin', '{[530,533),[534,536),[537,550)}', null),
    ('US', 'WY', 'Wyoming', '{[820,832)}', null),
    ('US', 'AS', 'American Samoa', '{[967,968)}', null),
    ('US', 'FM', 'Federated States of Micronesia', '{[969,970)}', null),
    ('US', 'GU', 'Guam', '{[969,970)}', null),
    ('US', 'MH', 'Marshall Islands', '{[969,970)}', null),
    ('US', 'MP', 'Northern Mariana Islands', '{[969,970)}', null),
    ('US', 'PW', 'Palau', '{[969,970)}', null),
    ('US', 'PR', 'Puerto Rico', '{[6,8),[9,10)}', null),
    ('US', 'VI', 'U.S. Virgin Islands', '{[8,9)}', null),
    ('US', 'AA', 'Armed Forces Americas', '{[340,341)}', null),
    ('US', 'AE', 'Armed Forces Europe', '{[90,99)}', null),
    ('US', 'AP', 'Armed Forces Pacific', '{[962,967)}', null),
    ('CA', 'AB', 'Alberta', null, 'T'),
    ('CA', 'BC', 'British Columbia', null, 'V'),
    ('CA', 'MB', 'Manitoba', null, 'R'),
    ('CA', 'NB', 'New Brunswick', null, 'E'),
    ('CA', 'NL', 'Newfoundland and Labrador', null, 'A'),
    ('CA', 'NS', 'Nova Scotia', null, 'B'),
    ('CA', 'NT', 'Northwest Territories', null, 'X'),
    ('CA', 'NU', 'Nunavut', null, 'X'),
    ('CA', 'ON', 'Ontario', null, 'KLMNP'),
    ('CA', 'PE', 'Prince Edward Island', null, 'C'),
    ('CA', 'QC', 'Quebec', null, 'GHJK'),
    ('CA', 'SK', 'Saskatchewan', null, 'S'),
    ('CA', 'YT', 'Yukon', null, 'Y');
