"""What a Redis error means: refused, worth another try, or of unknown outcome.

The scripts refuse with `SSE_<CODE> sentence`; those become GatewayErrors that callers see. Needs redis
alone (5 or newer): the SDK uses it too. Nothing here repeats what redis-py says of a connection, which
may hold a URL's password.
"""

from __future__ import annotations

import re
from enum import Enum, auto

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ConnectionError,  # noqa: A004
    NoPermissionError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,  # noqa: A004
    TryAgainError,
)

from sse_gateway.core.errors import GatewayError, Refused, Unavailable

CODES = {
    "BAD_SESSION": "bad_session_id",
    "INVALID_JSON": "malformed_json",
    "NOT_AN_OBJECT": "invalid_event",
    "NO_TYPE": "invalid_event",
    "BAD_TYPE": "invalid_event",
    "HAS_ID": "invalid_event",
    "FOREIGN_SESSION": "invalid_event",
    "RESERVED_TYPE": "invalid_event",
    "TOO_LARGE": "payload_too_large",
}
"""Codes of the scripts that callers know under another name; the rest are lower-cased."""

_REFUSAL = re.compile(r"SSE_([A-Z_]+) (.*)", re.DOTALL)
_NOT_EXECUTED = ("TRYAGAIN", "LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "BUSY ", "NOREPLICAS")
"""Answers by which a server says that it did nothing, and that this may pass."""
UNTRUSTED = (
    "Redis's certificate is not trusted; name the CA that signed it (REDIS_CA_FILE, in the SDK ca_file), and "
    "Redis by a host name that stands in the certificate."
)
_UNTRUSTED_MARK = "CERTIFICATE_VERIFY_FAILED"
"""How OpenSSL names it, in whatever words redis-py or asyncio passes that on."""
_CLOSED = "the handler is closed"
"""In what uvloop raises for a write to a connection that was reset meanwhile (redis-py 8 passes it on)."""


class Outcome(Enum):
    """What is known of a call that failed."""

    REFUSED = auto()
    """It was looked at and refused; the same call would be refused again."""
    NOT_EXECUTED = auto()
    """Nothing happened; the same call may succeed in a moment."""
    NO_FUNCTION = auto()
    """The server lacks the library."""
    NO_SCRIPT = auto()
    """The server has not seen this script yet."""
    UNKNOWN = auto()
    """The connection broke or no answer came: it may or may not have happened."""


def judge(error: Exception) -> Outcome:
    """Return what `error`, raised by redis-py, says about the call."""
    text = str(error)
    if isinstance(error, RuntimeError) and _CLOSED in text:
        # Nothing was sent, and redis-py has dropped the connection: the next is a new one.
        return Outcome.NOT_EXECUTED
    if isinstance(error, (BusyLoadingError, ReadOnlyError, TryAgainError)) or text.startswith(_NOT_EXECUTED):
        return Outcome.NOT_EXECUTED
    if isinstance(error, NoScriptError):
        return Outcome.NO_SCRIPT
    if isinstance(error, ResponseError):
        return Outcome.NO_FUNCTION if "Function not found" in text else Outcome.REFUSED
    if isinstance(error, (AuthenticationError, AuthorizationError)) or is_untrusted(error):
        return Outcome.REFUSED
    if isinstance(error, ConnectionError) and "previous master is now a slave" in text:
        return Outcome.NOT_EXECUTED
    return Outcome.UNKNOWN


def as_gateway_error(error: Exception) -> GatewayError:
    """Return the error to raise in place of `error`, whose own text is not repeated unless it is ours.

    A RuntimeError that does not speak of a connection is nobody's trouble but ours: it is raised as it is.
    """
    if isinstance(error, RuntimeError) and _CLOSED not in str(error):
        raise error
    if isinstance(error, GatewayError):
        return error
    refusal = _REFUSAL.match(str(error)) if isinstance(error, ResponseError) else None
    if refusal is not None:
        return GatewayError(CODES.get(refusal[1], refusal[1].lower()), refusal[2])
    if isinstance(error, ResponseError) and judge(error) is Outcome.NO_FUNCTION:
        return Unavailable(
            "Redis has not been given the functions yet, and this user may not load them; a gateway does."
        )
    if isinstance(error, NoPermissionError):
        return GatewayError(
            "not_permitted", "Redis does not permit this to the user it was asked as; see config/redis.acl."
        )
    if isinstance(error, (AuthenticationError, AuthorizationError)):
        return Refused("Redis refused the user name or password.")
    return Refused(UNTRUSTED) if is_untrusted(error) else Unavailable()


def is_untrusted(error: Exception) -> bool:
    """Tell whether a handshake failed because of the server's certificate."""
    return _UNTRUSTED_MARK in str(error)


TROUBLE = (RedisError, OSError, TimeoutError, ConnectionError, RuntimeError)
"""Everything that a call to redis-py raises when Redis, or the way to it, is at fault; see `_CLOSED`."""
