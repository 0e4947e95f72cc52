"""Find tokens and tickets in the logs of everything the tests start: gateways, proxies, servers.

Whatever gives access is noted as it is made (`noted`), and each log is searched before its folder is removed
(`search`), as is what commands print (`look`). A worker knows the tokens of its own tests, and those are the
ones that its processes were given. What processes make for themselves (a command its token, a page its
ticket) is known by its form alone, so it is found where it stands whole. What is found is written to a folder
that all workers share, and the run fails at its end (`report`).

A secret is recognised by any `REACH` characters in a row of it. To that end every `STEP`-th window of
`WINDOW` characters is remembered, and every window of a log is looked up.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

WINDOW = 16
STEP = 8
REACH = WINDOW + STEP - 1
_RUN = re.compile(rf"[A-Za-z0-9_-]{{{WINDOW},}}")
_FORM = re.compile(r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{16,}|\b(?:token|ticket)=[\w-]{24,}")
"""A signed token, and what an address has in these parameters."""
_FOUND = "leaks.jsonl"
_SEARCHED = "searched.jsonl"

_owners: dict[str, str] = {}
"""Window → the test that made the secret."""
_folder: Path | None = None


def share(folder: Path) -> None:
    """Set the folder that the workers of this run share."""
    global _folder  # noqa: PLW0603 (one for the whole run)
    _folder = folder


def noted(secret: str) -> str:
    """Remember a token or a ticket and return it; a token's header is no secret."""
    test = os.environ.get("PYTEST_CURRENT_TEST", "").partition(" ")[0]
    parts = secret.split(".")
    for part in parts[1:] if len(parts) > 1 else parts:
        for at in range(0, len(part) - WINDOW + 1, STEP):
            _owners.setdefault(part[at : at + WINDOW], test)
    return secret


def found_in(text: str) -> dict[str, str]:
    """Return what a text holds of remembered secrets: window → the test that made it."""
    found = {}
    for run in set(_RUN.findall(text)):
        for at in range(len(run) - WINDOW + 1):
            owner = _owners.get(run[at : at + WINDOW])
            if owner is not None:
                found[run[at : at + WINDOW]] = owner
    return found


def search(folder: Path) -> None:
    """Search the logs in a folder that is about to be removed."""
    for log in sorted(folder.glob("*.log")):
        look(f"{folder.name}/{log.name}", log.read_text(errors="replace"))


def look(name: str, text: str) -> None:
    """Search what was written somewhere, under a name by which it is told."""
    found = dict.fromkeys(_FORM.findall(text), "a process of this run") | found_in(text)
    lines = [
        {"log": name, "test": owner, "line": line[:400]}
        for piece, owner in found.items()
        for line in [next(line for line in text.splitlines() if piece in line)]
    ]
    _write(_FOUND, lines[:20])
    _write(_SEARCHED, [{"log": name, "bytes": len(text)}])


def report() -> tuple[str, list[str]]:
    """Return one line on what was searched in the whole run, and a line for each leak."""
    searched = _read(_SEARCHED)
    size = sum(entry["bytes"] for entry in searched) / 1e6
    leaks = [f"{leak['log']}: of {leak['test']}: {leak['line']}" for leak in _read(_FOUND)]
    return f"{len(searched)} logs ({size:.1f} MB) searched for tokens: {len(leaks)} leaks", leaks


def _write(name: str, entries: Sequence[Mapping[str, Any]]) -> None:
    if _folder is not None and entries:
        with (_folder / name).open("a", encoding="utf-8") as file:
            # One write of whole lines: the workers append to the same file.
            file.write("".join(json.dumps(entry) + "\n" for entry in entries))


def _read(name: str) -> list[dict[str, Any]]:
    path = _folder / name if _folder is not None else None
    if path is None or not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
