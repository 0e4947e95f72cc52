"""Fixtures of the store's tests: the scripts, and the wrappers around them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from sse_gateway.core.keys import Keys
from sse_gateway.store.connection import Store
from sse_gateway.store.history import History
from sse_gateway.store.library import Library
from sse_gateway.store.permissions import Permissions
from tests.store.scripts import Scripts
from tests.support.servers import RedisProcess


@pytest.fixture(params=["valkey", pytest.param("redis", marks=pytest.mark.long)])
def scripts(request: pytest.FixtureRequest) -> Scripts:
    """The scripts as functions, on both servers. That EVAL does the same is shown in test_library.py.

    In `make test` on one: what the scripts' wrappers are tested with there are both.
    """
    server: RedisProcess = request.getfixturevalue(f"{request.param}_process")
    server.flush()
    return Scripts(server)


@pytest.fixture
async def stores() -> AsyncIterator[Callable[..., Store]]:
    """Make stores: `stores(server.url)`; they are closed at the end."""
    made: list[Store] = []

    def make(url: str, *, namespace: str = "", **options: object) -> Store:
        store = Store(url, keys=Keys(namespace), library=Library(namespace), **options)  # type: ignore[arg-type]
        made.append(store)
        return store

    yield make
    for store in made:
        await store.close()


@pytest.fixture
def store(server: RedisProcess, stores: Callable[..., Store]) -> Store:
    """A store on `server`; the library loads itself at the first call."""
    return stores(server.url)


@pytest.fixture
def history(store: Store) -> History:
    return History(store)


@pytest.fixture
def permissions(store: Store) -> Permissions:
    return Permissions(store)
