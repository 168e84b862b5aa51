"""Which meters were heard in a window: of a transformer of which all were, one word; of the others their names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ami_beam.codecs.read_block import ESTIMATED
from ami_beam.instants import MICROS_PER_HOUR
from ami_beam.records import HeardMeters, MeterCount, Observation, StatisticsBatch, TransformerHeard
from ami_beam.settings import Settings

NAMED_EVERY = 6 * MICROS_PER_HOUR
"""Windows that end at a multiple of this name every meter: who is expected is learned from them. Four a day, so that
one that is missed is no gap, and few, because saying every name costs."""


def heard_meters(
    batch: StatisticsBatch,
    observations: Sequence[Observation],
    counts: Sequence[MeterCount | None],
    settings: Settings,
) -> HeardMeters | None:
    """Who was heard by an actual read of those transformers that are in the meter counts; None where none of them is.

    What depends on nothing but the window and its reads, in whatever portions they came: which windows name all meters
    is decided by the clock. `batch`, `observations` and `counts` belong together place by place.
    """
    voltages = batch.voltages
    if voltages is None:
        return None
    all_named = batch.window_end % max(NAMED_EVERY, settings.window) == 0
    complete: list[str] = []
    named: list[TransformerHeard] = []
    estimated = np.frombuffer(voltages.flags, np.uint8) & ESTIMATED != 0
    begin = 0
    for statistics, seen, count, end in zip(batch.transformers, observations, counts, voltages.ends, strict=True):
        if count is not None:
            is_complete = statistics.actual_meters_reported >= count.total_meters
            transformer_id, revision = statistics.transformer_id, statistics.revision
            if is_complete and not all_named:
                if revision == 0:  # nearly always
                    complete.append(transformer_id)
                else:
                    named.append(TransformerHeard(transformer_id, seen.feeder_id, revision, True, [], []))
            else:
                names, others = sorted(voltages.meters[begin:end]), []
                if statistics.actual_meters_reported < len(names):  # estimates, or several reads of a meter
                    no_reads = estimated[begin:end].tolist()
                    actual = zip(voltages.meters[begin:end], no_reads, strict=True)
                    heard = {name for name, no_read in actual if not no_read}
                    others = sorted(set(names) - heard)
                    names = sorted(heard)
                named.append(TransformerHeard(transformer_id, seen.feeder_id, revision, is_complete, names, others))
        begin = end
    return HeardMeters(batch.window_end, complete, named) if complete or named else None
