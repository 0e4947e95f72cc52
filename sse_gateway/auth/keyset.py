"""Read a JSON Web Key Set (RFC 7517) whose author may be an attacker: only public signing keys come out.

Knows nothing of HTTP: bytes in, keys out, or `BadKeySet`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm

from sse_gateway.auth.compact import is_key_id
from sse_gateway.auth.keys import Key, PublicKey, algorithms_of
from sse_gateway.core.errors import GatewayError
from sse_gateway.core.events import loads_strict

MAX_KEYS = 64
_MAX_NUMBER_CHARS = 1400  # base64url of 8192 bits is 1366; a larger one is not even made into a number
_ANY_OF_KIND = {"RSA": "RS256", "OKP": "EdDSA"}
_ANY_OF_CURVE = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}


class BadKeySet(Exception):
    """Refuse a whole document; the message says why."""


class _Unusable(Exception):
    """Pass over one key of a set; the others may be good."""


def read_key_set(body: bytes, allowed: Collection[str]) -> tuple[list[Key], list[str]]:
    """Return the keys that may verify tokens, and why the others may not.

    A document without any usable key is refused, so that an empty answer of an endpoint in trouble does not
    take away the keys that were good a minute ago.
    """
    try:
        document = loads_strict(body, unique_keys=True)
    except GatewayError as error:
        raise BadKeySet(error.message) from None
    members = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(members, list):
        raise BadKeySet("it is no JSON object with a list of 'keys'")
    if len(members) > MAX_KEYS:
        raise BadKeySet(f"it has {len(members)} keys, and at most {MAX_KEYS} are taken")
    keys: list[Key] = []
    faults: list[str] = []
    for number, member in enumerate(members, 1):
        try:
            keys.append(_key(member, number, frozenset(allowed)))
        except _Unusable as fault:
            faults.append(f"key {number}: {fault}")
    if not keys:
        raise BadKeySet(
            f"none of its {len(members)} keys can be used ({'; '.join(faults[:3]) or 'it is empty'})"
        )
    return keys, faults


def _key(member: Any, number: int, allowed: frozenset[str]) -> Key:
    if not isinstance(member, dict):
        raise _Unusable("not an object")
    key_id = member.get("kid")
    if key_id is not None and not (isinstance(key_id, str) and is_key_id(key_id)):
        raise _Unusable("its kid is not a short printable text")
    _check_purpose(member)
    public = _public_key(member)
    try:
        fit = algorithms_of(public) & allowed
    except ValueError as error:
        raise _Unusable(str(error)) from None
    declared = member.get("alg")
    if declared is not None:
        fit &= {declared} if isinstance(declared, str) else set()
    if not fit:
        raise _Unusable("it is for none of JWT_ALGORITHMS")
    return Key(
        public, fit, f"JWT_JWKS_URL, kid {key_id}" if key_id else f"JWT_JWKS_URL, key {number}", key_id
    )


def _check_purpose(member: dict[str, Any]) -> None:
    if member.get("kty") == "oct" or "k" in member:
        raise _Unusable("it is a secret, and a published secret is none")
    if "d" in member:
        raise _Unusable("it is a private key, so anybody may have signed with it")
    if member.get("use") not in (None, "sig"):
        raise _Unusable("its use is not signing")
    operations = member.get("key_ops")
    if operations is not None and not (isinstance(operations, list) and "verify" in operations):
        raise _Unusable("its key_ops do not include verify")


def _public_key(member: dict[str, Any]) -> PublicKey:
    for name in ("n", "e", "x", "y"):
        number = member.get(name, "")
        if not isinstance(number, str) or len(number) > _MAX_NUMBER_CHARS:
            raise _Unusable(f"its {name} is not a number of sane size")
    kind, curve = member.get("kty"), member.get("crv")
    algorithm = _ANY_OF_CURVE.get(str(curve)) if kind == "EC" else _ANY_OF_KIND.get(str(kind))
    if algorithm is None:
        raise _Unusable("neither RSA nor a curve we use")
    try:
        # PyJWT would take `alg` from the document; it only has to load the key here, `_key` binds it.
        public = jwt.PyJWK(member, algorithm=algorithm).key
    except (jwt.PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, KeyError):
        raise _Unusable("its numbers make no key") from None
    if not isinstance(public, PublicKey):
        raise _Unusable("it is no public key")
    return public
