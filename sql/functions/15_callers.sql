-- Chapter 15, callers: the organization in the claims of a token, and the check that a function may work for it.

-- A policy can neither look up an id in a table nor call a function that may fail, so our id is computed from Clerk's. It is of version 8
-- (custom), because version 5 needs SHA-1, which takes an extension; SHA-256 is built in.
create or replace function app.organization_id_of_clerk(p_clerk_organization_id text) returns uuid
language sql immutable strict
return overlay(overlay(left(encode(sha256(convert_to('clerk:' || p_clerk_organization_id, 'UTF8')), 'hex'), 32)
                       placing '8' from 13) placing 'a' from 17)::uuid;

comment on function app.organization_id_of_clerk(text) is 'The id that an organization first seen through Clerk gets: a UUID of version 8, made of the SHA-256 of its Clerk id.';

-- Our claim (a uuid), else Clerk's of version 2 (o.id) or 1 (org_id). A claim of another form is ignored.
create or replace function app.organization_id_of_claims(p_claims jsonb) returns uuid
language sql immutable
return case
    when p_claims ->> 'organization_id' is not null then
        case when p_claims ->> 'organization_id' ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then (p_claims ->> 'organization_id')::uuid end
    when coalesce(p_claims #>> '{o,id}', p_claims ->> 'org_id') ~ '^org_[0-9A-Za-z]{1,200}$' then
        app.organization_id_of_clerk(coalesce(p_claims #>> '{o,id}', p_claims ->> 'org_id'))
end;

comment on function app.organization_id_of_claims(jsonb) is 'The organization that the claims of a token name: organization_id (a uuid), else what o.id or org_id of Clerk stand for; null where they name none.';

-- Never raises: a policy that raises stops Supabase Realtime for every tenant.
create or replace function app.claimed_organization_id() returns uuid
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return app.organization_id_of_claims(nullif(current_setting('request.jwt.claims', true), '')::jsonb);
exception
    when data_exception or statement_too_complex or program_limit_exceeded then
        return null;
end;
$$;

comment on function app.claimed_organization_id() is 'The organization of the caller''s token, whose claims PostgREST and Realtime put into request.jwt.claims; null where they name none.';

-- Policies and defaults call these with the rights of the reader or caller.
grant execute on function app.organization_id_of_clerk(text), app.organization_id_of_claims(jsonb), app.claimed_organization_id()
   to batch_lookups_shell, authenticated, service_role;

-- Inside a security definer function, current_user is the owner. The caller is the role set by SET ROLE, else the one that logged in.
create or replace function app.authorize(p_organization_id uuid) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_role text := coalesce(nullif(current_setting('role'), 'none'), session_user);
begin
    if v_role in ('batch_lookups_shell', 'service_role')
       or pg_has_role(v_role, 'batch_lookups_shell', 'usage') or pg_has_role(v_role, 'service_role', 'usage') then
        if p_organization_id is null then
            raise sqlstate 'PT400' using
                message    = 'No organization is given',
                hint       = 'Pass p_organization_id, or a token with the claim organization_id.',
                constraint = 'organization_missing';
        end if;
    elsif p_organization_id is distinct from app.claimed_organization_id() or p_organization_id is null then
        raise sqlstate 'PT403' using
            message    = 'The token is not for this organization',
            hint       = 'Its claims must name the organization, as organization_id or as Clerk''s o.id or org_id.',
            constraint = 'organization_not_allowed';
    end if;
end;
$$;

comment on function app.authorize(uuid) is 'Allows the shell, service_role and the owner any organization, everybody else only the one in their claims. 400: no organization. 403: another one.';
