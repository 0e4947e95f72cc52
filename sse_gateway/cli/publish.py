"""`sse-gateway publish`: put an event into a session through Redis, as an agent backend does."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import click

from sse_gateway.cli.options import SettingsCommand, settings_from, settings_options
from sse_gateway.cli.redis import REDIS_SETTINGS, open_store
from sse_gateway.cli.refusal import Misuse, Refusal
from sse_gateway.config import Settings
from sse_gateway.core.errors import GatewayError, Unavailable
from sse_gateway.core.events import EVENT_TYPE, RESERVED_TYPES, dumps, loads_strict
from sse_gateway.core.keys import check_session_id

EXAMPLES = (
    "export SSE_GATEWAY_REDIS_URL=redis://127.0.0.1:6379/0",
    'sse-gateway publish s1 \'{"type":"tool_status","data":{"status":"executing"}}\'',
    'sse-gateway publish s1 --type tool_result --data \'{"tool_name":"bash","result":"done"}\'',
    "build.sh | jq -Rs '{type:\"build.log\",data:{text:.}}' | sse-gateway publish s1 -",
)


@click.command(cls=SettingsCommand, examples=EXAMPLES)
@click.argument("session")
@click.argument("event", required=False)
@click.option("--type", "-t", "type_", metavar="TYPE", help="The event's type, instead of a whole EVENT.")
@click.option(
    "--data", "-d", metavar="JSON", help="The event's data, with --type; - reads it from standard input."
)
@click.option(
    "--idempotency-key", metavar="KEY", help="Publish once, however often this is called in 5 minutes."
)
@click.option("--owner", metavar="USER", help="Make this user the session's owner, if it has none yet.")
@click.option("--live", is_flag=True, help="Not durable: only to streams that are open now, without an id.")
@settings_options(REDIS_SETTINGS)
def command(
    *,
    session: str,
    event: str | None,
    type_: str | None,
    data: str | None,
    idempotency_key: str | None,
    owner: str | None,
    live: bool,
    config: Path | None,
    **flags: Any,
) -> None:
    """Publish EVENT, a JSON object with a type and data, and print its id.

    EVENT may be - for standard input. A permission_request becomes a pending request, and how it stands is
    printed.
    """
    try:
        check_session_id(session)
    except GatewayError as error:
        raise Misuse(error.message) from None
    body = read_event(event, type_=type_, data=data)
    if live and (idempotency_key or owner):
        raise Misuse("--live goes with neither --idempotency-key nor --owner: nothing of it is kept.")
    settings = settings_from(flags, config, needs=("redis_url",))
    if live:
        asyncio.run(_publish_live(settings, session, body))
        return
    try:
        printed = asyncio.run(_publish(settings, session, body, idempotency_key=idempotency_key, owner=owner))
    except Unavailable:
        raise Refusal(
            "Redis cannot be reached, or did not answer in time.",
            hint="is --redis-url (SSE_GATEWAY_REDIS_URL) right, and is Redis running there?",
        ) from None
    click.echo(printed)


def read_event(event: str | None, *, type_: str | None, data: str | None) -> bytes:
    """Return the event's JSON as it was written, or as `--type` and `--data` make it."""
    if event is not None and (type_ is not None or data is not None):
        raise Misuse("Give either a whole EVENT or --type and --data.")
    if event is not None:
        body = sys.stdin.buffer.read() if event == "-" else event.encode("utf-8", "surrogateescape")
        members = _parse(body, what="EVENT")
        if not isinstance(members, dict):
            raise Misuse("EVENT is not a JSON object.", hint=_EXAMPLE)
        _check_type(members.get("type"))
        return body.strip()
    if type_ is None:
        raise Misuse("There is nothing to publish.", hint=_EXAMPLE)
    _check_type(type_)
    text = (
        b"{}"
        if data is None
        else sys.stdin.buffer.read()
        if data == "-"
        else data.encode("utf-8", "surrogateescape")
    )
    _parse(text, what="--data")
    # The data goes in as it was written: made anew, large numbers and the order of members could change.
    return b'{"type":' + dumps(type_) + b',"data":' + text.strip() + b"}"


async def _publish(
    settings: Settings, session: str, body: bytes, *, idempotency_key: str | None, owner: str | None
) -> str:
    from sse_gateway.store.history import History  # noqa: PLC0415

    async with open_store(settings) as store:
        answer = await History(store).publish(session, body, idempotency_key=idempotency_key, owner=owner)
    return answer if isinstance(answer, str) else dumps(answer).decode()


async def _publish_live(settings: Settings, session: str, body: bytes) -> None:
    async with open_store(settings) as store:
        await store.publish_channel(store.keys.events_channel(session), body)


def _parse(text: bytes, *, what: str) -> Any:
    try:
        return loads_strict(text)
    except GatewayError as error:
        why = error.message.removeprefix("The body is not valid JSON: ")
        raise Misuse(
            f"{what} is not valid JSON: {why}",
            hint=f"in a shell, single quotes keep the double ones: {_EXAMPLE}",
        ) from None


def _check_type(type_: Any) -> None:
    if not isinstance(type_, str) or EVENT_TYPE.fullmatch(type_) is None:
        raise Misuse("An event's type is 1 to 64 of the characters A-Z a-z 0-9 _ . -", hint=_EXAMPLE)
    if type_ in RESERVED_TYPES:
        raise Misuse(f"Only the gateway makes events of type {type_}.")


_EXAMPLE = """sse-gateway publish s1 '{"type":"tool_status","data":{"status":"executing"}}'"""
