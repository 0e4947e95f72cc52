"""The SDK for code without asyncio: an `AgentClient` in a thread of its own, for any number of threads."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Self, TypeVar

from sse_gateway.agent import current
from sse_gateway.agent.asks import Option, RiskLevel
from sse_gateway.agent.client import CALL_SECONDS, AgentClient
from sse_gateway.agent.decisions import Decision
from sse_gateway.agent.session import Session
from sse_gateway.agent.waiting import RECHECK_SECONDS, WITHDRAW_SECONDS
from sse_gateway.store.library import Limits

T = TypeVar("T")


class SyncAgentClient:
    """Publish to sessions and ask their viewers for permission, from any thread.

        client = SyncAgentClient("redis://…")
        decision = client.session("s1").request_permission("bash", {"cmd": "make"}, risk_level="low")

    A thread that waits costs nothing but itself: all waiting requests share one connection. An interrupted
    wait (Ctrl-C) withdraws its request. In a process forked after the client was made (gunicorn with
    `preload_app`) it starts anew by itself, if it was made from a URL.
    """

    def __init__(
        self,
        redis: Any,
        *,
        namespace: str = "",
        worker_id: str | None = None,
        call_seconds: float = CALL_SECONDS,
        recheck_seconds: float = RECHECK_SECONDS,
        wait_replicas: int = 0,
        limits: Limits | None = None,
        password: str | None = None,
        ca_file: str | None = None,
    ) -> None:
        """Prepare a client; the arguments are those of `AgentClient`.

        A `redis.asyncio` client given here must be used by nobody else, since it will belong to our thread.
        """
        self._redis = redis
        self._options: dict[str, Any] = {
            "namespace": namespace,
            "worker_id": worker_id,
            "call_seconds": call_seconds,
            "recheck_seconds": recheck_seconds,
            "wait_replicas": wait_replicas,
            "limits": limits,
            "password": password,
            "ca_file": ca_file,
        }
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._client = AgentClient(self._redis, **self._options)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def session(self, session_id: str, *, owner: str = "") -> SyncSession:
        """Return the session of this id; see `AgentClient.session`."""
        return SyncSession(self, session_id, owner=owner)

    @property
    def worker_id(self) -> str:
        """Return whose claims these are; see `Session.claim`."""
        return self._client.worker_id

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection and end the thread; waiting calls raise Unavailable, requests stay open."""
        with self._lock:
            self._closed = True
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is None or thread is None or self._pid != os.getpid():
            return
        atexit.unregister(self.close)
        try:
            asyncio.run_coroutine_threadsafe(self._client.close(), loop).result(2 * WITHDRAW_SECONDS + 5)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of our client in its thread and return its value."""
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._running_loop())
        except BaseException:
            work.close()
            raise
        try:
            return future.result()
        except BaseException:
            # Interrupted while waiting: the task is cancelled, and withdraws what it had asked.
            future.cancel()
            raise

    def async_session(self, session_id: str, owner: str) -> Session:
        """Return the asyncio session behind a `SyncSession`."""
        self._check_process()
        return self._client.session(session_id, owner=owner)

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            if not isinstance(self._redis, str):
                raise RuntimeError(
                    "this client was made before the process forked; "
                    "make one in each process, or make it from a URL"
                )
            self._begin()

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        self._check_process()
        with self._lock:
            if self._closed:
                raise RuntimeError("the client is closed")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="sse-agent", daemon=True)
                self._thread.start()
                # A withdrawal that is on its way as the process ends is still sent.
                atexit.register(self.close)
            return self._loop


class SyncSession:
    """One agent conversation, without asyncio; see `Session` for what each call does."""

    def __init__(self, client: SyncAgentClient, session_id: str, *, owner: str = "") -> None:
        self.client = client
        self.session_id = session_id
        self.owner = owner
        # Checked here, at once, and made anew for each call: a forked process has a client of its own.
        client.async_session(session_id, owner)

    def __repr__(self) -> str:
        return f"<SyncSession {self.session_id}>"

    def __enter__(self) -> Self:
        current.enter(self)
        return self

    def __exit__(self, *_: object) -> None:
        current.leave()

    @property
    def _session(self) -> Session:
        return self.client.async_session(self.session_id, self.owner)

    def tool_status(
        self, status: str, *, tool_name: str | None = None, tool_call_id: str | None = None, **details: Any
    ) -> str:
        """Publish how a tool call stands; return the event's id."""
        return self.client.run(
            self._session.tool_status(status, tool_name=tool_name, tool_call_id=tool_call_id, **details)
        )

    def tool_result(
        self,
        tool_name: str,
        result: Any = None,
        *,
        success: bool = True,
        tool_call_id: str | None = None,
        error: str | None = None,
        **details: Any,
    ) -> str:
        """Publish what a tool call came to; return the event's id."""
        return self.client.run(
            self._session.tool_result(
                tool_name, result, success=success, tool_call_id=tool_call_id, error=error, **details
            )
        )

    def publish(
        self, event_type: str, data: Any = None, *, durable: bool = True, idempotency_key: str | None = None
    ) -> str | None:
        """Publish an event of any type; return its id, or None for one that is not durable."""
        return self.client.run(
            self._session.publish(event_type, data, durable=durable, idempotency_key=idempotency_key)
        )

    def request_permission(
        self,
        tool_name: str,
        parameters: Mapping[str, Any],
        *,
        risk_level: RiskLevel = "medium",
        timeout: float | None = None,
        request_id: str | None = None,
        title: str | None = None,
        description: str | None = None,
        tool_call_id: str | None = None,
        options: Sequence[Option | Mapping[str, str]] = (),
        editable: bool = False,
        on_no_viewer: str = "wait",
        withdraw_on_cancel: bool = True,
    ) -> Decision:
        """Ask a human whether a tool may run, block until that is decided, and return the decision."""
        return self.client.run(
            self._session.request_permission(
                tool_name,
                parameters,
                risk_level=risk_level,
                timeout=timeout,
                request_id=request_id,
                title=title,
                description=description,
                tool_call_id=tool_call_id,
                options=options,
                editable=editable,
                on_no_viewer=on_no_viewer,
                withdraw_on_cancel=withdraw_on_cancel,
            )
        )

    def viewers(self) -> int:
        """Return how many streams whose token may answer are open, over all gateways."""
        return self.client.run(self._session.viewers())

    def decision(self, request_id: str) -> Decision | None:
        """Return how a request was settled, or None while it is open."""
        return self.client.run(self._session.decision(request_id))

    def claim(self, decision: Decision | str, worker_id: str | None = None) -> bool:
        """Take a decision to act upon it; of all workers, each wait being one, one gets True."""
        return self.client.run(self._session.claim(decision, worker_id))

    def cancel(self, request: Decision | str, reason: str = "") -> Decision:
        """Withdraw an open request and return the decision that stands."""
        return self.client.run(self._session.cancel(request, reason))

    def end(self, reason: str = "") -> int:
        """End the session; return how many open requests were cancelled by that."""
        return self.client.run(self._session.end(reason))
