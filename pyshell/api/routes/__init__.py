"""The routes of the API, each with the scope that a caller needs."""

from __future__ import annotations

from starlette.routing import Match, Route, WebSocketRoute
from starlette.types import Scope

from pyshell.api.authentication import secured
from pyshell.api.realtime.endpoint import realtime
from pyshell.api.routes.api_keys import create_api_key, get_api_key, list_api_keys, revoke_api_key, rotate_api_key
from pyshell.api.routes.applications import get_application, list_applications, update_application
from pyshell.api.routes.batch_lookups import (
    cancel_batch_lookup,
    create_batch_lookup,
    delete_batch_lookup,
    list_batch_lookups,
    retry_batch_lookup,
)
from pyshell.api.routes.docs import docs, docs_file
from pyshell.api.routes.incentives import get_organization, lookup_incentives, update_organization
from pyshell.api.routes.progress import get_batch_lookup, stream_batch_lookup_events
from pyshell.api.routes.reports import (
    delete_incentive_report,
    get_incentive_report,
    get_incentive_report_csv,
    get_incentive_report_page,
    get_incentive_report_summary,
    list_incentive_reports,
    update_incentive_report,
)
from pyshell.api.routes.results import list_batch_lookup_items, stream_batch_lookup_results
from pyshell.api.routes.service import healthz, metrics, openapi, readyz, root, run_worker
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
    """A route whose address is none of those that a later route's parameter would take: other methods are not allowed."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child_scope = super().matches(scope)
        return Match.FULL if match is Match.PARTIAL else match, child_scope


routes = [
    Route("/batch-lookups", secured("jobs:write", create_batch_lookup), methods=["POST"]),
    Route("/batch-lookups", secured("jobs:read", list_batch_lookups), methods=["GET"]),
    Route("/batch-lookups/{job_id}", secured("jobs:read", get_batch_lookup), methods=["GET"]),
    Route("/batch-lookups/{job_id}", secured("jobs:write", delete_batch_lookup), methods=["DELETE"]),
    Route("/batch-lookups/{job_id}/events", secured("jobs:read", stream_batch_lookup_events), methods=["GET"]),
    Route("/batch-lookups/{job_id}/items", secured("jobs:read", list_batch_lookup_items), methods=["GET"]),
    Route("/batch-lookups/{job_id}/results", secured("jobs:read", stream_batch_lookup_results), methods=["GET"]),
    Route("/batch-lookups/{job_id}/cancel", secured("jobs:write", cancel_batch_lookup), methods=["POST"]),
    Route("/batch-lookups/{job_id}/retry", secured("jobs:write", retry_batch_lookup), methods=["POST"]),
    Route("/batch-lookups-worker", secured("worker:run", run_worker), methods=["POST"]),
    Route("/functions/v1/batch-lookups-worker", secured("worker:run", run_worker), methods=["POST"]),
    Route("/incentives", secured("incentives:write", lookup_incentives), methods=["POST"]),
    Route("/organization", secured("jobs:read", get_organization), methods=["GET"]),
    Route("/organization", secured("keys:admin", update_organization), methods=["PATCH"]),
    Route("/applications", secured("applications:read", list_applications), methods=["GET"]),
    Route("/applications/{application_id}", secured("applications:read", get_application), methods=["GET"]),
    Route("/applications/{application_id}", secured("applications:write", update_application), methods=["PATCH"]),
    Route("/incentive-reports", secured("reports:read", list_incentive_reports), methods=["GET"]),
    Route("/incentive-reports/{report_id}", secured("reports:read", get_incentive_report), methods=["GET"]),
    WebSocketRoute("/realtime/v1/websocket", realtime),
    Route("/incentive-reports/{report_id}", secured("reports:write", update_incentive_report), methods=["PATCH"]),
    Route("/incentive-reports/{report_id}", secured("reports:write", delete_incentive_report), methods=["DELETE"]),
    Route("/incentive-reports/{report_id}/summary", secured("reports:read", get_incentive_report_summary), methods=["GET"]),
    Route("/incentive-reports/{report_id}/csv", secured("reports:read", get_incentive_report_csv), methods=["GET"]),
    Route("/incentive-reports/{report_id}/html", secured("reports:read", get_incentive_report_page), methods=["GET"]),
    Route("/api-keys", secured("keys:admin", create_api_key), methods=["POST"]),
    Route("/api-keys", secured("keys:admin", list_api_keys), methods=["GET"]),
    Route("/api-keys/{api_key_id}", secured("keys:admin", get_api_key), methods=["GET"]),
    Route("/api-keys/{api_key_id}", secured("keys:admin", revoke_api_key), methods=["DELETE"]),
    Route("/api-keys/{api_key_id}/rotate", secured("keys:admin", rotate_api_key), methods=["POST"]),
    Route("/webhook-config", secured("webhooks:read", get_webhook_config), methods=["GET"]),
    Route("/webhook-config", secured("webhooks:write", set_webhook_config), methods=["PUT"]),
    Route("/webhook-config", secured("webhooks:write", delete_webhook_config), methods=["DELETE"]),
    Route("/webhook-config/test", secured("webhooks:write", test_webhook), methods=["POST"]),
    Route("/webhook-config/rotate-secret", secured("webhooks:write", rotate_webhook_secret), methods=["POST"]),
    Route("/webhook-deliveries", secured("webhooks:read", list_webhook_deliveries), methods=["GET"]),
    ExactRoute("/webhook-deliveries/recover", secured("webhooks:write", recover_webhook_deliveries), methods=["POST"]),
    Route("/webhook-deliveries/{delivery_id}", secured("webhooks:read", get_webhook_delivery), methods=["GET"]),
    Route("/webhook-deliveries/{delivery_id}/resend", secured("webhooks:write", resend_webhook_delivery), methods=["POST"]),
    Route("/", root),
    Route("/healthz", healthz),
    Route("/readyz", readyz),
    Route("/metrics", metrics, methods=["GET"]),
    Route("/openapi.json", openapi),
    Route("/docs", docs),
    Route("/docs/{file}", docs_file),
]
