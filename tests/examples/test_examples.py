"""Each example does what it says, driven by the package's own machinery: no model is reachable or needed."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from sse_gateway.agent import AgentClient
from tests.agent.people import People
from tests.agent.test_permissions import asked
from tests.support import started
from tests.support.servers import RedisProcess
from tests.support.wait import until

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str) -> Any:
    """Import an example as a script's neighbour would."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(EXAMPLES))


@pytest.fixture
def session(agents: Callable[..., AgentClient], server: RedisProcess, session_id: str) -> Any:
    return agents(server).session(session_id)


def results(people: People, session_id: str, kind: str) -> list[Any]:
    return [event["data"] for event in people.events(session_id) if event["type"] == kind]


# Claude Agent SDK: its control protocol, spoken by a transport in place of the command line program.


class ClaudeProgram:
    """Speak the control protocol as the program does: initialize, ask `can_use_tool`, end the turn."""

    def __init__(self, calls: list[dict[str, Any]]) -> None:
        self.calls = calls
        self.answers: list[dict[str, Any]] = []
        self._out: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    async def connect(self) -> None: ...

    def is_ready(self) -> bool:
        return True

    async def end_input(self) -> None: ...

    async def close(self) -> None:
        self._out.put_nowait(None)

    async def write(self, data: str) -> None:
        for line in data.splitlines():
            self._take(json.loads(line))

    async def read_messages(self) -> AsyncIterator[dict[str, Any]]:
        while (message := await self._out.get()) is not None:
            yield message

    def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == "control_request":
            response = {"subtype": "success", "request_id": message["request_id"], "response": {}}
            self._out.put_nowait({"type": "control_response", "response": response})
        elif message["type"] == "user":
            self._next()
        elif message["type"] == "control_response":
            self.answers.append(message["response"]["response"])
            self._next()

    def _next(self) -> None:
        if len(self.answers) < len(self.calls):
            number = len(self.answers)
            request = {
                "subtype": "can_use_tool",
                "tool_use_id": f"toolu_{number}",
                "permission_suggestions": [
                    {"type": "setMode", "mode": "acceptEdits", "destination": "session"}
                ],
                **self.calls[number],
            }
            self._out.put_nowait(
                {"type": "control_request", "request_id": f"cli_{number}", "request": request}
            )
            return
        content = [{"type": "text", "text": "All done."}]
        message = {"role": "assistant", "model": "none", "content": content}
        self._out.put_nowait({"type": "assistant", "message": message, "session_id": "c1"})
        self._out.put_nowait(
            {
                "type": "result",
                "subtype": "success",
                "duration_ms": 1,
                "duration_api_ms": 1,
                "is_error": False,
                "num_turns": 1,
                "session_id": "c1",
            }
        )


async def test_claude_agent_sdk(session: Any, people: People, session_id: str) -> None:
    from claude_agent_sdk import Transport  # noqa: PLC0415 (only in the examples' venv)

    class Program(ClaudeProgram, Transport): ...

    program = Program(
        [
            {"tool_name": "Bash", "input": {"command": "rm -rf build"}},
            {"tool_name": "Bash", "input": {"command": "ls"}},
            {"tool_name": "Write", "input": {"file_path": "a.txt", "content": "x"}},
        ]
    )
    task = asyncio.create_task(example("claude_agent").run(session, "clean up", program))
    assert await asked(people, session_id) == ["toolu_0"]
    people.answer(session_id, "toolu_0", updated_input={"command": "rm -rf build/tmp"})
    await until(lambda: people.pending(session_id) == ["toolu_1"], "the second request")
    people.answer(session_id, "toolu_1", option_id="session", option_kind="allow_session")
    await until(lambda: people.pending(session_id) == ["toolu_2"], "the third request")
    people.answer(session_id, "toolu_2", approved=False, reason="not in my home")
    await asyncio.wait_for(task, 20)
    assert program.answers == [
        {"behavior": "allow", "updatedInput": {"command": "rm -rf build/tmp"}},
        {
            "behavior": "allow",
            "updatedInput": {"command": "ls"},
            "updatedPermissions": [{"type": "setMode", "mode": "acceptEdits", "destination": "session"}],
        },
        {"behavior": "deny", "message": "denied: not in my home"},
    ]
    assert results(people, session_id, "assistant_text") == [{"text": "All done."}]
    states = [people.state(session_id, f"toolu_{n}") for n in range(3)]
    assert states == ["consumed", "consumed", "denied"]


