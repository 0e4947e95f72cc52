"""The group of commands; each is imported when it is called, so that `--help` answers at once."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from typing import NoReturn

import click

from sse_gateway.cli.refusal import Misuse, Refusal

# Name → what `--help` says of it. The module of a command has its name, with _ for -.
COMMANDS = {
    "demo": "Try it: an embedded server, the gateway, a scripted agent, a console to open.",
    "serve": "Run the gateway.",
    "token": "Mint a token for a user and their sessions, or explain one.",
    "publish": "Publish an event into a session through Redis.",
    "tail": "Follow a session in the terminal, and answer its permission requests.",
    "ask": "Ask a human from a shell script; the exit code is the answer.",
    "answer": "List a session's permission requests, or answer one.",
    "check-config": "Say everything that is wrong with the settings, or show them.",
}

EXAMPLES = """\b
Start here:
  sse-gateway demo                      everything at once, nothing to install
  sse-gateway serve --dev               a gateway of your own to develop against

\b
Talk to a running one:
  sse-gateway publish s1 '{"type":"tool_status","data":{"status":"executing"}}'
  sse-gateway tail s1
  sse-gateway ask s1 --tool deploy --parameters '{"to":"production"}' && ./deploy.sh
  sse-gateway token --user ann --session s1 --ttl 8h
"""


class Commands(click.Group):
    """List commands without importing them, and import the one that is called."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Return the names in the order in which a new user meets them."""
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command's module and return its `command`."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"sse_gateway.cli.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or name the one that was probably meant."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            meant = f" Did you mean {close[0]}?" if close else f" There are {', '.join(COMMANDS)}."
            raise Misuse(f"There is no command {args[0]!r}.{meant}")
        return super().resolve_command(ctx, args)

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list from the table above."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _show_version(ctx: click.Context, _parameter: click.Parameter, *, value: bool) -> None:
    if value:
        from sse_gateway import __version__, compiled  # noqa: PLC0415

        click.echo(f"sse-gateway {__version__}{' (compiled)' if compiled() else ''}")
        ctx.exit()


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXAMPLES,
    invoke_without_command=True,
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda ctx, parameter, value: _show_version(ctx, parameter, value=value),
    help="Print the version and exit.",
)
@click.option("--debug", is_flag=True, help="Show tracebacks of errors nobody foresaw.")
@click.pass_context
def group(ctx: click.Context, *, debug: bool) -> None:
    """Server-Sent Events between browsers and agent backends over Redis, with human permission answers."""
    ctx.obj = {"debug": debug}
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def run(arguments: list[str] | None = None) -> NoReturn:
    """Run a command and exit; whatever goes wrong is one clear line on standard error."""
    colour = False if os.environ.get("NO_COLOR") else True if os.environ.get("FORCE_COLOR") else None
    words = sys.argv[1:] if arguments is None else arguments
    try:
        result = group.main(args=words, prog_name="sse-gateway", standalone_mode=False, color=colour)
        code = result if isinstance(result, int) else 0
    except click.exceptions.Exit as error:
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = 130
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "sse-gateway"
        _show(Misuse(error.format_message(), hint=f"`{path} --help` shows what there is"), colour)
        code = Misuse.exit_code
    except click.ClickException as error:
        _show(error, colour)
        code = error.exit_code
    except BrokenPipeError:
        # The reader of a pipe has had enough (`| head`); the interpreter must not complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        if "--debug" in words:
            raise
        _show(_in_words(error), colour)
        code = 1
    sys.exit(code)


def _show(error: click.ClickException, colour: bool | None) -> None:
    # The command's own context is gone by now, and with it what was decided about colours.
    with click.Context(group, color=colour):
        error.show()


def _in_words(error: Exception) -> click.ClickException:
    from sse_gateway.core.errors import GatewayError  # noqa: PLC0415
    from sse_gateway.logs import redact  # noqa: PLC0415

    if isinstance(error, GatewayError):
        return Refusal(redact(error.message))
    said = redact(str(error)) or type(error).__name__
    return Refusal(f"{said} ({type(error).__name__}).", hint="`sse-gateway --debug …` says where.")
