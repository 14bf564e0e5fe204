-- Whoever asks how a job stands counts its leases: by job, or the count steps over those of all earlier jobs while a transaction holds back
-- vacuum. An index of what is in processing is small, and soon built.

-- squawk-ignore require-concurrent-index-deletion
drop index public.lookup_queue_items_leased_idx;
-- squawk-ignore require-concurrent-index-creation
create index lookup_queue_items_leased_idx on public.lookup_queue_items (organization_id, job_id)
    where status = 'processing';
