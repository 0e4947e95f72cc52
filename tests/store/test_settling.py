"""The ways out of "pending": each happens once, and tells the agent, the tabs and the history the same."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from tests.store.scripts import Refused, Scripts

SESSION = "s-1"


def answer(scripts: Scripts) -> Any:
    return scripts.answer(SESSION, "r")[1]


def deny(scripts: Scripts) -> Any:
    return scripts.answer(SESSION, "r", approved=False, reason="no")[1]


def cancel(scripts: Scripts) -> Any:
    return scripts.standing("cancel", SESSION, "r", "given up")["decision"]


def expire(scripts: Scripts) -> Any:
    scripts.make_due(SESSION, "r")
    return scripts.standing("decision", SESSION, "r")["decision"]


def end(scripts: Scripts) -> Any:
    assert scripts.call("end", SESSION, "all over") == 1
    return scripts.standing("decision", SESSION, "r")["decision"]


EXITS: dict[str, tuple[Callable[[Scripts], Any], str, str]] = {
    "approve": (answer, "approved", "approved"),
    "deny": (deny, "denied", "denied"),
    "cancel": (cancel, "cancelled", "cancelled"),
    "expire": (expire, "expired", "expired"),
    "end": (end, "cancelled", "cancelled"),
}


@pytest.fixture(params=EXITS)
def way_out(request: pytest.FixtureRequest) -> tuple[Callable[[Scripts], Any], str, str]:
    return EXITS[request.param]


def test_every_exit_tells_agent_tabs_and_history_the_same_decision_once(
    scripts: Scripts, way_out: tuple[Callable[[Scripts], Any], str, str]
) -> None:
    leave, outcome, state = way_out
    scripts.ask(SESSION, request_id="r", args_digest="sha256:ab")
    with scripts.client.pubsub() as listener:
        listener.subscribe(scripts.keys.answers_channel(SESSION), scripts.keys.events_channel(SESSION))
        for _ in range(2):
            listener.get_message(timeout=5)
        decision = leave(scripts)
        messages = [listener.get_message(timeout=2) for _ in range(2)]
        end_of_session = listener.get_message(timeout=0.5) if leave is end else None
        assert listener.get_message(timeout=0.05) is None
    assert decision["outcome"] == outcome
    assert decision["decided_at"].endswith("Z")
    # The agent, by its stream and by its channel.
    [(_, fields)] = scripts.client.xrange(scripts.keys.answers_stream(SESSION))
    assert (fields["request_id"], fields["outcome"]) == ("r", outcome)
    assert json.loads(fields["decision"]) == decision
    told = {message["channel"]: json.loads(message["data"]) for message in messages}
    assert told[scripts.keys.answers_channel(SESSION)] == decision
    # The tabs and the history.
    cleared = scripts.events(SESSION)[-1]
    assert told[scripts.keys.events_channel(SESSION)] == cleared
    assert cleared["type"] == "permission_cleared"
    assert cleared["data"].pop("message").endswith(".")
    assert cleared["data"] == decision
    # Whoever asks later.
    stored_state, _, _, _, stored, worker, _ = scripts.call("request", SESSION, "r")
    assert (stored_state, json.loads(stored), worker) == (state, decision, "")
    _, settled_ms, settled_id, pending, recent = scripts.call("pending", SESSION)
    assert (settled_id, pending, recent[:2]) == ("r", [], ["r", state])
    assert settled_ms > 0
    assert scripts.read(SESSION)["pending"] == []
    if leave is end:
        assert json.loads(end_of_session["data"]) == {"control": "session_ended", "session_id": SESSION}


def test_a_settled_request_stays_settled_whatever_comes_later(
    scripts: Scripts, way_out: tuple[Callable[[Scripts], Any], str, str]
) -> None:
    leave, _, state = way_out
    scripts.ask(SESSION, request_id="r")
    decision = leave(scripts)
    events = len(scripts.events(SESSION))
    for later in (deny, answer, cancel, expire):
        assert later(scripts) == decision
    assert scripts.call("end", SESSION) == 0
    assert scripts.call("request", SESSION, "r")[0] == state
    assert len(scripts.events(SESSION)) == events
    assert scripts.client.xlen(scripts.keys.answers_stream(SESSION)) == 1


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ({}, {}, "replayed"),
        ({"option_id": "once", "digest": "d"}, {"option_id": "once", "digest": "d"}, "replayed"),
        ({}, {"reason": "worded anew"}, "replayed"),
        ({}, {"approved": False}, "lost"),
        ({}, {"option_id": "once"}, "lost"),
        ({"option_id": "once"}, {"option_id": "always"}, "lost"),
        ({"digest": "d"}, {"digest": "e"}, "lost"),
        ({"digest": "d"}, {}, "lost"),
    ],
    ids=str,
)
def test_the_same_answer_again_is_replayed_and_another_is_told_the_winner(
    scripts: Scripts, first: dict[str, Any], second: dict[str, Any], verdict: str
) -> None:
    scripts.ask(SESSION, request_id="other")
    scripts.ask(SESSION, request_id="r")
    won, decision, pending = scripts.answer(SESSION, "r", **first)
    assert (won, pending) == ("won", ["other"])
    assert scripts.answer(SESSION, "r", **second) == (verdict, decision, ["other"])


def test_the_decision_reaches_the_agent_as_it_was_composed(scripts: Scripts) -> None:
    scripts.ask(SESSION, request_id="r")
    composed = {
        "request_id": "r", "outcome": "approved", "approved": True, "reason": "Grüße \u2028 😀",
        "option_id": "once", "option_kind": "allow_once", "updated_input": {"cmd": [], "n": 9007199254740993},
        "args_digest": None, "decided_by": "user-1", "client_id": "tab", "source": "human",
    }  # fmt: skip
    scripts.answer(SESSION, "r", decision=composed)
    [(_, fields)] = scripts.client.xrange(scripts.keys.answers_stream(SESSION))
    reached = json.loads(fields["decision"])
    assert reached.pop("decided_at")
    assert reached == composed


def test_a_decision_without_a_human_has_every_member_of_one_with(scripts: Scripts) -> None:
    scripts.ask(SESSION, request_id="r", args_digest="sha256:ab")
    decision = scripts.standing("cancel", SESSION, "r", 'a "reason"\n')["decision"]
    assert decision.pop("decided_at")
    assert decision == {
        "request_id": "r", "outcome": "cancelled", "approved": False, "reason": 'a "reason"\n',
        "option_id": None, "option_kind": None, "updated_input": None, "args_digest": "sha256:ab",
        "decided_by": None, "client_id": None, "source": "cancel",
    }  # fmt: skip


def test_an_expiry_is_told_from_a_denial(scripts: Scripts) -> None:
    scripts.ask(SESSION, request_id="r")
    scripts.make_due(SESSION, "r")
    decision = scripts.standing("decision", SESSION, "r")["decision"]
    assert (decision["outcome"], decision["source"], decision["approved"]) == ("expired", "timeout", False)
    assert decision["args_digest"] is None, "the agent gave none"


@pytest.mark.parametrize(
    "touch", ["read", "pending", "status", "request", "decision", "ask", "answer", "claim", "cancel", "end"]
)
def test_whoever_touches_the_session_first_settles_what_is_due(scripts: Scripts, touch: str) -> None:
    scripts.ask(SESSION, request_id="r")
    scripts.ask(SESSION, request_id="later")
    scripts.call("status", SESSION)
    assert len(scripts.events(SESSION)) == 2
    scripts.make_due(SESSION, "r")
    match touch:
        case "ask":
            scripts.ask(SESSION, request_id="r")
        case "answer":
            assert scripts.answer(SESSION, "r")[0] == "expired"
        case "claim":
            assert scripts.call("claim", SESSION, "r", "w") == 0
        case "read":
            reading = scripts.read(SESSION, mode="all")
            assert reading["entries"][-1]["type"] == "permission_cleared"
            assert [request_id for request_id, *_ in reading["pending"]] == ["later"]
        case "status":
            assert scripts.call("status", SESSION)[4] == 1
        case "pending" | "end":
            scripts.call(touch, SESSION)
        case _:
            scripts.call(touch, SESSION, "r")
    assert scripts.call("request", SESSION, "r")[0] == "expired"
    outcomes = [event["data"]["outcome"] for event in scripts.events(SESSION)[2:]]
    assert outcomes == ["expired"] + ["cancelled"] * (touch == "end")


def test_a_deadline_is_kept_when_a_nearer_one_has_passed(scripts: Scripts) -> None:
    for name, seconds in [("c", 0.6), ("a", 0.2), ("b", 0.4)]:
        scripts.ask(SESSION, request_id=name, expires_in=seconds)
    seen = []
    until = time.monotonic() + 0.8
    while time.monotonic() < until:
        open_now = [request_id for request_id, *_ in scripts.read(SESSION)["pending"]]
        if not seen or open_now != seen[-1]:
            seen.append(open_now)
    assert seen == [["c", "a", "b"], ["c", "b"], ["c"], []]


class TestClaim:
    """A decision is claimed by one worker, and by it as often as it asks."""

    @pytest.mark.parametrize("approved", [True, False])
    def test_the_first_worker_has_it_and_has_it_again(self, scripts: Scripts, approved: bool) -> None:
        scripts.ask(SESSION, request_id="r")
        assert scripts.call("claim", SESSION, "r", "w-1") == 0, "nothing is decided yet"
        scripts.answer(SESSION, "r", approved=approved)
        claims = [scripts.call("claim", SESSION, "r", worker) for worker in ("w-1", "w-2", "w-1", "w-2")]
        assert claims == [1, 0, 1, 0]
        state, *_, worker, _ = scripts.call("request", SESSION, "r")
        assert (state, worker) == ("consumed", "w-1")

    @pytest.mark.parametrize("leave", [cancel, expire])
    def test_what_nobody_approved_cannot_be_claimed(
        self, scripts: Scripts, leave: Callable[[Scripts], Any]
    ) -> None:
        scripts.ask(SESSION, request_id="r")
        leave(scripts)
        assert scripts.call("claim", SESSION, "r", "w") == 0

    def test_after_the_claim_even_the_same_answer_has_lost(self, scripts: Scripts) -> None:
        scripts.ask(SESSION, request_id="r")
        scripts.answer(SESSION, "r")
        scripts.call("claim", SESSION, "r", "w")
        assert scripts.answer(SESSION, "r")[0] == "lost"
        assert scripts.answer(SESSION, "r", approved=False)[0] == "lost"

    @pytest.mark.parametrize("worker", ["", "w" * 257])
    def test_a_worker_has_a_name(self, scripts: Scripts, worker: str) -> None:
        with pytest.raises(Refused) as refused:
            scripts.call("claim", SESSION, "r", worker)
        assert refused.value.code == "SSE_BAD_REQUEST"


class TestCancel:
    def test_only_without_a_viewer_if_so_asked(self, scripts: Scripts) -> None:
        scripts.ask(SESSION, request_id="r")
        scripts.call("beat", SESSION, "g-1", 2, 1)
        assert scripts.standing("cancel", SESSION, "r", "", "no_viewer")["status"] == "pending"
        scripts.call("beat", SESSION, "g-1", 2, 0)
        decision = scripts.standing("cancel", SESSION, "r", "", "no_viewer")["decision"]
        assert (decision["outcome"], decision["source"], decision["reason"]) == (
            "cancelled",
            "cancel",
            "no_viewer",
        )

    def test_it_has_a_reason_even_if_none_is_given(self, scripts: Scripts) -> None:
        scripts.ask(SESSION, request_id="r")
        assert scripts.standing("cancel", SESSION, "r")["decision"]["reason"] == "cancelled"

    @pytest.mark.parametrize("arguments", [("x" * 2001,), ("", "perhaps")])
    def test_malformed_arguments_are_refused(self, scripts: Scripts, arguments: tuple[str, ...]) -> None:
        scripts.ask(SESSION, request_id="r")
        with pytest.raises(Refused) as refused:
            scripts.call("cancel", SESSION, "r", *arguments)
        assert refused.value.code == "SSE_BAD_REQUEST"
        assert scripts.standing("decision", SESSION, "r")["status"] == "pending"


class TestEnd:
    def test_it_cancels_what_is_open_in_the_order_asked(self, scripts: Scripts) -> None:
        for name in "bac":
            scripts.ask(SESSION, request_id=name)
        scripts.answer(SESSION, "a")
        assert scripts.call("end", SESSION) == 2
        cleared = [event["data"] for event in scripts.events(SESSION)[4:]]
        assert [(data["request_id"], data["reason"]) for data in cleared] == [
            ("b", "session_ended"),
            ("c", "session_ended"),
        ]
        assert scripts.call("pending", SESSION)[4][::3] == ["c", "b", "a"], "the newest first"
        assert scripts.call("status", SESSION)[3:5] == ["1", 0]

    def test_it_can_be_said_of_a_session_that_never_began(self, scripts: Scripts) -> None:
        assert scripts.call("end", SESSION) == 0
        assert scripts.read(SESSION)["ended"] == "1"


@pytest.mark.parametrize(
    "spoilt",
    [
        {"decision": {"request_id": "q", "outcome": "approved", "approved": True}},
        {"decision": {"request_id": "r", "outcome": "denied", "approved": True}},
        {"decision": {"request_id": "r", "outcome": "approved", "approved": False}},
        {"decision": {"request_id": "r", "outcome": "approved", "approved": True, "decided_at": "now"}},
        {"decision": []},
        {"decision": "approved"},
        {"args_digest": "sha256:of something else"},
        {"reason": "x" * 256 * 1024},
    ],
    ids=lambda spoilt: str(spoilt)[:60],
)
def test_an_answer_that_contradicts_itself_is_refused_and_the_request_stays_pending(
    scripts: Scripts, spoilt: dict[str, Any]
) -> None:
    scripts.ask(SESSION, request_id="r", args_digest="sha256:ab")
    with pytest.raises(Refused) as refused:
        scripts.answer(SESSION, "r", **spoilt)
    assert refused.value.code in {
        "SSE_BAD_REQUEST",
        "SSE_NOT_AN_OBJECT",
        "SSE_REQUEST_MISMATCH",
        "SSE_TOO_LARGE",
    }
    assert scripts.standing("decision", SESSION, "r")["status"] == "pending"


def test_an_answer_to_nothing_is_never_kept(scripts: Scripts) -> None:
    assert scripts.answer(SESSION, "r") == ("unknown", None, [])
    assert scripts.ask(SESSION, request_id="r")["status"] == "pending"
    assert scripts.client.exists(scripts.keys.answers_stream(SESSION)) == 0


def test_the_recent_decisions_are_the_newest_fifty_first(scripts: Scripts) -> None:
    for number in range(60):
        scripts.ask(SESSION, request_id=f"r-{number:02}")
        scripts.answer(SESSION, f"r-{number:02}", approved=number % 2 == 0)
    *_, recent = scripts.call("pending", SESSION)
    assert recent[::3] == [f"r-{number:02}" for number in range(59, 9, -1)]
    assert recent[1:4:3] == ["denied"]
    assert json.loads(recent[2])["request_id"] == "r-59"


def test_the_open_requests_come_with_their_times_in_the_order_asked(scripts: Scripts) -> None:
    for name in "ba":
        scripts.ask(SESSION, request_id=name, parameters={"cmd": [name]}, expires_in=60)
    now, _, _, pending, _ = scripts.call("pending", SESSION)
    assert pending[::5] == ["b", "a"]
    for at, name in enumerate("ba"):
        _, request, asked, expires, seq = pending[5 * at : 5 * at + 5]
        assert json.loads(request)["parameters"] == {"cmd": [name]}
        assert expires - asked == 60_000
        assert now - 5_000 < asked <= now
        assert seq == at + 1


def test_of_many_answers_at_once_one_wins_and_the_others_are_told(scripts: Scripts) -> None:
    for round_ in range(20):
        request_id = f"r-{round_}"
        scripts.ask(SESSION, request_id=request_id)
        verdicts: list[tuple[str, Any]] = []

        def click(approved: bool, name: str = request_id, told: list[tuple[str, Any]] = verdicts) -> None:
            with redis.Redis(port=scripts.server.port, decode_responses=True) as client:
                decision = {
                    "request_id": name,
                    "outcome": "approved" if approved else "denied",
                    "approved": approved,
                }
                reply = scripts.call(
                    "answer", SESSION, name, int(approved), "", "", json.dumps(decision), 0, 0, client=client
                )
                told.append((reply[0], json.loads(reply[1])["approved"]))

        threads = [threading.Thread(target=click, args=(number % 2 == 0,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(verdict for verdict, _ in verdicts) == ["lost"] * 4 + ["replayed"] * 3 + ["won"]
        assert len({winner for _, winner in verdicts}) == 1
    assert scripts.client.xlen(scripts.keys.answers_stream(SESSION)) == 20
