"""Publish as fast as the server answers, from a process of its own, until told to stop (SIGTERM).

    python -m tests.streams.flat_out PORT BATCH PAUSE_SECONDS SESSION...

Sends pipelines of BATCH `FCALL sse_publish`, over the sessions in turn, PAUSE_SECONDS apart. Every event is
known in advance but for its epoch (`published`), so a test can compare what streams got byte by byte. At its
end it prints a JSON object: session → the id of its last event.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, cycle, islice
from pathlib import Path

import hiredis

from tests.support import started

PAD = "x" * 40


def text(session_id: str, number: int) -> str:
    """Return the `number`-th event of a session, from 1, as it is given to `sse_publish`."""
    return (
        f'{{"session_id":"{session_id}","type":"tick","timestamp":"2024-01-01T00:00:00.000Z",'
        f'"data":{{"n":{number},"pad":"{PAD}"}}}}'
    )


def published(session_id: str, epoch: str, number: int) -> bytes:
    """Return the same event as it is published: in a new session its seq is its number."""
    return f'{{"id":"{epoch}-{number}",{text(session_id, number)[1:]}'.encode()


class Publisher:
    """The running process, seen from the test."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self._process = process
        self._output = output
        self.last: dict[str, str] = {}
        """Session → the id of its last event, once stopped."""

    def stop(self) -> None:
        """Let it finish the batch it is at; idempotent."""
        if not self.last:
            started.end(self._process)
            printed = self._output.read_text()
            assert printed.startswith("{"), printed
            self.last = json.loads(printed)


@contextmanager
def flat_out(
    port: int, folder: Path, *session_ids: str, batch: int = 16, pause: float = 0.0
) -> Iterator[Publisher]:
    """Publish to these sessions while the block runs."""
    output = folder / "published.json"
    arguments = [str(port), str(batch), str(pause), *session_ids]
    with output.open("wb") as file:
        process = started.start(
            "publisher",
            [sys.executable, "-m", "tests.streams.flat_out", *arguments],
            output=file,
            cwd=Path(__file__).parents[2],
        )
    publisher = Publisher(process, output)
    try:
        yield publisher
    finally:
        publisher.stop()


def main() -> None:
    """Publish until SIGTERM."""
    port, batch, pause = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    session_ids = sys.argv[4:]
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    server = socket.create_connection(("127.0.0.1", port))
    reader = hiredis.Reader()
    numbers = {session_id: count(1) for session_id in session_ids}
    turns = cycle(session_ids)
    last: dict[str, str] = {}
    while not stopping:
        sent = list(islice(turns, batch))
        server.sendall(
            b"".join(
                hiredis.pack_command(
                    ("FCALL", "sse_publish", 1, session_id, text(session_id, next(numbers[session_id])))
                )
                for session_id in sent
            )
        )
        for session_id in sent:
            while (reply := reader.gets()) is False:
                reader.feed(server.recv(65536))
            if isinstance(reply, Exception):
                raise reply
            last[session_id] = reply.decode()
        if pause:
            time.sleep(pause)
    print(json.dumps(last), flush=True)


if __name__ == "__main__":
    main()
