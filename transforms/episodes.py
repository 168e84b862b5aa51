"""From windows to episodes: when an alarm begins, what it gathers, and when it ends.

A pure function of what the windows say in the end: late reads, and the order in which anything came, leave no trace.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from msgspec import Struct
from msgspec.structs import replace

from ami_beam.records import Level, Verdict

Window = tuple[int, Level, Verdict | None]
"""End of a window in microseconds, what it says, and with which evidence (always for a VIOLATION)."""


class Episode(Struct, array_like=True, gc=False, frozen=True):
    """Windows in violation that belong together."""

    first_window: int
    last_window: int
    windows: int
    worst: Verdict
    """Of the window with the worst value, the earliest of them."""
    meters_in_violation: int
    """The most in any window."""
    meters_missing: int
    as_of: int
    ended_at: int | None = None
    """End of the window that closed it."""


class Progress(Struct, array_like=True, gc=False, frozen=True):
    """Where a transformer stands with one kind of alarm after some windows."""

    pending: tuple[tuple[int, Verdict], ...] = ()
    """Windows in violation in a row that are no alarm yet."""
    open: Episode | None = None
    clear_windows: int = 0
    """In a row, since the last one in violation or in the deadband."""

    @property
    def is_at_rest(self) -> bool:
        return not self.pending and self.open is None


@dataclass(frozen=True)
class Rules:
    """How many windows in a row open and close an alarm, and whether lower values are worse."""

    on_windows: int
    off_windows: int
    lowest_is_worst: bool


def step(before: Progress, window: Window, rules: Rules) -> tuple[Progress, Episode | None]:
    """Take in the next window: where it stands then, and the episode that this window closes, if it does.

    UNKNOWN changes nothing. A window in the deadband is no violation, and no reason to close.
    """
    end, level, verdict = window
    if level == Level.UNKNOWN:
        return before, None
    if before.open is not None:
        if level == Level.VIOLATION:
            assert verdict is not None
            return Progress((), _joined(before.open, end, verdict, rules), 0), None
        if level == Level.BAND:
            return Progress((), before.open, 0), None
        clear = before.clear_windows + 1
        if clear < rules.off_windows:
            return Progress((), before.open, clear), None
        return Progress(), replace(before.open, ended_at=end, as_of=max(before.open.as_of, end))
    if level != Level.VIOLATION:
        return Progress(), None
    assert verdict is not None
    pending = (*before.pending, (end, verdict))
    if len(pending) < rules.on_windows:
        return Progress(pending), None
    (first, worst), *others = pending
    opened = Episode(first, first, 1, worst, worst.meters_in_violation, worst.meters_missing, worst.as_of)
    for other_end, other in others:
        opened = _joined(opened, other_end, other, rules)
    return Progress((), opened, 0), None


def _joined(episode: Episode, end: int, verdict: Verdict, rules: Rules) -> Episode:
    value, worst = verdict.value, episode.worst.value
    assert value is not None
    assert worst is not None
    is_worse = value < worst if rules.lowest_is_worst else value > worst
    return Episode(
        episode.first_window,
        end,
        episode.windows + 1,
        verdict if is_worse else episode.worst,
        max(episode.meters_in_violation, verdict.meters_in_violation),
        max(episode.meters_missing, verdict.meters_missing),
        max(episode.as_of, verdict.as_of),
    )


def follow(before: Progress, windows: Iterable[Window], rules: Rules) -> tuple[Progress, list[Episode]]:
    """Take in windows in the order of time: where it stands then, and the episodes that were closed."""
    closed = []
    for window in windows:
        if window[1] != Level.VIOLATION and before.is_at_rest:
            continue  # nearly always
        before, ended = step(before, window, rules)
        if ended is not None:
            closed.append(ended)
    return before, closed
