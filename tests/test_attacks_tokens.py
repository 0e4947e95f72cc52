"""Attacks on tokens, keys and key sets, each test named after what it tries.

Every refusal is also checked for what it says: the status, and that neither the token nor a part of it, nor
any text an attacker wrote into it, comes back.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import time
from base64 import standard_b64encode, urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.pytest_plugin import AiohttpServer
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sse_gateway.auth import PUBLISH, READ, Authenticator, KeySettingError, KeysUnavailable, Principal
from sse_gateway.auth.jwks import JwksKeys
from sse_gateway.auth.keys import secret_keys
from sse_gateway.core.errors import AuthError, GatewayError
from tests.support.tokens import (
    OTHER_SECRET,
    SECRET,
    Clock,
    KeySetEndpoint,
    authenticator,
    claims,
    forge,
    jwk,
    private_key,
    public_pem,
    segment,
    token,
)

HS256 = {"alg": "HS256", "typ": "JWT"}
GOOD = json.dumps(claims()).encode()


async def refused(guarded: Authenticator, text: str | None, code: str = "token_invalid") -> str:
    """Check that a token is refused with this code, properly, and return the message."""
    with pytest.raises(AuthError) as caught:
        await guarded.verify(text)
    error = caught.value
    assert (error.code, error.status) == (code, 401)
    message = error.message
    assert message.isprintable()
    for part in filter(None, (text or "").split(".")):
        assert len(part) < 8 or part not in message
    assert "evil" not in message
    return message


@pytest.fixture
def by_key(tmp_path: Path) -> Authenticator:
    """A gateway that verifies with the RSA key `rsa`."""
    path = tmp_path / "public.pem"
    path.write_text(public_pem("rsa"))
    return authenticator(jwt_public_key_file=path, jwt_algorithms=["RS256"])


# --- algorithms ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", "", " none", "none\x00", "HS256 ", "hs256"])
async def test_attack_unsigned_token_by_alg_none(name: str, by_key: Authenticator) -> None:
    unsigned = f"{segment({'alg': name})}.{segment(GOOD)}"
    for guarded in (authenticator(), by_key):
        await refused(guarded, unsigned + ".")
        await refused(guarded, unsigned + "." + segment(b"x"))
        await refused(guarded, forge({"alg": name}, GOOD))


@pytest.mark.parametrize("alg", [..., None, 5, True, ["HS256"], {"HS256": 1}])
async def test_attack_algorithm_that_is_no_text(alg: Any) -> None:
    header = {} if alg is ... else {"alg": alg}
    assert "alg" in await refused(authenticator(), forge(header, GOOD))


def spellings_of_public_key(name: str) -> Iterator[bytes]:
    public = private_key(name).public_key()
    for encoding in (Encoding.PEM, Encoding.DER):
        for form in (PublicFormat.SubjectPublicKeyInfo, PublicFormat.PKCS1):
            yield public.public_bytes(encoding, form)
    yield public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    yield public_pem(name).strip().encode()
    yield json.dumps(jwk(name)).encode()
    yield str(public.public_numbers().n).encode()


async def test_attack_public_key_as_hmac_secret(by_key: Authenticator) -> None:
    for material in spellings_of_public_key("rsa"):
        signed = f"{segment(HS256)}.{segment(GOOD)}"
        confused = f"{signed}.{segment(hmac.digest(material, signed.encode(), hashlib.sha256))}"
        assert "RS256" in await refused(by_key, confused)


async def test_attack_public_key_as_hmac_secret_with_the_secret_algorithm_even_allowed(
    tmp_path: Path,
) -> None:
    """Settings refuse this allow-list, so it is forced in: the keys must hold on their own."""
    path = tmp_path / "public.pem"
    path.write_text(public_pem("rsa"))
    guarded = authenticator(jwt_public_key_file=path, jwt_algorithms=["RS256"])
    guarded._algorithms = frozenset({"RS256", "HS256"})
    signed = f"{segment(HS256)}.{segment(GOOD)}"
    digest = hmac.digest(public_pem("rsa").encode(), signed.encode(), hashlib.sha256)
    assert "does not have" in await refused(guarded, f"{signed}.{segment(digest)}")


async def test_attack_public_key_configured_as_secret() -> None:
    for material in (public_pem("rsa"), public_pem("p256"), json.dumps(jwk("rsa"))):
        with pytest.raises(KeySettingError):
            secret_keys(material, None, ["HS256"])


async def test_attack_token_of_another_algorithm_for_the_same_key(by_key: Authenticator) -> None:
    for algorithm in ("RS384", "RS512", "PS256"):
        await refused(by_key, token(private_key("rsa"), algorithm))
    await refused(by_key, forge({"alg": "RS256"}, GOOD, private_key("rsa"), "PS256"))
    await refused(by_key, forge({"alg": "RS256"}, GOOD, private_key("rsa"), "RS512"))


async def test_attack_curve_swapped_under_the_algorithm(tmp_path: Path) -> None:
    path = tmp_path / "public.pem"
    path.write_text(public_pem("p256"))
    guarded = authenticator(jwt_public_key_file=path, jwt_algorithms=["ES256", "ES384", "EdDSA"])
    await refused(guarded, forge({"alg": "ES384"}, GOOD, private_key("p256"), "ES256"))
    await refused(guarded, forge({"alg": "EdDSA"}, GOOD, private_key("p256"), "ES256"))
    await refused(guarded, token(private_key("p384"), "ES384"))


async def test_attack_psychic_and_degenerate_ecdsa_signatures(tmp_path: Path) -> None:
    path = tmp_path / "public.pem"
    path.write_text(public_pem("p256"))
    guarded = authenticator(jwt_public_key_file=path, jwt_algorithms=["ES256"])
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    signed = f"{segment({'alg': 'ES256'})}.{segment(GOOD)}"
    for r, s in itertools.product((0, 1, order - 1, order, 2**256 - 1), repeat=2):
        await refused(guarded, f"{signed}.{segment(r.to_bytes(32) + s.to_bytes(32))}")
    for size in (0, 1, 63, 65, 128):
        await refused(guarded, f"{signed}.{segment(bytes(size))}")


# --- signatures ---------------------------------------------------------------------------------------


async def test_attack_signature_left_out_cut_off_lengthened_or_borrowed() -> None:
    guarded = authenticator()
    head, payload, signature = token().split(".")
    borrowed = token(sub="somebody-else").rpartition(".")[2]
    short = urlsafe_b64encode(b"\x00" * 16).rstrip(b"=").decode()
    for wrong in ("", signature[:-2], signature[:11], signature + "AA", signature[::-1], borrowed, short):
        await refused(guarded, f"{head}.{payload}.{wrong}")


async def test_attack_payload_swapped_under_a_good_signature() -> None:
    guarded = authenticator()
    good = token(session_id="s1")
    await guarded.verify(good)
    head, _, signature = good.split(".")
    await refused(guarded, f"{head}.{segment(claims(session_id='s1', sub='admin'))}.{signature}")


async def test_attack_secret_guessed_from_what_is_lying_about() -> None:
    guarded = authenticator()
    for guess in (
        "",
        "secret",
        "\x00",
        SECRET[:-1],
        SECRET + "\n",
        SECRET.upper(),
        OTHER_SECRET,
        hashlib.sha256(SECRET.encode()).hexdigest(),
    ):
        signed = f"{segment(HS256)}.{segment(GOOD)}"
        digest = hmac.digest(guess.encode(), signed.encode(), hashlib.sha256)
        await refused(guarded, f"{signed}.{segment(digest)}")


@pytest.mark.parametrize("length", [0, 1, 16, 31])
def test_attack_on_a_short_secret_is_not_left_to_chance(length: int) -> None:
    with pytest.raises(KeySettingError, match="must be 32 or more"):
        secret_keys("s" * length, None, ["HS256"])


# --- the header ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kid",
    [
        "../../../../dev/null",
        "/etc/passwd",
        "' UNION SELECT 'evil' --",
        "https://evil.example/key",
        "$(evil)",
        "evil|id",
    ],
)
async def test_attack_kid_as_path_query_address_or_command(kid: str, by_key: Authenticator) -> None:
    """A `kid` names a key of a key set and nothing else, so there it changes nothing who signed."""
    assert (await authenticator().verify(token(headers={"kid": kid}))).user == "user-1"
    await refused(authenticator(), token("an empty file's content, as it were", headers={"kid": kid}))
    await refused(by_key, forge({"alg": "HS256", "kid": kid}, GOOD, ""))


@pytest.mark.parametrize("kid", ["", "k" * 257, "a\nb", "a\x00", "ключ", None, 5, True, ["rsa"], {"evil": 1}])
async def test_attack_kid_that_is_no_short_printable_text(kid: Any) -> None:
    assert "`kid`" in await refused(authenticator(), forge(HS256 | {"kid": kid}, GOOD))


async def test_attack_key_brought_along_in_the_header(by_key: Authenticator) -> None:
    evil = private_key("rsa-evil")
    header = {
        "alg": "RS256",
        "jwk": jwk("rsa-evil"),
        "jku": "https://evil.example/keys",
        "x5u": "https://evil.example/chain",
        "x5c": [standard_b64encode(b"evil").decode()],
    }
    await refused(by_key, forge(header, GOOD, evil, "RS256"))
    # Such members are not forbidden, only never looked at.
    assert (await by_key.verify(forge(header, GOOD, private_key("rsa"), "RS256"))).user == "user-1"


@pytest.mark.parametrize(
    "more",
    [
        {"crit": ["exp"]},
        {"crit": []},
        {"crit": ["b64"], "b64": False},
        {"b64": False},
        {"b64": True},
        {"crit": None},
    ],
)
async def test_attack_extension_that_changes_what_is_signed(more: dict[str, Any]) -> None:
    assert "extension" in await refused(authenticator(), forge(HS256 | more, GOOD))


async def test_attack_unencoded_payload() -> None:
    header = segment(HS256 | {"b64": False, "crit": ["b64"]})
    signed = f"{header}.{GOOD.decode()}"
    digest = hmac.digest(SECRET.encode(), signed.encode(), hashlib.sha256)
    await refused(authenticator(), f"{header}..{segment(digest)}")


@pytest.mark.parametrize(
    "typ", ["logout+jwt", "secevent+jwt", "dpop+jwt", "JWE", "evil", "", 5, ["JWT"], "JWT\x00"]
)
async def test_attack_token_made_for_another_purpose(typ: Any) -> None:
    assert "another purpose" in await refused(authenticator(), forge({"alg": "HS256", "typ": typ}, GOOD))


@pytest.mark.parametrize("typ", ["JWT", "jwt", "at+jwt", "application/at+jwt", None])
async def test_access_tokens_of_every_usual_type_pass(typ: Any) -> None:
    assert (await authenticator().verify(forge({"alg": "HS256", "typ": typ}, GOOD))).user == "user-1"


@pytest.mark.parametrize(
    "header",
    [
        b'{"alg":"HS256","alg":"none"}',
        b'{"alg":"none","alg":"HS256"}',
        b'{"alg":"HS256","kid":"a","k\\u0069d":"b"}',
        b'{"alg":"HS256","x":NaN}',
        b'{"alg":"HS256","x":' + b"[" * 500 + b"]" * 500 + b"}",
        b'{"alg":"HS256","x":' + b"9" * 5000 + b"}",
        b'["alg","HS256"]',
        b'"HS256"',
        b"null",
        b"{}",
        b"",
        b"\xef\xbb\xbf" + b'{"alg":"HS256"}',
        '{"alg":"HS256"}'.encode("utf-16"),
        b'{"alg":"HS256"}{"alg":"HS256"}',
        b'{"alg":"HS256"',
        b'{"alg":"HS256"}\xff',
    ],
)
async def test_attack_header_that_two_readers_would_read_differently(header: bytes) -> None:
    await refused(authenticator(), forge(header, GOOD))


# --- the form -----------------------------------------------------------------------------------------


async def test_attack_other_spellings_of_a_good_token() -> None:
    guarded = authenticator()
    good = token()
    head, payload, signature = good.split(".")
    await guarded.verify(good)
    padded = ".".join(part + "=" * (-len(part) % 4) for part in (head, payload, signature))
    for other in (
        f" {good}",
        f"{good} ",
        f"{good}\n",
        f"Bearer {good}",
        f"{good}.",
        f".{good}",
        f"{good}.{signature}",
        f"{head}.{payload}",
        f"{head}..{payload}.{signature}",
        f"{head}.{payload}\n.{signature}",
        f"{head}.{payload}.{signature}=",
        padded if padded != good else f"{good}==",
        good.replace(".", "%2E"),
        f"{head}\x00.{payload}.{signature}",
        "\ufeff" + good,
        good[:-1] + "\udcff",
        json.dumps({"protected": head, "payload": payload, "signature": signature}),
    ):
        await refused(guarded, other)


async def test_attack_standard_base64_alphabet() -> None:
    body = json.dumps(claims(note="\u00fb\u00ff?>~" * 9)).encode()
    head, payload = segment(HS256), standard_b64encode(body).decode().rstrip("=")
    assert "+" in payload or "/" in payload
    digest = hmac.digest(SECRET.encode(), f"{head}.{payload}".encode(), hashlib.sha256)
    await refused(authenticator(), f"{head}.{payload}.{segment(digest)}")


async def test_attack_encrypted_and_nested_tokens() -> None:
    await refused(authenticator(), ".".join(["e30"] * 5))
    await refused(authenticator(), forge(HS256 | {"cty": "JWT"}, token().encode()))


async def test_attack_oversized_token() -> None:
    guarded = authenticator()
    largest = 8192
    filler = "x" * 5900
    while len(longest := token(note=filler)) <= largest:
        filler += "x"
    assert "8192 bytes" in await refused(guarded, longest)
    fitting = token(note=filler[: -(len(longest) - largest)])
    assert len(fitting) <= largest
    await guarded.verify(fitting)
    for text in ("x" * 50_000_000, "é" * 10_000_000, "." * 10_000_000):
        began = time.process_time()
        with pytest.raises(AuthError, match="8192 bytes"):
            await guarded.verify(text)
        assert time.process_time() - began < 0.1


async def test_attack_token_that_is_expensive_to_look_at() -> None:
    """The dearest 8 KiB an attacker can send without a key must stay in the range of one signature check."""
    guarded = authenticator()
    dots, deep = "." * 8192, segment(b"[" * 6000)
    dear = [
        dots,
        "a" * 8192,
        f"{deep}.e30.e30",
        f"{segment(HS256)}.{'A' * 8000}.AAAA",
        f"{segment(b'{' + b','.join(b'%d:1' % n for n in range(700)) + b'}')}.e30.e30",
    ]
    for text in dear:
        began = time.process_time()
        for _ in range(20):
            await refused(guarded, text)
        assert (time.process_time() - began) / 20 < 0.02


# --- claims -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "payload",
    [
        b'{"sub":"user-1","sub":"admin","exp":EXP}',
        b'{"sub":"admin","exp":1,"exp":EXP}',
        b'{"sub":"user-1","s\\u0075b":"admin","exp":EXP}',
        b'{"sub":"user-1","exp":EXP,"x":{"a":1,"a":2}}',
        b'{"sub":"user-1","exp":NaN}',
        b'{"sub":"user-1","exp":Infinity}',
        b'{"sub":"user-1","exp":-Infinity}',
        b'{"sub":"user-1","exp":1e999}',
        b'{"sub":"user-1","exp":' + b"9" * 5000 + b"}",
        b'{"sub":"user-1","exp":"EXP"}',
        b'{"sub":"user-1","exp":true}',
        b'{"sub":"user-1","exp":[EXP]}',
        b'{"sub":"user-1","exp":{"a":EXP}}',
        b'{"sub":"user-1","exp":null}',
        b'{"sub":"user-1"}',
        b'{"sub":"user-1","exp":EXP,"x":' + b"[" * 2000 + b"]" * 2000 + b"}",
        b'["sub","user-1"]',
        b'"sub"',
        b"",
        b"null",
        b'{"sub":"user-1","exp":EXP}{}',
        b"\xef\xbb\xbf" + b'{"sub":"user-1","exp":EXP}',
        b'{"sub":"\xff","exp":EXP}',
        b'{"sub":"user-1","exp":EXP}\x00',
    ],
)
async def test_attack_payload_that_two_readers_would_read_differently(payload: bytes) -> None:
    body = payload.replace(b"EXP", str(int(time.time()) + 600).encode())
    await refused(authenticator(), forge(HS256, body))


async def test_attack_expired_token() -> None:
    now = time.time()
    for expiry in (now - 31, now - 86400, 1, 0, -1, -1e300):
        assert "expired" in await refused(authenticator(), token(exp=expiry), "token_expired")


async def test_attack_token_that_never_ends() -> None:
    for expiry in (
        time.time() + 11 * 366 * 86400,
        253402300800,
        int(time.time() * 1000),
        2**63,
        1e308,
        10**300,
    ):
        assert "ten years" in await refused(authenticator(), token(exp=expiry))


async def test_attack_token_used_before_its_time() -> None:
    for name in ("nbf", "iat"):
        for moment in (time.time() + 60, 4102444800, 1e308, "0", True, None):
            assert f"`{name}`" in await refused(authenticator(), forge(HS256, claims(**{name: moment})))


async def test_attack_token_for_another_audience_or_by_another_issuer() -> None:
    guarded = authenticator(jwt_issuer="https://id.example", jwt_audience="sse")
    good = {"iss": "https://id.example", "aud": "sse"}
    await guarded.verify(token(**good))
    for changed in (
        {"aud": "billing"},
        {"aud": "ss"},
        {"aud": "sse2"},
        {"aud": ["billing"]},
        {"aud": "*"},
        {"aud": ...},
        {"iss": "https://id.example.evil.example"},
        {"iss": "https://ID.example"},
        {"iss": ...},
    ):
        await refused(guarded, forge(HS256, claims(**(good | changed))))
    await refused(authenticator(), token(aud="billing"))


@pytest.mark.parametrize(
    "user",
    [
        "",
        " ",
        "a\r\nSet-Cookie: evil",
        "a\x00",
        "\x1b]0;evil\x07",
        "admin\u202enimda",
        "ad\u200dmin",
        "\u2028evil",
        "u" * 257,
        None,
        0,
        True,
        [],
        ["admin"],
    ],
)
async def test_attack_user_that_would_deceive_people_or_logs(user: Any) -> None:
    assert "`sub`" in await refused(authenticator(), forge(HS256, claims(sub=user)))


# --- reach --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pattern",
    [
        "u1*",
        "*1:s",
        "u*:s",
        "u1:s*",
        "u1:?",
        "u1:[s]",
        "u1:*:*",
        ".*",
        "u1:**",
        "%",
        "u1:s\n",
        "U1:s",
        " u1:s",
    ],
)
async def test_attack_wildcard_that_reaches_more_than_its_own(pattern: str) -> None:
    """`.*` is a pattern, for sessions that begin with a dot; the others are none, or name other sessions."""
    principal = await authenticator().verify(token(sub="evil", sessions=[pattern], session_id=pattern))
    for session in ("u1:s", "u10:s", "u1", "u2:s"):
        assert not principal.names(session)


async def test_attack_star_in_the_claim_for_one_session() -> None:
    for star in ("*", "u1:*", ["*"], {"*": "*"}):
        principal = await authenticator().verify(token(session_id=star))
        assert not principal.names("u1:s")


async def test_attack_sessions_claim_of_another_shape() -> None:
    for sessions in ("*", "u1:s", {"u1:s": 1}, [["*"]], [{"*": 1}], [None, 0, True], True, 5):
        principal = await authenticator().verify(token(sessions=sessions))
        assert not principal.names("u1:s")


@pytest.mark.parametrize("owner", ["User-1", "user-1 ", "user-10", "user", "user\u200b-1", "usеr-1", "*", ""])
async def test_attack_name_that_resembles_the_owners(owner: str) -> None:
    guarded = authenticator()
    principal = await guarded.verify(token(sub="user-1"))
    with pytest.raises(GatewayError) as caught:
        guarded.authorise(principal, "s1", owner, READ)
    assert caught.value.code == "forbidden_session"


async def test_attack_session_without_an_owner_is_nobodys() -> None:
    guarded = authenticator()
    for nobody in (None, ""):
        with pytest.raises(GatewayError, match="session rule"):
            guarded.require_session(Principal("", (), frozenset({READ}), 5.0), "s1", nobody)


@pytest.mark.parametrize(
    "scope",
    [
        "",
        "openid",
        "SSE:publish",
        "publish",
        "sse:publishing",
        "sse:*",
        "sse:publish\x00",
        "sse:read,sse:publish",
        "sse:read\tsse:publish",
    ],
)
async def test_attack_scope_that_resembles_publish(scope: str) -> None:
    guarded = authenticator()
    principal = await guarded.verify(token(session_id="s1", scope=scope))
    with pytest.raises(GatewayError) as caught:
        guarded.authorise(principal, "s1", None, PUBLISH)
    assert caught.value.code == "missing_scope"


async def test_attack_unknown_scope_to_be_given_the_default_ones() -> None:
    guarded = authenticator()
    principal = await guarded.verify(token(session_id="s1", scope="sse:none"))
    with pytest.raises(GatewayError, match="scope rule"):
        guarded.authorise(principal, "s1", None, READ)


async def test_attack_remembered_token_changed_in_one_character() -> None:
    guarded = authenticator()
    good = token()
    await guarded.verify(good)
    for position in range(len(good)):
        other = "B" if good[position] != "B" else "C"
        await refused(guarded, good[:position] + other + good[position + 1 :])


# --- key sets -----------------------------------------------------------------------------------------


class Provider:
    """A gateway that trusts one endpoint, and the clock that drives its fetching."""

    def __init__(self, endpoint: KeySetEndpoint, url: str) -> None:
        self.endpoint = endpoint
        self.clock = Clock()
        algorithms = ["RS256", "ES256", "EdDSA"]
        source = JwksKeys(url, algorithms, clock=self.clock)
        self.guarded = authenticator(keys=source, jwt_jwks_url=url, jwt_algorithms=algorithms)


@pytest.fixture
async def provider(aiohttp_server: AiohttpServer) -> Any:
    endpoint = KeySetEndpoint([jwk("rsa"), jwk("p256")])
    server = await aiohttp_server(endpoint.app())
    made = Provider(endpoint, str(server.make_url("/keys")))
    yield made
    await made.guarded.close()


async def test_attack_key_set_flooded_with_invented_key_ids(provider: Provider) -> None:
    """A thousand invented ids in a minute: at most one fetch in ten seconds, and users notice nothing."""
    good = [token(private_key("rsa"), "RS256", {"kid": "rsa"}, sub=f"user-{n}") for n in range(100)]
    await provider.guarded.verify(good[0])
    for number in range(1000):
        provider.clock.now += 0.06
        invented = f"{segment({'alg': 'RS256', 'kid': f'evil-{number}'})}.{segment(GOOD)}.{segment(b'evil')}"
        with pytest.raises((AuthError, KeysUnavailable)) as caught:
            await provider.guarded.verify(invented)
        assert "evil" not in caught.value.message
        if number % 10 == 0:
            assert (await provider.guarded.verify(good[number // 10])).user == f"user-{number // 10}"
    assert provider.endpoint.requests <= 7
    assert len(provider.guarded._keys._unknown) <= 1000  # type: ignore[attr-defined]


async def test_attack_same_unknown_key_id_over_and_over(provider: Provider) -> None:
    unknown = token(private_key("rsa-evil"), "RS256", {"kid": "rsa-evil"})
    await provider.guarded.verify(token(private_key("rsa"), "RS256", {"kid": "rsa"}))
    provider.clock.now += 60
    for _ in range(200):
        provider.clock.now += 0.1
        await refused(provider.guarded, unknown)
    assert provider.endpoint.requests == 2


async def test_attack_key_set_poisoned_with_a_secret(provider: Provider) -> None:
    """An `oct` key in a key set would turn whoever reads the set into somebody who can sign."""
    secret = urlsafe_b64encode(SECRET.encode()).rstrip(b"=").decode()
    provider.endpoint.keys += [
        {"kty": "oct", "kid": "evil", "k": secret, "alg": "HS256"},
        {"kty": "oct", "kid": "evil", "k": secret, "alg": "RS256"},
    ]
    for header in (
        {"alg": "HS256", "kid": "evil"},
        {"alg": "RS256", "kid": "evil"},
        {"alg": "HS256", "kid": "rsa"},
    ):
        await refused(provider.guarded, forge(header, GOOD))


async def test_attack_public_key_of_the_set_as_hmac_secret(provider: Provider) -> None:
    for material in spellings_of_public_key("rsa"):
        signed = f"{segment({'alg': 'HS256', 'kid': 'rsa'})}.{segment(GOOD)}"
        await refused(
            provider.guarded, f"{signed}.{segment(hmac.digest(material, signed.encode(), hashlib.sha256))}"
        )


async def test_attack_key_whose_private_half_was_published(provider: Provider) -> None:
    provider.endpoint.keys.append(jwk("rsa-open", d="AQAB"))
    await refused(provider.guarded, token(private_key("rsa-open"), "RS256", {"kid": "rsa-open"}))


async def test_attack_encryption_key_used_to_sign(provider: Provider) -> None:
    provider.endpoint.keys += [jwk("rsa-enc", use="enc"), jwk("p256-enc", key_ops=["deriveKey"])]
    await refused(provider.guarded, token(private_key("rsa-enc"), "RS256", {"kid": "rsa-enc"}))
    await refused(provider.guarded, token(private_key("p256-enc"), "ES256", {"kid": "p256-enc"}))


async def test_attack_kid_of_one_key_with_the_signature_of_another(provider: Provider) -> None:
    await refused(provider.guarded, token(private_key("p256"), "ES256", {"kid": "rsa"}))
    await refused(provider.guarded, token(private_key("rsa-evil"), "RS256", {"kid": "rsa"}))


async def test_attack_key_set_redirected_to_another_server(
    provider: Provider, aiohttp_server: AiohttpServer
) -> None:
    evil = KeySetEndpoint([jwk("rsa-evil")])
    elsewhere = await aiohttp_server(evil.app())
    provider.endpoint.headers = {"Location": str(elsewhere.make_url("/keys"))}
    for status in (301, 302, 303, 307, 308):
        provider.endpoint.status = status
        provider.clock.now += 120
        with pytest.raises(KeysUnavailable):
            await provider.guarded.verify(token(private_key("rsa-evil"), "RS256", {"kid": "rsa-evil"}))
    assert provider.endpoint.requests == 5
    assert evil.requests == 0


async def test_attack_endless_and_compressed_key_sets(aiohttp_server: AiohttpServer) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(10_000):
            if request.transport is None or request.transport.is_closing():
                break
            await response.write(b" " * 65536)
        return response

    async def compressed(request: web.Request) -> web.Response:
        body = json.dumps({"keys": [jwk("rsa")]}).encode()
        response = web.Response(body=body + b" " * 50_000_000)
        response.enable_compression(web.ContentCoding.gzip)
        return response

    app = web.Application()
    app.router.add_get("/endless", endless)
    app.router.add_get("/compressed", compressed)
    server = await aiohttp_server(app)
    for path in ("/endless", "/compressed"):
        source = JwksKeys(str(server.make_url(path)), ["RS256"])
        began = time.perf_counter()
        with pytest.raises(KeysUnavailable):
            await source.find("RS256", "rsa")
        assert time.perf_counter() - began < 3
        await source.close()


async def test_attack_key_set_of_many_keys_or_of_keys_that_are_costly(provider: Provider) -> None:
    good = token(private_key("rsa"), "RS256", {"kid": "rsa"})
    await provider.guarded.verify(good)
    for poison in (
        [jwk("p256", kid=str(number)) for number in range(65)],
        [jwk("rsa", kid="evil", e="_" * 342)],
    ):
        provider.clock.now += 700
        provider.endpoint.keys = poison
        assert (await provider.guarded.verify(good)).user == "user-1"
    provider.endpoint.keys = [jwk("rsa")] * 64
    provider.clock.now += 700
    assert (await provider.guarded.verify(good)).user == "user-1"
    assert len(await provider.guarded._keys.find("RS256", "rsa")) <= 4
