"""What is measured, a function each: given a kind of server, it returns one run's numbers.

A run that lost, doubled or did not get an event raises `Failed`; its numbers are not used.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from bench import machine
from bench.programs import Commanded, Failed, Load, Result
from bench.servers import Gateway, Programs, Server

WARM_SECONDS = 1.0


def fan_out(kind: type[Server], programs: Programs, *, streams: int, rate: float, seconds: float) -> Result:
    """Publish to one session that many streams watch."""
    with kind.running(programs) as server:
        load = server.load(streams, sessions=1)
        load.connect(streams)
        server.settle()
        result = _at_rate(server, load, rate, 1, seconds)
        load.close()
        return result


def routed(
    kind: type[Server], programs: Programs, *, sessions: int, rates: Sequence[float], seconds: float
) -> list[Result]:
    """Publish to many sessions of one stream each, faster and faster, until the server cannot keep up."""
    results = []
    with kind.running(programs) as server:
        load = server.load(sessions, sessions=sessions)
        load.connect(sessions)
        server.settle()
        for rate in rates:
            result = _at_rate(server, load, rate, sessions, seconds, strict=False)
            results.append(result)
            if not result["on_time"]:
                break
        load.close()
    return results


def _at_rate(
    server: Server, load: Load, rate: float, sessions: int, seconds: float, *, strict: bool = True
) -> Result:
    load.publish(rate, WARM_SECONDS, sessions, strict=strict)
    script, cpu, began = server.script_microseconds(), machine.cpu_seconds(server.pids), time.monotonic()
    result = load.publish(rate, seconds, sessions, strict=strict)
    elapsed = time.monotonic() - began
    cpu = machine.cpu_seconds(server.pids) - cpu
    result["cpu_us"] = cpu * 1e6 / max(1, result["received"])
    result["cpu_share"] = cpu / elapsed
    result["redis_us"] = (server.script_microseconds() - script) / max(1, result["published"])
    return result


def idle_memory(kind: type[Server], programs: Programs, *, steps: Sequence[int]) -> Result:
    """Open streams of a session each, step by step; the slope of the resident memory is a stream's cost."""
    with kind.running(programs) as server:
        load = server.load(steps[-1], sessions=steps[-1])
        points = []
        for count in steps:
            load.connect(count, at_once=200)
            server.settle()
            load.hold(2.0)
            points.append([count, machine.rss_bytes(server.pids)])
        load.close()
    slope = statistics.linear_regression(*zip(*points, strict=True)).slope
    return {"points": points, "bytes_per_stream": slope}


def connecting(kind: type[Server], programs: Programs, *, streams: int) -> Result:
    """Open many streams of a session each at once."""
    with kind.running(programs) as server:
        load = server.load(streams, sessions=streams)
        cpu = machine.cpu_seconds(server.pids)
        result = load.connect(streams)
        result["cpu_us"] = (machine.cpu_seconds(server.pids) - cpu) * 1e6 / streams
        load.close()
        return result


def storm(kind: type[Gateway], programs: Programs, *, streams: int, missed: int, cold: bool) -> Result:
    """Have all streams return with their last event id, each having missed some events.

    `cold`: to a gateway that was just started and knows none of the tokens.
    """
    with kind.running(programs) as server:
        load = server.load(streams, sessions=streams)
        load.connect(streams)
        load.drop()
        if cold:
            server.restart_gateways()
        load.missed(missed, streams)
        time.sleep(1.0)
        calls = _calls(server)
        cpu = machine.cpu_seconds(server.pids)
        result = load.connect(streams, at_once=1000)
        result["cpu_us"] = (machine.cpu_seconds(server.pids) - cpu) * 1e6 / streams
        result["redis_calls_per_stream"] = (_calls(server) - calls) / streams
        if result["received"] != streams * missed:
            raise Failed(f"{result['received']} of {streams * missed} missed events came")
        load.close()
        return result


def _calls(server: Server) -> int:
    """Return how often scripts were called, presence beats included."""
    return int(server.redis_client().info("commandstats").get("cmdstat_fcall", {}).get("calls", 0))


