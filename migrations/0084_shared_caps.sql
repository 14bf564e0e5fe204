-- Offers of a program can share a cap: totals were more than the program pays a household for all of them.

alter table app.program_tiers
    add column shared_cap numeric,
    add constraint program_tiers_shared_cap_check check (shared_cap > 0);

comment on column app.program_tiers.shared_cap is 'Most that a site gets from all offers of the program that have this cap, together, in US dollars; null: they have none.';
