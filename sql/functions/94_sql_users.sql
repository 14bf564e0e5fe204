-- Chapter 94, SQL users: creates a batch from any table and waits for it, for users of psql, BI tools and rpc().

-- Runs with the caller's rights: it can only read what the caller can.
create or replace function api.file_of_table(p_table regclass) returns jsonb
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_names   text[];
    v_address text[] := '{}';
    v_rows    jsonb;
begin
    v_names := array(select attname from pg_attribute where attrelid = p_table and attnum > 0 and not attisdropped order by attnum);
    if not exists (select from pg_class where oid = p_table and relkind in ('r', 'p', 'v', 'm', 'f')) or v_names = '{}' then
        perform app.refuse(
            400, 'invalid_table', 'p_table must be the name of a table or view',
            'Such as ''sites'', after create temp table sites (like api.sites).');
    end if;
    -- A text column is like those of files, with the first line or the whole address.
    if exists (select from pg_attribute a join pg_type t on t.oid = a.atttypid
                where a.attrelid = p_table and a.attnum > 0 and a.attname = 'address' and t.typcategory <> 'S') then
        v_names := array_remove(v_names, 'address');
        v_address := array['street_1', 'street_2', 'city', 'state_or_province_code', 'postal_code', 'country_code'];
    end if;
    -- One row more than allowed, so that too many rows are noticed. With only t, a column named t would be read in place of the row.
    execute format('select jsonb_agg(to_jsonb(t.*)) from (select * from %s limit 10001) t', p_table) into v_rows;
    select jsonb_build_array(to_jsonb(v_names || v_address)) || coalesce(jsonb_agg(
               (select jsonb_agg(coalesce(nullif(r.site -> c.name, 'null'), '""') order by c.n) from unnest(v_names) with ordinality c (name, n))
               || (select coalesce(jsonb_agg(coalesce(nullif(r.site -> 'address' -> a.name, 'null'), '""') order by a.n), '[]')
                     from unnest(v_address) with ordinality a (name, n)) order by r.n), '[]')
      into v_rows
      from jsonb_array_elements(v_rows) with ordinality r (site, n);
    if jsonb_array_length(v_rows) > 10001 then
        perform app.refuse(
            400, 'invalid_item_count', 'A batch must have 1 to 10,000 items; this table has more',
            'Create several batches, each from a view of part of the table.');
    end if;
    return jsonb_build_object('header_row', 1, 'rows', v_rows);
end;
$$;

comment on function api.file_of_table(regclass) is 'The rows of a table or view that the caller may read, at most 10,000, as p_file of api.create_batch_lookup and api.create_upload: {header_row, rows}. 400: invalid_table, invalid_item_count.';
grant execute on function api.file_of_table(regclass) to authenticated;

-- Runs with the caller's rights: it can only read and create what the caller can.
create or replace function api.create_batch_lookup_from(
    p_table           regclass,
    p_organization_id uuid    default app.claimed_organization_id(),
    p_check_devices   boolean default true,
    p_name            text    default null,
    p_on_invalid      text    default null,
    p_dry_run         boolean default null,
    p_options         jsonb   default '{}'
) returns json
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    return api.create_batch_lookup(
        p_organization_id, null, p_check_devices,
        p_options || jsonb_strip_nulls(jsonb_build_object('name', p_name, 'on_invalid', p_on_invalid, 'dry_run', p_dry_run)), api.file_of_table(p_table));
end;
$$;

comment on function api.create_batch_lookup_from(regclass, uuid, boolean, text, text, boolean, jsonb) is
'Creates a batch from the rows of a table or view that the caller may read; for a query, create a temporary view. Columns are recognized by name as in a file (api.sites has the standard names). Instead of the parts of the address there may be a column address, of jsonb with the parts or of text with all of them; device_ids may be an array or text such as 1;4; other columns come back with the results. Values are corrected as in a file. p_options are those of api.create_batch_lookup, such as {"reuse_results": {"max_age_days": 30}, "sample": 50}; p_name, p_on_invalid (reject or skip) and p_dry_run override those in it. Results and errors are those of api.create_batch_lookup and api.file_of_table.';
grant execute on function api.create_batch_lookup_from(regclass, uuid, boolean, text, text, boolean, jsonb) to authenticated;

