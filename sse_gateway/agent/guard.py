"""`@requires_permission`: a function that a human is asked about before each call.

What the human sees are the call's own arguments, by the names of the function's parameters; what runs is what
was approved, also where it was edited.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

from sse_gateway.agent.asks import Option, RiskLevel
from sse_gateway.agent.current import current_session
from sse_gateway.agent.decisions import Decision, PermissionTaken, refusal
from sse_gateway.agent.session import Session
from sse_gateway.agent.sync import SyncSession
from sse_gateway.core.errors import GatewayError

F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S", Session, SyncSession)
_KINDS = inspect.Parameter
_CLIENTS: dict[type, str] = {Session: "AgentClient", SyncSession: "SyncAgentClient"}


def requires_permission(
    *,
    risk_level: RiskLevel = "medium",
    session: Session | SyncSession | None = None,
    tool_name: str | None = None,
    timeout: float | None = None,
    title: str | None = None,
    description: str | None = None,
    options: Sequence[Option | Mapping[str, str]] = (),
    editable: bool = False,
    on_no_viewer: str = "wait",
    hide: Sequence[str] = (),
    request_id: Callable[..., str] | None = None,
) -> Callable[[F], F]:
    """Ask before each call of the function; run it once it is approved and claimed.

        @requires_permission(risk_level="high")
        async def delete(path: str) -> None: ...

        with client.session("s1"):
            await delete("build/")

    Works on functions and methods, with asyncio (a `Session` is needed) and without (a `SyncSession`). The
    session is, in this order: an argument of the call named `session`, the one given here, the one entered
    by `with session:`. Where the answer is no approval, it raises PermissionDenied, PermissionExpired,
    PermissionCancelled or PermissionTaken with the decision, and the function does not run.

    The arguments, defaults included, must have a JSON form; those in `hide` (and `self`, `cls`, `session`)
    are neither shown nor covered by the approval. `editable` lets the human change the others before
    approving. `request_id`, a function of the same arguments, names the request so that it survives a
    restart. The description is, unless given, the first line of the function's docstring.
    """
    settings = {
        "risk_level": risk_level,
        "timeout": timeout,
        "title": title,
        "options": options,
        "editable": editable,
        "on_no_viewer": on_no_viewer,
    }

    def decorate(function: F) -> F:
        guard = _Guard(function, tool_name, description, settings, session, hide, request_id)
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def ask_first(*args: Any, **kwargs: Any) -> Any:
                call = _Call(guard, args, kwargs)
                asked = call.session(Session)
                decision = await asked.request_permission(guard.name, call.shown, **call.request())
                call.check_approved(decision)
                call.admit(decision, claimed=await asked.claim(decision))
                return await function(*call.bound.args, **call.bound.kwargs)

            return cast(F, ask_first)

        @functools.wraps(function)
        def ask_first_blocking(*args: Any, **kwargs: Any) -> Any:
            call = _Call(guard, args, kwargs)
            asked = call.session(SyncSession)
            decision = asked.request_permission(guard.name, call.shown, **call.request())
            call.check_approved(decision)
            call.admit(decision, claimed=asked.claim(decision))
            return function(*call.bound.args, **call.bound.kwargs)

        return cast(F, ask_first_blocking)

    return decorate


class _Guard:
    """What is known of a guarded function before it is called."""

    def __init__(
        self,
        function: Callable[..., Any],
        tool_name: str | None,
        description: str | None,
        settings: Mapping[str, Any],
        session: Session | SyncSession | None,
        hide: Sequence[str],
        request_id: Callable[..., str] | None,
    ) -> None:
        self.name = tool_name or str(getattr(function, "__name__", type(function).__name__))
        if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
            raise TypeError(
                f"{self.name}() is a generator, which would run long after it was approved; "
                "decorate what it calls"
            )
        self.signature = inspect.signature(function)
        for name in hide:
            if name not in self.signature.parameters:
                raise TypeError(f"{self.name}() has no parameter {name!r} to hide")
        self.hidden = set(hide)
        first = next(iter(self.signature.parameters), None)
        if first in ("self", "cls"):
            self.hidden.add(first)
        self.rest = next(
            (name for name, one in self.signature.parameters.items() if one.kind is _KINDS.VAR_KEYWORD), None
        )
        """The name of `**kwargs`, whose members are shown beside the other arguments."""
        doc = inspect.getdoc(function) or ""
        self.settings = {**settings, "description": description or doc.partition("\n")[0] or None}
        self.session = session
        self.request_id = request_id


class _Call:
    """One call of a guarded function."""

    def __init__(self, guard: _Guard, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.guard = guard
        self.bound = guard.signature.bind(*args, **kwargs)
        self.bound.apply_defaults()
        # A copy: arguments that change while somebody reads them are not what was approved.
        self.shown = copy.deepcopy(self._arguments())

    def session(self, kind: type[S]) -> S:
        """Return the session to ask in, which must be of the kind that the function can wait on."""
        passed = self.bound.arguments.get("session")
        found: object = passed if _is_ours(passed) else self.guard.session or current_session()
        if found is None:
            raise RuntimeError(
                f"{self.guard.name}() needs a session to ask in: call it inside `with session:`, "
                "or give the session as an argument"
            )
        if isinstance(found, kind):
            return found
        raise TypeError(
            f"{self.guard.name}() needs a session of a {_CLIENTS[kind]}, and this is a {type(found).__name__}"
        )

    def request(self) -> dict[str, Any]:
        named = self.guard.request_id
        request_id = named(*self.bound.args, **self.bound.kwargs) if named is not None else None
        return {**self.guard.settings, "request_id": request_id}

    def check_approved(self, decision: Decision) -> None:
        if not decision.approved:
            raise refusal(decision, self.guard.name)

    def admit(self, decision: Decision, *, claimed: bool) -> None:
        """Make the arguments those that were approved, or raise."""
        if not claimed:
            raise PermissionTaken(decision, self.guard.name)
        if self._arguments() != self.shown:
            raise GatewayError(
                "digest_mismatch",
                f"The arguments of {self.guard.name}() changed while it was waiting; it was not run.",
            )
        if decision.updated_input is not None:
            self._apply(decision.updated_input)

    def _arguments(self) -> dict[str, Any]:
        shown: dict[str, Any] = {}
        for name, value in self.bound.arguments.items():
            if name == self.guard.rest:
                shown |= {key: inner for key, inner in value.items() if not _is_ours(inner)}
            elif name not in self.guard.hidden and not (name == "session" and _is_ours(value)):
                shown[name] = value
        return shown

    def _apply(self, edited: dict[str, Any]) -> None:
        """Put what the human approved in place of what was asked: all of it, or nothing runs."""
        guard = self.guard
        named = {name for name in self.shown if name in guard.signature.parameters and name != guard.rest}
        strangers = named - edited.keys()
        if guard.rest is None:
            strangers |= edited.keys() - named
        if strangers:
            raise GatewayError(
                "not_editable",
                f"The edited input of {guard.name}() does not have the function's parameters "
                f"({', '.join(sorted(strangers))}); it was not run.",
            )
        for name in named:
            value = edited[name]
            many = guard.signature.parameters[name].kind is _KINDS.VAR_POSITIONAL
            self.bound.arguments[name] = tuple(value) if many else value
        if guard.rest is not None:
            ours = {key: value for key, value in self.bound.arguments[guard.rest].items() if _is_ours(value)}
            others = {key: value for key, value in edited.items() if key not in named}
            self.bound.arguments[guard.rest] = ours | others


def _is_ours(value: Any) -> bool:
    return isinstance(value, Session | SyncSession)
