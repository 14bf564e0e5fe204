"""Every route that the client knows: its request, and its response."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar, cast
from urllib.parse import quote

import httpx

from batch_lookups.errors import InvalidArgumentError
from batch_lookups.retrying import require_document
from batch_lookups.types import (
    ApiKey,
    ApiKeyList,
    Checked,
    CreatedBatch,
    CreatedReportShare,
    DeviceList,
    ItemList,
    Job,
    JobList,
    Organization,
    ReportDifferences,
    ReportShareList,
    UsageList,
    WebhookConfig,
    WebhookDelivery,
    WebhookDeliveryList,
)

T = TypeVar("T")
Param = str | int | bool | Sequence[str] | None

# The service recognizes files by their content; NDJSON may be a single line, which looks like JSON.
ANY_FILE, NDJSON = "application/octet-stream", "application/x-ndjson"
# The beginnings of gzip and of the zip that workbooks are.
COMPRESSED = (b"\x1f\x8b", b"PK\x03\x04")
COMPRESSED_FROM_BYTES = 64 * 1024
# The fastest, which takes 7 ms for a MB of CSV and leaves 27%; level 6 takes 19 ms and leaves 24%.
COMPRESSION_LEVEL = 1
# What it responds.
JSON, CSV, HTML = "application/json", "text/csv", "text/html"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request, and how to read its response, of the `media_type`. `repeatable`: it may be carried out twice without harm.

    `gone`: the error code of a repetition after the first attempt was carried out and its response lost, and that response.
    """

    method: str
    path: str
    read: Callable[[httpx.Response], T] = field(default=require_document)
    params: Mapping[str, Param] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    content: bytes | None = None
    repeatable: bool | None = None
    media_type: str = JSON
    gone: tuple[str, T] | None = None

    @property
    def may_repeat(self) -> bool:
        return self.method in ("GET", "PUT", "DELETE") if self.repeatable is None else self.repeatable

    def request(self, client: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        for name, value in self.headers.items():
            if not (value and value.isascii() and value.isprintable() and value == value.strip()):
                raise InvalidArgumentError(f"{name} must be ASCII, without line breaks, and not empty, unlike {value[:100]!r}")
        with refusing_what_cannot_be_sent():
            return client.build_request(
                self.method,
                self.path,
                params={name: value for name, value in self.params.items() if value is not None},
                headers=dict(self.headers),
                json=self.json,
                content=self.content,
            )


@contextmanager
def refusing_what_cannot_be_sent() -> Iterator[None]:
    """Raises InvalidArgumentError for a text with undecodable bytes, as arguments of a command and file names may have, and
    for a number that JSON lacks, such as infinity.
    """
    try:
        yield
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"A text is not in UTF-8: {error.object[:100]!r}") from error
    except ValueError as error:
        raise InvalidArgumentError(f"This cannot be sent: {error}") from error


def _text(response: httpx.Response) -> str:
    return response.text


def _bytes(response: httpx.Response) -> bytes:
    return response.content


def path_of(*parts: str) -> str:
    """The path of these words and ids. Raises InvalidArgumentError: an empty id, dots or a slash would lead to another route."""
    for part in parts:
        if part in ("", ".", "..") or "/" in part:
            raise InvalidArgumentError(f"{part} is not an id" if part else "The id is empty")
    with refusing_what_cannot_be_sent():
        return "".join(f"/{quote(part, safe='')}" for part in parts)


@dataclass(frozen=True)
class FileOptions:
    """The name of a batch and how its file is read: `columns` maps fields to the names or numbers of columns, the others are defaults
    for missing values; `{line}` in `reference_id` stands for the row's line. The job can be found by its `labels`. `skip_invalid`: invalid
    items are skipped; otherwise, nothing would be stored. `reuse_max_age_days`: sites with a result that is not older get it.
    `sample`: this many sites first. `max_lookups`: at most this many lookups; the rest fails, or waits, as `when_limit_reached` says.
    """

    name: str | None = None
    skip_invalid: bool = False
    columns: Mapping[str, str | int] = field(default_factory=dict)
    sheet: str | None = None
    reference_id: str | None = None
    building_type: str | None = None
    device_ids: Sequence[int] = ()
    country_code: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    reuse_max_age_days: int | None = None
    sample: int | None = None
    max_lookups: int | None = None
    when_limit_reached: Literal["fail", "wait"] | None = None

    def params(self) -> dict[str, Param]:
        return {
            "name": self.name,
            "on_invalid": "skip" if self.skip_invalid else None,
            "columns": json.dumps(self.columns) if self.columns else None,
            "sheet": self.sheet,
            "default_reference_id": self.reference_id,
            "default_building_type": self.building_type,
            "default_device_ids": ",".join(map(str, self.device_ids)) or None,
            "default_country_code": self.country_code,
            "reuse_max_age_days": self.reuse_max_age_days,
            "sample": self.sample,
            "max_lookups": self.max_lookups,
            "when_limit_reached": self.when_limit_reached,
        } | _labels(self.labels)


