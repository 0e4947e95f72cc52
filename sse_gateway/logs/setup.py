"""Put the one handler on the root logger."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable
from typing import IO

from sse_gateway.logs.formats import JsonFormatter, TextFormatter
from sse_gateway.logs.redact import Redactor
from sse_gateway.logs.tracing import RequestIds

_NAME = "sse_gateway"


def configure(
    level: str = "info",
    log_format: str = "auto",
    *,
    secrets: Iterable[str] = (),
    stream: IO[str] | None = None,
) -> None:
    """Send all logs to `stream` (standard error), and replace what an earlier call has set up.

    `log_format` is json, text or auto (text on a terminal, JSON elsewhere). Text is coloured on a terminal
    unless NO_COLOR is set. `secrets` are cut out by value wherever they turn up. Standard output stays free
    for a command's results.
    """
    target = stream or sys.stderr
    terminal = target.isatty()
    formatter: logging.Formatter
    if log_format == "json" or (log_format == "auto" and not terminal):
        formatter = JsonFormatter()
    else:
        formatter = TextFormatter(colour=terminal and not os.environ.get("NO_COLOR"))
    handler = logging.StreamHandler(target)
    handler.set_name(_NAME)
    handler.setFormatter(formatter)
    handler.addFilter(RequestIds())
    handler.addFilter(Redactor(secrets))
    root = logging.getLogger()
    for old in [old for old in root.handlers if old.get_name() == _NAME]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.captureWarnings(capture=True)
    # What no line shows need not be found out for each: caller, thread and process.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    # logging's own report of a failed write prints the raw arguments, tokens included.
    logging.raiseExceptions = False
