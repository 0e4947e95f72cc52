"""A permission's life against a model: whatever happens in whatever order, one decision, told to all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.store.scripts import Refused, Scripts
from tests.support.modes import scaled
from tests.support.servers import RedisProcess

SESSION = "s-1"
names = st.sampled_from(["a", "b", "c", "d"])
workers = st.sampled_from(["w-1", "w-2"])
arguments = st.sampled_from(["ls", "rm"])
options = st.sampled_from(["", "once", "always"])


@dataclass
class Modelled:
    """What the model knows of one request."""

    command: str
    state: str = "pending"
    answer: tuple[bool, str] | None = None
    outcome: str = ""
    worker: str = ""


@dataclass
class Model:
    requests: dict[str, Modelled] = field(default_factory=dict)
    """In the order asked."""
    settled: list[tuple[str, str]] = field(default_factory=list)
    """Name and outcome, in the order settled."""
    just_settled: bool = False
    """The last of them less than two seconds ago."""

    @property
    def pending(self) -> list[str]:
        return [name for name, request in self.requests.items() if request.state == "pending"]

    def settle(self, name: str, outcome: str, answer: tuple[bool, str] | None = None) -> None:
        request = self.requests[name]
        request.state = request.outcome = outcome
        request.answer = answer
        self.settled.append((name, outcome))
        self.just_settled = True

    def verdict(self, name: str, answer: tuple[bool, str], *, implicit: bool) -> str:
        """Return how one more answer to a settled request is met."""
        request = self.requests[name]
        if request.state == "expired":
            return "expired"
        if request.state == "consumed" and not implicit:
            return "lost"
        return "replayed" if request.answer == answer else "lost"


class PermissionMachine(RuleBasedStateMachine):
    """Drive the scripts and the model side by side."""

    server: RedisProcess

    def __init__(self) -> None:
        super().__init__()
        self.server.flush()
        self.scripts = Scripts(self.server)
        self.model = Model()
        self.restarts = 0

    @rule(name=names, command=arguments)
    def ask(self, name: str, command: str) -> None:
        known = self.model.requests.setdefault(name, Modelled(command))
        if known.command == command:
            self.check_standing(name, self.scripts.ask(SESSION, request_id=name, parameters={"cmd": command}))
        else:
            with pytest.raises(Refused, match="SSE_REQUEST_MISMATCH"):
                self.scripts.ask(SESSION, request_id=name, parameters={"cmd": command})

    @rule(name=names, approved=st.booleans(), option=options)
    def answer(self, name: str, approved: bool, option: str) -> None:
        verdict, decision, pending = self.scripts.answer(SESSION, name, approved=approved, option_id=option)
        request = self.model.requests.get(name)
        if request is None:
            expected = "unknown"
        elif request.state == "pending":
            expected = "won"
            self.model.settle(name, "approved" if approved else "denied", (approved, option))
        else:
            expected = self.model.verdict(name, (approved, option), implicit=False)
        assert verdict == expected
        assert pending == self.model.pending
        assert (decision is None) == (verdict == "unknown")
        if request is not None:
            assert decision["outcome"] == request.outcome

    @rule(approved=st.booleans(), option=options, stale=st.booleans())
    def click(self, approved: bool, option: str, stale: bool) -> None:
        """Answer without an id, having looked just now or before the last request was asked."""
        if self.model.just_settled:
            self.age_settlements(0)
        pending = self.model.pending
        seen = "" if stale or len(pending) != 1 else pending[0]
        verdict, decision, still = self.scripts.answer(
            SESSION, seen, approved=approved, option_id=option, implicit=True, decision=None if seen else {}
        )
        answered = None
        if self.model.just_settled:
            answered, _ = self.model.settled[-1]
            expected = self.model.verdict(answered, (approved, option), implicit=True)
        elif len(pending) != 1:
            expected = "ambiguous" if pending else "none"
        elif not seen:
            expected = "too_new"
        else:
            answered, expected = seen, "won"
            self.model.settle(seen, "approved" if approved else "denied", (approved, option))
        assert verdict == expected
        assert still == self.model.pending
        if answered:
            assert decision["request_id"] == answered
            assert decision["outcome"] == self.model.requests[answered].outcome

    @rule(name=names)
    def expire(self, name: str) -> None:
        request = self.model.requests.get(name)
        if request is None or request.state != "pending":
            return
        self.scripts.make_due(SESSION, name)
        self.scripts.read(SESSION)
        self.model.settle(name, "expired")

    @rule(name=names, watched=st.booleans(), conditional=st.booleans())
    def cancel(self, name: str, watched: bool, conditional: bool) -> None:
        self.scripts.call("beat", SESSION, "g-1", 1, int(watched))
        request = self.model.requests.get(name)
        call = ("cancel", SESSION, name, "", "no_viewer" if conditional else "")
        if request is None:
            with pytest.raises(Refused, match="SSE_UNKNOWN_REQUEST"):
                self.scripts.call(*call)
            return
        if request.state == "pending" and not (watched and conditional):
            self.model.settle(name, "cancelled")
        self.check_standing(name, self.scripts.standing(*call))

    @rule(name=names, worker=workers)
    def claim(self, name: str, worker: str) -> None:
        request = self.model.requests.get(name)
        if request is None:
            with pytest.raises(Refused, match="SSE_UNKNOWN_REQUEST"):
                self.scripts.call("claim", SESSION, name, worker)
            return
        if request.state in ("approved", "denied"):
            request.state, request.worker = "consumed", worker
        mine = request.state == "consumed" and request.worker == worker
        assert self.scripts.call("claim", SESSION, name, worker) == int(mine)

    @rule()
    def end(self) -> None:
        pending = self.model.pending
        for name in pending:
            self.model.settle(name, "cancelled")
        assert self.scripts.call("end", SESSION) == len(pending)

    @rule()
    def time_passes(self) -> None:
        """Let what was settled be settled two seconds ago."""
        if self.model.settled:
            self.age_settlements(2001)
            assert self.scripts.call("pending", SESSION)[2] == self.model.settled[-1][0]
        self.model.just_settled = False

    def age_settlements(self, milliseconds: int) -> None:
        """Make the last settlement this old, and the others with it, so that their order stays."""
        settled = self.scripts.keys.session_key(SESSION) + ":settled"
        scores = dict(self.scripts.client.zrange(settled, 0, -1, withscores=True))
        seconds, micros = self.scripts.client.time()
        shift = seconds * 1000 + micros // 1000 - milliseconds - max(scores.values())
        self.scripts.client.zadd(settled, {name: score + shift for name, score in scores.items()})

    @precondition(lambda self: self.model.requests and self.restarts < 3)
    @rule()
    def restart(self) -> None:
        """Kill the server and start it from what it saved a moment ago."""
        self.restarts += 1
        self.server.save()
        self.server.restart()

    def check_standing(self, name: str, reply: dict[str, Any]) -> None:
        request = self.model.requests[name]
        if request.state == "pending":
            assert (reply["status"], reply["request_id"]) == ("pending", name)
        else:
            assert reply["decision"]["outcome"] == request.outcome

    @invariant()
    def all_are_told_the_same(self) -> None:
        answers = self.scripts.client.xrange(self.scripts.keys.answers_stream(SESSION))
        assert [(fields["request_id"], fields["outcome"]) for _, fields in answers] == self.model.settled
        cleared = [
            event["data"] for event in self.scripts.events(SESSION) if event["type"] == "permission_cleared"
        ]
        told = [json.loads(fields["decision"]) for _, fields in answers]
        assert [{name: data[name] for name in data if name != "message"} for data in cleared] == told
        reading = self.scripts.read(SESSION)
        assert [name for name, *_ in reading["pending"]] == self.model.pending
        for name, request in self.model.requests.items():
            state, *_, worker, _ = self.scripts.call("request", SESSION, name)
            assert (state, worker) == (request.state, request.worker)


@pytest.fixture
def server(any_own_server: RedisProcess) -> Iterator[RedisProcess]:
    PermissionMachine.server = any_own_server
    yield any_own_server
    del PermissionMachine.server


@pytest.mark.scaled
@pytest.mark.timeout(600)
def test_every_order_of_events_leaves_one_decision_that_all_agree_on(server: RedisProcess) -> None:
    run_state_machine_as_test(
        PermissionMachine,
        settings=settings(
            max_examples=scaled(10, 100),
            stateful_step_count=scaled(20, 40),
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
