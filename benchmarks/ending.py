"""How the benchmarks end: with everything that they have started, also when they are asked to."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from ami_beam.command import Stopped, stoppable

STOPPED = 143
"""As a shell says of a process that SIGTERM has ended."""


def leave_with(main: Callable[[], int]) -> NoReturn:
    """End the process with the exit code of `main`, which SIGTERM and Ctrl-C take through its `finally` blocks."""
    with stoppable():
        try:
            code = main()
        except Stopped:
            code = STOPPED
    sys.exit(code)
