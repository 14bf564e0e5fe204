-- squawk-ignore-file ban-drop-function
-- Offers that depend on a household's income are kept, with their limits, and judged by what a lookup says of the household.

alter table app.program_tiers
    add column income_requirement text,
    add column income_limits      jsonb,
    add constraint program_tiers_income_check check (income_limits is null or income_requirement is not null and jsonb_typeof(income_limits) = 'object');

comment on column app.program_tiers.income_requirement is 'What the offer asks of the household''s income, in words; null: nothing.';
comment on column app.program_tiers.income_limits is 'Yearly income in US dollars up to which a household is eligible, by its size or its tax filing: {"1": [62600, 62600], "joint": [least, most]}. Where the limit depends on the county, which a lookup does not know: the least and the most of all. null: the source has no table.';

alter type app.judged_tier add attribute conditions text[], add attribute conditional_amount numeric;

comment on type app.judged_tier is 'What one tier of a program pays for one device of a lookup. Size in the tier''s unit and cost of one piece; amounts in US dollars for all pieces of the device: in full; limited to a share of the cost; and what is left of that under the cap. The last two are 0 if a requirement failed. Conditions are requirements that nobody knows whether they are met; what the tier then would pay is no amount but the conditional amount.';

drop function if exists app.check_requirements(app.program_tiers, app.devices, text, text, date);
drop function if exists app.judge_tiers(app.utilities, text, integer[], jsonb, date);
