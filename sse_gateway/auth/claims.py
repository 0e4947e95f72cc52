"""Check a verified token's claims, and make a principal of them.

Every rule is one function that yields a `Check`, so that `verify` (first refusal counts) and `--explain` (all
of them are told) cannot disagree. `exp` comes last: "expired" then means that nothing else was wrong.

What a rule decided, where RFC 7519 leaves it open:

- Times are JSON numbers, whole or not. Text, true, false, NaN and Infinity are no times (PyJWT takes some).
- `exp` more than ten years ahead is refused: it is milliseconds, or a token that was never to end.
- `nbf` and `iat` may not lie ahead by more than the leeway.
- A token with an audience is refused where no JWT_AUDIENCE is set: it was made for somebody else
  (RFC 7519, 4.1.3).
- Scopes are those of `scope`, `scopes` and `scp` together, each a list or a text parted by spaces. Only what
  begins with `sse:` counts; a token that has any of those never gets the default ones, known or not.
- The session claim is one exact id. The sessions claim is a list; only there has a star a meaning. A claim of
  another shape reaches nothing, but is no reason to refuse the token: its user may own the session.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

from sse_gateway.auth.principal import SCOPES, Principal, is_session_name, session_patterns

MAX_USER_CHARS = 256
FARTHEST_EXPIRY_SECONDS = 3660 * 24 * 3600
SCOPE_CLAIMS = ("scope", "scopes", "scp")
_USUAL_SCOPES = {
    scopes: scopes
    for count in range(len(SCOPES) + 1)
    for scopes in map(frozenset, combinations(SCOPES, count))
}
"""Each set once for all principals: thousands are remembered."""

# Control, format (bidirectional and invisible), surrogate, line and paragraph separator: a user is shown to
# people who approve, and written to logs.
_UNFIT_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


class Finding(NamedTuple):
    """One rule's outcome as `--explain` shows it; `text` may hold claims, escaped, never the token."""

    rule: str
    ok: bool
    text: str


class Check(NamedTuple):
    """One rule's outcome: `text` is fit for the caller, `detail` for whoever runs the gateway."""

    rule: str
    ok: bool
    text: str
    detail: str
    code: str = "token_invalid"

    def finding(self) -> Finding:
        return Finding(self.rule, self.ok, self.detail if self.ok else f"{self.text} ({self.detail})")


@dataclass(frozen=True, slots=True)
class ClaimRules:
    """What the settings ask of claims; times are in seconds."""

    user_claim: str = "sub"
    session_claim: str = "session_id"
    sessions_claim: str = "sessions"
    issuer: str | None = None
    audience: str | None = None
    leeway_seconds: float = 30.0
    default_scopes: frozenset[str] = frozenset()


