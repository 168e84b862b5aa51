"""Many summary or receipt rows of JSON at once, with what a map of the grid needs of them: a microsecond a row.

`json_outputs.parse_summary` makes a whole row in ten. What is not needed is not looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Generic, TypeVar

import msgspec
from msgspec import Meta, Struct

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
Time = Annotated[datetime, Meta(tz=True)]
Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class SummaryLine(Struct, gc=False):
    """Of a `SummaryRow`."""

    transformer_id: str
    feeder_id: str
    window_start: Time
    window_end: Time
    total_consumption_kwh: float
    total_received_kwh: float
    meters_reported: Count
    avg_voltage_v: float | None
    min_voltage_v: float | None
    max_voltage_v: float | None
    zero_voltage_count: Count
    as_of: Time
    revision: int


class ReceiptLine(Struct, gc=False):
    """Of a `ReceiptRow`."""

    transformer_id: str
    feeder_id: str | None
    window_start: Time
    window_end: Time
    meters_reported: Count
    total_meters: Count
    as_of: Time
    revision: int


Line = TypeVar("Line", bound=Struct)


class LineDecoder(Generic[Line]):
    """Decodes values that are a line of JSON each."""

    def __init__(self, line_type: type[Line]) -> None:
        self._decoder = msgspec.json.Decoder(line_type)

    def rows(self, values: Sequence[bytes | None]) -> list[Line] | None:
        """A row for each value; None where any of them is none, or no single line, so that each has to be looked at."""
        if not all(values):
            return None
        try:
            rows = self._decoder.decode_lines(b"\n".join(values))  # type: ignore[arg-type]
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
        return rows if len(rows) == len(values) else None


def micros(time: datetime) -> int:
    """Microseconds since the epoch, exactly."""
    return (time - _EPOCH) // _MICROSECOND
