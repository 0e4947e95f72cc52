"""Claude Agent SDK: whoever watches the session decides on its tool calls (`can_use_tool`)."""

import asyncio
import sys

import claude_agent_sdk as claude

from sse_gateway.agent import AgentClient, Option, Session

OPTIONS = [Option("session", "Allow, and do not ask again", "allow_session")]


def asking(session: Session):
    async def can_use_tool(tool_name, tool_input, context):
        # Named by the call's own id: an agent that resumes after a crash finds the answer already given.
        decision = await session.request_permission(
            tool_name, tool_input, request_id=context.tool_use_id, options=OPTIONS, editable=True, timeout=600
        )
        if not (decision.approved and await session.claim(decision)):
            return claude.PermissionResultDeny(message=f"{decision.outcome}: {decision.reason}")
        rules = context.suggestions if decision.option_kind == "allow_session" else None
        return claude.PermissionResultAllow(updated_input=decision.updated_input, updated_permissions=rules)

    return can_use_tool


async def run(session: Session, prompt: str, transport=None) -> None:
    options = claude.ClaudeAgentOptions(can_use_tool=asking(session))
    async with claude.ClaudeSDKClient(options, transport) as client:
        await client.query(prompt)
        async for message in client.receive_response():
            for block in getattr(message, "content", ()):
                await session.publish("assistant_text", {"text": getattr(block, "text", "")})


if __name__ == "__main__":
    asyncio.run(run(AgentClient(sys.argv[1]).session(sys.argv[2]), sys.argv[3]))
