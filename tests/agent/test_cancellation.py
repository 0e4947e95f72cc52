"""A cancelled task leaves no question on anybody's screen, wherever it was when it was cancelled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from sse_gateway.agent import AgentClient, Unavailable
from tests.agent.people import People
from tests.agent.test_permissions import asked
from tests.support.proxy import Proxy
from tests.support.servers import RedisProcess
from tests.support.wait import until


async def cancelled(task: asyncio.Task[object]) -> bool:
    """Cancel, and say whether the task ended by that."""
    task.cancel()
    await asyncio.wait((task,))
    return task.cancelled()


def calls(server: RedisProcess) -> int:
    """Return how many calls of our functions the server has had."""
    return int(server.client.info("commandstats")["cmdstat_fcall"]["calls"])


async def connect(client: AgentClient, session_id: str, count: int) -> None:
    """Have so many connections open, so that later calls do not begin with a handshake."""
    await asyncio.gather(*(client.session(session_id).tool_status("executing") for _ in range(count)))


@pytest.mark.parametrize("fresh", [True, False], ids=["first call", "later call"])
async def test_a_cancellation_at_any_step_of_the_loop_leaves_nothing_open(
    server: RedisProcess,
    people: People,
    agents: Callable[..., AgentClient],
    session_id: str,
    scale: Callable[[int, int], int],
    fresh: bool,
) -> None:
    client = agents(server)
    steps = [*range(12), *(round(12 * 1.35**n) for n in range(1, scale(18, 26)))]
    for number, step in enumerate(steps):
        if fresh:
            client = agents(server)
        task = asyncio.create_task(client.session(f"{session_id}-{number}").request_permission("bash", {}))
        for _ in range(step):
            await asyncio.sleep(0)
        assert await cancelled(task)
        assert people.pending(f"{session_id}-{number}") == []
    assert client.waiting.count == 0


async def test_a_cancellation_at_any_moment_of_a_slow_network_leaves_nothing_open(
    server: RedisProcess,
    people: People,
    proxied: Callable[[RedisProcess], Proxy],
    agents: Callable[..., AgentClient],
    session_id: str,
    scale: Callable[[int, int], int],
) -> None:
    proxy = proxied(server)
    proxy.delay(0.01)
    client = agents(proxy)
    tasks = []
    for number in range(scale(60, 400)):
        task = asyncio.create_task(client.session(f"{session_id}-{number}").request_permission("bash", {}))
        asyncio.get_running_loop().call_later(0.001 * number, task.cancel)
        tasks.append(task)
    await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks)
    for number in range(len(tasks)):
        # Most were withdrawn before their task ended; it does not wait longer than two seconds for that.
        await until(lambda n=number: people.pending(f"{session_id}-{n}") == [], "the withdrawal")


async def test_a_time_limit_of_the_caller_withdraws_too_and_says_so(
    agent: AgentClient, people: People, session_id: str
) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await agent.session(session_id).request_permission("bash", {}, request_id="r1")
    decision = await agent.session(session_id).decision("r1")
    assert decision is not None
    assert (decision.outcome, decision.reason) == ("cancelled", "the task that asked was cancelled")


async def test_an_agent_that_will_be_back_leaves_its_request_open(
    agents: Callable[..., AgentClient], server: RedisProcess, people: People, session_id: str
) -> None:
    session = agents(server).session(session_id)
    task = asyncio.create_task(
        session.request_permission("bash", {}, request_id="r1", withdraw_on_cancel=False)
    )
    await asked(people, session_id)
    assert await cancelled(task)
    people.answer(session_id, "r1")
    assert (await agents(server).session(session_id).request_permission("bash", {}, request_id="r1")).approved


async def test_a_cancelled_task_ends_soon_also_without_redis_and_the_request_is_withdrawn_later(
    own_server: RedisProcess, agents: Callable[..., AgentClient], session_id: str
) -> None:
    people = People(own_server)
    task = asyncio.create_task(agents(own_server).session(session_id).request_permission("bash", {}))
    await asked(people, session_id)
    own_server.pause()
    before = time.monotonic()
    assert await cancelled(task)
    assert time.monotonic() - before < 3
    own_server.resume()
    await until(lambda: people.pending(session_id) == [], "the withdrawal")


async def test_a_request_whose_asking_hangs_is_not_left_behind(
    own_server: RedisProcess, agents: Callable[..., AgentClient], session_id: str
) -> None:
    """Cancelled while the ask itself is on its way: it arrives all the same, and is withdrawn behind it."""
    people = People(own_server)
    client = agents(own_server)
    await client.session(session_id).tool_status("executing")
    own_server.pause()
    task = asyncio.create_task(client.session(session_id).request_permission("bash", {}, request_id="r1"))
    await asyncio.sleep(0.1)
    assert await cancelled(task)
    own_server.resume()
    await until(
        lambda: people.call("pending", session_id)[4][:2] == ["r1", "cancelled"],
        "the request to be withdrawn",
    )


async def test_a_second_cancellation_does_not_stop_the_withdrawal(
    server: RedisProcess,
    people: People,
    proxied: Callable[[RedisProcess], Proxy],
    agents: Callable[..., AgentClient],
    session_id: str,
) -> None:
    proxy = proxied(server)
    task = asyncio.create_task(agents(proxy).session(session_id).request_permission("bash", {}))
    await asked(people, session_id)
    # The withdrawal's reply takes a second.
    proxy.delay(0.5)
    task.cancel()
    await asyncio.sleep(0.05)
    task.cancel()
    before = time.monotonic()
    await asyncio.wait((task,))
    assert time.monotonic() - before < 0.5
    await until(lambda: people.pending(session_id) == [], "the withdrawal")


async def test_a_look_that_was_on_its_way_does_not_ask_again_what_was_withdrawn(
    own_server: RedisProcess,
    proxied: Callable[[RedisProcess], Proxy],
    agents: Callable[..., AgentClient],
    session_id: str,
) -> None:
    """It comes back after the withdrawal, and says that Redis has lost the request."""
    people, proxy = People(own_server), proxied(own_server)
    client = agents(proxy, recheck_seconds=0.5)
    await connect(client, session_id, 4)
    task = asyncio.create_task(client.session(session_id).request_permission("bash", {}))
    await asked(people, session_id)
    own_server.client.flushall()
    proxy.withhold(b"sse_decision")
    await until(lambda: proxy.withholding, "a look")
    before = calls(own_server)
    task.cancel()
    await until(lambda: calls(own_server) > before, "the withdrawal")
    proxy.release()
    await asyncio.wait((task,))
    await until(lambda: not client.waiting._tasks, "everything to be over")
    assert people.pending(session_id) == []


async def test_a_withdrawal_does_not_overtake_what_is_being_asked_again(
    own_server: RedisProcess,
    proxied: Callable[[RedisProcess], Proxy],
    agents: Callable[..., AgentClient],
    session_id: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Asked on one connection and withdrawn on another, while nothing gets through: in this order."""
    people, proxy = People(own_server), proxied(own_server)
    client = agents(proxy, recheck_seconds=0.5)
    await connect(client, session_id, 8)
    names = [f"{session_id}-{n}" for n in range(4)]
    tasks = [asyncio.create_task(client.session(name).request_permission("bash", {})) for name in names]
    for name in names:
        await asked(people, name)
    proxy.delay(1, way="down")
    own_server.client.flushall()
    before = calls(own_server)
    await until(lambda: calls(own_server) >= before + 4, "the looks")
    proxy.hold("up")
    await until(lambda: caplog.text.count("asking again") == 4, "all to be asked again")
    for task in tasks:
        task.cancel()
    # Time for a withdrawal to be on its way too.
    await asyncio.sleep(0.2)
    proxy.delay(0)
    proxy.release()
    await asyncio.wait(tasks)
    await until(lambda: not client.waiting._tasks, "everything to be over")
    assert [people.pending(name) for name in names] == [[]] * 4


