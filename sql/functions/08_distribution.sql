-- Chapter 08, distribution: where the rows of each table are when several nodes share the work. It needs no other chapter.

-- distributed: by organization_id, the rows of one organization together at one node; reference: the same rows at every node, seldom written;
-- local: every node has rows of its own.
create or replace function app.distribution() returns table (name text, kind text)
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select unnest(array[
               'public.batch_lookup_jobs', 'public.lookup_queue_items', 'app.queued_jobs', 'public.lookup_leases', 'app.organization_queue_state',
               'app.queue_wakeups', 'public.lookup_attempts', 'public.lookup_usage', 'app.job_budgets', 'app.known_jobs', 'app.known_results',
               'app.work_minutes', 'app.job_traces', 'public.batch_lookup_job_labels', 'public.lookup_job_columns', 'public.lookup_item_sources',
               'public.lookup_uploads', 'public.lookup_upload_rows', 'app.column_memory', 'app.idempotency_keys',
               'public.incentive_reports', 'public.incentive_report_sites', 'public.incentive_report_site_programs', 'app.deleted_rows',
               'app.customers', 'public.applications', 'app.incentive_profiles', 'app.incentive_calls', 'app.audit_events', 'app.api_key_uses',
               'app.webhook_configs', 'app.webhook_secrets', 'app.webhook_deliveries', 'app.webhook_attempts', 'app.webhook_queue_state',
               'app.webhook_wakeups']), 'distributed'
     union all
    select unnest(array[
               'app.settings', 'app.regions', 'app.organizations', 'app.api_keys', 'app.report_shares', 'app.device_categories',
               'app.device_category_sizes', 'app.devices', 'app.utilities', 'app.utility_service_areas', 'app.programs', 'app.program_utilities',
               'app.program_tiers', 'app.retry_policy', 'app.webhook_retry_schedule', 'app.schema_migrations', 'app.deployed_parts']), 'reference'
     union all
    select unnest(array[
               'app.rate_limit', 'app.upstream_state', 'app.workers', 'app.recent_writes', 'app.work_totals', 'app.maintenance_state']), 'local'
$$;

comment on function app.distribution() is 'Every table with its kind: distributed (by organization_id), reference (the same at every node) or local (each node has its own).';
