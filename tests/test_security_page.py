"""docs/security.md names tests for what it claims, and they are there; no attack is left out."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`((?:tests/[\w/]+\.py(?:::)?)?(?:test_\w+)?)`", PAGE)) - {""})


@cache
def functions(path: Path) -> frozenset[str]:
    """Return the names of a file's test functions."""
    found = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return frozenset(node.name for node in found if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def attacks() -> dict[str, str]:
    """Return every attack test of the suite, with its file."""
    return {
        name: path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "tests").glob("**/test_*.py"))
        for name in functions(path)
        if name.startswith("test_attack_")
    }


@pytest.mark.parametrize("named", NAMED)
def test_a_named_test_exists(named: str) -> None:
    """Each test or file of tests that the page names is there, under that very name."""
    path, _, name = named.rpartition("::")
    if not path and name.startswith("tests/"):
        assert (ROOT / name).is_file()
    elif path:
        assert name in functions(ROOT / path), named
    else:
        assert name in attacks(), f"{name}: name its file too, unless it is an attack"


def test_every_attack_is_on_the_page() -> None:
    """What is tried is claimed, so that the page cannot promise less than is shown."""
    named = {name.rpartition("::")[2] for name in NAMED}
    assert attacks().keys() <= named, sorted(attacks().keys() - named)
