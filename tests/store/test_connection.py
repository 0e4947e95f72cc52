"""The way to Redis: limits, failures in words of our own, and what is tried again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sse_gateway.core.cursor import Cursor
from sse_gateway.core.errors import GatewayError, Unavailable
from sse_gateway.store import commands, connection
from sse_gateway.store.connection import Store
from sse_gateway.store.history import History, Reading
from sse_gateway.store.library import Library, Limits
from sse_gateway.store.permissions import Permissions
from tests.store.scripts import Scripts
from tests.support.ports import free_port
from tests.support.proxy import Proxy
from tests.support.servers import RedisProcess
from tests.support.topologies import ReplicaPair, Sentinels
from tests.support.wait import until

SESSION = "s-1"
EVENT = b'{"type":"x"}'
Stores = Callable[..., Store]


class TestRefusals:
    """What the scripts refuse becomes an error with a code and a status."""

    @pytest.mark.parametrize(
        ("event", "code", "status"),
        [
            (b"{", "malformed_json", 400),
            (b"[]", "invalid_event", 400),
            (b"{}", "invalid_event", 400),
            (b'{"type":"heartbeat"}', "invalid_event", 400),
            (b'{"type":"x","id":1}', "invalid_event", 400),
            (b'{"type":"x","session_id":"t"}', "invalid_event", 400),
            (b'{"type":"x","data":"' + b"y" * 300_000 + b'"}', "payload_too_large", 413),
            (b'{"type":"permission_request"}', "bad_request", 400),
        ],
    )
    async def test_an_event_is_refused_with_the_scripts_sentence(
        self, history: History, event: bytes, code: str, status: int
    ) -> None:
        with pytest.raises(GatewayError) as refused:
            await history.publish(SESSION, event)
        assert (refused.value.code, refused.value.status) == (code, status)
        assert len(refused.value.message) > 15
        assert "SSE_" not in refused.value.message
        assert "script" not in refused.value.message

    async def test_conflicts_have_codes_of_their_own(
        self, history: History, permissions: Permissions
    ) -> None:
        async def code(call: Awaitable[Any]) -> tuple[str, int]:
            with pytest.raises(GatewayError) as refused:
                await call
            return refused.value.code, refused.value.status

        await history.publish(SESSION, EVENT, owner="user-1", idempotency_key="k")
        await permissions.ask(SESSION, b'{"tool_name":"bash","request_id":"r"}')
        assert await code(history.publish(SESSION, EVENT, owner="user-2")) == ("owner_conflict", 409)
        assert await code(history.publish(SESSION, b'{"type":"y"}', idempotency_key="k")) == (
            "idempotency_mismatch",
            422,
        )
        assert await code(permissions.ask(SESSION, b'{"tool_name":"sh","request_id":"r"}')) == (
            "request_mismatch",
            409,
        )
        assert await code(permissions.decision(SESSION, "q")) == ("unknown_request", 404)
        assert await code(history.status("a b")) == ("bad_session_id", 400)

    async def test_a_batch_has_refusals_among_its_results(self, store: Store) -> None:
        results = await store.fcall_many(
            [("publish", SESSION, (EVENT,)), ("publish", SESSION, (b"{",)), ("publish", SESSION, (EVENT,))]
        )
        assert [getattr(result, "code", None) for result in results] == [None, "malformed_json", None]


class TestUnavailable:
    """Trouble with Redis is Unavailable, in time, and without a word of what redis-py said."""

    async def test_where_nothing_listens(self, stores: Stores) -> None:
        store = stores(f"redis://user:hunter2@127.0.0.1:{free_port()}/0")
        for call in (
            store.fcall("status", SESSION),
            store.ping(),
            store.ensure_library(),
            store.publish_channel("c", b""),
        ):
            began = time.monotonic()
            with pytest.raises(Unavailable) as refused:
                await call
            assert time.monotonic() - began < 2
            assert (refused.value.status, refused.value.retry_after) == (503, 2.0)
            assert "hunter2" not in f"{refused.value!r} {refused.value.__cause__!r}"
            assert refused.value.__suppress_context__

    async def test_where_the_password_is_wrong(self, server: RedisProcess, stores: Stores) -> None:
        store = stores(server.url.replace("://", "://nobody:hunter2@"))
        with pytest.raises(Unavailable, match="refused the user name or password") as refused:
            await store.fcall("status", SESSION)
        assert "hunter2" not in str(refused.value)

    async def test_within_the_limit_where_nothing_answers(
        self, own_server: RedisProcess, stores: Stores, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module in (connection, commands):
            monkeypatch.setattr(module, "CALL_SECONDS", 0.3)
        store = stores(own_server.url)
        await store.fcall("status", SESSION)
        own_server.pause()
        for call in (store.fcall("status", SESSION), History(store).read(SESSION, None), store.ping()):
            began = time.monotonic()
            with pytest.raises(Unavailable):
                await call
            assert time.monotonic() - began < 1.5
        own_server.resume()
        assert await store.fcall("status", SESSION)

    async def test_a_restart_is_forgotten_at_the_next_call(
        self, own_server: RedisProcess, stores: Stores
    ) -> None:
        store = stores(own_server.url)
        await asyncio.gather(*(store.fcall("status", f"s-{number}") for number in range(20)))
        await asyncio.to_thread(own_server.restart, empty=True)
        # The connections are dead and the library is gone: neither is the caller's business.
        for _ in range(5):
            assert await store.fcall("publish", SESSION, EVENT)

    async def test_a_batch_shares_the_failure(self, stores: Stores) -> None:
        history = History(stores(f"redis://127.0.0.1:{free_port()}/0"))
        results = await asyncio.gather(
            *(history.read(f"s-{number}", None) for number in range(250)), return_exceptions=True
        )
        assert {type(result) for result in results} == {Unavailable}
        assert [type(position) for position in await history.positions([SESSION] * 3)] == [Unavailable] * 3
        with pytest.raises(Unavailable):
            await history.beat([(SESSION, 1, 1)], "g-1")


class TestPoison:
    """What cannot be sent, or not be understood when it comes back, costs nobody else anything."""

    async def test_text_that_cannot_be_sent_leaves_the_others_their_own_replies(self, store: Store) -> None:
        for _ in range(3):
            with pytest.raises(UnicodeEncodeError):
                await store.fcall("decision", SESSION, "\ud800")
            with pytest.raises(UnicodeEncodeError):
                await store.send_many([("k", ("GET", "k")), ("k", ("GET", "\ud800"))])
        names = [f"s-{number}" for number in range(50)]
        ids = await asyncio.gather(*(store.fcall("publish", name, EVENT) for name in names))
        readings = await asyncio.gather(*(History(store).read(name, None) for name in names))
        assert [f"{reading.epoch}-{reading.top}".encode() for reading in readings] == ids

    async def test_a_session_that_nobody_can_read_fails_alone(
        self, store: Store, history: History, server: RedisProcess
    ) -> None:
        for name in ("a", "b", "c"):
            await history.publish(name, EVENT)
        server.client.xadd("sse:{b}:history", {"d": "{}", "b": "2", "r": b"\xff"}, id="2-0")
        server.client.hset("sse:{b}:meta", "seq", "2")
        async with asyncio.timeout(5):
            found = await asyncio.gather(
                *(history.read(name, None, mode="all") for name in ("a", "b", "c")), return_exceptions=True
            )
        first, damaged, last = found
        assert isinstance(first, Reading)
        assert isinstance(last, Reading)
        assert (first.top, last.top) == (1, 1)
        assert isinstance(damaged, GatewayError)
        assert damaged.status == 500

    async def test_an_owner_that_is_no_text_is_nobody(self, history: History, server: RedisProcess) -> None:
        await history.publish(SESSION, EVENT)
        server.client.hset("sse:{s-1}:meta", "owner", b"u\xff")
        reading, status = await history.read(SESSION, None), await history.status(SESSION)
        # No token's user holds a surrogate, so this equals none.
        assert reading.owner == status.owner == "u\udcff"


class TestTriedAgain:
    """What did nothing is tried again within the limit; what may have happened only where it may."""

    async def test_a_server_that_loads_its_data(self, own_server: RedisProcess, stores: Stores) -> None:
        store = stores(own_server.url)
        await store.fcall("publish", SESSION, EVENT)
        own_server.client.execute_command("DEBUG", "POPULATE", 2000)
        own_server.save()
        # Each key takes a while to load, so that the server answers LOADING for half a second.
        own_server.options["key-load-delay"] = "250"
        own_server.options["loading-process-events-interval-bytes"] = "1024"
        own_server.kill()
        starting = asyncio.create_task(asyncio.to_thread(own_server.start))
        refused = 0
        async with asyncio.timeout(10):
            while True:
                try:
                    assert (await store.fcall("publish", SESSION, EVENT)).endswith(b"-2")
                    break
                except Unavailable:
                    refused += 1
                    await asyncio.sleep(0.02)
        await starting
        assert refused < 50

    async def test_a_primary_that_became_a_replica_for_a_moment(
        self, own_server: RedisProcess, stores: Stores
    ) -> None:
        store = stores(own_server.url)
        await store.fcall("publish", SESSION, EVENT)
        own_server.client.replicaof("127.0.0.1", 1)
        publishing = asyncio.create_task(store.fcall("publish", SESSION, EVENT))
        await asyncio.sleep(0.2)
        assert not publishing.done()
        own_server.client.replicaof("NO", "ONE")
        assert (await publishing).endswith(b"-2")

    async def test_a_replica_that_stays_one_is_unavailable_in_the_end(
        self, own_server: RedisProcess, stores: Stores, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module in (connection, commands):
            monkeypatch.setattr(module, "CALL_SECONDS", 0.3)
        store = stores(own_server.url)
        await store.ensure_library()
        own_server.client.replicaof("127.0.0.1", 1)
        with pytest.raises(Unavailable):
            await store.fcall("publish", SESSION, EVENT)

    async def test_a_publish_whose_reply_was_lost_is_not_repeated(
        self, server: RedisProcess, stores: Stores, proxied: Callable[[RedisProcess], Proxy]
    ) -> None:
        proxy = proxied(server)
        store = stores(proxy.url)
        await store.fcall("publish", SESSION, EVENT)
        scripts = Scripts(server, load=False)
        proxy.hold("down")
        publishing = asyncio.create_task(store.fcall("publish", SESSION, EVENT))
        await until(lambda: len(scripts.entries(SESSION)) == 2, "the event to be kept")
        proxy.drop()
        with pytest.raises(Unavailable):
            await publishing
        assert len(scripts.entries(SESSION)) == 2

    async def test_a_read_whose_reply_was_lost_is_repeated(
        self, server: RedisProcess, stores: Stores, proxied: Callable[[RedisProcess], Proxy]
    ) -> None:
        proxy = proxied(server)
        history = History(stores(proxy.url))
        await history.publish(SESSION, EVENT)
        server.client.config_resetstat()
        proxy.hold("down")
        reading = asyncio.ensure_future(history.read(SESSION, None, mode="all"))
        await until(lambda: "cmdstat_fcall" in server.client.info("commandstats"), "the read to be made")
        proxy.release()
        proxy.hold("down")
        proxy.drop()
        proxy.release()
        assert len((await reading).entries) == 1


class TestLibrary:
    async def test_it_loads_itself_when_it_is_missing_for_single_calls_and_batches(
        self, server: RedisProcess, store: Store
    ) -> None:
        assert await store.fcall("publish", SESSION, EVENT)
        server.client.function_flush()
        results = await store.fcall_many([("publish", SESSION, (EVENT,))] * 5)
        assert sorted(result.rpartition(b"-")[2] for result in results) == [b"2", b"3", b"4", b"5", b"6"]

    async def test_a_user_who_may_not_load_it_is_served_by_eval(
        self, server: RedisProcess, stores: Stores, caplog: pytest.LogCaptureFixture
    ) -> None:
        server.client.execute_command(
            "ACL", "SETUSER", "gateway", "reset", "on", ">hunter2", "~*", "&*", "+@all", "-function"
        )
        store = stores(server.url, username="gateway", password="hunter2")
        history = History(store)
        await store.ensure_library()
        with caplog.at_level(logging.DEBUG):
            assert await history.publish(SESSION, EVENT)
        server.client.script_flush()
        readings = await asyncio.gather(*(history.read(SESSION, None, mode="all") for _ in range(20)))
        assert {len(reading.entries) for reading in readings} == {1}
        assert "hunter2" not in caplog.text
        server.client.execute_command("ACL", "DELUSER", "gateway")

    async def test_a_user_without_rights_is_told_so_and_not_who_it_is(
        self, server: RedisProcess, stores: Stores
    ) -> None:
        Scripts(server)
        server.client.execute_command(
            "ACL", "SETUSER", "poor", "reset", "on", ">hunter2", "~*", "+@all", "-xadd"
        )
        store = stores(server.url, username="poor", password="hunter2")
        with pytest.raises(GatewayError, match="XADD") as refused:
            await store.fcall("publish", SESSION, EVENT)
        assert refused.value.code == "not_permitted"
        assert "poor" not in refused.value.message
        server.client.execute_command("ACL", "DELUSER", "poor")

    async def test_ensuring_it_replaces_other_settings_only_by_force(
        self, server: RedisProcess, store: Store
    ) -> None:
        theirs = Scripts(server, limits=Limits(history_events=7)).library
        await store.ensure_library()
        assert server.client.execute_command("FCALL", "sse_version", 0)[1] == theirs.fingerprint
        await store.ensure_library(force=True)
        assert server.client.execute_command("FCALL", "sse_version", 0)[1] == Library().fingerprint


class TestBatches:
    async def test_reads_of_one_turn_of_the_loop_travel_together(
        self, server: RedisProcess, history: History
    ) -> None:
        await history.read(SESSION, None)
        server.client.config_resetstat()
        readings = await asyncio.gather(*(history.read(f"s-{number}", None) for number in range(150)))
        assert len({reading.epoch for reading in readings}) == 150
        assert server.client.info("commandstats")["cmdstat_fcall"]["calls"] == 150
        assert int(server.client.info("clients")["connected_clients"]) <= 5

    async def test_a_reader_that_gave_up_takes_nobody_with_it(self, history: History) -> None:
        tasks = [asyncio.ensure_future(history.read(SESSION, None)) for _ in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result).__name__ for result in results] == ["Reading", "CancelledError", "Reading"]

    async def test_a_refused_read_is_its_own_readers(self, history: History) -> None:
        good, bad = await asyncio.gather(
            history.read(SESSION, None), history.read(SESSION, None, mode="?"), return_exceptions=True
        )
        assert isinstance(bad, GatewayError)
        assert getattr(good, "verdict", None) == "none"

    async def test_positions_are_as_redis_has_them(self, history: History, permissions: Permissions) -> None:
        event_id = await history.publish(SESSION, EVENT)
        names = [SESSION, *(f"other-{number}" for number in range(240)), SESSION]
        found = await history.positions(names)
        here = (Cursor.parse(str(event_id)), False)
        assert found == [here, *[None] * 240, here]
        await permissions.end(SESSION)
        assert await history.positions([SESSION]) == [(Cursor.parse(str(event_id)), True)]

    async def test_any_number_of_calls_take_one_connection(self, store: Store, server: RedisProcess) -> None:
        ids = await asyncio.gather(*(store.fcall("publish", SESSION, EVENT) for _ in range(300)))
        assert sorted(int(event_id.rpartition(b"-")[2]) for event_id in ids) == list(range(1, 301))
        assert int(server.client.info("clients")["connected_clients"]) <= 8

    async def test_beats_of_many_sessions_return_their_totals(self, history: History) -> None:
        counts = [(f"s-{number}", number + 1, number) for number in range(120)]
        assert await history.beat(counts, "g-1") == [(number + 1, number) for number in range(120)]
        assert await history.beat([("s-3", 10, 5)], "g-2") == [(14, 8)]


class TestDurably:
    """WAIT after answers and claims."""

    async def test_with_a_replica_the_call_returns_once_it_has_it(self, stores: Stores) -> None:
        with ReplicaPair() as pair:
            store = stores(pair.primary.url, wait_replicas=1)
            permissions = Permissions(store)
            await permissions.ask(SESSION, b'{"tool_name":"bash","request_id":"r"}')
            decision = b'{"request_id":"r","outcome":"approved","approved":true}'
            answered = await permissions.answer(SESSION, "r", decision, approved=True)
            assert answered.verdict == "won"
            assert pair.replica.client.hget("sse:{s-1}:permissions", "state:r") == "approved"
            assert await permissions.claim(SESSION, "r", "w")
            assert pair.replica.client.hget("sse:{s-1}:permissions", "state:r") == "consumed"

    async def test_without_one_the_call_is_unavailable_and_its_repetition_is_told_what_happened(
        self, server: RedisProcess, stores: Stores, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connection, "WAIT_MS", 50)
        store = stores(server.url, wait_replicas=1)
        permissions = Permissions(store)
        await permissions.ask(SESSION, b'{"tool_name":"bash","request_id":"r"}')
        decision = b'{"request_id":"r","outcome":"approved","approved":true}'
        with pytest.raises(Unavailable, match="replicas"):
            await permissions.answer(SESSION, "r", decision, approved=True)
        relaxed = Permissions(stores(server.url))
        assert (await relaxed.answer(SESSION, "r", decision, approved=True)).verdict == "replayed"


class TestEndpoint:
    """Where the push connection is to go."""

    async def test_one_server(self, stores: Stores) -> None:
        endpoint = await stores("redis://user:hunter2@h:1234/0").push_endpoint()
        assert (endpoint.host, endpoint.port, endpoint.path, endpoint.ssl) == ("h", 1234, "", None)
        assert (endpoint.username, endpoint.password) == ("user", "hunter2")
        assert "hunter2" not in repr(endpoint)

    async def test_a_socket(self, stores: Stores) -> None:
        endpoint = await stores("unix:///run/x.sock", password="p").push_endpoint()
        assert (endpoint.path, endpoint.password) == ("/run/x.sock", "p")

    async def test_tls(self, stores: Stores) -> None:
        endpoint = await stores("rediss://h").push_endpoint()
        assert endpoint.ssl is not None
        assert endpoint.ssl.check_hostname

    async def test_credentials_given_apart_take_the_place_of_the_urls(self, stores: Stores) -> None:
        endpoint = await stores("redis://a:b@h", username="c", password="d").push_endpoint()
        assert (endpoint.username, endpoint.password) == ("c", "d")


async def test_a_unix_socket_carries_calls(own_server: RedisProcess, stores: Stores) -> None:
    own_server.stop()
    own_server.options["unixsocket"] = str(own_server.folder / "r.sock")
    own_server.start()
    store = stores(f"unix://{own_server.folder}/r.sock")
    await store.ping()
    assert await store.fcall("publish", SESSION, EVENT)


async def test_sentinels_are_asked_for_the_primary_and_a_failover_is_followed(
    sentinels: Sentinels, stores: Stores
) -> None:
    store = stores(sentinels.url)
    history = History(store)
    first = str(await history.publish(SESSION, EVENT))
    before = await store.push_endpoint()
    assert before.port == sentinels.primary().port
    await asyncio.to_thread(sentinels.failover)
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(Unavailable):
                reading = await history.read(SESSION, first)
                break
    assert reading.verdict in ("ok", "epoch")
    after = await store.push_endpoint()
    assert after.port == sentinels.primary().port != before.port
    await store.ensure_library()
    assert await history.publish(SESSION, EVENT)


async def test_sentinels_that_cannot_be_reached_are_unavailable(stores: Stores) -> None:
    store = stores(f"redis+sentinel://127.0.0.1:{free_port()}/mymaster")
    for call in (store.fcall("status", SESSION), store.push_endpoint(), store.ping()):
        with pytest.raises(Unavailable):
            await call
