"""Give a command settings as flags, made from the fields of `Settings`, and put the settings together."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

from sse_gateway.cli.refusal import Misuse
from sse_gateway.cli.teaching import TeachingCommand
from sse_gateway.config import PREFIX, Settings, SettingsError, load
from sse_gateway.config.table import Row, rows
from sse_gateway.store.urls import parse_url

Command = TypeVar("Command", bound=Callable[..., Any])


class SettingOption(click.Option):
    """A flag that stands for a setting, shown under the heading of its section."""

    def __init__(self, row: Row) -> None:
        """Make the flag; values stay text, so that `Settings` judges them and all faults come at once."""
        flag = row.name.replace("_", "-")
        self.section = row.section
        if row.is_flag:
            declaration = [row.name, f"--{flag}/--no-{flag}"]
            super().__init__(declaration, default=None, help=row.purpose)
            return
        default = f" [default: {row.default}]" if row.default else ""
        super().__init__(
            [row.name, f"--{flag}"], metavar=_metavar(row), default=None, help=f"{row.purpose}.{default}"
        )


class SettingsCommand(TeachingCommand):
    """List the flags that stand for settings behind the command's own, section by section."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options first: most calls need nothing else."""
        own: list[tuple[str, str]] = []
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            # Arguments stand in the usage line and are told by the text.
            record = None if isinstance(parameter, click.Argument) else parameter.get_help_record(ctx)
            if record is None:
                continue
            section = getattr(parameter, "section", None)
            (sections.setdefault(section, []) if section else own).append(record)
        with formatter.section("Options"):
            formatter.write_dl(own)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def settings_options(names: Iterable[str] | None = None) -> Callable[[Command], Command]:
    """Return a decorator that adds `--config` and a flag for each setting, or for those named."""
    wanted = None if names is None else frozenset(names)

    def decorate(command: Command) -> Command:
        for row in reversed(list(rows())):
            if wanted is None or row.name in wanted:
                _add(command, SettingOption(row))
        config = click.Option(
            ["config", "--config"],
            type=click.Path(path_type=Path),
            metavar="FILE",
            help=f"TOML file with settings [also {PREFIX}CONFIG].",
        )
        _add(command, config)
        return command

    return decorate


def settings_from(
    flags: dict[str, Any], config: Path | None, *, needs: Collection[str] = (), hint: str = ""
) -> Settings:
    """Return the effective settings of a command, or refuse with every fault (exit code 2)."""
    try:
        settings = load(flags, environ=os.environ, config=config, needs=needs)
    except SettingsError as error:
        advice = hint or "`sse-gateway check-config` says the same at any time."
        raise Misuse(str(error), hint=advice) from None
    if settings.redis_url is not None:
        try:
            parse_url(settings.redis_url.get_secret_value())
        except ValueError as error:
            raise Misuse(f"REDIS_URL: {error}.", hint=hint) from None
    return settings


def _add(command: Callable[..., Any], option: click.Option) -> None:
    parameters = command.__dict__.setdefault("__click_params__", [])
    parameters.append(option)


def _metavar(row: Row) -> str:
    return {"seconds": "SECONDS", "bytes": "SIZE", "path": "FILE", "URL": "URL", "list": "LIST"}.get(
        row.unit, "NUMBER" if row.expected.startswith("a whole number") else "TEXT"
    )
