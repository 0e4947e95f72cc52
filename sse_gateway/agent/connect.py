"""Get at Redis: a client made from a URL, and a connection of our own beside any client's pool.

Works with redis-py 5 to 8, and with a client of the application's own: what is known of it (address, TLS,
credentials, Sentinels) is used as it stands.
"""

from __future__ import annotations

import random
from typing import Any

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from sse_gateway.store.urls import Target, parse_url

CONNECT_SECONDS = 5.0
SOCKET_SECONDS = 5.0
MOST_CALLS = 8
"""Calls in flight at a time. More would only open more connections: one loop is all we feed them from."""
_PUSH_OPTIONS = ("maint_", "maintenance_", "oss_cluster_", "orig_", "connection_pool_class")


def make_client(url: str, *, password: str | None = None, ca_file: str | None = None) -> Any:
    """Return an asyncio client for any URL a gateway takes; raises ValueError, never with a password."""
    target = parse_url(url)
    options: dict[str, Any] = {
        "username": target.username,
        "password": target.password if password is None else password,
        "protocol": 2,
        "socket_timeout": SOCKET_SECONDS,
        "socket_connect_timeout": CONNECT_SECONDS,
        "socket_keepalive": True,
    }
    if target.tls:
        # The name too: before release 6 redis-py takes any certificate of the CA for any host.
        options |= {"ssl": True, "ssl_ca_certs": ca_file, "ssl_check_hostname": True}
    if target.kind == "cluster":
        return RedisCluster(startup_nodes=[ClusterNode(*host) for host in target.hosts], **options)
    # Calls are repeated by `Calls`, which knows which may be.
    options |= {"retry": Retry(NoBackoff(), 0), "max_connections": 4 * MOST_CALLS}
    if target.kind == "sentinel":
        return _sentinel_client(target, options)
    if target.kind == "unix":
        return Redis(unix_socket_path=target.path, db=target.db, **_without(options, "socket_keepalive"))
    host, port = target.hosts[0]
    return Redis(host=host, port=port, db=target.db, **options)


def _sentinel_client(target: Target, options: dict[str, Any]) -> Any:
    sentinel: Any = Sentinel
    of_sentinels = options | {"username": target.sentinel_username, "password": target.sentinel_password}
    return sentinel(target.hosts, sentinel_kwargs=of_sentinels).master_for(
        target.service, db=target.db, **options
    )


async def close_client(client: Any) -> None:
    """Close a client made by `make_client`, its Sentinels' connections too."""
    manager = getattr(getattr(client, "connection_pool", None), "sentinel_manager", None)
    await client.aclose()
    if manager is not None:
        for sentinel in manager.sentinels:
            await sentinel.aclose()


async def open_connection(client: Any) -> Any:
    """Open a connection as the client's pool would, but outside of it; raises redis-py's errors.

    Outside: it would hold a place of the pool for as long as anybody waits. RESP2, where messages are
    ordinary replies in every version of redis-py. In a Cluster any node will do, since all of them hear
    every message.
    """
    if isinstance(client, RedisCluster):
        await client.initialize()
        source: Any = random.choice(client.get_nodes())
    else:
        source = client.connection_pool
    known = {
        name: value for name, value in source.connection_kwargs.items() if not name.startswith(_PUSH_OPTIONS)
    }
    connection: Any = source.connection_class(
        **known
        | {
            "protocol": 2,
            "socket_timeout": SOCKET_SECONDS,
            "socket_connect_timeout": CONNECT_SECONDS,
            "health_check_interval": 0,
            "retry": Retry(NoBackoff(), 0),
        }
    )
    try:
        await connection.connect()
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    return connection


def calls_at_once(client: Any) -> int:
    """Return how many calls may be in flight: never more than the client's pool has connections."""
    pool = getattr(client, "connection_pool", None)
    return max(1, min(MOST_CALLS, getattr(pool, "max_connections", None) or MOST_CALLS))


def check_client(client: Any) -> Any:
    """Return `client` if it is one of redis-py's asyncio clients, else raise TypeError with the remedy."""
    if isinstance(client, Redis | RedisCluster):
        return client
    raise TypeError(
        "a URL, a redis.asyncio.Redis or a redis.asyncio.RedisCluster is needed, not "
        f"{type(client).__module__}.{type(client).__qualname__}; for a blocking client's server, give its URL"
    )


def _without(options: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key != name}
