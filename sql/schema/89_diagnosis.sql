-- Chapter 89, diagnosis: what is wrong, and what to do.

create type app.finding as (
    "check" text,
    state   text,
    finding text,
    advice  text
);

comment on type app.finding is 'What a check of api.diagnose found: its state is ok, warning or problem; advice says what to do, and is null where all is well.';
