"""`make audit` fails for what is known against a locked version, and not for want of a network."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.support.ports import free_port

ROOT = Path(__file__).parents[1]
LOCK = f"click==8.1.8 --hash=sha256:{'0' * 64}\nhiredis==3.0.0 --hash=sha256:{'1' * 64}\n"
KNOWN = {
    "id": "TEST-2026-1",
    "summary": "of the test",
    "affected": [
        {
            "package": {"name": "hiredis", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "3.0.1"}]}],
        }
    ],
}


class Database:
    """An advisory database that knows of one package; `status` is its answer to everything."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.bad = ""
        self.status = 200
        self.url = f"http://127.0.0.1:{free_port()}/v1/query"

    async def answer(self, request: web.Request) -> web.Response:
        question: dict[str, Any] = json.loads(await request.read())
        name = question["package"]["name"]
        self.asked.append(f"{name} {question['version']}")
        return web.json_response({"vulns": [KNOWN]} if name == self.bad else {}, status=self.status)


@pytest.fixture
async def database() -> AsyncIterator[Database]:
    """A database that is there."""
    made = Database()
    app = web.Application()
    app.router.add_post("/v1/query", made.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(made.url.split(":")[2].split("/")[0])).start()
    yield made
    await runner.cleanup()


async def audit(folder: Path, database: Database, lock: str = LOCK) -> tuple[int, str]:
    """Audit a lock file; return the exit code and what was said."""
    (folder / "lock.txt").write_text(lock)
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(ROOT / "scripts" / "audit.py"), str(folder / "lock.txt"),
        "--database", database.url,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def test_a_vulnerability_that_is_known_fails(database: Database, tmp_path: Path) -> None:
    """It is named, with the version that cures it; without it the audit passes and says what it did."""
    code, said = await audit(tmp_path, database)
    assert (code, said) == (0, "==> 2 locked packages audited, 0 with known vulnerabilities\n")
    assert {"click 8.1.8", "hiredis 3.0.0"} <= set(database.asked)
    database.bad = "hiredis"
    code, said = await audit(tmp_path, database)
    assert code == 1
    assert said.startswith("hiredis 3.0.0: TEST-2026-1, fixed in 3.0.1\n")


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (None, "cannot be reached ("),
        (503, "is in trouble (status 503)"),
        (403, "was reached, but it or a proxy before it refuses us (status 403)"),
    ],
)
async def test_without_the_database_it_says_so_and_goes_on(
    database: Database, tmp_path: Path, status: int | None, why: str
) -> None:
    """No network, an outage or a proxy that lets nobody out: a line that says which, and no failure."""
    if status is None:
        database.url = f"http://127.0.0.1:{free_port()}/v1/query"
    else:
        database.status = status
    code, said = await audit(tmp_path, database)
    assert code == 0
    assert said.startswith(f"==> NOTHING WAS AUDITED: the advisory database {database.url} {why}")
    assert said.count("\n") == 1
    assert "locked packages audited" not in said


async def test_a_question_that_the_database_does_not_take_fails(database: Database, tmp_path: Path) -> None:
    """That is no want of a network, but a fault of ours."""
    database.status = 400
    code, _ = await audit(tmp_path, database)
    assert code == 1


async def test_the_locks_of_this_project_can_be_audited_together(database: Database) -> None:
    """They share most of their packages, one of them in two versions, and `make audit` passes them all."""
    makefile = (ROOT / "Makefile").read_text()
    locks = next(line for line in makefile.splitlines() if "scripts/audit.py" in line).split()[2:]
    assert set(locks) == {"requirements.lock", "bench/requirements.lock", "scripts/redis5.lock"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "scripts/audit.py", *locks, "--database", database.url,
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    assert process.returncode == 0, said
    assert said.startswith(b"==> "), said
    assert len(set(database.asked)) > 100


async def test_a_lock_that_cannot_be_audited_fails(database: Database, tmp_path: Path) -> None:
    """A version without a hash is no lock, and what pip-audit cannot read is no success."""
    code, said = await audit(tmp_path, database, "click==8.1.8\n")
    assert code == 1
    assert "hash" in said


def test_the_locks_are_pinned_by_hash_and_name_no_index() -> None:
    """Each requirement has its version and its hashes; where it comes from is the installer's matter."""
    for lock, least in (
        ("requirements.lock", 50),
        ("bench/requirements.lock", 50),
        ("scripts/redis5.lock", 0),
    ):
        text = (ROOT / lock).read_text().replace("\\\n", " ")
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        assert len(lines) > least
        for line in lines:
            assert "==" in line.split(";")[0], line
            assert "--hash=sha256:" in line, line
        assert "://" not in text
        assert "--index" not in text
