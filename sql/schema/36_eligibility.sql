-- Chapter 36, eligibility: what each tier of a program pays.

create type app.judged_tier as (
    program_id     text,
    program_name   text,
    location       text,
    tier           app.program_tiers,
    device         app.devices,
    category       text,
    quantity       bigint,
    place          bigint,
    size           numeric,
    size_known     boolean,
    cost           numeric,
    cost_known     boolean,
    failed         text[],
    completed      text[],
    full_amount    numeric,
    limited_amount numeric,
    amount         numeric,
    conditions     text[],
    conditional_amount numeric
);

comment on type app.judged_tier is 'What one tier of a program pays for one device of a lookup. Size in the tier''s unit and cost of one piece; amounts in US dollars for all pieces of the device: in full; limited to a share of the cost; and what is left of that under the cap. The last two are 0 if a requirement failed. Conditions are requirements that nobody knows whether they are met; what the tier then would pay is no amount but the conditional amount.';
