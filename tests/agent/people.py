"""Who answers in the tests of the SDK: a person's answer as a gateway would write it, without a gateway."""

from __future__ import annotations

import json
from typing import Any

from redis.crc import key_slot

from sse_gateway.store.library import Library
from tests.support.servers import RedisProcess
from tests.support.topologies import Cluster


class People:
    """Answer and look at requests with a blocking client of their own."""

    def __init__(self, server: RedisProcess | Cluster, *, namespace: str = "") -> None:
        self._server = server
        self._library = Library(namespace)

    def call(self, function: str, session_id: str, *args: Any) -> Any:
        """Call `sse_<function>`; a server that lacks the library gets it."""
        client = self._client(session_id)
        command = self._library.command(function, session_id, *args)
        try:
            return client.execute_command(*command)
        except Exception as error:
            if "Function not found" not in str(error):
                raise
        client.execute_command("FUNCTION", "LOAD", "REPLACE", self._library.text)
        return client.execute_command(*command)

    def answer(
        self,
        session_id: str,
        request_id: str,
        *,
        approved: bool = True,
        user: str = "user-1",
        reason: str | None = None,
        option_id: str | None = None,
        option_kind: str | None = None,
        updated_input: dict[str, Any] | None = None,
    ) -> str:
        """Answer a request and return the verdict."""
        decision = {
            "request_id": request_id,
            "outcome": "approved" if approved else "denied",
            "approved": approved,
            "reason": reason,
            "option_id": option_id,
            "option_kind": option_kind,
            "updated_input": updated_input,
            "args_digest": self.digest(session_id, request_id),
            "decided_by": user,
            "client_id": "page-1",
            "source": "human",
        }
        verdict = self.call(
            "answer",
            session_id,
            request_id,
            "1" if approved else "0",
            option_id or "",
            json.dumps(updated_input) if updated_input else "",
            json.dumps(decision),
            "0",
            "0",
            "",
        )
        return str(verdict[0])

    def digest(self, session_id: str, request_id: str) -> str | None:
        """Return the digest that the request was asked with, if its agent made one."""
        return self.request(session_id, request_id).get("args_digest")

    def request(self, session_id: str, request_id: str) -> dict[str, Any]:
        """Return a request as a viewer sees it."""
        request: dict[str, Any] = json.loads(self.call("request", session_id, request_id)[1])
        return request

    def state(self, session_id: str, request_id: str) -> str:
        """Return pending, approved, denied, expired, cancelled or consumed."""
        return str(self.call("request", session_id, request_id)[0])

    def pending(self, session_id: str) -> list[str]:
        """Return the ids of the open requests, in the order asked."""
        return [str(request_id) for request_id in self.call("pending", session_id)[3][::5]]

    def watch(self, session_id: str, viewers: int) -> None:
        """Say, as a gateway does, how many streams that may answer are open."""
        self.call("beat", session_id, "gateway-of-the-test", viewers, viewers)

    def events(self, session_id: str) -> list[dict[str, Any]]:
        """Return the session's history."""
        key = self._library.keys.history(session_id)
        return [json.loads(fields["d"]) for _, fields in self._client(session_id).xrange(key)]

    def _client(self, session_id: str) -> Any:
        if isinstance(self._server, Cluster):
            slot = key_slot(self._library.keys.session_key(session_id).encode())
            return self._server.owner(slot).client
        return self._server.client
