"""`sse-gateway answer`: list what a session asks, or answer it, from a shell."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from sse_gateway.cli.following import Gateway
from sse_gateway.cli.options import SettingsCommand, settings_from, settings_options
from sse_gateway.cli.prompt import width
from sse_gateway.cli.reaching import REACH_SETTINGS, reach, reach_options
from sse_gateway.cli.refusal import Misuse, Refusal
from sse_gateway.cli.telling import request_box, show
from sse_gateway.core.errors import GatewayError
from sse_gateway.core.events import loads_strict
from sse_gateway.core.keys import check_session_id

EXAMPLES = (
    "sse-gateway answer s1",
    "sse-gateway answer s1 --approve",
    "sse-gateway answer s1 deploy-42 --deny --reason 'not on a Friday'",
    "sse-gateway answer s1 deploy-42 --approve --option once",
)


@click.command(cls=SettingsCommand, examples=EXAMPLES)
@click.argument("session")
@click.argument("request_id", required=False)
@click.option(
    "--approve/--deny", "approved", default=None, help="The answer. Without one, open requests are listed."
)
@click.option("--reason", metavar="TEXT", help="What the agent is told beside it.")
@click.option("--option", "option_id", metavar="ID", help="Which of the request's options is chosen.")
@click.option(
    "--edit", metavar="JSON", help="The parameters as they are to be run, where they may be edited."
)
@reach_options
@settings_options(REACH_SETTINGS)
def command(
    *,
    session: str,
    request_id: str | None,
    approved: bool | None,
    reason: str | None,
    option_id: str | None,
    edit: str | None,
    url: str | None,
    token: str | None,
    user: str | None,
    config: Path | None,
    **flags: Any,
) -> None:
    """List the open permission requests of SESSION, or answer one.

    Without REQUEST_ID the only open one is meant. The answer is bound to the request as it was read: if its
    arguments are others by then, it is refused.
    """
    try:
        check_session_id(session)
    except GatewayError as error:
        raise Misuse(error.message) from None
    if approved is None and (reason or option_id or edit or request_id):
        raise Misuse("An answer needs --approve or --deny.")
    body = {"approved": approved, "reason": reason, "option_id": option_id, "updated_input": _edited(edit)}
    gateway = reach(settings_from(flags, config), session, url=url, token=token, user=user)
    asyncio.run(_list(gateway) if approved is None else _answer(gateway, request_id, body))


def _edited(edit: str | None) -> Any:
    if edit is None:
        return None
    try:
        return loads_strict(edit.encode("utf-8", "surrogateescape"))
    except GatewayError as error:
        raise Misuse(f"--edit: {error.message}") from None


async def _list(gateway: Gateway) -> None:
    async with gateway:
        pending = await _pending(gateway)
    for number, request in enumerate(pending, 1):
        for line in request_box(request, width=width(), number=number, count=len(pending), by_id=True):
            click.echo(line)
        click.echo(f"request id: {show(request['request_id'])}")
    if not pending:
        click.secho("no permission request is open", dim=True, err=True)


async def _answer(gateway: Gateway, request_id: str | None, body: dict[str, Any]) -> None:
    async with gateway:
        request = _meant(await _pending(gateway), request_id)
        body = {name: value for name, value in body.items() if value is not None}
        body["request_id"] = request["request_id"]
        if isinstance(request.get("args_digest"), str):
            body["args_digest"] = request["args_digest"]
        status, answer = await gateway.post("permission-response", body)
    if status != 200:
        raise Refusal(show(answer.get("message") or f"HTTP {status}"))
    click.echo(show(answer.get("message", "")))


async def _pending(gateway: Gateway) -> list[dict[str, Any]]:
    status, answer = await gateway.get("permissions")
    if status != 200:
        raise Refusal(show(answer.get("message") or f"HTTP {status}"))
    pending: list[dict[str, Any]] = answer["data"]["pending"]
    return pending


def _meant(pending: list[dict[str, Any]], request_id: str | None) -> dict[str, Any]:
    """Return the request that is answered; one that is not open any more is for the gateway to judge."""
    if request_id is not None:
        known = {request["request_id"]: request for request in pending}
        return known.get(request_id, {"request_id": request_id})
    if not pending:
        raise Refusal("No permission request of this session is open.")
    if len(pending) > 1:
        names = ", ".join(show(request["request_id"]) for request in pending)
        raise Refusal("Several requests are open.", hint=f"name one: {names}")
    return pending[0]
