"""Debian's Chromium for tests that look at pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("CI"),
    reason="there is no chromium here; `apt-get install chromium`",
)


@contextmanager
def chromium(*options: str) -> Generator[Browser]:
    """A headless browser with these options of the command line."""
    assert CHROMIUM is not None, "CI needs chromium: `apt-get install chromium`"
    with sync_playwright() as playwright:
        # Without its sandbox, which root may not have; it opens nothing but our pages.
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", *options]
        )
        yield browser
        browser.close()
