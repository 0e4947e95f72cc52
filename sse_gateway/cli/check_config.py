"""`sse-gateway check-config`: say everything that is wrong with the settings, or show them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sse_gateway.cli.options import SettingsCommand, settings_from, settings_options
from sse_gateway.config.table import effective

EXAMPLES = (
    "sse-gateway check-config --config /etc/sse-gateway.toml",
    "SSE_GATEWAY_PORT=9000 sse-gateway check-config --print",
)


@click.command(cls=SettingsCommand, examples=EXAMPLES, name="check-config")
@click.option("--print", "show", is_flag=True, help="Print the effective settings, secrets masked.")
@settings_options()
def command(*, show: bool, config: Path | None, **flags: Any) -> None:
    """Check the settings `serve` would start with.

    Everything that is wrong is said at once; the exit code is 0 when nothing is, else 2.
    """
    settings = settings_from(
        flags, config, needs=("redis_url", "key"), hint="docs/settings.md lists every setting."
    )
    if not show:
        click.echo("The settings are right.")
        return
    section = ""
    for row, value in effective(settings):
        if row.section != section:
            click.secho(("\n" if section else "") + f"# {row.section}", dim=True)
            section = row.section
        changed = value != row.default
        name = click.style(f"{row.upper:<26}", fg="cyan" if changed else None)
        click.echo(f"{name} {value or click.style('-', dim=True)}")
