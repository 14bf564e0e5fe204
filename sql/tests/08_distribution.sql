begin;
select plan(7);
\ir fixtures.psql

create temporary view keys as
select i.indexrelid::regclass::text as key, d.kind, i.indisunique, a.attname as first_column
  from app.distribution() d
  join pg_index i on i.indrelid = d.name::regclass
  join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0];

create temporary view foreign_keys as
select c.conname::text as key, f.kind, t.kind as referred
  from pg_constraint c
  join app.distribution() f on f.name::regclass = c.conrelid
  join app.distribution() t on t.name::regclass = c.confrelid
 where c.contype = 'f';

select bag_eq(
    $$ select name from app.distribution() $$,
    $$ select relnamespace::regnamespace || '.' || relname from pg_class
        where relnamespace in ('app'::regnamespace, 'public'::regnamespace) and relkind in ('r', 'p') $$,
    'every table has one kind');
select is_empty(
    $$ select name from app.distribution()
        where kind = 'distributed'
          and not exists (select from pg_attribute a where a.attrelid = name::regclass and a.attname = 'organization_id' and a.attnotnull) $$,
    'every distributed table has an organization_id');
select is_empty(
    $$ select key from keys where kind = 'distributed' and indisunique and first_column <> 'organization_id' $$,
    'keys of distributed tables are unique within an organization');
select is_empty(
    $$ select key from foreign_keys where referred = 'distributed' and kind <> 'distributed' $$,
    'only distributed tables refer to distributed tables');
select is_empty(
    $$ select key from foreign_keys where 'local' in (kind, referred) $$,
    'local tables refer to nothing, and nothing refers to them');
select set_eq(
    $$ select name from app.distribution() where kind <> 'distributed'
        and exists (select from pg_attribute a where a.attrelid = name::regclass and a.attname = 'organization_id') $$,
    array['app.api_keys', 'app.report_shares', 'app.recent_writes'],
    'credentials, which are looked up before their organization is known, and positions of a node are not distributed');

select is(app.is_node(), false, 'a database that is not distributed serves all of its organizations');

select * from finish();
rollback;
