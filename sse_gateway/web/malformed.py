"""Answer what is no HTTP as every refusal is answered: in JSON, with nothing of it repeated.

aiohttp's own answer quotes the line it could not read, which may hold a token, and each is logged as an error
with a stack trace, by which any port scanner can fill a disk.
"""

from __future__ import annotations

import logging

from aiohttp import web

from sse_gateway.core.errors import GatewayError
from sse_gateway.web.replies import failure

logger = logging.getLogger(__name__)


class _Connection(web.RequestHandler):
    """One connection of a client's."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the answer to what could not be read, or broke outside of any handler."""
        if status >= 500:
            # Logs it; raises where a part of an answer has been sent.
            super().handle_error(request, status, exc, message)
            error = GatewayError("internal_error", "The gateway failed on this request; its log says why.")
        else:
            logger.debug("what came is not HTTP", extra={"fields": {"error": type(exc).__name__}})
            error = GatewayError(
                "bad_request", "This is not valid HTTP, or its address or a header is too long."
            )
        response = failure(error)
        response.force_close()
        return response


class _Server(web.Server):
    """Make the connections of one runner."""

    def __call__(self) -> web.RequestHandler:
        connection = super().__call__()
        connection.__class__ = _Connection
        return connection


def answer_malformed(runner: web.AppRunner) -> None:
    """Have a runner that is set up answer so; aiohttp has no setting for the class of its connections."""
    assert runner.server is not None
    runner.server.__class__ = _Server
