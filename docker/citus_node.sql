-- At each node of the profile citus, after the script of its image that makes the extension, and app_role.sql: how a node logs in at another
-- one, which it does as the role that calls. That is the shell once the API or the worker has taken it on, so it logs in there, too.
\set app_password `echo "$APP_PASSWORD"`
\set owner_password `echo "$POSTGRES_PASSWORD"`
create role batch_lookups_shell login noinherit password :'app_password';
-- 0: any node.
insert into pg_dist_authinfo (nodeid, rolename, authinfo)
select 0, role, format('password=''%s''', replace(replace(password, '\', '\\'), '''', '\'''))
  from (values ('postgres', :'owner_password'), ('batch_lookups_app', :'app_password'), ('batch_lookups_shell', :'app_password')) r (role, password);
