"""The codes of all errors, found where the source has them: for docs/errors.md, and for `ErrorCode` and `ItemErrorCode` in openapi.json."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from typing import Any

from pyshell.settings import OPENAPI_FILE, ROOT

FILE = ROOT / "docs" / "errors.md"

INTRODUCTION = """\
# Error codes

Written by `make docs` from the source. An error is `{"error": "...", "code": "...", "request_id": "..."}`, with a `hint` where there is
something to try, and with further members for some codes. `error` is for people and may be reworded; `code` is for programs and does not
change. New codes may be added: handle one that you don't know by its HTTP status.

SQL users get the same: the SQLSTATE is `PT` and the status, the message is `error`, and the detail is a JSON object with `code` and the
further members. Through PostgREST, `supabase-js` has them in `error.message` and `JSON.parse(error.details).code`; drivers that know the
name of the constraint find the code there, too.

"""

WHAT_TO_DO = {
    "address_not_allowed": "The API key may not be used from this IP address. Call from its `allowed_networks`, or use another key.",
    "already_exists": "It already exists. Use the existing one, or choose another name.",
    "ambiguous_columns": "Several columns of the file match the same field. Choose one with `columns`.",
    "api_key_inactive": "The key is revoked, expired or rotated already. Create a new key instead.",
    "share_not_found": "The report has no valid link with this id. `GET /incentive-reports/{id}/share` lists them.",
    "shared_report_not_found": "The link is mistyped, expired or revoked, or its report was deleted; the response does not say which.",
    "too_many_shares": "Revoke links that are not needed: a report has at most 100 valid links.",
    "api_key_not_found": "The organization has no API key with this id. `GET /api-keys` lists them.",
    "application_not_found": "The organization has no application with this id. `GET /applications` lists them.",
    "batch_not_committed": "`wait_for_batch` was called in the transaction that created the batch. Commit, then wait.",
    "body_too_complex": "The body is nested more than 64 levels deep, or has more than two million values. Send it flatter, or in parts.",
    "body_too_large": "The body is larger than the message says. Split it.",
    "busy": "The service is too busy. Repeat the request after `Retry-After` seconds.",
    "catalogue_not_found": "No catalogue has this name. Use one that `api.list_catalogues` or `catalogue list` lists.",
    "column_names_too_long": "The columns of the file, or the members of `metadata`, have more than 64 KB of names. Shorten some.",
    "company_missing": "Applications need the organization's company. Set it in the portal or with `PATCH /organization`.",
    "cursor_with_offset": "A page starts at a `cursor` or at an `offset`. Leave one of them out.",
    "customer_not_found": "This `reference_id` has not been looked up yet. Make a request with `operation_type` `lookup` first.",
    "database_read_only": "The database accepts only reads for now, as during a failover. Repeat the request after `Retry-After` seconds.",
    "database_unavailable": "The database cannot be reached. Repeat the request after `Retry-After` seconds.",
    "duplicate_reference_ids": "`duplicates` lists each `reference_id` that occurs more than once in the batch. Make them unique.",
    "empty_file": "The file has no rows. It needs a row with the column names, and the sites below it.",
    "extensions_missing": "This database lacks the extensions that the message names. Install them, or run a worker instead.",
    "headers_too_large": "The URL and headers exceed 64 KB together, or there are more than 256 headers and query parameters. Send fewer.",
    "idempotency_key_reused": "This `Idempotency-Key` was used for another request. Use a new key for every new request.",
    "in_use": "Something else refers to this, or this refers to something that does not exist. Correct the reference first.",
    "incomplete_body": "No data arrived for 30 seconds, or less than 1 KB a second. Send the request again.",
    "incomplete_headers": "The headers of the request were not complete after 10 seconds. Send the request again.",
    "insufficient_scope": "The credential lacks a scope that the message names. Use one that has it.",
    "internal_error": "A bug of the service. Report it with the `request_id`.",
    "invalid_api_key": "The API key is unknown, revoked or expired. Check the header `x-api-key`.",
    "invalid_application": "The body must be an object with `application_status` alone. Send `{\"application_status\": \"in_progress\"}`.",
    "invalid_body": "The body must be a JSON object. Send one.",
    "invalid_catalogue": "`catalogue_errors` lists the first hundred errors by file and line. Correct them and import it again.",
    "invalid_columns": "`columns` must be a JSON object of fields and columns that the file has. Correct it as the hint says.",
    "invalid_metrics_token": "`/metrics` requires the server's `METRICS_TOKEN`. Send it as a bearer token.",
    "invalid_csv": "The CSV file cannot be read at the line that the message names. Correct that line.",
    "invalid_cursor": "The cursor belongs to another list or sort order. Pass `next_cursor` unchanged, or start without one.",
    "invalid_edits": "`edits` names a row or a column that does not exist, or a value is not a string. The message says which.",
    "invalid_encoding": "The file is not valid in its encoding at the byte that the message names. Save it as UTF-8, or set its `charset`.",
    "invalid_form": "A form must have one file and nothing else. Send it with `curl -F file=@sites.csv`, and options in the query string.",
    "invalid_gzip": "The body is not valid gzip, or is truncated. Compress it again, or send it uncompressed.",
    "invalid_idempotency_key": "`Idempotency-Key` must be given once, as 1 to 255 visible ASCII characters, such as a UUID.",
    "invalid_item_count": "A batch holds 1 to 10,000 items. Split a larger one.",
    "invalid_items": "Items failed validation; `invalid_items` has the first hundred with errors. Correct them, or use `on_invalid=skip`.",
    "invalid_json": "The body is not valid JSON; the hint says where. Correct it.",
    "invalid_organization": "Send `company`, `device_names` or `device_name_changes`; the message says what form it has.",
    "invalid_p_file": "`p_file` must have the form that the message shows. Correct it.",
    "invalid_report": "A member of the report is unknown or has the wrong form. Send `name`, `description` or both.",
    "invalid_request": "The lookup request has errors, all of which the message names. Correct them.",
    "invalid_seconds": "A pause lasts from 1 to 900 seconds. Ask for another one when it ends.",
    "invalid_settings": "A setting has a value that is not allowed; the message names its rule. Send another value.",
    "invalid_signature": "An internal call was signed with another key, or over a minute ago. Give both sides one `SERVICE_ROLE_KEY`.",
    "invalid_token": "The bearer token is malformed, expired or from another issuer. Get a new one.",
    "invalid_transition": "The application cannot go from its status to this one. Send one of `next_statuses`.",
    "invalid_value": "A value breaks a rule of the database. Check the values that you sent.",
    "invalid_vsn": "The version of the Realtime protocol is not supported. Connect with `vsn` 1.0.0 or 2.0.0.",
    "invalid_webhook_config": "A member of the webhook config is unknown or has the wrong form; the message says which. Correct it.",
    "invalid_workbook": "The workbook is damaged, too large, or of an unsupported kind. Open it, and save the table as xlsx or CSV.",
    "invalid_worker_url": "The URL of the worker endpoint or the service role key is missing or malformed. Pass both.",
    "item_not_failed": "Only a failed item can be retried. Choose one with `status` `failed`.",
    "item_not_found": "The batch has no item at this position. Positions count from 0.",
    "items_missing": "The body has no array `items`. Send `{\"items\": [...]}` or the array itself.",
    "job_ended": "The job has ended, so there is nothing to cancel.",
    "job_not_ended": "The job has not ended. Wait until it has, or cancel it.",
    "job_not_waiting": "Only a job that waits after its sample or at its `max_lookups` can be continued: see its `waiting_for`.",
    "job_not_found": "The organization has no batch job with this id. `GET /batch-lookups` lists them.",
    "key_limits_exceeded": "A key cannot create or rotate one that expires later or has more networks. Leave both out for one like it.",
    "lookup_limit_reached": "The job has used up its `max_lookups`. Continue it with a higher one, or cancel it.",
    "method_not_allowed": "The route does not support this method. The header `Allow` lists those it does.",
    "migrations_pending": "The database lacks migrations of this release. An operator has to run `python -m pyshell migrate`.",
    "missing_columns": "The file lacks columns that the message names. Add them, name them with `columns`, or set a `default_...`.",
    "missing_credentials": "The request has no credential. Send `x-api-key` or `Authorization: Bearer`.",
    "no_active_organization": "The Clerk session has no active organization. Choose one in Clerk first.",
    "no_failed_items": "No item of the job failed, or none with this `error_code`. There is nothing to retry.",
    "no_utility": "No utility of the catalogue serves this postal code in this state or province. Check the address.",
    "not_internal": "An internal call must carry the header `x-supabase-internal: true`. Add it.",
    "number_out_of_range": "A number in the body is beyond 1e15, or too long to store. Send a smaller one.",
    "organization_busy": "The organization has batches that have not ended. Wait for them, or pass `p_force => true`.",
    "members_not_on_cluster": "A cluster of databases knows a member's claims only in a transaction. Begin one, or use the HTTP API.",
    "organization_linked": "An organization stays linked to one Clerk organization. Create another organization for this one.",
    "organization_missing": "The call names no organization. Send `x-organization-id`, or pass `p_organization_id` in SQL.",
    "organization_name_taken": "Another organization has this name. Choose another one.",
    "organization_not_allowed": "The token speaks for another organization. Use one whose claims name this organization.",
    "organization_not_found": "There is no such organization. Check its id.",
    "organization_of_clerk": "Names that begin with `clerk:` are reserved for organizations created through Clerk. Choose another name.",
    "outcome_unknown": "The database did not respond, but may have carried out the request. Check before you repeat it.",
    "protected_workbook": "The workbook has a password. Save a copy without one.",
    "record_too_long": "A record of the body exceeds the length that the message names. Check its line endings and quotation marks.",
    "refused_address": "Webhooks go to public addresses only. Choose a URL that is reachable over the internet.",
    "repeated_parameter": "A query parameter is given more than once. Give it once.",
    "report_not_found": "The organization has no report with this id. `GET /incentive-reports` lists them.",
    "request_in_progress": "A request with the same `Idempotency-Key` is in progress. Repeat it in a moment to get its response.",
    "retry_in_progress": "The failed items are being retried by the job `job_id`. Wait for that one.",
    "route_not_found": "There is no such route. Check the path against `/docs`.",
    "sheet_not_found": "The workbook has no such sheet. The hint lists those it has.",
    "suspicious_compression": "The body expands to more than 250 times its size. Send it uncompressed.",
    "timeout": "The request took too long. Repeat it after `Retry-After` seconds.",
    "token_keys_unavailable": "The issuer's keys cannot be fetched to check the token. Repeat the request after `Retry-After` seconds.",
    "too_many_columns": "A row, or the `metadata` of all items, has more than 500 columns. Remove those that are not needed.",
    "too_many_api_keys": "The organization has the maximum number of valid keys. Revoke those that are not needed.",
    "too_many_connections": "The organization has 1,000 Realtime connections. Close some.",
    "too_many_items": "`include_items` returns up to 500 items and 8 MB. Read `GET /batch-lookups/{job_id}/items` page by page.",
    "too_many_open_items": "The organization has too many unfinished items. Wait until earlier batches have ended, or cancel one.",
    "too_many_open_uploads": "The organization has the maximum number of drafts. Start or delete one.",
    "too_many_requests": "The credential, its organization or its IP address has exceeded its rate limit. Wait `Retry-After` seconds.",
    "too_many_uploads": "The organization has four uploads in progress. Wait until one is done.",
    "too_many_webhook_tests": "Webhooks can be tested ten times a minute. Try again in a minute.",
    "too_many_secrets": "Five signing secrets are valid already. Wait until a rotated one expires.",
    "two_credentials": "The request has an API key and a bearer token, or one of them twice. Send one of them, once.",
    "unknown_device": "A device is not in the catalogue; the message names it. Use an id or a name that is.",
    "unknown_fields": "The body has unknown members; the message names them. Leave them out.",
    "unknown_option": "`p_options` has unknown options; the message names them. Correct their names.",
    "unknown_organization": "Only the operator creates organizations here, and this one does not exist. Ask the operator to create it.",
    "unknown_parameter": "The query has unknown parameters; the hint lists the known ones. Correct their names.",
    "unknown_scope": "A scope does not exist, or none is given; the hint lists all. Send scopes from that list.",
    "unknown_setting": "There is no such setting. `api.get_settings()` lists them all.",
    "unknown_utility": "The chosen utility does not serve this address. Choose one of `possible_utilities`.",
    "unsupported_character": "The body holds a character that cannot be stored, such as U+0000. Remove it.",
    "unsupported_charset": "The charset of the body is not supported. Send UTF-8; the hint lists the charsets of files.",
    "unsupported_encoding": "The compression of the body is not supported. Send it uncompressed, or an upload with gzip.",
    "unsupported_file": "The file is not a table: the message says what it is. Send CSV or an Excel workbook.",
    "unsupported_isolation_level": "Waiting must see what others commit. Call it outside a transaction, or at read committed.",
    "unsupported_media_type": "The route does not accept this type of body. Send the Content-Type that the hint names.",
    "upgrade_missing": "This address is for WebSockets. Let the proxy forward `Upgrade` and `Connection`.",
    "upload_not_found": "The organization has no upload with this id, or it has expired. `GET /uploads` lists them.",
    "upload_started": "The draft has become the job in `job_id`. Upload the file again for another one.",
    "wait_with_items": "A request cannot both wait for a change and include the items. Wait first, then read the items.",
    "webhook_config_not_found": "The organization has no webhook config. `PUT /webhook-config` with a `url` creates one.",
    "webhook_delivery_in_progress": "The delivery is being sent. Wait for its result.",
    "webhook_delivery_not_found": "The organization has no delivery with this id, or it was deleted. `GET /webhook-deliveries` lists them.",
    "webhook_url_missing": "There is no URL to send a test to. `PUT /webhook-config` with a `url` first.",
    "webhooks_disabled": "Webhooks are disabled. Enable them with `PUT /webhook-config`.",
}  # fmt: skip

ITEM_INTRODUCTION = """
## Codes of items

