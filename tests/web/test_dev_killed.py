"""`serve --dev` leaves nothing behind, however it ends."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from tests.support import started
from tests.support.gateway import COMMAND, environment
from tests.support.ports import free_port
from tests.support.stream import SSEStream
from tests.support.wait import alive, listening, until


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
async def test_the_embedded_server_ends_with_its_gateway(tmp_path: Path, number: signal.Signals) -> None:
    """A gateway that is killed outright takes the server it embedded, and its folder, with it."""
    said = tmp_path / "output"
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    with said.open("wb") as output:
        gateway = started.start(
            "serve --dev",
            [COMMAND, "serve", "--dev", "--port", str(free_port())],
            output=output,
            env=environment({}) | {"TMPDIR": str(temporary)},
        )
    try:
        found = await until(
            lambda: re.search(r"redis://127\.0\.0\.1:(\d+)/0[^$]*curl -N '(\S+)'", said.read_text()),
            "the gateway to say where it is",
            seconds=20,
        )
        port, url = int(found[1]), found[2]
        children = Path(f"/proc/{gateway.pid}/task/{gateway.pid}/children")
        keepers = [int(pid) for pid in children.read_text().split()] if children.exists() else []
        stream = await SSEStream.open(url)
        await stream.ready()
        assert listening(port)
        assert list(temporary.iterdir())
    finally:
        code = started.end(gateway, number)
    assert await stream.ended() == ("cut" if number == signal.SIGKILL else "clean")
    assert code == (-number if number == signal.SIGKILL else 0)
    await until(lambda: not listening(port), "the embedded server to be gone")
    await until(lambda: not any(map(alive, keepers)), "its keeper to be gone")
    await until(lambda: not list(temporary.iterdir()), "its folder to be gone")
