"""Answers of old clients, which name no request: related to exactly one, or to none."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.store.scripts import Refused, Scripts

SESSION = "s-1"
JUST_SETTLED_SECONDS = 2


def click(scripts: Scripts, seen: str, **options: Any) -> tuple[str, Any, list[str]]:
    """Answer without an id, `seen` being the only request that the caller saw open."""
    decision = None
    if not seen:
        decision = {}
    return scripts.answer(SESSION, seen, implicit=True, decision=decision, **options)


def let_settled_rest(scripts: Scripts, request_id: str) -> None:
    """Make a settled request look settled long enough ago."""
    settled = scripts.keys.session_key(SESSION) + ":settled"
    scripts.client.zincrby(settled, -JUST_SETTLED_SECONDS * 1000, request_id)


def make_old(scripts: Scripts, request_id: str) -> None:
    """Make an open request look asked a second ago."""
    scripts.client.hincrby(scripts.keys.permissions(SESSION), f"asked:{request_id}", -1000)


def test_the_only_open_request_is_meant(scripts: Scripts) -> None:
    scripts.ask(SESSION, request_id="r")
    verdict, decision, pending = click(scripts, "r")
    assert (verdict, decision["request_id"], pending) == ("won", "r", [])


def test_nothing_open_is_answered_and_nothing_is_kept_for_later(scripts: Scripts) -> None:
    assert click(scripts, "") == ("none", None, [])
    scripts.ask(SESSION, request_id="r")
    assert scripts.standing("decision", SESSION, "r")["status"] == "pending"


def test_of_several_never_one_is_taken(scripts: Scripts) -> None:
    for name in ("r-1", "r-2"):
        scripts.ask(SESSION, request_id=name)
    assert click(scripts, "r-1") == ("ambiguous", None, ["r-1", "r-2"])
    assert click(scripts, "") == ("ambiguous", None, ["r-1", "r-2"])


def test_a_request_that_nobody_can_have_read_yet_is_too_new(scripts: Scripts) -> None:
    scripts.ask(SESSION, request_id="r")
    assert click(scripts, "r", min_display_ms=1000) == ("too_new", None, ["r"])
    make_old(scripts, "r")
    assert click(scripts, "r", min_display_ms=1000)[0] == "won"


@pytest.mark.parametrize("seen", ["", "gone"])
def test_a_request_that_came_after_the_caller_looked_is_too_new(scripts: Scripts, seen: str) -> None:
    scripts.ask(SESSION, request_id="r")
    assert click(scripts, seen) == ("too_new", None, ["r"])


def test_a_double_click_repeats_the_answer_and_does_not_touch_the_next_request(scripts: Scripts) -> None:
    scripts.ask(SESSION, request_id="r-1")
    _, decision, _ = click(scripts, "r-1")
    time.sleep(0.005)
    scripts.ask(SESSION, request_id="r-2")
    assert click(scripts, "r-2") == ("replayed", decision, ["r-2"])
    assert click(scripts, "r-2", approved=False) == ("lost", decision, ["r-2"])
    assert scripts.standing("decision", SESSION, "r-2")["status"] == "pending"


def test_a_double_click_is_the_same_click_though_the_agent_was_faster(scripts: Scripts) -> None:
    scripts.ask(SESSION, request_id="r")
    click(scripts, "r")
    scripts.call("claim", SESSION, "r", "w")
    assert click(scripts, "")[0] == "replayed"
    assert click(scripts, "", approved=False)[0] == "lost"


def test_two_seconds_after_a_settlement_the_next_request_can_be_answered(scripts: Scripts) -> None:
    scripts.ask(SESSION, request_id="r-1")
    click(scripts, "r-1")
    scripts.ask(SESSION, request_id="r-2")
    let_settled_rest(scripts, "r-1")
    verdict, decision, _ = click(scripts, "r-2", approved=False)
    assert (verdict, decision["request_id"]) == ("won", "r-2")


def test_two_seconds_after_a_settlement_a_repeated_click_finds_nothing(scripts: Scripts) -> None:
    scripts.ask(SESSION, request_id="r")
    click(scripts, "r")
    let_settled_rest(scripts, "r")
    assert click(scripts, "") == ("none", None, [])


@pytest.mark.parametrize(("leave", "verdict"), [("cancel", "lost"), ("expire", "expired")])
def test_a_click_right_after_another_end_is_told_of_it(scripts: Scripts, leave: str, verdict: str) -> None:
    scripts.ask(SESSION, request_id="r-1")
    scripts.ask(SESSION, request_id="r-2")
    if leave == "cancel":
        scripts.standing("cancel", SESSION, "r-1")
    else:
        scripts.make_due(SESSION, "r-1")
    told, decision, pending = click(scripts, "r-2")
    assert (told, decision["request_id"], pending) == (verdict, "r-1", ["r-2"])


def test_an_answer_by_id_is_free_of_all_this(scripts: Scripts) -> None:
    for name in ("r-1", "r-2", "r-3"):
        scripts.ask(SESSION, request_id=name)
    verdicts = [scripts.answer(SESSION, name, min_display_ms=1000)[0] for name in ("r-2", "r-3", "r-1")]
    assert verdicts == ["won"] * 3


def test_an_answer_that_is_not_implicit_names_a_request(scripts: Scripts) -> None:
    with pytest.raises(Refused) as refused:
        scripts.answer(SESSION, "")
    assert refused.value.code == "SSE_BAD_REQUEST"


class TestIdempotency:
    """An answer's own key: what it did first is what it did."""

    def test_a_repeated_answer_does_nothing_more_even_after_the_claim(self, scripts: Scripts) -> None:
        scripts.ask(SESSION, request_id="r")
        _, decision, _ = scripts.answer(SESSION, "r", key="key-1")
        scripts.call("claim", SESSION, "r", "w")
        assert scripts.answer(SESSION, "r", key="key-1") == ("replayed", decision, [])

    @pytest.mark.parametrize("seen", ["r-2", ""])
    def test_a_repeated_implicit_answer_never_reaches_a_later_request(
        self, scripts: Scripts, seen: str
    ) -> None:
        scripts.ask(SESSION, request_id="r-1")
        _, decision, _ = click(scripts, "r-1", key="key-1")
        let_settled_rest(scripts, "r-1")
        scripts.ask(SESSION, request_id="r-2")
        assert click(scripts, seen, key="key-1") == ("replayed", decision, ["r-2"])

    def test_a_repetition_of_a_double_click_never_reaches_a_later_request(self, scripts: Scripts) -> None:
        scripts.ask(SESSION, request_id="r-1")
        _, decision, _ = click(scripts, "r-1", key="key-1")
        assert click(scripts, "", key="key-2")[0] == "replayed"
        let_settled_rest(scripts, "r-1")
        scripts.ask(SESSION, request_id="r-2")
        assert click(scripts, "r-2", key="key-2") == ("replayed", decision, ["r-2"])

    def test_what_could_not_be_related_does_not_use_up_its_key(self, scripts: Scripts) -> None:
        assert click(scripts, "", key="key-1")[0] == "none"
        scripts.ask(SESSION, request_id="r")
        assert click(scripts, "r", key="key-1", min_display_ms=1000)[0] == "too_new"
        make_old(scripts, "r")
        assert click(scripts, "r", key="key-1", min_display_ms=1000)[0] == "won"

    @pytest.mark.parametrize("other", [{"approved": False}, {"option_id": "x"}, {"digest": "d"}])
    def test_the_key_for_another_answer_is_refused(self, scripts: Scripts, other: dict[str, Any]) -> None:
        scripts.ask(SESSION, request_id="r")
        scripts.answer(SESSION, "r", key="key-1")
        with pytest.raises(Refused) as refused:
            scripts.answer(SESSION, "r", key="key-1", **other)
        assert refused.value.code == "SSE_IDEMPOTENCY_MISMATCH"

    def test_publishes_and_answers_do_not_share_keys(self, scripts: Scripts) -> None:
        scripts.publish(SESSION, {"type": "x"}, "key-1")
        scripts.ask(SESSION, request_id="r")
        with pytest.raises(Refused) as refused:
            scripts.answer(SESSION, "r", key="key-1")
        assert refused.value.code == "SSE_IDEMPOTENCY_MISMATCH"
        assert scripts.standing("decision", SESSION, "r")["status"] == "pending"
