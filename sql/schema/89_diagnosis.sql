-- Chapter 89, diagnosis: what is wrong, and what to do.

create type app.finding as (
    "check" text,
    state   text,
    finding text,
    advice  text
);

comment on type app.finding is 'What a check of api.diagnose found. state: ok, warning or problem; advice: what to do, null if all is well.';
