"""One request for permission, checked and with its digest, ready to be asked and asked again."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from sse_gateway.agent.decisions import OptionKind
from sse_gateway.agent.encoding import check_text, encode, fault_in_parameters
from sse_gateway.core.errors import GatewayError
from sse_gateway.core.permissions import args_digest

RiskLevel = Literal["low", "medium", "high"]
LONGEST_SECONDS = 23 * 3600
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_DENY_AFTER = re.compile(r"deny_after:([0-9]+(?:\.[0-9]+)?)")


@dataclass(frozen=True, slots=True)
class Option:
    """One of the answers a human can choose from."""

    id: str
    label: str
    kind: OptionKind


@dataclass(frozen=True, slots=True)
class Ask:
    """A request as it will be sent, less its time limit."""

    session_id: str
    request_id: str
    owner: str
    body: dict[str, Any]
    digest: str
    timeout: float | None
    """Seconds from the first time it is asked; None is the server's setting."""
    no_viewer_seconds: float | None
    """Give up when nobody who may answer was watching for this long; None: never for that."""
    max_bytes: int

    @classmethod
    def make(
        cls,
        session_id: str,
        tool_name: str,
        parameters: Mapping[str, Any],
        *,
        owner: str,
        request_id: str | None,
        risk_level: RiskLevel,
        timeout: float | None,
        title: str | None,
        description: str | None,
        tool_call_id: str | None,
        options: Sequence[Option | Mapping[str, str]],
        editable: bool,
        on_no_viewer: str,
        max_bytes: int,
    ) -> Ask:
        """Check everything that can be checked here; raises `bad_request` saying what is wrong."""
        parameters = _checked_parameters(tool_name, parameters)
        if request_id is not None:
            check_request_id(request_id)
        if risk_level not in get_args(RiskLevel):
            raise _bad(f"risk_level is one of {', '.join(get_args(RiskLevel))}, not {risk_level!r}")
        if timeout is not None and not 0 < timeout <= LONGEST_SECONDS:
            raise _bad(f"timeout is in seconds, above 0 and at most {LONGEST_SECONDS}, not {timeout!r}")
        request_id = request_id or f"a-{uuid.uuid4().hex}"
        digest = args_digest(parameters)
        body: dict[str, Any] = {
            "request_id": request_id,
            "tool_name": tool_name,
            "parameters": parameters,
            "risk_level": risk_level,
            "args_digest": digest,
        }
        for name, text in (("title", title), ("description", description), ("tool_call_id", tool_call_id)):
            if text is not None:
                body[name] = check_text(text, name)
        if options:
            body["options"] = [_option(option) for option in options]
        if editable:
            body["editable"] = True
        return cls(
            session_id=session_id,
            request_id=request_id,
            owner=owner,
            body=body,
            digest=digest,
            timeout=timeout,
            no_viewer_seconds=parse_on_no_viewer(on_no_viewer),
            max_bytes=max_bytes,
        )

    def encode(self, expires_in: float | None) -> bytes:
        """Return the request's JSON, to expire in so many seconds."""
        body = self.body if expires_in is None else {**self.body, "expires_in": round(expires_in, 3)}
        return encode(body, f"the request for {self.body['tool_name']!r:.80}", max_bytes=self.max_bytes)


def check_request_id(request_id: str) -> str:
    """Return `request_id` if it is one, else raise `bad_request`."""
    if _REQUEST_ID.fullmatch(request_id) is None or request_id in (".", ".."):
        raise _bad("a request_id is 1 to 128 of the characters A-Z a-z 0-9 . _ : - (and not '.' or '..')")
    return request_id


def parse_on_no_viewer(text: str) -> float | None:
    """Return how long nobody may be watching: None for `wait`, 0 for `fail`, else the seconds."""
    if text == "wait":
        return None
    if text == "fail":
        return 0.0
    match = _DENY_AFTER.fullmatch(text)
    if match is None:
        raise _bad(f"on_no_viewer is 'wait', 'fail' or 'deny_after:SECONDS', not {text!r:.60}")
    return float(match[1])


def _checked_parameters(tool_name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    if not 0 < len(check_text(tool_name, "tool_name").encode()) <= 256:
        raise _bad("tool_name has 1 to 256 bytes")
    if not isinstance(parameters, Mapping):
        raise _bad(f"parameters is a mapping of names to values, not {type(parameters).__name__}")
    fault = fault_in_parameters(parameters)
    if fault is not None:
        raise _bad(f"the parameters of {tool_name!r:.80} cannot be shown as they are: {fault}")
    return _plain(parameters)  # type: ignore[no-any-return]


def _plain(value: Any) -> Any:
    """Return a copy in JSON's own types: what is asked must not change while somebody reads it."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def _option(option: Option | Mapping[str, str]) -> dict[str, str]:
    members = asdict(option) if isinstance(option, Option) else dict(option)
    if members.keys() != {"id", "label", "kind"} or members["kind"] not in get_args(OptionKind):
        raise _bad(
            f"an option has id, label and a kind ({', '.join(get_args(OptionKind))}), not {members!r:.120}"
        )
    for name, text in members.items():
        check_text(text, f"an option's {name}")
    return members


def _bad(sentence: str) -> GatewayError:
    return GatewayError("bad_request", f"{sentence[0].upper()}{sentence[1:]}.")
