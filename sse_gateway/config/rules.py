"""State what must hold between settings that are each right by themselves.

A rule yields the names it is about, what was given and what would be right. The names let the report leave a
rule out when one of them is already reported as wrong by itself: one mistake, one line.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from sse_gateway.config import forms

if TYPE_CHECKING:
    from sse_gateway.config.settings import Settings

EVENT_GROWTH_BYTES = 4096  # what an event may gain: its id, times, the members of a request
KEY_NAMES = ("jwt_secret", "jwt_public_key_file", "jwt_jwks_url")


class Disagreement(NamedTuple):
    """Say that these settings do not go together."""

    names: tuple[str, ...]
    given: str
    expected: str


class DisagreementError(ValueError):
    """Carry every disagreement out of the validator, which can raise only one error."""

    def __init__(self, faults: tuple[Disagreement, ...]) -> None:
        """Keep the faults, and join them into a text for those who build `Settings` directly."""
        self.faults = faults
        super().__init__(
            "; ".join(
                f"{', '.join(name.upper() for name in fault.names)}: {fault.given}, expected {fault.expected}"
                for fault in faults
            )
        )


def disagreements(settings: Settings) -> Iterator[Disagreement]:
    """Yield everything in the settings that does not go together."""
    yield from _keys(settings)
    yield from _redis(settings)
    yield from _sizes(settings)


def _keys(settings: Settings) -> Iterator[Disagreement]:
    present = tuple(name for name in KEY_NAMES if getattr(settings, name) is not None)
    if len(present) > 1:
        given = " and ".join(name.upper() for name in present) + " are both set"
        yield Disagreement(
            present, given, "one kind of key: kinds are never pooled, or the weaker one decides"
        )
    if settings.jwt_secret_previous is not None:
        if settings.jwt_secret is None:
            yield Disagreement(
                ("jwt_secret_previous", "jwt_secret"), "a previous secret alone", "JWT_SECRET to be set too"
            )
        elif settings.jwt_secret_previous == settings.jwt_secret:
            yield Disagreement(
                ("jwt_secret_previous", "jwt_secret"),
                "the same secret twice",
                "the secret that was in use before",
            )
    if len(present) == 1 and settings.jwt_algorithms:
        by_secret = present == ("jwt_secret",)
        allowed = forms.SECRET_ALGORITHMS if by_secret else forms.PUBLIC_ALGORITHMS
        foreign = [word for word in settings.jwt_algorithms if word not in allowed]
        if foreign:
            yield Disagreement(
                ("jwt_algorithms", *present),
                f"{' '.join(foreign)} with {present[0].upper()}",
                f"only some of {' '.join(allowed)} with this kind of key",
            )


def _redis(settings: Settings) -> Iterator[Disagreement]:
    if settings.redis_url is None:
        return
    url = settings.redis_url.get_secret_value()
    if settings.redis_password is not None and forms.redis_password_in(url):
        yield Disagreement(
            ("redis_password", "redis_url"), "a password in the URL and another beside it", "one of the two"
        )
    scheme = forms.redis_scheme(url)
    if settings.redis_ca_file is not None and not scheme.startswith("rediss"):
        yield Disagreement(
            ("redis_ca_file", "redis_url"),
            f"certificates with {scheme}://",
            "rediss:// for a connection by TLS",
        )
    if scheme in forms.CLUSTER_SCHEMES and settings.simple_notifier_compat:
        yield Disagreement(
            ("simple_notifier_compat", "redis_url"),
            "old backends together with a Cluster",
            "false: their slots lie on several nodes of a Cluster",
        )


def _sizes(settings: Settings) -> Iterator[Disagreement]:
    if settings.history_bytes < settings.max_event_bytes + EVENT_GROWTH_BYTES:
        yield Disagreement(
            ("max_event_bytes", "history_bytes"),
            f"events of {forms.size_text(settings.max_event_bytes)} in a history of "
            f"{forms.size_text(settings.history_bytes)}",
            "HISTORY_BYTES to hold the largest event and 4KiB more",
        )
    if settings.admin_port and settings.admin_port == settings.port:
        yield Disagreement(
            ("admin_port", "port"), f"{settings.port} twice", "two different ports, or no ADMIN_PORT at all"
        )
