"""`@requires_permission`: what runs is what was shown and approved, and nothing else ever runs."""

from __future__ import annotations

import asyncio
import inspect
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sse_gateway.agent import (
    AgentClient,
    Decision,
    GatewayError,
    PermissionCancelled,
    PermissionDenied,
    PermissionExpired,
    PermissionRefused,
    PermissionTaken,
    Session,
    SyncAgentClient,
    SyncSession,
    current_session,
    requires_permission,
)
from tests.agent.people import People
from tests.agent.test_permissions import asked
from tests.support.proxy import Proxy
from tests.support.servers import RedisProcess
from tests.support.wait import until, until_sync

ran: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    ran.clear()


@requires_permission(risk_level="high", timeout=30)
async def delete(path: str, *, force: bool = False) -> str:
    """Delete a folder.

    With all that is in it.
    """
    ran.append((path, force))
    return f"deleted {path}"


async def call_and_answer(people: People, session_id: str, work: Any, **answer: Any) -> Any:
    task = asyncio.ensure_future(work)
    (request_id,) = await asked(people, session_id)
    shown = people.request(session_id, request_id)
    people.answer(session_id, request_id, **answer)
    await asyncio.wait((task,))
    return shown, task


async def test_an_approved_call_runs_once_with_its_arguments_shown(
    agent: AgentClient, people: People, session_id: str
) -> None:
    with agent.session(session_id):
        shown, task = await call_and_answer(people, session_id, delete("build"))
    assert task.result() == "deleted build"
    assert ran == [("build", False)]
    assert (shown["tool_name"], shown["risk_level"]) == ("delete", "high")
    assert shown["parameters"] == {"path": "build", "force": False}
    assert shown["description"] == "Delete a folder."
    assert people.state(session_id, shown["request_id"]) == "consumed"
    assert inspect.iscoroutinefunction(delete)
    assert list(inspect.signature(delete).parameters) == ["path", "force"]


async def test_a_denied_call_raises_with_the_decision_and_does_not_run(
    agent: AgentClient, people: People, session_id: str
) -> None:
    with agent.session(session_id):
        _, task = await call_and_answer(
            people, session_id, delete("build"), approved=False, reason="keep it", user="ada"
        )
    error = task.exception()
    assert isinstance(error, PermissionDenied)
    assert error.decision.reason == "keep it"
    assert str(error) == "delete was denied by ada: keep it"
    assert ran == []


async def test_expired_and_cancelled_are_told_apart_from_denied(
    agent: AgentClient, people: People, session_id: str
) -> None:
    @requires_permission(timeout=0.2)
    async def slow() -> None:
        ran.append("slow")

    @requires_permission(on_no_viewer="fail")
    async def alone() -> None:
        ran.append("alone")

    with agent.session(session_id) as session:
        with pytest.raises(PermissionExpired, match="Nobody answered in time whether slow may run"):
            await slow()
        with pytest.raises(PermissionCancelled, match="Nobody was there"):
            await alone()
        task = asyncio.ensure_future(delete("x"))
        (request_id,) = await asked(people, session_id)
        await session.cancel(request_id, "no longer needed")
        with pytest.raises(PermissionCancelled, match="withdrawn: no longer needed"):
            await task
    assert ran == []


async def test_an_approval_that_another_worker_claimed_does_not_run_again(
    agents: Callable[..., AgentClient], server: RedisProcess, people: People, session_id: str
) -> None:
    @requires_permission(request_id=lambda order: f"order-{order}")
    async def ship(order: int) -> None:
        ran.append(order)

    async def worker() -> None:
        with agents(server).session(session_id):
            await ship(7)

    tasks = [asyncio.ensure_future(worker()) for _ in range(4)]
    assert await asked(people, session_id) == ["order-7"]
    people.answer(session_id, "order-7")
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert ran == [7]
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoneType", *["PermissionTaken"] * 3]


