"""The suite's fixtures: real servers, real gateways, real browsers, each in a process of its own.

Modes, markers and what happens when something is missing are in `support/modes.py`; the fixtures' parts, each
of them usable without pytest, stand beside it.
"""

from __future__ import annotations

import resource
import signal
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from hypothesis import settings
from redis.asyncio import Redis

from tests.support import leaks, started
from tests.support.alone import turn
from tests.support.browser import binary as chromium_binary
from tests.support.browser import chromium
from tests.support.gateway import GatewayProcess, Wait
from tests.support.modes import LONG, missing, scaled
from tests.support.nginx import Nginx
from tests.support.nginx import binary as nginx_binary
from tests.support.proxy import Proxy
from tests.support.servers import KINDS, Kind, RedisProcess, binary
from tests.support.topologies import Cluster, ReplicaPair, Sentinels

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

OPEN_FILES = 8192

# No deadlines: how long an example takes says more of the other workers than of what it tests.
settings.register_profile("suite", deadline=None, max_examples=scaled(40, 100))
settings.load_profile("suite")


class HasUrl(Protocol):
    """A server, or several, or a proxy before one."""

    @property
    def url(self) -> str:
        """What a gateway is given."""


def shared_folder(config: pytest.Config) -> Path:
    """Return the run's temporary folder: a worker's own lies in the one that all of them share."""
    folder: Path = config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
    return folder.parent if hasattr(config, "workerinput") else folder


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Have every log of this run searched for the tokens that its tests make; see `support/leaks.py`.

    And have files enough for the tests that hold thousands of connections: many machines give 1,024 at first.
    And Ctrl-C for what the tests start, which a job in the background is born deaf to.
    """
    leaks.share(shared_folder(config))
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            # A handler, unlike deafness, is not inherited.
            signal.signal(number, lambda *_: None)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft < enough:
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the whole run for a token in a log."""
    if not hasattr(session.config, "workerinput") and leaks.report()[1]:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was searched, and what was found where."""
    summary, found = leaks.report()
    terminalreporter.write_line(summary, red=bool(found))
    for leak in found:
        terminalreporter.write_line(f"LEAKED {leak}", red=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark who scales, before `-m` looks, and leave out what `make test` does not run."""
    kept: list[pytest.Item] = []
    dropped: list[pytest.Item] = []
    for item in items:
        if "scale" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.scaled)
        (dropped if item.get_closest_marker("long") and not LONG else kept).append(item)
    # The other workers have nothing left to do by then, so that nobody waits for whoever wants to be alone.
    items[:] = sorted(kept, key=lambda item: item.get_closest_marker("alone") is not None)
    if dropped:
        config.hook.pytest_deselected(items=dropped)


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Name a case by its argument where the value is long: each worker makes keys of its own."""
    return argname if isinstance(val, (str, bytes)) and len(val) > 60 else None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Give a test marked `alone` the machine; outermost, so that nobody's timeout runs while it waits."""
    with turn(shared_folder(item.config), alone=item.get_closest_marker("alone") is not None):
        return (yield)


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail the run when a process that a test started is still there at its end."""
    yield
    assert not started.running, f"left behind: {started.running}"


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """Pytest's own, whose logs are searched for tokens too."""
    yield tmp_path
    leaks.search(tmp_path)


@pytest.fixture
def scale() -> Callable[[int, int], int]:
    """Return the count for this mode: `scale(small, full)`."""
    return scaled


def _server(kind: Kind) -> Iterator[RedisProcess]:
    if binary(kind) is None:
        missing("redis-server" if kind == "redis" else kind)
    with RedisProcess(kind) as server:
        yield server


@pytest.fixture(scope="session")
def valkey_process() -> Iterator[RedisProcess]:
    """The worker's Valkey; tests take `server`."""
    yield from _server("valkey")


@pytest.fixture(scope="session")
def redis_process() -> Iterator[RedisProcess]:
    """The worker's redis-server; tests take `any_server`."""
    yield from _server("redis")


