-- Chapter 42, uploads: the options of a new batch, and the dry run.

create or replace function app.upload_option_names() returns text[]
language sql immutable
return array['name', 'dry_run', 'on_invalid', 'labels', 'reuse_results', 'sample', 'max_lookups', 'when_limit_reached'];

-- Options outside the body (query parameters) take precedence over those in it.
create or replace function app.upload_options(
    p_request jsonb, p_options jsonb, out name text, out dry_run boolean, out on_invalid text, out labels jsonb,
    out spending jsonb
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_given   jsonb := case when jsonb_typeof(p_request) = 'object' then p_request - 'items' else '{}' end;
    v_unknown text;
begin
    if jsonb_typeof(p_options) <> 'object' then
        perform app.refuse_option('options', 'a JSON object');
    end if;
    v_unknown := (select string_agg(left(k, 100), ', ') from (select jsonb_object_keys(p_options - app.upload_option_names()) limit 10) u (k));
    if v_unknown is not null then
        perform app.refuse(
            400, 'unknown_option', format('Unknown options: %s', v_unknown),
            format('The options are %s.', array_to_string(app.upload_option_names(), ', ')));
    end if;
    v_given := v_given || coalesce(p_options, '{}');
    if jsonb_typeof(v_given -> 'name') not in ('string', 'null') or btrim(v_given ->> 'name') = '' or length(v_given ->> 'name') > 200 then
        perform app.refuse_option('name', 'a string of 1 to 200 characters');
    elsif jsonb_typeof(v_given -> 'dry_run') not in ('boolean', 'null') then
        perform app.refuse_option('dry_run', 'true or false');
    elsif coalesce(v_given -> 'on_invalid', 'null') not in ('"reject"', '"skip"', 'null') then
        perform app.refuse_option('on_invalid', 'one of reject, skip');
    end if;
    perform app.check_labels(v_given -> 'labels');
    spending := app.spending_options(v_given);
    name := v_given ->> 'name';
    labels := coalesce(nullif(v_given -> 'labels', 'null'), '{}');
    dry_run := coalesce((v_given ->> 'dry_run')::boolean, false);
    on_invalid := coalesce(v_given ->> 'on_invalid', 'reject');
end;
$$;

-- What an upload says about lookups to spend: those of {reuse_days, sample, max_lookups, when_limit_reached} that are given.
create or replace function app.spending_options(p_options jsonb) returns jsonb
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_days jsonb := p_options #> '{reuse_results,max_age_days}';
begin
    if coalesce(p_options -> 'reuse_results', 'null') <> 'null'
       and (jsonb_typeof(p_options -> 'reuse_results') <> 'object' or (p_options -> 'reuse_results') - 'max_age_days' <> '{}'
            or app.is_whole_number(v_days, 1, 3650) is not true) then
        perform app.refuse_option('reuse_results', 'an object {"max_age_days": a whole number from 1 to 3650}');
    end if;
    if app.is_whole_number(nullif(p_options -> 'sample', 'null'), 1, 10000) is false then
        perform app.refuse_option('sample', 'a whole number from 1 to 10000');
    elsif app.is_whole_number(nullif(p_options -> 'max_lookups', 'null'), 1, 1000000) is false then
        perform app.refuse_option('max_lookups', 'a whole number from 1 to 1000000');
    elsif coalesce(p_options -> 'when_limit_reached', 'null') not in ('"fail"', '"wait"', 'null') then
        perform app.refuse_option('when_limit_reached', 'one of fail, wait');
    end if;
    -- Integers may be written as 30.0.
    return jsonb_strip_nulls(jsonb_build_object(
        'reuse_days', v_days::integer, 'sample', nullif(p_options -> 'sample', 'null')::integer,
        'max_lookups', nullif(p_options -> 'max_lookups', 'null')::integer,
        'when_limit_reached', p_options -> 'when_limit_reached'));
end;
$$;

create or replace function app.is_whole_number(p_value jsonb, p_least integer, p_greatest integer) returns boolean
language sql immutable
return case jsonb_typeof(p_value) when 'number' then p_value::numeric between p_least and p_greatest and p_value::numeric = trunc(p_value::numeric)
                                  else case when p_value is not null then false end end;

-- The item with another position and other problems.
create or replace function app.changed_item(p_item app.batch_item, p_position integer, p_problems jsonb[]) returns app.batch_item
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    p_item.position := p_position;
    p_item.problems := p_problems;
    return p_item;
end;
$$;

-- The items, with a problem added to each valid one whose reference_id occurs in an earlier valid one.
create or replace function app.marked_duplicates(p_items app.batch_item[]) returns app.batch_item[]
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_repeated jsonb := (select jsonb_object_agg(reference_id, first)
                           from (select i.reference_id, min(i.position) as first
                                   from unnest(p_items) i
                                  where i.problems is null
                                  group by i.reference_id
                                 having count(*) > 1) r);
begin
    if v_repeated is null then
        return p_items;
    end if;
    return array(
        select case when i.problems is null and i.position > (v_repeated ->> i.reference_id)::integer
                    then app.changed_item(i, i.position, array[app.problem('reference_id', 'duplicate_reference_id', to_jsonb(i.reference_id),
                                                                           v_repeated ->> i.reference_id)])
                    else i end
          from unnest(p_items) i
         order by i.position);
end;
$$;

-- Only items with a problem or a warning: most have neither, and passing all of them around takes time.
create or replace function app.noted_items(p_items app.batch_item[]) returns app.batch_item[]
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    -- In their original order.
    select array(select i from unnest(p_items) i where i.problems is not null or i.warnings is not null)
$$;

-- The items to store. Their positions have no gaps, because a position is also an offset in the list of items.
create or replace function app.valid_items(p_items app.batch_item[]) returns app.batch_item[]
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select array(
        select app.changed_item(i, (row_number() over (order by i.position) - 1)::integer, null)
          from unnest(p_items) i
         where i.problems is null
         order by i.position)
$$;

-- The warnings of the first hundred valid items that have any; corrections in a file are also given in detail.
create or replace function app.item_warnings(p_items app.batch_item[], p_lines integer[] default null, p_columns jsonb default null) returns json
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select (select coalesce(json_agg(app.join_objects(
                       json_strip_nulls(json_build_object(
                           'index', i.position,
                           'record', case when p_lines is not null then i.position + 1 end,
                           'line', p_lines[i.position + 1],
                           'reference_id', i.reference_id,
                           'warnings', i.warnings)),
                       json_build_object('details', (select coalesce(json_agg(app.told_warning(w, p_columns) order by n), '[]')
                                                       from unnest(i.details) with ordinality d (w, n)))) order by i.position), '[]')
              from (select * from unnest(p_items) where problems is null and warnings <> '{}' order by position limit 100) i)
$$;

-- How many valid items have warnings.
create or replace function app.count_warned(p_items app.batch_item[]) returns bigint
language sql immutable
set search_path = pg_catalog, pg_temp
as $$
    select (select count(*) from unnest(p_items) where problems is null and warnings <> '{}')
$$;

-- Estimated seconds for the open items of the organization plus these, at its share of the rate limit; null: there is no rate limit.
create or replace function app.estimated_seconds(p_organization_id uuid, p_count bigint) returns numeric
language plpgsql stable
set search_path = pg_catalog, pg_temp set jit = off
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
    v_now    timestamptz := app.clock();
    v_open   bigint;
    v_others bigint;
begin
    select coalesce(sum(total_items - processed_items), 0) into v_open
      from public.batch_lookup_jobs
     where organization_id = p_organization_id and status in ('pending', 'processing');
    -- Those with something to claim, by the ready list: they may have any number of open jobs.
    select count(*) into v_others
      from (select organization_id from app.organization_queue_state where organization_id <> p_organization_id and ready_at <= v_now
             union
            select organization_id from app.queue_wakeups where organization_id <> p_organization_id and ready_at <= v_now) o;
    -- Counts only its own items, at its share of the rate: how much the others have open does not matter.
    return (select round((v_open + p_count) * (1 + v_others) / lookups_per_second, 1) from app.settings);
end;
$$;

create or replace function app.create_batch(
    p_organization_id uuid, p_request jsonb, p_check_devices boolean, p_options jsonb, p_file jsonb default null
) returns json
language plpgsql volatile
set search_path = pg_catalog, pg_temp set work_mem = '16MB'
as $$
declare
    v_file       record;
    v_options    record;
    v_parsed     app.batch_item[];
    v_valid      app.batch_item[];
    v_noted      app.batch_item[];
    v_duplicates text[];
    v_known      integer;
    v_created    json;
begin
    v_file := app.read_file(p_request, p_file);
    v_options := app.upload_options(p_request, p_options);
    v_parsed := array(select i from app.parse_batch_items(v_file.items, p_check_devices, v_file.item_notes) i);
    if v_options.on_invalid = 'skip' then
        v_parsed := app.marked_duplicates(v_parsed);
    end if;

    v_noted := app.noted_items(v_parsed);
    if v_options.dry_run then
        v_valid := app.valid_items(v_parsed);
        v_duplicates := app.duplicate_reference_ids(v_parsed);
        v_known := app.count_known(p_organization_id, v_valid, (v_options.spending ->> 'reuse_days')::integer);
        return json_build_object(
            'dry_run', true,
            'valid', cardinality(v_valid) > 0
                     and (v_options.on_invalid = 'skip' or cardinality(v_valid) = cardinality(v_parsed) and v_duplicates = '{}'),
            'total_items', cardinality(v_parsed),
            'valid_items', cardinality(v_valid),
            'total_invalid', cardinality(v_parsed) - cardinality(v_valid),
            'invalid_items', app.invalid_items(v_noted, v_file.lines, v_file.places),
            'duplicates', v_duplicates,
            'warnings', app.item_warnings(v_noted, v_file.lines, v_file.places),
            'total_warnings', app.count_warned(v_noted),
            'problem_groups', app.problem_groups(v_noted, false, v_file.lines, v_file.places),
            'warning_groups', app.problem_groups(v_noted, true, v_file.lines, v_file.places),
            'lookups', cardinality(v_valid) - v_known,
            'known_already', v_known,
            'estimated_duration_seconds', app.estimated_seconds(p_organization_id, cardinality(v_valid) - v_known),
            'columns', v_file.columns,
            'notes', v_file.notes || app.unread_notes(p_organization_id, (v_options.spending ->> 'reuse_days')::integer));
    elsif v_options.on_invalid = 'reject' then
        perform app.check_batch_items(v_parsed, v_file.lines, v_file.places, v_file.notes);
        v_valid := v_parsed;
    else
        v_valid := app.valid_items(v_parsed);
        if v_valid = '{}' then
            perform app.check_batch_items(v_parsed, v_file.lines, v_file.places, v_file.notes);
        end if;
    end if;

    v_created := app.store_batch(
        p_organization_id, v_valid, p_name => v_options.name, p_spending => v_options.spending, p_labels => v_options.labels);
    if v_file.header is not null or v_file.sources is not null then
        perform app.store_sources(p_organization_id, (v_created ->> 'job_id')::uuid, v_parsed, v_file.header, v_file.sources);
    end if;
    return app.join_objects(
        v_created,
        json_build_object(
            'total_invalid', cardinality(v_parsed) - cardinality(v_valid),
            'invalid_items', app.invalid_items(v_noted, v_file.lines, v_file.places),
            'warnings', app.item_warnings(v_noted, v_file.lines, v_file.places),
            'total_warnings', app.count_warned(v_noted),
            'notes', v_file.notes || app.unread_notes(p_organization_id, (v_options.spending ->> 'reuse_days')::integer,
                                                      (v_created ->> 'job_id')::uuid)));
end;
$$;

create or replace function api.create_batch_lookup(
    p_organization_id uuid    default app.claimed_organization_id(),
    p_request         jsonb   default null,
    p_check_devices   boolean default true,
    p_options         jsonb   default '{}',
    p_file            jsonb   default null
) returns json
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform app.authorize(p_organization_id, 'jobs:write');
    perform app.check_organization(p_organization_id);
    perform app.check_json(v) from unnest(array[p_request, p_options, p_file]) v;
    return app.create_batch(p_organization_id, p_request, p_check_devices, p_options, p_file);
end;
$$;

comment on function api.create_batch_lookup(uuid, jsonb, boolean, jsonb, jsonb) is
'Creates a batch of 1 to 10,000 items with its report, and wakes a worker.

p_request is {"items": [...]} or the array itself. p_check_devices false leaves the device ids to an external provider. Options, in p_request or in p_options:

- name: up to 200 characters.
- labels: an object of at most 16 strings for finding the job later; keys of 1 to 64 characters of A-Z, a-z, 0-9 and . _ ~ / -, values of 1 to 256.
- on_invalid: reject (default: all or nothing) or skip (stores the valid items, and returns the others).
- dry_run: true returns the whole report of the validation, and stores nothing.
- reuse_results: {max_age_days: 1 to 3650}. An item that equals one that was looked up for the organization within that time gets its result, and is completed immediately; a dry run counts these as known_already.
- sample: look up this many items first, chosen at random, but always the same ones for the same file; then wait for api.continue_batch_lookup.
- max_lookups: the maximum of this job, retries included.
- when_limit_reached: what happens at max_lookups or at the organization''s monthly_lookups: fail (default: the remaining items fail with lookup_limit_reached) or wait.

p_file is the content of a file: {lines: [the line of each item]} along with items or, instead of them, an object with these members, of which only rows is required. Values are corrected where the meaning is clear, with a warning.

- rows: [[cell, ...], ...]
- lines: the line of each row.
- header_row: its number from 1, with only sites below it; detected unless given.
- columns: {field: name or number of its column, or null: it has none}.
- defaults: {field: value}; for reference_id a text such as row-{line}, with the line of the row.
- value_maps: {field: {text: value}}.
- notes: [{code, message}].

The result ends with total_invalid, invalid_items, warnings, total_warnings and notes; that of a dry run also has problem_groups and warning_groups: [{field, code, count, examples}].

400: invalid_items (with index, error and problems [{field, column, code, message, value, suggestion}] of the first hundred; total_invalid counts all), duplicate_reference_ids, invalid_item_count, items_missing, unknown_fields, unknown_option, number_out_of_range, invalid_p_file, invalid_columns, ambiguous_columns, missing_columns, too_many_columns, column_names_too_long. 404: no such organization. 429: too_many_open_items.';
grant execute on function api.create_batch_lookup(uuid, jsonb, boolean, jsonb, jsonb) to authenticated;

create or replace function api.submit_batch_lookup(
    p_organization_id uuid      default app.claimed_organization_id(),
    p_request         jsonb     default null,
    p_check_devices   boolean   default true,
    p_options         jsonb     default '{}',
    p_idempotency_key text      default null,
    p_fingerprint     bytea     default null,
    p_file            jsonb     default null,
    p_traceparent     text      default null,
    out status        integer,
    out replayed      boolean,
    out body          json
)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_route constant text := 'POST /batch-lookups';
begin
    perform app.authorize(p_organization_id, 'jobs:write');
    perform app.check_organization(p_organization_id);
    perform app.check_json(v) from unnest(array[p_request, p_options, p_file]) v;
    if p_fingerprint is null and p_idempotency_key is not null then
        p_fingerprint := sha256(convert_to(concat_ws(' ', p_request, p_options, p_file), 'UTF8'));
    end if;
    select r.status, r.replayed, r.body into status, replayed, body from app.start_request(p_organization_id, v_route, p_idempotency_key, p_fingerprint) r;
    if replayed then
        return;
    end if;

    body := app.create_batch(p_organization_id, p_request, p_check_devices, p_options, p_file);
    perform app.keep_traceparent(p_organization_id, body, p_traceparent);
    status := case when body ->> 'dry_run' is null then 201 else 200 end;
    perform app.end_request(p_organization_id, v_route, p_idempotency_key, status, body);
end;
$$;

comment on function api.submit_batch_lookup(uuid, jsonb, boolean, jsonb, text, bytea, jsonb, text) is
'api.create_batch_lookup for HTTP: its answer with the status (201, 200 for a dry run). A request repeated with the same key within 7 days is answered as before (replayed) and does nothing; a refused one and a dry run leave no trace. Further: 400 invalid_idempotency_key; 409 request_in_progress; 422 idempotency_key_reused: p_fingerprint, a hash of the request that is made of it when left out, differs. p_traceparent is the trace context that its lookups and webhooks continue; an invalid one is ignored.';
grant execute on function api.submit_batch_lookup(uuid, jsonb, boolean, jsonb, text, bytea, jsonb, text) to authenticated;
