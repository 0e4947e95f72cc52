"""Hold verification keys, each bound to its algorithms, and find the ones a token may be tried with.

Keys of different kinds are never pooled: a gateway has a secret (HS* alone), or public keys (RS*, ES*, EdDSA
alone), so a public key can never be taken for a secret (RFC 8725, 2.1). A key's algorithms come from the key
and the settings, never from the token.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import jwt
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from sse_gateway.core.errors import Unavailable

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey | Ed448PublicKey

SECRET_ALGORITHMS = {"HS256": 32, "HS384": 48, "HS512": 64}
"""Bytes a secret needs at least, by algorithm (RFC 7518, 3.2)."""
PUBLIC_ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "EdDSA"})

_RSA_ALGORITHMS = frozenset({"RS256", "RS384", "RS512"})
_CURVE_ALGORITHMS = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_RSA_BITS = range(2048, 8193)
_RSA_EXPONENT_BITS = 33  # a huge one makes each verification cost what signing costs
_MAX_PEM_BYTES = 64 * 1024
_MAX_PEM_KEYS = 16
_PEM_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----", re.DOTALL)


class KeySettingError(ValueError):
    """Refuse to start: a key setting cannot be used. The message names the setting."""


class KeysUnavailable(Unavailable):
    """Tell that nobody can say yet whether a token is good: the key set could not be fetched.

    Not an `AuthError`, because a browser's `EventSource` gives up for ever on a 401, and this passes.
    """

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.code = "keys_unavailable"
        self.retry_after = retry_after

    @property
    def status(self) -> int:
        return 503


@dataclass(frozen=True, slots=True)
class Key:
    """One key, what it may verify, and what to call it when the outcome is explained."""

    material: bytes | PublicKey
    algorithms: frozenset[str]
    label: str = field(compare=False)
    key_id: str | None = None

    def __repr__(self) -> str:
        return f"Key({self.label!r}, {sorted(self.algorithms)})"


class KeySource(Protocol):
    """Where keys come from."""

    @property
    def generation(self) -> int:
        """Change whenever a key has gone, so that what it verified is not believed any longer."""

    async def freshen(self) -> None:
        """Look after the keys' age; called before every verification, so it is quick when all is well."""

    async def find(self, algorithm: str, key_id: str | None) -> Sequence[Key]:
        """Return the keys to try, maybe none; raises KeysUnavailable if that cannot be told now."""

    async def close(self) -> None: ...


class StaticKeys:
    """Serve keys that were given at start: a secret and the one before it, or a PEM file's.

    A token's `kid` is ignored: it would be a name from outside for something that needs none.
    """

    def __init__(self, keys: Iterable[Key]) -> None:
        self._keys = tuple(keys)
        self.generation = 0

    async def freshen(self) -> None:
        return

    async def find(self, algorithm: str, key_id: str | None) -> Sequence[Key]:  # noqa: ARG002 - see above
        return [key for key in self._keys if algorithm in key.algorithms]

    async def close(self) -> None:
        return


def secret_keys(secret: str, previous: str | None, allowed: Collection[str]) -> StaticKeys:
    """Make keys of the secret and the one before it; raises KeySettingError."""
    keys = [_secret_key(secret, "JWT_SECRET", allowed)]
    if previous is not None:
        keys.append(_secret_key(previous, "JWT_SECRET_PREVIOUS", allowed))
    return StaticKeys(keys)


def _secret_key(secret: str, name: str, allowed: Collection[str]) -> Key:
    material = secret.encode()
    shortest = min(SECRET_ALGORITHMS.values())
    if len(material) < shortest:
        raise KeySettingError(f"{name} is {len(material)} bytes long, and must be {shortest} or more.")
    try:
        jwt.PyJWS().get_algorithm_by_name("HS256").prepare_key(material)
    except jwt.InvalidKeyError:
        # Everybody may have a public key, so as a secret it would let everybody sign.
        raise KeySettingError(
            f"{name} holds a public key, certificate or JWK, which is no secret; "
            "set JWT_PUBLIC_KEY_FILE or JWT_JWKS_URL instead."
        ) from None
    fit = frozenset(
        name for name, least in SECRET_ALGORITHMS.items() if name in allowed and len(material) >= least
    )
    if not fit:
        needed = ", ".join(f"{a} needs {n} bytes" for a, n in SECRET_ALGORITHMS.items() if a in allowed)
        raise KeySettingError(
            f"{name} is {len(material)} bytes long and fits none of JWT_ALGORITHMS "
            f"({needed or 'a secret is for HS* alone'})."
        )
    return Key(material, fit, name)


def pem_keys(path: Path, allowed: Collection[str]) -> StaticKeys:
    """Read public keys or certificates, several of them during a rotation; raises KeySettingError."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_PEM_BYTES + 1)
        text = content.decode("ascii")
    except OSError as error:
        raise KeySettingError(f"JWT_PUBLIC_KEY_FILE cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise KeySettingError(
            "JWT_PUBLIC_KEY_FILE is not PEM; binary (DER) keys must be converted."
        ) from None
    blocks = list(_PEM_BLOCK.finditer(text))
    if not 1 <= len(blocks) <= _MAX_PEM_KEYS or len(content) > _MAX_PEM_BYTES:
        raise KeySettingError(
            f"JWT_PUBLIC_KEY_FILE must hold 1 to {_MAX_PEM_KEYS} PEM public keys; it has {len(blocks)}."
        )
    labels = [f"JWT_PUBLIC_KEY_FILE, key {number} of {len(blocks)}" for number in range(1, len(blocks) + 1)]
    return StaticKeys(
        _pem_key(block[1], block[0], label, allowed) for block, label in zip(blocks, labels, strict=True)
    )


def _pem_key(kind: str, text: str, label: str, allowed: Collection[str]) -> Key:
    if "PRIVATE" in kind:
        raise KeySettingError(
            f"{label} is private. The gateway only verifies: give it the public key, "
            "and keep the private one away from it."
        )
    try:
        public: object = (
            x509.load_pem_x509_certificate(text.encode()).public_key()
            if kind == "CERTIFICATE"
            else load_pem_public_key(text.encode())
        )
        fit = algorithms_of(public) & frozenset(allowed)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeySettingError(f"{label} cannot be used: {str(error) or type(error).__name__}.") from None
    if not fit:
        raise KeySettingError(
            f"{label} fits none of JWT_ALGORITHMS; it is for {_listed(algorithms_of(public))}."
        )
    assert isinstance(public, PublicKey)
    return Key(public, fit, label)


def algorithms_of(key: object) -> frozenset[str]:
    """Return the algorithms a public key is for; raises ValueError for a kind or a size we do not use."""
    if isinstance(key, RSAPublicKey):
        if key.key_size not in _RSA_BITS:
            raise ValueError(f"an RSA key must have 2048 to 8192 bits, this one has {key.key_size}")
        if key.public_numbers().e.bit_length() > _RSA_EXPONENT_BITS:
            raise ValueError("the RSA key's exponent is far too large")
        return _RSA_ALGORITHMS
    if isinstance(key, EllipticCurvePublicKey) and key.curve.name in _CURVE_ALGORITHMS:
        return frozenset({_CURVE_ALGORITHMS[key.curve.name]})
    if isinstance(key, Ed25519PublicKey | Ed448PublicKey):
        return frozenset({"EdDSA"})
    raise ValueError("not an RSA, P-256, P-384, P-521, Ed25519 or Ed448 key")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
