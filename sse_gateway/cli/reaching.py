"""Reach a gateway over HTTP from a command: its address, and a token that is given or minted."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from sse_gateway.cli.following import Gateway
from sse_gateway.cli.refusal import Misuse
from sse_gateway.cli.token import KEY_SETTINGS, mint
from sse_gateway.config import Settings

Command = TypeVar("Command", bound=Callable[..., Any])
MINTED_SECONDS = 3600
REACH_SETTINGS = (*KEY_SETTINGS, "host", "port", "base_path", "public_url")


def reach_options(command: Command) -> Command:
    """Add `--url`, `--token` and `--user` to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def reach(
    settings: Settings, session: str, *, url: str | None, token: str | None, user: str | None
) -> Gateway:
    """Return the gateway these options mean; raises Misuse for an address that is none or a missing token."""
    address = url or default_url(settings)
    if not address.startswith(("http://", "https://")):
        raise Misuse(f"--url {address!r} is no http:// or https:// address.")
    found, fresh_token = _token(settings, session, token=token, user=user)
    return Gateway(address, session, token=found, fresh_token=fresh_token)


def default_url(settings: Settings) -> str:
    """Return where the gateway of these settings is to be found from this machine."""
    if settings.public_url:
        return settings.public_url + settings.base_path
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(settings.host, settings.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}{settings.base_path}"


def _token(
    settings: Settings, session: str, *, token: str | None, user: str | None
) -> tuple[str, Callable[[], str] | None]:
    if token:
        return token.strip(), None
    if settings.jwt_secret is None:
        raise Misuse(
            "A token is needed.",
            hint="give --token or SSE_GATEWAY_TOKEN; with SSE_GATEWAY_JWT_SECRET set, one is minted",
        )
    name = user or os.environ.get("USER") or "cli"

    def minted() -> str:
        return mint(settings, user=name, sessions=(session,), ttl_seconds=MINTED_SECONDS)

    return minted(), minted


_OPTIONS = (
    click.option(
        "--url", envvar="SSE_GATEWAY_URL", metavar="URL", help="The gateway's address with its base path."
    ),
    click.option(
        "--token", envvar="SSE_GATEWAY_TOKEN", metavar="JWT", help="Token to show [also SSE_GATEWAY_TOKEN]."
    ),
    click.option(
        "--user", "-u", metavar="NAME", help="Whom to mint a token for, when a secret is configured."
    ),
)
