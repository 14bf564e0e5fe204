"""The responses of the service, as openapi.json describes them. Times are strings (RFC 3339, UTC), ids are UUIDs as strings."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

JobStatus = Literal["pending", "processing", "completed", "failed", "cancelled"]
ItemStatus = Literal["pending", "processing", "completed", "failed"]


class ItemCounts(TypedDict):
    pending: int
    processing: int
    completed: int
    failed: int


class Upstream(TypedDict):
    """Why items wait for the incentives API: since `unavailable_since` it has not responded, until `paused_until` lookups are paused."""

    unavailable_since: str | None
    paused_until: str | None


class JobSummary(TypedDict):
    """A job as lists have it. `processed_items` counts completed and failed ones; `status` is `failed` if all of them failed."""

    id: str
    organization_id: str
    name: str | None
    status: JobStatus
    total_items: int
    processed_items: int
    failed_items: int
    item_counts: ItemCounts
    report_id: str
    created_at: str
    started_at: str | None
    completed_at: str | None
    upstream: Upstream
    labels: dict[str, str]
    waiting_for: Literal["continue", "lookup_limit"] | None
    waiting_until: str | None


class Job(JobSummary):
    """A job with its progress. `rate` is in items a second; `errors_by_code`: how many items failed with which code."""

    rate: float | None
    estimated_completion_at: str | None
    errors_by_code: dict[str, int]
    poll_after_ms: int | None
    retry_of_job_id: str | None
    lookups: int


class JobList(TypedDict):
    jobs: list[JobSummary]
    total: int
    limit: int
    offset: int
    next_cursor: str | None


class Item(TypedDict):
    id: str
    job_id: str
    reference_id: str
    status: ItemStatus
    address: dict[str, str]
    building_type: str
    device_ids: list[int]
    result: dict[str, Any] | None
    error_code: str | None
    error_message: str | None
    warnings: list[str]
    retry_count: int
    created_at: str
    processed_at: str | None
    reused_from: dict[str, Any] | None
    position: int
    household: dict[str, Any] | None


class ItemList(TypedDict):
    items: list[Item]
    total: int
    limit: int
    offset: int
    next_cursor: str | None


class CellProblem(TypedDict):
    """What is wrong with one field; for a file, `column` is the number of its column, from 1."""

    field: str | None
    column: int | None
    code: str
    message: str
    value: str | None
    suggestion: str | None


class ComparedSite(TypedDict):
    eligible: bool
    total_incentive_amount: float
    conditional_incentive_amount: float


# `from` is a keyword of Python.
ReportDifference = TypedDict(
    "ReportDifference",
    {
        "reference_id": str,
        "change": Literal["added", "removed", "changed"],
        "address": dict[str, str],
        "from": ComparedSite | None,
        "to": ComparedSite | None,
        "difference": float,
        "conditional_difference": float,
    },
)
ReportDifferences = TypedDict(
    "ReportDifferences",
    {
        "from": dict[str, Any],
        "to": dict[str, Any],
        "totals": dict[str, Any],
        "differences": list[ReportDifference],
        "total": int,
        "limit": int,
        "offset": int,
        "next_cursor": str | None,
    },
)


class ReportShare(TypedDict):
    """A link to a report. `created_by`: the API key or the user that created it."""

    id: str
    report_id: str
    created_by: str | None
    created_at: str
    expires_at: str


class CreatedReportShare(ReportShare):
    token: str
    url: str


class ReportShareList(TypedDict):
    shares: list[ReportShare]


class Device(TypedDict):
    id: int
    name: str
    category_key: str
    category_name: str


class DeviceList(TypedDict):
    devices: list[Device]


class ItemProblem(TypedDict):
    """An item that was refused: `index` from 0; for a file, the `record` from 1 and the `line` where it begins."""

    index: int
    error: str
    problems: list[CellProblem]
    record: NotRequired[int]
    line: NotRequired[int]


class Note(TypedDict):
    """`sheet`, `sheets`: which sheet of a workbook was read, and which there are."""

    code: str
    message: str
    sheet: NotRequired[str]
    sheets: NotRequired[list[str]]


class CreatedBatch(TypedDict):
    """`replayed`: the batch was stored before, under the same idempotency key."""

    job_id: str
    status: JobStatus
    total_items: int
    created_at: str
    report: dict[str, Any]
    message: str
    reused_items: NotRequired[int]
    total_invalid: int
    invalid_items: list[ItemProblem]
    warnings: list[dict[str, Any]]
    total_warnings: int
    notes: list[Note]
    retry_of_job_id: NotRequired[str]
    replayed: bool


class Checked(TypedDict):
    """A dry run. `valid`: whether the batch would be stored; `columns`: what each column of the file was taken for."""

    dry_run: Literal[True]
    valid: bool
    total_items: int
    valid_items: int
    total_invalid: int
    invalid_items: list[ItemProblem]
    duplicates: list[str]
    warnings: list[dict[str, Any]]
    total_warnings: int
    problem_groups: list[dict[str, Any]]
    warning_groups: list[dict[str, Any]]
    lookups: int
    known_already: int
    estimated_duration_seconds: float | None
    columns: list[dict[str, Any]]
    notes: list[Note]


class Usage(TypedDict):
    """The lookups of a job on a day, in UTC. `name` is None if it has none; once it is deleted, so are `total_items` and `created_at`."""

    day: str
    job_id: str
    name: str | None
    lookups: int
    total_items: int | None
    created_at: str | None


class MonthOfUsage(TypedDict):
    """The current month, such as 2026-11. `limit`: the most lookups that it may have; None: any number."""

    month: str
    lookups: int
    limit: int | None


class UsageList(TypedDict):
    """`lookups`: the sum of all days in the range."""

    usage: list[Usage]
    lookups: int
    month: MonthOfUsage
    total: int
    limit: int
    offset: int
    next_cursor: str | None


class Organization(TypedDict):
    id: str
    name: str
    company: str | None
    device_names: dict[str, int]


class ApiKey(TypedDict):
    """`key`, the key itself, is only in the response that created it. `created_by`: the API key or the user that created it."""

    id: str
    organization_id: str
    name: str
    prefix: str
    last_four: str
    scopes: list[str]
    allowed_networks: list[str] | None
    created_at: str
    expires_at: str | None
    last_used_at: str | None
    revoked_at: str | None
    replaced_by: str | None
    created_by: str | None
    key: NotRequired[str]


class ApiKeyList(TypedDict):
    api_keys: list[ApiKey]
    total: int
    limit: int
    offset: int
    next_cursor: str | None


class WebhookConfig(TypedDict):
    """`signing_secret` is only in the response that created it."""

    url: str | None
    events: list[str]
    field_names: list[str] | None
    bundle_items: bool
    enabled: bool
    disabled_at: str | None
    disabled_reason: str | None
    failing_since: str | None
    secrets: list[dict[str, Any]]
    created_at: str | None
    updated_at: str | None
    signing_secret: NotRequired[str]


class WebhookDelivery(TypedDict):
    """`id` is sent as `webhook-id`. The body and the attempts are present if a single delivery is read."""

    id: str
    event: str
    status: Literal["pending", "sending", "delivered", "failed"]
    job_id: str | None
    item_ids: list[str] | None
    attempts: int
    last_http_status: int | None
    last_error: str | None
    next_attempt_at: str | None
    created_at: str
    ended_at: str | None
    body: NotRequired[dict[str, Any]]
    attempt_log: NotRequired[list[dict[str, Any]]]


class WebhookDeliveryList(TypedDict):
    deliveries: list[WebhookDelivery]
    total: int
    limit: int
    offset: int
    next_cursor: str | None
