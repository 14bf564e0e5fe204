"""Batch Lookups from Python and from the terminal: `Client`, `AsyncClient`, and the command `batch-lookups`.

    from batch_lookups import Client

    with Client("https://lookups.example.com", api_key) as client:
        created = client.create_batch(Path("sites.csv").read_bytes())
        for job in client.watch(created["job_id"]):
            print(job["processed_items"], "of", job["total_items"])

Nothing is imported before it is used, so that the command starts fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batch_lookups.client import AsyncClient, Client
    from batch_lookups.errors import ApiError, BatchLookupsError, InvalidArgumentError, UnavailableError

__all__ = ["ApiError", "AsyncClient", "BatchLookupsError", "Client", "InvalidArgumentError", "UnavailableError", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in ("Client", "AsyncClient"):
        from batch_lookups import client

        return getattr(client, name)
    if name in ("ApiError", "BatchLookupsError", "InvalidArgumentError", "UnavailableError"):
        from batch_lookups import errors

        return getattr(errors, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
