"""Which dead letters go back in, as what, and why the others stay: the rules of a replay, without any I/O."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import groupby
from typing import NamedTuple

from msgspec import Struct

from ami_beam.codecs.stored_letters import RecordId, StoredLetter
from ami_beam.letter_acceptance import Acceptance
from ami_beam.record_sets import RecordSet
from ami_beam.records import DeadLetter
from ami_beam.repair import Repair, Repaired, RepairError

CHUNK_RECORDS = 500
CHUNK_BYTES = 4 << 20
"""So much is looked at, and published, at a time."""


class Cause(StrEnum):
    """Why a letter stays where it is."""

    REPLAYED = "replayed"
    USED = "used"
    TRUNCATED = "truncated"
    NO_VALUE = "no_value"
    NOT_OURS = "not_ours"
    NO_RECORD_TIME = "no_record_time"
    REPAIR_LEAVES_IT = "repair_leaves_it"
    REPAIR_FAILED = "repair_failed"
    SET_ASIDE_AGAIN = "set_aside_again"


SENTENCES = {
    Cause.REPLAYED: "was replayed already; --again replays it once more",
    Cause.USED: "the record was used but for what its reason names; --reason names it to replay it",
    Cause.TRUNCATED: "only the beginning of the original was kept",
    Cause.NO_VALUE: "the original has no value",
    Cause.NOT_OURS: "its topic is none that the pipeline reads",
    Cause.NO_RECORD_TIME: "it has no record time; --record_time gives it one",
    Cause.REPAIR_LEAVES_IT: "the repair gave None for it",
}


class LeftLetter(Struct):
    """A letter that stays, and why. It holds nothing of the record."""

    topic: str
    partition: int
    offset: int
    reason: str
    cause: str
    detail: str


@dataclass(frozen=True)
class Selection:
    """Which letters are meant; None is all. `since` and `until`: record times, from … to before.

    A letter without a record time is taken by the time at which it was set aside.
    """

    reasons: frozenset[str] | None = None
    topics: frozenset[str] | None = None
    since: int | None = None
    until: int | None = None
    meter: str | None = None

    def test(self) -> Callable[[StoredLetter, int | None], bool]:
        """The question, ready to be asked often."""
        # The bytes may be anything: whoever wants a meter's letters wants those that are no JSON, too.
        name = (
            None
            if self.meter is None
            else re.compile(rb"(?<![\w.-])" + re.escape(self.meter.encode()) + rb"(?![\w.-])")
        )

        def takes(letter: StoredLetter, set_aside: int | None) -> bool:
            at = set_aside if letter.record_time is None else letter.record_time
            return (
                (self.reasons is None or letter.reason in self.reasons)
                and (self.topics is None or letter.topic in self.topics)
                and (self.since is None or (at is not None and at >= self.since))
                and (self.until is None or (at is not None and at < self.until))
                and (name is None or name.search(letter.value or b"") is not None)
            )

        return takes


class Ready(NamedTuple):
    """A record that is to be published again."""

    letter: StoredLetter
    repaired: Repaired
    key: bytes | None
    record_time: int | None


@dataclass
class Tally:
    """What has become of the letters so far, by topic and reason."""

    read: int = 0
    selected: int = 0
    """Records, each once."""
    ready: Counter[tuple[str, str]] = field(default_factory=Counter)
    repaired: int = 0
    forced: int = 0
    """Those that will be set aside again, and go in spite of it."""
    left: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """By topic, reason and cause."""
    examples: dict[tuple[str, str, str], LeftLetter] = field(default_factory=dict)
    """One of each."""

    @property
    def left_by_cause(self) -> Counter[str]:
        """How many stay, by cause."""
        found: Counter[str] = Counter()
        for (_, _, cause), count in self.left.items():
            found[cause] += count
        return found


@dataclass(frozen=True)
class ReplayRules:
    """How letters are replayed."""

    selection: Selection
    repair: Repair | None
    again: bool = False
    force: bool = False
    limit: int | None = None
    """So many records at most."""
    live: bool = True
    """Whether record times are the moment of publication; otherwise they are the originals', or `record_time`."""
    record_time: int | None = None
    chunk: int = CHUNK_RECORDS


def replay(
    letters: Iterable[tuple[StoredLetter, int | None]],
    rules: ReplayRules,
    acceptance: Acceptance,
    marked: RecordSet,
    tally: Tally,
    clock: Callable[[], int],
    leave: Callable[[LeftLetter], None],
) -> Iterator[list[Ready]]:
    """The records that go back in, some at a time. Every selected record is in them or left, and only once.

    Of a record with several letters the first one that is selected and not used counts, or else the first.

    Args:
      marked: what was replayed already.
      tally: is counted up.
      clock: microseconds, for record times of a live replay.
      leave: told of every letter that stays.
    """
    state = _Replay(rules, acceptance, marked, tally, clock, leave)
    chunk: list[StoredLetter] = []
    size = 0
    for letter in state.candidates(letters):
        chunk.append(letter)
        size += len(letter.value or b"")
        room = rules.chunk if rules.limit is None else min(rules.chunk, rules.limit - tally.ready.total())
        if len(chunk) >= room or size >= CHUNK_BYTES:
            if ready := state.checked(chunk):
                yield ready
            chunk, size = [], 0
            if rules.limit is not None and tally.ready.total() >= rules.limit:
                return
    if chunk and (ready := state.checked(chunk)):
        yield ready


