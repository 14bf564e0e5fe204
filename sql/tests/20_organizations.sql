begin;
select plan(10);

select api.create_organization('Acme') as org \gset
select is(api.create_organization('Acme'), :'org'::uuid, 'an organization is created once by its name');
select isnt(api.create_organization('Globex'), :'org'::uuid, 'another name is another organization');

-- Organizations of Clerk
select is(app.organization_id_of_clerk('org_2ab'), app.organization_id_of_clerk('org_2ab'), 'a Clerk id always makes the same id');
select matches(app.organization_id_of_clerk('org_2ab')::text, '^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-a[0-9a-f]{3}-[0-9a-f]{12}$', 'the id of a Clerk organization is a UUID of version 8');
select is(api.authenticate_clerk_member('org_2ab', 'Acme', 'admin') ->> 'organization_id', app.organization_id_of_clerk('org_2ab')::text, 'an organization seen first gets that id');
select is((select name from app.organizations where clerk_organization_id = 'org_2ab'), 'org_2ab', 'an organization is named by its Clerk id where its slug is taken');
select is(api.create_organization('Globex', 'org_3cd'), (select id from app.organizations where name = 'Globex'), 'an organization can be linked to a Clerk organization');
select is(api.authenticate_clerk_member('org_3cd', 'globex', 'member') ->> 'organization_id', api.create_organization('Globex')::text, 'an organization keeps its id when it is linked');
select ok((api.authenticate_clerk_member('org_2ab', null, 'admin') -> 'scopes')::jsonb ? 'keys:admin'
          and not (api.authenticate_clerk_member('org_2ab', null, 'member') -> 'scopes')::jsonb ? 'keys:admin', 'only admins may manage API keys');
select is(array(select unnest(app.role_scopes('auditor')) except select unnest(array['jobs:read', 'reports:read', 'applications:read', 'webhooks:read'])),
          '{}', 'a custom role may only read');

select * from finish();
rollback;
