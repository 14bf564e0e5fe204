-- squawk-ignore-file ban-drop-function, ban-drop-column
-- When a key was used last is written by requests, and the keys by their administrators alone.

create table app.api_key_uses (
    organization_id uuid        not null,
    api_key_id      uuid        not null,
    used_at         timestamptz not null,

    constraint api_key_uses_pkey primary key (organization_id, api_key_id),
    constraint api_key_uses_organization_id_fkey foreign key (organization_id) references app.organizations (id) on delete cascade
) with (fillfactor = 50);

comment on table app.api_key_uses is 'When each API key was used last. Apart from the keys, so that a request writes only what is its organization''s.';
comment on column app.api_key_uses.used_at is 'Exact to a minute.';

insert into app.api_key_uses (organization_id, api_key_id, used_at)
select organization_id, id, last_used_at from app.api_keys where last_used_at is not null;

drop function if exists app.api_key_json(app.api_keys);
alter table app.api_keys drop column last_used_at;
