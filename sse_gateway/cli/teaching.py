"""Help that teaches: what a command does, examples to start from, then the options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click


class TeachingCommand(click.Command):
    """A command whose `--help` shows examples before its options."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **named: Any) -> None:
        """Keep the examples; they are shown as they are, to be copied."""
        super().__init__(*args, **named)
        self.examples = tuple(examples)

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples behind the text."""
        super().format_help_text(ctx, formatter)
        with formatter.section("Examples"):
            for line in self.examples:
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")