async def test_closing_lets_waiting_tasks_go_and_leaves_their_requests_open(
    server: RedisProcess, people: People, agents: Callable[..., AgentClient], session_id: str
) -> None:
    client = agents(server)
    task = asyncio.create_task(client.session(session_id).request_permission("bash", {}))
    (request_id,) = await asked(people, session_id)
    await client.close()
    with pytest.raises(Unavailable, match="closed"):
        await task
    assert people.pending(session_id) == [request_id]


async def test_closing_waits_for_withdrawals_that_are_on_their_way(
    server: RedisProcess,
    people: People,
    proxied: Callable[[RedisProcess], Proxy],
    agents: Callable[..., AgentClient],
    session_id: str,
) -> None:
    proxy = proxied(server)
    client = agents(proxy)
    task = asyncio.create_task(client.session(session_id).request_permission("bash", {}))
    await asked(people, session_id)
    proxy.delay(0.1)
    task.cancel()
    await asyncio.sleep(0)
    await client.close()
    assert people.pending(session_id) == []
    assert task.done()


async def test_a_task_group_that_fails_takes_its_questions_with_it(
    agent: AgentClient, people: People, session_id: str
) -> None:
    async def fail() -> None:
        await asked(people, session_id, 2)
        raise RuntimeError("something else went wrong")

    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(agent.session(session_id).request_permission("bash", {}))
            group.create_task(agent.session(session_id).request_permission("bash", {}))
            group.create_task(fail())

    with pytest.raises(ExceptionGroup):
        await work()
    assert people.pending(session_id) == []
