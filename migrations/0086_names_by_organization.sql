-- The parts of names kept no organization apart: see app.name_parts. Until maintenance has taken them in again, some minutes later, names are
-- looked for in the jobs.

delete from app.job_names;

insert into app.ended_changes (organization_id, id, change)
select id, gen_random_uuid(), 0 from app.organizations;

update app.maintenance_state set counts_from = clock_timestamp() + interval '2 minutes' where exists (select from app.organizations);
