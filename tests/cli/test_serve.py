"""`serve` and `demo`: starting, saying what to do next, and leaving nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.cli.command import READ_SECONDS, Terminal, occupied, sse_gateway
from tests.support.plain import plain_client
from tests.support.ports import free_port
from tests.support.servers import RedisProcess
from tests.support.tokens import SECRET, token
from tests.support.wait import alive, until


def children(pid: int) -> list[int]:
    """Return a process's descendants (Linux)."""
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False
    )
    direct = [int(word) for word in found.stdout.split()]
    return direct + [below for child in direct for below in children(child)]


async def events(url: str, *, until_type: str) -> list[dict[str, Any]]:
    """Read a stream as curl would, up to an event of this type."""
    found: list[dict[str, Any]] = []
    async with plain_client(timeout=20) as client, client.stream("GET", url) as response:
        assert response.status_code == 200
        async for line in response.aiter_lines():
            if line.startswith("data:"):
                found.append(json.loads(line[5:]))
                if found[-1].get("type") == until_type:
                    break
    return found


def test_a_port_that_is_taken_is_told_with_one_that_is_free(server: RedisProcess) -> None:
    port = free_port()
    with occupied(port):
        done = sse_gateway("serve", redis_url=server.url, jwt_secret=SECRET, port=port, log_level="error")
    assert done.code == 1
    assert f"Cannot listen on 127.0.0.1:{port}: the port is taken" in done.err
    assert re.search(r"next:  --port \d+ is free", done.err)
    assert "Traceback" not in done.err


def test_a_key_that_cannot_be_used_is_a_wrong_setting(server: RedisProcess, tmp_path: Any) -> None:
    pem = tmp_path / "key.pem"
    pem.write_text("not a key")
    done = sse_gateway("serve", redis_url=server.url, jwt_public_key_file=pem, port=free_port())
    assert done.code == 2
    assert "Traceback" not in done.err
    assert "key" in done.err


async def test_dev_makes_up_what_is_missing_and_says_so() -> None:
    port = free_port()
    async with Terminal("serve", "--dev", "--port", str(port), width=400) as terminal:
        await terminal.shows("sse-gateway publish")
        assert "reachable from this machine alone" in terminal.text
        assert "embedded: gone when this ends" in terminal.text
        curl = re.search(r"curl -N '(\S+)'", terminal.text)
        redis = re.search(r"--redis-url (redis://127\.0\.0\.1:\d+/0)", terminal.text)
        secret = re.search(r"secret +(\S{32,})", terminal.text)
        assert curl
        assert redis
        assert secret
        published = sse_gateway("publish", "dev", '{"type":"note"}', redis_url=redis[1])
        assert published.code == 0, published
        assert (await events(f"{curl[1]}&replay=all", until_type="note"))[-1]["type"] == "note"
        minted = sse_gateway("token", "-u", "ann", "-s", "dev", jwt_secret=secret[1])
        assert minted.code == 0
        below = children(terminal.pid)
        assert len(below) >= 2, "the embedded server and its keeper"
        assert await terminal.ends(signal.SIGTERM) == 0
        await until(lambda: not any(map(alive, below)), "the embedded server to be gone")
        assert secret[1] not in terminal.text.split("secret", 1)[1].replace(secret[1], "", 1), (
            "in no log line"
        )


async def test_dev_uses_what_is_configured(server: RedisProcess) -> None:
    port = free_port()
    async with Terminal("serve", "--dev", redis_url=server.url, jwt_secret=SECRET, port=port) as terminal:
        await terminal.shows("secret   as configured")
        assert "Redis    as configured" in terminal.text
        assert SECRET not in terminal.text
        assert not children(terminal.pid)
        assert await terminal.ends(signal.SIGINT) == 0


async def test_a_second_ctrl_c_does_not_wait_for_open_streams(server: RedisProcess) -> None:
    port = free_port()
    settings = {"redis_url": server.url, "jwt_secret": SECRET, "port": port, "drain_seconds": 60}
    async with Terminal("serve", **settings) as terminal:
        await terminal.shows("push connection up")
        async with contextlib.AsyncExitStack() as streams:
            client = await streams.enter_async_context(plain_client())
            url = f"http://127.0.0.1:{port}/agent_backend/api/sse/events/s1?token={token(session_id='s1')}"
            for _ in range(60):
                await streams.enter_async_context(client.stream("GET", url))
            with pytest.raises(AssertionError):
                await terminal.ends(signal.SIGINT, seconds=1)
            assert await terminal.ends(signal.SIGINT, seconds=5) == 130
    assert "Traceback" not in terminal.text


