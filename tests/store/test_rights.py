"""Redis users with fewer rights: refused in words, and never half-way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from tests.store.scripts import Refused, Scripts

SESSION = "s-1"
KEYS = "~sse:* ~permission_responses:*"
CHANNELS = "&sse_events:* &permission_response:*"
WRITES = [
    "xadd", "xtrim", "hset", "hdel", "pexpire", "publish", "del", "set", "zadd", "zrem",
]  # fmt: skip
READS = [
    "exists", "time", "hmget", "hget", "hgetall", "info", "xrange", "pttl", "get", "zrange", "zrevrange",
    "zrangebyscore", "zcard",
]  # fmt: skip


@pytest.fixture
def user(scripts: Scripts) -> Iterator[Callable[..., Any]]:
    """Make a client of a user with these rights."""
    clients: list[Any] = []

    def make(*rules: str) -> Any:
        name = f"user-{len(clients)}"
        scripts.client.execute_command(
            "ACL", "SETUSER", name, "reset", "on", ">secret", *" ".join(rules).split()
        )
        clients.append(
            redis.Redis(port=scripts.server.port, username=name, password="secret", decode_responses=True)
        )
        return clients[-1]

    yield make
    for number, client in enumerate(clients):
        client.close()
        scripts.client.execute_command("ACL", "DELUSER", f"user-{number}")


DECISION = json.dumps({"request_id": "r", "outcome": "approved", "approved": True})
CALLS: dict[str, tuple[Any, ...]] = {
    "publish": ("publish", SESSION, '{"type":"x"}', "key"),
    "publish a status": ("publish", SESSION, '{"type":"tool_status","data":{"tool_call_id":"new"}}'),
    "publish a result": ("publish", SESSION, '{"type":"tool_result"}'),
    "ask": ("ask", SESSION, '{"tool_name":"bash"}'),
    "answer": ("answer", SESSION, "r", 1, "", "", DECISION, 0, 0, "key-2"),
    "cancel": ("cancel", SESSION, "r"),
    "end": ("end", SESSION),
    "claim": ("claim", SESSION, "settled", "w"),
    "beat": ("beat", SESSION, "g-2", 1, 1),
    "read what is due": ("read", SESSION, "", "all", 1000),
}


@pytest.mark.parametrize("denied", WRITES)
@pytest.mark.parametrize("call", CALLS)
def test_whatever_command_a_user_lacks_a_script_does_all_or_nothing(
    scripts: Scripts, user: Callable[..., Any], call: str, denied: str
) -> None:
    scripts.publish(SESSION, {"type": "tool_status", "data": {}})
    for name in ("r", "settled"):
        scripts.ask(SESSION, request_id=name)
    scripts.answer(SESSION, "settled")
    scripts.call("beat", SESSION, "g-1", 1, 1)
    # So that an append has lives to prolong, as most have not.
    scripts.client.hset(scripts.keys.meta(SESSION), "alive_until", 0)
    if call == "read what is due":
        scripts.make_due(SESSION, "r")
    client = user(KEYS, CHANNELS, "+@all", f"-{denied}")
    before = scripts.everything(SESSION)
    try:
        scripts.call(*CALLS[call], client=client)
    except Refused as refusal:
        code = refusal.code
    else:
        code = "done"
    assert (code, scripts.everything(SESSION) == before) in [("SSE_NOT_PERMITTED", True), ("done", False)]


@pytest.mark.parametrize("call", ["publish", "ask", "answer"])
def test_without_the_channel_nothing_is_kept_and_the_refusal_names_it(
    scripts: Scripts, user: Callable[..., Any], call: str
) -> None:
    scripts.ask(SESSION, request_id="r")
    before = scripts.everything(SESSION)
    for channels in ("", "&permission_response:*", "&sse_events:other"):
        with pytest.raises(Refused) as refused:
            scripts.call(*CALLS[call], client=user(KEYS, channels, "+@all"))
        assert refused.value.code == "SSE_NOT_PERMITTED"
        assert "PUBLISH sse_events:s-1" in refused.value.sentence
        assert scripts.everything(SESSION) == before


@pytest.mark.parametrize(
    ("keys", "call"),
    [
        ("~permission_responses:*", "publish"),
        ("~sse:{s-2}* ~permission_responses:{s-2}", "publish"),
        ("~sse:{s-2}* ~permission_responses:{s-2}", "ask"),
        ("~sse:*", "ask"),
    ],
)
def test_without_the_sessions_keys_nothing_is_done(
    scripts: Scripts, user: Callable[..., Any], keys: str, call: str
) -> None:
    with pytest.raises(Refused) as refused:
        scripts.call(*CALLS[call], client=user(keys, CHANNELS, "+@all"))
    assert refused.value.code in ("SSE_NOT_PERMITTED", "NOPERM")
    assert scripts.everything(SESSION) == {}


def test_a_user_with_exactly_the_rights_named_can_do_everything(
    scripts: Scripts, user: Callable[..., Any]
) -> None:
    scripts.ask(SESSION, request_id="r")
    scripts.ask(SESSION, request_id="settled")
    scripts.answer(SESSION, "settled")
    rights = " ".join(f"+{command}" for command in ["fcall", *WRITES, *READS])
    client = user(KEYS, CHANNELS, rights)
    for call in CALLS.values():
        scripts.call(*call, client=client)
    for name, *arguments in [("decision", "r"), ("request", "r"), ("pending",), ("status",)]:
        scripts.call(name, SESSION, *arguments, client=client)


def test_reading_needs_no_right_to_publish_while_nothing_is_due(
    scripts: Scripts, user: Callable[..., Any]
) -> None:
    scripts.publish(SESSION, {"type": "x"})
    client = user(KEYS, "+@read", "+fcall", "+time", "+info")
    assert scripts.call("read", SESSION, "", "all", 1000, client=client)[3] == 1
    assert scripts.call("status", SESSION, client=client)[1] == 1
