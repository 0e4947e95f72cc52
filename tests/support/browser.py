"""Headless Chromium by Playwright: the machine's own browser, with nothing that calls home."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.async_api import Browser

ARGUMENTS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--disable-gpu",
    "--no-first-run",
]


def binary() -> str | None:
    """Return the path of a Chromium; SSE_TEST_CHROMIUM names another one."""
    named = os.environ.get("SSE_TEST_CHROMIUM")
    if named:
        return named if Path(named).exists() else None
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Run a browser in this event loop for as long as the block lasts."""
    from playwright.async_api import async_playwright  # noqa: PLC0415 (slow to import, and few tests need it)

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=binary(), args=ARGUMENTS)
        try:
            yield browser
        finally:
            await browser.close()
