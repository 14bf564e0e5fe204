"""`?consistency=eventual`: a read that a replica may answer."""

from __future__ import annotations

from starlette.requests import Request

from pyshell.api.errors import ApiError
from pyshell.postgres.calls import Runner
from pyshell.postgres.pool import Pool
from pyshell.postgres.replica import Replica

CONSISTENCY = "consistency"
LAG_HEADER = "Replica-Lag"


def reader(request: Request) -> Runner:
    """Where to read for the request: at the primary, or with `consistency=eventual` at a replica, whose lag is then in the response.

    Raises ApiError 400 for any other consistency. Without DATABASE_REPLICA_URL, everything is read at the primary.
    """
    consistency = request.query_params.get(CONSISTENCY, "strong")
    if consistency not in ("eventual", "strong"):
        raise ApiError(400, "invalid_consistency", "consistency must be eventual or strong")
    pool: Pool = request.app.state.pool
    replica: Replica | None = request.app.state.replica
    if consistency == "strong" or replica is None:
        return pool
    headers: dict[str, str] = request.scope["state"].setdefault("headers", {})

    def tell(lag: float) -> None:
        # Of several reads, the largest lag, as a decimal of RFC 9651.
        headers[LAG_HEADER] = f"{max(lag, float(headers.get(LAG_HEADER, 0))):.3f}"

    return replica.reader(tell)