create or replace function api.create_upload_from(
    p_table           regclass,
    p_organization_id uuid    default app.claimed_organization_id(),
    p_check_devices   boolean default true,
    p_name            text    default null,
    p_reuse_results   jsonb   default null
) returns json
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    return api.create_upload(p_organization_id, null, p_check_devices, p_name, api.file_of_table(p_table), p_reuse_results);
end;
$$;

comment on function api.create_upload_from(regclass, uuid, boolean, text, jsonb) is
'Keeps the rows of a table or view that the caller may read as a draft; for a query, create a temporary view. Results and errors are those of api.create_upload and api.file_of_table. Then api.upload_rows shows what is wrong, api.update_upload corrects it, and api.start_upload creates the batch.';
grant execute on function api.create_upload_from(regclass, uuid, boolean, text, jsonb) to authenticated;

-- Runs with the caller's rights. Volatile, so that each statement sees what was committed meanwhile.
create or replace function api.wait_for_batch(p_job_id uuid, p_timeout interval default '5 minutes', p_organization_id uuid default app.claimed_organization_id())
returns json
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    -- If statements have a time limit, such as the eight seconds of Supabase, return a second before it.
    v_limit interval    := nullif(current_setting('statement_timeout'), '0')::interval;
    v_until timestamptz := least(clock_timestamp() + p_timeout, statement_timestamp() + greatest(v_limit - interval '1 second', v_limit / 2));
    v_pause double precision := 0.02;
    v_seen  integer;
    v_job   api.jobs;
    -- Whether the batch may have been created in this transaction. On a cluster, a transaction that has written at other nodes may have no
    -- id here.
    v_own   boolean     := pg_current_xact_id_if_assigned() is not null or to_regclass('pg_catalog.pg_dist_partition') is not null;
    v_state text;
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        perform app.refuse(
            400, 'unsupported_isolation_level', 'Waiting needs the isolation level read committed',
            'Call it outside a transaction, or in one that is read committed.');
    end if;
    -- The indexes begin with the organization, so look it up once: by the id alone, each iteration would scan the batches of all.
    if p_organization_id is null then
        select organization_id into p_organization_id from api.jobs where id = p_job_id;
    end if;
    loop
        select * into v_job from api.jobs where organization_id = p_organization_id and id = p_job_id;
        if not found then
            perform app.refuse(404, 'job_not_found', 'Batch job not found', 'select organization_id, id, name from api.jobs lists them.');
        end if;
        -- A row that is visible although its transaction is in progress is our own. Ask its node: each numbers transactions independently,
        -- and the number in a row lacks the upper half.
        if v_job.completed_at is null and clock_timestamp() < v_until and v_own then
            v_own := false;
            select pg_xact_status((x.now - (x.now - j.xmin::text::bigint & 4294967295))::text::xid8) into v_state
              from public.batch_lookup_jobs j, lateral (select pg_snapshot_xmax(pg_current_snapshot())::text::bigint as now) x
             where j.organization_id = v_job.organization_id and j.id = p_job_id;
            if v_state = 'in progress' then
                perform app.refuse(
                    409, 'batch_not_committed',
                    'The batch was created or changed in this transaction, and no worker sees that before the commit',
                    'Commit, then wait.');
            end if;
        end if;
        if v_seen is distinct from v_job.processed_items then
            raise notice '% of % sites', v_job.processed_items, v_job.total_items;
            v_seen := v_job.processed_items;
        end if;
        exit when v_job.completed_at is not null or clock_timestamp() >= v_until or p_timeout is null;
        perform pg_sleep(least(v_pause, extract(epoch from v_until - clock_timestamp())));
        v_pause := least(v_pause * 1.5, 1);
    end loop;
    return row_to_json(v_job);
end;
$$;

comment on function api.wait_for_batch(uuid, interval, uuid) is
'Waits until a batch has ended, at most p_timeout and less than statement_timeout, and returns its row of api.jobs: check its status. Progress comes as notices. The caller must be allowed to select from api.jobs; the organization may be left out. 400 unsupported_isolation_level: not read committed. 404: no such job. 409 batch_not_committed: the transaction that created it is still open.';
grant execute on function api.wait_for_batch(uuid, interval, uuid) to authenticated;
