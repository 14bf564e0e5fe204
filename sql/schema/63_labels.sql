-- Chapter 63, labels: keys and values by which an organization finds its jobs.

create table public.batch_lookup_job_labels (
    organization_id uuid not null,
    job_id          uuid not null,
    key             text not null,
    value           text not null,

    constraint batch_lookup_job_labels_pkey primary key (organization_id, job_id, key),
    constraint batch_lookup_job_labels_job_fkey foreign key (organization_id, job_id) references public.batch_lookup_jobs (organization_id, id),
    constraint batch_lookup_job_labels_key_check check (key ~ '^[A-Za-z0-9._~/-]{1,64}$'),
    constraint batch_lookup_job_labels_value_check check (length(value) between 1 and 256)
);

create index batch_lookup_job_labels_value_idx on public.batch_lookup_job_labels (organization_id, key, value, job_id);

comment on table public.batch_lookup_job_labels is 'Labels of jobs, at most 16 each: given with the upload, deleted with the job.';
