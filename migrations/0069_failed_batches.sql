-- squawk-ignore-file require-concurrent-index-creation
-- Lists of failed and of cancelled batches come in order from an index of theirs. No other batch is in it, so it is made in one read of the
-- table, and costs nothing when a batch completes.
create index batch_lookup_jobs_unusual_idx on public.batch_lookup_jobs (organization_id, status, created_at desc, id desc)
    where status in ('failed', 'cancelled');
