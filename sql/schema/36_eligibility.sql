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

comment on type app.judged_tier is 'What one tier of a program pays for one device of a lookup. size (in the tier''s unit) and cost are those of one piece; amounts are US dollars for all pieces of the device. full_amount: before any limit; limited_amount: at most cap_percent of the cost; amount: what the caps leave of that. The last two are 0 if a requirement is not met or another offer is paid instead. conditions: requirements for which the lookup gives too few facts; then amount is 0, and conditional_amount is what the tier would pay.';
