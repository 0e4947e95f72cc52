"""Key sets: which keys are taken, and when the set is fetched while keys rotate and endpoints fail."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp.pytest_plugin import AiohttpServer

from sse_gateway.auth import KeySettingError, KeysUnavailable
from sse_gateway.auth.jwks import JwksKeys, KeySetLimits, check_key_set_url
from sse_gateway.auth.keyset import BadKeySet, read_key_set
from sse_gateway.core.errors import AuthError, Unavailable
from tests.support.tokens import Clock, KeySetEndpoint, authenticator, jwk, private_key, token
from tests.support.wait import until

ALLOWED = ("RS256", "ES256", "EdDSA")


def taken(*members: Any, allowed: tuple[str, ...] = ALLOWED) -> list[tuple[str | None, list[str]]]:
    """Return kid and algorithms of the keys that are taken from a set."""
    try:
        keys, faults = read_key_set(json.dumps({"keys": members}).encode(), allowed)
    except BadKeySet:
        return []
    assert len(keys) + len(faults) == len(members)
    return [(key.key_id, sorted(key.algorithms)) for key in keys]


@pytest.mark.parametrize(
    ("member", "algorithms"),
    [
        pytest.param(jwk("rsa"), ["RS256"], id="RSA"),
        pytest.param(jwk("p256"), ["ES256"], id="P-256"),
        pytest.param(jwk("ed25519"), ["EdDSA"], id="Ed25519"),
        pytest.param(jwk("rsa", use=None, kid=None), ["RS256"], id="without use and kid"),
        pytest.param(jwk("rsa", alg="RS256", key_ops=["verify"]), ["RS256"], id="with alg and key_ops"),
        pytest.param(
            jwk("rsa", x5c=["not looked at"], x5u="http://evil.example"), ["RS256"], id="with a chain"
        ),
    ],
)
def test_a_public_signing_key_is_taken(member: dict[str, Any], algorithms: list[str]) -> None:
    assert taken(member) == [(member.get("kid"), algorithms)]


@pytest.mark.parametrize(
    "member",
    [
        pytest.param(jwk("rsa", use="enc"), id="an encryption key"),
        pytest.param(jwk("rsa", key_ops=["encrypt"]), id="a key for other operations"),
        pytest.param(jwk("rsa", key_ops="verify"), id="key_ops that is no list"),
        pytest.param(jwk("rsa", alg="RS512"), id="an algorithm that is not allowed"),
        pytest.param(jwk("rsa", alg="RSA-OAEP"), id="an encryption algorithm"),
        pytest.param(jwk("rsa", alg="ES256"), id="an algorithm of another kind of key"),
        pytest.param(jwk("rsa", alg="HS256"), id="a secret's algorithm on a public key"),
        pytest.param(jwk("rsa", alg="none"), id="none"),
        pytest.param(jwk("rsa", alg=["RS256"]), id="an algorithm that is no text"),
        pytest.param(jwk("p384"), id="a curve that is not allowed"),
        pytest.param(jwk("k256"), id="a curve that is not used"),
        pytest.param(jwk("p256", crv="P-384"), id="another curve than its numbers"),
        pytest.param(jwk("p256", x="AAAA"), id="a point off the curve"),
        pytest.param(jwk("rsa1024"), id="a small RSA key"),
        pytest.param(jwk("rsa", e="_" * 300), id="a huge exponent"),
        pytest.param(jwk("rsa", e="AQ"), id="the exponent 1"),
        pytest.param(jwk("rsa", n="_" * 100_000), id="a huge modulus"),
        pytest.param(jwk("rsa", n=5), id="a modulus that is no text"),
        pytest.param(jwk("rsa", n="§§§"), id="a modulus that is no base64"),
        pytest.param(jwk("rsa", n=None), id="no modulus"),
        pytest.param(jwk("rsa", d="AQAB"), id="a private key"),
        pytest.param({"kty": "oct", "kid": "o", "k": "c2VjcmV0" * 8}, id="a secret"),
        pytest.param(
            {"kty": "oct", "kid": "o", "k": "c2VjcmV0" * 8, "alg": "HS256"}, id="a secret with its alg"
        ),
        pytest.param(jwk("rsa", kid="a\nb"), id="a kid with a line end"),
        pytest.param(jwk("rsa", kid="k" * 257), id="a long kid"),
        pytest.param(jwk("rsa", kid=5), id="a kid that is no text"),
        pytest.param(jwk("rsa", kty=["RSA"]), id="a kty that is no text"),
        pytest.param({}, id="nothing"),
        pytest.param("a text", id="no object"),
    ],
)
def test_what_is_no_public_signing_key_is_passed_over_and_the_others_stay(member: Any) -> None:
    allowed = (*ALLOWED, "HS256")
    assert taken(member, allowed=allowed) == []
    assert taken(member, jwk("p256"), allowed=allowed) == [("p256", ["ES256"])]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"keys":{}}',
        b'{"keys":[]}',
        b'{"keys":[1]}',
        b"\xff",
        b"<html>",
        b"[" * 100_000,
        json.dumps({"keys": [jwk("p256")] * 65}).encode(),
        b'{"keys":[],"keys":[' + json.dumps(jwk("p256")).encode() + b"]}",
    ],
)
def test_a_document_that_is_no_key_set_is_refused_as_a_whole(body: bytes) -> None:
    with pytest.raises(BadKeySet):
        read_key_set(body, ALLOWED)


@pytest.mark.parametrize(
    "url",
    [
        "http://id.example/keys",
        "http://127.0.0.1@id.example/keys",
        "http://localhost.id.example/keys",
        "http://10.0.0.1/keys",
        "http://[::ffff:10.0.0.1]/keys",
        "ftp://id.example/keys",
        "file:///etc/passwd",
        "/keys",
        "https:///keys",
        "",
    ],
)
def test_an_address_that_anybody_could_answer_for_stops_the_start(url: str) -> None:
    with pytest.raises(KeySettingError, match="JWT_JWKS_URL"):
        check_key_set_url(url)


@pytest.mark.parametrize(
    "url", ["https://id.example/k?v=1", "http://127.0.0.1:80/k", "http://[::1]/k", "http://localhost/k"]
)
def test_https_and_the_loopback_interface_are_fine(url: str) -> None:
    assert str(check_key_set_url(url)).startswith(url[:5])


class Rig:
    """A key set served by an endpoint, with a clock that the test moves."""

    def __init__(self, endpoint: KeySetEndpoint, url: str) -> None:
        self.endpoint = endpoint
        self.clock = Clock()
        self.source = JwksKeys(url, ALLOWED, limits=KeySetLimits(timeout_seconds=2), clock=self.clock)
        self.guarded = authenticator(keys=self.source, jwt_jwks_url=url, jwt_algorithms=ALLOWED)

    async def verify(self, name: str = "rsa", *, kid: str | None = "same") -> str:
        algorithm = {"r": "RS256", "p": "ES256", "e": "EdDSA"}[name[0]]
        headers = {} if kid is None else {"kid": name if kid == "same" else kid}
        return (await self.guarded.verify(token(private_key(name), algorithm, headers))).user

    async def settled(self) -> None:
        await until(lambda: self.source._fetch_task is None, "no fetch under way")


@pytest.fixture
async def rig(aiohttp_server: AiohttpServer) -> AsyncIterator[Rig]:
    endpoint = KeySetEndpoint([jwk("rsa"), jwk("p256"), jwk("ed25519")])
    server = await aiohttp_server(endpoint.app())
    made = Rig(endpoint, str(server.make_url("/keys")))
    yield made
    await made.guarded.close()


async def test_tokens_of_each_kind_are_verified_with_one_fetch(rig: Rig) -> None:
    for name in ("rsa", "p256", "ed25519"):
        assert await rig.verify(name) == "user-1"
    assert rig.endpoint.requests == 1


async def test_a_hundred_first_tokens_cost_one_fetch(rig: Rig) -> None:
    users = await asyncio.gather(*(rig.verify(name) for name in ("rsa", "p256") * 50))
    assert users == ["user-1"] * 100
    assert rig.endpoint.requests == 1


async def test_a_caller_who_goes_away_does_not_cancel_the_fetch_for_the_others(rig: Rig) -> None:
    rig.endpoint.gate.clear()
    first = asyncio.create_task(rig.verify())
    second = asyncio.create_task(rig.verify("p256"))
    await until(lambda: rig.endpoint.requests, "the fetch to begin")
    first.cancel()
    await asyncio.wait([first])
    rig.endpoint.gate.set()
    assert await second == "user-1"
    assert rig.endpoint.requests == 1


async def test_a_new_key_is_found_at_once_when_a_token_names_it(rig: Rig) -> None:
    await rig.verify()
    rig.clock.now += 60
    rig.endpoint.keys.append(jwk("rsa-new"))
    assert await rig.verify("rsa-new") == "user-1"
    assert rig.endpoint.requests == 2


async def test_a_key_that_has_gone_verifies_nothing_more_not_even_what_it_verified_before(rig: Rig) -> None:
    old = token(private_key("rsa"), "RS256", {"kid": "rsa"})
    await rig.guarded.verify(old)
    rig.endpoint.keys = [jwk("rsa-new")]
    rig.clock.now += 60
    await rig.verify("rsa-new")
    with pytest.raises(AuthError, match="does not have"):
        await rig.guarded.verify(old)


async def test_a_key_replaced_under_the_same_kid_counts_as_gone(rig: Rig) -> None:
    old = token(private_key("rsa"), "RS256", {"kid": "rsa"})
    await rig.guarded.verify(old)
    rig.endpoint.keys = [jwk("rsa-new", kid="rsa")]
    rig.clock.now += 601
    with pytest.raises(AuthError, match="signature"):
        await rig.guarded.verify(old)
    assert await rig.verify("rsa-new", kid="rsa") == "user-1"


async def test_keys_are_fetched_again_in_the_background_when_they_are_five_minutes_old(rig: Rig) -> None:
    await rig.verify()
    rig.clock.now += 299
    await rig.verify()
    assert rig.source._fetch_task is None
    rig.clock.now += 2
    await rig.verify()
    assert rig.source._fetch_task is not None
    await rig.settled()
    assert rig.endpoint.requests == 2


async def test_keys_nobody_used_for_long_are_fetched_before_they_are_believed(rig: Rig) -> None:
    await rig.verify()
    rig.endpoint.keys = [jwk("p256")]
    rig.clock.now += 3600
    with pytest.raises(AuthError, match="does not have"):
        await rig.verify()


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"status": 404},
        {"body": b"<html>login</html>"},
        {"body": b'{"keys":[]}'},
        {"body": b" " * 300_000},
        {"status": 302, "headers": {"Location": "http://127.0.0.1:1/keys"}},
    ],
    ids=["500", "404", "html", "empty set", "too large", "redirect"],
)
async def test_an_endpoint_in_trouble_leaves_the_last_keys_in_use_and_is_asked_once_a_minute(
    rig: Rig, fault: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    await rig.verify()
    vars(rig.endpoint).update(fault)
    for _ in range(60):
        rig.clock.now += 60
        assert await rig.verify() == "user-1"
    assert rig.endpoint.requests <= 1 + 60
    warned = [record for record in caplog.records if record.message == "the key set cannot be fetched"]
    assert warned[0].fields["keys_kept"] == 3  # type: ignore[attr-defined]
    asked = rig.endpoint.requests
    for _ in range(20):
        await rig.verify()
    assert rig.endpoint.requests == asked


async def test_keys_that_could_not_be_renewed_for_six_hours_are_believed_no_longer(rig: Rig) -> None:
    remembered = token(private_key("rsa"), "RS256", {"kid": "rsa"}, exp=rig.clock.now + 30 * 3600)
    await rig.guarded.verify(remembered)
    rig.endpoint.status = 500
    rig.clock.now += 6 * 3600 - 1
    assert (await rig.guarded.verify(remembered)).user == "user-1"
    rig.clock.now += 120
    with pytest.raises(KeysUnavailable):
        await rig.guarded.verify(remembered)
    rig.endpoint.status = 200
    rig.clock.now += 120
    assert (await rig.guarded.verify(remembered)).user == "user-1"


async def test_without_any_keys_nobody_is_called_invalid_but_told_to_come_back(rig: Rig) -> None:
    rig.endpoint.status = 503
    with pytest.raises(KeysUnavailable) as caught:
        await rig.verify()
    assert isinstance(caught.value, Unavailable)
    assert (caught.value.status, caught.value.code) == (503, "keys_unavailable")
    assert caught.value.retry_after is not None
    assert 1 <= caught.value.retry_after <= 10
    for _ in range(5):
        with pytest.raises(KeysUnavailable):
            await rig.verify()
    assert rig.endpoint.requests == 1
    rig.endpoint.status = 200
    rig.clock.now += 10
    assert await rig.verify() == "user-1"


async def test_an_endpoint_that_cannot_be_reached_is_an_outage_too(caplog: pytest.LogCaptureFixture) -> None:
    gone = Rig(KeySetEndpoint(), "http://127.0.0.1:9/keys")
    with pytest.raises(KeysUnavailable):
        await gone.verify()
    assert caplog.records[0].message == "the key set cannot be fetched"
    assert caplog.records[0].fields["keys_kept"] == 0  # type: ignore[attr-defined]
    await gone.guarded.close()


async def test_an_endpoint_that_never_answers_is_given_up(rig: Rig) -> None:
    rig.endpoint.gate.clear()
    source = JwksKeys(str(rig.source._url), ALLOWED, limits=KeySetLimits(timeout_seconds=0.1))
    with pytest.raises(KeysUnavailable):
        await source.find("RS256", "rsa")
    await source.close()
    rig.endpoint.gate.set()


async def test_an_unknown_key_is_looked_up_once_and_then_known_as_unknown(rig: Rig) -> None:
    await rig.verify()
    rig.clock.now += 60
    for _ in range(10):
        with pytest.raises(AuthError, match="does not have") as caught:
            await rig.verify(kid="nobody")
        assert caught.value.code == "token_invalid"
    assert rig.endpoint.requests == 2
    rig.clock.now += 31
    rig.endpoint.keys.append(jwk("rsa-new", kid="nobody"))
    assert await rig.verify("rsa-new", kid="nobody") == "user-1"


async def test_a_key_id_that_is_there_for_another_algorithm_is_no_reason_to_fetch(rig: Rig) -> None:
    await rig.verify()
    rig.clock.now += 60
    for _ in range(3):
        with pytest.raises(AuthError, match="does not have"):
            await rig.verify("rsa", kid="p256")
    assert rig.endpoint.requests == 1


async def test_a_token_without_kid_is_tried_with_the_keys_that_fit_and_no_other_kid_ever_is(rig: Rig) -> None:
    assert await rig.verify("rsa", kid=None) == "user-1"
    assert await rig.verify("p256", kid=None) == "user-1"
    with pytest.raises(AuthError, match="signature"):
        await rig.verify("rsa-strange", kid=None)
    rig.endpoint.keys += [jwk("rsa-two")]
    rig.clock.now += 60
    await rig.verify("rsa-two")
    with pytest.raises(AuthError, match="signature"):
        await rig.verify("rsa", kid="rsa-two")


async def test_among_many_fitting_keys_a_token_has_to_name_its_own(rig: Rig) -> None:
    rig.endpoint.keys = [jwk(f"ed-{number}") for number in range(5)]
    assert await rig.verify("ed-4") == "user-1"
    with pytest.raises(AuthError, match="does not have"):
        await rig.verify("ed-4", kid=None)


async def test_closing_ends_a_fetch_under_way_and_closing_twice_is_fine(rig: Rig) -> None:
    rig.endpoint.gate.clear()
    waiting = asyncio.create_task(rig.verify())
    await until(lambda: rig.endpoint.requests, "the fetch to begin")
    await rig.guarded.close()
    with pytest.raises(KeysUnavailable):
        await waiting
    await rig.guarded.close()
    rig.endpoint.gate.set()


async def test_a_fault_of_ours_while_fetching_is_logged_and_not_repeated_at_once(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken() -> bytes:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(rig.source, "_download", broken)
    for _ in range(3):
        with pytest.raises(KeysUnavailable):
            await rig.verify()
    assert caplog.text.count("key set broke") == 1


async def test_logs_tell_of_a_change_and_never_hold_credentials_of_the_address(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    host = str(rig.source._url).removeprefix("http://")
    source = JwksKeys(f"http://name:word@{host}?key=hidden", ALLOWED, clock=rig.clock)
    with caplog.at_level(logging.DEBUG, "sse_gateway"):
        await source.find("RS256", "rsa")
        rig.endpoint.status = 500
        rig.clock.now += 400
        await source.freshen()
        await until(lambda: source._fetch_task is None, "no fetch under way")
    await source.close()
    fields = {record.message: record.fields for record in caplog.records if hasattr(record, "fields")}
    assert fields["the key set has changed"]["new"] == 3
    assert "answered 500" in fields["the key set cannot be fetched"]["reason"]
    assert not any(secret in str(fields) + caplog.text for secret in ("word", "hidden"))


async def test_explain_says_when_the_key_set_cannot_be_reached(rig: Rig) -> None:
    rig.endpoint.status = 500
    found = await rig.guarded.explain(
        token(private_key("rsa"), "RS256", {"kid": "rsa"}, session_id="s1"), "s1"
    )
    told = {finding.rule: finding for finding in found}
    assert "cannot be looked up" in told["signature"].text
    assert told["claim session_id"].ok
    assert not told["verdict"].ok
