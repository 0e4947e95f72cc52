"""docs/guarantees.md names tests, and they are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "guarantees.md"
NAMED = sorted(set(re.findall(r"`(tests/[^`]*)`", PAGE.read_text(encoding="utf-8"))))

SERVERS = {"server", "own_server", "desk"}
"""Fixtures that start one."""


@pytest.mark.parametrize("name", NAMED)
def test_a_named_test_exists_and_says_what_it_proves(name: str) -> None:
    """Each test the page names is there, under that very name, and has a sentence of its own."""
    path, _, function = name.partition("::")
    assert (ROOT / path).is_file(), f"there is no {path}"
    found = {
        node.name: ast.get_docstring(node)
        for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert function in found, f"{path} has no {function}"
    assert found[function], f"{name} does not say what it proves"


def named_tests(folder: str) -> dict[str, set[str]]:
    """Return the names of a folder's tests, each with its arguments."""
    return {
        f"{path.relative_to(ROOT).as_posix()}::{node.name}": {argument.arg for argument in node.args.args}
        for path in (ROOT / "tests" / folder).glob("test_*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def test_every_fault_is_on_the_page() -> None:
    """Each test that breaks something is named on the page, so that it cannot promise less than is shown."""
    chaos = named_tests("chaos").keys()
    assert chaos <= set(NAMED), sorted(chaos - set(NAMED))


def test_every_test_of_whole_streams_is_on_the_page() -> None:
    """So is each test of streams on a server; those of parts, without one, promise nothing by themselves."""
    whole = {name for name, arguments in named_tests("streams").items() if arguments & SERVERS}
    assert whole <= set(NAMED), sorted(whole - set(NAMED))
