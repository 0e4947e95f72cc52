"""Remember which tokens were verified, so that a page with many calls costs one signature check."""

from __future__ import annotations

import secrets
from hashlib import blake2b

from sse_gateway.auth.principal import Principal


class VerifiedTokens:
    """Keep a bounded number of principals by their token's digest, the oldest giving way.

    Only verified tokens come in, so a flood of bad ones pushes nothing out. The digest is keyed by a secret
    of the process, and the tokens themselves are not kept: a memory dump holds none from here.
    """

    def __init__(self, *, size: int = 10_000) -> None:
        self._size = size
        self._salt = secrets.token_bytes(16)
        self._principals: dict[bytes, Principal] = {}
        # The generation of keys all of these were verified with.
        self._generation = 0

    def __len__(self) -> int:
        return len(self._principals)

    def digest(self, token: str) -> bytes:
        return blake2b(token.encode(), digest_size=16, key=self._salt).digest()

    def find(self, digest: bytes, *, generation: int) -> Principal | None:
        """Return the principal, expired or not; None when the keys have changed since."""
        if generation != self._generation:
            self._principals.clear()
            self._generation = generation
        return self._principals.get(digest)

    def add(self, digest: bytes, principal: Principal) -> None:
        if len(self._principals) >= self._size:
            del self._principals[next(iter(self._principals))]
        self._principals[digest] = principal

    def drop(self, digest: bytes) -> None:
        self._principals.pop(digest, None)