def shown(value: object) -> str:
    """Return a claim's value for people: ASCII, one line, so that it cannot play tricks on a terminal."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_claims(claims: Mapping[str, Any], rules: ClaimRules, now: float) -> Iterator[Check]:
    """Yield the outcome of each rule, in the order in which a refusal counts."""
    yield _issuer(claims, rules)
    yield _audience(claims, rules)
    yield _user(claims, rules)
    yield _not_ahead("nbf", claims, rules, now)
    yield _not_ahead("iat", claims, rules, now)
    yield _expiry(claims, rules, now)


def principal_of(claims: Mapping[str, Any], rules: ClaimRules) -> Principal:
    """Make the principal of claims that passed every check."""
    return Principal(
        user=claims[rules.user_claim],
        sessions=_sessions(claims, rules),
        scopes=token_scopes(claims) or rules.default_scopes,
        expires_at=float(claims["exp"]),
        leeway_seconds=rules.leeway_seconds,
    )


def token_scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    """Return the scopes a token carries itself, of those that are ours to judge."""
    words: list[Any] = []
    for name in SCOPE_CLAIMS:
        value = claims.get(name)
        if isinstance(value, str):
            words += value.split(" ")
        elif isinstance(value, list):
            words += value
    scopes = frozenset(word for word in words if isinstance(word, str) and word.startswith("sse:"))
    return _USUAL_SCOPES.get(scopes, scopes)


def _sessions(claims: Mapping[str, Any], rules: ClaimRules) -> tuple[str, ...]:
    one = claims.get(rules.session_claim)
    named = [one] if isinstance(one, str) and is_session_name(one) else []
    listed = claims.get(rules.sessions_claim)
    return session_patterns(named + listed if isinstance(listed, list) else named)


def _issuer(claims: Mapping[str, Any], rules: ClaimRules) -> Check:
    issuer = claims.get("iss")
    detail = f"iss is {shown(issuer)}, JWT_ISSUER is {_told(rules.issuer)}"
    ok = rules.issuer is None or issuer == rules.issuer
    return Check("iss", ok, "The token's issuer (`iss`) is not the one this gateway accepts.", detail)


def _audience(claims: Mapping[str, Any], rules: ClaimRules) -> Check:
    audience = claims.get("aud")
    detail = f"aud is {shown(audience)}, JWT_AUDIENCE is {_told(rules.audience)}"
    if rules.audience is None:
        text = "The token is for an audience (`aud`), and this gateway has been told of none (JWT_AUDIENCE)."
        return Check("aud", audience is None or audience in ("", []), text, detail)
    members = audience if isinstance(audience, list) else [audience]
    ok = all(isinstance(member, str) for member in members) and rules.audience in members
    return Check("aud", ok, "The token's audience (`aud`) does not name this gateway.", detail)


def _told(setting: str | None) -> str:
    return "not set" if setting is None else shown(setting)


def _user(claims: Mapping[str, Any], rules: ClaimRules) -> Check:
    name = rules.user_claim
    user = claims.get(name)
    text = (
        f"The token's `{name}` must name the user: a text of 1 to {MAX_USER_CHARS} characters, "
        "none of them a control or an invisible one."
    )
    return Check("user", is_user(user), text, f"{name} is {shown(user)}")


def is_user(value: object) -> bool:
    """Tell whether a claim's value can be a user's name; one user has one spelling, compared exactly."""
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_USER_CHARS:
        return False
    if value.isascii():
        return value.isprintable()
    return not any(unicodedata.category(character) in _UNFIT_CATEGORIES for character in value)


def _not_ahead(name: str, claims: Mapping[str, Any], rules: ClaimRules, now: float) -> Check:
    if name not in claims:
        return Check(name, ok=True, text="", detail=f"the token has no {name}")
    moment = claims[name]
    if not _is_time(moment):
        return Check(name, ok=False, text=_no_time(name), detail=f"{name} is {shown(moment)}")
    text = f"The token is not valid yet (`{name}`); clocks may differ by {rules.leeway_seconds:g} seconds."
    detail = f"{name} is {shown(moment)}, {_distance(moment, now)}"
    return Check(name, moment <= now + rules.leeway_seconds, text, detail)


def _expiry(claims: Mapping[str, Any], rules: ClaimRules, now: float) -> Check:
    expiry = claims.get("exp")
    if expiry is None:
        return Check(
            "exp", ok=False, text="The token must say when it expires (`exp`).", detail="it has no exp"
        )
    if not _is_time(expiry):
        return Check("exp", ok=False, text=_no_time("exp"), detail=f"exp is {shown(expiry)}")
    detail = f"exp is {shown(expiry)}, {_distance(expiry, now)}"
    if expiry > now + FARTHEST_EXPIRY_SECONDS:
        text = (
            "The token's `exp` lies more than ten years ahead. "
            "It counts seconds since 1970: divide milliseconds by 1,000."
        )
        return Check("exp", ok=False, text=text, detail=detail)
    ok = expiry > now - rules.leeway_seconds  # in this order: an int may be larger than any float
    return Check("exp", ok, "The token has expired; get a new one.", detail, code="token_expired")


def _is_time(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) or math.isfinite(value)


def _no_time(name: str) -> str:
    return f"The token's `{name}` must be a number: seconds since 1970."


def _distance(moment: float, now: float) -> str:
    # An int may be larger than any float, so it is compared before it is subtracted.
    if moment > now + FARTHEST_EXPIRY_SECONDS:
        return "more than ten years ahead"
    if moment < now - FARTHEST_EXPIRY_SECONDS:
        return "more than ten years ago"
    seconds = round(moment - now)
    return f"{seconds} s ahead" if seconds >= 0 else f"{-seconds} s ago"