@contextlib.contextmanager
def occupied_if_free(port: int) -> Iterator[None]:
    """Have a port occupied, by us or by whoever was there first."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            stack.enter_context(occupied(port))
        yield


class TestDemo:
    async def test_it_prints_what_to_open_and_to_paste_and_all_of_it_works(self) -> None:
        port = free_port()
        words = ("demo", "--port", str(port), "--seconds-per-step", "0.1")
        async with Terminal(*words, width=400, redis_url="redis://production.example") as terminal:
            await terminal.shows("Ctrl-C ends all of it")
            console = re.search(r"(http://\S+/console)#session=demo&token=(\S+)", terminal.text)
            curl = re.search(r"curl -N '(\S+)'", terminal.text)
            publishing = re.findall(r"redis-cli -u (\S+) (FCALL|PUBLISH) (.*)$", terminal.text, re.MULTILINE)
            assert console
            assert curl
            assert [how for _url, how, _words in publishing] == ["FCALL", "PUBLISH"]
            assert "production.example" not in terminal.text, "a demo never touches a configured server"
            async with plain_client() as client:
                page = await client.get(console[1])
            assert page.status_code == 200
            assert console[2] not in page.text
            told = await events(curl[1], until_type="permission_request")
            assert told[-1]["data"]["tool_name"] == "bash"
            await self._paste(*publishing[0], then=curl[1])
            below = children(terminal.pid)
            assert below
            assert await terminal.ends(signal.SIGINT) == 0
            await until(lambda: not any(map(alive, below)), "everything to be gone")
            assert "Traceback" not in terminal.text

    async def _paste(self, url: str, how: str, words: str, *, then: str) -> None:
        """Do what the printed line does where redis-cli may be missing."""
        name, count, session, event = words.split(" ", 3)
        async with Redis.from_url(url) as client:
            assert (how, name, count) == ("FCALL", "sse_publish", "1")
            published = await client.fcall(name, 1, session, event.strip("'"))
        found = await events(f"{then}&replay=all", until_type="permission_request")
        assert published.decode().partition("-")[0] in found[0]["id"]

    @pytest.mark.parametrize("answer", ["y", "n not now"])
    async def test_the_agent_goes_on_as_it_was_answered(self, answer: str) -> None:
        port = free_port()
        async with Terminal("demo", "--port", str(port), "--seconds-per-step", "0.1", width=400) as terminal:
            await terminal.shows("Ctrl-C ends all of it")
            tail = re.search(r"sse-gateway (tail demo --url \S+ --token \S+)", terminal.text)
            assert tail
            async with Terminal(*tail[1].split()) as viewer:
                await viewer.shows("bash: y, n")
                await viewer.shows("waiting_for_permission")
                await asyncio.sleep(READ_SECONDS)
                viewer.type(f"{answer}\r")
                expected = "16 passed" if answer == "y" else "denied by you (not now)"
                await viewer.shows(expected)

    async def test_an_unanswered_request_is_not_told_as_a_denial(self) -> None:
        words = ("--port", str(free_port()), "--seconds-per-step", "0.1", "--answer-seconds", "1")
        async with Terminal("demo", *words, width=400) as terminal:
            await terminal.shows("Ctrl-C ends all of it")
            curl = re.search(r"curl -N '(\S+)'", terminal.text)
            assert curl
            told = await events(f"{curl[1]}&replay=all", until_type="permission_cleared")
            assert told[-1]["data"]["outcome"] == "expired"
            cursor = told[-1]["id"]
            after = await events(f"{curl[1]}&last_event_id={cursor}", until_type="tool_result")
            assert "nobody answered in time" in after[-1]["data"]["error"]

    async def test_a_taken_port_makes_it_take_another_and_say_so(self) -> None:
        with occupied_if_free(8000):
            async with Terminal("demo", width=200) as terminal:
                await terminal.shows("Port 8000 is taken")
                await terminal.shows("Ctrl-C ends all of it")
                assert "http://127.0.0.1:8000/" not in terminal.text

    def test_a_taken_port_that_was_asked_for_is_refused(self) -> None:
        port = free_port()
        with occupied(port):
            done = sse_gateway("demo", "--port", str(port))
        assert done.code == 1
        assert f"Port {port} is taken" in done.err
        assert "is free" in done.err
