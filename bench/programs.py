"""The C programs: compiling them, and talking to the load client."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.machine import OTHER_CORES
from bench.started import Started

SOURCES = Path(__file__).with_name("c")
Result = dict[str, Any]


class Failed(Exception):
    """A run whose numbers do not count: an event was lost, doubled, or did not come."""


def compile_all(into: Path) -> dict[str, Path]:
    """Compile the programs; only this benchmark needs a C compiler, so it is looked for here."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise SystemExit(
            "The benchmark needs a C compiler for its load client and found none (cc, gcc, clang): "
            "on Debian and Ubuntu, apt-get install gcc libc6-dev python3-dev. The gateway itself needs none."
        )
    programs = {}
    for source in sorted(SOURCES.glob("*.c")):
        programs[source.stem] = into / source.stem
        subprocess.run([compiler, "-O2", "-o", programs[source.stem], source], check=True)
    return programs


@dataclass(frozen=True)
class Line:
    """One stream of the load client."""

    session: int
    path: str
    header: str
    publish_to: str
    """A session id, a channel or a path, as the kind of publishing has it."""

    def __str__(self) -> str:
        return f"{self.session}\t{self.path}\t{self.header or '-'}\t{self.publish_to}"


class Commanded:
    """A C program that answers each command with one line of JSON."""

    def __init__(self, started: Started, command: list[str | Path]) -> None:
        self._started = started
        self.process = started.start(command, cores=OTHER_CORES, piped=True, log="clients.log")

    def tell(self, command: str) -> Result:
        """Send a command and return its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(command.encode() + b"\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            said = (self._started.folder / "clients.log").read_text()[-1000:]
            raise Failed(f"the client ended at {command!r}: {said}")
        answer: Result = json.loads(line)
        return answer

    def close(self) -> None:
        """End it, and all its connections with it."""
        self._started.end(self.process)


class Load(Commanded):
    """The load client, `c/load.c`."""

    def __init__(
        self,
        started: Started,
        program: Path,
        lines: Iterable[Line],
        *,
        stream_port: int,
        publish_port: int,
        kind: str,
        ready: str = "",
    ) -> None:
        path = started.folder / f"streams-{id(self)}"
        path.write_text("".join(f"{line}\n" for line in lines))
        super().__init__(started, [program, str(stream_port), str(publish_port), kind, path, ready])

    def connect(self, count: int, *, at_once: int = 500, seconds: float = 90) -> Result:
        """Open streams until `count` are live; what they had missed must have come too."""
        result = self.tell(f"connect {count} {at_once} {seconds}")
        if result["live"] != count or result["ended"] or result["refused"]:
            raise Failed(f"{result['live']} of {count} streams live, {result['refused']} refused")
        return check(result)

    def publish(
        self,
        rate: float,
        seconds: float,
        sessions: int,
        *,
        event_type: str = "tool_output",
        strict: bool = True,
    ) -> Result:
        """Publish at a rate; the result says when everything had come. Without `strict` it may be late."""
        result = self.tell(f"publish {rate} {seconds} {sessions} {event_type}")
        result["rate"] = rate
        result["on_time"] = (
            result["received"] == result["wanted"] and result["seconds"] < result["publishing_seconds"] + 1
        )
        return check(result) if strict else result

    def missed(self, each: int, sessions: int) -> Result:
        """Publish while nobody is connected."""
        return check(self.tell(f"missed {each} {sessions} tool_output"))

    def hold(self, seconds: float) -> Result:
        """Only read for some seconds; no stream may end."""
        return check(self.tell(f"hold {seconds}"))

    def drop(self) -> None:
        """Close all streams; they remember where they were."""
        self.tell("drop")


def check(result: Result) -> Result:
    """Return the result if nothing was lost or doubled, no stream ended and nothing was refused."""
    wrong = {name: result[name] for name in ("gaps", "duplicates", "ended", "publish_errors") if result[name]}
    if result["received"] < result["wanted"]:
        wrong["missing"] = result["wanted"] - result["received"]
    if wrong:
        raise Failed(", ".join(f"{count} {name}" for name, count in wrong.items()))
    return result
