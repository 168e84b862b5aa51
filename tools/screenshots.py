"""The pictures of the README, made anew from a running demonstration: `python -m tools.screenshots`.

It takes about three minutes: it waits until there are alarms to be seen. Needs Chromium (apt install chromium).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from playwright.sync_api import Page

from ami_beam.local import process
from tools.chromium import MISSING, browser, program, wait_until

FOLDER = Path(__file__).parent.parent / "docs" / "images"
DESK, PHONE = (1440, 900), (390, 844)
_START_SECONDS, _ALARM_SECONDS = 180.0, 300.0


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 made, 1 the demonstration did not come so far, 2 no browser."""
    parser = argparse.ArgumentParser(prog="python -m tools.screenshots", description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"where they go ({FOLDER.name} of the docs)")
    parser.add_argument("--windows", type=int, default=24, help="how many the map has to have (24)")
    options = parser.parse_args(argv)
    if program() is None:
        print(f"tools.screenshots {MISSING}", file=sys.stderr)
        return 2
    options.folder.mkdir(parents=True, exist_ok=True)
    (port,) = process.free_ports(1)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "ami_beam.demo", f"--dashboard_port={port}", "--meters=2000", "--window=5s"]
        demo = process.ChildProcess("the demonstration", command, Path(folder) / "demo.log")
        try:
            demo.wait_until(lambda: process.is_listening(port), _START_SECONDS)
            with browser() as made:
                page = made.new_context(viewport=_size(DESK), device_scale_factor=1).new_page()
                page.goto(f"http://127.0.0.1:{port}/")
                if not _is_eventful(page, options.windows):
                    print(f"tools.screenshots: no alarms after {_ALARM_SECONDS:.0f} s", file=sys.stderr)
                    return 1
                for path in take(page, options.folder):
                    print(path)
        except process.StartError as error:
            print(f"tools.screenshots: {error}", file=sys.stderr)
            return 1
        finally:
            demo.stop(30)
    return 0


def take(page: Page, folder: Path) -> list[Path]:
    """The overview, a feeder that sags, its worst transformer, an alarm, and the overview on a phone."""
    made = []

    def shot(name: str) -> None:
        page.wait_for_timeout(1_500)
        path = folder / f"{name}.png"
        page.screenshot(path=path)
        made.append(path)

    def go(address: str) -> None:
        page.evaluate("(address) => { location.hash = address; }", address)
        page.wait_for_timeout(500)

    shot("overview")
    go("#/map")
    wait_until(page, "amiBeam.map.rows().length > 0")
    feeder = page.evaluate("amiBeam.map.rows()[0]")
    go(f"#/feeder/{feeder}")
    wait_until(page, "amiBeam.map.rows().length > 0 && amiBeam.map.windows().length > 0")
    shot("feeder")
    transformer = page.evaluate("amiBeam.map.rows()[0]")
    go(f"#/transformer/{transformer}")
    page.wait_for_selector(".uplot")
    shot("transformer")
    go("#/alarms?state=all&explained=1")
    shot("alarms")
    page.set_viewport_size(_size(PHONE))
    go("#/")
    shot("phone")
    return made


def _is_eventful(page: Page, windows: int) -> bool:
    """Whether there are so many windows, a feeder beyond a limit in one of the last, and an alarm about it, in time."""
    until = time.monotonic() + _ALARM_SECONDS
    seen = """(least) => {
      const map = amiBeam.map, ends = map.windows();
      const beyond = (row) => ends.slice(-4).some((end) => "156".includes(map.code(row, end)));
      const alarms = document.querySelectorAll("main table tbody tr.active").length;
      return ends.length >= least && alarms > 0 && map.rows().some(beyond);
    }"""
    while time.monotonic() < until:
        page.wait_for_timeout(1_000)
        if page.evaluate(seen, windows):
            return True
    return False


def _size(size: tuple[int, int]) -> dict[str, int]:
    return {"width": size[0], "height": size[1]}


if __name__ == "__main__":
    sys.exit(main())
