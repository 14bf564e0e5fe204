begin;
select plan(12);
\ir fixtures.psql

-- What claims name
select is(app.organization_id_of_claims('{"o": {"id": "org_2abCD"}}'), app.organization_id_of_claims('{"org_id": "org_2abCD"}'),
    'the two versions of Clerk''s tokens name the same organization');
select is(app.organization_id_of_claims('{"org_id": "org_2abCD", "organization_id": "018f3f6e-0000-7000-8000-000000000001"}'),
    '018f3f6e-0000-7000-8000-000000000001', 'our own claim goes before Clerk''s');
select is(app.organization_id_of_claims('{"organization_id": "x", "org_id": "org_2abCD"}'), null, 'a claim of ours in another form names nothing, whatever Clerk''s says');
select is(app.organization_id_of_claims('{"sub": "user_1"}'), null, 'claims without an organization name none');
select set_config('request.jwt.claims', '{"organization_id": ', true);
select is(app.claimed_organization_id(), null, 'claims that are no JSON name no organization, and raise nothing');
select set_config('request.jwt.claims', json_build_object('organization_id', :'org')::text, true);
select is(app.claimed_organization_id(), :'org'::uuid, 'the claims of the session name the caller''s organization');

-- For whom a caller may work
select lives_ok(format('select app.authorize(%L)', :'other_org'), 'the owner works for any organization');
create function pg_temp.authorizes(p_role text, p_organization_id uuid) returns text
language plpgsql as $$
begin
    perform set_config('role', p_role, true);
    begin
        perform app.authorize(p_organization_id);
    exception
        when sqlstate 'PT400' or sqlstate 'PT403' then
            perform set_config('role', 'none', true);
            return sqlstate;
    end;
    perform set_config('role', 'none', true);
    return 'may';
end;
$$;
grant execute on function app.authorize(uuid) to authenticated, service_role, batch_lookups_shell;
select is(pg_temp.authorizes('batch_lookups_shell', :'other_org'), 'may', 'the shell works for any organization');
select is(pg_temp.authorizes('service_role', :'other_org'), 'may', 'service_role works for any organization');
select is(pg_temp.authorizes('authenticated', :'org'), 'may', 'a member works for the organization of the claims');
select is(pg_temp.authorizes('authenticated', :'other_org'), 'PT403', 'a member works for no other organization');
select is(pg_temp.authorizes('authenticated', null), 'PT403', 'a member works for no organization that is null');

select * from finish();
rollback;
