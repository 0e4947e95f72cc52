"""A console page, and its session seen from the agent's side."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from tests.support.gateway import GatewayProcess
from tests.support.servers import RedisProcess
from tests.support.tokens import token

if TYPE_CHECKING:
    from playwright.async_api import ConsoleMessage, Locator, Page, Request

Opener = Callable[[GatewayProcess, RedisProcess, str], Awaitable["Console"]]
"""The fixture `consoles`."""


class Console:
    """One page. What a person does is called on `page` and its parts, what the agent does on this."""

    def __init__(self, page: Page, gateway: GatewayProcess, server: RedisProcess, session_id: str) -> None:
        """Watch a page from its first request on."""
        self.page = page
        self.gateway = gateway
        self.server = server
        self.session_id = session_id
        self.faults: list[str] = []
        self.forgiven: tuple[str, ...] = ()
        """What the browser may say of failed requests: texts, one of which its line contains."""
        self.token = ""
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.faults.append(f"uncaught: {error}"))
        page.on("request", self._requested)

    async def open(self, *, live: bool = True, user: str = "user-1", **claims: Any) -> Console:
        """Open the page with session and token in its fragment, as the demo prints it."""
        self.token = token(sub=user, session_id=self.session_id, **claims)
        await self.page.goto(f"{self.gateway.base}/console#session={self.session_id}&token={self.token}")
        if live:
            await self.live()
        return self

    async def live(self) -> None:
        """Wait until the page says that it is live."""
        await self.part("state").and_(self.page.locator("[data-state=live]")).wait_for()

    def part(self, name: str) -> Locator:
        """Find the parts of the page that carry this test id."""
        return self.page.get_by_test_id(name)

    def request(self, request_id: str) -> Locator:
        """Find one request's card."""
        return self.page.locator(f'[data-testid="request"][data-request-id="{request_id}"]')

    def pending(self) -> Locator:
        """Find the cards that wait for an answer."""
        return self.page.locator('[data-testid="request"][data-state="pending"]')

    # The agent

    def call(self, function: str, *arguments: str) -> Any:
        """FCALL a function of the library."""
        return self.server.client.execute_command("FCALL", function, 1, self.session_id, *arguments)

    def publish(self, kind: str, data: Any, **members: Any) -> str:
        """Publish one durable event and return its id."""
        return str(self.call("sse_publish", json.dumps({"type": kind, "data": data, **members})))

    def ask(self, request_id: str, **request: Any) -> dict[str, Any]:
        """Ask for permission; a low risk unless said otherwise."""
        asked = {
            "request_id": request_id,
            "tool_name": "bash",
            "parameters": {"command": "make"},
            "risk_level": "low",
            **request,
        }
        standing: dict[str, Any] = json.loads(self.call("sse_ask", json.dumps(asked)))
        return standing

    def decision(self, request_id: str) -> dict[str, Any] | None:
        """Return what the agent is told of a request; None while it is pending."""
        found: dict[str, Any] | None = json.loads(self.call("sse_decision", request_id)).get("decision")
        return found

    # What must not happen

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not any(part in message.text for part in self.forgiven):
            self.faults.append(f"{message.type}: {message.text}")

    def _requested(self, request: Request) -> None:
        if not request.url.startswith((self.gateway.origin, "data:")):
            self.faults.append(f"another origin: {request.url}")
        # The page's own address has it in the fragment, which no request carries.
        if self.token and self.token in request.url.split("#")[0]:
            self.faults.append(f"a token in an address: {request.url}")
