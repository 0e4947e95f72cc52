"""The epoch rules: what a restart, a failover or a lost meta does to the numbering and to cursors."""

from __future__ import annotations

import re
import time

import pytest

from tests.store.scripts import Scripts
from tests.support.servers import RedisProcess
from tests.support.topologies import ReplicaPair

SESSION = "s-1"
CACHED_SECONDS = 0.12
"""A little longer than the script may remember which server it runs on."""


def publish(scripts: Scripts, count: int) -> tuple[str, int]:
    """Publish events and return the last one's epoch and seq."""
    for _ in range(count):
        event_id = scripts.publish(SESSION, {"type": "x"})
    epoch, _, seq = event_id.partition("-")
    return epoch, int(seq)


def verdict(scripts: Scripts, epoch: str, seq: int) -> str:
    reading = scripts.read(SESSION, f"{epoch}-{seq}")
    if reading["verdict"] == "ok":
        assert reading["seqs"] == list(range(seq + 1, reading["top"] + 1)), "honoured means whole"
    return str(reading["verdict"])


def test_an_epoch_is_ten_hex_digits_and_never_the_same_twice(scripts: Scripts) -> None:
    epochs = set()
    for number in range(200):
        epochs.add(scripts.read(f"other-{number}")["epoch"])
        scripts.client.delete(scripts.keys.meta(SESSION))
        epochs.add(scripts.read(SESSION)["epoch"])
    assert len(epochs) == 400
    assert all(re.fullmatch("[0-9a-f]{10}", epoch) for epoch in epochs)


def test_without_meta_a_new_epoch_begins_at_zero_and_old_entries_go(scripts: Scripts) -> None:
    scripts.publish(SESSION, {"type": "tool_status", "data": {}})
    epoch, _ = publish(scripts, 3)
    scripts.client.delete(scripts.keys.meta(SESSION))
    assert verdict(scripts, epoch, 4) == "epoch"
    new_epoch, seq = publish(scripts, 1)
    assert (new_epoch != epoch, seq) == (True, 1)
    assert len(scripts.events(SESSION)) == 1
    assert scripts.read(SESSION)["state"] == []


def test_requests_that_outlive_a_lost_meta_are_still_settled(scripts: Scripts) -> None:
    scripts.ask(SESSION, request_id="soon")
    scripts.ask(SESSION, request_id="later")
    scripts.make_due(SESSION, "soon")
    scripts.client.delete(scripts.keys.meta(SESSION))
    assert [request_id for request_id, *_ in scripts.read(SESSION)["pending"]] == ["later"]
    assert scripts.standing("decision", SESSION, "soon")["decision"]["outcome"] == "expired"


def test_a_history_ahead_of_its_seq_begins_a_new_epoch_instead_of_refusing(scripts: Scripts) -> None:
    epoch, seq = publish(scripts, 3)
    scripts.client.xadd(scripts.keys.history(SESSION), {"d": "{}", "b": "1"}, id="9-0")
    assert scripts.read(SESSION, f"{epoch}-{seq}")["entries"] == [], "what seq does not cover is not shown"
    new_epoch, new_seq = publish(scripts, 1)
    assert (new_epoch != epoch, new_seq) == (True, seq + 1)
    assert verdict(scripts, epoch, seq) == "epoch"
    assert verdict(scripts, new_epoch, seq) == "ok"