def heartbeat(
    kind: type[Gateway], programs: Programs, *, streams: int, rate: float, seconds: float
) -> Result:
    """Publish to 1,000 of very many streams while the heartbeats of all go out."""
    with kind.running(programs) as server:
        load = server.load(streams, sessions=streams)
        load.connect(streams)
        load.hold(3.0)
        cpu = machine.cpu_seconds(server.pids)
        result = load.publish(rate, seconds, 1000)
        result["cpu_share"] = (machine.cpu_seconds(server.pids) - cpu) / result["seconds"]
        result["rss_bytes"] = machine.rss_bytes(server.pids)
        load.close()
        return result


def answers(kind: type[Gateway], programs: Programs, *, rate: float, seconds: float) -> Result:
    """Answer permission requests at a rate; a viewer of each session watches its stream meanwhile."""
    sessions = 1000
    with kind.running(programs) as server:
        viewers = server.load(sessions, sessions=sessions)
        viewers.connect(sessions)
        path = _ask(server, int(rate * seconds), sessions)
        viewers.hold(1.0)
        program: list[str | Path] = [server.programs.paths["answers"], str(server.port)]
        client = Commanded(server.programs.started, [*program, str(server.redis_port), path])
        cpu = machine.cpu_seconds(server.pids)
        result = client.tell(f"answer {rate} {seconds}")
        result["cpu_us"] = (machine.cpu_seconds(server.pids) - cpu) * 1e6 / result["wanted"]
        result["rate"] = rate
        result["on_time"] = result["seconds"] < seconds + 1
        client.close()
        viewers.close()
    wrong = {name: result[name] for name in ("errors", "twice") if result[name]}
    if wrong or result["heard"] < result["wanted"]:
        raise Failed(f"{wrong}, {result['heard']} of {result['wanted']} heard")
    return result


def _ask(server: Gateway, count: int, sessions: int) -> Path:
    """Ask so many requests, and return the file that tells the client how to answer them."""
    path = server.programs.started.folder / "requests"
    # One session's requests stand together, so that the client subscribes to each channel once.
    each = -(-count // sessions)
    pipeline = server.redis_client().pipeline(transaction=False)
    with path.open("w") as file:
        for number in range(count):
            line = server.line(number // each, number // each)
            request = {
                "request_id": f"q{number:08d}",
                "tool_name": "bash",
                "parameters": {"cmd": "ls"},
                "expires_in": 600,
            }
            pipeline.execute_command("FCALL", "sse_ask", 1, line.publish_to, json.dumps(request))
            body = json.dumps({"approved": True, "request_id": request["request_id"]})
            answer_path = line.path.replace("/events/", "/permission-response/")
            channel = f"permission_response:{line.publish_to}"
            file.write(f"{answer_path}\t{line.header}\t{body}\t{channel}\n")
            if number % 500 == 499 or number + 1 == count:
                pipeline.execute()
    return path


def processes(kind: type[Gateway], programs: Programs, *, count: int, rate: float, seconds: float) -> Result:
    """Publish to 1,000 sessions of one stream through `count` gateways that share one port."""
    with kind.running(programs, processes=count) as server:
        load = server.load(1000, sessions=1000)
        load.connect(1000)
        result = _at_rate(server, load, rate, 1000, seconds, strict=False)
        load.close()
        return result


def long_idle(kind: type[Gateway], programs: Programs, *, streams: int, count: int, seconds: float) -> Result:
    """Hold as many idle streams as the descriptors of `count` gateways allow, heartbeats on."""
    with kind.running(programs, processes=count) as server:
        empty, slab = machine.rss_bytes(server.pids), machine.slab_bytes()
        loads = [
            server.load(streams // count, sessions=streams, first=number * (streams // count))
            for number in range(count)
        ]
        for load in loads:
            load.connect(streams // count, seconds=180)
        cpu, began = machine.cpu_seconds(server.pids), time.monotonic()
        # Both clients only read, one behind the other's back: what is unread waits in its socket.
        share = seconds / len(loads)
        held = [load.hold(share) for load in loads]
        rest = [load.hold(1.0) for load in loads]
        elapsed = time.monotonic() - began
        result = {
            "streams": streams,
            "processes": count,
            "seconds": elapsed,
            "heartbeats": sum(part["heartbeats"] for part in (*held, *rest)),
            "cpu_share": (machine.cpu_seconds(server.pids) - cpu) / elapsed,
            "rss_bytes": machine.rss_bytes(server.pids),
            "empty_rss_bytes": empty,
            "kernel_bytes": machine.slab_bytes() - slab,
            "live": sum(part["live"] for part in rest),
        }
        for load in loads:
            load.close()
        return result
