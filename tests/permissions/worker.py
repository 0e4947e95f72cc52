"""An agent in a process of its own, to be killed and paused: asks under a fixed id, acts if it may."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from sse_gateway.agent import AgentClient


async def main(url: str, session_id: str, done: Path) -> None:
    async with AgentClient(url) as client:
        session = client.session(session_id)
        decision = await session.request_permission(
            "deploy", {"to": "live"}, timeout=60, request_id="deploy-7"
        )
        if decision.approved and await session.claim(decision):
            with done.open("a") as file:
                file.write(f"{decision.outcome}\n")


asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
