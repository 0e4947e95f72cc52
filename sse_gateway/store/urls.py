"""Where Redis is: the URL, taken apart and checked.

    redis://[user:password@]host[:6379][/db]        rediss:// with TLS        unix:///path[?db=n]
    redis+sentinel://h1:26379,h2:26379/mymaster[/db]                          redis+cluster://h1,h2

`rediss+sentinel` and `rediss+cluster` are the same with TLS. Messages never repeat a password.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qsl, unquote

Kind = Literal["server", "unix", "sentinel", "cluster"]

_SCHEMES: dict[str, tuple[Kind, bool]] = {
    "redis": ("server", False),
    "rediss": ("server", True),
    "unix": ("unix", False),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}
_OPTIONS: dict[Kind, frozenset[str]] = {
    "server": frozenset({"db"}),
    "unix": frozenset({"db"}),
    "sentinel": frozenset({"db", "sentinel_username", "sentinel_password"}),
    "cluster": frozenset(),
}


@dataclass(frozen=True, slots=True)
class Target:
    """One checked Redis URL."""

    kind: Kind
    tls: bool
    hosts: tuple[tuple[str, int], ...] = ()
    """The server, the Sentinels, or the nodes to ask for the Cluster's layout."""
    path: str = ""
    service: str = ""
    """The name under which the Sentinels know the primary."""
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        """Return the URL without credentials, fit for a log."""
        scheme = next(scheme for scheme, form in _SCHEMES.items() if form == (self.kind, self.tls))
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        service = f"/{self.service}" if self.service else ""
        db = f"/{self.db}" if self.kind in ("server", "sentinel") else ""
        return f"{scheme}://{hosts}{self.path}{service}{db}"


def parse_url(url: str) -> Target:
    """Return the target of `url`; raises ValueError saying what is wrong and what was expected."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in _SCHEMES:
        raise ValueError(f"a Redis URL begins with one of {', '.join(f'{name}://' for name in _SCHEMES)}")
    kind, tls = _SCHEMES[scheme]
    rest, _, query = rest.partition("?")
    options = _options(kind, query)
    place, slash, path = rest.partition("/")
    credentials, at, place = place.rpartition("@")
    username, password = _credentials(credentials) if at else (None, None)
    if kind == "unix":
        if place or not path:
            raise ValueError("a unix URL is unix:///absolute/path/of/the/socket")
        return Target(
            kind, tls, path=unquote(slash + path), db=_db(options.get("db", "0")),
            username=username, password=password,
        )  # fmt: skip
    hosts = _hosts(place, 26379 if kind == "sentinel" else 6379)
    if kind == "server" and len(hosts) > 1:
        raise ValueError("redis:// names one server; use redis+sentinel:// or redis+cluster:// for several")
    service = ""
    if kind == "sentinel":
        service, _, path = path.partition("/")
        if not service:
            raise ValueError(
                "a Sentinel URL names the service: redis+sentinel://h1:26379,h2:26379/mymaster/0"
            )
    db = _db(path or options.get("db", "0"))
    if kind == "cluster" and (path or db):
        raise ValueError("a Cluster has no database numbers; leave out everything after the hosts")
    return Target(
        kind,
        tls,
        hosts=hosts,
        service=unquote(service),
        db=db,
        username=username,
        password=password,
        sentinel_username=options.get("sentinel_username"),
        sentinel_password=options.get("sentinel_password"),
    )


def _options(kind: Kind, query: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name in sorted(options.keys() - _OPTIONS[kind]):
        known = ", ".join(sorted(_OPTIONS[kind])) or "none"
        raise ValueError(f"the Redis URL has an unknown option {name!r}; known here: {known}")
    return options


def _credentials(text: str) -> tuple[str | None, str | None]:
    username, colon, password = text.partition(":")
    if not colon:
        raise ValueError("credentials in a Redis URL are user:password@ or :password@")
    return unquote(username) or None, unquote(password)


def _hosts(text: str, default_port: int) -> tuple[tuple[str, int], ...]:
    hosts = []
    for item in text.split(","):
        if item.startswith("["):
            host, bracket, port = item[1:].partition("]")
            if not bracket or (port and not port.startswith(":")):
                raise ValueError("an IPv6 address in a Redis URL stands in brackets: [::1]:6379")
            port = port[1:]
        else:
            host, _, port = item.partition(":")
        if not host:
            raise ValueError("the Redis URL names no host, or has an empty one between commas")
        if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ValueError(f"the Redis URL has a port that is not 1 to 65535, at host {host!r}")
        hosts.append((unquote(host), int(port) if port else default_port))
    return tuple(hosts)


def _db(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        raise ValueError("the database in a Redis URL is a number, such as redis://host:6379/0")
    return int(text)
