"""The routes of the API, each with the scope that it requires and its query parameters."""

from __future__ import annotations

from starlette.routing import Match, Route, WebSocketRoute
from starlette.types import Scope

from pyshell.api.authentication import ANY_SCOPE, secured
from pyshell.api.realtime.endpoint import realtime
from pyshell.api.routes.api_keys import create_api_key, get_api_key, list_api_keys, revoke_api_key, rotate_api_key
from pyshell.api.routes.applications import get_application, list_applications, update_application
from pyshell.api.routes.audit import list_audit_events
from pyshell.api.routes.batch_lookups import (
    cancel_batch_lookup,
    continue_batch_lookup,
    create_batch_lookup,
    delete_batch_lookup,
    get_batch_lookup_item,
    get_usage,
    list_batch_lookups,
    retry_batch_lookup,
)
from pyshell.api.routes.consistency import CONSISTENCY
from pyshell.api.routes.docs import docs, docs_file
from pyshell.api.routes.drafts import (
    create_upload,
    delete_upload,
    get_upload,
    get_upload_rows,
    list_uploads,
    start_upload,
    update_upload,
)
from pyshell.api.routes.incentives import get_organization, lookup_incentives, update_organization
from pyshell.api.routes.operations import get_operations, pause_lookups, resume_lookups, update_settings
from pyshell.api.routes.parameters import CREATED, PAGE, Endpoint, with_parameters
from pyshell.api.routes.portal import portal_config, portal_file, portal_page
from pyshell.api.routes.progress import get_batch_lookup, stream_batch_lookup_events
from pyshell.api.routes.reference import find_utilities, get_me, list_device_categories, list_devices, list_regions
from pyshell.api.routes.reports import (
    SITE_FILTERS,
    delete_incentive_report,
    diff_incentive_reports,
    get_incentive_report,
    get_incentive_report_csv,
    get_incentive_report_page,
    get_incentive_report_summary,
    get_incentive_report_xlsx,
    list_incentive_reports,
    update_incentive_report,
)
from pyshell.api.routes.results import list_batch_lookup_items, stream_batch_lookup_results
from pyshell.api.routes.service import healthz, metrics, openapi, readyz, root, run_worker, upgrade_required
from pyshell.api.routes.shares import (
    get_shared_report_csv,
    get_shared_report_page,
    get_shared_report_xlsx,
    list_incentive_report_shares,
    revoke_incentive_report_share,
    share_incentive_report,
)
from pyshell.api.routes.uploads import DEFAULTS
from pyshell.api.routes.webhooks import (
    delete_webhook_config,
    get_webhook_config,
    get_webhook_delivery,
    list_webhook_deliveries,
    recover_webhook_deliveries,
    resend_webhook_delivery,
    rotate_webhook_secret,
    set_webhook_config,
    test_webhook,
)


