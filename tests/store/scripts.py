"""Call the scripts as any language would: over a plain connection, by FCALL or by EVAL."""

from __future__ import annotations

import json
from typing import Any, Literal

import redis

from sse_gateway.core.keys import Keys
from sse_gateway.store.library import Library, Limits
from tests.support.servers import RedisProcess

Form = Literal["fcall", "eval"]


class Refused(Exception):
    """An error reply: its first word, and the sentence after it."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(code, sentence)
        self.code = code
        self.sentence = sentence


class Scripts:
    """The functions of one library on one server, blocking, with text replies."""

    def __init__(
        self,
        server: RedisProcess,
        *,
        form: Form = "fcall",
        namespace: str = "",
        limits: Limits | None = None,
        load: bool = True,
    ) -> None:
        self.server = server
        self.form = form
        self.library = Library(namespace, limits)
        self.keys = Keys(namespace)
        if load and form == "fcall":
            self.client.function_load(self.library.text, replace=True)

    @property
    def client(self) -> Any:
        return self.server.client

    def call(self, name: str, session_id: str, *args: Any, client: Any = None) -> Any:
        """Return the reply, or raise Refused."""
        key = self.keys.session_key(session_id)
        command: tuple[Any, ...] = ("FCALL", self.keys.function(f"sse_{name}"), 1, key, *args)
        if self.form == "eval":
            command = ("EVAL", self.library.eval_text(name), 1, key, *args)
        return self.send(command, client=client)

    def send(self, command: tuple[Any, ...], *, client: Any = None) -> Any:
        """Send a command on a connection of its own form of errors: the server's very words."""
        try:
            return (client or self.client).execute_command(*command)
        except redis.exceptions.TryAgainError as error:
            raise Refused("TRYAGAIN", str(error)) from None
        except redis.exceptions.NoPermissionError as error:
            raise Refused("NOPERM", str(error)) from None
        except redis.exceptions.ResponseError as error:
            code, _, sentence = str(error).partition(" ")
            raise Refused(code, sentence) from None

    def publish(self, session_id: str, event: Any, *args: Any) -> str:
        """Publish an event: JSON text, or what becomes it."""
        text = event if isinstance(event, (str, bytes)) else json.dumps(event)
        reply: str = self.call("publish", session_id, text, *args)
        return reply

    def ask(self, session_id: str, owner: str = "", **request: Any) -> Any:
        """Ask for permission; the tool is `bash` unless told."""
        return json.loads(self.call("ask", session_id, json.dumps({"tool_name": "bash"} | request), owner))

    def answer(
        self,
        session_id: str,
        request_id: str,
        *,
        approved: bool = True,
        option_id: str = "",
        digest: str = "",
        implicit: bool = False,
        min_display_ms: int = 0,
        key: str = "",
        decision: Any = None,
        **members: Any,
    ) -> tuple[str, Any, list[str]]:
        """Answer a request; return the verdict, the decision that stands, and what is still open."""
        if decision is None:
            outcome = "approved" if approved else "denied"
            decision = {"request_id": request_id, "outcome": outcome, "approved": approved, **members}
        verdict, standing, *pending = self.call(
            "answer", session_id, request_id, int(approved), option_id, digest, json.dumps(decision),
            int(implicit), min_display_ms, key,
        )  # fmt: skip
        return verdict, json.loads(standing) if standing else None, pending

    def standing(self, name: str, session_id: str, *args: Any) -> Any:
        """Call decision or cancel."""
        return json.loads(self.call(name, session_id, *args))

    def make_due(self, session_id: str, request_id: str) -> None:
        """Move a request's deadline into the past, instead of waiting for it on a busy machine."""
        self.client.hset(self.keys.permissions(session_id), f"expires:{request_id}", 1)
        self.client.hset(self.keys.meta(session_id), "next_due", 1)

    def read(
        self, session_id: str, cursor: str = "", mode: str = "snapshot", page_bytes: int = 1048576
    ) -> dict[str, Any]:
        """Read a session; events parsed, with their bytes beside them."""
        reply = self.call("read", session_id, cursor, mode, page_bytes)
        names = [
            "owner",
            "ended",
            "epoch",
            "top",
            "verdict",
            "oldest",
            "entries",
            "more",
            "pending",
            "state",
            "now_ms",
        ]
        reading = dict(zip(names, reply, strict=True))
        entries, pending = reading["entries"], reading["pending"]
        return reading | {
            "raw": entries[1::3],
            "seqs": entries[::3],
            "entries": [json.loads(data) for data in entries[1::3]],
            "request_ids": entries[2::3],
            "pending": [
                (request_id, json.loads(data), expires_ms, seq)
                for request_id, data, expires_ms, seq in zip(
                    *(pending[at::4] for at in range(4)), strict=True
                )
            ],
            "state": [json.loads(data) for data in reading["state"]],
        }

    def events(self, session_id: str) -> list[Any]:
        """Return every retained event."""
        return [json.loads(fields["d"]) for _, fields in self.entries(session_id)]

    def entries(self, session_id: str) -> list[Any]:
        """Return the history as it is stored."""
        found: list[Any] = self.client.xrange(self.keys.history(session_id))
        return found

    def meta(self, session_id: str) -> dict[str, str]:
        """Return the session's meta."""
        found: dict[str, str] = self.client.hgetall(self.keys.meta(session_id))
        return found

    def everything(self, session_id: str) -> dict[str, Any]:
        """Return every key of the session with its contents, for seeing that nothing has changed."""
        found = {}
        for key in self.client.scan_iter("*"):
            if session_id in key:
                kind = self.client.type(key)
                found[key] = {
                    "hash": self.client.hgetall,
                    "stream": self.client.xrange,
                    "string": self.client.get,
                    "zset": lambda key: self.client.zrange(key, 0, -1, withscores=True),
                }[kind](key)
        return found
