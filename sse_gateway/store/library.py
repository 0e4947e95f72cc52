"""The function library: its text, and how it gets onto a server.

Needs redis alone (5 or newer), since the agent SDK uses it too. One text serves two ways: as a function
library (`FCALL sse_publish 1 <sid> ...`), and, for a user whose ACL allows no FUNCTION LOAD, as scripts for
EVAL. The settings a bare FCALL cannot know are constants in the text; text and constants together have a
fingerprint, and a library already on a server is never downgraded nor silently replaced by other settings.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from typing import Any, Literal

from redis.exceptions import NoPermissionError, NoScriptError, ResponseError

from sse_gateway.core.errors import GatewayError
from sse_gateway.core.keys import Keys

logger = logging.getLogger(__name__)

VERSION = 6
"""Raised with every change of the scripts' behaviour; functions only ever gain arguments."""
BEAT_SECONDS = 10
"""How often a gateway reports its streams; presence older than three beats does not count."""
SHARED_PARTS = ("prelude", "clock", "json", "session", "history", "idempotency", "requests", "settle")
FUNCTIONS = (
    "publish", "ask", "answer", "decision", "claim", "cancel", "end",
    "pending", "request", "read", "status", "beat", "version",
)  # fmt: skip
_REFUSED_WITHOUT_MEMORY = frozenset({"publish", "ask"})


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings that are rendered into the scripts."""

    history_events: int = 1000
    history_bytes: int = 4 * 1024 * 1024
    history_seconds: int = 600
    max_event_bytes: int = 256 * 1024
    permission_seconds: int = 300

    def __post_init__(self) -> None:
        for name, lowest, highest in (
            ("history_events", 1, 1_000_000),
            ("history_seconds", 1, 30 * 86400),
            ("max_event_bytes", 1024, 16 * 1024 * 1024),
            ("permission_seconds", 1, 23 * 3600),
        ):
            if not lowest <= getattr(self, name) <= highest:
                raise ValueError(f"{name} must be from {lowest} to {highest}, not {getattr(self, name)}")
        # An event grows by its id, times and request members; the newest one must always fit.
        if self.history_bytes < self.max_event_bytes + 4096:
            raise ValueError(
                f"history_bytes must be at least max_event_bytes + 4096 = {self.max_event_bytes + 4096}, "
                f"not {self.history_bytes}"
            )


@dataclass(frozen=True, slots=True)
class Loaded:
    """What `Library.load` found on a server and did about it."""

    action: Literal["loaded", "kept", "replaced"]
    version: int
    """Of the library that is on the server now."""
    fingerprint: str
    found: tuple[int, str] | None
    """Version and fingerprint of the library that was there before, if any."""


class Library:
    """Render the scripts for one namespace and one set of limits."""

    def __init__(self, namespace: str = "", limits: Limits | None = None) -> None:
        self.keys = Keys(namespace)
        self.limits = limits or Limits()
        self.version = VERSION
        self._eval_digests: dict[str, str] = {}
        self.by_eval = False
        """The user may not load functions, so `call` sends the same text as scripts."""

    @cached_property
    def fingerprint(self) -> str:
        """Return 12 hex digits over everything but itself: constants and code."""
        return hashlib.sha256((self._render("") + _part("register")).encode()).hexdigest()[:12]

    @cached_property
    def text(self) -> str:
        """Return the text for FUNCTION LOAD."""
        return f"#!lua name={self.keys.library}\n{self._body}\n{_part('register')}"

    def eval_text(self, function: str) -> str:
        """Return the text for EVAL that behaves as the function `sse_<function>` does.

        `function` may be given with or without its `sse_`.
        """
        name = function.removeprefix("sse_")
        if name not in FUNCTIONS:
            raise ValueError(f"there is no function {function!r}; known are {', '.join(FUNCTIONS)}")
        flags = "" if name in _REFUSED_WITHOUT_MEMORY else " flags=allow-oom"
        return f'#!lua{flags}\n{self._body}\nreturn run("{name}", KEYS, ARGV)\n'

    def command(self, function: str, session_id: str, *args: Any) -> tuple[Any, ...]:
        """Return the command, ready to send, that calls `sse_<function>` for a session."""
        name = function.removeprefix("sse_")
        key = self.keys.session_key(session_id)
        if self.by_eval:
            return ("EVALSHA", self._eval_digest(name), 1, key, *args)
        return ("FCALL", self.keys.function(f"sse_{name}"), 1, key, *args)

    async def call(self, client: Any, function: str, session_id: str, *args: Any) -> Any:
        """Call `sse_<function>`, loading the library where it is missing; raises redis-py's errors.

        A user whose ACL does not permit loading gets the same code by EVAL; where that is not permitted
        either, the library is still missing, and the call may be repeated: a gateway will bring it.
        """
        try:
            return await client.execute_command(*self.command(function, session_id, *args))
        except NoScriptError:
            pass
        except ResponseError as error:
            if "Function not found" not in str(error):
                raise
            try:
                await self.provide(client)
            except NoPermissionError:
                raise error from None
            if not self.by_eval:
                return await client.execute_command(*self.command(function, session_id, *args))
        text = self.eval_text(function)
        return await client.execute_command("EVAL", text, 1, self.keys.session_key(session_id), *args)

    def _eval_digest(self, name: str) -> str:
        digest = self._eval_digests.get(name)
        if digest is None:
            digest = hashlib.sha1(self.eval_text(name).encode(), usedforsecurity=False).hexdigest()
            self._eval_digests[name] = digest
        return digest

    async def provide(self, client: Any) -> None:
        """Load the library, or send its text as scripts from now on where the user may not load functions.

        Raises NoPermissionError when the user may do neither.
        """
        try:
            await self.load(client)
        except NoPermissionError:
            await client.execute_command("EVAL", "return 1", 0)
            if not self.by_eval:
                logger.warning("Redis does not permit loading functions; sending scripts instead")
            self.by_eval = True
        else:
            self.by_eval = False

    async def load(self, client: Any, *, force: bool = False) -> Loaded:
        """Put the library on the server of `client` (an asyncio Redis) unless it has one that will do.

        Kept are: the same library; a newer version; the same version with another fingerprint, that is with
        other settings, with a warning (`force` replaces that one). Raises redis-py's own errors, and
        GatewayError `library_conflict` when another library has the name.
        """
        found = await self._installed(client)
        if found is not None and found[0] >= self.version:
            if found == (self.version, self.fingerprint):
                if not force:
                    return Loaded("kept", *found, found)
            elif found[0] > self.version:
                logger.info(
                    "function library %s: version %d on the server is newer", self.keys.library, found[0]
                )
                return Loaded("kept", *found, found)
            elif not force:
                logger.warning(
                    "function library %s on the server has other settings (%s) than ours (%s); keeping it. "
                    "`sse-gateway functions load --force` replaces it",
                    self.keys.library,
                    found[1],
                    self.fingerprint,
                )
                return Loaded("kept", *found, found)
        try:
            if found is None:
                await client.execute_command("FUNCTION", "LOAD", self.text)
            else:
                await client.execute_command("FUNCTION", "LOAD", "REPLACE", self.text)
        except NoPermissionError:
            raise
        except ResponseError as error:
            if "already exists" not in str(error):
                raise
            # Another process was faster, or the name belongs to something else.
            now = await self._installed(client)
            if now is None:
                raise GatewayError(
                    "library_conflict",
                    f"The Redis server has a function library named {self.keys.library!r} that is not ours; "
                    "choose another NAMESPACE.",
                ) from None
            return Loaded("kept", *now, found)
        action: Literal["loaded", "replaced"] = "loaded" if found is None else "replaced"
        logger.info("function library %s: %s version %d", self.keys.library, action, self.version)
        return Loaded(action, self.version, self.fingerprint, found)

    async def _installed(self, client: Any) -> tuple[int, str] | None:
        try:
            reply = await client.execute_command("FCALL", self.keys.function("sse_version"), 0)
        except NoPermissionError:
            raise
        except ResponseError as error:
            if "Function not found" in str(error):
                return None
            raise
        fingerprint = reply[1]
        return int(reply[0]), fingerprint.decode() if isinstance(fingerprint, bytes) else fingerprint

    @cached_property
    def _body(self) -> str:
        return self._render(self.fingerprint)

    def _render(self, fingerprint: str) -> str:
        slack_ms = max(400, 10 * self.limits.history_seconds)
        constants = {
            "VERSION": self.version,
            "FINGERPRINT": f'"{fingerprint}"',
            "NAMESPACE": f'"{self.keys.namespace}"',
            "HISTORY_EVENTS": self.limits.history_events,
            "HISTORY_BYTES": self.limits.history_bytes,
            "HISTORY_SECONDS": self.limits.history_seconds,
            "MAX_EVENT_BYTES": self.limits.max_event_bytes,
            "SLACK_MS": slack_ms,
            "META_MS": f'"{max(86_400_000, self.limits.history_seconds * 1000 + slack_ms)}"',
            "PERMISSION_SECONDS": self.limits.permission_seconds,
            "BEAT_SECONDS": BEAT_SECONDS,
        }
        lines = "\n".join(f"local {name} = {value}" for name, value in constants.items())
        prelude, *modules = (_part(name) for name in SHARED_PARTS)
        scoped = [f"do\n{text}end" for text in (*modules, *(_part(name) for name in FUNCTIONS))]
        return "\n".join((prelude.replace("@CONSTANTS@", lines), *scoped, _part("run")))


def _part(name: str) -> str:
    return (resources.files("sse_gateway.store") / "lua" / f"{name}.lua").read_text(encoding="utf-8")
