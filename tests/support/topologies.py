"""Servers that belong together: a primary with its replica, a Cluster, a pair under Sentinel."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from redis.crc import key_slot

from tests.support.ports import free_port
from tests.support.proxy import Proxy
from tests.support.servers import Kind, RedisProcess
from tests.support.wait import until_sync


class _Closing(ABC):
    """What `with` does for each of them."""

    @abstractmethod
    def start(self) -> Self:
        """Start all its servers."""

    @abstractmethod
    def close(self) -> None:
        """End them."""

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ReplicaPair(_Closing):
    """A primary, a replica behind a link that can be cut, and one address that follows a failover.

    `url` is that address (a proxy, as a virtual IP would be). A failover without loss:
    `in_step(); primary.kill(); promote()`. One that loses the last writes: `cut()`, write, `primary.kill();
    promote()`. A failback: `rejoin()` makes the old primary a replica of the new one; then the same again.
    """

    def __init__(self, kind: Kind = "valkey") -> None:
        self.primary = RedisProcess(kind)
        self.replica = RedisProcess(kind)
        self.link = Proxy(self.primary.port, speaks_redis=False)
        self.front = Proxy(self.primary.port)

    @property
    def url(self) -> str:
        """The address that follows the primary."""
        return f"redis://127.0.0.1:{self.front.port}/0"

    def start(self) -> Self:
        self.link.start()
        self.front.start()
        self.primary.start()
        self.replica.start()
        self.replica.client.replicaof("127.0.0.1", self.link.port)
        self.in_step()
        return self

    def in_step(self) -> None:
        """Wait until the replica has every write of the primary."""
        until_sync(lambda: self._lag() == 0, "the replica to be in step with its primary", seconds=15)

    def cut(self) -> None:
        """Cut the link: the replica gets no more writes."""
        self.link.refuse()

    def heal(self) -> None:
        """Mend the link, and wait until the replica has caught up."""
        self.link.accept()
        self.in_step()

    def promote(self) -> None:
        """Make the replica the primary and let `url` lead to it; connections to the old one are dropped."""
        self.replica.client.replicaof("NO", "ONE")
        self.front.retarget(self.replica.port)
        self.primary, self.replica = self.replica, self.primary

    def rejoin(self) -> None:
        """Bring the old primary back as a replica of the present one; writes only it had are gone."""
        self.link.accept()
        self.link.retarget(self.primary.port)
        if not self.replica.running:
            self.replica.start()
        self.replica.client.replicaof("127.0.0.1", self.link.port)
        self.in_step()

    def close(self) -> None:
        self.front.close()
        self.link.close()
        self.replica.close()
        self.primary.close()

    def _lag(self) -> int:
        replica = self.replica.info("replication")
        if replica["master_link_status"] != "up" or replica["master_sync_in_progress"]:
            return -1
        primary = self.primary.info("replication")
        ours: int = primary["master_repl_offset"]
        theirs: int = replica["slave_repl_offset"]
        return ours - theirs


class Cluster(_Closing):
    """Three primaries that share the 16,384 slots evenly."""

    def __init__(
        self, kind: Kind = "valkey", *, size: int = 3, options: Mapping[str, str] | None = None
    ) -> None:
        self.nodes = [
            RedisProcess(
                kind,
                options={
                    "cluster-enabled": "yes",
                    "cluster-config-file": "nodes.conf",
                    "cluster-node-timeout": "2000",
                    # The usual bus port, the port + 10,000, may be anybody's.
                    "cluster-port": str(free_port()),
                    **(options or {}),
                },
            )
            for _ in range(size)
        ]

    @property
    def url(self) -> str:
        """All nodes, as a gateway is given them."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def start(self) -> Self:
        first, *others = self.nodes
        for node in self.nodes:
            node.start()
        share = -(-16384 // len(self.nodes))
        for index, node in enumerate(self.nodes):
            last = min((index + 1) * share, 16384) - 1
            node.client.execute_command("CLUSTER ADDSLOTSRANGE", index * share, last)
            node.client.execute_command("CLUSTER SET-CONFIG-EPOCH", index + 1)
        for node in others:
            node.client.execute_command(
                "CLUSTER MEET", "127.0.0.1", first.port, first.options["cluster-port"]
            )
        self.settled()
        return self

    def settled(self) -> None:
        """Wait until every running node knows all nodes and all slots are served."""

        def agree() -> bool:
            for node in self.nodes:
                if node.running:
                    state = node.client.execute_command("CLUSTER INFO")
                    if state["cluster_state"] != "ok" or int(state["cluster_known_nodes"]) != len(self.nodes):
                        return False
            return True

        until_sync(agree, "all nodes to agree that the Cluster is ok", seconds=20)

    def agreed(self) -> None:
        """Wait until all running nodes tell the same of who has which slots, and since which epoch.

        A slot that is moved before that can be lost again, with its keys: its new owner takes an epoch that a
        node it has not heard of yet has outdone.
        """

        def agree() -> bool:
            views = [self._view(node) for node in self.nodes if node.running]
            return all(view == views[0] for view in views)

        until_sync(agree, "all nodes to agree who has which slots", seconds=20)

    def node_id(self, node: RedisProcess) -> str:
        """Return the node's name in the Cluster."""
        return str(node.client.execute_command("CLUSTER MYID"))

    def slot(self, session_id: str) -> int:
        """Return the slot of all keys of a session."""
        return key_slot(session_id.encode())

    def owner(self, slot: int) -> RedisProcess:
        """Return the node that serves a slot, by its own account."""
        for node in self.nodes:
            if node.running and any(first <= slot <= last for first, last in self._slots(node)):
                return node
        raise AssertionError(f"no running node serves slot {slot}")

    def migrate(
        self,
        slot: int,
        *,
        to: RedisProcess | None = None,
        between_keys: Callable[[], None] | None = None,
        before_end: Callable[[], None] | None = None,
    ) -> RedisProcess:
        """Move a slot with its keys, one key at a time, and return the node that has it now.

        `between_keys` runs after each key moved (the session is then split over two nodes), `before_end` when
        all keys have moved and the slot has not: the moments at which scripts see TRYAGAIN and ASK.
        """
        self.agreed()
        source = self.owner(slot)
        target = to or next(node for node in self.nodes if node is not source and node.running)
        source_id, target_id = self.node_id(source), self.node_id(target)
        target.client.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", source_id)
        source.client.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", target_id)
        while keys := source.client.execute_command("CLUSTER GETKEYSINSLOT", slot, 1):
            source.client.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
            if between_keys is not None:
                between_keys()
        if before_end is not None:
            before_end()
        # The target first: from then on somebody serves the slot, whatever happens to us.
        for node in (target, source, *self.nodes):
            if node.running:
                node.client.execute_command("CLUSTER SETSLOT", slot, "NODE", target_id)
        return target

    def close(self) -> None:
        for node in self.nodes:
            node.close()

    @staticmethod
    def _view(node: RedisProcess) -> dict[str, tuple[str, list[list[str]]]]:
        """Return epoch and slots of every node that this one knows, by id."""
        known = node.client.execute_command("CLUSTER NODES").values()
        return {entry["node_id"]: (entry["epoch"], sorted(entry["slots"])) for entry in known}

    @staticmethod
    def _slots(node: RedisProcess) -> list[tuple[int, int]]:
        """Return the spans of slots that a node says are its own."""
        for entry in node.client.execute_command("CLUSTER NODES").values():
            if "myself" in entry["flags"]:
                return [(int(span[0]), int(span[-1])) for span in entry["slots"]]
        return []


class Sentinels(_Closing):
    """A primary, a replica, and three sentinels that promote it two seconds after the primary's death."""

    def __init__(self, kind: Kind = "valkey", *, name: str = "mymaster", size: int = 3) -> None:
        self.name = name
        self.servers = [RedisProcess(kind), RedisProcess(kind)]
        self.sentinels = [SentinelProcess(kind) for _ in range(size)]

    @property
    def url(self) -> str:
        """The sentinels and the primary's name, as a gateway is given them."""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{self.name}/0"

    def start(self) -> Self:
        primary, replica = self.servers
        primary.start()
        replica.start()
        replica.client.replicaof("127.0.0.1", primary.port)
        until_sync(
            lambda: replica.info("replication")["master_link_status"] == "up", "the replica's first sync"
        )
        for sentinel in self.sentinels:
            sentinel.watch(self.name, primary.port, quorum=len(self.sentinels) // 2 + 1)
            sentinel.start()
            sentinel.hurry()
        until_sync(self._complete, "the sentinels to know the replica and each other", seconds=30)
        return self

    def primary(self) -> RedisProcess:
        """Return the server that the first sentinel calls the primary."""
        _, port = self.sentinels[0].client.sentinel_get_master_addr_by_name(self.name)
        return next(server for server in self.servers if server.port == int(port))

    def failover(self) -> RedisProcess:
        """Kill the primary, wait for the other's promotion by all sentinels, and return the new primary."""
        old = self.primary()
        new = next(server for server in self.servers if server is not old)
        old.kill()
        until_sync(
            lambda: (
                all(
                    int(sentinel.client.sentinel_get_master_addr_by_name(self.name)[1]) == new.port
                    for sentinel in self.sentinels
                )
                and new.info("replication")["role"] == "master"
            ),
            "the sentinels to promote the replica",
            seconds=30,
        )
        return new

    def close(self) -> None:
        for server in (*self.sentinels, *self.servers):
            server.close()

    def _complete(self) -> bool:
        for sentinel in self.sentinels:
            state = sentinel.client.sentinel_master(self.name)
            if state["num-slaves"] != 1 or state["num-other-sentinels"] != len(self.sentinels) - 1:
                return False
        return True


class SentinelProcess(RedisProcess):
    """One sentinel; it rewrites its own configuration file, so it gets one instead of arguments."""

    def watch(self, name: str, port: int, *, quorum: int) -> None:
        """Write the configuration: watch the primary `name` on `port`."""
        self.configuration.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self.folder}\n"
            f"sentinel monitor {name} 127.0.0.1 {port} {quorum}\n"
            f"sentinel down-after-milliseconds {name} 1000\n"
            f"sentinel failover-timeout {name} 6000\n"
            f"sentinel parallel-syncs {name} 1\n"
        )

    def hurry(self) -> None:
        """Let it greet the others and look for replicas ten times a second, not every two and ten seconds.

        How it finds a server down stays as it is: three that notice in the same moment split the vote.
        """
        self.client.execute_command("SENTINEL DEBUG", "info-period", 100, "publish-period", 100)

    @property
    def configuration(self) -> Path:
        """The file it rewrites."""
        return self.folder / "sentinel.conf"

    def command(self) -> list[str]:
        """Return what starts it."""
        return [super().command()[0], str(self.configuration), "--sentinel"]
