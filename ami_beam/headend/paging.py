"""What is asked for next: the pages of one question, by number, offset, cursor or link, and ranges of time."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from requests.utils import parse_header_links

from ami_beam.headend.clocks import Clock
from ami_beam.headend.http_client import Page, Question
from ami_beam.headend.json_paths import Place, value_at
from ami_beam.headend.positions import Position, PositionKind
from ami_beam.headend.source_file import AskedPeriod, Cursors, Links, NoPages, Offsets, Pages, Source
from ami_beam.instants import MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_MILLI, MICROS_PER_SECOND, format_instant


class Spot(NamedTuple):
    """Where in the pages of a question: one of the two, or neither at the begin of cursors and links."""

    number: int | None = None
    text: str | None = None


class Paging:
    """The pages of one source."""

    def __init__(self, source: Source) -> None:
        self._given = source.paging
        self._secret: str | None = getattr(source.authentication, "parameter", None)

    @property
    def kind(self) -> PositionKind:
        """Of the position of a feed."""
        match self._given:
            case Pages():
                return "page"
            case Offsets():
                return "offset"
            case Links():
                return "link"
            case _:
                return "cursor"

    @property
    def numbered(self) -> bool:
        """Whether the page after one that cannot be read is known."""
        return isinstance(self._given, Pages | Offsets)

    @property
    def first(self) -> Spot:
        match self._given:
            case Pages(first=first):
                return Spot(number=first)
            case Offsets():
                return Spot(number=0)
            case _:
                return Spot()

    def question(self, spot: Spot, more: dict[str, str | int]) -> Question:
        """What to ask for the page at a spot; `more` are the other parameters."""
        given = self._given
        parameters = dict(more)
        if isinstance(given, NoPages):
            return Question(parameters)
        if isinstance(given, Links):
            return Question(parameters if spot.text is None else {}, spot.text)
        if given.size_parameter is not None and given.size is not None:
            parameters[given.size_parameter] = given.size
        asked = spot.number if spot.number is not None else spot.text
        if asked is not None:
            parameters[given.parameter] = asked
        return Question(parameters)

    def following(self, spot: Spot, page: Page) -> Spot | None:
        """The spot of the next page; None where this one says that it is the last."""
        given = self._given
        if isinstance(given, NoPages):
            return None
        if isinstance(given, Cursors):
            return self._named(value_at(Place(page.document, (page.document,)), given.next), spot)
        if isinstance(given, Links):
            if given.next is not None:
                link = value_at(Place(page.document, (page.document,)), given.next)
            else:
                link = _linked(page.headers.get("Link", ""))
            return self._named(_without(self._secret, link) if isinstance(link, str) else None, spot)
        # Not by how many records there are: a head-end may give fewer than it is asked for.
        return self.skipping(spot, len(page.records)) if page.records else None

    def skipping(self, spot: Spot, records: int | None = None) -> Spot:
        """The numbered page after a spot; without `records` after one that could not be read."""
        assert spot.number is not None
        if isinstance(self._given, Offsets):
            return Spot(number=spot.number + (self._given.size if records is None else records))
        return Spot(number=spot.number + 1)

    def is_end(self, spot: Spot, gone: bool) -> bool:
        """Whether an answer 404 says that there is no such page any more."""
        return gone and isinstance(self._given, Pages | Offsets) and spot != self.first

    @property
    def last_repeats(self) -> bool:
        """Whether the head-end gives the last page again for every number behind it."""
        return isinstance(self._given, Pages) and self._given.last_repeats

    def stored(self, spot: Spot) -> Position:
        return Position(self.kind, number=spot.number, text=spot.text)

    @staticmethod
    def _named(found: object, spot: Spot) -> Spot | None:
        if found is None or found == "" or isinstance(found, bool):
            return None
        text = str(found)
        # The same again is how some say that there is no more.
        return None if text == spot.text else Spot(text=text)


def _linked(header: str) -> str | None:
    links = parse_header_links(header) if header else []
    return next((link["url"] for link in links if link.get("rel") == "next"), None)


def _without(parameter: str | None, link: str) -> str:
    """The link without the parameter that has the token: it becomes a position, which others can read."""
    parts = urlsplit(link)
    kept = [(name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True) if name != parameter]
    return link if parameter is None else urlunsplit(parts._replace(query=urlencode(kept)))


class Ranges:
    """The ranges of time that one source is asked for."""

    def __init__(self, period: AskedPeriod, clock: Clock, interval: int) -> None:
        self._period = period
        self._clock = clock
        self._interval = interval
        form = period.format
        exact = form in ("iso", "epoch_s", "epoch_ms") or any(
            each in form for each in ("%H", "%I", "%T", "%X", "%c", "%s")
        )
        self.grain = MICROS_PER_SECOND if exact else MICROS_PER_DAY
        """What a bound may be off by as it is written."""

    def begin(self, instant: int) -> int:
        """The instant, or before a stretch that the clock shows twice and the interval that ends where it begins.

        So a meter's records in the stretch have one before them, which says which half they are in.
        """
        start = self._clock.before_repeat(instant)
        return start if start == instant else start - max(self._interval, MICROS_PER_HOUR)

    def parameters(self, begin: int, end: int) -> dict[str, str | int]:
        return {self._period.begin: self._written(begin), self._period.end: self._written(end)}

    def _written(self, instant: int) -> str | int:
        form = self._period.format
        if form == "epoch_s":
            return instant // MICROS_PER_SECOND
        if form == "epoch_ms":
            return instant // MICROS_PER_MILLI
        if form == "iso":
            return format_instant(instant // MICROS_PER_SECOND * MICROS_PER_SECOND)
        return self._clock.shows(instant).strftime(form)
