"""What the application carries, by typed key."""

from __future__ import annotations

from aiohttp import web

from sse_gateway.auth import Authenticator, Principal
from sse_gateway.config import Settings
from sse_gateway.gateway import Gateway
from sse_gateway.web.limits import Limits

GATEWAY = web.AppKey("gateway", Gateway)
SETTINGS = web.AppKey("settings", Settings)
AUTHENTICATOR = web.AppKey("authenticator", Authenticator)
LIMITS = web.AppKey("limits", Limits)

PRINCIPAL = "principal"
"""Where a request keeps who was recognised, for the log line of a refusal."""

__all__ = ["AUTHENTICATOR", "GATEWAY", "LIMITS", "PRINCIPAL", "SETTINGS", "Principal"]
