"""`sse-gateway tail` is a client like any other: it comes back with its cursor."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable
from typing import Any

from tests.chaos.agent import Agent
from tests.chaos.rig import Rig
from tests.support.gateway import COMMAND, environment
from tests.support.tokens import SECRET


async def test_tail_since_a_cursor_comes_through_outages_and_restarts(
    rig: Rig, agent: Agent, session_id: str, scale: Callable[[int, int], int]
) -> None:
    """`tail SESSION --since CURSOR` shows each event behind it once, through an outage and restarts."""
    gateway = rig.gateways[0]
    before = await agent.publish_many(session_id, 5)
    words = ("tail", session_id, "--url", gateway.base, "--json", "--since", before[2])
    process = subprocess.Popen(
        [COMMAND, *words], stdout=subprocess.PIPE, env=environment({"jwt_secret": SECRET})
    )
    assert process.stdout is not None
    shown: list[Any] = []

    async def shows(id: str) -> None:
        assert process.stdout is not None
        while id not in (line.get("id") for line in shown):
            shown.append(json.loads(await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), 30)))

    try:
        await shows(before[-1])
        async with agent.publishing(session_id, pause=0.05):
            rig.wires[0].refuse()
            await gateway.answers("/readyz", 503)
            missed = await agent.publish(session_id)
            rig.wires[0].accept()
            await shows(missed)
            for end in (gateway.stop, gateway.kill)[: scale(1, 2)]:
                await asyncio.to_thread(end)
                missed = await agent.publish(session_id)
                await gateway.start()
                await shows(missed)
        await shows(await agent.publish(session_id))
        history = await agent.history(session_id)
        assert [line for line in shown if "id" in line] == history[3:]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
