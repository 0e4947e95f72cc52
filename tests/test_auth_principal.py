"""Which sessions a pattern reaches, and what a principal may."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sse_gateway.auth import Principal
from sse_gateway.auth.principal import is_session_pattern, reaches, session_patterns
from sse_gateway.core.keys import check_session_id

IDS = st.text("ab1._:-", min_size=1, max_size=6).filter(lambda text: text not in (".", ".."))


def principal(*sessions: str, user: str = "user-1", expires_at: float = 1000.0) -> Principal:
    return Principal(user, sessions, frozenset({"sse:read"}), expires_at, leeway_seconds=30)


@pytest.mark.parametrize(
    ("pattern", "reached", "not_reached"),
    [
        ("s1", ["s1"], ["s10", "S1", "s", "x-s1"]),
        ("*", ["s1", "u1:2", "-"], []),
        ("u1:*", ["u1:a", "u1:a:b", "u1:"], ["u1", "u10:a", "u1-a", "U1:a"]),
        ("u1-*", ["u1-a"], ["u1:a", "u1"]),
        ("u1_*", ["u1_a"], ["u1a"]),
        ("u1.*", ["u1.a"], ["u1a", "u1:a"]),
        (":*", [":a"], ["a"]),
    ],
)
def test_a_pattern_reaches_what_it_says(pattern: str, reached: list[str], not_reached: list[str]) -> None:
    someone = principal(pattern)
    assert [session for session in reached if not someone.names(session)] == []
    assert [session for session in not_reached if someone.names(session)] == []


@pytest.mark.parametrize(
    "text",
    [
        "u1*",
        "**",
        "*:a",
        "u*:a",
        "u1:**",
        "u1:*:",
        "",
        " *",
        "u1:* ",
        "u/1:*",
        "u1:?",
        "[a-z]:*",
        "..",
        ".",
        "é:*",
        "u1:*\n",
        "a" * 129,
        "a" * 128 + ":*",
    ],
)
def test_anything_else_with_a_star_or_a_foreign_character_is_no_pattern(text: str) -> None:
    assert not is_session_pattern(text)
    assert session_patterns([text, "s1", text]) == ("s1",)
    with pytest.raises(ValueError, match="not a session pattern"):
        principal(text)


@given(IDS)
def test_every_session_id_is_a_pattern_for_itself_alone(session_id: str) -> None:
    assert check_session_id(session_id) == session_id
    assert is_session_pattern(session_id)
    assert reaches(session_id, session_id)
    assert not reaches(session_id, session_id + "x")


@given(IDS, IDS)
def test_a_prefix_reaches_what_begins_with_it_and_nothing_else(prefix: str, session_id: str) -> None:
    pattern = prefix + "*"
    if is_session_pattern(pattern):
        assert prefix[-1] in "._:-"
        assert reaches(pattern, session_id) == session_id.startswith(prefix)
    else:
        assert prefix[-1] not in "._:-"


def test_patterns_keep_their_order_and_come_once_and_what_is_no_text_is_passed_over() -> None:
    assert session_patterns(["b", "a:*", 5, None, ["c"], "b", True]) == ("b", "a:*")


def test_the_owner_is_compared_exactly_and_no_owner_is_nobodys() -> None:
    someone = principal(user="user-1")
    assert someone.owns("user-1")
    assert not any(someone.owns(owner) for owner in (None, "", "User-1", "user-1 ", "user-10"))


def test_a_principal_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        principal("s1").user = "root"  # type: ignore[misc]


def test_a_stream_ends_with_its_token_and_one_opened_in_the_leeway_ends_with_the_leeway() -> None:
    someone = principal("s1", expires_at=1000)
    assert someone.deadline(999) == 1000
    assert someone.deadline(1000) == 1030
    assert someone.deadline(1029) == 1030
