"""The search of all logs for tokens: it finds what it should, and fails the run."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.command import sse_gateway
from tests.support import leaks
from tests.support.tokens import SECRET, forge, token

ROOT = Path(__file__).parent.parent
LEAKY = """
from tests.support import started
from tests.support.tokens import token

def test_that_leaks():
    folder = started.folder("gateway")
    (folder / "gateway.log").write_text('{"message":"GET /events?' + LEAK + '"}')
    started.remove(folder)

def test_that_does_not():
    folder = started.folder("nginx")
    (folder / "access.log").write_text("GET /events 200")
    started.remove(folder)
"""


@pytest.mark.parametrize("kind", ["token", "forged", "ticket"])
def test_any_long_piece_of_a_secret_is_found(kind: str) -> None:
    """Twenty-three characters in a row of a payload, a signature or a ticket are enough, wherever cut."""
    made = {
        "token": lambda: token(sub="somebody"),
        "forged": lambda: forge({"alg": "HS256"}, {"sub": "x" * 40}),
        "ticket": lambda: leaks.noted("Zk3-yLx_pPq8WnVt0aBcDeFgHiJkLmNo"),
    }[kind]()
    secret = made.split(".", 1)[-1].split(".")[-1]
    for at in range(len(secret) - leaks.REACH + 1):
        assert leaks.found_in(f"x {secret[at : at + leaks.REACH]}"), at
        assert leaks.found_in(f'"GET /a?token=abc{secret[at : at + leaks.REACH]}&b=1"'), at


def test_what_is_no_secret_is_not_found() -> None:
    """A header, which all tokens share, ids and a redacted token are nobody's secret."""
    made = token()
    head = made.partition(".")[0]
    assert not leaks.found_in(f"{head} s-0123456789ab 0123456789-17 token=[redacted] {made[:12]}")


def test_what_processes_made_for_themselves_is_known_by_its_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody noted the token that a command minted, or the ticket that a page fetched."""
    found: list[str] = []
    monkeypatch.setattr(
        leaks, "_write", lambda name, entries: found.extend(e.get("line", "") for e in entries)
    )
    minted = sse_gateway("token", "-u", "ann", jwt_secret=SECRET).out.strip()
    assert not any(found), "the command that prints tokens may"
    ticket = "GET /events/s1?ticket=" + secrets.token_urlsafe(24)
    leaks.look("page.log", f"{ticket}\nBearer {minted}\nticket=[redacted]&token=nonsense\n")
    assert set(found) - {""} == {ticket, f"Bearer {minted}"}


@pytest.mark.parametrize(
    ("workers", "leak", "code"),
    [
        ("0", "token()[-30:]", 1),
        ("1", "token()", 1),
        pytest.param("0", "token()[:10]", 0, marks=pytest.mark.long),
    ],
)
def test_a_token_in_a_log_fails_the_run(tmp_path: Path, workers: str, leak: str, code: int) -> None:
    """The run fails though every test passes, and names the log and the test, with workers and without."""
    (tmp_path / "test_leaky.py").write_text(LEAKY.replace("LEAK", leak))
    run = subprocess.run(
        f"{sys.executable} -m pytest -q -c {ROOT}/pyproject.toml --rootdir {tmp_path} -p tests.conftest "
        f"-n {workers} {tmp_path}/test_leaky.py".split(),
        cwd=ROOT,
        env={**os.environ, "PYTEST_DEBUG_TEMPROOT": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == code, run.stdout + run.stderr
    assert "2 passed" in run.stdout
    assert "2 logs" in run.stdout
    assert ("LEAKED" in run.stdout) == bool(code)
    if code:
        assert "gateway.log: of test_leaky.py::test_that_leaks" in run.stdout
