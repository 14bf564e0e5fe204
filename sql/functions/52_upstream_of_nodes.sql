-- Chapter 52, nodes: one rate limit and one circuit breaker for all nodes of a cluster. Each node hands out slots and judges the incentives
-- API by local rows. It gets its slots in blocks from one row at the coordinator, and notifies the other nodes when a pause or an outage
-- begins or ends. Both happen in separate transactions, so that no row shared by all nodes stays locked for longer.

-- Blocks begin at least this long after the coordinator hands them out: by then, claims have taken them and reported them to workers.
create or replace function app.block_lead() returns interval
language sql immutable
return interval '100 milliseconds';

-- Slots from the next free one on, up to p_slots and up to a second ahead.
create or replace function app.next_slots(
    p_settings app.settings, p_next_slot_at timestamptz, p_slots integer, p_now timestamptz, out slots integer, out first_at timestamptz
)
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_spacing interval := app.slot_spacing(p_settings);
begin
    first_at := app.next_free_slot(p_settings, p_next_slot_at, p_now);
    slots := greatest(least(floor(extract(epoch from p_now + interval '1 second' - first_at) / extract(epoch from v_spacing)) + 1, p_slots), 0);
end;
$$;

-- The slots of a block that are not in the past: a block is the time from p_next_slot_at to p_ends_at. A block further ahead than any ever
-- handed out dates from before the clock was set back.
create or replace function app.slots_of_block(
    p_spacing interval, p_next_slot_at timestamptz, p_ends_at timestamptz, p_slots integer, p_now timestamptz, out slots integer, out first_at timestamptz
)
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_spacing double precision := extract(epoch from p_spacing);
begin
    if p_ends_at <= p_now or p_ends_at > p_now + interval '2 seconds' + p_spacing then
        slots := 0;
        first_at := p_now;
        return;
    end if;
    first_at := p_next_slot_at + ceil(extract(epoch from greatest(p_now - p_next_slot_at, interval '0'))::double precision / v_spacing) * p_spacing;
    slots := greatest(least(round(extract(epoch from p_ends_at - first_at)::double precision / v_spacing), p_slots), 0);
end;
$$;

-- How far the clock of this node is ahead of the coordinator's, as far as a request and its response tell: zero if the coordinator's time
-- lies between them.
create or replace function app.clock_difference(p_asked_at timestamptz, p_told_at timestamptz, p_heard_at timestamptz) returns interval
language sql immutable
return greatest(p_asked_at - p_told_at, least(p_heard_at - p_told_at, interval '0'));

-- At the coordinator: hands out a block of up to p_slots slots, or none if the second is full.
create or replace function app.give_block(p_slots integer) returns json
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_settings     app.settings;
    v_next_slot_at timestamptz;
    v_now          timestamptz;
    v_slots        record;
begin
    select * into v_settings from app.settings;
    select next_slot_at into v_next_slot_at from app.slot_blocks for update;
    v_now := app.clock();
    select * into v_slots from app.next_slots(v_settings, greatest(v_next_slot_at, v_now + app.block_lead()), p_slots, v_now);
    v_next_slot_at := v_slots.first_at + v_slots.slots * app.slot_spacing(v_settings);
    update app.slot_blocks set next_slot_at = v_next_slot_at;
    return json_build_object('first_at', v_slots.first_at, 'ends_at', v_next_slot_at, 'told_at', v_now);
end;
$$;

-- A block of slots from the coordinator, in the time of this node. A block that arrives late begins on arrival.
create or replace function app.take_block(p_slots integer, out first_at timestamptz, out ends_at timestamptz)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_asked_at   timestamptz := app.clock();
    v_heard_at   timestamptz;
    v_answer     record;
    v_block      json;
    v_difference interval;
begin
    execute 'select success, result from run_command_on_coordinator($1)' into v_answer using format('select app.give_block(%s)', p_slots);
    v_heard_at := app.clock();
    if not v_answer.success then
        raise exception 'The coordinator gives out no slots: %', v_answer.result;
    end if;
    v_block := v_answer.result;
    first_at := (v_block ->> 'first_at')::timestamptz;
    ends_at := (v_block ->> 'ends_at')::timestamptz;
    v_difference := app.clock_difference(v_asked_at, (v_block ->> 'told_at')::timestamptz, v_heard_at);
    v_difference := greatest(v_difference, v_heard_at - first_at);
    first_at := first_at + v_difference;
    ends_at := ends_at + v_difference;