def _body_of(file: bytes, media_type: str) -> tuple[dict[str, str], bytes]:
    """The headers and the body of an upload: a file that would profit is compressed, for slow lines."""
    # If a text, usually a file name, were sent, the service would report missing columns.
    if not isinstance(file, bytes):
        raise TypeError(f"file must be the bytes of a file, such as Path('sites.csv').read_bytes(), not {type(file).__name__}")
    headers = {"Content-Type": media_type}
    if len(file) < COMPRESSED_FROM_BYTES or file.startswith(COMPRESSED):
        return headers, file
    import gzip

    return headers | {"Content-Encoding": "gzip"}, gzip.compress(file, COMPRESSION_LEVEL)


def _labels(labels: Mapping[str, str] | None) -> dict[str, Param]:
    return {"label": [f"{key}:{value}" for key, value in labels.items()]} if labels else {}


def check_batch(file: bytes, options: FileOptions | None = None, *, media_type: str = ANY_FILE) -> Call[Checked]:
    """What is wrong with a file of sites, and how long it would take. Stores nothing."""
    params = (options or FileOptions()).params() | {"dry_run": "true"}
    headers, content = _body_of(file, media_type)
    return Call("POST", "/batch-lookups", params=params, headers=headers, content=content, repeatable=True)


def create_batch(
    file: bytes, options: FileOptions | None = None, *, media_type: str = ANY_FILE, idempotency_key: str | None = None
) -> Call[CreatedBatch]:
    """Stores a batch, from any file that the service reads; its lookups start immediately.

    With the `idempotency_key` of a batch of the last seven days: returns that batch, and creates none.
    """
    headers, content = _body_of(file, media_type)
    headers["Idempotency-Key"] = str(uuid.uuid4()) if idempotency_key is None else idempotency_key
    params = (options or FileOptions()).params()
    return Call("POST", "/batch-lookups", _created, params=params, headers=headers, content=content, repeatable=True)


def _created(response: httpx.Response) -> CreatedBatch:
    return cast(CreatedBatch, require_document(response) | {"replayed": response.headers.get("idempotency-replayed") == "true"})


def list_jobs(
    *,
    status: str | None = None,
    name: str | None = None,
    labels: Mapping[str, str] | None = None,
    created_from: str | None = None,
    created_before: str | None = None,
    limit: int | None = None,
    cursor: str | None = None,
) -> Call[JobList]:
    """A page of jobs, newest first: those with a text in their name, with all of the labels, created in a time (days, or RFC 3339)."""
    created = {"created_from": created_from, "created_before": created_before}
    params = {"status": status, "name": name, **created, "limit": limit, "cursor": cursor}
    return Call("GET", "/batch-lookups", params=params | _labels(labels))


def get_job(job_id: str) -> Call[Job]:
    """A job and its progress."""
    return Call("GET", path_of("batch-lookups", job_id))


def changed_job(job_id: str, etag: str | None, wait: int) -> Call[tuple[Job | None, str]]:
    """The job once its ETag differs from `etag`, with the new ETag; None if it has not changed within `wait` seconds (0 to 60).

    Without an ETag, as behind a proxy that removes it, the job once it changes, or as it is then.
    """
    headers = {"If-None-Match": etag} if etag else {}
    return Call("GET", path_of("batch-lookups", job_id), _changed, params={"wait": wait or None}, headers=headers)


def _changed(response: httpx.Response) -> tuple[Job | None, str]:
    return None if response.status_code == 304 else require_document(response), response.headers.get("etag", "")


def cancel_job(job_id: str) -> Call[dict[str, Any]]:
    """Cancels a job; what is in flight finishes and counts."""
    return Call("POST", path_of("batch-lookups", job_id, "cancel"))


