"""Where a request really comes from: its peer, or what proxies that we know say in `X-Forwarded-For`.

Everything in that header may be made up by the client, except what our own proxies have put behind it. So it
is read from its right end, for as long as the one who speaks is a proxy of TRUSTED_PROXIES.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Sequence
from functools import lru_cache
from itertools import islice

from aiohttp import web

from sse_gateway.core.visible import visible

logger = logging.getLogger(__name__)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
MOST_HOPS = 32


class Clients:
    """Tell clients apart by their address."""

    def __init__(self, trusted_proxies: Sequence[Network]) -> None:
        self._trusted = tuple(trusted_proxies)
        self._warned = False

    def address_of(self, request: web.Request) -> str | None:
        """Return what stands for a client in its rates: an IPv4 address, or the /64 network of an IPv6 one.

        None where the address tells nothing: what comes over the loopback interface comes from a proxy or a
        person of this machine, and one client must not use up the rate of all that a proxy serves.
        """
        peer = _address(request.remote or "")
        if peer is None:
            return None
        address = peer
        if "X-Forwarded-For" in request.headers:
            if self._is_proxy(peer):
                address = self._forwarded(request.headers.getall("X-Forwarded-For"), peer)
            else:
                self._warn(peer)
        if address.is_loopback:
            return None
        return str(ipaddress.ip_network((address, 64), strict=False) if address.version == 6 else address)

    def _is_proxy(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)

    def _forwarded(self, headers: Sequence[str], peer: Address) -> Address:
        """Return the last address that a proxy of ours has seen and that is not one of our proxies."""
        address = peer
        for hop in islice(reversed(",".join(headers).split(",")), MOST_HOPS):
            seen = _address(hop.strip())
            if seen is None:
                # What nobody can read, a client has written: the one who passed it on is the last we know.
                return address
            address = seen
            if not self._is_proxy(seen):
                return address
        return address

    def _warn(self, peer: Address) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "X-Forwarded-For is not believed: TRUSTED_PROXIES does not name its sender, so if that is a "
                "proxy, its clients %s",
                "have no rate by address" if peer.is_loopback else "count as one",
                extra={"fields": {"sender": visible(str(peer))}},
            )


@lru_cache(maxsize=4096)
def _address(text: str) -> Address | None:
    """Read an address as peers and proxies write it: with a port, in brackets, as IPv4 inside IPv6."""
    if len(text) > 64:
        return None
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
