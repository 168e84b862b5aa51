"""A headless Chromium for tests and screenshots: the machine's own, such as Debian's package. Nothing is fetched."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

MISSING = "needs Chromium: apt install chromium, or name its program in AMI_BEAM_CHROMIUM"
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def program() -> Path | None:
    """The browser's program; None where there is none. AMI_BEAM_CHROMIUM names it."""
    named = os.environ.get("AMI_BEAM_CHROMIUM")
    if named:
        return Path(named)
    found = next((path for path in map(shutil.which, _NAMES) if path), None)
    return None if found is None else Path(found)


def wait_until(page: Page, expression: str, argument: Any = None, seconds: float = 30.0) -> None:
    """Returns when an expression of JavaScript is true in the page. Raises TimeoutError.

    Playwright's own wait runs its text as a script of the page, which a content security policy forbids.
    """
    until = time.monotonic() + seconds
    while not page.evaluate(expression, argument):
        if time.monotonic() > until:
            raise TimeoutError(f"not so after {seconds:g} s: {expression}")
        page.wait_for_timeout(20)


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser of its own profile, ended at the end. Raises RuntimeError where there is none."""
    found = program()
    if found is None:
        raise RuntimeError(MISSING)
    with sync_playwright() as playwright:
        # Root may not use the sandbox; what is opened is our own page.
        sandbox = [] if os.geteuid() else ["--no-sandbox"]
        made = playwright.chromium.launch(executable_path=found, args=[*sandbox, "--disable-dev-shm-usage"])
        try:
            yield made
        finally:
            made.close()