end;
$$;

-- How many slots to request: what the organization can use or, if the last block was used up, twice that block, up to a quarter of a
-- second. Unused slots of a block are lost to the other nodes, too.
create or replace function app.next_block_size(
    p_useful bigint, p_last_slots integer, p_next_slot_at timestamptz, p_ends_at timestamptz, p_spacing interval
) returns integer
language sql immutable
return greatest(p_useful, 1,
                case when p_next_slot_at >= p_ends_at then least(2 * p_last_slots, ceil(0.25 / extract(epoch from p_spacing))) end)::integer;

-- Replaces the next free slots of a single PostgreSQL: slots of this node's block, whose row the caller has locked, or of a new one.
create or replace function app.slots_of_node(
    p_organization_id uuid, p_slots integer, p_spacing interval, out slots integer, out first_at timestamptz
)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now        timestamptz := app.clock();
    v_block      record;
    v_useful     bigint;
    v_size       integer;
begin
    select r.next_slot_at, r.ends_at, r.block_slots into v_block from app.rate_limit r;
    select * into slots, first_at from app.slots_of_block(p_spacing, v_block.next_slot_at, v_block.ends_at, p_slots, v_now + app.block_lead() / 4);
    if slots > 0 then
        return;
    end if;
    select coalesce(sum(end_position - next_position), 0) into v_useful from app.queued_jobs where organization_id = p_organization_id;
    if v_useful < p_slots then
        v_useful := v_useful + (select count(*)
                                  from (select 1
                                          from public.lookup_queue_items
                                         where organization_id = p_organization_id and status = 'pending' and retry_at <= v_now
                                         limit p_slots) i);
    end if;
    v_size := app.next_block_size(least(v_useful, p_slots), v_block.block_slots, v_block.next_slot_at, v_block.ends_at, p_spacing);
    select b.first_at, b.ends_at into v_block from app.take_block(v_size) b;
    update app.rate_limit set next_slot_at = v_block.first_at, ends_at = v_block.ends_at, block_slots = v_size;
    select * into slots, first_at from app.slots_of_block(p_spacing, v_block.first_at, v_block.ends_at, p_slots, least(app.clock(), v_block.first_at));
end;
$$;

-- How many of p_lookups concurrent lookups the workers of this node may run: at a node of a cluster its share, at the coordinator all of
-- them.
create or replace function app.part_of_node(p_lookups integer) returns integer
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if app.is_node() then
        execute 'select greatest($1 / count(*), 1) from pg_catalog.pg_dist_node where noderole = ''primary'' and shouldhaveshards'
           into p_lookups using p_lookups;
    end if;
    return p_lookups;
end;
$$;

-- The local state of the node: its workers of the last 15 seconds, and what they know of the incentives API. Other nodes query it over a
-- separate connection, which the caller's time limits do not reach.
create or replace function app.state_of_node() returns json
language plpgsql stable
set search_path = pg_catalog, pg_temp set lock_timeout = '1s'
as $$
begin
    return (select json_build_object('workers', (select count(*) from app.workers where seen_at > app.clock() - interval '15 seconds'),
                                     'concurrency_limit', least(u.concurrency_limit, app.part_of_node((select max_in_flight from app.settings))),
                                     'unavailable_since', u.unavailable_since, 'consecutive_failures', u.consecutive_failures,
                                     'paused_until', u.paused_until, 'probe_at', u.probe_at, 'base_latency', u.base_latency)
              from app.upstream_state u);
end;
$$;

-- The same for every node, the coordinator first; error: the node does not respond, and its state is unknown.
create or replace function app.states_of_nodes() returns table (
    node text, has_shards boolean, error text, workers bigint, concurrency_limit double precision, unavailable_since timestamptz,
    consecutive_failures integer, paused_until timestamptz, probe_at timestamptz, base_latency double precision
)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    perform set_config('citus.node_connection_timeout', '1000', true);
    return query execute $sql$
        select format('%s:%s', n.nodename, n.nodeport), n.shouldhaveshards, case when not a.success then a.result end, s.*
          from run_command_on_all_nodes('select app.state_of_node()') a
          join pg_catalog.pg_dist_node n on n.nodeid = a.nodeid
          left join lateral json_to_record(case when a.success then a.result::json end)
               s (workers bigint, concurrency_limit double precision, unavailable_since timestamptz, consecutive_failures integer,
                  paused_until timestamptz, probe_at timestamptz, base_latency double precision) on true
         order by n.groupid $sql$;
