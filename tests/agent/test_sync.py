"""The SDK without asyncio: threads, interruption, forks, and the end of the process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sse_gateway.agent import GatewayError, SyncAgentClient, Unavailable
from tests.agent.people import People
from tests.support.servers import RedisProcess
from tests.support.wait import until_sync


@pytest.fixture
def sync_agent(server: RedisProcess) -> Iterator[SyncAgentClient]:
    """One blocking client on `server`."""
    with SyncAgentClient(server.url) as client:
        yield client


def test_the_whole_story_without_asyncio(
    sync_agent: SyncAgentClient, people: People, session_id: str
) -> None:
    session = sync_agent.session(session_id, owner="user-1")
    first = session.tool_status("executing", tool_name="bash")
    assert session.publish("token", {"text": "…"}, durable=False) is None
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(session.request_permission, "bash", {"a": 1}, request_id="r1", timeout=30)
        until_sync(lambda: people.pending(session_id), "the request")
        people.answer(session_id, "r1")
        decision = waiting.result(5)
    assert decision.approved
    assert session.decision("r1") == decision
    assert session.claim(decision)
    assert not session.claim(decision, "another worker")
    assert session.tool_result("bash", "done") > first
    assert session.request_permission("bash", {}, on_no_viewer="fail").reason == "no_viewer"
    people.watch(session_id, 2)
    assert session.viewers() == 2
    with pytest.raises(GatewayError):
        session.cancel("unknown")
    assert session.end() == 0
    assert repr(session) == f"<SyncSession {session_id}>"


def test_eight_threads_wait_on_one_connection(
    sync_agent: SyncAgentClient,
    server: RedisProcess,
    people: People,
    session_id: str,
    scale: Callable[[int, int], int],
) -> None:
    before = len(server.client.client_list())
    rounds = scale(10, 100)
    most = 0

    def work(thread: int) -> int:
        session = sync_agent.session(f"{session_id}-{thread}")
        claimed = 0
        for number in range(rounds):
            session.tool_status("executing", tool_call_id=str(number))
            decision = session.request_permission("bash", {"n": number}, request_id=f"r{number}", timeout=60)
            claimed += decision.approved and session.claim(decision)
        return claimed

    with ThreadPoolExecutor(8) as pool:
        threads = [pool.submit(work, thread) for thread in range(8)]
        while not all(thread.done() for thread in threads):
            for thread in range(8):
                for request_id in people.pending(f"{session_id}-{thread}"):
                    people.answer(f"{session_id}-{thread}", request_id)
            most = max(most, len(server.client.client_list()) - before)
        assert [thread.result() for thread in threads] == [rounds] * 8
    assert most <= 9
    assert len(server.client.client_list(_type="pubsub")) == 1


def test_closing_lets_waiting_threads_go(
    sync_agent: SyncAgentClient, people: People, session_id: str
) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(sync_agent.session(session_id).request_permission, "bash", {}, timeout=30)
        (request_id,) = until_sync(lambda: people.pending(session_id), "the request")
        sync_agent.close()
        with pytest.raises(Unavailable, match="closed"):
            waiting.result(5)
    assert people.pending(session_id) == [request_id]
    with pytest.raises(RuntimeError, match="closed"):
        sync_agent.session(session_id).tool_status("executing")
    sync_agent.close()


def test_a_client_that_was_never_used_starts_nothing(server: RedisProcess) -> None:
    before = threading.active_count()
    SyncAgentClient(server.url).close()
    assert threading.active_count() == before


def test_what_is_wrong_is_said_when_the_client_or_session_is_made(server: RedisProcess) -> None:
    with pytest.raises(ValueError, match="redis://"):
        SyncAgentClient("localhost:6379")
    with pytest.raises(TypeError, match="give its URL"):
        SyncAgentClient(server.client)
    with pytest.raises(GatewayError), SyncAgentClient(server.url) as client:
        client.session("a b")


def test_works_inside_a_running_loop_too(sync_agent: SyncAgentClient, session_id: str) -> None:
    async def main() -> str:
        return sync_agent.session(session_id).tool_status("executing")

    assert asyncio.run(main())


SCRIPT = """
import os, sys, threading
from sse_gateway.agent import SyncAgentClient
client = SyncAgentClient(sys.argv[1])
session = client.session(sys.argv[2])
{body}
"""


def run_script(server: RedisProcess, session_id: str, body: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(body=body), server.url, session_id],
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ctrl_c_withdraws_the_request_and_ends_the_process(
    server: RedisProcess, people: People, session_id: str
) -> None:
    process = run_script(server, session_id, "session.request_permission('bash', {}, timeout=60)")
    until_sync(lambda: people.pending(session_id), "the request")
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert time.monotonic() - began < 5
    assert "KeyboardInterrupt" in errors
    assert "Task" not in errors
    assert people.pending(session_id) == []


def test_a_process_ends_by_itself_without_close(server: RedisProcess, session_id: str) -> None:
    process = run_script(server, session_id, "print(session.tool_status('executing'))")
    output, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (0, "")
    assert "-1" in output


def test_a_forked_process_has_a_client_of_its_own(
    server: RedisProcess, people: People, session_id: str
) -> None:
    body = """
session.tool_status("before")
children = []
for number in range(2):
    pid = os.fork()
    if pid == 0:
        session.tool_status(f"child {number}")
        os._exit(0)
    children.append(pid)
codes = [os.waitpid(pid, 0)[1] for pid in children]
session.tool_status(f"after {codes}")
"""
    process = run_script(server, session_id, body)
    _, errors = process.communicate(timeout=20)
    assert errors == "" or "DeprecationWarning" in errors
    said = [event["data"]["status"] for event in people.events(session_id)]
    assert said[0] == "before"
    assert sorted(said[1:3]) == ["child 0", "child 1"]
    assert said[3] == "after [0, 0]"
