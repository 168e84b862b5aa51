"""Of which time a replay publishes results."""

from __future__ import annotations

from dataclasses import dataclass

from ami_beam.local_days import bounds_of, end_of_month


@dataclass(frozen=True)
class PublishedPeriod:
    """After `begin` and by `end`, microseconds; None: without that bound."""

    begin: int | None
    end: int | None
    time_zone: str
    """Whose days and months are counted for customers and over a day."""

    def has(self, instant: int | None) -> bool:
        """What nobody knows the time of is published: nobody else would."""
        if instant is None:
            return True
        return (self.begin is None or instant > self.begin) and (self.end is None or instant <= self.end)

    def has_day(self, day: str) -> bool:
        """Whether the whole day of the time zone is in it: a part of one has other sums."""
        begin, end = bounds_of(day, self.time_zone)
        return (self.begin is None or begin >= self.begin) and (self.end is None or end <= self.end)

    def has_month(self, month: str) -> bool:
        """The same of a month."""
        begin, _ = bounds_of(f"{month}-01", self.time_zone)
        end = end_of_month(month, self.time_zone)
        return (self.begin is None or begin >= self.begin) and (self.end is None or end <= self.end)
