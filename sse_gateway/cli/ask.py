"""`sse-gateway ask`: gate a shell script by a human."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sse_gateway.cli.options import SettingsCommand, settings_from, settings_options
from sse_gateway.cli.redis import REDIS_SETTINGS, open_store
from sse_gateway.cli.refusal import Misuse, Refusal
from sse_gateway.cli.telling import show
from sse_gateway.config import Settings
from sse_gateway.core.errors import GatewayError
from sse_gateway.core.events import loads_strict

if TYPE_CHECKING:
    from sse_gateway.agent import Decision

EXIT_CODES = {"approved": 0, "denied": 1, "expired": 2, "cancelled": 3}
TAKEN = 3
FAILED = 4
EXAMPLES = (
    "export SSE_GATEWAY_REDIS_URL=redis://127.0.0.1:6379/0",
    'sse-gateway ask s1 --tool deploy --parameters \'{"to":"production"}\' --risk high && ./deploy.sh',
    "sse-gateway ask s1 --tool rm --title 'Delete the build folder?' --timeout 60 --on-no-viewer fail",
    "sse-gateway ask s1 --tool deploy --request-id deploy-42 --json | jq .reason",
)


class Failed(Refusal):
    """End `ask` without an answer: its exit code is none that an answer has."""

    exit_code = FAILED


class AskCommand(SettingsCommand):
    """Keep usage errors apart from answers: 2 means that nobody answered in time."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments; what is wrong with them exits 4."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            raise Failed(
                error.format_message(), hint="`sse-gateway ask --help` shows what there is"
            ) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; wrong settings and an unreachable Redis exit 4."""
        try:
            return super().invoke(ctx)
        except Misuse as error:
            raise Failed(error.message, hint=error.hint) from None
        except GatewayError as error:
            raise Failed(error.message, hint=_hint(error)) from None


@click.command(cls=AskCommand, examples=EXAMPLES)
@click.argument("session")
@click.option("--tool", "-t", required=True, metavar="NAME", help="What is to be run.")
@click.option(
    "--parameters", "-p", default="{}", metavar="JSON", help="What it is to be run with, an object."
)
@click.option(
    "--risk",
    default="medium",
    show_default=True,
    type=click.Choice(("low", "medium", "high")),
    help="How bad it may get.",
)
@click.option("--title", metavar="TEXT", help="What the human reads first.")
@click.option("--description", metavar="TEXT", help="Why this is needed.")
@click.option(
    "--timeout", type=float, metavar="SECONDS", help="How long a human has. Default: PERMISSION_SECONDS."
)
@click.option(
    "--request-id", metavar="ID", help="Asked again with the same id, the stored answer comes back."
)
@click.option("--owner", metavar="USER", help="Make this user the session's owner, if it has none yet.")
@click.option(
    "--on-no-viewer",
    default="wait",
    show_default=True,
    metavar="RULE",
    help="When nobody who may answer is watching: wait, fail, or deny_after:SECONDS.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the whole decision as one JSON object.")
@settings_options(REDIS_SETTINGS)
def command(
    *,
    session: str,
    tool: str,
    parameters: str,
    as_json: bool,
    owner: str | None,
    config: Path | None,
    **rest: Any,
) -> int:
    """Ask whoever watches SESSION, wait, and exit with the answer.

    Exit code 0: approved, and taken by this call alone. 1: denied. 2: nobody answered in time. 3: cancelled,
    or somebody else took the approval. 4: it could not be asked. Ctrl-C withdraws the request.
    """
    asked = {
        name: rest.pop(name)
        for name in ("risk", "title", "description", "timeout", "request_id", "on_no_viewer")
    }
    asked["risk_level"] = asked.pop("risk")
    arguments = loads_strict(parameters.encode("utf-8", "surrogateescape"))
    if not isinstance(arguments, dict):
        raise Misuse("--parameters is not a JSON object.", hint='such as \'{"to":"production"}\'')
    settings = settings_from(rest, config, needs=("redis_url",))
    if sys.stderr.isatty():
        click.secho(f"waiting for an answer to {show(tool)} in session {session} …", dim=True, err=True)
    decision, taken = asyncio.run(_ask(settings, session, tool, arguments, owner=owner or "", asked=asked))
    click.echo(_as_json(decision) if as_json else _told(decision, taken=taken))
    if decision.approved and not taken:
        return TAKEN
    return EXIT_CODES[decision.outcome]


async def _ask(
    settings: Settings,
    session: str,
    tool: str,
    arguments: dict[str, Any],
    *,
    owner: str,
    asked: dict[str, Any],
) -> tuple[Decision, bool]:
    from sse_gateway.agent import AgentClient  # noqa: PLC0415

    async with (
        open_store(settings) as store,
        AgentClient(store.client, namespace=settings.namespace, limits=store.library.limits) as client,
    ):
        conversation = client.session(session, owner=owner)
        decision = await conversation.request_permission(tool, arguments, **asked)
        taken = decision.approved and await conversation.claim(decision)
    return decision, taken


def _as_json(decision: Decision) -> str:
    members = asdict(decision)
    del members["wait_id"]
    return json.dumps(members, default=str)


def _told(decision: Decision, *, taken: bool) -> str:
    who = f" by {show(decision.decided_by)}" if decision.decided_by else ""
    why = f": {show(decision.reason)}" if decision.reason else ""
    late = " (and taken by somebody else)" if decision.approved and not taken else ""
    colour = "green" if decision.approved and taken else "red" if decision.outcome == "denied" else "yellow"
    return click.style(f"{decision.outcome}{who}{why}{late}", fg=colour)


def _hint(error: GatewayError) -> str:
    if error.code == "redis_unavailable":
        return "is --redis-url (SSE_GATEWAY_REDIS_URL) right, and is Redis running there?"
    return ""
