"""One line at the bottom of the terminal in which a person types while events go by above it.

The terminal is put into cbreak mode: keys arrive one by one, Ctrl-C stays a signal. Printing goes through
`Prompt.print`, which takes the line away, prints, and puts it back. Without a terminal there is no line, and
printing is just printing.
"""

from __future__ import annotations

import asyncio
import codecs
import os
import shutil
import sys
from collections.abc import Callable
from typing import Any

import click

from sse_gateway.cli.telling import columns

try:
    import termios
    import tty
except ImportError:  # pragma: no cover  (Windows: tail shows, and cannot be answered)
    termios = None  # type: ignore[assignment]

_ENTER = "\r\n"
_RUBOUT = "\x7f\x08"
_KILL_LINE = "\x15"
_KILL_WORD = "\x17"
_ESCAPE = "\x1b"
_END = "\x04"


class Prompt:
    """Read lines at the bottom of the screen; `on_line` gets each one."""

    def __init__(self, on_line: Callable[[str], None], *, interactive: bool) -> None:
        """Prepare; nothing is shown or read before the context is entered."""
        self._on_line = on_line
        self.interactive = interactive and termios is not None
        # What stands before the typed text; "" while there is nothing to ask.
        self._question = ""
        self._typed = ""
        self._in_escape = False
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._saved: Any = None

    def __enter__(self) -> Prompt:
        """Take the keyboard."""
        if self.interactive:
            descriptor = sys.stdin.fileno()
            self._saved = termios.tcgetattr(descriptor)
            tty.setcbreak(descriptor, termios.TCSANOW)
            asyncio.get_running_loop().add_reader(descriptor, self._read)
        return self

    def __exit__(self, *_error: object) -> None:
        """Give the keyboard back as it was, and leave no half line."""
        if self._saved is not None:
            descriptor = sys.stdin.fileno()
            asyncio.get_running_loop().remove_reader(descriptor)
            self._wipe()
            termios.tcsetattr(descriptor, termios.TCSADRAIN, self._saved)
            self._saved = None

    def print(self, text: str) -> None:
        """Print above the line."""
        self._wipe()
        click.echo(text)
        self._draw()

    def ask(self, question: str) -> None:
        """Show a question, or none; what was typed for another question is thrown away."""
        if not self.interactive or question == self._question:
            return
        self._wipe()
        self._question, self._typed = question, ""
        # Keys struck before the question was on the screen are not an answer to it.
        termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
        self._draw()

    def _read(self) -> None:
        try:
            keys = os.read(sys.stdin.fileno(), 4096)
        except OSError:
            keys = b""
        if not keys:
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            return
        for key in self._decoder.decode(keys):
            self._press(key)

    def _press(self, key: str) -> None:
        if self._in_escape:
            # An arrow or function key is ESC [ … and a letter; there is nothing here for it to move.
            self._in_escape = not (key.isalpha() or key == "~")
        elif key == _ESCAPE:
            self._in_escape = True
        elif not self._question:
            return
        elif key in _ENTER:
            line, self._typed = self._typed, ""
            self._draw()
            self._on_line(line)
        else:
            self._edit(key)
            self._draw()

    def _edit(self, key: str) -> None:
        if key in _RUBOUT:
            self._typed = self._typed[:-1]
        elif key in (_KILL_LINE, _END):
            self._typed = ""
        elif key == _KILL_WORD:
            self._typed = self._typed.rstrip().rpartition(" ")[0]
        elif key.isprintable():
            self._typed += key

    def _wipe(self) -> None:
        if self.interactive and self._question:
            sys.stdout.write("\r\x1b[K")
            sys.stdout.flush()

    def _draw(self) -> None:
        if not (self.interactive and self._question):
            return
        room = width() - columns(self._question) - 2
        typed = self._typed
        while columns(typed) > max(room, 8):
            typed = typed[1:]
        # Not by click, which takes cursor movements away with the colours when NO_COLOR is set.
        question = click.unstyle(self._question) if os.environ.get("NO_COLOR") else self._question
        sys.stdout.write(f"\r\x1b[K{question} {typed}")
        sys.stdout.flush()


def width() -> int:
    """Return the terminal's width, 100 where there is none."""
    return shutil.get_terminal_size((100, 24)).columns
