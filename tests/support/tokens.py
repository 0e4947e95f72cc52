"""Make keys, tokens good and bad, and a key-set endpoint that misbehaves on request.

`forge` signs any bytes under any header, which no proper library would.
"""

from __future__ import annotations

import asyncio
import functools
import json
import time
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from sse_gateway.auth import Authenticator
from sse_gateway.auth.keys import KeySource
from sse_gateway.config import Settings
from tests.support.leaks import noted

SECRET = "a secret of the tests, longer than needed: 0123456789"
OTHER_SECRET = "another secret of the tests, nobody gave it: 0123456789"


class Clock:
    """A clock that stands still until it is moved; starts at the real time."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@functools.cache
def private_key(name: str) -> Any:
    """Return the same new key for the same name; what the name begins with decides the kind."""
    if name.startswith("rsa1024"):
        return rsa.generate_private_key(public_exponent=65537, key_size=1024)
    if name.startswith("rsa"):
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    curves = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1(), "k256": ec.SECP256K1()}
    for prefix, curve in curves.items():
        if name.startswith(prefix):
            return ec.generate_private_key(curve)
    return ed25519.Ed25519PrivateKey.generate()


def public_pem(name: str) -> str:
    public = private_key(name).public_key()
    return str(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), "ascii")


def private_pem(name: str) -> str:
    key = private_key(name)
    return str(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), "ascii")


def jwk(name: str, **more: Any) -> dict[str, Any]:
    """Return the public JWK of a key, its name as `kid`; a member given as None is left out."""
    maker = {"rsa": "RS256", "p25": "ES256", "p38": "ES384", "p52": "ES512", "k25": "ES256"}.get(
        name[:3], "EdDSA"
    )
    algorithm = jwt.PyJWS().get_algorithm_by_name(maker)
    members = json.loads(algorithm.to_jwk(private_key(name).public_key()))
    members = {"kid": name, "use": "sig"} | members | more
    return {member: value for member, value in members.items() if value is not None}


def claims(**changed: Any) -> dict[str, Any]:
    """Return good claims with some changed; a claim given as `...` is left out."""
    now = int(time.time())
    made = {"sub": "user-1", "exp": now + 600, "iat": now} | changed
    return {name: value for name, value in made.items() if value is not ...}


def token(
    key: Any = SECRET, algorithm: str = "HS256", headers: dict[str, Any] | None = None, **changed: Any
) -> str:
    """Return a token as a proper issuer makes it; `changed` as in `claims`."""
    return noted(jwt.encode(claims(**changed), key, algorithm=algorithm, headers=headers))


def segment(part: bytes | dict[str, Any]) -> str:
    data = part if isinstance(part, bytes) else json.dumps(part).encode()
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def forge(
    header: bytes | dict[str, Any],
    payload: bytes | dict[str, Any],
    key: Any = SECRET,
    algorithm: str = "HS256",
) -> str:
    """Sign exactly these bytes, whatever the header says."""
    signed = f"{segment(header)}.{segment(payload)}"
    algorithm_ = jwt.PyJWS().get_algorithm_by_name(algorithm)
    raw_key = key.encode() if isinstance(key, str) else key
    return noted(f"{signed}.{segment(algorithm_.sign(signed.encode(), raw_key))}")


def authenticator(
    *, keys: KeySource | None = None, clock: Clock | None = None, **settings: Any
) -> Authenticator:
    """Return an authenticator for these settings; with none about keys, for `SECRET`."""
    if not settings.keys() & {"jwt_secret", "jwt_public_key_file", "jwt_jwks_url"}:
        settings["jwt_secret"] = SECRET
    return Authenticator(Settings(**settings), keys=keys, clock=clock or time.time)


@dataclass
class KeySetEndpoint:
    """An identity provider's key-set endpoint; set `keys`, `status` or `body` to change what it answers."""

    keys: list[Any] = field(default_factory=list)
    status: int = 200
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    requests: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """Clear it to let requests wait."""

    def __post_init__(self) -> None:
        self.gate.set()

    async def answer(self, request: web.Request) -> web.Response:
        del request
        self.requests += 1
        await self.gate.wait()
        body = self.body if self.body is not None else json.dumps({"keys": self.keys}).encode()
        return web.Response(
            status=self.status, body=body, headers=self.headers, content_type="application/json"
        )

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/keys", self.answer)
        return app
