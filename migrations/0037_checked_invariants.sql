-- Maintenance looks for violated invariants, and keeps how many it found.

alter table app.maintenance_state
    add column checked_at timestamptz not null default '-infinity',
    add column checked_since timestamptz not null default '-infinity',
    add column violations integer not null default 0;
comment on column app.maintenance_state.checked_at is 'When maintenance last looked for violated invariants, which it does every ten minutes.';
comment on column app.maintenance_state.checked_since is 'It checked the jobs that were updated since then; it stays while there are violations.';
comment on column app.maintenance_state.violations is 'How many violations it found: api.check_invariants() lists them.';
