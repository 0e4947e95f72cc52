"""Configure the gateway: frozen `Settings`, and `load` to put them together from all sources."""

from sse_gateway.config.fields import SECRETS
from sse_gateway.config.settings import Settings
from sse_gateway.config.sources import PREFIX, Fault, SettingsError, load

__all__ = [
    "PREFIX",
    "SECRETS",
    "Fault",
    "Settings",
    "SettingsError",
    "derive_max_connections",
    "derive_max_streams",
    "load",
]

RESERVED_DESCRIPTORS = 64
MOST_STREAMS = 1_000_000


def derive_max_streams(descriptor_limit: int) -> int:
    """Return how many streams a process may hold whose descriptor limit this is.

    A twentieth (at least 64) stays free for Redis, for answers to POSTs and for the moment in which a stream
    that is handed over has two descriptors. A negative limit means there is none.
    """
    if descriptor_limit < 0:
        return MOST_STREAMS
    reserve = max(RESERVED_DESCRIPTORS, descriptor_limit // 20)
    return min(max(descriptor_limit - reserve, 1), MOST_STREAMS)


def derive_max_connections(descriptor_limit: int) -> int:
    """Return how many clients of all kinds a process may take on, so that Redis can always be reached."""
    if descriptor_limit < 0:
        return MOST_STREAMS
    reserve = max(RESERVED_DESCRIPTORS, descriptor_limit // 20) // 2
    return min(max(descriptor_limit - reserve, 1), MOST_STREAMS)
