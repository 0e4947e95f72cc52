"""The documentation's commands work as they are written."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from sse_gateway.store.library import Library, Limits

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)[^)]*\)")


def commands(page: str) -> list[list[str]]:
    """Return the `redis-cli` lines of a page, split as a shell does."""
    lines = (ROOT / page).read_text().splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("redis-cli ")]


async def test_the_raw_commands_of_the_permission_guide_work_in_order(redis: Redis) -> None:
    """Asked, read, looked at, claimed and cancelled by the very lines of docs/permissions.md."""
    await Library("", Limits()).load(redis)
    replies: list[Any] = []
    lines = commands("docs/permissions.md")
    for line in lines:
        if line[:2] == ["FCALL", "sse_claim"]:
            # In the guide a human answers here.
            decision = {"request_id": line[4], "outcome": "approved", "approved": True, "source": "human"}
            await redis.execute_command(
                "FCALL", "sse_answer", 1, "s1", line[4], "1", "", "", json.dumps(decision), "0", 0
            )
        replies.append(await redis.execute_command(*line))
    by_function = {line[1]: reply for line, reply in zip(lines, replies, strict=True) if line[0] == "FCALL"}
    assert json.loads(replies[1])["status"] == "pending"
    assert json.loads(by_function["sse_decision"])["request_id"] == "deploy-7"
    assert by_function["sse_claim"] == 1
    assert json.loads(by_function["sse_cancel"])["decision"]["reason"] == "found another way"
    assert [line[0] for line in lines] == ["XREVRANGE", "FCALL", "XREAD", "FCALL", "FCALL", "FCALL", "FCALL"]


async def test_the_publishing_lines_of_the_readme_work(redis: Redis) -> None:
    """The durable one returns an id, the plain one a count."""
    await Library("", Limits()).load(redis)
    durable, plain = ([word for word in line if word not in ("-u", "URL")] for line in commands("README.md"))
    assert re.fullmatch(rb"[0-9a-f]{10}-1", await redis.execute_command(*durable))
    assert await redis.execute_command(*plain) == 0


@pytest.mark.parametrize(
    "page", sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("**/*.md") if ".venv" not in path.parts)
)
def test_links_lead_somewhere(page: str) -> None:
    """Every relative link of every page names a file that is there."""
    source = ROOT / page
    for target in LINK.findall(source.read_text()):
        assert (source.parent / target).exists(), f"{page}: {target}"
