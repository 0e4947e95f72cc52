"""What the application carries, by typed key."""

from __future__ import annotations

from aiohttp import web

from sse_gateway.auth import Authenticator
from sse_gateway.config import Settings
from sse_gateway.gateway import Gateway

GATEWAY = web.AppKey("gateway", Gateway)
SETTINGS = web.AppKey("settings", Settings)
AUTHENTICATOR = web.AppKey("authenticator", Authenticator)
