"""Which cases a run takes, for which servers, with which numbers.

A quick run takes minutes and shows what is worth looking at; a full one is what docs/performance/ holds.
Repetitions go round all servers before the next begins, so that whatever disturbs the machine for a while
disturbs them alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench import cases, servers
from bench.servers import Programs, Server

Run = Callable[[type[Any], Programs], Any]


@dataclass(frozen=True)
class Case:
    """One case: its key in the results, what it is, and a run for each server."""

    key: str
    title: str
    runs: dict[type[Server], Run]
    repeats: int


PEERS = (servers.Floor, servers.Nchan, servers.NchanRedis, servers.AiohttpSse, servers.SseStarlette)
OURS = (servers.Gateway, servers.GatewayNotCompiled, servers.GatewayInAiohttp)


def plan(*, full: bool) -> list[Case]:
    """Return the cases in order."""
    repeats, seconds = (5, 3.0) if full else (3, 2.0)
    return [
        _fan_out(repeats, seconds),
        _routed(repeats, seconds, full=full),
        _memory(repeats if full else 1),
        Case(
            "connecting",
            "9,000 streams connecting",
            {
                kind: partial(cases.connecting, streams=9000)
                for kind in (servers.Nchan, servers.NchanRedis, servers.AiohttpSse, *OURS)
            },
            3 if full else 1,
        ),
        _storm(repeats, full=full),
        Case(
            "heartbeat",
            "events while 19,000 streams get their heartbeat",
            {
                servers.Gateway: partial(
                    cases.heartbeat, streams=18_990, rate=1000, seconds=33 if full else 10
                )
            },
            3 if full else 1,
        ),
        *(
            Case(
                f"answers {rate}",
                f"{rate:,} permission answers a second",
                {servers.Gateway: partial(cases.answers, rate=rate, seconds=seconds)},
                repeats,
            )
            for rate in (500, 2000)
        ),
        *(
            Case(
                f"processes {count}",
                f"routed at 20,000/s through {count} process{'es' if count > 1 else ''}",
                {servers.Gateway: partial(cases.processes, count=count, rate=20_000, seconds=seconds)},
                repeats,
            )
            for count in (1, 2)
        ),
        Case(
            "idle",
            "as many idle streams as two processes may hold",
            {
                servers.Gateway: partial(
                    cases.long_idle,
                    streams=37_000 if full else 10_000,
                    count=2,
                    seconds=300 if full else 20,
                )
            },
            1,
        ),
    ]


def _fan_out(repeats: int, seconds: float) -> Case:
    run = partial(cases.fan_out, streams=1000, rate=50, seconds=seconds)
    slow = partial(cases.fan_out, streams=1000, rate=10, seconds=seconds)
    runs = dict.fromkeys((servers.Floor, *OURS, servers.Nchan, servers.NchanRedis), run)
    # At 50 events/s these two are saturated, and what is late says little about what an event costs.
    runs |= dict.fromkeys((servers.AiohttpSse, servers.SseStarlette), slow)
    return Case("fan-out", "1,000 streams on one session, 50 events/s", runs, repeats)


def _routed(repeats: int, seconds: float, *, full: bool) -> Case:
    steps: dict[type[Server], list[int]] = {
        servers.FloorRedis: [3000, 20_000],
        servers.PythonFloor: [3000, 20_000],
        servers.Gateway: [3000, 10_000, 20_000, 25_000, 30_000],
        servers.GatewayNotCompiled: [3000, 20_000, 25_000],
        servers.GatewayInAiohttp: [3000, 20_000, 25_000],
        servers.GatewayPlain: [3000, 20_000, 40_000, 50_000],
        servers.Nchan: [3000, 10_000, 20_000],
        servers.NchanRedis: [3000, 6000, 8000, 9000, 10_000, 12_000],
        servers.NchanRedisAlone: [3000, 6000, 8000, 9000, 10_000, 11_000, 12_000],
        servers.AiohttpSse: [1000, 3000, 5000, 7000, 9000],
        servers.SseStarlette: [1000, 3000, 5000, 7000],
    }
    if not full:
        left_out = (1000, 9000, 11_000, 12_000)
        steps = {kind: [rate for rate in rates if rate not in left_out] for kind, rates in steps.items()}
    return Case(
        "routed",
        "1,000 sessions of one stream each, rising rates",
        {
            kind: partial(cases.routed, sessions=1000, rates=rates, seconds=seconds)
            for kind, rates in steps.items()
        },
        repeats,
    )


def _memory(repeats: int) -> Case:
    steps, fewer = (1000, 2000, 3000, 4000, 5000), (1000, 2000, 3000)
    runs: dict[type[Server], Run] = {
        kind: partial(cases.idle_memory, steps=steps) for kind in (*OURS, servers.Nchan, servers.NchanRedis)
    }
    runs |= {
        kind: partial(cases.idle_memory, steps=fewer) for kind in (servers.AiohttpSse, servers.SseStarlette)
    }
    return Case("memory", "idle streams, a session each", runs, repeats)


def _storm(repeats: int, *, full: bool) -> Case:
    streams = 10_000 if full else 5000
    runs: dict[type[Server], Run] = {
        servers.Gateway: partial(cases.storm, streams=streams, missed=5, cold=False),
        servers.GatewayCold: partial(cases.storm, streams=streams, missed=5, cold=True),
        servers.GatewayNotCompiled: partial(cases.storm, streams=streams, missed=5, cold=False),
        servers.GatewayInAiohttp: partial(cases.storm, streams=streams, missed=5, cold=False),
    }
    return Case("storm", f"{streams:,} authenticated streams return, 5 missed events each", runs, repeats)