def continue_job(job_id: str, *, max_lookups: int | None = None) -> Call[Job]:
    """Continues a job after its sample, or with a higher limit of lookups."""
    return Call("POST", path_of("batch-lookups", job_id, "continue"), params={"max_lookups": max_lookups})


def get_usage(
    *, created_from: str | None = None, created_before: str | None = None, limit: int | None = None, cursor: str | None = None
) -> Call[UsageList]:
    """A page of lookups by day and job, newest first, and this month's use. `created_from`, `created_before`: days or times (RFC 3339)."""
    return Call("GET", "/usage", params={"created_from": created_from, "created_before": created_before, "limit": limit, "cursor": cursor})


def delete_job(job_id: str, *, include_report: bool = False) -> Call[dict[str, Any]]:
    """Deletes an ended job with its items; its report too, if requested."""
    return Call(
        "DELETE",
        path_of("batch-lookups", job_id),
        params={"include_report": "true" if include_report else None},
        gone=("job_not_found", {"message": "Job deleted successfully", "job_id": job_id}),
    )


def retry_job(job_id: str, *, error_code: str | None = None, idempotency_key: str | None = None) -> Call[CreatedBatch]:
    """The failed items of an ended job, or those with this error code, as a new job.

    With the `idempotency_key` of a retry of the last seven days: returns its job, and creates none.
    """
    headers = {"Idempotency-Key": str(uuid.uuid4()) if idempotency_key is None else idempotency_key}
    path = path_of("batch-lookups", job_id, "retry")
    return Call("POST", path, _created, params={"error_code": error_code}, headers=headers, repeatable=True)


def list_items(
    job_id: str, *, status: str | None = None, error_code: str | None = None, limit: int | None = None, cursor: str | None = None
) -> Call[ItemList]:
    """A page of the items of a job, in upload order."""
    params = {"status": status, "error_code": error_code, "limit": limit, "cursor": cursor}
    return Call("GET", path_of("batch-lookups", job_id, "items"), params=params)


def get_results_xlsx(job_id: str, *, status: str | None = None, error_code: str | None = None) -> Call[bytes]:
    """The results of a job as an Excel workbook, as they are now."""
    params = {"format": "xlsx", "status": status, "error_code": error_code}
    return Call("GET", path_of("batch-lookups", job_id, "results"), _bytes, params=params, media_type=XLSX)


def get_report_summary(report_id: str) -> Call[dict[str, Any]]:
    """A report counted and summed: {report, by_state, by_utility, by_program, by_device_category}."""
    return Call("GET", path_of("incentive-reports", report_id, "summary"))


def get_report_page(report_id: str) -> Call[str]:
    """A report as one self-contained HTML page."""
    return Call("GET", path_of("incentive-reports", report_id, "html"), _text, media_type=HTML)


def get_report_csv(report_id: str) -> Call[bytes]:
    """The sites of a report as CSV."""
    return Call("GET", path_of("incentive-reports", report_id, "csv"), _bytes, media_type=CSV)


def get_report_xlsx(report_id: str) -> Call[bytes]:
    """The sites of a report as an Excel workbook."""
    return Call("GET", path_of("incentive-reports", report_id, "xlsx"), _bytes, media_type=XLSX)


def diff_reports(
    from_report_id: str, to_report_id: str, *, change: str | None = None, limit: int | None = None, cursor: str | None = None
) -> Call[ReportDifferences]:
    """A page of the sites that were added, removed or changed between two reports, with the sums."""
    params = {"from": from_report_id, "to": to_report_id, "change": change, "limit": limit, "cursor": cursor}
    return Call("GET", "/incentive-reports/diff", params=params)


def share_report(report_id: str, *, expires_in_days: int | None = None) -> Call[CreatedReportShare]:
    """Creates a link to a report for people without a key; only this response contains it."""
    body = {} if expires_in_days is None else {"expires_in_days": expires_in_days}
    return Call("POST", path_of("incentive-reports", report_id, "share"), json=body)


def list_report_shares(report_id: str) -> Call[ReportShareList]:
    """The valid links to a report, without their tokens."""
    return Call("GET", path_of("incentive-reports", report_id, "share"))


