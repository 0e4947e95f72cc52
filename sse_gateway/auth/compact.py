"""Read a token's outer form and header, before any signature is looked at.

Nothing here is believed: the header only picks which key is tried, and whatever could make two readers see
two tokens (a member twice, an extension we do not know, a payload kept elsewhere) is refused at once.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any, NamedTuple

from sse_gateway.core.errors import AuthError, GatewayError
from sse_gateway.core.events import loads_strict

MAX_TOKEN_BYTES = 8 * 1024
MAX_KEY_ID_CHARS = 256

# Three segments of base64url without padding, as RFC 7515 has it; five would be an encrypted token.
_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
# RFC 8725, 3.11: tokens made for another purpose (logout, security events, proofs) say so in `typ`.
_TYPES = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})


class Compact(NamedTuple):
    """What the header says, and the text of the payload; nothing of it is verified."""

    algorithm: str
    key_id: str | None
    payload_text: str


def invalid(message: str) -> AuthError:
    return AuthError("token_invalid", message)


def check_form(token: str | None) -> str:
    """Return the token if it may be one at all: present, of a sane size, ASCII."""
    if not token:
        raise AuthError(
            "token_missing",
            "A token is needed: send `Authorization: Bearer …` (streams also take `?token=`).",
        )
    if len(token) > MAX_TOKEN_BYTES:
        raise invalid(f"The token is larger than {MAX_TOKEN_BYTES} bytes; put less into it.")
    if not token.isascii():
        raise invalid("The token is not a JWT: it has characters no JWT has.")
    return token


def read_compact(token: str) -> Compact:
    """Split a token of checked form and read its header, or raise `token_invalid`."""
    parts = _COMPACT.fullmatch(token)
    if parts is None:
        raise invalid("The token is not a signed JWT (three base64url parts with dots between them).")
    header = _header(parts[1])
    return Compact(_algorithm(header), _key_id(header), parts[2])


def decode_segment(segment: str) -> bytes:
    """Decode base64url without padding; raises ValueError for every spelling but the canonical one."""
    data = urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    if urlsafe_b64encode(data).rstrip(b"=") != segment.encode():
        raise ValueError("not the canonical spelling")
    return data


def read_object(data: bytes, *, part: str) -> dict[str, Any]:
    """Parse the header or the payload as strictly as we can, or raise `token_invalid`."""
    try:
        value = loads_strict(data, unique_keys=True)
    except GatewayError:
        raise invalid(
            f"The token's {part} is not proper JSON (NaN and members named twice are refused too)."
        ) from None
    if not isinstance(value, dict):
        raise invalid(f"The token's {part} is not a JSON object.")
    return value


def _header(segment: str) -> dict[str, Any]:
    try:
        data = decode_segment(segment)
    except ValueError:
        raise invalid("The token's header is not base64url.") from None
    header = read_object(data, part="header")
    if "crit" in header or "b64" in header:
        raise invalid("The token's header asks for an extension (`crit`, `b64`); none is understood here.")
    type_ = header.get("typ")
    if type_ is not None and not (isinstance(type_, str) and type_.lower() in _TYPES):
        raise invalid(
            "The token's `typ` says it was made for another purpose; an access token has JWT or at+jwt."
        )
    return header


def _algorithm(header: dict[str, Any]) -> str:
    algorithm = header.get("alg")
    if not isinstance(algorithm, str):
        raise invalid("The token's header names no algorithm (`alg`).")
    return algorithm


def _key_id(header: dict[str, Any]) -> str | None:
    if "kid" not in header:
        return None
    key_id = header["kid"]
    if not isinstance(key_id, str) or not is_key_id(key_id):
        raise invalid(f"The token's `kid` must be 1 to {MAX_KEY_ID_CHARS} printable ASCII characters.")
    return key_id


def is_key_id(text: str) -> bool:
    """Tell whether `text` can name a key; a control character or a page of text cannot."""
    return 0 < len(text) <= MAX_KEY_ID_CHARS and text.isascii() and text.isprintable()
