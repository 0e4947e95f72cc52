"""A gateway inside the test's own process, for what no setting changes: its checks' pace."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from pydantic import SecretStr

from sse_gateway.auth import Authenticator
from sse_gateway.config import Settings
from sse_gateway.gateway import Gateway
from sse_gateway.metrics import Metrics
from sse_gateway.web.app import make_app
from sse_gateway.web.listening import listen
from tests.support import leaks
from tests.support.gateway import BASE_PATH
from tests.support.ports import free_port
from tests.support.tokens import SECRET
from tests.support.wait import until

NEVER = 1e9
"""Seconds: a check with this pace does not happen."""


class LocalGateway:
    """A gateway, seen as tests see a process."""

    def __init__(self, gateway: Gateway, port: int) -> None:
        self.gateway = gateway
        self.base = f"http://127.0.0.1:{port}{BASE_PATH}"

    def events(self, session_id: str, query: str = "") -> str:
        """Return the address of a session's stream."""
        return f"{self.base}/events/{session_id}" + (f"?{query}" if query else "")


@asynccontextmanager
async def local_gateway(
    url: str,
    *,
    probe_seconds: float = NEVER,
    position_check_seconds: float = NEVER,
    probe_timeout_seconds: float = 1.0,
    authenticator: Authenticator | None = None,
    **settings: Any,
) -> AsyncIterator[LocalGateway]:
    """Serve until the block ends; a probe is sent once in any case, when the push connection is made."""
    made = Settings(redis_url=SecretStr(url), jwt_secret=SecretStr(SECRET), heartbeat_seconds=1, **settings)
    gateway = Gateway(
        made,
        metrics=Metrics(),
        max_streams=1000,
        probe_seconds=probe_seconds,
        probe_timeout_seconds=probe_timeout_seconds,
        position_check_seconds=position_check_seconds,
    )
    app = make_app(made, gateway, authenticator or Authenticator(made))
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    port = free_port()
    # It logs into this process, so its lines are kept to be searched as those of a process of its own are.
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    logging.getLogger("sse_gateway").addHandler(handler)
    server: asyncio.Server | None = None
    try:
        server = await listen(runner, "127.0.0.1", port)
        await until(lambda: not gateway.not_ready(), "the gateway to be ready")
        yield LocalGateway(gateway, port)
    finally:
        if server is not None:
            server.close()
        await runner.cleanup()
        logging.getLogger("sse_gateway").removeHandler(handler)
        leaks.look("local gateway", said.getvalue())
