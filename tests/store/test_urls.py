"""Redis URLs: what they mean, and what is said of one that means nothing."""

from __future__ import annotations

from typing import Any

import pytest

from sse_gateway.store.urls import Target, parse_url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h", {"kind": "server", "hosts": (("h", 6379),), "tls": False, "db": 0}),
        ("redis://h:1234/5", {"hosts": (("h", 1234),), "db": 5}),
        ("redis://h/", {"db": 0}),
        ("redis://h?db=3", {"db": 3}),
        ("rediss://h", {"kind": "server", "tls": True}),
        ("redis://:secret@h", {"username": None, "password": "secret"}),
        ("redis://user:p%40ss%2Fword@h", {"username": "user", "password": "p@ss/word"}),
        ("redis://user:a@b@h", {"username": "user", "password": "a@b", "hosts": (("h", 6379),)}),
        ("redis://[::1]:7000/1", {"hosts": (("::1", 7000),), "db": 1}),
        ("redis://[::1]", {"hosts": (("::1", 6379),)}),
        ("unix:///run/redis.sock", {"kind": "unix", "path": "/run/redis.sock", "db": 0}),
        ("unix://:secret@/run/redis.sock?db=2", {"path": "/run/redis.sock", "db": 2, "password": "secret"}),
        (
            "redis+sentinel://h1,h2:26380/mymaster/3",
            {"kind": "sentinel", "hosts": (("h1", 26379), ("h2", 26380)), "service": "mymaster", "db": 3},
        ),
        ("redis+sentinel://h1/mymaster", {"db": 0, "sentinel_password": None}),
        (
            "rediss+sentinel://u:p@h1/m?sentinel_username=s&sentinel_password=q",
            {
                "tls": True,
                "username": "u",
                "password": "p",
                "sentinel_username": "s",
                "sentinel_password": "q",
            },
        ),
        ("redis+cluster://h1,h2:7001", {"kind": "cluster", "hosts": (("h1", 6379), ("h2", 7001))}),
        ("rediss+cluster://u:p@h1/", {"kind": "cluster", "tls": True, "username": "u", "db": 0}),
    ],
)
def test_a_url_is_taken_apart(url: str, expected: dict[str, Any]) -> None:
    target = parse_url(url)
    assert {name: getattr(target, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("", "begins with one of redis://"),
        ("h:6379", "begins with one of redis://"),
        ("http://h", "begins with one of redis://"),
        ("REDIS://h", "begins with one of redis://"),
        ("redis://", "names no host"),
        ("redis://:6379", "names no host"),
        ("redis://h:port", "port that is not 1 to 65535"),
        ("redis://h:0", "port that is not 1 to 65535"),
        ("redis://h:65536", "port that is not 1 to 65535"),
        ("redis://h/one", "database in a Redis URL is a number"),
        ("redis://h/-1", "database in a Redis URL is a number"),
        ("redis://h?timeout=5", "unknown option 'timeout'; known here: db"),
        ("redis://h1,h2", "names one server"),
        ("redis://user@h", "credentials in a Redis URL are user:password@"),
        ("redis://[::1", "stands in brackets"),
        ("redis://[::1]x", "stands in brackets"),
        ("redis+sentinel://h1,h2", "names the service"),
        ("redis+sentinel://h1,,h2/m", "empty one between commas"),
        ("redis+sentinel://h1/m/x", "database in a Redis URL is a number"),
        ("redis+cluster://h1/1", "no database numbers"),
        ("redis+cluster://h1?db=1", "unknown option 'db'; known here: none"),
        ("unix://run/redis.sock", "unix:///absolute"),
        ("unix://", "unix:///absolute"),
    ],
)
def test_a_wrong_url_is_named_without_its_password(url: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint.replace("?", r"\?")) as refused:
        parse_url(url.replace("://", "://user:hunter2@") if "@" not in url and "://" in url else url)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    ["redis://u:hunter2@h:1/0", "unix://u:hunter2@/x", "redis+cluster://u:hunter2@h:1,[::1]:2",
     "rediss+sentinel://u:hunter2@h:1/m/0?sentinel_password=hunter2"],
)  # fmt: skip
def test_a_target_shows_no_secret(url: str) -> None:
    target = parse_url(url)
    assert "hunter2" not in repr(target)
    assert "hunter2" not in str(target)
    assert str(target) == url.replace("u:hunter2@", "").partition("?")[0]


def test_targets_are_values() -> None:
    assert parse_url("redis://h") == Target("server", tls=False, hosts=(("h", 6379),))
