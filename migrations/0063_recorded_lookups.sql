-- What a flush answers to those who record for one organization or for several.

create type app.recorded_lookups as (
    verdicts text[],
    signs    app.outage_signs
);

comment on type app.recorded_lookups is 'What came of a flush: a verdict for each outcome, in their order, and what they say about the upstream.';
