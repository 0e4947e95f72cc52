"""The documentation's commands work as they are written."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from redis.asyncio import Redis

from sse_gateway.store.library import Library, Limits
from tests.agent.people import People
from tests.support.modes import missing
from tests.support.servers import RedisProcess
from tests.support.wait import until_sync

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)[^)]*\)")


def commands(page: str) -> list[list[str]]:
    """Return the `redis-cli` lines of a page, split as a shell does."""
    lines = (ROOT / page).read_text().splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("redis-cli ")]


GUIDE = "docs/permissions.md"


def blocks(page: str) -> list[str]:
    """Return what a page shows to be typed into a shell, block by block."""
    return re.findall(r"^```sh\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def shell(server: RedisProcess, script: str) -> list[str]:
    """Return what a shell command holds that runs a script as it is written, on `server`."""
    if shutil.which("redis-cli") is None:
        missing("redis-cli")
    return ["bash", "-c", f'redis-cli() {{ command redis-cli -p {server.port} "$@"; }}\n{script}']


def typed(server: RedisProcess, line: str) -> str:
    """Run one line and return what it prints."""
    done = subprocess.run(shell(server, line), capture_output=True, text=True, check=True, timeout=20)
    assert done.stderr == ""
    return done.stdout


def test_the_raw_commands_of_the_permission_guide_work_as_written(server: RedisProcess) -> None:
    """Each line of docs/permissions.md, by the machine's redis-cli and in the page's order."""
    people = People(server)
    people.call("status", "s1")  # the library is on the server, as where a gateway runs
    lines = [line for block in blocks(GUIDE) if block.startswith("redis-cli") for line in block.splitlines()]
    replies = []
    for line in lines:
        if line.startswith("redis-cli XREAD "):
            # A human answers after the asking, and before the agent begins to wait.
            assert people.answer("s1", "deploy-7", reason="go on") == "won"
        replies.append(typed(server, line))
    assert [re.sub(r"redis-cli (FCALL )?(\w+).*", r"\2", line) for line in lines] == [
        *("XREVRANGE", "sse_ask", "XREAD", "sse_decision", "sse_claim"),
        *("sse_ask", "sse_cancel", "sse_ask", "sse_cancel"),
    ]
    nothing, asked, entry, decided, claimed, *withdrawn = replies
    assert nothing.strip() == ""
    standing = json.loads(asked)
    assert (standing["status"], standing["request_id"], standing["viewers"]) == ("pending", "deploy-7", 0)
    key, _, *fields = entry.splitlines()
    assert key == "permission_responses:{s1}"
    assert fields[:5] == ["request_id", "deploy-7", "outcome", "approved", "decision"]
    decision = json.loads(fields[5])
    assert (decision["approved"], decision["reason"]) == (True, "go on")
    assert json.loads(decided) == {"status": "decided", "decision": decision}
    assert claimed == "1\n"
    assert [json.loads(reply)["status"] for reply in withdrawn] == ["pending", "decided"] * 2
    ended = [json.loads(reply)["decision"] for reply in withdrawn[1::2]]
    assert [(decision["outcome"], decision["reason"]) for decision in ended] == [
        ("cancelled", "found another way"),
        ("cancelled", "no_viewer"),
    ]
    for page in ROOT.glob("docs/*.md"):
        assert not re.search(r"`redis-cli [A-Z]", page.read_text()), f"{page}: not in a block, so not tried"


def test_the_loop_of_the_permission_guide_waits_out_a_restart_and_ends_with_the_decision(
    own_server: RedisProcess,
) -> None:
    """Begun before the library is there, and waiting while Redis is restarted without its data."""
    (loop,) = (block for block in blocks(GUIDE) if block.startswith("request="))
    people = People(own_server)
    agent = subprocess.Popen(shell(own_server, loop), stdout=subprocess.PIPE, text=True)
    try:
        until_sync(lambda: fcalls(own_server), "the first asking, which finds no library")
        people.call("status", "s1")
        until_sync(lambda: people.pending("s1") == ["deploy-7"], "the request")
        own_server.restart(empty=True)
        until_sync(lambda: fcalls(own_server), "another asking")
        people.call("status", "s1")
        until_sync(lambda: people.pending("s1") == ["deploy-7"], "the request again")
        assert people.answer("s1", "deploy-7", approved=False, reason="not now") == "won"
        out, _ = agent.communicate(timeout=20)
    finally:
        agent.kill()
    assert agent.returncode == 0
    decision = json.loads(out)["decision"]
    assert (decision["outcome"], decision["reason"]) == ("denied", "not now")


def fcalls(server: RedisProcess) -> int:
    """Return how often our functions were called, in vain too."""
    return int(server.client.info("commandstats").get("cmdstat_fcall", {"calls": 0})["calls"])


def test_every_example_is_short() -> None:
    """Each of the five has fewer than 40 lines, whether or not its packages are here to run it."""
    examples = [*ROOT.glob("examples/*.py"), *ROOT.glob("examples/*.mjs")]
    assert len(examples) == 5
    assert [path.name for path in examples if len(path.read_text().splitlines()) >= 40] == []


async def test_the_publishing_lines_of_the_readme_work(redis: Redis) -> None:
    """The durable one returns an id, the plain one a count."""
    await Library("", Limits()).load(redis)
    durable, plain = ([word for word in line if word not in ("-u", "URL")] for line in commands("README.md"))
    assert re.fullmatch(rb"[0-9a-f]{10}-1", await redis.execute_command(*durable))
    assert await redis.execute_command(*plain) == 0


NOT_OURS = {".venv", "build", "node_modules"}
PAGES = [path.relative_to(ROOT) for path in ROOT.glob("**/*.md")]


@pytest.mark.parametrize("page", sorted(str(page) for page in PAGES if not NOT_OURS.intersection(page.parts)))
def test_links_lead_somewhere(page: str) -> None:
    """Every relative link of every page names a file that is there."""
    source = ROOT / page
    for target in LINK.findall(source.read_text()):
        assert (source.parent / target).exists(), f"{page}: {target}"
