"""What can go wrong, and how it is told to a caller.

    GatewayError          a code, an honest HTTP status, and a message that says what to do
    ├── AuthError         the token is missing, invalid, expired or spent (401)
    └── Unavailable       Redis cannot be reached or did not answer in time (503, retry)
        └── Refused       Redis is there, but not as it is set up here: whoever runs us must act

The code decides the status (`STATUS`), so that a code means the same in every handler. Expected
races, such as a second answer to one request, are values and not exceptions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STATUS: Mapping[str, int] = {
    # 400: the caller sent something malformed
    "bad_request": 400,
    "bad_session_id": 400,
    "bad_parameter": 400,
    "malformed_json": 400,
    "invalid_event": 400,
    "option_conflict": 400,
    "not_editable": 400,
    "request_id_required": 400,
    # 401, 403: who, and what they may
    "token_missing": 401,
    "token_invalid": 401,
    "token_expired": 401,
    "ticket_spent": 401,
    "forbidden_session": 403,
    "missing_scope": 403,
    # 404 to 410: the state of the thing asked for
    "not_found": 404,
    "no_pending_permission": 404,
    "unknown_request": 404,
    "method_not_allowed": 405,
    "already_decided": 409,
    "ambiguous_request": 409,
    "digest_mismatch": 409,
    "owner_conflict": 409,
    "request_mismatch": 409,
    "too_new": 409,
    "request_expired": 410,
    # limits
    "request_timeout": 408,
    "payload_too_large": 413,
    "url_too_long": 414,
    "unsupported_media_type": 415,
    "expectation_failed": 417,
    "idempotency_mismatch": 422,
    "too_many_pending": 429,
    "too_many_requests": 429,
    "too_many_streams": 429,
    "too_many_waits": 429,
    "headers_too_large": 431,
    # ours
    "internal_error": 500,
    "not_permitted": 500,
    "keys_unavailable": 503,
    "redis_unavailable": 503,
}


class GatewayError(Exception):
    """Refuse a call with a code, a status and a message fit for the caller.

    `code` is snake_case and stable; `message` says what is wrong and what to do, and never holds a
    token or internals; `data` is JSON-able and merged into the error body; `retry_after` is in seconds.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        data: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data
        self.retry_after = retry_after

    @property
    def status(self) -> int:
        """Return the HTTP status of this code; an unknown code is our fault, hence 500."""
        return STATUS.get(self.code, 500)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.code!r}, {self.message!r})"


class AuthError(GatewayError):
    """Refuse a caller whose token is missing, invalid, expired or spent."""


class Unavailable(GatewayError):
    """Tell that Redis cannot be reached now; the same call may succeed in a moment."""

    def __init__(self, message: str = "Redis cannot be reached at the moment; try again.") -> None:
        super().__init__("redis_unavailable", message, retry_after=2.0)


class Refused(Unavailable):
    """Tell that Redis refuses us, or we its certificate; the message is for whoever runs us alone."""
