"""`sse-gateway demo`: everything at once, to see it work before anything is set up."""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import Any

import click
from pydantic import SecretStr

from sse_gateway.cli.refusal import Misuse, Refusal
from sse_gateway.cli.running import free_port, run_loop, serve
from sse_gateway.cli.serve import set_up_logs
from sse_gateway.cli.teaching import TeachingCommand
from sse_gateway.cli.token import mint
from sse_gateway.config import Settings
from sse_gateway.core.errors import GatewayError
from sse_gateway.core.keys import check_session_id

logger = logging.getLogger(__name__)

FIRST_PORT = 8000
CANCEL_SECONDS = 0.2
TTL_SECONDS = 12 * 3600
USER = "you"
EVENT = '{"type":"tool_status","data":{"status":"executing"}}'
EXAMPLES = (
    "sse-gateway demo",
    "sse-gateway demo --port 9000",
)


@click.command(cls=TeachingCommand, examples=EXAMPLES)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help=f"Port to listen on. Default: {FIRST_PORT} or the next free one.",
)
@click.option(
    "--session", default="demo", show_default=True, metavar="ID", help="The session the agent works in."
)
@click.option(
    "--log-level", default="info", show_default=True, type=click.Choice(["debug", "info", "warning", "error"])
)
@click.option(
    "--answer-seconds",
    default=120,
    show_default=True,
    type=click.IntRange(1, 3600),
    help="How long the agent waits for an answer.",
)
@click.option(
    "--seconds-per-step",
    default=1.5,
    show_default=True,
    type=click.FloatRange(0.05, 60),
    help="The agent's pace.",
)
def command(
    *, port: int | None, session: str, log_level: str, answer_seconds: int, seconds_per_step: float
) -> None:
    """Start an embedded server, the gateway and a scripted agent, and print what to open and to paste.

    The agent works on a small task, again and again: it runs tools and asks for permission before what is
    dangerous. Open the console, answer, and see it go on accordingly. Settings from variables and files are
    not used, nothing is reachable from other machines, and nothing is left behind.
    """
    try:
        check_session_id(session)
    except GatewayError as error:
        raise Misuse(error.message) from None
    settings = Settings(
        port=_port(port),
        jwt_secret=secrets.token_urlsafe(36),
        console=True,
        log_level=log_level,
    )
    set_up_logs(settings)
    run_loop(_demo(settings, session, step_seconds=seconds_per_step, answer_seconds=answer_seconds))


def _port(asked: int | None) -> int:
    wanted = FIRST_PORT if asked is None else asked
    found = free_port(wanted) if wanted else 0
    if found == wanted:
        return wanted
    if asked is not None:
        raise Refusal(f"Port {asked} is taken.", hint=f"--port {found} is free" if found else "try --port 0")
    click.secho(
        f"Port {FIRST_PORT} is taken, so the demo is on port {found} (--port chooses another).",
        fg="yellow",
        err=True,
    )
    return found


async def _demo(settings: Settings, session: str, *, step_seconds: float, answer_seconds: int) -> None:
    from sse_gateway.cli.scripted_agent import play  # noqa: PLC0415
    from sse_gateway.store.embedded import EmbeddedServer, EmbeddedServerError  # noqa: PLC0415

    agents: list[asyncio.Task[None]] = []

    def ready(address: str) -> None:
        click.echo(banner(effective, session, address))
        agent = play(server.url, session, step_seconds=step_seconds, answer_seconds=answer_seconds)
        agents.append(asyncio.create_task(agent))
        agents[0].add_done_callback(_tell_end)

    try:
        async with EmbeddedServer() as server:
            effective = settings.model_copy(update={"redis_url": SecretStr(server.url)})
            try:
                await serve(effective, ready=ready)
            finally:
                while running := [agent for agent in agents if not agent.done()]:
                    # Again and again: redis-py can swallow a cancellation that arrives together with a reply.
                    running[0].cancel()
                    await asyncio.wait(running, timeout=CANCEL_SECONDS)
    except EmbeddedServerError as error:
        raise Refusal(str(error)) from None


def _tell_end(agent: asyncio.Task[Any]) -> None:
    if not agent.cancelled() and (error := agent.exception()) is not None:
        logger.error("the demo's agent has ended", exc_info=error)


def banner(settings: Settings, session: str, address: str) -> str:
    """Return what the demo prints: the console's address, and lines to paste."""
    assert settings.redis_url is not None
    base = f"{address}{settings.base_path}"
    redis = settings.redis_url.get_secret_value()
    token = mint(settings, user=USER, sessions=(session,), ttl_seconds=TTL_SECONDS)
    console = f"{base}/console#session={session}&token={token}"

    def step(text: str) -> str:
        return click.style(text, bold=True)

    return "\n".join(
        (
            "",
            step("Open the console, and answer what the agent asks:"),
            f"  {click.style(console, fg='cyan', underline=True)}",
            "",
            step("Or watch from another terminal (paste):"),
            f"  curl -N '{base}/events/{session}?token={token}'",
            f"  sse-gateway tail {session} --url {base} --token {token}",
            "",
            step("Be the agent yourself (paste):"),
            f"  redis-cli -u {redis} FCALL sse_publish 1 {session} '{EVENT}'",
            f"  redis-cli -u {redis} PUBLISH sse_events:{session} '{EVENT}'",
            f"  sse-gateway publish {session} '{EVENT}' --redis-url {redis}",
            "",
            click.style(
                "This machine only, a made-up secret, an embedded server. Ctrl-C ends all of it.", dim=True
            ),
            "",
        )
    )
