"""Python's garbage collector in a process that makes hundreds of thousands of short-lived objects a second."""

from __future__ import annotations

import gc

ALLOCATIONS = 200_000
"""Container objects between two looks for cycles; 700 by default. A batch of 5,000 reads makes about 10,000."""
_done = False


def collect_rarely() -> None:
    """From now on this process looks for garbage cycles rarely, and never again among what it has loaded.

    Objects die by their reference count as before. What makes cycles here (Beam's own bookkeeping) is a few objects a
    bundle, so the memory that waits for a collection stays small; a third of the time of decoding went into looking.
    """
    global _done
    if not _done:
        _done = True
        gc.collect()
        gc.freeze()
        gc.set_threshold(ALLOCATIONS, 20, 100)
