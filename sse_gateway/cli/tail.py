"""`sse-gateway tail`: follow a session in the terminal, and answer its permission requests."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import click

from sse_gateway.cli.answering import Answering
from sse_gateway.cli.following import Gateway, Lost, Over
from sse_gateway.cli.options import SettingsCommand, settings_from, settings_options
from sse_gateway.cli.prompt import Prompt, width
from sse_gateway.cli.reaching import REACH_SETTINGS, reach, reach_options
from sse_gateway.cli.refusal import Misuse
from sse_gateway.cli.sse import ServerEvent, read_object
from sse_gateway.cli.telling import event_line
from sse_gateway.core.cursor import Cursor
from sse_gateway.core.errors import GatewayError
from sse_gateway.core.keys import check_session_id

EXAMPLES = (
    "sse-gateway tail s1",
    'sse-gateway tail s1 --url https://gw.example.org/agent_backend/api/sse --token "$TOKEN"',
    "sse-gateway tail s1 --replay all --json | jq .data",
    "sse-gateway tail s1 --since 3fa9c01b2e-41",
)


@click.command(cls=SettingsCommand, examples=EXAMPLES)
@click.argument("session")
@reach_options
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
@settings_options(REACH_SETTINGS)
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
    gateway = reach(settings, session, url=url, token=token, user=user)
    interactive = not as_json and sys.stdin.isatty() and sys.stdout.isatty()
    view = View(gateway, as_json=as_json, heartbeats=heartbeats, interactive=interactive)
    asyncio.run(view.run(cursor=since, replay=replay or ""))


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
