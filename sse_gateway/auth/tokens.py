"""Verify tokens and judge what their bearers may do.

The order in which a token is read: form and size, header, key, signature, payload, claims. Nothing of the
payload is parsed before the signature is good. Refusals never hold the token, nor text out of it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Protocol

import jwt
from pydantic import SecretStr

from sse_gateway.auth.claims import ClaimRules, Finding, check_claims, principal_of, shown
from sse_gateway.auth.compact import Compact, check_form, invalid, read_compact, read_object
from sse_gateway.auth.explaining import (
    explain_payload,
    explain_reach,
    explain_scopes,
    unverified_payload,
    verdict,
)
from sse_gateway.auth.jwks import JwksKeys
from sse_gateway.auth.keys import Key, KeySettingError, KeySource, pem_keys, secret_keys
from sse_gateway.auth.principal import Principal
from sse_gateway.auth.verified import VerifiedTokens
from sse_gateway.core.errors import AuthError, GatewayError
from sse_gateway.core.keys import check_session_id

logger = logging.getLogger(__name__)


class TokenSettings(Protocol):
    """The settings this package reads; exactly one of the three kinds of key is set."""

    @property
    def jwt_secret(self) -> SecretStr | None: ...
    @property
    def jwt_secret_previous(self) -> SecretStr | None: ...
    @property
    def jwt_public_key_file(self) -> Path | None: ...
    @property
    def jwt_jwks_url(self) -> str | None: ...
    @property
    def jwt_algorithms(self) -> Collection[str]: ...
    @property
    def jwt_issuer(self) -> str | None: ...
    @property
    def jwt_audience(self) -> str | None: ...
    @property
    def jwt_leeway_seconds(self) -> float: ...
    @property
    def jwt_user_claim(self) -> str: ...
    @property
    def jwt_session_claim(self) -> str: ...
    @property
    def jwt_sessions_claim(self) -> str: ...
    @property
    def default_scopes(self) -> Collection[str]: ...


def key_source(settings: TokenSettings) -> KeySource:
    """Return the one kind of key the settings name; raises KeySettingError, also for two kinds or none."""
    secret, pem, url = settings.jwt_secret, settings.jwt_public_key_file, settings.jwt_jwks_url
    if (secret is not None) + (pem is not None) + (url is not None) != 1:
        raise KeySettingError("Set exactly one of JWT_SECRET, JWT_PUBLIC_KEY_FILE and JWT_JWKS_URL.")
    allowed = frozenset(settings.jwt_algorithms)
    if secret is not None:
        previous = settings.jwt_secret_previous
        return secret_keys(
            secret.get_secret_value(), previous.get_secret_value() if previous is not None else None, allowed
        )
    if pem is not None:
        return pem_keys(pem, allowed)
    assert url is not None
    return JwksKeys(url, allowed)


class Authenticator:
    """Verify tokens, and judge principals; one a process, closed at the end.

    Raises KeySettingError when the keys of the settings cannot be used.
    """

    def __init__(
        self,
        settings: TokenSettings,
        *,
        keys: KeySource | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys = keys if keys is not None else key_source(settings)
        self._algorithms = frozenset(settings.jwt_algorithms)
        self._rules = ClaimRules(
            user_claim=settings.jwt_user_claim,
            session_claim=settings.jwt_session_claim,
            sessions_claim=settings.jwt_sessions_claim,
            issuer=settings.jwt_issuer,
            audience=settings.jwt_audience,
            leeway_seconds=settings.jwt_leeway_seconds,
            default_scopes=frozenset(settings.default_scopes),
        )
        self._clock = clock
        self._jws = jwt.PyJWS(algorithms=sorted(self._algorithms))
        self._verified = VerifiedTokens()

    async def verify(self, token: str | None) -> Principal:
        """Return who the token speaks for.

        Raises AuthError (`token_missing`, `token_invalid`, `token_expired`), and KeysUnavailable while a key
        set that would decide cannot be fetched.
        """
        token = check_form(token)
        await self._keys.freshen()
        digest = self._verified.digest(token)
        principal = self._verified.find(digest, generation=self._keys.generation)
        if principal is not None:
            if not principal.expired(self._clock()):
                return principal
            self._verified.drop(digest)
        principal = await self._verify(token)
        self._verified.add(digest, principal)
        return principal

    def authorise(self, principal: Principal, session_id: str, owner: str | None, scope: str) -> None:
        """Raise `missing_scope` or `forbidden_session` unless the principal may do this with the session.

        The scope is judged first: that refusal says nothing about the session, and needs no look at Redis.
        """
        self.require_scope(principal, scope)
        self.require_session(principal, session_id, owner)

    def require_scope(self, principal: Principal, scope: str) -> None:
        """Raise `missing_scope` unless the principal has the scope; needs no session."""
        if not principal.may(scope):
            raise GatewayError(
                "missing_scope",
                f"The scope rule refused: this needs the scope {scope}, and the token does not carry it "
                "(claim `scope`, `scopes` or `scp`; without any, DEFAULT_SCOPES).",
            )

    def require_session(self, principal: Principal, session_id: str, owner: str | None) -> None:
        """Raise `forbidden_session` unless a claim names the session or the principal owns it.

        The message is the same whether the session exists, has an owner or has none: those who may not
        reach a session do not learn about it.
        """
        if not principal.names(session_id) and not principal.owns(owner):
            rules = self._rules
            raise GatewayError(
                "forbidden_session",
                f"The session rule refused: neither the token's claims (`{rules.session_claim}`, "
                f"`{rules.sessions_claim}`) name this session, nor is its user (`{rules.user_claim}`) "
                "the session's owner.",
            )

    async def explain(self, token: str, session_id: str, owner: str | None = None) -> list[Finding]:
        """Tell rule by rule what lets this token into the session or keeps it out; last comes the verdict.

        `owner` is the session's owner where the caller knows it. For whoever runs the gateway: the texts hold
        claims, escaped for terminals.
        """
        try:
            compact = read_compact(check_form(token))
            check_session_id(session_id)
        except GatewayError as refusal:
            form = [Finding("form", ok=False, text=refusal.message)]
            return [*form, verdict(form, [], [])]
        kid = "no kid" if compact.key_id is None else f"kid {shown(compact.key_id)}"
        gates = [Finding("form", ok=True, text=f"alg {shown(compact.algorithm)}, {kid}")]
        try:
            key, payload = await self._signing_key(token, compact)
            gates.append(Finding("signature", ok=True, text=f"by {key.label}"))
        except GatewayError as refusal:
            payload = unverified_payload(compact.payload_text)
            text = f"{refusal.message} What follows is read from it all the same."
            gates.append(Finding("signature", ok=False, text=text))
        about_claims, claims = explain_payload(payload, self._rules, now=self._clock())
        gates += about_claims
        scopes = explain_scopes(claims, self._rules)
        reach = explain_reach(claims, self._rules, session_id, owner)
        return [*gates, *scopes, *reach, verdict(gates, scopes, reach)]

    async def close(self) -> None:
        await self._keys.close()

    async def _verify(self, token: str) -> Principal:
        compact = read_compact(token)
        _, payload = await self._signing_key(token, compact)
        claims = read_object(payload, part="payload")
        for check in check_claims(claims, self._rules, self._clock()):
            if not check.ok:
                raise AuthError(check.code, check.text)
        return principal_of(claims, self._rules)

    async def _signing_key(self, token: str, compact: Compact) -> tuple[Key, bytes]:
        """Return the key that made the signature, and the signed payload, or raise `token_invalid`."""
        if compact.algorithm not in self._algorithms:
            accepted = ", ".join(sorted(self._algorithms))
            raise invalid(
                f"The token's algorithm is not accepted; sign with one of {accepted} (JWT_ALGORITHMS)."
            )
        keys = await self._keys.find(compact.algorithm, compact.key_id)
        if not keys:
            raise invalid("The token names a key (`kid`, `alg`) that this gateway does not have.")
        for key in keys:
            payload = self._signed_payload(token, key, compact.algorithm)
            if payload is not None:
                return key, payload
        raise invalid("The token's signature is not by a key of this gateway, or the token was altered.")

    def _signed_payload(self, token: str, key: Key, algorithm: str) -> bytes | None:
        try:
            decoded: dict[str, Any] = self._jws.decode_complete(token, key.material, [algorithm])
        except jwt.PyJWTError:
            return None
        except Exception as error:  # noqa: BLE001 - whatever breaks while strangers' bytes are read, the answer is no
            logger.warning("verifying a token broke", extra={"fields": {"error": type(error).__name__}})
            return None
        payload: bytes = decoded["payload"]
        return payload
