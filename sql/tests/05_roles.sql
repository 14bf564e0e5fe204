begin;
select plan(6);

select bag_has($$ select rolname::text from pg_roles where not rolcanlogin and not rolinherit $$,
    $$ values ('anon'), ('authenticated'), ('service_role'), ('authenticator'), ('batch_lookups_shell') $$, 'the roles exist, cannot log in and inherit nothing');
select ok(pg_has_role('batch_lookups_shell', 'authenticated', 'member'), 'the shell may become authenticated to read as a subscriber');
select ok(not pg_has_role('authenticated', 'batch_lookups_shell', 'member'), 'members cannot become the shell');
select results_eq(
    $$ select r, has_schema_privilege(r, 'api', 'usage'), has_schema_privilege(r, 'app', 'usage'), has_schema_privilege(r, 'api', 'create')
         from unnest(array['anon', 'authenticated', 'batch_lookups_shell']) r order by r $$,
    $$ values ('anon', false, false, false), ('authenticated', true, true, false), ('batch_lookups_shell', true, true, false) $$,
    'members and the shell may use the schemas, anon may not, and nobody may create anything in them');
select is_empty(
    $$ select d.oid from pg_default_acl d cross join lateral aclexplode(d.defaclacl) a
        where d.defaclnamespace in ('app'::regnamespace, 'api'::regnamespace) and a.grantee in ('anon'::regrole, 'authenticated'::regrole) $$,
    'new objects in these schemas are not granted to anon and authenticated by default');

select is_empty(
    $$ select c.oid from pg_class c where c.relowner = 'batch_lookups_app'::regrole
        union all select p.oid from pg_proc p where p.proowner = 'batch_lookups_app'::regrole
        union all select m.roleid from pg_auth_members m where m.member = 'batch_lookups_app'::regrole and m.roleid <> 'batch_lookups_shell'::regrole
        union all select r.oid from pg_roles r where r.rolname = 'batch_lookups_app' and (r.rolsuper or r.rolinherit or r.rolcreaterole or r.rolcreatedb or r.rolbypassrls) $$,
    'the role that the API logs in as owns nothing and can only become the shell');

select * from finish();
rollback;
