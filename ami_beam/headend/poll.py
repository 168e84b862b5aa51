"""One round of one source: everything that is new is asked for, mapped, and published once.

A range of time is asked for again with the look-back, because reads come late; what was published already is known by
its digest. A page that cannot be read is set aside when the page after it can be read: else the head-end is down, and
the source waits, because everything would be set aside. Where the page after it is not known, the source waits, too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec
from confluent_kafka import Message

from ami_beam.headend.clocks import Clock, Series
from ami_beam.headend.health import SourceHealth
from ami_beam.headend.http_client import HeadEnd, Page, PageError
from ami_beam.headend.lookup import LookupFile
from ami_beam.headend.mapping import Mapped, Mapper, Refused, digest_of
from ami_beam.headend.memory import Generation
from ami_beam.headend.paging import Paging, Ranges, Spot
from ami_beam.headend.positions import Position, PositionError
from ami_beam.headend.publisher import Publisher
from ami_beam.headend.set_aside import SetAside, set_aside
from ami_beam.headend.source_file import Source
from ami_beam.instants import MICROS_PER_DAY, format_instant, parse_instant

AHEAD = 5 * 60 * 1_000_000
"""How far the times of what is asked for may be ahead of our clock."""
_log = logging.getLogger(__name__)


class Stuck(RuntimeError):
    """The source cannot go on from where it is; the next round tries again."""


class Finished(Exception):
    """A back-fill has come to its end."""


class BackfillRange(NamedTuple):
    """A past range, in microseconds."""

    begin: int
    end: int


class Poller:
    """Polls one source, or back-fills a range of it.

    Args:
      backfill: the range; None polls what is new.
    """

    def __init__(
        self,
        source: Source,
        head_end: HeadEnd,
        publisher: Publisher,
        health: SourceHealth,
        backfill: BackfillRange | None = None,
        now: Callable[[], int] = lambda: time.time_ns() // 1_000,
    ) -> None:
        self._source = source
        self._head_end = head_end
        self._publisher = publisher
        self._health = health
        self._backfill = backfill
        self._now = now
        self._clock = Clock(source.times.time_zone, source.times.dst)
        self._paging = Paging(source)
        self._ranges = None if source.period is None else Ranges(source.period, self._clock, source.interval)
        self._lookup = None if source.lookup is None else LookupFile(source.lookup)
        self._mapper = Mapper(source)
        self._series = Series(source.times.order == "descending")
        self._position = Position("period" if self._ranges else self._paging.kind)

    def start(self) -> None:
        """Takes up the last committed position. Raises PositionError where it does not fit the source."""
        cursor = self._publisher.start()
        now = self._now()
        if cursor is not None:
            if cursor.position.kind != self._position.kind:
                raise PositionError(
                    f"{self._source.path}: the position of {cursor.source} is that of {cursor.position.kind}, and the"
                    f" source is now read by {self._position.kind}; give it another name to begin anew"
                )
            self._position = cursor.position
        if self._backfill is not None:
            self._check_live(self._backfill, now)
            if self._position.until is not None and self._position.until >= self._backfill.end:
                # It was complete, and is asked for again: what is mended since is new, and the rest is known.
                self._position = Position("period")
            self._remember_everything(self._backfill, 1 << 62)
        elif cursor is not None:
            starts = {
                topic: {int(partition): offset for partition, offset in offsets.items()}
                for topic, offsets in cursor.remembered_from.items()
            }
            # As new as can be: when each came is not known any more.
            self._publisher.read_back(starts, Generation(now, self._position), self._recall)
        if self._source.period is not None and self._position.until is None:
            start = self._source.period.start
            begin = now if start is None else start
            if self._backfill is not None:
                begin = self._backfill.begin
            else:
                # A back-fill may have been here before.
                self._remember_everything(BackfillRange(begin - self._source.look_back, now), now)
            self._position = Position("period", until=begin)
        remembered = len(self._publisher.memory)
        _log.info(
            "%s: from %s; %s published records are remembered.", self._source.name, self.place(), f"{remembered:,}"
        )

    def place(self) -> str:
        """The position in words."""
        position = self._position
        if position.until is not None:
            return format_instant(position.until)
        if position.number is not None:
            return f"{position.kind} {position.number}"
        return "the begin" if position.text is None else f"a {position.kind}"

    def round(self) -> None:
        """Everything that is new now. Raises Stuck, and what the head-end and the publisher raise."""
        if self._lookup is not None:
            self._mapper.lookup = self._lookup.rows()
        if self._ranges is None:
            self._feed()
        else:
            self._period(self._ranges)

    # Ranges of time.

    def _period(self, ranges: Ranges) -> None:
        assert self._source.period is not None
        assert self._position.until is not None
        backfill, chunk = self._backfill, self._source.period.chunk
        end = self._now() if backfill is None else backfill.end
        begin = self._position.until
        if backfill is None:
            begin -= self._source.look_back
            self._publisher.memory.forget(ranges.begin(begin) - ranges.grain)
        while begin < end:
            behind = min(begin + chunk, end)
            self._range(ranges, begin, behind, min(behind + chunk, end))
            begin = behind
            if self._backfill is not None:
                _log.info("%s: back-filled up to %s.", self._source.name, format_instant(begin))
        self._health.position(self._position.until)
        if self._backfill is not None:
            raise Finished

    def _range(self, ranges: Ranges, begin: int, end: int, following: int) -> None:
        """One range with all its pages, and the position behind it. `following`: the end of the range after it."""
        begin = ranges.begin(begin)
        self._series.begin((begin - ranges.grain, end + ranges.grain + self._source.interval + AHEAD))
        parameters = ranges.parameters(begin, end)
        done = Position("period", until=max(self._position.until or 0, end))

        def goes_on() -> bool:
            # Whether the head-end answers for what comes after this range.
            if following <= end:
                return False
            self._head_end.page(self._paging.question(self._paging.first, ranges.parameters(end, following)), 1)
            return True

        generation_end = end + ranges.grain
        for page, failed, _ in self._pages(self._paging.first, parameters, goes_on):
            self._publish(page, failed, self._position, generation_end, None)
        if done != self._position:
            self._publisher.commit([], [], done, Generation(generation_end, None))
            self._position = done
        # A long way to the present is no standstill.
        self._health.succeeded()

    # Feeds.

    def _feed(self) -> None:
        """Pages from the position on, to the present end."""
        now = self._now()
        self._publisher.memory.forget(now - self._source.look_back, self._position)
        spot = self._paging.first
        if self._position.number is not None or self._position.text is not None:
            spot = Spot(self._position.number, self._position.text)
        for page, failed, place in self._pages(spot, {}, lambda: False):
            self._publish(page, failed, self._after(page, place), self._now(), self._paging.stored(place))
            self._health.succeeded()

    def _after(self, page: Page | None, spot: Spot) -> Position:
        """Where to go on once a page has been published."""
        if page is None:
            return self._paging.stored(self._paging.skipping(spot))
        if self._paging.kind == "page":
            # The last page with records may get more of them; the one behind it is asked for when it has some.
            return self._paging.stored(spot)
        return self._paging.stored(self._paging.following(spot, page) or spot)

    # Both.

    def _pages(
        self, spot: Spot, parameters: dict[str, str | int], goes_on: Callable[[], bool]
    ) -> Iterator[tuple[Page | None, PageError | None, Spot]]:
        """Every page, or what is wrong with it where it is to be set aside, with its spot. Raises Stuck.

        Args:
          goes_on: for a page whose next is not known: whether what comes after all of them can be read.
        """
        before: list[object] | None = None
        while True:
            question = self._paging.question(spot, parameters)
            try:
                page = self._head_end.page(question)
            except PageError as error:
                if self._paging.is_end(spot, error.gone):
                    return
                if not self._is_poison(spot, parameters, goes_on):
                    raise Stuck(f"{error.url} cannot be read: {error}") from error
                _log.error("%s: a page is set aside, %s: %s", self._source.name, error.url, error)
                yield None, error, spot
                if not self._paging.numbered:
                    return
                spot = self._paging.skipping(spot)
                continue
            values = [each.value for each in page.records]
            if self._paging.numbered and values and values == before:
                if self._paging.last_repeats:
                    return
                raise Stuck(
                    f"{page.url} has the same records as the page before it: is paging.parameter right? Where the"
                    " head-end gives its last page again, write last_repeats = true"
                )
            before = values
            if not values and self._paging.numbered:
                return
            yield page, None, spot
            following = self._paging.following(spot, page)
            if following is None or (not values and self._ranges is None):
                return
            spot = following

    def _is_poison(self, spot: Spot, parameters: dict[str, str | int], goes_on: Callable[[], bool]) -> bool:
        """Whether it is the page, and not the head-end: what comes after it can be read."""
        try:
            if not self._paging.numbered:
                return spot == self._paging.first and goes_on()
            following = self._paging.skipping(spot)
            self._head_end.page(self._paging.question(following, parameters), 1)
        except PageError as error:
            return self._paging.numbered and error.gone and spot != self._paging.first
        return True

    def _publish(
        self, page: Page | None, failed: PageError | None, position: Position, latest: int, place: Position | None
    ) -> None:
        """What is new of a page, or the page set aside, with the position. Nothing happens where nothing is new."""
        memory, now = self._publisher.memory, self._now()
        records: list[Mapped] = []
        aside: list[tuple[SetAside, bytes]] = []
        repeated = 0
        seen: set[bytes] = set()
        if failed is not None:
            original = failed.body or failed.url.encode()
            digest = digest_of(f"{failed.reason}\0".encode() + original)
            if digest not in memory:
                record = set_aside(
                    self._source.name, "page", failed.reason, failed.detail, failed.url, now, failed.body
                )
                aside.append((record, digest))
        if page is not None:
            mapped = self._mapper.map(page.records, self._series, now)
            for each in mapped:
                if each.digest in memory or each.digest in seen:
                    repeated += 1
                    continue
                seen.add(each.digest)
                if isinstance(each, Refused):
                    record = set_aside(
                        self._source.name, "record", each.reason, each.detail, page.url, now, each.original
                    )
                    aside.append((record, each.digest))
                else:
                    records.append(each)
            self._look_at(mapped)
        if records or aside or position != self._position:
            self._publisher.commit(records, aside, position, Generation(latest, place), repeated)
            self._position = position
        elif repeated:
            self._health.committed(0, repeated, [], len(memory))

    def _look_at(self, mapped: list[Mapped | Refused]) -> None:
        """Say so where a page has nothing that can be mapped: its shape has changed, or the mapping is wrong."""
        refused = [each for each in mapped if isinstance(each, Refused)]
        if refused:
            first = refused[0]
            _log.warning(
                "%s: %d of %d records cannot be mapped, the first: %s (%s)",
                self._source.name, len(refused), len(mapped), first.reason, first.detail,
            )  # fmt: skip
        if mapped and len(refused) == len(mapped):
            self._health.problem("mapping", f"no record of the last page can be mapped: {refused[0].detail}")
        elif mapped:
            self._health.solved("mapping")

    def _recall(self, message: Message) -> bool:
        """Takes up the order of a meter's records in a feed, which goes on where it was."""
        if self._ranges is None and message.topic() == self._source.topic:
            tail = _tail(message.value() or b"")
            if tail is not None:
                self._series.last[tail[0]] = tail[1]
        return True

    def _check_live(self, wanted: BackfillRange, now: int) -> None:
        """Raises PositionError where the live poll may still publish of the range: it would be there twice."""
        live = self._publisher.last_cursor(self._source.name)
        until = now if live is None or live.position.until is None else live.position.until
        if wanted.end > until - self._source.look_back:
            raise PositionError(
                f"--backfill must end before what the live poll of {self._source.name} still asks for:"
                f" {format_instant(until - self._source.look_back)}, which is look_back before where it is"
            )

    def _remember_everything(self, wanted: BackfillRange, latest: int) -> None:
        """All that has been published of the range, by the live poll or by a back-fill; `latest` as in Generation."""
        # A record is published after its interval, by clocks that are right to a day.
        slack = MICROS_PER_DAY
        generation = Generation(latest, None)

        def in_range(message: Message) -> bool:
            tail = _tail(message.value() or b"")
            return tail is None or wanted.begin - slack <= tail[1] <= wanted.end + slack

        starts = self._publisher.offsets_since(wanted.begin - slack)
        self._publisher.read_back(starts, generation, in_range)


class _Tail(msgspec.Struct):
    """What a published record says of the order of its meter's."""

    meter_id: str
    interval_end: str | None = None
    event_ts: str | None = None
    read_type: str = ""


_decode_tail = msgspec.json.Decoder(_Tail).decode


def _tail(value: bytes) -> tuple[str, int] | None:
    """The series that a record is of, and its time; None where it is not one of ours."""
    try:
        tail = _decode_tail(value)
        if tail.interval_end is not None:
            return f"{tail.meter_id}\0{tail.read_type}", parse_instant(tail.interval_end)
        return None if tail.event_ts is None else (tail.meter_id, parse_instant(tail.event_ts))
    except (msgspec.DecodeError, ValueError):
        return None