class TestRestart:
    """A server that comes back has another replication id."""

    @pytest.fixture
    def scripts(self, any_own_server: RedisProcess) -> Scripts:
        """Functions on a server that is killed; they are in its dump, as the data is."""
        return Scripts(any_own_server)

    def test_empty_it_knows_no_old_cursor(self, scripts: Scripts) -> None:
        epoch, seq = publish(scripts, 3)
        scripts.server.restart(empty=True)
        scripts = Scripts(scripts.server)
        assert verdict(scripts, epoch, seq) == "epoch"
        assert publish(scripts, 1)[1] == 1

    def test_with_everything_it_honours_every_cursor_and_numbers_go_on(self, scripts: Scripts) -> None:
        epoch, seq = publish(scripts, 5)
        scripts.server.save()
        scripts.server.restart()
        for before in range(seq + 1):
            assert verdict(scripts, epoch, before) == "ok"
        assert verdict(scripts, epoch, seq + 1) == "rolled_back"
        new_epoch, new_seq = publish(scripts, 1)
        assert (new_epoch != epoch, new_seq) == (True, 6)
        assert verdict(scripts, epoch, 4) == "ok"
        assert verdict(scripts, epoch, 6) == "rolled_back", "the old epoch never had an event 6"

    def test_from_an_older_dump_it_tells_those_who_saw_more(self, scripts: Scripts) -> None:
        publish(scripts, 3)
        scripts.server.save()
        epoch, seq = publish(scripts, 2)
        scripts.server.restart()
        new_epoch, _ = publish(scripts, 4)
        assert new_epoch != epoch
        assert verdict(scripts, epoch, 3) == "ok"
        assert [verdict(scripts, epoch, seen) for seen in (4, seq)] == ["rolled_back"] * 2
        assert verdict(scripts, new_epoch, 7) == "ok"

    def test_two_restarts_leave_only_the_last_epoch_but_one(self, scripts: Scripts) -> None:
        first, _ = publish(scripts, 1)
        scripts.server.save()
        scripts.server.restart()
        second, _ = publish(scripts, 1)
        scripts.server.save()
        scripts.server.restart()
        third, _ = publish(scripts, 1)
        assert [verdict(scripts, epoch, 1) for epoch in (first, second, third)] == ["epoch", "ok", "ok"]

    def test_a_restart_between_two_uses_changes_the_epoch_once(self, scripts: Scripts) -> None:
        epoch, seq = publish(scripts, 1)
        for _ in range(3):
            scripts.server.save()
            scripts.server.restart()
        assert verdict(scripts, epoch, seq) == "ok"

    def test_requests_and_decisions_survive(self, scripts: Scripts) -> None:
        scripts.ask(SESSION, request_id="open", parameters={"a": 1})
        scripts.ask(SESSION, request_id="settled")
        scripts.answer(SESSION, "settled")
        scripts.server.save()
        scripts.server.restart()
        assert scripts.ask(SESSION, request_id="open", parameters={"a": 1})["status"] == "pending"
        assert scripts.ask(SESSION, request_id="settled")["decision"]["outcome"] == "approved"
        assert scripts.answer(SESSION, "open")[0] == "won"


class TestFailover:
    """A replica becomes the primary, with or without the last writes."""

    @pytest.fixture(params=["valkey", "redis"])
    def pair(self, request: pytest.FixtureRequest) -> object:
        request.getfixturevalue(f"{request.param}_process")
        with ReplicaPair(request.param) as pair:
            yield pair

    def test_one_that_lost_nothing_resumes_everyone(self, pair: ReplicaPair) -> None:
        epoch, seq = publish(Scripts(pair.primary), 5)
        pair.in_step()
        pair.primary.kill()
        pair.promote()
        scripts = Scripts(pair.primary, load=False)
        assert [verdict(scripts, epoch, seen) for seen in range(seq + 1)] == ["ok"] * 6
        new_epoch, new_seq = publish(scripts, 2)
        assert (new_epoch != epoch, new_seq) == (True, seq + 2)
        assert [verdict(scripts, epoch, seen) for seen in range(seq + 1)] == ["ok"] * 6

    def test_one_that_lost_writes_tells_those_it_hit(self, pair: ReplicaPair) -> None:
        scripts = Scripts(pair.primary)
        publish(scripts, 3)
        pair.in_step()
        pair.cut()
        epoch, seq = publish(scripts, 2)
        pair.primary.kill()
        pair.promote()
        scripts = Scripts(pair.primary, load=False)
        assert [verdict(scripts, epoch, seen) for seen in (3, 4, seq)] == ["ok", "rolled_back", "rolled_back"]
        publish(scripts, 4)
        assert [verdict(scripts, epoch, seen) for seen in (3, 4, seq)] == ["ok", "rolled_back", "rolled_back"]

    def test_a_failback_that_loses_writes_is_noticed_by_a_server_that_never_stopped(
        self, pair: ReplicaPair
    ) -> None:
        # A writes, B takes over and writes, A takes over again without what B wrote last: A's process, and
        # what its scripts remember, lived through all of it.
        publish(Scripts(pair.primary), 3)
        pair.in_step()
        first = pair.primary
        pair.promote()
        epoch, seq = publish(Scripts(pair.primary, load=False), 1)
        pair.rejoin()
        pair.in_step()
        pair.cut()
        lost_epoch, lost = publish(Scripts(pair.primary, load=False), 2)
        assert (lost_epoch, lost) == (epoch, seq + 2)
        pair.promote()
        assert pair.primary is first
        time.sleep(CACHED_SECONDS)
        scripts = Scripts(first, load=False)
        new_epoch, new_seq = publish(scripts, 3)
        assert (new_epoch != epoch, new_seq) == (True, seq + 3)
        assert [verdict(scripts, epoch, seen) for seen in (seq, seq + 1, seq + 2)] == [
            "ok",
            "rolled_back",
            "rolled_back",
        ]


def test_which_server_it_is_is_remembered_for_a_tenth_of_a_second(scripts: Scripts) -> None:
    scripts.client.config_resetstat()
    until = time.monotonic() + 0.35
    calls = 0
    while time.monotonic() < until:
        scripts.publish(SESSION, {"type": "x"})
        calls += 1
    asked = scripts.client.info("commandstats")["cmdstat_info"]["calls"]
    assert 3 <= asked <= 5
    assert calls > 2 * asked
