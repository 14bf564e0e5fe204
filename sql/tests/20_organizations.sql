begin;
select plan(23);

select api.create_organization('Acme') as org \gset
select is(api.create_organization('Acme'), :'org'::uuid, 'an organization is created once by its name');
select isnt(api.create_organization('Globex'), :'org'::uuid, 'another name is another organization');

-- Organizations of Clerk
select is(app.organization_id_of_clerk('org_2ab'), app.organization_id_of_clerk('org_2ab'), 'a Clerk id always gives the same id');
select matches(app.organization_id_of_clerk('org_2ab')::text, '^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-a[0-9a-f]{3}-[0-9a-f]{12}$', 'the id of a Clerk organization is a UUID of version 8');
select is(api.authenticate_clerk_member('org_2ab', 'Acme', 'admin') ->> 'organization_id', app.organization_id_of_clerk('org_2ab')::text, 'an organization seen for the first time gets that id');
select is((select name from app.organizations where clerk_organization_id = 'org_2ab'), 'clerk:Acme', 'the name of a Clerk organization says that it is one');
select isnt(api.create_organization('Acme'), app.organization_id_of_clerk('org_2ab'), 'a name given by an operator is never that of a Clerk organization');
select throws_ok($$ select api.create_organization('clerk:Acme') $$, 'PT409',
    'Names that begin with clerk: are reserved for organizations created through Clerk', 'an operator cannot use the name of a Clerk organization');
select is(api.authenticate_clerk_member('org_2ac', 'Acme', 'admin') ->> 'organization_id', app.organization_id_of_clerk('org_2ac')::text, 'a slug that another Clerk organization has causes no conflict');
select is(api.create_organization('Acme of Clerk', 'org_2ab'), app.organization_id_of_clerk('org_2ab'), 'a Clerk organization can be named by giving its Clerk id');
select is(api.create_organization('Acme of Clerk'), app.organization_id_of_clerk('org_2ab'), 'a Clerk organization named by an operator is known by that name');
select is(api.create_organization('Hooli', 'org_4ef'), app.organization_id_of_clerk('org_4ef'), 'an organization created for a Clerk organization has the id that policies expect');
select is(api.create_organization('Hooli', 'org_4ef'), app.organization_id_of_clerk('org_4ef'), 'an organization is created for a Clerk organization once');
select is(api.create_organization('Globex', 'org_3cd'), (select id from app.organizations where name = 'Globex'), 'an organization can be linked to a Clerk organization');
select is(api.authenticate_clerk_member('org_3cd', 'globex', 'member') ->> 'organization_id', api.create_organization('Globex')::text, 'an organization keeps its id when it is linked');
select throws_ok(format('select api.create_organization(%L, %L)', name, clerk), 'PT409', 'The organization or the Clerk organization is already linked to another one',
    format('a link is never replaced: %s, %s', name, clerk))
  from (values ('Globex', 'org_5gh'), ('Hooli', 'org_5gh'), ('Initech', 'org_3cd'), ('Acme', 'org_2ac')) x (name, clerk);
update app.organizations set clerk_organization_id = null where name = 'Hooli';
select throws_ok($$ select api.create_organization('Hooli', 'org_5gh') $$, 'PT409', 'The organization or the Clerk organization is already linked to another one',
    'an organization whose id is derived from a Clerk id is never linked to another one');
select throws_ok($$ select api.authenticate_clerk_member('org_4ef', 'hooli', 'admin') $$, 'PT403', 'This organization is not registered here', 'an organization whose link was removed lets nobody in by its id');
select ok((api.authenticate_clerk_member('org_2ab', null, 'admin') -> 'scopes')::jsonb ? 'keys:admin'
          and not (api.authenticate_clerk_member('org_2ab', null, 'member') -> 'scopes')::jsonb ? 'keys:admin', 'only admins may manage API keys');
select is(array(select unnest(app.role_scopes('auditor')) except select unnest(array['jobs:read', 'reports:read', 'applications:read', 'webhooks:read'])),
          '{}', 'a custom role may only read');

select * from finish();
rollback;
