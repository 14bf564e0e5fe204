-- A number of days before which there is no time stopped all maintenance, and a limit of requests that an integer cannot hold four times stopped
-- all authentication. Greater values become the greatest, which are as good as none: a hundred years, and what no server answers.

-- squawk-ignore-file ban-drop-constraint
update app.settings
   set max_open_items                   = case when max_open_items > 1000000000 then 1000000000 else max_open_items end,
       requests_per_minute              = case when requests_per_minute > 100000000 then 100000000 else requests_per_minute end,
       organization_requests_per_minute = case when organization_requests_per_minute > 100000000 then 100000000
                                               else organization_requests_per_minute end,
       job_retention_days               = case when job_retention_days > 36500 then 36500 else job_retention_days end,
       report_retention_days            = case when report_retention_days > 36500 then 36500 else report_retention_days end,
       audit_retention_days             = case when audit_retention_days > 36500 then 36500 else audit_retention_days end,
       max_open_uploads                 = case when max_open_uploads > 1000000 then 1000000 else max_open_uploads end;

alter table app.settings
    drop constraint settings_max_open_items_check,
    drop constraint settings_requests_per_minute_check,
    drop constraint settings_organization_requests_per_minute_check,
    drop constraint settings_job_retention_days_check,
    drop constraint settings_report_retention_days_check,
    drop constraint settings_audit_retention_days_check,
    drop constraint settings_max_open_uploads_check,
    add constraint settings_max_open_items_check check (max_open_items between 1 and 1000000000),
    add constraint settings_requests_per_minute_check check (requests_per_minute between 1 and 100000000),
    add constraint settings_organization_requests_per_minute_check check (organization_requests_per_minute between 1 and 100000000),
    add constraint settings_job_retention_days_check check (job_retention_days between 1 and 36500),
    add constraint settings_report_retention_days_check check (report_retention_days between 1 and 36500),
    add constraint settings_audit_retention_days_check check (audit_retention_days between 1 and 36500),
    add constraint settings_max_open_uploads_check check (max_open_uploads between 1 and 1000000);
