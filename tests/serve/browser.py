"""Debian's Chromium for tests that look at pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("CI"),
    reason="there is no chromium here; `apt-get install chromium`",
)


_PATIENCE_MS = 120_000
"""For what surely comes: Playwright's 5 s for what is expected are a slow machine's page load."""


@contextmanager
def chromium(*options: str) -> Generator[Browser]:
    """A headless browser with these options of the command line."""
    assert CHROMIUM is not None, "CI needs chromium: `apt-get install chromium`"
    expect.set_options(timeout=_PATIENCE_MS)
    with sync_playwright() as playwright:
        # Without its sandbox, which root may not have; it opens nothing but our pages.
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", *options]
        )
        yield browser
        browser.close()
