"""What one viewer has seen of a session, over all its connections, checked as it comes."""

from __future__ import annotations

from collections.abc import Iterable

from tests.streams.flat_out import published
from tests.streams.tap import Frame, Tap
from tests.support.gateway import GatewayProcess
from tests.support.tokens import token


class View:
    """A viewer of a session that `flat_out` publishes to: no gap, no duplicate, nothing out of order.

    Every event is compared byte by byte with the one published under its number. `whole` says that its first
    connection asks for all of a history that has all.
    """

    def __init__(self, session_id: str, *, whole: bool = False) -> None:
        self.session_id = session_id
        self.whole = whole
        self.cursor: str | None = None
        """The last `id:` that came, which is what a browser sends when it returns."""
        self.events = 0
        self.handovers = 0

    @property
    def seq(self) -> int | None:
        """Return the number of the last event, or of the position the first `ready` told."""
        return int(self.cursor.partition("-")[2]) if self.cursor else None

    def take(self, frames: Iterable[Frame]) -> bool:
        """Check one connection's frames; return whether it became live."""
        ready = False
        for name, id, data in frames:
            if name == "message" and id is not None:
                epoch, _, number = id.partition("-")
                seq = int(number)
                if self.seq is not None:
                    assert seq == self.seq + 1, f"{id} after {self.cursor}"
                else:
                    assert seq == 1 or not self.whole, f"the history begins at {id}"
                assert data == published(self.session_id, epoch, seq), data
                self.events += 1
                self.cursor = id
            elif name == "ready":
                assert not ready, "ready twice on one connection"
                ready = True
                assert self.cursor in (None, id), f"ready at {id}, but {self.cursor} was the last"
                assert self.cursor or not self.whole or id.endswith("-0"), f"nothing replayed up to {id}"
                assert b'"complete":true' in data, data
                self.cursor = id
                self.handovers += 1
            else:
                assert name in ("message", "closing"), (name, data)
                assert name == "closing" or b'"heartbeat"' in data, data
        return ready


async def read_to_the_end(view: View, gateway: GatewayProcess, last: str) -> None:
    """Connect once more and get everything up to the event `last`, as which the session ends."""
    bearer = token(session_id=view.session_id)
    tap = await Tap.open(gateway.port, view.session_id, bearer, cursor=view.cursor)
    await tap.holds(b"event: ready")
    await tap.holds(b"id: " + last.encode() + b"\n")
    tap.hang_up()
    view.take(tap.frames())
    assert view.cursor == last
