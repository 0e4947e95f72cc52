"""Tell rule by rule what lets a token into a session or keeps it out.

The rules are the very ones `verify` applies. Where `verify` stops at the first refusal, this goes on, and
reads the claims of a token whose signature is not good too (and says so): mostly it is one's own token that
is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sse_gateway.auth.claims import SCOPE_CLAIMS, ClaimRules, Finding, check_claims, shown, token_scopes
from sse_gateway.auth.compact import decode_segment, read_object
from sse_gateway.auth.principal import SCOPES, is_session_name, is_session_pattern, reaches
from sse_gateway.core.errors import AuthError


def explain_payload(payload: bytes, rules: ClaimRules, *, now: float) -> tuple[list[Finding], dict[str, Any]]:
    """Return the outcome of every claim's rule, and the claims (none if they cannot be read)."""
    try:
        claims = read_object(payload, part="payload")
    except AuthError as refusal:
        return [Finding("payload", ok=False, text=refusal.message)], {}
    return [check.finding() for check in check_claims(claims, rules, now)], claims


def unverified_payload(segment: str) -> bytes:
    """Return what a payload's text stands for, or nothing if it stands for nothing."""
    try:
        return decode_segment(segment)
    except ValueError:
        return b""


def explain_scopes(claims: Mapping[str, Any], rules: ClaimRules) -> list[Finding]:
    """Tell for each scope whether the token has it, and from where."""
    carried = token_scopes(claims)
    source = f"the token carries {_listed(carried)}" if carried else "the token carries none; DEFAULT_SCOPES"
    scopes = carried or rules.default_scopes
    return [
        Finding(scope, ok=scope in scopes, text=f"{source} ({', '.join(SCOPE_CLAIMS)} are read)")
        for scope in SCOPES
    ]


def explain_reach(
    claims: Mapping[str, Any], rules: ClaimRules, session_id: str, owner: str | None
) -> list[Finding]:
    """Tell for each of the three rules that can reach a session whether it does; one is enough."""
    return [
        _session_claim(claims, rules, session_id),
        _sessions_claim(claims, rules, session_id),
        _owner(claims, rules, owner),
    ]


def verdict(gates: Sequence[Finding], scopes: Sequence[Finding], reach: Sequence[Finding]) -> Finding:
    """Sum up: every gate must be open, one rule must reach the session, and one scope be there."""
    shut = [finding.rule for finding in gates if not finding.ok]
    if shut:
        return Finding("verdict", ok=False, text=f"kept out by: {', '.join(shut)}")
    rights = [finding.rule for finding in scopes if finding.ok]
    if not rights:
        return Finding("verdict", ok=False, text="kept out by: scopes (the token has none of those known)")
    ways = [finding.rule for finding in reach if finding.ok]
    if not ways:
        return Finding(
            "verdict", ok=False, text=f"kept out: none of {', '.join(f.rule for f in reach)} reaches it"
        )
    return Finding("verdict", ok=True, text=f"let in by: {', '.join(ways)}; may: {' '.join(rights)}")


def _session_claim(claims: Mapping[str, Any], rules: ClaimRules, session_id: str) -> Finding:
    name = rules.session_claim
    value = claims.get(name)
    if value is None:
        return Finding(f"claim {name}", ok=False, text="the token does not have it")
    if value == session_id:
        return Finding(f"claim {name}", ok=True, text="names exactly this session")
    if isinstance(value, str) and is_session_name(value):
        return Finding(f"claim {name}", ok=False, text=f"names another session, {shown(value)}")
    return Finding(
        f"claim {name}",
        ok=False,
        text=f"{shown(value)} is no session id (and a star means something in `{rules.sessions_claim}` only)",
    )


def _sessions_claim(claims: Mapping[str, Any], rules: ClaimRules, session_id: str) -> Finding:
    rule = f"claim {rules.sessions_claim}"
    value = claims.get(rules.sessions_claim)
    if value is None:
        return Finding(rule, ok=False, text="the token does not have it")
    if not isinstance(value, list):
        return Finding(rule, ok=False, text=f"{shown(value)} is no list, so it reaches nothing")
    for item in value:
        if isinstance(item, str) and is_session_pattern(item) and reaches(item, session_id):
            return Finding(rule, ok=True, text=f"{shown(item)} reaches it")
    broken = [item for item in value if not (isinstance(item, str) and is_session_pattern(item))]
    if not broken:
        return Finding(rule, ok=False, text=f"none of its {len(value)} entries reaches it")
    text = f"{shown(broken[0])} is no pattern: `*`, or a prefix ending in one of . _ : - followed by `*`"
    return Finding(rule, ok=False, text=text)


def _owner(claims: Mapping[str, Any], rules: ClaimRules, owner: str | None) -> Finding:
    user = claims.get(rules.user_claim)
    if not owner:
        return Finding("owner", ok=False, text="the session's owner is not known here, or it has none")
    if owner == user:
        return Finding("owner", ok=True, text=f"the user {shown(user)} owns the session")
    return Finding("owner", ok=False, text=f"the owner is {shown(owner)}, the user is {shown(user)}")


def _listed(words: frozenset[str]) -> str:
    return ", ".join(shown(word) for word in sorted(words))
