-- Chapter 49, starts of drafts: a draft becomes one batch, and what was said about its columns is remembered.

-- Remembers what was said about the columns of a draft, for the 1,000 columns used last. Names too long for the index are skipped.
create or replace function app.remember_columns(p_upload public.lookup_uploads, p_now timestamptz) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into app.column_memory as m (organization_id, name, field, values, used_at)
    select distinct on (name) p_upload.organization_id, name, field, values, p_now
      from (select app.plain_name(c ->> 'header') as name, c ->> 'field' as field, c ->> 'how' as how,
                   coalesce(p_upload.value_maps -> (c ->> 'field'), '{}') as values
              from jsonb_array_elements(p_upload.columns) c) u
     where name <> '' and octet_length(name) <= 2000 and (how in ('given', 'remembered') or values <> '{}')
     order by name, field
    on conflict (organization_id, name) do update
       set field = excluded.field, values = excluded.values, used_at = excluded.used_at;
    delete from app.column_memory
     where organization_id = p_upload.organization_id
       and name in (select name from app.column_memory where organization_id = p_upload.organization_id
                     order by used_at desc, name offset 1000);
end;
$$;

-- Returns the response for a new batch. A draft becomes one batch: a second start finds it started.
create or replace function app.start_upload(p_organization_id uuid, p_upload_id uuid, p_options jsonb) returns json
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_upload  public.lookup_uploads := app.lock_draft(p_organization_id, p_upload_id);
    v_now     timestamptz;
    v_options jsonb;
    v_created json;
begin
    if jsonb_typeof(p_options) is distinct from 'object' then
        perform app.refuse_option('options', 'a JSON object');
    elsif jsonb_typeof(p_options -> 'skip_invalid') not in ('boolean', 'null') then
        perform app.refuse_option('skip_invalid', 'true or false');
    end if;
    v_options := jsonb_strip_nulls(jsonb_build_object('name', v_upload.name))
                 || case when v_upload.reuse_days is not null
                         then jsonb_build_object('reuse_results', jsonb_build_object('max_age_days', v_upload.reuse_days)) else '{}' end
                 || (p_options - 'skip_invalid')
                 || case when (p_options ->> 'skip_invalid')::boolean then '{"on_invalid": "skip"}' else '{}' end::jsonb;
    if v_upload.skipped_rows = v_upload.total_rows then
        perform app.refuse(
            400, 'invalid_item_count', 'All rows of the upload are skipped',
            app.hint_for_caller('Include at least one of them: PATCH the upload with {"unskip": [...]}.',
                                'Include at least one of them: select api.update_upload(organization, upload, ''{"unskip": [0]}'').'));
    end if;
    v_created := app.create_batch(p_organization_id, null, v_upload.check_devices, v_options, app.upload_file(v_upload));
    if v_created ->> 'job_id' is not null then
        v_now := app.clock();
        update public.lookup_uploads
           set status = 'started', job_id = (v_created ->> 'job_id')::uuid, updated_at = v_now
         where organization_id = p_organization_id and id = p_upload_id;
        perform app.remember_columns(v_upload, v_now);
    end if;
    return v_created;
end;
$$;

create or replace function api.start_upload(
    p_organization_id uuid  default app.claimed_organization_id(),
    p_upload_id       uuid  default null,
    p_options         jsonb default '{}',
    p_idempotency_key text  default null,
    p_fingerprint     bytea default null,
    p_traceparent     text  default null,
    out status        integer,
    out replayed      boolean,
    out body          json
)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_route constant text := 'POST /uploads/{upload_id}/start';
begin
    perform app.authorize(p_organization_id, 'jobs:write');
    perform app.check_organization(p_organization_id);
    perform app.check_json(p_options);
    if p_fingerprint is null and p_idempotency_key is not null then
        p_fingerprint := sha256(convert_to(concat_ws(' ', p_upload_id, p_options), 'UTF8'));
    end if;
    select r.status, r.replayed, r.body into status, replayed, body from app.start_request(p_organization_id, v_route, p_idempotency_key, p_fingerprint) r;
    if replayed then
        return;
    end if;
    body := app.start_upload(p_organization_id, p_upload_id, coalesce(p_options, '{}'));
    perform app.keep_traceparent(p_organization_id, body, p_traceparent);
    status := case when body ->> 'dry_run' is null then 201 else 200 end;
    perform app.end_request(p_organization_id, v_route, p_idempotency_key, status, body);
end;
$$;

comment on function api.start_upload(uuid, uuid, jsonb, text, bytea, text) is
'Creates a batch from a draft, without the skipped rows, and returns what api.submit_batch_lookup does. p_options are those of api.create_batch_lookup, and skip_invalid (true: on_invalid skip); the name and reuse_results are the upload''s unless given. The mappings of columns and values are remembered for the next file. The draft is kept until it expires. Its errors are those of api.submit_batch_lookup; further: 404 upload_not_found; 409 upload_started, with its job_id.';
grant execute on function api.start_upload(uuid, uuid, jsonb, text, bytea, text) to authenticated;
