-- Offers can name programs that pay nothing beside them: totals added up what a household cannot get together.

alter table app.program_tiers
    add column excludes text[],
    add constraint program_tiers_excludes_check check (excludes <> '{}');

comment on column app.program_tiers.excludes is 'Programs that pay nothing for a device for which this offer is paid; null: none.';