def revoke_report_share(report_id: str, share_id: str) -> Call[dict[str, Any]]:
    """Revokes a link to a report, immediately."""
    path = path_of("incentive-reports", report_id, "share", share_id)
    return Call("DELETE", path, gone=("share_not_found", {"message": "Link revoked successfully", "id": share_id}))


def list_devices(*, category: str | None = None) -> Call[DeviceList]:
    """What sites may ask about, by id."""
    return Call("GET", "/devices", params={"category": category})


def get_me() -> Call[dict[str, Any]]:
    """The owner of the API key, with its scopes and limits."""
    return Call("GET", "/me")


def get_organization() -> Call[Organization]:
    """The organization that the API key belongs to."""
    return Call("GET", "/organization")


def create_key(
    *,
    name: str | None = None,
    mode: Literal["live", "test"] | None = None,
    scopes: Sequence[str] | None = None,
    expires_at: str | None = None,
    allowed_networks: Sequence[str] | None = None,
) -> Call[ApiKey]:
    """Creates an API key; only this response contains it."""
    given = {"name": name, "mode": mode, "scopes": scopes, "expires_at": expires_at, "allowed_networks": allowed_networks}
    return Call("POST", "/api-keys", json={name: value for name, value in given.items() if value is not None})


def list_keys(*, limit: int | None = None, cursor: str | None = None) -> Call[ApiKeyList]:
    """A page of API keys, newest first, including ended ones."""
    return Call("GET", "/api-keys", params={"limit": limit, "cursor": cursor})


def rotate_key(api_key_id: str, *, grace_seconds: float | None = None) -> Call[ApiKey]:
    """Creates a key like this one, which keeps working for the grace period (default: a day)."""
    return Call("POST", path_of("api-keys", api_key_id, "rotate"), json={} if grace_seconds is None else {"grace_seconds": grace_seconds})


def revoke_key(api_key_id: str) -> Call[ApiKey]:
    """Revokes a key, immediately."""
    return Call("DELETE", path_of("api-keys", api_key_id))


def get_webhook_config() -> Call[WebhookConfig]:
    """Where webhooks are sent; `url` is None if they are not set up."""
    return Call("GET", "/webhook-config")


def set_webhook_config(changes: Mapping[str, Any]) -> Call[WebhookConfig]:
    """Sets `url`, `events`, `field_names`, `bundle_items`, `enabled`; others stay. The first time, the signing secret is returned."""
    # If this were repeated, only the lost first response would have the secret.
    return Call("PUT", "/webhook-config", json=dict(changes), repeatable=False)


def delete_webhook_config() -> Call[dict[str, Any]]:
    """Stops webhooks; pending ones are not sent."""
    return Call("DELETE", "/webhook-config", gone=("webhook_config_not_found", {"message": "Webhook config deleted"}))


def send_test_webhook() -> Call[dict[str, Any]]:
    """Sends a `webhook.test` now, and returns the result."""
    return Call("POST", "/webhook-config/test")


def rotate_webhook_secret(*, overlap_seconds: float | None = None) -> Call[WebhookConfig]:
    """Creates a new signing secret; the previous one also signs for the overlap (default: a day)."""
    return Call("POST", "/webhook-config/rotate-secret", json={} if overlap_seconds is None else {"overlap_seconds": overlap_seconds})


def list_webhook_deliveries(
    *,
    status: str | None = None,
    event: str | None = None,
    job_id: str | None = None,
    limit: int | None = None,
    cursor: str | None = None,
) -> Call[WebhookDeliveryList]:
    """A page of deliveries, newest first."""
    params = {"status": status, "event": event, "job_id": job_id, "limit": limit, "cursor": cursor}
    return Call("GET", "/webhook-deliveries", params=params)


def get_webhook_delivery(delivery_id: str) -> Call[WebhookDelivery]:
    """A delivery with its body and its attempts."""
    return Call("GET", path_of("webhook-deliveries", delivery_id))


def resend_webhook_delivery(delivery_id: str) -> Call[WebhookDelivery]:
    """Sends a delivery again, with the same `webhook-id`."""
    return Call("POST", path_of("webhook-deliveries", delivery_id, "resend"), repeatable=True)


def recover_webhook_deliveries(since: str) -> Call[dict[str, Any]]:
    """Resends everything that failed since a time (RFC 3339): {recovered, since}."""
    return Call("POST", "/webhook-deliveries/recover", json={"since": since}, repeatable=True)
