-- Chapter 64, shares: creates, lists and revokes links to a report. The database never sees a token, only its hash.

create or replace function app.share_json(p_share app.report_shares) returns json
language sql stable
as $$
    select json_build_object(
        'id', (p_share).id,
        'report_id', (p_share).report_id,
        'created_by', (p_share).created_by,
        'created_at', app.rfc3339((p_share).created_at),
        'expires_at', app.rfc3339((p_share).expires_at)
    )
$$;

-- How long a link is valid, from the body {"expires_in_days": ...}.
create or replace function app.share_days(p_request jsonb) returns integer
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    v_days jsonb := coalesce(nullif(p_request -> 'expires_in_days', 'null'), '30');
begin
    perform app.check_members(p_request, array['expires_in_days']);
    if jsonb_typeof(v_days) <> 'number' or v_days::text !~ '^[0-9]{1,3}$' or v_days not between '1' and '365' then
        perform app.refuse_option('expires_in_days', 'a whole number from 1 to 365');
    end if;
    return v_days::integer;
end;
$$;

create or replace function api.share_incentive_report(
    p_organization_id uuid default app.claimed_organization_id(), p_report_id uuid default null, p_token_hash bytea default null,
    p_request jsonb default '{}', p_created_by text default null
) returns json
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now   timestamptz := app.clock();
    v_maker text;
    v_share app.report_shares;
begin
    perform app.authorize(p_organization_id, 'reports:write');
    if length(p_token_hash) is distinct from 32 then
        perform app.refuse_option('p_token_hash', 'the SHA-256 of a token of your own, such as sha256(''...'')');
    end if;
    v_maker := app.acting_caller(p_created_by);
    -- Locked against deletion: the link would outlive the report.
    perform app.lock_report(p_organization_id, p_report_id);
    delete from app.report_shares where organization_id = p_organization_id and report_id = p_report_id and expires_at <= v_now;
    if (select count(*) from app.report_shares where organization_id = p_organization_id and report_id = p_report_id) >= 100 then
        perform app.refuse(409, 'too_many_shares', 'The report already has 100 valid links', 'Revoke those that are not needed.');
    end if;
    insert into app.report_shares (id, organization_id, report_id, token_hash, created_by, created_at, expires_at)
    values (app.uuid_v7(v_now), p_organization_id, p_report_id, p_token_hash, v_maker, v_now,
            v_now + make_interval(days => app.share_days(p_request)))
    returning * into v_share;
    perform app.audit(p_organization_id, 'report.shared', p_created_by, v_share.id::text,
                      jsonb_build_object('report_id', p_report_id, 'expires_at', app.rfc3339(v_share.expires_at)));
    raise log 'report % of organization % was shared until % by the link %', p_report_id, p_organization_id, v_share.expires_at, v_share.id;
    return app.share_json(v_share);
end;
$$;

comment on function api.share_incentive_report(uuid, uuid, bytea, jsonb, text) is
'Creates a link that opens a report without a credential, as a page, CSV or a workbook, and returns {id, report_id, created_by, created_at, expires_at}. p_token_hash is the SHA-256 of the token in the link, which only its creator knows; p_request {"expires_in_days": 1 to 365, default 30}. 400: invalid_expires_in_days, unknown_fields. 404: no such report in this organization. 409 too_many_shares: it has 100 valid links.';
grant execute on function api.share_incentive_report(uuid, uuid, bytea, jsonb, text) to authenticated;

create or replace function api.list_incentive_report_shares(
    p_organization_id uuid default app.claimed_organization_id(), p_report_id uuid default null
) returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := app.clock();
begin
    perform app.authorize(p_organization_id, 'reports:read');
    perform app.find_report(p_organization_id, p_report_id);
    return json_build_object('shares', (
        select coalesce(json_agg(app.share_json(row(s.*)::app.report_shares) order by s.created_at desc, s.id desc), '[]')
          from app.report_shares s
         where s.organization_id = p_organization_id and s.report_id = p_report_id and s.expires_at > v_now));
end;
$$;

comment on function api.list_incentive_report_shares(uuid, uuid) is '{shares: [{id, report_id, created_by, created_at, expires_at}]}: the valid links to a report, newest first, without their tokens. 404: no such report in this organization.';
grant execute on function api.list_incentive_report_shares(uuid, uuid) to authenticated;

create or replace function api.revoke_incentive_report_share(
    p_organization_id uuid default app.claimed_organization_id(), p_report_id uuid default null, p_share_id uuid default null,
    p_actor text default null
) returns json
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := app.clock();
begin
    perform app.authorize(p_organization_id, 'reports:write');
    perform app.find_report(p_organization_id, p_report_id);
    delete from app.report_shares
     where organization_id = p_organization_id and report_id = p_report_id and id = p_share_id and expires_at > v_now;
    if not found then
        perform app.refuse(404, 'share_not_found', 'Link not found');
    end if;
    perform app.audit(p_organization_id, 'report.share_revoked', p_actor, p_share_id::text, jsonb_build_object('report_id', p_report_id));
    raise log 'the link % to report % of organization % was revoked', p_share_id, p_report_id, p_organization_id;
    return json_build_object('message', 'Link revoked successfully', 'id', p_share_id);
end;
$$;

comment on function api.revoke_incentive_report_share(uuid, uuid, uuid, text) is 'Revokes a link to a report, immediately. 404: report_not_found, share_not_found (also when it has expired).';
grant execute on function api.revoke_incentive_report_share(uuid, uuid, uuid, text) to authenticated;

create or replace function api.open_shared_report(p_token_hash bytea) returns json
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := app.clock();
begin
    return (select json_build_object('organization_id', organization_id, 'report_id', report_id)
              from app.report_shares
             where token_hash = p_token_hash and expires_at > v_now);
end;
$$;

comment on function api.open_shared_report(bytea) is 'The report that a link leads to, by the SHA-256 of its token: {organization_id, report_id}; null: unknown, expired, revoked, or the report was deleted.';
