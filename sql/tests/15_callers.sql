begin;
select plan(25);
\ir fixtures.psql

-- What claims name
select is(app.organization_id_of_claims('{"sid": "s", "o": {"id": "org_2abCD"}}'), app.organization_id_of_claims('{"sid": "s", "org_id": "org_2abCD"}'),
    'the two versions of Clerk''s tokens name the same organization');
select is(app.organization_id_of_claims('{"org_id": "org_2abCD", "organization_id": "018f3f6e-0000-7000-8000-000000000001"}'),
    '018f3f6e-0000-7000-8000-000000000001', 'our own claim takes precedence over Clerk''s');
select is(app.organization_id_of_claims('{"organization_id": "x", "org_id": "org_2abCD"}'), null, 'an invalid claim of ours names nothing, whatever Clerk''s says');
select is(app.organization_id_of_claims('{"sid": "s", "o": {"id": "org_2abCD"}}'), app.organization_id_of_clerk('org_2abCD'), 'a Clerk organization is known by the id derived from its Clerk id');
select is(app.organization_id_of_claims(c), null, format('claims %s name no organization', c))
  from unnest(array['{"org_id": "org_2abCD"}', '{"sid": "", "org_id": "org_2abCD"}', '{"sid": 1, "org_id": "org_2abCD"}', '{"sid": "s", "sts": "pending", "org_id": "org_2abCD"}',
                    '{"sid": "s", "v": 2, "org_id": "org_2abCD"}', '{"sid": "s", "o": {"id": null}, "org_id": "org_2abCD"}',
                    '{"sts": "pending", "organization_id": "018f3f6e-0000-7000-8000-000000000001"}']::jsonb[]) c;
select is(app.organization_id_of_claims('{"sub": "user_1"}'), null, 'claims without an organization name none');
select set_config('request.jwt.claims', '{"organization_id": ', true);
select is(app.claimed_organization_id(), null, 'claims that are not JSON name no organization, and raise nothing');
select set_config('request.jwt.claims', json_build_object('organization_id', :'org')::text, true);
select is(app.claimed_organization_id(), :'org'::uuid, 'the claims of the session name the caller''s organization');

-- For whom a caller may work
select lives_ok(format('select app.authorize(%L, ''jobs:write'')', :'other_org'), 'the owner works for any organization');
create function pg_temp.authorizes(p_role text, p_organization_id uuid) returns text
language plpgsql as $$
begin
    perform set_config('role', p_role, true);
    begin
        perform app.authorize(p_organization_id, 'jobs:write');
    exception
        when sqlstate 'PT400' or sqlstate 'PT403' then
            perform set_config('role', 'none', true);
            return sqlerrm;
    end;
    perform set_config('role', 'none', true);
    return 'may';
end;
$$;
grant execute on function app.authorize(uuid, text), app.calling_role(), app.scopes_of_claims(jsonb), app.role_scopes(text), app.all_scopes() to authenticated, service_role, batch_lookups_shell;
select is(pg_temp.authorizes('batch_lookups_shell', :'other_org'), 'may', 'the shell works for any organization');
select is(pg_temp.authorizes('service_role', :'other_org'), 'may', 'service_role works for any organization');
select is(pg_temp.authorizes('authenticated', :'org'), 'may', 'a member works for the organization of the claims');
select is(pg_temp.authorizes('authenticated', :'other_org'), 'The token is not for this organization', 'a member works for no other organization');

-- By which role
select is(pg_temp.authorizes('authenticated', app.organization_id_of_clerk('org_2abCD')), p.answer, format('a member of Clerk with %s is answered %s', p.claims, p.answer))
  from (values ('{"sid": "s", "org_id": "org_2abCD", "org_role": "org:viewer"}', 'This credential lacks the scope jobs:write'),
               ('{"sid": "s", "org_id": "org_2abCD", "org_role": "org:member"}', 'may'),
               ('{"sid": "s", "v": 2, "o": {"id": "org_2abCD", "rol": "viewer"}, "org_role": "admin"}', 'This credential lacks the scope jobs:write'),
               ('{"sid": "s", "v": 2, "o": {"id": "org_2abCD", "rol": "admin"}}', 'may')) p (claims, answer)
 cross join lateral set_config('request.jwt.claims', p.claims, true);
select is(pg_temp.authorizes('authenticated', null), 'The token is not for this organization', 'a member works for no organization that is null');
select set_config('request.jwt.claims', '', true);
select is(pg_temp.authorizes('authenticated', :'org'), 'This session has no claims of a token', 'a session without claims is told so');

select * from finish();
rollback;
