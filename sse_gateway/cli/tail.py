"""`sse-gateway tail`: follow a session in the terminal, and answer its permission requests."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from sse_gateway.cli.answering import Answering
from sse_gateway.cli.following import Gateway, Lost, Over, read_object
from sse_gateway.cli.options import SettingsCommand, settings_from, settings_options
from sse_gateway.cli.prompt import Prompt, width
from sse_gateway.cli.refusal import Misuse
from sse_gateway.cli.sse import ServerEvent
from sse_gateway.cli.telling import event_line
from sse_gateway.cli.token import KEY_SETTINGS, mint
from sse_gateway.config import Settings
from sse_gateway.core.cursor import Cursor
from sse_gateway.core.errors import GatewayError
from sse_gateway.core.keys import check_session_id

MINTED_SECONDS = 3600
EXAMPLES = (
    "sse-gateway tail s1",
    'sse-gateway tail s1 --url https://gw.example.org/agent_backend/api/sse --token "$TOKEN"',
    "sse-gateway tail s1 --replay all --json | jq .data",
    "sse-gateway tail s1 --since 3fa9c01b2e-41",
)


@click.command(cls=SettingsCommand, examples=EXAMPLES)
@click.argument("session")
@click.option(
    "--url", envvar="SSE_GATEWAY_URL", metavar="URL", help="The gateway's address with its base path."
)
@click.option(
    "--token", envvar="SSE_GATEWAY_TOKEN", metavar="JWT", help="Token to show [also SSE_GATEWAY_TOKEN]."
)
@click.option("--user", "-u", metavar="NAME", help="Whom to mint a token for, when a secret is configured.")
@click.option(
    "--since", default="", metavar="CURSOR", help="Go on after this position, such as 3fa9c01b2e-41."
)
@click.option(
    "--replay",
    type=click.Choice(["snapshot", "all", "none"]),
    help="What to show first without --since. Default: the state as of now.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for pipes; nothing is asked.")
@click.option("--heartbeats", is_flag=True, help="Show heartbeats too.")
@settings_options((*KEY_SETTINGS, "host", "port", "base_path", "public_url"))
def command(
    *,
    session: str,
    url: str | None,
    token: str | None,
    user: str | None,
    since: str,
    replay: str | None,
    as_json: bool,
    heartbeats: bool,
    config: Path | None,
    **flags: Any,
) -> None:
    """Show a session's stream, one line an event, reconnecting without a gap.

    On a terminal a permission request is shown in full and can be answered: type y or n, a reason behind it
    if you like, and Enter. Characters that could deceive (control, bidirectional, invisible) are written out.

    The token is --token or SSE_GATEWAY_TOKEN; without one, tail mints its own when the gateway's secret is
    configured.
    """
    try:
        check_session_id(session)
    except GatewayError as error:
        raise Misuse(error.message) from None
    if since and Cursor.parse(since) is None:
        raise Misuse(f"--since {since!r} is no position.", hint="they look like 3fa9c01b2e-41")
    settings = settings_from(flags, config)
    address = url or default_url(settings)
    if not address.startswith(("http://", "https://")):
        raise Misuse(f"--url {address!r} is no http:// or https:// address.")
    token, fresh_token = _token(settings, session, token=token, user=user)
    gateway = Gateway(address, session, token=token, fresh_token=fresh_token)
    interactive = not as_json and sys.stdin.isatty() and sys.stdout.isatty()
    view = View(gateway, as_json=as_json, heartbeats=heartbeats, interactive=interactive)
    asyncio.run(view.run(cursor=since, replay=replay or ""))


def default_url(settings: Settings) -> str:
    """Return where the gateway of these settings is to be found from this machine."""
    if settings.public_url:
        return settings.public_url + settings.base_path
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(settings.host, settings.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}{settings.base_path}"


def _token(settings: Settings, session: str, *, token: str | None, user: str | None) -> tuple[str, Any]:
    if token:
        return token.strip(), None
    if settings.jwt_secret is None:
        raise Misuse(
            "tail needs a token.",
            hint="give --token or SSE_GATEWAY_TOKEN; with SSE_GATEWAY_JWT_SECRET set, tail mints one",
        )
    name = user or os.environ.get("USER") or "tail"

    def minted() -> str:
        return mint(settings, user=name, sessions=(session,), ttl_seconds=MINTED_SECONDS)

    return minted(), minted


class View:
    """Show what the stream brings, and let a person answer."""

    def __init__(self, gateway: Gateway, *, as_json: bool, heartbeats: bool, interactive: bool) -> None:
        """Connect nothing yet."""
        self._gateway = gateway
        self._as_json = as_json
        self._heartbeats = heartbeats
        self._prompt = Prompt(self._typed, interactive=interactive)
        self._answering = Answering(gateway, self._prompt)

    async def run(self, *, cursor: str, replay: str) -> None:
        """Follow until the stream is over or somebody has had enough."""
        async with self._gateway:
            with self._prompt:
                try:
                    async for step in self._gateway.follow(cursor=cursor, replay=replay):
                        self._show(step)
                finally:
                    await self._answering.finish()

    def _show(self, step: ServerEvent | Lost | Over) -> None:
        if isinstance(step, ServerEvent):
            self._show_event(step)
        elif isinstance(step, Lost):
            self._say(f"{step.why}; trying again in {step.seconds:.1f} s")
        else:
            self._say(step.why)

    def _show_event(self, event: ServerEvent) -> None:
        envelope = read_object(event.data)
        if event.event == "message" and envelope.get("type") == "heartbeat" and not self._heartbeats:
            return
        if self._as_json:
            whole = envelope if event.event == "message" else {"event": event.event, "data": envelope}
            click.echo(compact_ascii(whole))
            return
        if event.event == "ready" and envelope.get("complete", True) and not envelope.get("replayed"):
            self._say(f"live at {envelope.get('cursor')}")
        elif not self._answering.is_next(event.event, envelope):
            self._prompt.print(event_line(event, width=width()))
        self._answering.take(event.event, envelope)

    def _say(self, text: str) -> None:
        """Tell about the connection: beside the events, so on standard error in a pipe."""
        if self._prompt.interactive:
            self._prompt.print(click.style(f"· {text}", dim=True))
        else:
            click.secho(f"· {text}", dim=True, err=True)

    def _typed(self, line: str) -> None:
        self._answering.typed(line)


def compact_ascii(value: Any) -> str:
    """Write JSON in ASCII: what a terminal could be driven by stays an escape."""
    return json.dumps(value, separators=(",", ":"))
