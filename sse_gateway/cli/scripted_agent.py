"""A small coding agent that plays the same story again and again, for the demo.

It runs tools, asks before what is dangerous, and goes on by what was decided: approved, denied, or nobody
answered in time. It is written with the SDK alone, as any agent would be; what it "runs" is text in a table.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from dataclasses import dataclass
from typing import Any

from sse_gateway.agent import AgentClient, Decision, Session, Unavailable
from sse_gateway.agent.asks import RiskLevel

logger = logging.getLogger(__name__)

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
    risk: RiskLevel
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


async def play(redis_url: str, session_id: str, *, step_seconds: float, answer_seconds: float) -> None:
    """Play the story over and over, until cancelled; an outage of Redis only makes it pause."""
    async with AgentClient(redis_url) as client:
        agent = _Agent(client.session(session_id), step_seconds=step_seconds, answer_seconds=answer_seconds)
        for chapter in itertools.cycle(STORY):
            try:
                for part in chapter:
                    await agent.take(part)
            except Unavailable:
                logger.warning("the demo's agent cannot reach Redis, and tries again")
                await asyncio.sleep(OUTAGE_SECONDS)
            await asyncio.sleep(PAUSE_STEPS * step_seconds)


class _Agent:
    def __init__(self, session: Session, *, step_seconds: float, answer_seconds: float) -> None:
        self._session = session
        self._step_seconds = step_seconds
        self._answer_seconds = answer_seconds
        self._calls = itertools.count(1)

    async def take(self, part: Look | Act) -> None:
        call = f"call-{next(self._calls)}"
        if isinstance(part, Look):
            await self._run(part, call)
            return
        await self._status(part, call, "waiting_for_permission")
        decision = await self._session.request_permission(
            part.tool,
            part.parameters,
            risk_level=part.risk,
            timeout=self._answer_seconds,
            title=part.title,
            description=part.description,
            tool_call_id=call,
        )
        fields = {"tool": part.tool, "outcome": decision.outcome}
        logger.info("the demo's agent got an answer", extra={"fields": fields})
        if decision.approved and await self._session.claim(decision):
            await self._run(part, call)
            return
        await self._status(part, call, decision.outcome)
        error = f"Not run: {_why(decision)}. The agent {part.instead}."
        await self._session.tool_result(part.tool, success=False, error=error, tool_call_id=call)
        await asyncio.sleep(self._step_seconds)

    async def _run(self, part: Look | Act, call: str) -> None:
        await self._status(part, call, "executing")
        await self._status(part, call, "completed")
        await self._session.tool_result(part.tool, part.result, tool_call_id=call)
        await asyncio.sleep(self._step_seconds)

    async def _status(self, part: Look | Act, call: str, status: str) -> None:
        await self._session.tool_status(
            status, tool_name=part.tool, tool_call_id=call, parameters=part.parameters
        )
        await asyncio.sleep(self._step_seconds)


def _why(decision: Decision) -> str:
    reason = f" ({decision.reason})" if decision.source == "human" and decision.reason else ""
    return {
        "denied": f"denied by {decision.decided_by or 'somebody'}{reason}",
        "expired": "nobody answered in time",
    }.get(decision.outcome, decision.outcome)
