"""What a worker knows of its steps, and how long it keeps them ready for bundles."""

from __future__ import annotations

from typing import Any

from apache_beam.runners.worker import sdk_worker
from apache_beam.transforms import userstate

KEPT_SECONDS = 2 * 86_400


def keep_steps_ready() -> None:
    """A worker that starts in this process after it keeps its steps from window to window, and makes them faster.

    Beam throws away what was idle for a minute, and makes it anew with the next bundle. A quarter of an hour lies
    between two windows, so that every step would be made when alerts wait for it. What is kept is as many copies of a
    step as there were bundles of it at a time.
    """
    sdk_worker.DEFAULT_BUNDLE_PROCESSOR_CACHE_SHUTDOWN_THRESHOLD_S = KEPT_SECONDS
    if not isinstance(userstate.get_dofn_specs, SpecsOfClasses):
        userstate.get_dofn_specs = SpecsOfClasses(userstate.get_dofn_specs)  # type: ignore[assignment]


class SpecsOfClasses:
    """Beam's `get_dofn_specs`, which reads the signatures of all methods of a step, once for each class of steps.

    Beam asks three times for every copy of a step, which was half of what making one took.
    """

    def __init__(self, look: Any) -> None:
        self._look = look
        self._known: dict[type, Any] = {}

    def __call__(self, step: Any) -> Any:
        found = self._known.get(type(step))
        if found is None:
            found = self._known[type(step)] = self._look(step)
        return found
