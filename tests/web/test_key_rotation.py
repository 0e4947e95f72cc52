"""An identity provider changes its keys under a gateway that runs."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from sse_gateway.auth.jwks import JwksKeys
from tests.chaos.local import local_gateway
from tests.support.ports import free_port
from tests.support.servers import RedisProcess
from tests.support.stream import get
from tests.support.tokens import Clock, KeySetEndpoint, authenticator, jwk, private_key, token
from tests.web.site import Tab

ALGORITHMS = {"rsa-old": "RS256", "rsa-new": "RS256", "p256-new": "ES256", "ed-new": "EdDSA"}


@pytest.fixture
async def provider() -> AsyncIterator[tuple[KeySetEndpoint, str]]:
    """A key-set endpoint and its address."""
    endpoint = KeySetEndpoint()
    runner = web.AppRunner(endpoint.app())
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield endpoint, f"http://127.0.0.1:{port}/keys"
    await runner.cleanup()


async def test_a_provider_changes_its_keys_while_streams_are_open(
    server: RedisProcess, provider: tuple[KeySetEndpoint, str], tab: Tab, session_id: str
) -> None:
    """Tokens of new keys count at once, of gone ones no more; a stream stays until its own token ends."""
    endpoint, address = provider
    endpoint.keys = [jwk("rsa-old")]
    clock = Clock()

    def signed(name: str) -> str:
        return token(private_key(name), ALGORITHMS[name], {"kid": name}, session_id=session_id)

    keys = JwksKeys(address, frozenset(ALGORITHMS.values()), clock=clock)
    guard = authenticator(keys=keys, jwt_jwks_url=address)
    async with local_gateway(server.url, authenticator=guard) as gateway:
        before = await tab(gateway, session_id, token=signed("rsa-old"))
        clock.now += 1
        # Asked for a key it does not have so soon after a fetch, it does not know yet, and says so.
        early = await tab(gateway, session_id, token=signed("rsa-new"), ready=False)
        assert (await early.event("closing"))["reason"] == "unavailable"
        endpoint.keys = [jwk("rsa-new"), jwk("p256-new"), jwk("ed-new")]
        clock.now += 60
        for name in ("p256-new", "ed-new", "rsa-new"):
            await tab(gateway, session_id, token=signed(name))
        assert endpoint.requests == 2, "once at the start and once for all the new ones"
        refused = await get(gateway.events(session_id), token=signed("rsa-old"))
        assert refused.status == 401
        assert b"token_invalid" in refused.body
        server.client.execute_command("FCALL", "sse_publish", 1, session_id, '{"type":"note"}')
        await before.message("note")
        before.close()
