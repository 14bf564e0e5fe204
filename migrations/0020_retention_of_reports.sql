-- squawk-ignore-file constraint-missing-not-valid, ban-drop-function
-- Reports leave in time, where asked. A batch of a table takes a name and the options of an upload.

alter table app.settings
    add column report_retention_days integer,
    add constraint settings_report_retention_days_check check (report_retention_days > 0);
comment on column app.settings.report_retention_days is 'Days after which an ended report is deleted with its sites, whether its job still exists or not. null: never.';

drop function if exists api.create_batch_lookup_from(regclass, uuid, boolean);
