"""Importing the SDK needs redis alone."""

from __future__ import annotations

import subprocess
import sys

import redis

BLOCKED = {"aiohttp", "aiohttp_sse", "pydantic", "uvloop", "jwt", "hiredis", "prometheus_client", "click"}
if redis.__version__.startswith("5."):
    # redis 5.3 itself cannot be imported without PyJWT.
    BLOCKED.discard("jwt")

SCRIPT = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED}:
            raise ModuleNotFoundError(f"blocked: {{name}}", name=name)

sys.meta_path.insert(0, Blocked())
import asyncio
from sse_gateway.agent import *
from sse_gateway.agent import AgentClient

async def main():
    async with AgentClient(sys.argv[1]) as client:
        session = client.session("imports")
        await session.tool_status("executing")
        decision = await session.request_permission("bash", {{"a": 1}}, timeout=0.2)
        print(decision.outcome)

asyncio.run(main())
ours = sorted(name for name in sys.modules if name.startswith("sse_gateway."))
print(*ours)
"""


def test_the_sdk_works_where_nothing_but_redis_is_installed(server: object) -> None:
    output = subprocess.run(
        [sys.executable, "-c", SCRIPT, server.url],  # type: ignore[attr-defined]
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout.splitlines()
    assert output[0] == "expired"
    parts = {name.split(".")[1] for name in output[1].split()}
    assert parts == {"agent", "core", "store"}
    of_store = {name for name in output[1].split() if name.startswith("sse_gateway.store.")}
    assert of_store == {"sse_gateway.store.library", "sse_gateway.store.failures", "sse_gateway.store.urls"}
