"""Let a person at the terminal answer permission requests, one at a time, oldest first.

An answer names the request that was on the screen and carries its digest, so that it can never fall to
another one. A line counts only if its question has been there for a moment: nobody answers in less than that
what they have just been shown.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import aiohttp
import click

from sse_gateway.cli.following import Gateway
from sse_gateway.cli.prompt import Prompt, width
from sse_gateway.cli.telling import columns, request_box, request_options, show, wrap

MIN_SHOWN_SECONDS = 0.7
MAX_TOOL_COLUMNS = 30

_YES = {"y", "yes", "approve", "ok"}
_NO = {"n", "no", "deny"}


class Answering:
    """Hold the open requests of the session, show the oldest, and send what is typed."""

    def __init__(self, gateway: Gateway, prompt: Prompt) -> None:
        """Start with nothing open."""
        self._gateway = gateway
        self._prompt = prompt
        self._open: dict[str, dict[str, Any]] = {}
        # The request the question is about, as it is on the screen, and since when.
        self._shown: dict[str, Any] | None = None
        self._shown_at = 0.0
        self._sending: asyncio.Task[None] | None = None

    def is_next(self, name: str, envelope: dict[str, Any]) -> bool:
        """Tell whether an event is a request that will be shown in full at once."""
        asks = name == "message" and envelope.get("type") == "permission_request"
        return self._prompt.interactive and asks and not self._open

    def take(self, name: str, envelope: dict[str, Any]) -> None:
        """Learn from an event what is open and what is settled."""
        data = envelope.get("data")
        if name == "stream_reset":
            # The snapshot that follows tells what is open.
            self._open.clear()
        elif name == "message" and isinstance(data, dict) and isinstance(data.get("request_id"), str):
            request_id = data["request_id"]
            if envelope.get("type") == "permission_request":
                self._open[request_id] = data
            elif envelope.get("type") == "permission_cleared":
                self._open.pop(request_id, None)
        self._show_next()

    def typed(self, line: str) -> None:
        """Understand a line; what is not understood is said, and nothing is sent."""
        request = self._shown
        if request is None or (self._sending is not None and not self._sending.done()):
            return
        if time.monotonic() - self._shown_at < MIN_SHOWN_SECONDS:
            self._say("That was typed before the request could be read; once more, please.")
            return
        body = read_answer(line, request)
        if body is None:
            choices = f", or 1 to {len(options)}" if (options := request_options(request)) else ""
            self._say(f"Type y or n{choices}, then a reason if you like, then Enter.")
            return
        self._sending = asyncio.create_task(self._send(request, body))

    async def finish(self) -> None:
        """Wait for an answer that is on its way."""
        if self._sending is not None:
            await asyncio.gather(self._sending, return_exceptions=True)

    async def _send(self, request: dict[str, Any], body: dict[str, Any]) -> None:
        try:
            status, answer = await self._gateway.post("permission-response", body)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._say(
                f"Not sent ({str(error) or type(error).__name__}); the request is still open.", colour="red"
            )
            return
        if status == 200:
            word = "approved" if body["approved"] else "denied"
            self._say(f"You {word} {show(request.get('tool_name', 'it'))}.", colour="green")
        else:
            self._say(show(answer.get("message") or f"HTTP {status}"), colour="red")
        if status in (200, 404, 409, 410) and answer.get("code") not in ("digest_mismatch", "too_new"):
            self._open.pop(request["request_id"], None)
            self._show_next()

    def _show_next(self) -> None:
        request = next(iter(self._open.values()), None)
        if request == self._shown:
            # An event that brought the same id with other options would be another question.
            return
        self._shown = request
        self._prompt.ask("")
        if request is None:
            return
        for line in request_box(request, width=width(), count=len(self._open)):
            self._prompt.print(line)
        if self._prompt.interactive:
            choices = f", 1-{len(options)}" if (options := request_options(request)) else ""
            tool = _short(show(request.get("tool_name", "?")))
            self._shown_at = time.monotonic()
            self._prompt.ask(click.style(f"{tool}: y, n{choices} and a reason if you like ▸", fg="yellow"))

    def _say(self, text: str, *, colour: str | None = None) -> None:
        self._prompt.print(click.style(text, fg=colour))


def _short(text: str) -> str:
    return text if columns(text) <= MAX_TOOL_COLUMNS else f"{wrap(text, MAX_TOOL_COLUMNS - 1)[0]}…"


def read_answer(line: str, request: dict[str, Any]) -> dict[str, Any] | None:
    """Return the body of an answer: `y`, `n` or an option's number, then a reason; None for others.

    Options have no other name here than the number on the screen: an id is the agent's, and may be another
    option's number.
    """
    word, _space, reason = line.strip().partition(" ")
    body: dict[str, Any] = {"request_id": request["request_id"]}
    options = request_options(request)
    chosen = next((option for number, option in enumerate(options, 1) if word == str(number)), None)
    if word.lower() in _YES or word.lower() in _NO:
        body["approved"] = word.lower() in _YES
    elif chosen is not None:
        body |= {"approved": str(chosen.get("kind", "")).startswith("allow"), "option_id": chosen["id"]}
    else:
        return None
    if reason.strip():
        body["reason"] = reason.strip()
    if isinstance(request.get("args_digest"), str):
        body["args_digest"] = request["args_digest"]
    return body
