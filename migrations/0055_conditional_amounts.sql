-- squawk-ignore-file ban-drop-function
-- Reports sum what depends on the households apart from their totals.

alter table public.incentive_reports
    add column conditional_incentive_amount numeric not null default 0,
    add constraint incentive_reports_conditional_check check (conditional_incentive_amount >= 0);
alter table public.incentive_report_sites
    add column conditional_incentive_amount numeric not null default 0,
    add constraint incentive_report_sites_conditional_check check (conditional_incentive_amount >= 0);

comment on column public.incentive_reports.conditional_incentive_amount is 'US dollars of offers that depend on facts about the households which nobody told; in no total.';
comment on column public.incentive_report_sites.conditional_incentive_amount is 'US dollars of offers that depend on facts about the household which nobody told; in no total.';

drop function if exists app.count_items(public.lookup_queue_items[]);
drop function if exists app.update_report(uuid, uuid, timestamptz, integer, integer, numeric);
