"""LangGraph: a node's `interrupt` becomes a request for permission, the decision resumes the graph."""

import asyncio
import sys
from typing import TypedDict

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import StateGraph
from langgraph.types import Command, interrupt

from sse_gateway.agent import AgentClient, Session


class State(TypedDict, total=False):
    command: str
    output: str


def run_command(state: State) -> State:
    approved = interrupt({"tool_name": "bash", "parameters": {"command": state["command"]}})
    return {"output": f"ran {approved['command']}" if approved else "not run"}


graph = StateGraph(State).add_node(run_command).set_entry_point("run_command").compile(InMemorySaver())


async def run(session: Session, step: State | Command) -> State:
    config = {"configurable": {"thread_id": session.session_id}}
    while asked := (state := await graph.ainvoke(step, config)).get("__interrupt__"):
        # An interrupt keeps its id in the checkpoint: asked again after a restart, it is answered already.
        decision = await session.request_permission(**asked[0].value, request_id=asked[0].id)
        ours = decision.approved and await session.claim(decision)
        resume = ours and decision.arguments(asked[0].value["parameters"])
        step = Command(resume={asked[0].id: resume})
    return state


if __name__ == "__main__":
    print(asyncio.run(run(AgentClient(sys.argv[1]).session(sys.argv[2]), {"command": sys.argv[3]})))