end;
$$;

-- Whether a worker has sent a heartbeat in the last 15 seconds: here, or at another node, which may serve the organizations of this one.
create or replace function app.worker_runs(p_now timestamptz) returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return exists (select from app.workers where seen_at > p_now - interval '15 seconds')
           or app.spans_nodes() and exists (select from app.states_of_nodes() s where s.workers > 0);
end;
$$;

-- When workers last sent a heartbeat, to any node.
create or replace function app.last_heard_of(p_workers text[]) returns table (id text, seen_at timestamptz)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query select w.id, w.seen_at from app.workers w where w.id = any (p_workers);
    if app.spans_nodes() then
        return query execute $sql$
            select w.id, w.seen_at
              from run_command_on_workers($1) a
             cross join lateral json_to_recordset(case when a.success then a.result::json end) w (id text, seen_at timestamptz) $sql$
          using format('select coalesce(json_agg(w), ''[]'') from app.workers w where w.id = any (%L::text[])', p_workers);
    end if;
end;
$$;

-- All nodes as one: their workers, their combined concurrency limit, the longest of their outages and pauses.
create or replace function app.nodes_together(
    out workers bigint, out concurrency_limit double precision, out unavailable_since timestamptz, out consecutive_failures integer,
    out paused_until timestamptz, out probe_at timestamptz, out base_latency double precision
)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    select sum(s.workers), sum(s.concurrency_limit) filter (where s.workers > 0), min(s.unavailable_since), max(s.consecutive_failures),
           max(s.paused_until), max(s.probe_at), min(s.base_latency)
      into workers, concurrency_limit, unavailable_since, consecutive_failures, paused_until, probe_at, base_latency
      from app.states_of_nodes() s;
end;
$$;

-- What another node reports: a pause until p_paused_until, and an outage since p_unavailable_since; null: unknown, -infinity: over.
create or replace function app.hear_of_upstream(p_paused_until timestamptz, p_unavailable_since timestamptz, p_probe_at timestamptz) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp set lock_timeout = '100ms'
as $$
declare
    v_now     timestamptz := app.clock();
    v_is_over boolean     := coalesce(p_unavailable_since = '-infinity', false);
    v_before  app.upstream;
    v_after   app.upstream;
begin
    begin
        select * into v_before from app.upstream_state for update;
    exception
        -- A flush has locked the row, and will find out by itself.
        when lock_not_available then return;
    end;
    update app.upstream_state
       set paused_until         = case when p_paused_until = '-infinity' then p_paused_until else greatest(paused_until, p_paused_until) end,
           unavailable_since    = case when v_is_over then null else coalesce(unavailable_since, p_unavailable_since) end,
           probe_at             = case when v_is_over then '-infinity' when p_unavailable_since is not null then greatest(probe_at, p_probe_at) else probe_at end,
           consecutive_failures = case when v_is_over then 0 else consecutive_failures end;
    select * into v_after from app.upstream_state;
    if (app.closed_until(v_before, v_now) > v_now) <> (app.closed_until(v_after, v_now) > v_now) then
        perform pg_notify('batch_lookups_ready', '');
    end if;
end;
$$;

-- Whether the other nodes need to know what a flush has changed. Pauses that grow bit by bit are reported at most twice a second.
create or replace function app.is_news(p_before app.upstream, p_after app.upstream) returns boolean
language sql immutable
as $$
    select ((p_before).unavailable_since is null) <> ((p_after).unavailable_since is null)
           or date_bin('500 milliseconds', (p_after).paused_until, 'epoch') > date_bin('500 milliseconds', (p_before).paused_until, 'epoch')
$$;

create or replace function app.tell_nodes(p_paused_until timestamptz, p_unavailable_since timestamptz, p_probe_at timestamptz) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if app.spans_nodes() then
        perform app.ask_other_nodes(format('select app.hear_of_upstream(%L, %L, %L)::text', p_paused_until, p_unavailable_since, p_probe_at));
    end if;
end;
$$;
