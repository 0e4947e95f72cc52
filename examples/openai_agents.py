"""OpenAI Agents SDK: tools with `needs_approval` wait for whoever watches the session."""

import asyncio
import json
import sys

from agents import Agent, Runner, function_tool

from sse_gateway.agent import AgentClient, Session


@function_tool(needs_approval=True)
async def delete_folder(path: str) -> str:
    """Delete a folder with all that is in it."""
    return f"deleted {path}"


async def run(session: Session, agent: Agent, prompt: str) -> str:
    result = await Runner.run(agent, prompt)
    while result.interruptions:
        state = result.to_state()
        await asyncio.gather(*(decide(session, state, call) for call in result.interruptions))
        result = await Runner.run(agent, state)
    return result.final_output


async def decide(session: Session, state, call) -> None:
    decision = await session.request_permission(
        call.name, json.loads(call.arguments or "{}"), risk_level="high", request_id=call.call_id
    )
    if decision.approved and await session.claim(decision):
        state.approve(call)
    else:
        state.reject(call, rejection_message=f"{decision.outcome}: {decision.reason or 'no reason given'}")


if __name__ == "__main__":
    tidy = Agent("tidy", tools=[delete_folder])
    print(asyncio.run(run(AgentClient(sys.argv[1]).session(sys.argv[2]), tidy, sys.argv[3])))