async def test_one_answer_runs_one_call_of_a_client(
    agent: AgentClient, people: People, session_id: str
) -> None:
    """Three calls at once and one after them, in one process and with one client as is usual."""

    @requires_permission(request_id=lambda order: f"order-{order}")
    async def ship(order: int) -> None:
        ran.append(order)

    with agent.session(session_id):
        calls = [asyncio.ensure_future(ship(7)) for _ in range(3)]
        await until(lambda: agent.waiting.count == 3, "all calls to wait")
        assert await asked(people, session_id) == ["order-7"]
        people.answer(session_id, "order-7")
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        with pytest.raises(PermissionTaken):
            await ship(7)
    assert ran == [7]
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoneType", *["PermissionTaken"] * 2]


def test_one_answer_runs_one_call_of_a_blocking_client(
    server: RedisProcess, people: People, session_id: str
) -> None:
    """The same from three threads, and once more when they are done."""

    @requires_permission(request_id=lambda order, session: f"order-{order}")
    def ship(order: int, session: SyncSession) -> None:
        ran.append(order)

    with SyncAgentClient(server.url) as client, ThreadPoolExecutor(3) as pool:
        session = client.session(session_id)
        calls = [pool.submit(ship, 7, session) for _ in range(3)]
        until_sync(lambda: people.pending(session_id), "the request")
        people.answer(session_id, "order-7")
        outcomes = [call.exception(5) for call in calls]
        with pytest.raises(PermissionTaken):
            ship(7, session)
    assert ran == [7]
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoneType", *["PermissionTaken"] * 2]


async def test_a_call_whose_claim_was_not_confirmed_claims_again_and_runs(
    server: RedisProcess,
    people: People,
    proxied: Callable[[RedisProcess], Proxy],
    agents: Callable[..., AgentClient],
    session_id: str,
) -> None:
    """The claim's reply is lost with its connection: the same call gets it at the second try."""
    proxy = proxied(server)
    with agents(proxy).session(session_id):
        call = asyncio.ensure_future(delete("build"))
        (request_id,) = await asked(people, session_id)
        proxy.withhold(b"sse_claim")
        people.answer(session_id, request_id)
        await until(lambda: proxy.withholding, "the claim")
        await until(lambda: people.state(session_id, request_id) == "consumed", "the claim to count")
        assert not call.done()
        proxy.drop()
        proxy.release()
        assert await asyncio.wait_for(call, 10) == "deleted build"
    assert ran == [("build", False)]


async def test_what_the_human_edited_is_what_runs(
    agent: AgentClient, people: People, session_id: str
) -> None:
    @requires_permission(editable=True)
    async def send(to: str, /, *lines: str, subject: str = "-", **headers: str) -> Any:
        return to, lines, subject, headers

    with agent.session(session_id):
        shown, task = await call_and_answer(
            people,
            session_id,
            send("all", "one", "two", urgent="yes"),
            updated_input={"to": "me", "lines": ["1"], "subject": "hi", "urgent": "no"},
        )
        assert shown["parameters"] == {"to": "all", "lines": ["one", "two"], "subject": "-", "urgent": "yes"}
        assert task.result() == ("me", ("1",), "hi", {"urgent": "no"})


@pytest.mark.parametrize("edit", [{"path": "a"}, {"path": "a", "force": True, "other": 1}])
async def test_an_edit_that_is_not_the_functions_runs_nothing(
    agent: AgentClient, people: People, session_id: str, edit: dict[str, Any]
) -> None:
    @requires_permission(editable=True)
    async def remove(path: str, force: bool = False) -> None:
        ran.append(path)

    with agent.session(session_id):
        _, task = await call_and_answer(people, session_id, remove("b"), updated_input=edit)
    assert isinstance(task.exception(), GatewayError)
    assert ran == []


async def test_arguments_that_change_while_somebody_reads_them_do_not_run(
    agent: AgentClient, people: People, session_id: str
) -> None:
    @requires_permission()
    async def run(commands: list[str]) -> None:
        ran.append(list(commands))

    commands = ["ls"]
    with agent.session(session_id):
        task = asyncio.ensure_future(run(commands))
        (request_id,) = await asked(people, session_id)
        commands.append("rm -rf /")
        people.answer(session_id, request_id)
        with pytest.raises(GatewayError, match="changed while it was waiting"):
            await task
    assert ran == []


