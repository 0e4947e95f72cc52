"""Secrets and PEM files: what is taken for a key, and for which algorithms."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Collection
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from sse_gateway.auth import KeySettingError
from sse_gateway.auth.keys import StaticKeys, pem_keys, secret_keys
from sse_gateway.auth.tokens import key_source
from sse_gateway.config import Settings
from sse_gateway.core.errors import AuthError
from tests.support.tokens import (
    OTHER_SECRET,
    SECRET,
    authenticator,
    private_key,
    private_pem,
    public_pem,
    token,
)

PUBLIC = ("RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "EdDSA")


async def algorithms(
    source: StaticKeys, among: Collection[str] = ("HS256", "HS384", "HS512", *PUBLIC)
) -> set[str]:
    return {algorithm for algorithm in among if await source.find(algorithm, None)}


def write(folder: Path, text: str) -> Path:
    path = folder / "keys.pem"
    path.write_text(text)
    return path


def certificate(name: str) -> str:
    key = private_key(name)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issuer")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, SHA256())
    )
    return made.public_bytes(Encoding.PEM).decode()


async def test_a_secret_is_for_hs_alone_and_only_as_far_as_its_length_goes() -> None:
    everything = ("HS256", "HS384", "HS512", *PUBLIC)
    assert await algorithms(secret_keys("s" * 32, None, everything)) == {"HS256"}
    assert await algorithms(secret_keys("s" * 48, None, everything)) == {"HS256", "HS384"}
    assert await algorithms(secret_keys("s" * 64, None, everything)) == {"HS256", "HS384", "HS512"}
    assert await algorithms(secret_keys("s" * 64, None, ["HS512"])) == {"HS512"}


async def test_length_is_counted_in_bytes() -> None:
    assert await algorithms(secret_keys("é" * 16, None, ["HS256"])) == {"HS256"}


@pytest.mark.parametrize(
    ("secret", "previous", "allowed", "message"),
    [
        ("s" * 31, None, ["HS256"], "JWT_SECRET is 31 bytes long, and must be 32 or more"),
        (SECRET, "s" * 31, ["HS256"], "JWT_SECRET_PREVIOUS is 31 bytes long"),
        ("s" * 32, None, ["HS512"], "fits none of JWT_ALGORITHMS .HS512 needs 64 bytes"),
        ("s" * 64, None, ["RS256"], "a secret is for HS. alone"),
        (public_pem("rsa"), None, ["HS256"], "JWT_SECRET holds a public key"),
        (public_pem("p256"), None, ["HS256"], "JWT_SECRET holds a public key"),
        (
            '{"kty":"oct","k":"c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"}',
            None,
            ["HS256"],
            "JWT_SECRET holds a public key",
        ),
    ],
)
def test_a_secret_that_cannot_serve_stops_the_start(
    secret: str, previous: str | None, allowed: list[str], message: str
) -> None:
    with pytest.raises(KeySettingError, match=message) as caught:
        secret_keys(secret, previous, allowed)
    assert secret not in str(caught.value)


async def test_the_previous_secret_is_accepted_during_a_rotation_and_no_other() -> None:
    rotating = authenticator(jwt_secret=SECRET, jwt_secret_previous=OTHER_SECRET)
    assert (await rotating.verify(token(SECRET))).user == "user-1"
    assert (await rotating.verify(token(OTHER_SECRET))).user == "user-1"
    with pytest.raises(AuthError, match="signature"):
        await rotating.verify(token("a third secret, which is long enough too"))
    rotated = authenticator(jwt_secret=SECRET)
    with pytest.raises(AuthError, match="signature"):
        await rotated.verify(token(OTHER_SECRET))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rsa", {"RS256", "RS384", "RS512"}),
        ("p256", {"ES256"}),
        ("p384", {"ES384"}),
        ("p521", {"ES512"}),
        ("ed25519", {"EdDSA"}),
    ],
)
async def test_a_public_key_is_for_the_algorithms_of_its_kind(
    name: str, expected: set[str], tmp_path: Path
) -> None:
    path = write(tmp_path, public_pem(name))
    assert await algorithms(pem_keys(path, PUBLIC)) == expected
    one = sorted(expected)[0]
    guarded = authenticator(jwt_public_key_file=path, jwt_algorithms=[one])
    assert (await guarded.verify(token(private_key(name), one))).user == "user-1"


async def test_a_certificate_serves_as_its_public_key(tmp_path: Path) -> None:
    path = write(tmp_path, certificate("rsa"))
    guarded = authenticator(jwt_public_key_file=path)
    assert (await guarded.verify(token(private_key("rsa"), "RS256"))).user == "user-1"


async def test_a_pem_file_may_hold_several_keys_of_several_kinds(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        f"the new one\n{public_pem('rsa')}\nthe old ones\n{public_pem('rsa-old')}{public_pem('p256')}",
    )
    guarded = authenticator(jwt_public_key_file=path)
    for name, algorithm in (("rsa", "RS256"), ("rsa-old", "RS256"), ("p256", "ES256")):
        assert (await guarded.verify(token(private_key(name), algorithm))).user == "user-1"
    with pytest.raises(AuthError, match="signature"):
        await guarded.verify(token(private_key("rsa-strange"), "RS256"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "must hold 1 to 16 PEM public keys; it has 0"),
        ("not pem at all", "it has 0"),
        (private_pem("rsa"), "is private"),
        (public_pem("rsa") + private_pem("p256"), "key 2 of 2 is private"),
        (public_pem("rsa1024"), "must have 2048 to 8192 bits, this one has 1024"),
        (public_pem("k256"), "not an RSA, P-256"),
        (public_pem("p256") * 17, "it has 17"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "cannot be used"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cannot be used"),
        ("é", "is not PEM"),
        (public_pem("rsa") + " " * 65536, "must hold"),
    ],
)
def test_a_pem_file_that_cannot_serve_stops_the_start(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(KeySettingError, match=message):
        pem_keys(write(tmp_path, content), PUBLIC)


def test_a_key_that_fits_no_allowed_algorithm_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(KeySettingError, match="fits none of JWT_ALGORITHMS; it is for ES256"):
        pem_keys(write(tmp_path, public_pem("p256")), ["RS256"])


def test_a_pem_file_that_is_missing_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(KeySettingError, match="cannot be read: No such file"):
        pem_keys(tmp_path / "missing.pem", PUBLIC)


def test_a_gateway_has_one_kind_of_key() -> None:
    two = Settings.model_construct(
        jwt_secret=None, jwt_public_key_file=None, jwt_jwks_url=None, jwt_algorithms=()
    )
    with pytest.raises(KeySettingError, match="exactly one of"):
        key_source(two)


def test_a_key_does_not_show_its_material(caplog: pytest.LogCaptureFixture) -> None:
    source = secret_keys(SECRET, None, ["HS256"])
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("test").debug("%r %s", source._keys[0], source._keys)
    assert SECRET not in caplog.text
