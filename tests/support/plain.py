"""HTTP clients for gateways, none of which the tests reach by TLS."""

from __future__ import annotations

from typing import Any

import httpx


def plain_client(**options: Any) -> httpx.AsyncClient:
    """Make an httpx client without certificates: reading the machine's takes longer than most tests do."""
    return httpx.AsyncClient(verify=False, **options)
