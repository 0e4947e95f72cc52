"""The authenticator as its callers see it: verifying, remembering, judging, explaining."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sse_gateway.auth import PUBLISH, READ, RESPOND, Authenticator, Principal
from sse_gateway.auth.verified import VerifiedTokens
from sse_gateway.core.errors import AuthError, GatewayError
from tests.support.tokens import OTHER_SECRET, Clock, authenticator, claims, private_key, public_pem, token


class Counted:
    """Count the signature checks an authenticator makes."""

    def __init__(self, guarded: Authenticator, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        check = guarded._signed_payload

        def counting(*args: Any) -> Any:
            self.count += 1
            return check(*args)

        monkeypatch.setattr(guarded, "_signed_payload", counting)


async def refusal(guarded: Authenticator, text: str | None) -> AuthError:
    with pytest.raises(AuthError) as caught:
        await guarded.verify(text)
    assert caught.value.status == 401
    return caught.value


async def test_a_good_token_becomes_a_principal() -> None:
    made = claims(session_id="s1", sessions=["u1:*"], scope="openid sse:read")
    principal = await authenticator().verify(token(**made))
    assert principal == Principal("user-1", ("s1", "u1:*"), frozenset({READ}), float(made["exp"]), 30.0)


@pytest.mark.parametrize("nothing", [None, ""])
async def test_no_token_is_missing_and_not_invalid(nothing: str | None) -> None:
    refused = await refusal(authenticator(), nothing)
    assert refused.code == "token_missing"
    assert "Authorization: Bearer" in refused.message


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [("rsa", "RS256"), ("rsa", "RS512"), ("p256", "ES256"), ("p384", "ES384"), ("ed", "EdDSA")],
)
async def test_public_key_algorithms(key: str, algorithm: str, tmp_path: Path) -> None:
    path = tmp_path / "public.pem"
    path.write_text(public_pem(key))
    guarded = authenticator(jwt_public_key_file=path, jwt_algorithms=[algorithm])
    assert (await guarded.verify(token(private_key(key), algorithm))).user == "user-1"
    assert (await refusal(guarded, token(private_key(f"{key}-other"), algorithm))).code == "token_invalid"


async def test_only_allowed_algorithms_are_verified_though_the_key_could_do_more() -> None:
    guarded = authenticator(jwt_secret=OTHER_SECRET * 2, jwt_algorithms=["HS256", "HS384"])
    assert (await guarded.verify(token(OTHER_SECRET * 2, "HS384"))).user == "user-1"
    refused = await refusal(guarded, token(OTHER_SECRET * 2, "HS512"))
    assert "HS256, HS384" in refused.message


async def test_a_verified_token_is_remembered_and_an_invalid_one_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    guarded = authenticator()
    signatures = Counted(guarded, monkeypatch)
    good, bad = token(), token(OTHER_SECRET)
    first = await guarded.verify(good)
    assert await guarded.verify(good) is first
    assert signatures.count == 1
    for _ in range(3):
        await refusal(guarded, bad)
    assert signatures.count == 4
    assert len(guarded._verified) == 1


async def test_a_remembered_token_expires_at_the_moment_it_would_have_anyway() -> None:
    clock = Clock()
    guarded = authenticator(clock=clock, jwt_leeway_seconds=30)
    expiring = token(exp=clock.now + 10)
    await guarded.verify(expiring)
    clock.now += 39.9
    await guarded.verify(expiring)
    clock.now += 0.2
    assert (await refusal(guarded, expiring)).code == "token_expired"
    assert len(guarded._verified) == 0


async def test_a_remembered_token_is_forgotten_when_a_key_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    guarded = authenticator()
    signatures = Counted(guarded, monkeypatch)
    good = token()
    await guarded.verify(good)
    guarded._keys.generation += 1  # type: ignore[misc]
    await guarded.verify(good)
    assert signatures.count == 2


def test_the_memory_is_bounded_and_the_oldest_gives_way() -> None:
    memory = VerifiedTokens(size=3)
    someone = Principal("user-1", (), frozenset(), 5.0)
    digests = [memory.digest(f"token {number}") for number in range(5)]
    for digest in digests:
        memory.add(digest, someone)
    assert len(memory) == 3
    assert [memory.find(digest, generation=0) is not None for digest in digests] == [
        False,
        False,
        True,
        True,
        True,
    ]
    assert memory.find(digests[4], generation=1) is None
    assert len(memory) == 0


def test_digests_differ_between_processes_so_that_nobody_can_prepare_a_collision() -> None:
    assert VerifiedTokens().digest("a token") != VerifiedTokens().digest("a token")


def someone(*sessions: str, scopes: tuple[str, ...] = (READ, RESPOND)) -> Principal:
    return Principal("user-1", sessions, frozenset(scopes), 5.0)


@pytest.mark.parametrize(
    ("principal", "owner", "scope", "code", "names_the_rule"),
    [
        (someone("s1"), None, READ, None, ""),
        (someone("*"), "user-2", RESPOND, None, ""),
        (someone(), "user-1", READ, None, ""),
        (someone("s2"), "user-1", READ, None, ""),
        (someone(), None, READ, "forbidden_session", "The session rule refused"),
        (someone(), "", READ, "forbidden_session", "The session rule refused"),
        (someone("s2"), "user-2", READ, "forbidden_session", "`session_id`, `sessions`"),
        (
            someone("s1"),
            "user-1",
            PUBLISH,
            "missing_scope",
            "The scope rule refused: this needs the scope sse:publish",
        ),
        (someone("s1", scopes=()), "user-1", READ, "missing_scope", "sse:read"),
        (someone("s2"), None, PUBLISH, "missing_scope", "scope rule"),
        (someone("s1", scopes=("sse:raed",)), None, READ, "missing_scope", "scope rule"),
    ],
)
def test_authorise(
    principal: Principal, owner: str | None, scope: str, code: str | None, names_the_rule: str
) -> None:
    guarded = authenticator()
    if code is None:
        guarded.authorise(principal, "s1", owner, scope)
        return
    with pytest.raises(GatewayError) as caught:
        guarded.authorise(principal, "s1", owner, scope)
    assert caught.value.code == code
    assert caught.value.status == 403
    assert names_the_rule in caught.value.message


def test_a_refused_session_is_refused_in_the_same_words_whoever_owns_it() -> None:
    guarded = authenticator()
    messages = set()
    for owner in (None, "", "user-2"):
        with pytest.raises(GatewayError) as caught:
            guarded.require_session(someone("s2"), "s1", owner)
        messages.add(caught.value.message)
    assert len(messages) == 1


async def findings(
    guarded: Authenticator, text: str, session: str, owner: str | None = None
) -> dict[str, Any]:
    found = await guarded.explain(text, session, owner)
    assert found[-1].rule == "verdict"
    assert len({rule for rule, _, _ in found}) == len(found)
    assert all(line.isprintable() and line.isascii() and text not in line for _, _, line in found)
    return {rule: (ok, line) for rule, ok, line in found}


async def test_explain_names_the_rule_that_lets_a_token_in() -> None:
    guarded = authenticator()
    told = await findings(guarded, token(session_id="s1"), "s1")
    assert told["verdict"] == (True, "let in by: claim session_id; may: sse:read sse:respond")
    told = await findings(guarded, token(sessions=["u1:*"], scope="sse:read"), "u1:a")
    assert told["claim sessions"] == (True, "'u1:*' reaches it")
    assert told["verdict"] == (True, "let in by: claim sessions; may: sse:read")
    told = await findings(guarded, token(), "s1", "user-1")
    assert told["verdict"] == (True, "let in by: owner; may: sse:read sse:respond")
    told = await findings(guarded, token(session_id="s1", sessions=["*"]), "s1", "user-1")
    assert told["verdict"][1].startswith("let in by: claim session_id, claim sessions, owner;")


@pytest.mark.parametrize(
    ("changed", "owner", "rule", "why"),
    [
        ({"session_id": "s2"}, None, "claim session_id", "names another session, 's2'"),
        ({"session_id": "s*"}, None, "claim session_id", "a star means something in `sessions` only"),
        ({"session_id": 5}, None, "claim session_id", "5 is no session id"),
        ({"sessions": "s1"}, None, "claim sessions", "is no list"),
        ({"sessions": ["s*"]}, None, "claim sessions", "'s*' is no pattern"),
        ({"sessions": ["s2", "u:*"]}, None, "claim sessions", "none of its 2 entries"),
        ({}, None, "owner", "not known here"),
        ({}, "user-2", "owner", "the owner is 'user-2', the user is 'user-1'"),
        ({"exp": 5}, "user-1", "exp", "expired"),
        ({"nbf": 4102444800}, "user-1", "nbf", "not valid yet"),
        ({"sub": "a\x1b[2Jb"}, "user-1", "user", "must name the user"),
        ({"aud": "billing"}, "user-1", "aud", "JWT_AUDIENCE is not set"),
    ],
)
async def test_explain_names_the_rule_that_keeps_a_token_out(
    changed: dict[str, Any], owner: str | None, rule: str, why: str
) -> None:
    told = await findings(authenticator(), token(**changed), "s1", owner)
    assert told[rule][0] is False
    assert why in told[rule][1]
    assert told["verdict"][0] is False
    assert rule in told["verdict"][1]


async def test_explain_reads_on_where_the_signature_is_not_good_and_says_so() -> None:
    told = await findings(authenticator(), token(OTHER_SECRET, session_id="s1", exp=5), "s1")
    assert told["signature"][0] is False
    assert "What follows is read from it all the same" in told["signature"][1]
    assert told["exp"][0] is False
    assert told["claim session_id"][0] is True
    assert told["verdict"] == (False, "kept out by: signature, exp")


async def test_explain_tells_of_a_token_without_known_scopes() -> None:
    told = await findings(authenticator(), token(session_id="s1", scope="sse:raed"), "s1")
    assert "'sse:raed'" in told["sse:read"][1]
    assert told["verdict"] == (False, "kept out by: scopes (the token has none of those known)")


@pytest.mark.parametrize("text", ["", "x", "a.b.c", "....", "é.é.é", "e30.e30.e30"])
async def test_explain_says_what_is_no_token_at_all(text: str) -> None:
    found = await authenticator().explain(text, "s1")
    assert [(finding.rule, finding.ok) for finding in found] == [("form", False), ("verdict", False)]


async def test_explain_and_verify_agree() -> None:
    guarded = authenticator(jwt_issuer="https://id.example", jwt_audience="sse")
    good = {"iss": "https://id.example", "aud": "sse"}
    for changed in (good, {}, good | {"exp": 5}, good | {"sub": ""}, good | {"iat": "x"}, {"aud": "sse"}):
        text = token(**changed)
        told = await findings(guarded, text, "s1", "user-1")
        refused = None
        refused: AuthError | None = None
        try:
            await guarded.verify(text)
        except AuthError as error:
            refused = error
        assert told["verdict"][0] is (refused is None)
        assert refused is None or any(not ok and refused.message in line for ok, line in told.values())