async def test_the_session_is_the_argument_then_the_decorators_then_the_one_entered(
    agent: AgentClient, people: People, session_id: str
) -> None:
    fixed = agent.session(f"{session_id}-fixed")

    @requires_permission(on_no_viewer="fail", session=fixed)
    async def bound(session: Session | None = None) -> None: ...

    @requires_permission(on_no_viewer="fail")
    async def free(session: str = "not one of ours") -> None: ...

    with agent.session(f"{session_id}-entered"):
        for call in (bound(agent.session(f"{session_id}-argument")), bound(), free()):
            with pytest.raises(PermissionCancelled):
                await call
    (by_argument,) = asked_in(people, f"{session_id}-argument")
    (by_decorator,) = asked_in(people, f"{session_id}-fixed")
    (entered,) = asked_in(people, f"{session_id}-entered")
    assert by_argument == {}
    assert by_decorator == {"session": None}
    assert entered == {"session": "not one of ours"}


def asked_in(people: People, session_id: str) -> list[Any]:
    return [
        event["data"]["parameters"]
        for event in people.events(session_id)
        if event["type"] == "permission_request"
    ]


async def test_concurrent_tasks_have_sessions_of_their_own(agent: AgentClient) -> None:
    async def enter(name: str) -> str:
        with agent.session(name):
            await asyncio.sleep(0.01)
            with agent.session(f"{name}-inner"):
                await asyncio.sleep(0.01)
            session = current_session()
            assert session is not None
            return session.session_id

    assert await asyncio.gather(enter("a"), enter("b"), enter("c")) == ["a", "b", "c"]
    assert current_session() is None


async def test_methods_hide_self_and_what_they_are_told_to(
    agent: AgentClient, people: People, session_id: str
) -> None:
    class Shell:
        @requires_permission(hide=["token"], tool_name="shell", description="Run a command")
        async def run(self, command: str, token: str) -> None:
            ran.append((command, token))

    with agent.session(session_id):
        shown, _ = await call_and_answer(people, session_id, Shell().run("ls", token="geheim"))
    assert shown["parameters"] == {"command": "ls"}
    assert (shown["tool_name"], shown["description"]) == ("shell", "Run a command")
    assert ran == [("ls", "geheim")]


def test_misuse_is_told_with_the_remedy(server: RedisProcess) -> None:
    with pytest.raises(TypeError, match="no parameter 'secret' to hide"):

        @requires_permission(hide=["secret"])
        def one(a: int) -> None: ...

    with pytest.raises(TypeError, match="generator"):

        @requires_permission()
        async def two() -> Any:
            yield 1

    @requires_permission()
    def blocking() -> None: ...

    with pytest.raises(RuntimeError, match="with session"):
        blocking()
    with pytest.raises(TypeError, match="SyncAgentClient"), AgentClient(server.url).session("s1"):
        blocking()
    with pytest.raises(TypeError, match="missing a required argument"):
        asyncio.run(delete())  # type: ignore[call-arg]


def test_a_blocking_function_waits_in_its_thread(
    server: RedisProcess, people: People, session_id: str
) -> None:
    @requires_permission(risk_level="low", editable=True)
    def add(a: int, b: int = 2) -> int:
        return a + b

    def call(session: SyncSession) -> int:
        with session:
            return add(1)

    with SyncAgentClient(server.url) as client, ThreadPoolExecutor(1) as pool:
        for edit, total in ((None, 3), ({"a": 5, "b": 5}, 10)):
            waiting = pool.submit(call, client.session(session_id))
            (request_id,) = until_sync(lambda: people.pending(session_id), "the request")
            people.answer(session_id, request_id, updated_input=edit)
            assert waiting.result(5) == total
        waiting = pool.submit(call, client.session(session_id))
        (request_id,) = until_sync(lambda: people.pending(session_id), "the request")
        people.answer(session_id, request_id, approved=False)
        with pytest.raises(PermissionDenied):
            waiting.result(5)


def test_refusals_can_be_pickled() -> None:
    error = PermissionDenied(Decision("r1", "denied", approved=False, decided_by="ada"), "bash")
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(copy, PermissionRefused)
    assert (copy.decision, str(copy)) == (error.decision, "bash was denied by ada.")
