begin;
select plan(23);

select api.create_organization('Acme') as org \gset
select is(api.create_organization('Acme'), :'org'::uuid, 'an organization is created once by its name');
select isnt(api.create_organization('Globex'), :'org'::uuid, 'another name is another organization');

-- Organizations of Clerk
select is(app.organization_id_of_clerk('org_2ab'), app.organization_id_of_clerk('org_2ab'), 'a Clerk id always makes the same id');
select matches(app.organization_id_of_clerk('org_2ab')::text, '^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-a[0-9a-f]{3}-[0-9a-f]{12}$', 'the id of a Clerk organization is a UUID of version 8');
select is(api.authenticate_clerk_member('org_2ab', 'Acme', 'admin') ->> 'organization_id', app.organization_id_of_clerk('org_2ab')::text, 'an organization seen first gets that id');
select is((select name from app.organizations where clerk_organization_id = 'org_2ab'), 'clerk:Acme', 'the name of an organization of Clerk says so');
select isnt(api.create_organization('Acme'), app.organization_id_of_clerk('org_2ab'), 'the name that an operator gives is never that of an organization of Clerk');
select throws_ok($$ select api.create_organization('clerk:Acme') $$, 'PT409',
    'Names that begin with clerk: are reserved for organizations created through Clerk', 'an operator cannot name an organization of Clerk by its slug');
select is(api.authenticate_clerk_member('org_2ac', 'Acme', 'admin') ->> 'organization_id', app.organization_id_of_clerk('org_2ac')::text, 'a slug that another organization of Clerk has is in nobody''s way');
select is(api.create_organization('Acme of Clerk', 'org_2ab'), app.organization_id_of_clerk('org_2ab'), 'an organization of Clerk can be named with its id');
select is(api.create_organization('Acme of Clerk'), app.organization_id_of_clerk('org_2ab'), 'an organization of Clerk that an operator named is known by that name');
select is(api.create_organization('Hooli', 'org_4ef'), app.organization_id_of_clerk('org_4ef'), 'an organization made for a Clerk organization has the id that policies go by');
select is(api.create_organization('Hooli', 'org_4ef'), app.organization_id_of_clerk('org_4ef'), 'an organization is made for a Clerk organization once');
select is(api.create_organization('Globex', 'org_3cd'), (select id from app.organizations where name = 'Globex'), 'an organization can be linked to a Clerk organization');
select is(api.authenticate_clerk_member('org_3cd', 'globex', 'member') ->> 'organization_id', api.create_organization('Globex')::text, 'an organization keeps its id when it is linked');
select throws_ok(format('select api.create_organization(%L, %L)', name, clerk), 'PT409', 'The organization or the Clerk organization is already linked to another one',
    format('a link is never replaced: %s, %s', name, clerk))
  from (values ('Globex', 'org_5gh'), ('Hooli', 'org_5gh'), ('Initech', 'org_3cd'), ('Acme', 'org_2ac')) x (name, clerk);
update app.organizations set clerk_organization_id = null where name = 'Hooli';
select throws_ok($$ select api.create_organization('Hooli', 'org_5gh') $$, 'PT409', 'The organization or the Clerk organization is already linked to another one',
    'an organization whose id is made of a Clerk id is never linked to another');
select throws_ok($$ select api.authenticate_clerk_member('org_4ef', 'hooli', 'admin') $$, 'PT403', 'This organization is not registered here', 'an organization whose link is gone lets nobody in by its id');
select ok((api.authenticate_clerk_member('org_2ab', null, 'admin') -> 'scopes')::jsonb ? 'keys:admin'
          and not (api.authenticate_clerk_member('org_2ab', null, 'member') -> 'scopes')::jsonb ? 'keys:admin', 'only admins may manage API keys');
select is(array(select unnest(app.role_scopes('auditor')) except select unnest(array['jobs:read', 'reports:read', 'applications:read', 'webhooks:read'])),
          '{}', 'a custom role may only read');

select * from finish();
rollback;
