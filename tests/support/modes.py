"""The two ways the suite runs: `make test`, counts reduced, and `make test-long`, counts as stated."""

from __future__ import annotations

import os
from typing import NoReturn, TypeVar

import pytest

Count = TypeVar("Count", int, float)

LONG = os.environ.get("SSE_TEST_LONG", "") not in ("", "0")
CI = os.environ.get("CI", "") not in ("", "0", "false")


def scaled(small: Count, full: Count) -> Count:
    """Return the count for this mode; for decorators, whose tests are then marked `scaled` by hand."""
    return full if LONG else small


def missing(what: str) -> NoReturn:
    """Skip for want of a program of the machine's, or fail: under CI it has to be there."""
    if CI:
        pytest.fail(f"{what} is missing, and CI has to have it (see .ci/run)", pytrace=False)
    pytest.skip(f"{what} is not installed on this machine")
