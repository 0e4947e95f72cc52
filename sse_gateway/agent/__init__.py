"""The SDK for agent backends: publish what the agent does, and ask before it does what is dangerous.

    from sse_gateway.agent import AgentClient

    client = AgentClient("redis://…")
    session = client.session("s1", owner="user-1")
    await session.tool_status("executing", tool_name="bash")
    decision = await session.request_permission("bash", {"cmd": "rm -rf build"}, risk_level="high")
    if decision.approved and await session.claim(decision): ...
    await session.tool_result("bash", result, success=True)

`SyncAgentClient` is the same without asyncio, for any number of threads; `@requires_permission` asks before a
function runs. Importing this needs redis alone (5 or newer).
"""

from sse_gateway.agent.asks import Option
from sse_gateway.agent.client import AgentClient
from sse_gateway.agent.current import current_session
from sse_gateway.agent.decisions import (
    Decision,
    PermissionCancelled,
    PermissionDenied,
    PermissionExpired,
    PermissionRefused,
    PermissionTaken,
)
from sse_gateway.agent.guard import requires_permission
from sse_gateway.agent.session import Session
from sse_gateway.agent.sync import SyncAgentClient, SyncSession
from sse_gateway.core.errors import GatewayError, Unavailable
from sse_gateway.store.library import Limits

__all__ = [
    "AgentClient",
    "Decision",
    "GatewayError",
    "Limits",
    "Option",
    "PermissionCancelled",
    "PermissionDenied",
    "PermissionExpired",
    "PermissionRefused",
    "PermissionTaken",
    "Session",
    "SyncAgentClient",
    "SyncSession",
    "Unavailable",
    "current_session",
    "requires_permission",
]
