-- squawk-ignore-file require-concurrent-index-creation
-- Lists of the reports without a site come in order from an index of theirs, which has no other report.
create index incentive_reports_error_idx on public.incentive_reports (organization_id, created_at desc, id desc) where status = 'error';
