"""With REDIS_WAIT_REPLICAS a person or a worker hears "yes" only once a replica has it too."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.permissions.desk import CROWDED, Agent, Dial, Gateways, answering, bearer
from tests.support.gateway import GatewayProcess
from tests.support.topologies import ReplicaPair

pytestmark = pytest.mark.chaos


async def test_an_answer_counts_once_the_replica_has_it(
    replica_pair: ReplicaPair, gateways: Gateways, dial: Dial, session_id: str
) -> None:
    """While the replica stands still an answer and its repetitions are 503; after it goes on, 200."""
    two = [await gateways(replica_pair, redis_wait_replicas=1, **CROWDED) for _ in range(2)]
    agent = Agent(replica_pair.primary)
    agent.ask(session_id, request_id="r1")
    # WAIT is about the writes of one connection, and who repeats an answer has another one.
    line, elsewhere = await dial(two[0]), await dial(two[1])
    assert (await line.send(answering(session_id, {"approved": True, "request_id": "r1"}))).won
    agent.ask(session_id, request_id="r2")
    replica_pair.in_step()
    answer = answering(session_id, {"approved": True, "request_id": "r2"})
    replica_pair.replica.pause()
    try:
        for repeated_on in (line, elsewhere, line, elsewhere):
            reply = await repeated_on.send(answer)
            assert (reply.status, reply.code) == (503, "redis_unavailable"), reply
    finally:
        replica_pair.replica.resume()
    replica_pair.in_step()
    reply = await line.send(answer)
    assert (reply.status, reply.body["data"]["replayed"]) == (200, True)
    other = await line.send(answering(session_id, {"approved": False, "request_id": "r2"}))
    assert (other.status, other.decision) == (409, reply.decision)


async def test_a_claim_counts_once_the_replica_has_it(
    replica_pair: ReplicaPair,
    gateways: Gateways,
    http: httpx.AsyncClient,
    dial: Dial,
    session_id: str,
) -> None:
    """A claim that no replica confirms is a 503, however often it is made, and then the worker's own."""
    two = [await gateways(replica_pair, redis_wait_replicas=1, **CROWDED) for _ in range(2)]
    agent = Agent(replica_pair.primary)
    agent.ask(session_id, request_id="r")
    line = await dial(two[0])
    assert (await line.send(answering(session_id, {"approved": True, "request_id": "r"}))).won

    async def claim(worker: str, gateway: GatewayProcess) -> httpx.Response:
        url = f"{gateway.base}/permissions/{session_id}/r/claim"
        headers = {"Authorization": bearer("agent", session_id, "sse:publish")}
        return await http.post(url, headers=headers, json={"worker_id": worker})

    replica_pair.in_step()
    replica_pair.replica.pause()
    try:
        for gateway in (*two, *two):
            assert (await claim("w1", gateway)).status_code == 503
    finally:
        replica_pair.replica.resume()
    replica_pair.in_step()
    assert (await claim("w1", two[1])).json()["data"] == {"claimed": True}
    assert (await claim("w2", two[0])).json()["data"] == {"claimed": False}


async def test_a_confirmed_answer_survives_the_primary(
    replica_pair: ReplicaPair, gateways: Gateways, dial: Dial, session_id: str
) -> None:
    """What a person was told had counted still counts after a failover in the same moment."""
    gateway = await gateways(replica_pair, redis_wait_replicas=1, **CROWDED)
    Agent(replica_pair.primary).ask(session_id, request_id="r")
    line = await dial(gateway)
    reply = await line.send(answering(session_id, {"approved": True, "request_id": "r"}))
    assert reply.won
    replica_pair.primary.kill()
    replica_pair.promote()
    standing = json.loads(Agent(replica_pair.primary).call("decision", session_id, "r"))
    assert standing == {"status": "decided", "decision": reply.decision}
