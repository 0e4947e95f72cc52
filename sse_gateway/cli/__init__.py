"""The `sse-gateway` command.

    app            the group: which commands there are, and how errors become one line and an exit code
    options        settings as flags, made from the fields of `Settings`
    serve, demo, token, publish, tail, check_config    one command each, imported when it is called
    following      one session's stream over HTTP: SSE reader, reconnecting with the cursor
    screen, prompt what `tail` shows, and the line in which a person answers

Exit codes: 0 done; 1 it did not work (Redis or the gateway refused or could not be reached); 2 wrong settings
or arguments; 130 ended by Ctrl-C.
"""

from __future__ import annotations


def main() -> None:
    """Run the command line; the entry point of the package."""
    from sse_gateway.cli.app import run  # noqa: PLC0415  (importing the package must cost nothing)

    run()