A failed item has an `error_code` and an `error_message`, as does each failed attempt of an item; `errors_by_code` of a job counts its
items by code. `POST /batch-lookups/{job_id}/retry?error_code=...` looks up again the items that failed with one code. Where an operator has
changed `app.retry_policy`, there may be further codes.

"""

ITEM_FAILED = {
    "invalid_response": "The incentives API's answer could not be read, on every attempt. Retry the item later.",
    "job_cancelled": "The batch was cancelled before the item was looked up. Retry it if it is needed after all.",
    "lease_expired": "The lookup was started several times and never finished, because its workers died. Retry the item.",
    "lookup_limit_reached": "The batch had used up its `max_lookups`, or the organization its monthly lookups. Retry if needed.",
    "not_found": "The incentives API found nothing for this address (404); ours knows no utility that serves it. Check the address.",
    "response_too_large": "The incentives API's answer exceeds `max_response_bytes`. An operator may raise that setting.",
    "upstream_error": "The incentives API reported an internal error on every attempt. Retry the item later.",
    "upstream_rate_limited": "The incentives API answered 429 (too many requests) on every attempt. Retry the item later.",
    "upstream_redirected": "The incentives API answered with a redirect, which is not followed. An operator has to correct its URL.",
    "upstream_rejected": "The incentives API refused the request, for the reason in `error_message`. Correct the item and submit it again.",
    "upstream_timeout": "The incentives API did not answer in time on any attempt. Retry the item later.",
    "upstream_unauthorized": "The incentives API did not accept the credentials of this service. An operator has to correct them.",
    "upstream_unavailable": "The incentives API was unavailable (503) on every attempt. Retry the item later.",
    "upstream_unreachable": "On every attempt, no connection to the incentives API could be made, or it was lost. Retry the item later.",
}

_REFUSAL = re.compile(r"\bapp\.refuse\(\s*(\d{3}), (?:'(\w+)'|'invalid_' \|\| p_name),")
# Functions that raise invalid_<their first argument>.
_READERS = re.compile(r"\bapp\.(?:refuse_option|check_choice|check_strings|read_timestamp)\('(\w+)'")
# A row of app.retry_policy: the response, what it does, the code.
_RETRY_POLICY = re.compile(r"^    \('\w+', +'(?:fail|retry|wait)', +'(\w+)'", re.MULTILINE)
_ITEM_FAILURE = re.compile(r"\berror_code += (?:case when [^']*? then )?'(\w+)'(?: end)?,\n")


def listed() -> set[tuple[str, int]]:
    """Code and HTTP status of all errors. Raises ValueError for an error without a code, or whose code cannot be read from the source."""
    return set(_raised_in_sql()) | set(_raised_in_python()) | {(f"invalid_{name}", 400) for name in query_parameters()}


def item_codes() -> set[str]:
    """The codes of `app.retry_policy`, and those that functions give to items themselves."""
    policy = (ROOT / "sql" / "schema" / "55_outcomes.sql").read_text()
    functions = "".join(file.read_text() for file in sorted((ROOT / "sql" / "functions").glob("*.sql")))
    return set(_RETRY_POLICY.findall(policy)) | set(_ITEM_FAILURE.findall(functions))


def _raised_in_sql() -> Iterator[tuple[str, int]]:
    for file in sorted((ROOT / "sql" / "functions").glob("*.sql")):
        text = file.read_text()
        if "raise sqlstate 'PT" in text:
            raise ValueError(f"{file.name}: errors for callers are raised by app.refuse(status, code, message, hint, members)")
        refusals = _REFUSAL.findall(text)
        if len(refusals) != text.count("perform app.refuse("):
            raise ValueError(f"{file.name}: an app.refuse whose status and code cannot be read")
        yield from ((code, int(status)) for status, code in refusals if code)
        yield from ((f"invalid_{name}", 400) for name in _READERS.findall(text))


def _raised_in_python() -> Iterator[tuple[str, int]]:
    """The arguments of an error raised in Python, if they are constants."""
    for file in sorted((ROOT / "pyshell").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            match node:
                case ast.Call(
                    func=ast.Name(id="ApiError" | "Meaning"), args=[ast.Constant(value=int(status)), ast.Constant(value=str(code)), *_]
                ):
                    yield code, status
                case ast.Call(func=ast.Name(id="unauthorized"), args=[ast.Constant(value=str(code)), *_]):
                    yield code, 401


def query_parameters() -> set[str]:
    """The query parameters of all routes; each causes an error of its own for an invalid value."""
    described = json.loads(OPENAPI_FILE.read_text())
    shared = described["components"]["parameters"]
    return {
        parameter["name"]
        for operations in described["paths"].values()
        for method, operation in operations.items()
        if method != "parameters"
        for parameter in (shared.get(named.get("$ref", "").rpartition("/")[2], named) for named in operation.get("parameters", []))
        if parameter["in"] == "query"
    }


def table() -> str:
    """All errors as a table of Markdown, by code."""
    rows = (f"| `{code}` | {status} | {what_to_do(code)} |\n" for code, status in sorted(listed()))
    return "| code | status | what happened, and what to do |\n|---|---|---|\n" + "".join(rows)


def item_table() -> str:
    """All codes of items as a table of Markdown."""
    rows = (f"| `{code}` | {ITEM_FAILED[code]} |\n" for code in sorted(item_codes()))
    return "| code | what happened, and what to do |\n|---|---|\n" + "".join(rows)


def what_to_do(code: str) -> str:
    known = WHAT_TO_DO.get(code)
    if known is None and code.startswith("invalid_"):
        return f"`{code.removeprefix('invalid_')}` has an invalid value. The message says what it may be."
    if known is None:
        raise ValueError(f"the error {code} has no explanation in {__name__}")
    return known


def page() -> str:
    """docs/errors.md"""
    return INTRODUCTION + table() + ITEM_INTRODUCTION + item_table()


def description() -> str:
    """openapi.json with the list of the errors."""
    described: dict[str, Any] = json.loads(OPENAPI_FILE.read_text())
    described["components"]["schemas"]["ErrorCode"] = {
        "type": "string",
        "description": f"For programs; stable. New codes may be added: treat one that you don't know by its HTTP status.\n\n{table()}",
    }
    described["components"]["schemas"]["ItemErrorCode"] = {
        "type": ["string", "null"],
        "description": f"Why the lookup failed; null: it has not. New codes may be added.\n\n{item_table()}",
    }
    return json.dumps(described, indent=2, ensure_ascii=False) + "\n"
