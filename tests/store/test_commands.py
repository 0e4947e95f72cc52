"""One connection for all callers: whose reply is whose, and what becomes of callers when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.exceptions import ReadOnlyError, ResponseError

from sse_gateway.store import commands as commands_module
from sse_gateway.store.commands import Commands
from sse_gateway.store.failures import Refused
from sse_gateway.store.servers import Endpoint
from tests.support.servers import RedisProcess
from tests.support.wait import until


@pytest.fixture
async def commands(server: RedisProcess) -> AsyncIterator[Commands]:
    async def endpoint() -> Endpoint:
        return Endpoint(host="127.0.0.1", port=server.port)

    commands = Commands(endpoint)
    yield commands
    await commands.close()


def connections(server: RedisProcess) -> list[str]:
    """Return the ids of the clients that are not the test's own."""
    me = server.client.client_id()
    return [client["id"] for client in server.client.client_list() if int(client["id"]) != me]


async def test_callers_at_once_share_one_connection_and_each_gets_its_own_reply(
    server: RedisProcess, commands: Commands
) -> None:
    before = len(connections(server))
    replies = await asyncio.gather(*(commands.send([("ECHO", f"{n}"), ("STRLEN", "x")]) for n in range(500)))
    assert replies == [[b"%d" % n, 0] for n in range(500)]
    assert len(connections(server)) == before + 1


async def test_an_error_is_the_reply_of_its_command_alone(commands: Commands) -> None:
    wrong, right = await commands.send([("NOSUCHCOMMAND",), ("ECHO", "there")])
    assert isinstance(wrong, ResponseError)
    assert str(wrong).startswith("unknown command")
    assert right == b"there"


async def test_a_caller_that_gives_up_leaves_its_reply_to_nobody(commands: Commands) -> None:
    await commands.send([("PING",)])
    asked = [asyncio.create_task(commands.send([("ECHO", f"{n}")])) for n in range(50)]
    await asyncio.sleep(0)
    for task in asked[::2]:
        task.cancel()
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert [reply for reply in found if isinstance(reply, list)] == [[b"%d" % n] for n in range(1, 50, 2)]
    assert await commands.send([("ECHO", "after")]) == [b"after"]


async def test_who_waits_on_a_connection_that_ends_is_told_and_the_next_gets_a_new_one(
    server: RedisProcess, commands: Commands
) -> None:
    before = connections(server)
    await commands.send([("PING",)])
    [ours] = set(connections(server)) - set(before)
    waiting = [asyncio.create_task(commands.send([("BLPOP", "nothing", 0)])) for _ in range(3)]
    await until(lambda: server.client.info("clients")["blocked_clients"] >= 1, "one is blocked")
    server.client.client_kill_filter(_id=ours)
    for outcome in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(outcome, ConnectionError)
    assert await commands.send([("ECHO", "anew")]) == [b"anew"]


async def test_a_server_that_falls_silent_is_given_up_in_time(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands_module, "CALL_SECONDS", 0.4)
    async with asyncio.timeout(10):
        with pytest.raises(TimeoutError):
            await commands.send([("BLPOP", "nothing", 0)])
    assert await commands.send([("ECHO", "anew")]) == [b"anew"]


async def test_a_primary_that_became_a_replica_is_asked_nothing_more(
    server: RedisProcess, commands: Commands
) -> None:
    await commands.send([("PING",)])
    first = set(connections(server))
    server.client.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        refused, told = await commands.send([("SET", "a", "1"), ("ECHO", "still told")])
    finally:
        server.client.execute_command("REPLICAOF", "NO", "ONE")
    assert isinstance(refused, ReadOnlyError)
    assert told == b"still told"
    assert await commands.send([("SET", "a", "1")]) == [b"OK"]
    assert set(connections(server)) != first


async def test_a_wrong_password_and_a_server_that_is_not_there_say_so(server: RedisProcess) -> None:
    async def wrong() -> Endpoint:
        return Endpoint(host="127.0.0.1", port=server.port, username="nobody", password="not it")

    async def nowhere() -> Endpoint:
        return Endpoint(host="127.0.0.1", port=1)

    with pytest.raises(Refused, match="user name or password"):
        await Commands(wrong).send([("PING",)])
    with pytest.raises(ConnectionRefusedError):
        await Commands(nowhere).send([("PING",)])
