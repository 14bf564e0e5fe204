-- Chapter 53, leases: renewed while a lookup runs, given back when it will not start, expired when its worker is silent.

-- Only an item in processing has a lease token. Saying so again would let the planner walk through all leases instead of these.
create or replace function api.extend_leases(p_organization_id uuid, p_worker text, p_item_ids uuid[], p_lease_tokens uuid[]) returns setof uuid
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_expires_at timestamptz := app.clock() + (select app.seconds(lease_seconds) from app.settings);
begin
    return query
    update public.lookup_queue_items i
       set lease_expires_at = v_expires_at
      from unnest(p_item_ids, p_lease_tokens) h (item_id, lease_token)
     where i.organization_id = p_organization_id and i.id = h.item_id
       and i.lease_token = h.lease_token
    returning i.id;
end;
$$;

comment on function api.extend_leases(uuid, text, uuid[], uuid[]) is 'Renews the leases of slow lookups, given as parallel arrays; answers the items that the worker still holds.';

create or replace function api.release_lookups(p_organization_id uuid, p_worker text, p_item_ids uuid[], p_lease_tokens uuid[]) returns integer
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_now       timestamptz := app.clock();
    v_released  public.lookup_queue_items[];
begin
    with released as (
        update public.lookup_queue_items i
           set status           = 'pending',
               lease_token      = null,
               lease_expires_at = null,
               leased_by        = null
          from unnest(p_item_ids, p_lease_tokens) h (item_id, lease_token)
         where i.organization_id = p_organization_id and i.id = h.item_id
           and i.lease_token = h.lease_token
     returning i as item
    )
    select coalesce(array_agg(item), '{}') into v_released from released;
    perform app.count_outcomes(p_organization_id, v_released, v_now);
    return cardinality(v_released);
end;
$$;

comment on function api.release_lookups(uuid, text, uuid[], uuid[]) is 'Gives items back that the worker claimed but never looked up, as parallel arrays; no retry is counted. Answers how many were still its own.';

-- A silent worker's items return to the queue, the attempt counted; the last attempt's silence ends the item. One that is locked has its
-- outcome recorded right now.
create or replace function app.expire_leases(p_organization_id uuid, p_now timestamptz) returns integer
language plpgsql volatile
set search_path = ''
as $$
declare
    v_max_retries integer := (select max_retries from app.settings);
    v_expired     public.lookup_queue_items[];
begin
    with expired as (
        update public.lookup_queue_items i
           set status           = case when retry_count < v_max_retries then 'pending' else 'failed' end,
               retry_count      = least(retry_count + 1, v_max_retries),
               lease_token      = null,
               lease_expires_at = null,
               leased_by        = null,
               error_code       = case when retry_count >= v_max_retries then 'lease_expired' end,
               error_message    = case when retry_count >= v_max_retries
                                       then format('The lookup was started %s times and never came to an end', retry_count + 1) end,
               processed_at     = case when retry_count >= v_max_retries then p_now end
         where i.organization_id = p_organization_id
           and i.id = any (array(select id
                                   from public.lookup_queue_items
                                  where organization_id = p_organization_id and status = 'processing' and lease_expires_at < p_now
                                    for update skip locked))
     returning i as item
    )
    select coalesce(array_agg(item), '{}') into v_expired from expired;
    perform app.count_outcomes(p_organization_id, v_expired, p_now);
    return cardinality(v_expired);
end;
$$;
