"""What the daily list of silent meters costs: a shard of 20,000 meters for five days, without a pipeline around it.

Prints milliseconds of CPU time for a window of the shard, and what is kept, where no transformer misses a meter, where
a tenth miss one in every window, and where all do.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

import msgspec

from ami_beam.codecs.read_block import PackedRead, pack
from ami_beam.instants import MICROS_PER_DAY
from ami_beam.records import HeardMeters, HearingInput, MeterCount, ReceiptDue, StatisticsBatch
from ami_beam.settings import Settings
from transforms.heard_meters import NAMED_EVERY, heard_meters
from transforms.join_meter_counts import observation
from transforms.silent_meters import KeptShard, LogEntry, fold, judge_day, take
from transforms.window_statistics import first_publication

START = 1_772_496_000_000_000
TRANSFORMERS, METERS, DAYS = 2_000, 10, 5
SETTINGS = Settings(live=True)
Result = TypeVar("Result")


class Clock:
    """CPU time by what it was spent on, in seconds."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    def of(self, name: str, work: Callable[[], Result]) -> Result:
        begin = time.process_time()
        result = work()
        self.spent[name] = self.spent.get(name, 0.0) + time.process_time() - begin
        return result


def _window(end: int, missing: float, randomly: random.Random) -> StatisticsBatch:
    reads = []
    for transformer in range(TRANSFORMERS):
        out = randomly.randrange(METERS) if randomly.random() < missing else None
        for meter in range(METERS):
            if meter != out:
                names = f"TR-{transformer:06d}", f"MTR-{transformer * METERS + meter:07d}"
                reads.append(
                    PackedRead(*names, end, end, True, end, 0, meter, "FDR-001", 0.5, 0.5, 0.0, 230.0, False, False)
                )
    return first_publication(end, [pack(end, reads)], SETTINGS.window)[1]


def measure(missing: float) -> tuple[Clock, int]:
    """The times, and the bytes of the state at the end."""
    clock, randomly = Clock(), random.Random(1)
    counts = [MeterCount(f"TR-{transformer:06d}", METERS) for transformer in range(TRANSFORMERS)]
    windows = [_window(START + SETTINGS.window, missing, randomly) for _ in range(4)]
    kept, log, size = KeptShard(), [], 0
    for end in range(START + SETTINGS.window, START + DAYS * MICROS_PER_DAY + 1, SETTINGS.window):
        batch = randomly.choice(windows)
        batch.window_end = end
        seen = [observation(each, None, 230.0) for each in batch.transformers]
        heard = clock.of("saying", lambda b=batch, s=seen: heard_meters(b, s, counts, SETTINGS))  # type: ignore[misc]
        assert isinstance(heard, HeardMeters)
        entry = LogEntry(HearingInput(heard=heard), None)
        log.append(clock.of("coding", lambda e=entry: msgspec.msgpack.encode(e)))  # type: ignore[misc]
        if end % NAMED_EVERY:
            continue
        news = [clock.of("coding", lambda e=each: msgspec.msgpack.decode(e, type=LogEntry)).news for each in log]  # type: ignore[misc]
        log.clear()
        if end % MICROS_PER_DAY == 0:
            news.append(HearingInput(due=ReceiptDue(end, SETTINGS.receipt_delay, counts, None, START)))
        taken = clock.of("taking in", lambda k=kept, n=news: take(k, n))  # type: ignore[misc]
        for day in sorted(kept.days):
            clock.of("judging", lambda k=kept, d=day, t=taken: judge_day(k, d, SETTINGS, t.touches(d)))  # type: ignore[misc]
        if end % MICROS_PER_DAY == 0 and end > START + 3 * MICROS_PER_DAY:
            clock.of("folding", lambda k=kept, e=end: fold(k, e - 3 * MICROS_PER_DAY))  # type: ignore[misc]
        held = clock.of("state", lambda k=kept: msgspec.msgpack.encode(k))  # type: ignore[misc]
        kept, size = clock.of("state", lambda h=held: msgspec.msgpack.decode(h, type=KeptShard)), len(held)  # type: ignore[misc]
    return clock, size


def main() -> None:
    """Measure and print."""
    windows = DAYS * MICROS_PER_DAY // SETTINGS.window
    for missing in (0.0, 0.1, 1.0):
        clock, size = measure(missing)
        parts = ", ".join(f"{name} {seconds * 1000 / windows:.2f}" for name, seconds in clock.spent.items())
        total = sum(clock.spent.values())
        print(
            f"{missing:4.0%} of the transformers miss a meter: {total * 1000 / windows:.1f} ms a window ({parts}),"
            f" {total / windows / TRANSFORMERS / METERS * 1e6:.2f} CPU seconds per million reads,"
            f" {size / TRANSFORMERS / METERS:.0f} bytes a meter",
            flush=True,
        )


if __name__ == "__main__":
    main()
