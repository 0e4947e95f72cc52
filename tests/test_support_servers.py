"""The tests' own servers and network do what they say, or no test of a fault would prove anything."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis.exceptions
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster

from tests.support.alone import turn
from tests.support.proxy import Proxy
from tests.support.resp import ReplySplitter, pushed_channel
from tests.support.servers import RedisProcess
from tests.support.topologies import Cluster, ReplicaPair, Sentinels
from tests.support.wait import Hopeless, alive, until

MakeProxy = Callable[[RedisProcess], Proxy]


async def test_a_restart_goes_back_to_the_dump_or_to_nothing(any_own_server: RedisProcess) -> None:
    server = any_own_server
    server.client.set("key", "old")
    server.save()
    server.client.set("key", "new")
    server.restart()
    assert server.client.get("key") == "old"
    server.restart(empty=True)
    assert server.client.get("key") is None


async def test_a_paused_server_answers_nobody_until_it_is_resumed(own_server: RedisProcess) -> None:
    async with own_server.connect(socket_timeout=0.2, retry=None) as client:
        await client.ping()
        own_server.pause()
        with pytest.raises((redis.exceptions.TimeoutError, TimeoutError)):
            await client.ping()
        own_server.resume()
        await until(client.ping, "an answer after the pause")


async def test_a_server_that_cannot_start_says_why(own_server: RedisProcess) -> None:
    with pytest.raises(Hopeless, match="ended at its start"):
        RedisProcess(options={"no-such-option": "1"}).start()


async def test_a_failover_keeps_or_loses_the_last_writes_as_asked(replica_pair: ReplicaPair) -> None:
    pair = replica_pair
    async with Redis.from_url(pair.url) as client:
        await client.set("first", 1)
        pair.in_step()
        pair.cut()
        await client.set("lost", 1)
        pair.primary.kill()
        pair.promote()
        await until(client.ping, "the new primary behind the same address")
        assert await client.mget("first", "lost") == [b"1", None]

        pair.rejoin()
        await client.set("kept", 1)
        pair.in_step()
        pair.primary.kill()
        pair.promote()
        await until(client.ping, "the new primary behind the same address")
        assert await client.mget("first", "kept") == [b"1", b"1"]


async def test_a_slot_moves_while_its_keys_are_written(cluster: Cluster) -> None:
    slot = cluster.slot("s1")
    before = cluster.owner(slot)
    async with RedisCluster(host="127.0.0.1", port=cluster.nodes[0].port) as client:
        for number in range(20):
            await client.set(f"sse:{{s1}}:{number}", number)
        steps: list[str] = []
        after = await asyncio.to_thread(
            cluster.migrate,
            slot,
            between_keys=lambda: steps.append("key"),
            before_end=lambda: steps.append("end"),
        )
        assert after is not before
        assert cluster.owner(slot) is after
        assert steps == ["key"] * 20 + ["end"]
        assert await client.get("sse:{s1}:7") == b"7"


@pytest.mark.timeout(120)
async def test_the_sentinels_promote_the_replica(sentinels: Sentinels) -> None:
    old = sentinels.primary()
    new = await asyncio.to_thread(sentinels.failover)
    assert new is not old
    assert sentinels.primary() is new
    new.client.set("writable", 1)


async def test_the_proxy_drops_refuses_and_accepts(server: RedisProcess, proxied: MakeProxy) -> None:
    proxy = proxied(server)
    async with Redis.from_url(proxy.url, retry=None) as client:
        await client.ping()
        assert proxy.drop() == 1
        with pytest.raises(redis.exceptions.ConnectionError):
            await client.ping()
        await client.ping()
        proxy.refuse()
        with pytest.raises(redis.exceptions.ConnectionError):
            await client.ping()
        proxy.accept()
        await until(client.ping, "an answer once the proxy listens again")


async def test_the_proxy_leads_to_another_server(
    server: RedisProcess, own_server: RedisProcess, proxied: MakeProxy
) -> None:
    proxy = proxied(server)
    async with Redis.from_url(proxy.url) as client:
        assert (await client.info("server"))["process_id"] == server.pid
        proxy.retarget(own_server.port)
        await until(client.ping, "the other server behind the same address")
        assert (await client.info("server"))["process_id"] == own_server.pid


async def test_the_proxy_delays_in_order(server: RedisProcess, proxied: MakeProxy) -> None:
    proxy = proxied(server)
    async with Redis.from_url(proxy.url) as client:
        await client.ping()
        proxy.delay(0.15)
        begun = time.monotonic()
        assert [await client.echo(str(number)) for number in range(2)] == [b"0", b"1"]
        assert time.monotonic() - begun >= 0.6
        proxy.delay(0)


@pytest.mark.parametrize("way", ["up", "down"])
async def test_the_proxy_holds_one_direction_and_releases_it(
    server: RedisProcess, proxied: MakeProxy, way: str
) -> None:
    proxy = proxied(server)
    async with Redis.from_url(proxy.url) as client:
        await client.ping()
        proxy.hold("up" if way == "up" else "down")
        write = asyncio.create_task(client.set("key", way))
        await asyncio.sleep(0.1)
        assert not write.done()
        assert server.client.get("key") == (None if way == "up" else "down")
        proxy.release()
        assert await write is True
        assert server.client.get("key") == way


async def test_the_proxy_swallows_messages_and_answers_ping(server: RedisProcess, proxied: MakeProxy) -> None:
    proxy = proxied(server)
    async with Redis.from_url(proxy.url, protocol=2) as client, client.pubsub() as pubsub:
        await pubsub.subscribe("a", "b")
        for _ in range(2):
            assert (await pubsub.get_message(timeout=5))["type"] == "subscribe"
        proxy.swallow(lambda channel: channel == b"a")
        server.client.publish("a", "1")
        server.client.publish("b", "2")
        assert (await pubsub.get_message(timeout=5))["data"] == b"2"
        await pubsub.ping()
        assert (await pubsub.get_message(timeout=5))["type"] == "pong"
        assert proxy.swallowed == 1
        proxy.deliver()
        server.client.publish("a", "3")
        assert (await pubsub.get_message(timeout=5))["data"] == b"3"


REPLIES = [
    b"+OK\r\n",
    b":5\r\n",
    b"$-1\r\n",
    b"$0\r\n\r\n",
    b"*-1\r\n",
    b"*0\r\n",
    b"$7\r\na\r\nb\r\nc\r\n",
    b"*2\r\n*1\r\n:1\r\n$1\r\nx\r\n",
    b"%1\r\n+key\r\n*2\r\n:1\r\n:2\r\n",
    b"|1\r\n+ttl\r\n:3\r\n$2\r\nok\r\n",
    b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$2\r\n\r\n\r\n",
    b"*4\r\n$8\r\npmessage\r\n$2\r\na*\r\n$2\r\nab\r\n$1\r\nx\r\n",
    b"_\r\n",
    b"#t\r\n",
    b"=7\r\ntxt:abc\r\n",
    b"-ERR no\r\n",
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_replies_are_cut_where_they_end_however_they_arrive(size: int) -> None:
    stream = b"".join(REPLIES)
    splitter = ReplySplitter()
    found = [
        reply
        for start in range(0, len(stream), size)
        for reply in splitter.feed(stream[start : start + size])
    ]
    assert found == REPLIES


def test_only_published_messages_have_a_channel() -> None:
    assert [pushed_channel(reply) for reply in REPLIES if pushed_channel(reply)] == [b"a", b"ab"]
    assert pushed_channel(b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n") is None


def test_a_killed_test_run_leaves_no_server_and_no_folder(tmp_path: Path) -> None:
    run = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            "import time\nfrom tests.support.servers import RedisProcess\n"
            "server = RedisProcess().start()\nserver.pause()\n"
            "print(server.pid, server.folder, flush=True)\ntime.sleep(3600)\n",
        ],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert run.stdout is not None
    with run.stdout:
        pid, folder = run.stdout.readline().decode().split()
        assert Path(folder).is_dir()
        run.kill()
        run.wait()
    deadline = time.monotonic() + 10
    while (alive(int(pid)) or Path(folder).exists()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(int(pid))
    assert not Path(folder).exists()


def test_alone_waits_for_the_others_and_keeps_them_waiting(tmp_path: Path) -> None:
    other = (
        "import sys, time\nfrom pathlib import Path\nfrom tests.support.alone import turn\n"
        "with turn(Path(sys.argv[1]), alone=sys.argv[2] == 'alone'): print(time.monotonic(), flush=True)\n"
    )

    def run(how: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", other, str(tmp_path), how],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parent.parent,
        )

    with turn(tmp_path, alone=False):
        beside = run("beside")
        assert beside.communicate(timeout=10)[0]
        waiting = run("alone")
        time.sleep(0.5)
        released = time.monotonic()
    assert float(waiting.communicate(timeout=10)[0]) >= released
