"""Open the store for a command that talks to Redis by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sse_gateway.cli.refusal import Misuse
from sse_gateway.config import Settings
from sse_gateway.core.keys import Keys
from sse_gateway.store.connection import Store
from sse_gateway.store.library import Library, Limits

# What is given as flags; the settings that are rendered into the functions come from variables or the file.
REDIS_SETTINGS = (
    "redis_url",
    "redis_url_file",
    "redis_password",
    "redis_password_file",
    "redis_ca_file",
    "namespace",
)


@asynccontextmanager
async def open_store(settings: Settings) -> AsyncIterator[Store]:
    """Give a store with the functions of these settings, which are the gateway's own, and close it."""
    assert settings.redis_url is not None
    limits = Limits(
        history_events=settings.history_events,
        history_bytes=settings.history_bytes,
        history_seconds=settings.history_seconds,
        max_event_bytes=settings.max_event_bytes,
        permission_seconds=settings.permission_seconds,
    )
    try:
        store = Store(
            settings.redis_url.get_secret_value(),
            keys=Keys(settings.namespace),
            library=Library(settings.namespace, limits),
            ca_file=str(settings.redis_ca_file) if settings.redis_ca_file else None,
            password=settings.redis_password.get_secret_value() if settings.redis_password else None,
        )
    except ValueError as error:
        raise Misuse(f"REDIS_URL: {error}.") from None
    try:
        yield store
    finally:
        await store.close()
