"""Responses of megabytes: sent as fast as their clients read them, and limited in number."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Final
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from pyshell.api.counts import Serving
from pyshell.api.errors import ApiError
from pyshell.api.pieces import in_pieces
from pyshell.postgres.shares import TakenError

# A larger response keeps its share until the client has read it.
LARGE_BYTES: Final = 1024 * 1024
# At most 8 MB each, the size at which the functions of the database cut them.
LARGE_ANSWERS_PER_ORGANIZATION = 4
MAX_LARGE_ANSWERS = 16
SHARE_SECONDS = 5.0


class LargeAnswers:
    """The large responses in progress."""

    def __init__(self, serving: Serving) -> None:
        self._of_organization = serving.shares("large answers of", LARGE_ANSWERS_PER_ORGANIZATION, SHARE_SECONDS)
        self._of_all = serving.shares("large answers", MAX_LARGE_ANSWERS, SHARE_SECONDS)

    async def one_of(self, organization_id: UUID, answer: Callable[[], Awaitable[Response]]) -> Response:
        """The result of `answer`. Raises ApiError 503 if the organization, or all together, have too many large responses in progress."""
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self._of_organization.one_of(organization_id))
                await stack.enter_async_context(self._of_all.one_of(None))
            except TakenError:
                raise ApiError(
                    503, "busy", "Too many large responses are in progress; please read those first", headers={"Retry-After": "5"}
                ) from None
            response = await answer()
            if isinstance(response, StreamingResponse) or len(response.body) > LARGE_BYTES:
                return Kept(response, stack.pop_all())
            return response


async def bounded(request: Request, organization_id: UUID, answer: Callable[[], Awaitable[Response]]) -> Response:
    """The result of `answer`, as a large response of the organization. Raises ApiError 503 as `LargeAnswers.one_of` does."""
    large_answers: LargeAnswers = request.app.state.large_answers
    return await large_answers.one_of(organization_id, answer)


class Kept(Response):
    """A response that holds something until it is sent, or its client is gone."""

    def __init__(self, response: Response, kept: AsyncExitStack) -> None:
        self.status_code = response.status_code
        self.raw_headers = response.raw_headers
        self._response = response
        self._kept = kept

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._kept:
            await self._response(scope, receive, send)


class PiecewiseResponse(Response):
    """A body sent in pieces, each once the client has read most of the previous ones.

    So hardly more than one piece is buffered for a client that does not read.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for piece in in_pieces(bytes(self.body)):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
