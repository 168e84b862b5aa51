"""How long a worker keeps the steps that it has made ready for bundles."""

from __future__ import annotations

from apache_beam.runners.worker import sdk_worker

KEPT_SECONDS = 2 * 86_400


def keep_steps_ready() -> None:
    """A worker that starts in this process after it keeps its steps from window to window.

    Beam throws away what was idle for a minute, and makes it anew with the next bundle. A quarter of an hour lies
    between two windows, so that every step would be made when alerts wait for it. What is kept is as many copies of a
    step as there were bundles of it at a time.
    """
    sdk_worker.DEFAULT_BUNDLE_PROCESSOR_CACHE_SHUTDOWN_THRESHOLD_S = KEPT_SECONDS
