"""The session that the running code works for, as `with session:` says it.

A context variable: each task and each thread that copies its context has its own, so that concurrent agents
do not meet. It holds a stack as a value, hence one session can be entered any number of times at once.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sse_gateway.agent.session import Session
    from sse_gateway.agent.sync import SyncSession

_sessions: ContextVar[tuple[Session | SyncSession, ...]] = ContextVar("sse_agent_sessions", default=())


def current_session() -> Session | SyncSession | None:
    """Return the innermost session entered by `with session:`, if any."""
    sessions = _sessions.get()
    return sessions[-1] if sessions else None


def enter(session: Session | SyncSession) -> None:
    """Make `session` the current one."""
    _sessions.set((*_sessions.get(), session))


def leave() -> None:
    """Go back to the session before."""
    _sessions.set(_sessions.get()[:-1])
