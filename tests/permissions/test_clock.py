"""A gateway whose clock is wrong settles, warns and looks when Redis's clock says so."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sse_gateway.core.events import dumps, iso_ms
from sse_gateway.gateway.deadlines import Deadlines
from sse_gateway.gateway.waits import Waits
from sse_gateway.metrics import Metrics
from sse_gateway.store.history import History
from sse_gateway.store.permissions import Permissions
from tests.support.wait import until


class Asked:
    """Take the place of the scripts, on a clock that differs from ours."""

    def __init__(self, ahead_seconds: float) -> None:
        self.ahead_seconds = ahead_seconds
        self.times: list[float] = []
        self.expires_ms = 0

    def now_ms(self) -> int:
        return round((time.time() + self.ahead_seconds) * 1000)

    async def status(self, session_id: str) -> SimpleNamespace:
        return SimpleNamespace(now_ms=self.now_ms())

    async def decision(self, session_id: str, request_id: str) -> dict[str, Any]:
        self.times.append(time.monotonic())
        if self.now_ms() >= self.expires_ms:
            return {"status": "decided", "decision": {}}
        return {"status": "pending", "expires_at": iso_ms(self.expires_ms)}


@pytest.mark.parametrize("ahead_seconds", [-3600.0, -40.0, 0.0, 40.0, 3600.0])
@pytest.mark.parametrize("way", ["event", "reading"])
async def test_redis_clock_alone_says_when(ahead_seconds: float, way: str) -> None:
    """Whether ours is slow or fast, Redis is asked at the deadline, and not all the time before."""
    asked = Asked(ahead_seconds)
    warned: list[tuple[str, str, str]] = []
    deadlines = Deadlines(
        cast(Permissions, asked),
        metrics=Metrics(),
        warn=lambda *warning: warned.append(warning),
        settled=lambda _session_id, _decision: None,
    )
    deadlines.learn_clock(asked.now_ms())
    asked.expires_ms = asked.now_ms() + 1500
    if way == "event":
        data = {"request_id": "r", "expires_at": iso_ms(asked.expires_ms)}
        deadlines.note("s", dumps({"type": "permission_request", "data": data}))
    else:
        deadlines.watch("s", "r", asked.expires_ms)
    began = time.monotonic()
    await until(lambda: warned, "the warning")
    assert warned == [("s", "r", iso_ms(asked.expires_ms))]
    assert deadlines.warnings("s") == [("r", iso_ms(asked.expires_ms))]
    await until(lambda: not deadlines.warnings("s"), "the deadline to be kept")
    assert len(asked.times) == 2, "asked before the warning and at the deadline"
    assert asked.times[1] - began > 1.45
    await deadlines.stop()


@pytest.mark.parametrize("ahead_seconds", [-3600.0, 0.0, 3600.0])
async def test_a_poll_looks_when_redis_clock_says_so(ahead_seconds: float) -> None:
    """A poll is told of the deadline when Redis says so, and does not look all the time before."""
    asked = Asked(ahead_seconds)
    asked.expires_ms = asked.now_ms() + 700
    waits = Waits(cast(Permissions, asked), history=cast(History, asked), most=2)
    began = time.monotonic()
    assert (await waits.decision("s", "r", seconds=20, user="ann"))["status"] == "decided"
    assert 0.6 < time.monotonic() - began < 3
    assert len(asked.times) <= 3
