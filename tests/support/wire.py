"""Send any bytes to a port; see what comes back and whether the connection stands, with no client between."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass

_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})[ \r]")


@dataclass(frozen=True, slots=True)
class Exchange:
    """What came back."""

    received: bytes
    closed: bool
    """The other side has ended the connection, by whichever means."""
    seconds: float
    """How long the connection stood, or was watched."""

    @property
    def statuses(self) -> list[int]:
        """The status of each response, in their order."""
        return [int(status) for status in _STATUS.findall(self.received)]

    @property
    def heads(self) -> list[str]:
        """The lines of the first response's head."""
        return self.received.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")


async def exchange(
    port: int,
    *pieces: bytes | str,
    pause: float = 0.0,
    quiet: float = 0.5,
    seconds: float = 10.0,
) -> Exchange:
    """Send pieces with pauses between, and read until the end, or nothing more comes for `quiet` seconds."""
    began_at = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received, closed = b"", False

    async def send() -> None:
        for number, piece in enumerate(pieces):
            if number and pause:
                await asyncio.sleep(pause)
            writer.write(piece if isinstance(piece, bytes) else piece.encode("latin-1"))
            await writer.drain()

    sending = asyncio.create_task(send())
    try:
        async with asyncio.timeout(seconds):
            while True:
                reading = asyncio.ensure_future(reader.read(65536))
                await asyncio.wait({reading, sending}, return_when=asyncio.ALL_COMPLETED, timeout=0)
                if not sending.done() and not reading.done():
                    await asyncio.wait({reading, sending}, return_when=asyncio.FIRST_COMPLETED)
                piece = await asyncio.wait_for(reading, quiet if sending.done() else seconds)
                if not piece:
                    closed = True
                    break
                received += piece
    except TimeoutError:
        pass
    except ConnectionError:
        closed = True
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    writer.close()
    await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    return Exchange(received, closed, time.monotonic() - began_at)
