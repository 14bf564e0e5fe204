-- Chapter 15, callers: the organization in the claims of a token, and the check that a function may work for it.

-- A policy can neither look up an id in a table nor call a function that may fail, so our id is computed from Clerk's. It is a UUIDv8
-- (custom), because version 5 needs SHA-1, which takes an extension; SHA-256 is built in.
create or replace function app.organization_id_of_clerk(p_clerk_organization_id text) returns uuid
language sql immutable strict
return overlay(overlay(left(encode(sha256(convert_to('clerk:' || p_clerk_organization_id, 'UTF8')), 'hex'), 32)
                       placing '8' from 13) placing 'a' from 17)::uuid;

comment on function app.organization_id_of_clerk(text) is 'The id that an organization first seen through Clerk gets: a UUID of version 8, made of the SHA-256 of its Clerk id.';

-- Reads claims of Clerk's version 2 (o.id) or, where neither v nor o indicates that version, version 1 (org_id). Only a session token has a
-- sid: a token made from a template contains whatever the template says. pyshell/api/clerk.py reads the same claims by the same rules.
create or replace function app.clerk_organization_id_of_claims(p_claims jsonb) returns text
language sql immutable
return case
    when jsonb_typeof(p_claims -> 'sid') is distinct from 'string' or p_claims ->> 'sid' = '' or p_claims ->> 'sts' is not distinct from 'pending' then null
    when p_claims ? 'v' or p_claims ? 'o' then
        case when p_claims #>> '{o,id}' ~ '^org_[0-9A-Za-z]{1,200}$' then p_claims #>> '{o,id}' end
    when p_claims ->> 'org_id' ~ '^org_[0-9A-Za-z]{1,200}$' then
        p_claims ->> 'org_id'
end;

comment on function app.clerk_organization_id_of_claims(jsonb) is 'The Clerk organization in which the session of the claims is active; null: none, pending, or not a session''s token.';

-- Ours (a uuid) takes precedence over Clerk's. A claim of another form names no organization, nor does a session that is still pending.
create or replace function app.organization_id_of_claims(p_claims jsonb) returns uuid
language sql immutable
return case
    when p_claims ->> 'sts' is not distinct from 'pending' then null
    when p_claims ->> 'organization_id' is null then app.organization_id_of_clerk(app.clerk_organization_id_of_claims(p_claims))
    when p_claims ->> 'organization_id' ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then (p_claims ->> 'organization_id')::uuid
end;

comment on function app.organization_id_of_claims(jsonb) is 'The organization that the claims of a token name: organization_id (a uuid), else what Clerk''s o.id or org_id stands for; null where they name none.';

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

-- For policies of rows that only admins may read. It never raises, either.
create or replace function app.claimed_admin_organization_id() returns uuid
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_claims jsonb;
begin
    v_claims := nullif(current_setting('request.jwt.claims', true), '');
    return case when 'keys:admin' = any (app.scopes_of_claims(v_claims)) then app.organization_id_of_claims(v_claims) end;
exception
    when data_exception or statement_too_complex or program_limit_exceeded then
        return null;
end;
$$;

comment on function app.claimed_admin_organization_id() is 'The organization of the caller''s token if the caller is an admin of it; null otherwise.';

-- Only called once the claims have been parsed.
create or replace function app.claimed_subject() returns text
language sql stable
return nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub';

-- Policies and defaults call these with the rights of whoever reads or calls.
grant execute on function app.organization_id_of_clerk(text), app.clerk_organization_id_of_claims(jsonb), app.organization_id_of_claims(jsonb),
                          app.claimed_organization_id(), app.claimed_admin_organization_id()
   to batch_lookups_shell, authenticated, service_role;

-- By the role in the Clerk organization; a token without a role that names an organization of ours may do everything.
create or replace function app.scopes_of_claims(p_claims jsonb) returns text[]
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_role text := case when p_claims ? 'v' or p_claims ? 'o' then p_claims #>> '{o,rol}' else p_claims ->> 'org_role' end;
begin
    return case when v_role is null and p_claims ->> 'organization_id' is not null then app.all_scopes()
                else app.role_scopes(regexp_replace(v_role, '^org:', '')) end;
end;
$$;

comment on function app.scopes_of_claims(jsonb) is 'What the bearer of the claims may do, such as jobs:read.';

-- Inside a security definer function, current_user is the owner; the caller is the role set by SET ROLE, else the one that logged in.
create or replace function app.calling_role() returns text
language sql stable
return coalesce(nullif(current_setting('role'), 'none'), session_user);

-- Who acts: the actor that the HTTP API names, but for a member who calls by SQL, whoever the claims name.
create or replace function app.acting_caller(p_named text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if app.calling_role() = 'authenticated' then
        return app.claimed_subject();
    end if;
    return nullif(p_named, '');
end;
$$;

-- A hint worded for the caller: one for the API and the command line, which call as the shell, one for SQL users. null: no hint for them.
create or replace function app.hint_for_caller(p_http text, p_sql text) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if app.calling_role() = 'batch_lookups_shell' then
        return p_http;
    end if;
    return p_sql;
end;
$$;

create or replace function app.authorize(p_organization_id uuid, p_scope text) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_role text := app.calling_role();
begin
    if v_role in ('batch_lookups_shell', 'service_role')
       or pg_has_role(v_role, 'batch_lookups_shell', 'usage') or pg_has_role(v_role, 'service_role', 'usage') then
        if p_organization_id is null then
            perform app.refuse(
                400, 'organization_missing', 'No organization is given',
                'Pass p_organization_id, or a token with the claim organization_id.');
        end if;
    elsif p_organization_id is distinct from app.claimed_organization_id() or p_organization_id is null then
        if nullif(current_setting('request.jwt.claims', true), '') is null then
            if to_regclass('pg_catalog.pg_dist_node') is not null then
                if app.spans_nodes() then
                    perform app.refuse(
                        403, 'members_not_on_cluster', 'On a cluster of several nodes, members call functions in a transaction only',
                        'Only the node that takes the connection sees the claims of its token. Begin a transaction first, or use the HTTP API.');
                end if;
            end if;
            perform app.refuse(
                403, 'organization_not_allowed', 'This session has no claims of a token',
                'Set request.jwt.claims to them, as Supabase does: {"organization_id": "..."}.');
        end if;
        perform app.refuse(
            403, 'organization_not_allowed', 'The token is not for this organization',
            'Its claims must name the organization, as organization_id or as Clerk''s o.id or org_id.');
    elsif p_scope <> all (app.scopes_of_claims(current_setting('request.jwt.claims')::jsonb)) then
        perform app.refuse(
            403, 'insufficient_scope', format('This credential lacks the scope %s', p_scope),
            'What a member may do depends on the role in the Clerk organization.');
    end if;
end;
$$;

comment on function app.authorize(uuid, text) is 'Lets the shell, service_role and the owner work for any organization, everybody else for the one that their claims name, within the scopes of their role. 400, 403.';
