"""`sse-gateway token`: mint a token with the configured secret, or explain what one may do."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from sse_gateway.cli.options import SettingsCommand, settings_from, settings_options
from sse_gateway.cli.redis import REDIS_SETTINGS, open_store
from sse_gateway.cli.refusal import Misuse, Refusal
from sse_gateway.config import Settings
from sse_gateway.config.forms import SCOPES
from sse_gateway.core.errors import GatewayError

LONGEST_TTL_SECONDS = 10 * 365 * 24 * 3600
_TTL = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?")

KEY_SETTINGS = (
    "jwt_secret",
    "jwt_secret_file",
    "jwt_secret_previous",
    "jwt_secret_previous_file",
    "jwt_public_key_file",
    "jwt_jwks_url",
    "jwt_algorithms",
    "jwt_issuer",
    "jwt_audience",
    "jwt_leeway_seconds",
    "jwt_user_claim",
    "jwt_session_claim",
    "jwt_sessions_claim",
    "default_scopes",
)
EXAMPLES = (
    "export SSE_GATEWAY_JWT_SECRET_FILE=/run/secrets/jwt",
    "sse-gateway token --user ann --session s1 --ttl 8h",
    "TOKEN=$(sse-gateway token -u worker -s '*' --scope sse:publish)",
    'sse-gateway token --explain - --session s1 <<<"$TOKEN"',
)


@click.command(cls=SettingsCommand, examples=EXAMPLES)
@click.option("--user", "-u", metavar="NAME", help="Whom the token speaks for.")
@click.option(
    "--session",
    "-s",
    "sessions",
    multiple=True,
    metavar="ID",
    help="A session it reaches; a prefix such as `team1:*`, or `*` for all. Several times for several.",
)
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(SCOPES),
    help="A right it has. Default: what DEFAULT_SCOPES gives.",
)
@click.option(
    "--ttl", default="1h", show_default=True, metavar="TIME", help="How long it is good: 90s, 30m, 8h, 7d."
)
@click.option(
    "--explain",
    metavar="TOKEN",
    help="Do not mint: say which rule lets TOKEN into the session, or not; `-` reads it from standard input.",
)
@click.option(
    "--owner",
    metavar="USER",
    help="With --explain: who owns the session. Default: Redis is asked, where a Redis URL is configured.",
)
@settings_options((*KEY_SETTINGS, *REDIS_SETTINGS))
def command(
    *,
    user: str | None,
    sessions: tuple[str, ...],
    scopes: tuple[str, ...],
    ttl: str,
    explain: str | None,
    owner: str | None,
    config: Path | None,
    **flags: Any,
) -> None:
    """Mint a token with the secret the gateway verifies with, and print it.

    Nothing but the token goes to standard output, so that it can be put into a variable. A token reaches the
    sessions it names and those its user owns.
    """
    settings = settings_from(flags, config, needs=("key",))
    if explain is not None:
        token = sys.stdin.read() if explain == "-" else explain
        _explain(settings, token.strip(), sessions, owner)
        return
    if owner is not None:
        raise Misuse("--owner goes with --explain: a token names no owner.")
    if user is None:
        raise Misuse("--user is missing: a token speaks for somebody.", hint="add --user ann")
    token = mint(settings, user=user, sessions=sessions, scopes=scopes, ttl_seconds=read_ttl(ttl))
    click.echo(token)
    if sys.stdout.isatty():
        until = datetime.fromtimestamp(time.time() + read_ttl(ttl)).astimezone().strftime("%Y-%m-%d %H:%M")
        rights = " ".join(scopes or settings.default_scopes)
        reach = " ".join(sessions) or "only the sessions this user owns"
        click.secho(f"for {user}, until {until}; sessions: {reach}; rights: {rights}", dim=True, err=True)


def mint(
    settings: Settings,
    *,
    user: str,
    sessions: tuple[str, ...],
    scopes: tuple[str, ...] = (),
    ttl_seconds: int = 3600,
) -> str:
    """Return a token signed with the configured secret.

    Raises Refusal where the gateway verifies with a public key: only the holder of the private one can sign.
    """
    import jwt  # noqa: PLC0415

    from sse_gateway.auth.claims import is_user  # noqa: PLC0415

    if settings.jwt_secret is None:
        raise Refusal(
            f"This gateway verifies tokens with {settings.key_names[0].upper()} and has no key to sign with.",
            hint="get a token from whoever holds the private key (your identity provider)",
        )
    if not is_user(user):
        raise Misuse("A user is a text of 1 to 256 visible characters.")
    now = int(time.time())
    claims: dict[str, Any] = {settings.jwt_user_claim: user, "iat": now, "exp": now + ttl_seconds}
    claims |= _reach(settings, sessions)
    if scopes:
        claims["scope"] = " ".join(scopes)
    if settings.jwt_issuer:
        claims["iss"] = settings.jwt_issuer
    if settings.jwt_audience:
        claims["aud"] = settings.jwt_audience
    return jwt.encode(claims, settings.jwt_secret.get_secret_value(), algorithm=settings.jwt_algorithms[0])


def read_ttl(text: str) -> int:
    """Read a duration such as 90, 90s, 30m, 8h, 7d or 1h30m as seconds."""
    match = _TTL.fullmatch(text.strip().lower())
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0, 0)
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if not 0 < total <= LONGEST_TTL_SECONDS:
        raise Misuse(f"--ttl {text!r} is no time; say 90s, 30m, 8h or 7d, at most ten years.")
    return total


def _reach(settings: Settings, sessions: tuple[str, ...]) -> dict[str, Any]:
    from sse_gateway.auth.principal import is_session_name, is_session_pattern  # noqa: PLC0415

    for session in sessions:
        if not is_session_pattern(session):
            raise Misuse(
                f"--session {session!r} is neither a session id nor a prefix.",
                hint="an id is 1 to 128 of A-Z a-z 0-9 . _ : - and a prefix looks like team1:*",
            )
    if len(sessions) == 1 and is_session_name(sessions[0]):
        return {settings.jwt_session_claim: sessions[0]}
    return {settings.jwt_sessions_claim: list(sessions)} if sessions else {}


def _explain(settings: Settings, token: str, sessions: tuple[str, ...], owner: str | None) -> None:
    from sse_gateway.auth import Authenticator, Finding, KeySettingError  # noqa: PLC0415

    if len(sessions) != 1:
        raise Misuse("--explain needs one --session: rights are those to a session.")

    async def findings() -> list[Finding]:
        authenticator = Authenticator(settings)
        try:
            known = owner if owner is not None else await _owner(settings, sessions[0])
            return await authenticator.explain(token, sessions[0], known)
        finally:
            await authenticator.close()

    try:
        found = asyncio.run(findings())
    except KeySettingError as error:
        raise Misuse(str(error)) from None
    for finding in found:
        mark = click.style("✓", fg="green") if finding.ok else click.style("✗", fg="red")
        click.echo(f"{mark} {finding.rule:<20} {finding.text}")
    if not found[-1].ok:
        raise click.exceptions.Exit(1)


async def _owner(settings: Settings, session: str) -> str | None:
    """Return the session's owner if there is a Redis to be asked; what keeps it from answering is told."""
    from sse_gateway.store.history import History  # noqa: PLC0415

    if settings.redis_url is None:
        return None
    try:
        async with open_store(settings) as store:
            return (await History(store).status(session)).owner
    except GatewayError as error:
        click.secho(f"the session's owner is not known: {error.message}", dim=True, err=True)
        return None