@pytest.fixture
def server(valkey_process: RedisProcess) -> RedisProcess:
    """An empty Valkey that this worker's tests share one after the other: do not kill or reconfigure it."""
    valkey_process.flush()
    return valkey_process


@pytest.fixture(params=KINDS)
def any_server(request: pytest.FixtureRequest) -> RedisProcess:
    """The same, once Valkey and once redis-server."""
    shared: RedisProcess = request.getfixturevalue(f"{request.param}_process")
    shared.flush()
    return shared


@pytest.fixture
def own_server() -> Iterator[RedisProcess]:
    """A Valkey of this test alone, to be killed, paused and restarted."""
    yield from _server("valkey")


@pytest.fixture(params=KINDS)
def any_own_server(request: pytest.FixtureRequest) -> Iterator[RedisProcess]:
    """A server of this test alone, once Valkey and once redis-server."""
    yield from _server(request.param)


@pytest.fixture
async def redis(server: RedisProcess) -> AsyncIterator[Redis]:
    """An asyncio client of `server`, with replies in bytes."""
    async with server.connect() as client:
        yield client


@pytest.fixture
def replica_pair() -> Iterator[ReplicaPair]:
    """A primary and a replica behind one address; see `ReplicaPair` for failovers with and without loss."""
    with ReplicaPair() as pair:
        yield pair


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A Cluster of three primaries."""
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def sentinels() -> Iterator[Sentinels]:
    """A primary and a replica watched by three sentinels."""
    with Sentinels() as sentinels:
        yield sentinels


@pytest.fixture
def proxied() -> Iterator[Callable[[RedisProcess], Proxy]]:
    """Put a proxy in front of a server: `proxied(server)`; see `Proxy` for the faults."""
    proxies: list[Proxy] = []

    def make(server: RedisProcess) -> Proxy:
        proxies.append(Proxy(server.port).start())
        return proxies[-1]

    yield make
    for proxy in proxies:
        proxy.close()


@pytest.fixture
async def gateways() -> AsyncIterator[Callable[..., Awaitable[GatewayProcess]]]:
    """Start gateways on a server, a pair, a Cluster, a proxy or a URL, with settings in lower case.

    `await gateways(server, heartbeat_seconds=1)`; `wait="live"` for one that cannot become ready.
    """
    made: list[GatewayProcess] = []

    async def make(redis: HasUrl | str | None, *, wait: Wait = "ready", **settings: Any) -> GatewayProcess:
        url = redis if redis is None or isinstance(redis, str) else redis.url
        made.append(GatewayProcess(url, **settings))
        return await made[-1].start(wait=wait)

    yield make
    for gateway in made:
        gateway.close()


@pytest.fixture
async def gateway(server: RedisProcess, gateways: Callable[..., Awaitable[GatewayProcess]]) -> GatewayProcess:
    """One gateway on `server`, with a heartbeat each second."""
    return await gateways(server, heartbeat_seconds=1)


@pytest.fixture
def nginx() -> Iterator[Callable[[Nginx], Nginx]]:
    """Start nginx: `nginx(Nginx.proxying([gateway.port]))`."""
    if nginx_binary() is None:
        missing("nginx")
    made: list[Nginx] = []

    def make(server: Nginx) -> Nginx:
        made.append(server)
        return server.start()

    yield make
    for server in made:
        server.close()


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """A headless Chromium."""
    if chromium_binary() is None:
        missing("chromium")
    async with chromium() as browser:
        yield browser


@pytest.fixture
async def page(browser: Browser) -> AsyncIterator[Page]:
    """A page of it; an error that no script caught fails the test."""
    page = await browser.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    yield page
    await page.close()
    assert not faults, faults


@pytest.fixture
def session_id() -> str:
    """A session that no other test uses."""
    return f"s-{uuid.uuid4().hex[:12]}"
