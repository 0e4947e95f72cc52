"""Ports that stay ours: below the range the kernel hands to outgoing connections, claimed for the whole run.

A port from `bind(0)` lies in that range, so while a restarted server is down any client on the machine may be
given it. And two test runs that look for a free port at the same moment find the same one. The claim is a UDP
socket on the same number, held until this process ends: nothing to clean up, and TCP stays free for the
server under test.
"""

from __future__ import annotations

import atexit
import random
import socket

FIRST, LAST = 10_000, 29_999
_claims: list[socket.socket] = []


@atexit.register
def _release() -> None:
    for claim in _claims:
        claim.close()


def free_port() -> int:
    """Claim a TCP port on 127.0.0.1 that nobody listens on."""
    for port in random.sample(range(FIRST, LAST + 1), k=500):
        claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            claim.bind(("127.0.0.1", port))
            with socket.create_server(("127.0.0.1", port)):
                pass
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        return port
    raise RuntimeError(f"no free port among 500 tried between {FIRST} and {LAST}")
