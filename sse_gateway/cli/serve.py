"""`sse-gateway serve`: run the gateway."""

from __future__ import annotations

import logging
import secrets
from pathlib import Path
from typing import Any

import click
from pydantic import SecretStr

from sse_gateway.cli.options import SettingsCommand, settings_from, settings_options
from sse_gateway.cli.refusal import Misuse, Refusal
from sse_gateway.cli.running import LOOPBACK, database_warning, run_loop, serve
from sse_gateway.cli.token import mint
from sse_gateway.config import Settings
from sse_gateway.logs import configure

logger = logging.getLogger(__name__)

DEV_SESSION = "dev"
DEV_TTL_SECONDS = 12 * 3600
EXAMPLES = (
    "sse-gateway serve --dev",
    "sse-gateway serve --redis-url redis://127.0.0.1:6379/0 --jwt-secret-file /run/secrets/jwt",
    "sse-gateway serve --config /etc/sse-gateway.toml --host 0.0.0.0",
)


@click.command(cls=SettingsCommand, examples=EXAMPLES)
@click.option(
    "--dev",
    is_flag=True,
    help="For development: what is not set is made up (an embedded server, a secret), on loopback only.",
)
@settings_options()
def command(*, dev: bool, config: Path | None, **flags: Any) -> None:
    """Run the gateway until SIGTERM or Ctrl-C; a second Ctrl-C does not wait for open streams.

    It needs to know where Redis is and how tokens are verified. Settings come from the flags below, then from
    variables named SSE_GATEWAY_ and the setting, then from --config. Flags can be seen by everybody on the
    machine: secrets are better kept in files (--jwt-secret-file).
    """
    if dev:
        run_loop(_serve_dev(_dev_settings(flags, config)))
        return
    settings = settings_from(
        flags,
        config,
        needs=("redis_url", "key"),
        hint="to try it out, `sse-gateway serve --dev` needs nothing",
    )
    set_up_logs(settings)
    run_loop(serve(settings))


def set_up_logs(settings: Settings) -> None:
    """Send logs where the settings say, with the configured secrets cut out of them."""
    held = (settings.jwt_secret, settings.jwt_secret_previous, settings.redis_password)
    values = [secret.get_secret_value() for secret in held if secret is not None]
    configure(settings.log_level, settings.log_format, secrets=values)
    if warning := database_warning(settings):
        logger.warning(warning)


def _dev_settings(flags: dict[str, Any], config: Path | None) -> Settings:
    settings = settings_from(flags, config)
    if settings.host not in LOOPBACK:
        raise Misuse(
            f"--dev listens on loopback only, and HOST is {settings.host}.",
            hint="leave HOST out, or run without --dev",
        )
    if not settings.key_names:
        flags["jwt_secret"] = secrets.token_urlsafe(36)
        settings = settings_from(flags, config)
    return settings


async def _serve_dev(settings: Settings) -> None:
    made_up = settings.redis_url is None
    set_up_logs(settings)
    if not made_up:
        await serve(settings, ready=lambda address: _announce(settings, address, embedded=False))
        return
    from sse_gateway.store.embedded import EmbeddedServer, EmbeddedServerError  # noqa: PLC0415

    try:
        async with EmbeddedServer() as server:
            effective = settings.model_copy(update={"redis_url": SecretStr(server.url)})
            await serve(effective, ready=lambda address: _announce(effective, address, embedded=True))
    except EmbeddedServerError as error:
        raise Refusal(str(error)) from None


def _announce(settings: Settings, address: str, *, embedded: bool) -> None:
    """Print what a developer needs next, to standard output; logs go to standard error."""
    assert settings.redis_url is not None
    base = f"{address}{settings.base_path}"
    redis = settings.redis_url.get_secret_value() if embedded else "as configured"
    click.secho("For development only: reachable from this machine alone.", fg="yellow")
    click.echo(f"  gateway  {base}")
    click.echo(f"  Redis    {redis}{' (embedded: gone when this ends)' if embedded else ''}")
    if settings.jwt_secret is not None:
        token = mint(settings, user="dev", sessions=("*",), ttl_seconds=DEV_TTL_SECONDS)
        click.echo(
            f"  secret   {settings.jwt_secret.get_secret_value()}" if embedded else "  secret   as configured"
        )
        click.echo("Paste into another terminal:")
        click.echo(f"  curl -N '{base}/events/{DEV_SESSION}?token={token}'")
        if embedded:
            event = '{"type":"tool_status","data":{"status":"executing"}}'
            click.echo(f"  sse-gateway publish {DEV_SESSION} '{event}' --redis-url {redis}")
