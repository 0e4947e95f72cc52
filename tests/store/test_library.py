"""The library: loading it, never downgrading it, and the same code by EVAL."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.exceptions
from redis.asyncio import Redis

from sse_gateway.core.errors import GatewayError
from sse_gateway.store import library as library_module
from sse_gateway.store.library import FUNCTIONS, SHARED_PARTS, Library, Limits
from tests.store.scripts import Refused, Scripts
from tests.support.servers import RedisProcess

SESSION = "s-1"
ANOTHER_LIBRARY = """#!lua name=another
redis.register_function("make_garbage", function(keys, args)
  local made = {}
  for at = 1, 100 do made[at] = {at} end
  return #made
end)"""


@pytest.fixture
async def client(any_server: RedisProcess) -> AsyncIterator[Redis]:
    async with any_server.connect() as client:
        yield client


class Other(Library):
    """The same scripts in another version."""

    def __init__(self, version: int) -> None:
        super().__init__()
        self.version = version


async def on_server(client: Redis) -> list[Any]:
    version, fingerprint = await client.execute_command("FCALL", "sse_version", 0)
    return [version, fingerprint.decode()]


class TestLoading:
    async def test_an_empty_server_gets_it(self, client: Redis) -> None:
        library = Library()
        loaded = await library.load(client)
        assert (loaded.action, loaded.found) == ("loaded", None)
        assert await on_server(client) == [library.version, library.fingerprint]
        listed = await client.execute_command("FUNCTION", "LIST", "LIBRARYNAME", "sse")
        assert len(listed) == 1

    async def test_a_server_that_has_it_keeps_it(self, client: Redis) -> None:
        await Library().load(client)
        assert (await Library().load(client)).action == "kept"

    async def test_a_newer_version_replaces_it_and_is_never_replaced_by_an_older(self, client: Redis) -> None:
        await Library().load(client)
        newer = Other(library_module.VERSION + 1)
        replaced = await newer.load(client)
        assert (replaced.action, replaced.found) == (
            "replaced",
            (library_module.VERSION, Library().fingerprint),
        )
        for force in (False, True):
            kept = await Library().load(client, force=force)
            assert (kept.action, kept.version) == ("kept", newer.version)
        assert await on_server(client) == [newer.version, newer.fingerprint]

    async def test_other_settings_are_kept_with_a_warning_unless_forced(
        self, client: Redis, caplog: pytest.LogCaptureFixture
    ) -> None:
        theirs, ours = Library(limits=Limits(history_events=500)), Library()
        await theirs.load(client)
        with caplog.at_level(logging.WARNING):
            kept = await ours.load(client)
        assert (kept.action, kept.fingerprint) == ("kept", theirs.fingerprint)
        [warning] = caplog.messages
        assert theirs.fingerprint in warning
        assert "functions load --force" in warning
        forced = await ours.load(client, force=True)
        assert (forced.action, forced.fingerprint) == ("replaced", ours.fingerprint)
        assert forced.found == (theirs.version, theirs.fingerprint)

    async def test_a_namespace_has_a_library_of_its_own(self, client: Redis) -> None:
        for namespace in ("", "blue_", "green_"):
            assert (await Library(namespace).load(client)).action == "loaded"
        assert len(await client.execute_command("FUNCTION", "LIST")) == 3

    async def test_a_stranger_of_the_same_name_is_left_alone(self, client: Redis) -> None:
        await client.execute_command(
            "FUNCTION", "LOAD", "#!lua name=sse\nredis.register_function('x', function() return 1 end)"
        )
        with pytest.raises(GatewayError, match="NAMESPACE") as refused:
            await Library().load(client)
        assert refused.value.code == "library_conflict"
        assert await client.execute_command("FCALL", "x", 0) == 1

    async def test_who_loads_second_in_a_race_finds_what_the_first_loaded(
        self, client: Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        library, looks = Library(), 0
        look = library._installed

        async def look_too_early(client: Redis) -> tuple[int, str] | None:
            nonlocal looks
            looks += 1
            return None if looks == 1 else await look(client)

        await Library().load(client)
        monkeypatch.setattr(library, "_installed", look_too_early)
        loaded = await library.load(client)
        assert (loaded.action, loaded.fingerprint) == ("kept", library.fingerprint)


async def test_the_garbage_of_all_libraries_is_collected(client: Redis) -> None:
    """The library sets the pace, for functions of others too; each part here makes 8 MB and more."""
    await Library().load(client)
    await client.function_load(ANOTHER_LIBRARY)
    small, large = (json.dumps({"type": "x", "data": "y" * size}) for size in (300, 250_000))
    for calls, command in (
        (4000, ("FCALL", "sse_publish", 1, SESSION, small)),
        (40, ("FCALL", "sse_publish", 1, SESSION, large)),
        (2000, ("FCALL", "make_garbage", 0)),
    ):
        memory = []
        for _ in range(calls // 20):
            pipeline = client.pipeline(transaction=False)
            for _ in range(20):
                pipeline.execute_command(*command)
            await pipeline.execute()
            memory.append((await client.info("memory"))["used_memory_vm_functions"])
        assert max(memory) < 4_000_000, command[1]


class TestText:
    def test_it_names_its_library_first(self) -> None:
        assert Library("blue_").text.startswith("#!lua name=blue_sse\n")

    def test_the_fingerprint_changes_with_settings_and_namespace_only(self) -> None:
        prints = {
            Library().fingerprint,
            Library("a").fingerprint,
            Library(limits=Limits(history_events=5)).fingerprint,
        }
        assert len(prints) == 3
        assert Library().fingerprint == Library().fingerprint
        assert all(re.fullmatch("[0-9a-f]{12}", fingerprint) for fingerprint in prints)

    @pytest.mark.parametrize("name", [*SHARED_PARTS, *FUNCTIONS, "run", "register"])
    def test_the_fingerprint_changes_with_every_file(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before, part = Library().fingerprint, library_module._part
        monkeypatch.setattr(library_module, "_part", lambda one: part(one) + "-- changed" * (one == name))
        assert Library().fingerprint != before

    @pytest.mark.parametrize("name", FUNCTIONS)
    def test_every_function_file_says_what_goes_in_and_out(self, name: str) -> None:
        text = library_module._part(name)
        head = text[: text.index("\nfunction" if "\nfunction functions." in text else "\nfunctions[")]
        assert head.startswith(f"-- sse_{name}: ")
        assert re.search(r"^-- KEYS", head, re.MULTILINE)
        assert re.search(r"^-- Returns  ", head, re.MULTILINE)

    @pytest.mark.parametrize("name", [*SHARED_PARTS, *FUNCTIONS, "run", "register"])
    def test_no_file_is_longer_than_one_sitting(self, name: str) -> None:
        assert len(library_module._part(name).splitlines()) <= 300

    def test_every_function_is_registered(self) -> None:
        registered = re.findall(r'^register\("(\w+)"', library_module._part("register"), re.MULTILINE)
        assert sorted(registered) == sorted(FUNCTIONS)

    @pytest.mark.parametrize(
        "limits",
        [
            {"history_events": 0},
            {"history_seconds": 0},
            {"history_bytes": 256 * 1024},
            {"max_event_bytes": 100},
            {"permission_seconds": 82_801},
        ],
        ids=str,
    )
    def test_limits_that_cannot_be_kept_are_refused_by_name(self, limits: dict[str, int]) -> None:
        with pytest.raises(ValueError, match=next(iter(limits))):
            Limits(**limits)

    def test_a_function_nobody_wrote_has_no_text(self) -> None:
        with pytest.raises(ValueError, match="known are publish"):
            Library().eval_text("sse_nothing")


def story(scripts: Scripts) -> list[Any]:
    """Use every function, and return what came back, with what cannot be the same twice left out."""
    told: list[Any] = []

    def call(name: str, *args: Any) -> None:
        try:
            told.append(scripts.call(name, SESSION, *args))
        except Refused as refused:
            told.append((refused.code, refused.sentence))

    decision = '{"request_id":"r-1","outcome":"approved","approved":true}'
    call("status")
    call("read", "", "snapshot", 1000)
    call("publish", '{"type":"tool_status","data":{"tool_call_id":"c"}}', "key", "user-1")
    call("publish", '{"type":"tool_status","data":{"tool_call_id":"c"}}', "key", "user-1")
    call("publish", '{"type":"x","data":1.}')
    call("publish", "{}")
    call("ask", '{"request_id":"r-1","tool_name":"bash","parameters":{"cmd":"ls"}}', "user-1")
    call("ask", '{"request_id":"r-1","tool_name":"bash","parameters":{"cmd":"rm"}}', "")
    call("ask", '{"request_id":"r-2","tool_name":"bash"}', "")
    call("beat", "g-1", 2, 1)
    call("pending")
    call("answer", "r-1", 1, "", "", decision, 0, 1000)
    call("answer", "r-1", 1, "", "", decision, 0, 1000)
    call("claim", "r-1", "w-1")
    call("claim", "r-1", "w-2")
    call("decision", "r-1")
    call("request", "r-1")
    call("cancel", "r-2", "enough")
    call("end")
    call("read", "", "all", 100_000)
    call("read", "0123456789-1", "none", 100_000)
    call("status")
    changing = re.compile(r"[0-9a-f]{10}-(?=\d)|'[0-9a-f]{10}'|\d{4}-\d\d-\d\dT[\d:.]+Z|\b\d{13}\b")
    return [changing.sub("*", repr(reply)) for reply in told]


def test_eval_does_what_the_functions_do(any_server: RedisProcess) -> None:
    by_function = story(Scripts(any_server))
    any_server.flush()
    by_script = story(Scripts(any_server, form="eval"))
    assert any_server.client.execute_command("FUNCTION", "LIST") == []
    assert by_script == by_function
    assert len(by_function) == 22


class TestCall:
    """`Library.call`: what the SDK uses, on any client."""

    async def test_it_loads_the_library_where_it_is_missing(self, client: Redis) -> None:
        library = Library()
        for _ in range(2):
            assert (await library.call(client, "publish", SESSION, '{"type":"x"}')).endswith(b"-1")
            await client.flushall()
            await client.execute_command("FUNCTION", "FLUSH")
        assert not library.by_eval

    async def test_a_user_who_may_not_load_gets_the_same_code_by_eval(
        self, client: Redis, any_server: RedisProcess
    ) -> None:
        await client.execute_command(
            "ACL", "SETUSER", "agent", "reset", "on", ">secret", "~*", "&*", "+@all", "-function"
        )
        async with any_server.connect(username="agent", password="secret") as agent:
            library = Library()
            for _ in range(2):
                await library.call(agent, "publish", SESSION, '{"type":"x"}')
                await client.execute_command("SCRIPT", "FLUSH")
            assert library.by_eval
        assert await client.execute_command("FUNCTION", "LIST") == []
        assert await client.xlen("sse:{s-1}:history") == 2

    async def test_a_refusal_is_redis_own_error(self, client: Redis) -> None:
        with pytest.raises(redis.exceptions.ResponseError, match=r"^SSE_NO_TYPE "):
            await Library().call(client, "publish", SESSION, "{}")


class TestFullServer:
    """A server at its maxmemory that evicts nothing."""

    @pytest.fixture(params=["fcall", "eval"])
    def scripts(self, request: pytest.FixtureRequest, any_own_server: RedisProcess) -> Scripts:
        return Scripts(any_own_server, form=request.param)

    def test_what_a_human_answers_gets_through_where_publishing_does_not(self, scripts: Scripts) -> None:
        for name in ("r-1", "r-2"):
            scripts.ask(SESSION, request_id=name)
        top = scripts.read(SESSION)["top"]
        scripts.client.config_set("maxmemory", "1mb")
        for refused in (lambda: scripts.publish(SESSION, {"type": "x"}), lambda: scripts.ask(SESSION)):
            with pytest.raises((Refused, redis.exceptions.OutOfMemoryError)):
                refused()
        assert scripts.read(SESSION)["top"] == top
        assert scripts.answer(SESSION, "r-1")[0] == "won"
        assert scripts.call("claim", SESSION, "r-1", "w") == 1
        assert scripts.standing("cancel", SESSION, "r-2")["status"] == "decided"
        assert scripts.read(SESSION)["pending"] == []
