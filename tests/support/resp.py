"""Cut a Redis reply stream (RESP2, RESP3) into whole replies, looking at no more than their lengths."""

from __future__ import annotations

CRLF = b"\r\n"


class ReplySplitter:
    """Feed bytes as they come; get whole replies, byte for byte as sent."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._parsed = 0
        """Up to here the buffer holds complete elements of the reply being read."""
        self._open = 1
        """Elements still missing from the reply being read."""

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes, return the replies they complete."""
        self._buffer += data
        replies: list[bytes] = []
        while self._step():
            if self._open == 0:
                replies.append(bytes(self._buffer[: self._parsed]))
                del self._buffer[: self._parsed]
                self._parsed, self._open = 0, 1
        return replies

    def _step(self) -> bool:
        """Pass over one element; return False when its bytes are not all there."""
        line_end = self._buffer.find(CRLF, self._parsed)
        if line_end < 0:
            return False
        kind, length = (
            self._buffer[self._parsed : self._parsed + 1],
            self._buffer[self._parsed + 1 : line_end],
        )
        after = line_end + 2
        inner = 0
        if kind in b"$=!" and not length.startswith(b"-"):
            after += int(length) + 2
            if after > len(self._buffer):
                return False
        elif kind in b"*~>" and not length.startswith(b"-"):
            inner = int(length)
        elif kind in b"%|":
            # An attribute (|) comes before the reply it belongs to, which is then still missing.
            inner = 2 * int(length) + (kind == b"|")
        self._parsed = after
        self._open += inner - 1
        return True


def pushed_channel(reply: bytes) -> bytes | None:
    """Return the channel if the reply is a published message of any of the three kinds, else None."""
    head = reply[:40]
    if head[:1] not in (b"*", b">"):
        return None
    parts = reply.split(CRLF, 6)
    if len(parts) < 5 or parts[2] not in (b"message", b"pmessage", b"smessage"):
        return None
    # A pattern's message carries the pattern first.
    return parts[6].split(CRLF)[0] if parts[2] == b"pmessage" else parts[4]
