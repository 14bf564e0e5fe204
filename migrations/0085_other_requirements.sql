-- Offers can say what they ask for that no lookup checks, such as a home energy assessment before the work.

alter table app.program_tiers add column other_requirements text;

comment on column app.program_tiers.other_requirements is 'What the offer asks for that no lookup checks, in words; null: nothing.';
