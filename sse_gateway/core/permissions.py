"""Permission requests and decisions: what an answer may say, and the digest that binds it.

Knows nothing of Redis: which answer wins is decided by the scripts (REDIS.md, "Permissions").
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sse_gateway.core.errors import GatewayError
from sse_gateway.core.events import dumps, loads_strict

MAX_REASON = 2000
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_MEMBERS = {
    "approved": bool,
    "reason": str,
    "request_id": str,
    "option_id": str,
    "updated_input": dict,
    "args_digest": str,
    "client_id": str,
}
_TYPE_NAMES = {bool: "true or false", str: "a string", dict: "an object"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a human sent: the body of `POST permission-response`."""

    approved: bool
    reason: str | None = None
    request_id: str | None = None
    option_id: str | None = None
    updated_input: dict[str, Any] | None = None
    args_digest: str | None = None
    client_id: str | None = None

    @classmethod
    def parse(cls, body: bytes) -> Answer:
        """Return the answer in `body`, or raise `malformed_json` / `bad_request` naming the member.

        Null counts as absent. Members nobody knows are refused: a misspelt `updated_input` must not turn
        an edited approval into an unedited one.
        """
        members = loads_strict(body, unique_keys=True)
        if not isinstance(members, dict):
            raise GatewayError("bad_request", 'The body is a JSON object like {"approved": true}.')
        unknown = sorted(members.keys() - _MEMBERS.keys())
        if unknown:
            raise GatewayError(
                "bad_request",
                f"Unknown member {unknown[0]!r:.80}; known are {', '.join(_MEMBERS)}.",
            )
        given = {name: value for name, value in members.items() if value is not None}
        for name, value in given.items():
            if not isinstance(value, _MEMBERS[name]):
                raise GatewayError("bad_request", f"'{name}' must be {_TYPE_NAMES[_MEMBERS[name]]}.")
        if "approved" not in given:
            raise GatewayError("bad_request", "'approved' is missing: true or false.")
        if len(given.get("reason", "")) > MAX_REASON:
            raise GatewayError("bad_request", f"'reason' may have at most {MAX_REASON} characters.")
        if "request_id" in given:
            check_request_id(given["request_id"])
        if "updated_input" in given:
            _check_range(given["updated_input"])
        for name in ("option_id", "args_digest", "client_id"):
            if not 0 < len(given.get(name, "-")) <= 256:
                raise GatewayError("bad_request", f"'{name}' must have 1 to 256 characters.")
        return cls(**given)


def check_request_id(text: str) -> str:
    """Return `text` if it can be a request's id, by the scripts' rule, else raise `bad_request`."""
    if _REQUEST_ID.fullmatch(text) is None or text in (".", ".."):
        raise GatewayError(
            "bad_request",
            "A 'request_id' is 1 to 128 of the characters A-Z a-z 0-9 . _ : - (and not '.' or '..').",
        )
    return text


def _check_range(edited: Mapping[str, Any]) -> None:
    """Refuse numbers such as 1e400, which are JSON and become Infinity, which is not, in every reader."""
    try:
        dumps(edited)
    except ValueError:
        raise GatewayError(
            "malformed_json", "'updated_input' has a number that is beyond the range of numbers."
        ) from None


def check_against_request(answer: Answer, request: Mapping[str, Any]) -> str | None:
    """Return the kind of the chosen option, having checked that the request allows this answer.

    Raises `option_conflict`, `not_editable` or `digest_mismatch`; the request stays pending then.
    """
    if answer.args_digest is not None and answer.args_digest != request.get("args_digest"):
        raise GatewayError(
            "digest_mismatch",
            "The answer was given for other arguments than the request has; show the request again.",
        )
    if answer.updated_input is not None:
        if not answer.approved:
            raise GatewayError("not_editable", "Only an approval can carry 'updated_input'.")
        if request.get("editable") is not True:
            raise GatewayError("not_editable", "This request does not allow its input to be edited.")
    if answer.option_id is None:
        return None
    options = request.get("options")
    for option in options if isinstance(options, list) else ():
        if isinstance(option, dict) and option.get("id") == answer.option_id:
            kind = option.get("kind")
            if not isinstance(kind, str) or kind.startswith("allow") != answer.approved:
                raise GatewayError(
                    "option_conflict",
                    f"The option {answer.option_id!r} is of kind {kind!r}, which contradicts 'approved'.",
                )
            return kind
    raise GatewayError("option_conflict", f"The request has no option {answer.option_id!r}.")


def compose_decision(
    answer: Answer, request_id: str, request: Mapping[str, Any], *, option_kind: str | None, decided_by: str
) -> bytes:
    """Return the decision as JSON, without `decided_at`, which Redis adds.

    `decided_by` is the token's user, never a member of the body.
    """
    return dumps(
        {
            "request_id": request_id,
            "outcome": "approved" if answer.approved else "denied",
            "approved": answer.approved,
            "reason": answer.reason,
            "option_id": answer.option_id,
            "option_kind": option_kind,
            "updated_input": answer.updated_input,
            "args_digest": request.get("args_digest"),
            "decided_by": decided_by,
            "client_id": answer.client_id,
            "source": "human",
        }
    )


def args_digest(arguments: Any) -> str:
    """Return `sha256:` and the hex digest of the arguments' RFC 8785 form.

    The canonical form makes the digest the same in every language. Raises ValueError for what has no
    canonical JSON: NaN, Infinity, integers beyond 2^53, other types than JSON's.
    """
    import rfc8785  # noqa: PLC0415  (importing the SDK must need redis alone)

    return "sha256:" + hashlib.sha256(rfc8785.dumps(arguments)).hexdigest()