class ExactRoute(Route):
    """A route with a fixed path that the parameter of a later route would also match: refuses other methods here."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child_scope = super().matches(scope)
        return Match.FULL if match is Match.PARTIAL else match, child_scope


def route(method: str, path: str, scope: str | None, endpoint: Endpoint, *parameters: str) -> Route:
    """A route for callers with the scope (ANY_SCOPE: any; None: everybody), with its query parameters."""
    checked = with_parameters(endpoint, *parameters)
    return Route(path, checked if scope is None else secured(scope, checked), methods=[method])


routes = [
    route(
        "POST",
        "/batch-lookups",
        "jobs:write",
        create_batch_lookup,
        "name",
        "label",
        "on_invalid",
        "dry_run",
        "reuse_max_age_days",
        "sample",
        "max_lookups",
        "when_limit_reached",
        "columns",
        "sheet",
        *DEFAULTS,
    ),
    route("GET", "/batch-lookups", "jobs:read", list_batch_lookups, "status", "name", "label", *CREATED, CONSISTENCY, *PAGE),
    route("GET", "/batch-lookups/{job_id}", "jobs:read", get_batch_lookup, "include_items", "wait", CONSISTENCY),
    route("DELETE", "/batch-lookups/{job_id}", "jobs:write", delete_batch_lookup, "include_report"),
    route("GET", "/batch-lookups/{job_id}/events", "jobs:read", stream_batch_lookup_events),
    route("GET", "/batch-lookups/{job_id}/items", "jobs:read", list_batch_lookup_items, "status", "error_code", "q", CONSISTENCY, *PAGE),
    route("GET", "/batch-lookups/{job_id}/items/{position}", "jobs:read", get_batch_lookup_item, CONSISTENCY),
    route(
        "GET",
        "/batch-lookups/{job_id}/results",
        "jobs:read",
        stream_batch_lookup_results,
        "format",
        "layout",
        "bom",
        "status",
        "error_code",
        "after",
        CONSISTENCY,
    ),
    route("POST", "/batch-lookups/{job_id}/cancel", "jobs:write", cancel_batch_lookup),
    route("POST", "/batch-lookups/{job_id}/continue", "jobs:write", continue_batch_lookup, "max_lookups"),
    route("POST", "/batch-lookups/{job_id}/retry", "jobs:write", retry_batch_lookup, "error_code"),
    route("POST", "/uploads", "jobs:write", create_upload, "name", "reuse_max_age_days", "columns", "sheet", *DEFAULTS),
    route("GET", "/uploads", "jobs:read", list_uploads, "status", *PAGE),
    route("GET", "/uploads/{upload_id}", "jobs:read", get_upload),
    route("PATCH", "/uploads/{upload_id}", "jobs:write", update_upload),
    route("DELETE", "/uploads/{upload_id}", "jobs:write", delete_upload),
    route("GET", "/uploads/{upload_id}/rows", "jobs:read", get_upload_rows, "problem", "warning", "field", "q", "skipped", *PAGE),
    route("POST", "/uploads/{upload_id}/start", "jobs:write", start_upload),
    route("POST", "/batch-lookups-worker", "worker:run", run_worker),
    route("POST", "/functions/v1/batch-lookups-worker", "worker:run", run_worker),
    route("POST", "/incentives", "incentives:write", lookup_incentives),
    route("GET", "/usage", "jobs:read", get_usage, *CREATED, CONSISTENCY, *PAGE),
    route("GET", "/organization", "jobs:read", get_organization),
    route("PATCH", "/organization", "keys:admin", update_organization),
    route("GET", "/me", ANY_SCOPE, get_me),
    route("GET", "/devices", ANY_SCOPE, list_devices, "category"),
    route("GET", "/device-categories", ANY_SCOPE, list_device_categories),
    route("GET", "/regions", ANY_SCOPE, list_regions, "country_code"),
    route("GET", "/utilities", ANY_SCOPE, find_utilities, "postal_code"),
    route("GET", "/applications", "applications:read", list_applications, "refId", "application_status", CONSISTENCY, *PAGE),
    route("GET", "/applications/{application_id}", "applications:read", get_application, CONSISTENCY),
    route("PATCH", "/applications/{application_id}", "applications:write", update_application, "dryRun"),
    route("GET", "/incentive-reports", "reports:read", list_incentive_reports, "status", "report_type", *CREATED, CONSISTENCY, *PAGE),
    ExactRoute(
        "/incentive-reports/diff",
        secured("reports:read", with_parameters(diff_incentive_reports, "from", "to", "change", CONSISTENCY, *PAGE)),
        methods=["GET"],
    ),
    route("GET", "/incentive-reports/{report_id}", "reports:read", get_incentive_report, "sort", *SITE_FILTERS, CONSISTENCY, *PAGE),
    WebSocketRoute("/realtime/v1/websocket", realtime),
    Route("/realtime/v1/websocket", upgrade_required),
    route("PATCH", "/incentive-reports/{report_id}", "reports:write", update_incentive_report),
    route("DELETE", "/incentive-reports/{report_id}", "reports:write", delete_incentive_report),
    route("GET", "/incentive-reports/{report_id}/summary", "reports:read", get_incentive_report_summary, CONSISTENCY),
    route("GET", "/incentive-reports/{report_id}/csv", "reports:read", get_incentive_report_csv, *SITE_FILTERS, CONSISTENCY),
    route("GET", "/incentive-reports/{report_id}/xlsx", "reports:read", get_incentive_report_xlsx, *SITE_FILTERS, CONSISTENCY),
    route("GET", "/incentive-reports/{report_id}/html", "reports:read", get_incentive_report_page, CONSISTENCY),
    route("POST", "/incentive-reports/{report_id}/share", "reports:write", share_incentive_report),
    route("GET", "/incentive-reports/{report_id}/share", "reports:read", list_incentive_report_shares),
    route("DELETE", "/incentive-reports/{report_id}/share/{share_id}", "reports:write", revoke_incentive_report_share),
    route("GET", "/shared-reports/{token}", None, get_shared_report_page),
    route("GET", "/shared-reports/{token}/csv", None, get_shared_report_csv),
    route("GET", "/shared-reports/{token}/xlsx", None, get_shared_report_xlsx),
    route("POST", "/api-keys", "keys:admin", create_api_key),
    route("GET", "/api-keys", "keys:admin", list_api_keys, *PAGE),
    route("GET", "/api-keys/{api_key_id}", "keys:admin", get_api_key),
    route("DELETE", "/api-keys/{api_key_id}", "keys:admin", revoke_api_key, "include_created"),
    route("POST", "/api-keys/{api_key_id}/rotate", "keys:admin", rotate_api_key),
    route("GET", "/audit-events", "keys:admin", list_audit_events, "action", *PAGE),
    route("GET", "/webhook-config", "webhooks:read", get_webhook_config),
    route("PUT", "/webhook-config", "webhooks:write", set_webhook_config),
    route("DELETE", "/webhook-config", "webhooks:write", delete_webhook_config),
    route("POST", "/webhook-config/test", "webhooks:write", test_webhook),
    route("POST", "/webhook-config/rotate-secret", "webhooks:write", rotate_webhook_secret),
    route("GET", "/webhook-deliveries", "webhooks:read", list_webhook_deliveries, "status", "event", "job_id", *PAGE),
    ExactRoute("/webhook-deliveries/recover", secured("webhooks:write", with_parameters(recover_webhook_deliveries)), methods=["POST"]),
    route("GET", "/webhook-deliveries/{delivery_id}", "webhooks:read", get_webhook_delivery),
    route("POST", "/webhook-deliveries/{delivery_id}/resend", "webhooks:write", resend_webhook_delivery),
    route("GET", "/operations", "operations:write", get_operations),
    route("PATCH", "/operations/settings", "operations:write", update_settings),
    route("POST", "/operations/pause", "operations:write", pause_lookups, "seconds"),
    route("POST", "/operations/resume", "operations:write", resume_lookups),
    route("GET", "/", None, root),
    route("GET", "/healthz", None, healthz),
    route("GET", "/readyz", None, readyz),
    route("GET", "/metrics", None, metrics),
    Route("/openapi.json", openapi),
    Route("/portal", portal_page),
    Route("/portal/config.json", portal_config),
    Route("/portal/{file}", portal_file),
    Route("/docs", docs),
    Route("/docs/{file}", docs_file),
]
