"""Errors of the command line: one clear line, what to do next, an exit code."""

from __future__ import annotations

from typing import IO, Any

import click


class Refusal(click.ClickException):
    """End a command that did not work, with a message and the next thing to try (exit code 1)."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        """Keep what to try next; it is written on a line of its own."""
        super().__init__(message)
        self.hint = hint

    def show(self, file: IO[Any] | None = None) -> None:
        """Write the message to standard error."""
        click.echo(f"{click.style('error:', fg='red', bold=True)} {self.message}", file=file, err=True)
        if self.hint:
            click.echo(f"{click.style('next:', fg='cyan')}  {self.hint}", file=file, err=True)


class Misuse(Refusal):
    """End a command whose settings or arguments are wrong (exit code 2)."""

    exit_code = 2
