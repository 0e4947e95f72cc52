"""Whatever bytes come: a principal or an `AuthError`, nothing else, and never the token in the message."""

from __future__ import annotations

import asyncio
import json
import time
import unicodedata
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sse_gateway.auth import Authenticator, Principal
from sse_gateway.auth.keyset import MAX_KEYS, BadKeySet, read_key_set
from sse_gateway.auth.principal import is_session_pattern
from sse_gateway.core.errors import AuthError
from tests.support.modes import scaled
from tests.support.tokens import authenticator, claims, forge, jwk, private_key, segment, token

pytestmark = pytest.mark.scaled
many = settings(max_examples=scaled(60, 2_000), deadline=None)

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.text(max_size=20)
    | st.sampled_from(["*", "u1:*", "s1", "sse:read", "HS256", "none", str(int(time.time()) + 600)])
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
CLAIM_NAMES = st.sampled_from(
    ["sub", "exp", "nbf", "iat", "iss", "aud", "session_id", "sessions", "scope", "scopes", "scp", "jti"]
)
HEADER_NAMES = st.sampled_from(["alg", "kid", "typ", "crit", "b64", "cty", "jwk", "jku", "zip", "enc"])
PARTS = st.binary(max_size=40).map(segment) | st.text("AZaz09-_=+/ \n", max_size=20)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as made:
        yield made


GUARDED = authenticator()


def outcome(runner: asyncio.Runner, text: str, guarded: Authenticator = GUARDED) -> Principal | None:
    """Verify and explain; return the principal, or None for a refusal that is as it should be."""
    verdict = runner.run(guarded.explain(text, "s1", "user-1"))[-1]
    refusal: AuthError | None = None
    try:
        principal = runner.run(guarded.verify(text))
    except AuthError as error:
        refusal = error
    if refusal is not None:
        assert refusal.code in ("token_invalid", "token_expired", "token_missing")
        assert refusal.status == 401
        assert refusal.message.isprintable()
        assert len(text) < 8 or text not in refusal.message
        assert not verdict.ok
        return None
    assert principal.user.strip()
    assert not {unicodedata.category(character) for character in principal.user} & {"Cc", "Cf", "Cs"}
    assert principal.expires_at + principal.leeway_seconds > time.time() - 5
    assert all(is_session_pattern(pattern) for pattern in principal.sessions)
    assert all(scope.startswith("sse:") for scope in principal.scopes)
    return principal


@many
@given(st.text(max_size=300) | st.lists(PARTS, max_size=6).map(".".join))
def test_text_that_is_no_token(runner: asyncio.Runner, text: str) -> None:
    assert outcome(runner, text) is None


@many
@given(st.binary(max_size=200), st.binary(max_size=200))
def test_signed_bytes_that_are_no_json(runner: asyncio.Runner, header: bytes, payload: bytes) -> None:
    assert outcome(runner, forge(header, payload)) is None
    assert outcome(runner, forge({"alg": "HS256"}, payload)) is None


@many
@given(st.dictionaries(CLAIM_NAMES, JSON, max_size=6))
def test_well_signed_tokens_with_any_claims(runner: asyncio.Runner, changed: dict[str, Any]) -> None:
    outcome(runner, forge({"alg": "HS256"}, claims() | changed))


@many
@given(st.dictionaries(HEADER_NAMES, JSON, max_size=4))
def test_well_signed_tokens_with_any_header(runner: asyncio.Runner, header: dict[str, Any]) -> None:
    principal = outcome(runner, forge({"alg": "HS256"} | header, claims()))
    assert principal is None or not {"crit", "b64"} & header.keys()


@many
@given(st.data())
def test_a_good_token_altered_anywhere_is_never_good(runner: asyncio.Runner, data: st.DataObject) -> None:
    good = token(session_id="s1")
    start = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(start, min(len(good), start + 5)))
    altered = good[:start] + data.draw(st.text("AZaz09-_.=", max_size=5)) + good[end:]
    assert (outcome(runner, altered) is not None) == (altered == good)


@many
@given(
    st.sampled_from(["rsa", "p256", "ed25519"]),
    st.dictionaries(
        st.sampled_from(["n", "e", "x", "y", "d", "k", "kty", "crv", "use", "alg", "kid", "key_ops"]),
        JSON,
        max_size=4,
    ),
)
def test_key_sets_with_any_member_changed(name: str, changed: dict[str, Any]) -> None:
    body = json.dumps({"keys": [jwk(name) | changed, jwk("p256")]}).encode()
    try:
        keys, _ = read_key_set(body, ["RS256", "ES256", "EdDSA"])
    except BadKeySet:
        return
    assert keys[-1].key_id == "p256"
    assert all(
        key.algorithms <= {"RS256", "ES256", "EdDSA"} and not isinstance(key.material, bytes) for key in keys
    )


@many
@given(
    st.binary(max_size=200)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.lists(JSON, max_size=5).map(lambda keys: json.dumps({"keys": keys}).encode())
)
def test_key_sets_of_any_bytes(body: bytes) -> None:
    with pytest.raises(BadKeySet):
        read_key_set(body, ["RS256"])
    assert MAX_KEYS < 100


def test_a_surrogate_from_a_header_field_is_no_reason_to_break(runner: asyncio.Runner) -> None:
    assert outcome(runner, token() + "\udcff") is None
    assert outcome(runner, "\ud800") is None


def test_what_breaks_inside_the_signature_check_is_a_refusal(
    runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    guarded = authenticator()

    def broken(*args: Any, **more: Any) -> Any:
        raise RuntimeError(str(args))

    monkeypatch.setattr(guarded._jws, "decode_complete", broken)
    text = token(private_key("ed25519"), "EdDSA") + "x"
    assert outcome(runner, text, guarded) is None
    text = token()
    assert outcome(runner, text, guarded) is None
    assert "verifying a token broke" in caplog.text
    assert text not in caplog.text
