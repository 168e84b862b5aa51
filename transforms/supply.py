"""When each meter had no supply: what it said itself, and what the reads of each window show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from ami_beam.instants import MICROS_PER_HOUR
from ami_beam.records import PowerEvent, SupplyNote
from transforms.announcements import Span, is_at_work

LATE_AFTER = MICROS_PER_HOUR
"""An event that arrives so long after it happened is late: it is on record, and opens no alarm."""

_RESTORED, _LOST, _READ = range(3)


class Loss(NamedTuple):
    """A meter without supply."""

    meter_id: str
    at: int
    """Of a loss that only reads show: the end of the first interval whose voltage was zero."""
    until: int | None
    """What the meter said, or the end of the first whole interval with supply; None: not known yet."""
    by_event: bool
    as_of: int


def losses(
    events: Iterable[PowerEvent],
    notes: Mapping[int, SupplyNote],
    window_ends: Iterable[int],
    has_supply: Callable[[str, int], bool],
    window: int,
    work: Mapping[str, Sequence[Span]],
) -> list[Loss]:
    """Every loss of supply on one transformer, in order; depends on nothing but what is said.

    A loss begins with the meter's word, unless that came late, or with a read of zero volts, and ends with its word or
    with the first interval that begins after the loss and in which it is shown to have supply. What a meter says, and
    what reads show, while there is work at it begins none: an exchange is no outage.

    Args:
      events: of any of its meters, in any order, repeated or not.
      notes: of its windows, by window_end.
      window_ends: of which it is known whether meters had supply.
      has_supply: whether a meter is shown to have it in a window.
      window: length in microseconds.
      work: by meter_id when there is work at it.
    """
    marks: dict[str, set[tuple[int, int, int]]] = {}
    for event in events:
        if event.restored or event.record_time - event.at <= LATE_AFTER:
            kind = _RESTORED if event.restored else _LOST
            marks.setdefault(event.meter_id, set()).add((event.at, kind, event.record_time))
    for note in notes.values():
        for meter_id in note.dead:
            marks.setdefault(meter_id, set())
    ends = sorted(window_ends)
    found: list[Loss] = []
    for meter_id, said in marks.items():
        shown = {(end, _READ, 0) for end in ends}
        found += _of_meter(meter_id, sorted(said | shown), notes, has_supply, window, work)
    return sorted(found)


def _of_meter(
    meter_id: str,
    marks: list[tuple[int, int, int]],
    notes: Mapping[int, SupplyNote],
    has_supply: Callable[[str, int], bool],
    window: int,
    work: Mapping[str, Sequence[Span]],
) -> list[Loss]:
    found: list[Loss] = []
    open_loss: Loss | None = None
    for at, kind, record_time in marks:
        if open_loss is None:
            if work and is_at_work(meter_id, at if kind == _LOST else at - window + 1, at, work):
                continue
            if kind == _LOST:
                open_loss = Loss(meter_id, at, None, True, record_time)
            elif kind == _READ:
                note = notes.get(at)
                if note is not None and meter_id in note.dead:
                    open_loss = Loss(meter_id, at, None, False, note.as_of)
        elif kind == _RESTORED or (kind == _READ and at - window >= open_loss.at and has_supply(meter_id, at)):
            found.append(open_loss._replace(until=at, as_of=max(open_loss.as_of, record_time, at)))
            open_loss = None
    if open_loss is not None:
        found.append(open_loss)
    return found
