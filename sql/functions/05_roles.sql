-- Chapter 05, roles: creates them and denies everything to members and to PUBLIC. Each function grants itself to members in its own
-- chapter; chapter 95 says who may read which rows.

do $$
declare
    v_role text;
    v_as   text;
begin
    -- Supabase's roles, the role of the Python shell and the one for dashboards; each is created only if it is missing.
    for v_role, v_as in values ('anon', 'nologin noinherit'), ('authenticated', 'nologin noinherit'), ('service_role', 'nologin noinherit'),
                               ('authenticator', 'nologin noinherit'), ('batch_lookups_shell', 'nologin noinherit'),
                               ('batch_lookups_readonly', 'nologin noinherit'), ('batch_lookups_app', 'nologin noinherit')
    loop
        if exists (select from pg_roles where rolname = v_role) then
            continue;
        end if;
        begin
            -- BYPASSRLS for service_role, if we are allowed to grant it.
            if v_role = 'service_role' and (select rolsuper or rolbypassrls and rolcreaterole from pg_roles where rolname = current_user) then
                v_as := v_as || ' bypassrls';
            end if;
            execute format('create role %I %s', v_role, v_as);
            -- PostgREST logs in as authenticator and switches to the role in the token.
            if v_role = 'authenticator' then
                grant anon, authenticated, service_role to authenticator;
            end if;
        exception
            -- Roles are shared by the whole cluster: the deploy of another database may have just created it.
            when duplicate_object or unique_violation then null;
            when insufficient_privilege then
                raise insufficient_privilege using
                    message = format('%s may not create the role %s', current_user, v_role),
                    hint = format('As a superuser: alter role %I createrole', current_user);
        end;
    end loop;
    if not pg_has_role(current_user, 'batch_lookups_shell', 'usage') then
        begin
            execute format('grant batch_lookups_shell to %I', current_user);
        exception
            when insufficient_privilege then
                raise insufficient_privilege using
                    message = format('%s is not a member of batch_lookups_shell, which another database of this server made', current_user),
                    hint = format('As a superuser: grant batch_lookups_shell to %I', current_user);
        end;
    end if;
    -- The login role of the API and the worker, once an operator gives it LOGIN and a password: it owns nothing and only switches to the
    -- shell's role.
    if not pg_has_role('batch_lookups_app', 'batch_lookups_shell', 'member') then
        begin
            grant batch_lookups_shell to batch_lookups_app;
        exception
            when insufficient_privilege then
                raise warning 'batch_lookups_app is not a member of batch_lookups_shell: the API cannot run as that role here';
        end;
    end if;
    -- The shell reads rows in the role of the subscribers that it serves.
    if not pg_has_role('batch_lookups_shell', 'authenticated', 'member') then
        begin
            grant authenticated to batch_lookups_shell;
        exception
            when insufficient_privilege then
                raise warning 'batch_lookups_shell is not a member of authenticated: the API cannot serve /realtime/v1/websocket here';
        end;
    end if;
end;
$$;

revoke all on schema app, api from public;
do $$
declare
    v_object text;
begin
    -- Only our own objects, by the names that a deploy puts here: an operator may have added functions and views to these schemas.
    for v_object in
        select 'function ' || oid::regprocedure
          from pg_proc
         where pronamespace in ('app'::regnamespace, 'api'::regnamespace)
           and pronamespace::regnamespace || '.' || proname = any (string_to_array(current_setting('batch_lookups.own_names'), ','))
         union all
        select 'table ' || oid::regclass
          from pg_class
         where relnamespace in ('app'::regnamespace, 'api'::regnamespace) and relkind in ('r', 'p', 'v')
           and relnamespace::regnamespace || '.' || relname = any (string_to_array(current_setting('batch_lookups.own_names'), ','))
    loop
        execute format('revoke all on %s from public, anon, authenticated', v_object);
    end loop;
    -- The number of this command in the transaction: 94_plans uses it to tell which functions the chapters define after it.
    perform set_config('batch_lookups.last_revoked', (select max(cmin::text::bigint)::text from pg_proc where xmin = pg_current_xact_id()::xid), true);
end;
$$;

-- Undo default privileges by which a project grants every new object to these roles.
alter default privileges in schema app, api revoke all on functions from anon, authenticated;
alter default privileges in schema app, api revoke all on tables from anon, authenticated;
alter default privileges in schema app, api revoke all on sequences from anon, authenticated;
-- Default privileges without a schema belong to the operator: they are suspended while the chapters run, and chapter 95 restores them.
do $$
declare
    v_words text[];
    v_back  text := '';
begin
    for v_words in
        select array[a.privilege_type, case d.defaclobjtype when 'f' then 'functions' else 'tables' end, coalesce(quote_ident(r.rolname), 'public'),
                     case when a.is_grantable then ' with grant option' else '' end]
          from pg_default_acl d
         cross join aclexplode(d.defaclacl) a
          left join pg_roles r on r.oid = a.grantee
         where d.defaclrole = current_user::regrole and d.defaclnamespace = 0 and d.defaclobjtype in ('f', 'r')
           and (a.grantee = 0 or r.rolname in ('anon', 'authenticated'))
    loop
        execute format('alter default privileges revoke %s on %s from %s', v_words[1], v_words[2], v_words[3]);
        v_back := v_back || format('alter default privileges grant %s on %s to %s%s;', v_words[1], v_words[2], v_words[3], v_words[4]);
    end loop;
    perform set_config('batch_lookups.default_privileges', v_back, true);
end;
$$;

grant usage on schema app, api to batch_lookups_shell, authenticated, service_role;
grant usage on schema api to batch_lookups_readonly;
