"""A small coding agent that plays the same story again and again, for the demo.

It runs tools, asks before what is dangerous, and goes on by what was decided: approved, denied, or nobody
answered in time. What it "runs" is text in a table; nothing is executed.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from dataclasses import dataclass
from typing import Any

from sse_gateway.cli.redis import open_store
from sse_gateway.config import Settings
from sse_gateway.core.errors import Unavailable
from sse_gateway.core.events import dumps
from sse_gateway.store.history import History
from sse_gateway.store.permissions import Permissions

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 120
POLL_SECONDS = 0.5
PAUSE_STEPS = 4
OUTAGE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Look:
    """A tool that is simply run."""

    tool: str
    parameters: dict[str, Any]
    result: Any


@dataclass(frozen=True, slots=True)
class Act:
    """A tool that is run only after somebody approved it."""

    tool: str
    parameters: dict[str, Any]
    risk: str
    title: str
    description: str
    result: Any
    instead: str
    """What the agent does when it was not approved."""


STORY: tuple[tuple[Look | Act, ...], ...] = (
    (
        Look("read_file", {"path": "README.md"}, "# widgets\nBuild with `make`, test with `make test`."),
        Look("bash", {"command": "make test"}, "14 passed, 2 failed: test_cache, test_reload"),
        Act(
            "bash",
            {"command": "rm -rf build/ && make"},
            "high",
            "Delete the build folder and build anew",
            "The two failing tests read stale files from build/.",
            "built in 4.1 s; 16 passed",
            "leaves build/ alone and looks at the failing tests instead",
        ),
    ),
    (
        Look("grep", {"pattern": "TODO", "path": "src/"}, "src/cache.py:41: TODO: invalidate on reload"),
        Act(
            "edit_file",
            {
                "path": "src/cache.py",
                "replace": "return self._old",
                "by": "self._old = None; return self._load()",
            },
            "medium",
            "Change one line of src/cache.py",
            "The cache keeps what it read before a reload.",
            "1 line changed",
            "notes the line in the summary and changes nothing",
        ),
        Look("bash", {"command": "make test"}, "16 passed"),
    ),
    (
        Look("bash", {"command": "git diff --stat"}, " src/cache.py | 2 +-"),
        Act(
            "bash",
            {"command": "git push origin fix-cache"},
            "low",
            "Push the branch fix-cache",
            "So that a colleague can review it.",
            "pushed: fix-cache -> origin/fix-cache",
            "keeps the commit here",
        ),
    ),
)


async def play(settings: Settings, session: str, *, step_seconds: float) -> None:
    """Play the story over and over, until cancelled; an outage of Redis only makes it pause."""
    async with open_store(settings) as store:
        agent = _Agent(History(store), Permissions(store), session, step_seconds=step_seconds)
        for chapter in itertools.cycle(STORY):
            try:
                for part in chapter:
                    await agent.take(part)
            except Unavailable:
                logger.warning("the demo's agent cannot reach Redis, and tries again")
                await asyncio.sleep(OUTAGE_SECONDS)
            await asyncio.sleep(PAUSE_STEPS * step_seconds)


class _Agent:
    def __init__(
        self, history: History, permissions: Permissions, session: str, *, step_seconds: float
    ) -> None:
        self._history = history
        self._permissions = permissions
        self._session = session
        self._step_seconds = step_seconds
        self._calls = itertools.count(1)

    async def take(self, part: Look | Act) -> None:
        call = f"call-{next(self._calls)}"
        if isinstance(part, Act):
            await self._act(part, call)
            return
        await self._status(part, call, "executing")
        await self._status(part, call, "completed")
        await self._result(part, call, success=True, result=part.result)

    async def _act(self, part: Act, call: str) -> None:
        await self._status(part, call, "waiting_for_permission")
        decision = await self._decision(part, call)
        outcome = decision["outcome"]
        logger.info(
            "the demo's agent got an answer", extra={"fields": {"tool": part.tool, "outcome": outcome}}
        )
        if decision["approved"]:
            await self._status(part, call, "executing")
            await self._status(part, call, "completed")
            await self._result(part, call, success=True, result=part.result)
            return
        why = {
            "denied": f"Not run: denied by {decision.get('decided_by') or 'somebody'}",
            "expired": "Not run: nobody answered in time",
        }.get(outcome, f"Not run: {outcome}")
        reason = f" ({decision['reason']})" if decision.get("reason") else ""
        await self._status(part, call, outcome)
        await self._result(part, call, success=False, error=f"{why}{reason}. The agent {part.instead}.")

    async def _decision(self, part: Act, call: str) -> dict[str, Any]:
        standing = await self._permissions.ask(
            self._session,
            dumps(
                {
                    "tool_name": part.tool,
                    "parameters": part.parameters,
                    "risk_level": part.risk,
                    "title": part.title,
                    "description": part.description,
                    "tool_call_id": call,
                    "expires_in": ANSWER_SECONDS,
                }
            ),
        )
        while standing["status"] == "pending":
            await asyncio.sleep(POLL_SECONDS)
            standing = await self._permissions.decision(self._session, standing["request_id"])
        decision: dict[str, Any] = standing["decision"]
        return decision

    async def _status(self, part: Look | Act, call: str, status: str) -> None:
        await self._publish(
            "tool_status",
            {"tool_name": part.tool, "tool_call_id": call, "status": status, "parameters": part.parameters},
        )

    async def _result(self, part: Look | Act, call: str, **outcome: Any) -> None:
        await self._publish("tool_result", {"tool_name": part.tool, "tool_call_id": call, **outcome})

    async def _publish(self, type_: str, data: dict[str, Any]) -> None:
        await self._history.publish(self._session, dumps({"type": type_, "data": data}))
        await asyncio.sleep(self._step_seconds)
