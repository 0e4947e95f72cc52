"""FastAPI: one client for the process, a guarded tool, and work that goes on after the response.

REDIS_URL=redis://… uvicorn fastapi_backend:app
"""

import os
from contextlib import asynccontextmanager

from fastapi import BackgroundTasks, FastAPI, Request

from sse_gateway.agent import AgentClient, PermissionRefused, Session, requires_permission


@asynccontextmanager
async def lifespan(app: FastAPI):
    async with AgentClient(os.environ["REDIS_URL"]) as app.state.agents:
        yield


app = FastAPI(lifespan=lifespan)


@requires_permission(risk_level="high", timeout=300, on_no_viewer="deny_after:60")
async def delete_folder(path: str) -> str:
    """Delete a folder with all that is in it."""
    return f"deleted {path}"


async def work(session: Session, path: str) -> None:
    with session:
        try:
            await session.tool_result("delete_folder", await delete_folder(path))
        except PermissionRefused as refused:
            await session.tool_result("delete_folder", success=False, error=str(refused))


@app.post("/sessions/{session_id}/clean", status_code=202)
async def clean(session_id: str, path: str, request: Request, later: BackgroundTasks) -> None:
    later.add_task(work, request.app.state.agents.session(session_id), path)
