-- squawk-ignore-file ban-drop-function
-- Programs of cities.

alter table app.programs add column cities text[];
comment on column app.programs.cities is 'The cities that it is for, as app.plain_name leaves their names; null: all places of its scope. The city of an address is that of its mail, whose area may be larger than the city.';

drop function if exists app.find_programs(app.utilities);
drop function if exists app.judge_tiers(app.utilities, text, integer[], jsonb, date, jsonb);
