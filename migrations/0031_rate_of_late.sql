-- A job knows the rate of late.

alter table public.batch_lookup_jobs add column rate double precision;
comment on column public.batch_lookup_jobs.rate is 'Items that ended per second, as of updated_at: a moving average over half a minute; null: none has ended.';