async def test_openai_agents_sdk(
    session: Any,
    people: People,
    session_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_AGENTS_DISABLE_TRACING", "1")
    from agents import Agent  # noqa: PLC0415 (only in the examples' venv)
    from agents.testing import ScriptedModel, assistant_message, function_call  # noqa: PLC0415 (only in the examples' venv)

    module = example("openai_agents")
    model = ScriptedModel(
        [
            [
                function_call("delete_folder", {"path": "build"}, call_id="call_1"),
                function_call("delete_folder", {"path": "/"}, call_id="call_2"),
            ],
            [assistant_message("Deleted one of two.")],
        ]
    )
    agent = Agent("helper", model=model, tools=[module.delete_folder])
    task = asyncio.create_task(module.run(session, agent, "tidy up"))
    assert sorted(await asked(people, session_id, 2)) == ["call_1", "call_2"]
    assert people.request(session_id, "call_2")["parameters"] == {"path": "/"}
    people.answer(session_id, "call_1")
    people.answer(session_id, "call_2", approved=False, reason="certainly not")
    assert await asyncio.wait_for(task, 20) == "Deleted one of two."
    outputs = [item["output"] for item in model.calls[1].input if item.get("type") == "function_call_output"]
    assert outputs == ["deleted build", "denied: certainly not"]
    assert people.state(session_id, "call_1") == "consumed"


@pytest.mark.parametrize(("approved", "output"), [(True, "ran make"), (False, "not run")])
async def test_langgraph(
    session: Any,
    people: People,
    session_id: str,
    approved: bool,
    output: str,
) -> None:
    task = asyncio.create_task(example("langgraph_interrupt").run(session, {"command": "make"}))
    (request_id,) = await asked(people, session_id)
    assert people.request(session_id, request_id)["parameters"] == {"command": "make"}
    people.answer(session_id, request_id, approved=approved)
    assert (await asyncio.wait_for(task, 20))["output"] == output
    assert people.state(session_id, request_id) == ("consumed" if approved else "denied")


async def test_fastapi(
    server: RedisProcess,
    people: People,
    session_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REDIS_URL", server.url)
    app = example("fastapi_backend").app
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http,
    ):
        for approved, said in ((True, "deleted build"), (False, "delete_folder was denied by user-1.")):
            request = asyncio.create_task(
                http.post(f"/sessions/{session_id}/clean", params={"path": "build"})
            )
            (request_id,) = await asked(people, session_id)
            people.answer(session_id, request_id, approved=approved)
            assert (await asyncio.wait_for(request, 20)).status_code == 202
            result = results(people, session_id, "tool_result")[-1]
            assert (result["success"], result["result"] or result["error"]) == (approved, said)


@pytest.mark.parametrize(("approved", "result"), [(True, "deployed"), (False, "not deployed: denied")])
async def test_node(
    server: RedisProcess,
    people: People,
    session_id: str,
    approved: bool,
    result: str,
    tmp_path: Path,
) -> None:
    people.call("status", session_id)  # the library is on the server, as where a gateway runs
    with (tmp_path / "node.log").open("wb") as output:
        process = started.start(
            "node",
            ["node", str(EXAMPLES / "node_agent.mjs"), session_id],
            output=output,
            env={**os.environ, "REDIS_URL": server.url},
        )
    try:
        assert await asked(people, session_id) == ["deploy-7"]
        people.answer(session_id, "deploy-7", approved=approved)
        await asyncio.to_thread(process.wait, 15)
    finally:
        code = started.end(process)
    assert code == 0, (tmp_path / "node.log").read_text()
    assert results(people, session_id, "tool_result") == [
        {"tool_name": "deploy", "success": approved, "result": result}
    ]


@pytest.mark.parametrize("hours", [-1, 1])
async def test_node_waits_by_redis_s_clock(
    own_server: RedisProcess, session_id: str, hours: int, tmp_path: Path
) -> None:
    """A clock that is an hour wrong makes the agent neither ask without end nor miss the answer."""
    people = People(own_server)
    people.call("status", session_id)
    wrong = tmp_path / "wrong.mjs"
    wrong.write_text(f"const now = Date.now; Date.now = () => now() + {hours * 3_600_000};")
    with (tmp_path / "node.log").open("wb") as output:
        process = started.start(
            "node",
            ["node", "--import", str(wrong), str(EXAMPLES / "node_agent.mjs"), session_id],
            output=output,
            env={**os.environ, "REDIS_URL": own_server.url},
        )
    try:
        await asked(people, session_id)
        before = own_server.client.info("commandstats")["cmdstat_fcall"]["calls"]
        await asyncio.sleep(1)
        assert own_server.client.info("commandstats")["cmdstat_fcall"]["calls"] - before <= 1
        people.answer(session_id, "deploy-7")
        await asyncio.to_thread(process.wait, 15)
    finally:
        code = started.end(process)
    assert code == 0, (tmp_path / "node.log").read_text()


def test_the_examples_are_programs(server: RedisProcess) -> None:
    """Each compiles, and says what it misses when it is started without arguments."""
    for path in EXAMPLES.glob("*.py"):
        run = subprocess.run(
            [sys.executable, str(path)],
            env={**os.environ, "REDIS_URL": server.url},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert "ImportError" not in run.stderr, run.stderr
        assert path.stem == "fastapi_backend" or "IndexError" in run.stderr