class _Replay:
    def __init__(
        self,
        rules: ReplayRules,
        acceptance: Acceptance,
        marked: RecordSet,
        tally: Tally,
        clock: Callable[[], int],
        leave: Callable[[LeftLetter], None],
    ) -> None:
        self._rules = rules
        self._acceptance = acceptance
        self._marked = marked
        self._tally = tally
        self._clock = clock
        self._leave = leave
        self._seen = RecordSet()

    def candidates(self, letters: Iterable[tuple[StoredLetter, int | None]]) -> Iterator[StoredLetter]:
        """The selected letters whose originals can be had, one a record."""
        takes = self._rules.selection.test()
        named = self._rules.selection.reasons is not None
        used: dict[RecordId, str] = {}
        for letter, set_aside in letters:
            self._tally.read += 1
            if not takes(letter, set_aside) or letter.record in self._seen:
                continue
            if letter.used and not named:
                # The same record may have another letter, of a run that did not use it.
                used.setdefault(letter.record, letter.reason)
                continue
            used.pop(letter.record, None)
            self._seen.add(letter.record)
            self._tally.selected += 1
            cause = self._obstacle(letter)
            if cause is None:
                yield letter
            else:
                self._stays(letter.record, letter.reason, cause)
        for record, reason in used.items():
            self._tally.selected += 1
            self._stays(record, reason, Cause.USED)

    def _obstacle(self, letter: StoredLetter) -> Cause | None:
        rules = self._rules
        if letter.record in self._marked and not rules.again:
            return Cause.REPLAYED
        if letter.truncated:
            return Cause.TRUNCATED
        if letter.value is None:
            return Cause.NO_VALUE
        if not self._acceptance.knows(letter.topic) and not rules.force:
            return Cause.NOT_OURS
        if not rules.live and rules.record_time is None and letter.record_time is None:
            return Cause.NO_RECORD_TIME
        return None

    def checked(self, letters: list[StoredLetter]) -> list[Ready]:
        """Those of the letters that go, repaired and looked at."""
        now = self._clock()
        repaired = [(letter, made) for letter in letters if (made := self._repaired(letter)) is not None]
        ready: list[Ready] = []
        for topic, group in groupby(repaired, lambda each: each[0].topic):
            some = list(group)
            times = [self._record_time(letter, now) for letter, _ in some]
            objections: list[DeadLetter | None] = [None] * len(some)
            if self._acceptance.knows(topic):
                values = [made.value for _, made in some]
                objections = self._acceptance.objections(topic, values, times, now if self._rules.live else None)
            for (letter, made), time, objection in zip(some, times, objections, strict=True):
                if objection is not None and objection.used and not letter.used:
                    # But for its voltage the record is taken, which it was not before.
                    objection = None
                if objection is not None and not self._rules.force:
                    self._stays(
                        letter.record, letter.reason, Cause.SET_ASIDE_AGAIN, f"{objection.reason}: {objection.detail}"
                    )
                    continue
                self._tally.forced += objection is not None
                self._tally.repaired += made.changed
                self._tally.ready[topic, letter.reason] += 1
                ready.append(Ready(letter, made, self._acceptance.key(topic, made.value), time))
        return ready

    def _record_time(self, letter: StoredLetter, now: int) -> int | None:
        if self._rules.live:
            return now
        return letter.record_time if self._rules.record_time is None else self._rules.record_time

    def _repaired(self, letter: StoredLetter) -> Repaired | None:
        assert letter.value is not None
        if self._rules.repair is None:
            return Repaired(letter.value, None, None, False)
        if self._acceptance.is_avro(letter.topic):
            self._stays(
                letter.record,
                letter.reason,
                Cause.REPAIR_FAILED,
                "the original is Avro, which is replayed as it is, without repair",
            )
            return None
        try:
            made = self._rules.repair(letter)
        except RepairError as error:
            self._stays(letter.record, letter.reason, Cause.REPAIR_FAILED, str(error))
            return None
        if made is None:
            self._stays(letter.record, letter.reason, Cause.REPAIR_LEAVES_IT)
        return made

    def _stays(self, record: RecordId, reason: str, cause: Cause, detail: str | None = None) -> None:
        said = SENTENCES[cause] if detail is None else detail
        left = LeftLetter(record.topic, record.partition, record.offset, reason, cause.value, said)
        key = (record.topic, reason, cause.value)
        self._tally.left[key] += 1
        self._tally.examples.setdefault(key, left)
        self._leave(left)
