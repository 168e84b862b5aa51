"""The receipt rate: how many of a transformer's meters were heard in a window, and when that is a row to publish."""

from __future__ import annotations

from msgspec import Struct

from ami_beam.records import MeterCount, Observation, ReceiptRow


def receipt_rate_pct(meters: int, total_meters: int) -> float:
    """Per cent of `total_meters`, one decimal, half away from zero, in integer arithmetic."""
    return (meters * 2_000 + total_meters) // (2 * total_meters) / 10


class Heard(Struct, array_like=True, gc=False):
    """What was heard of a transformer, as the newest observation says; nothing yet, as the defaults say."""

    meters_reported: int = 0
    actual_meters_reported: int = 0
    feeder_id: str | None = None
    as_of: int | None = None


class PublishedReceipt(Struct, array_like=True, gc=False):
    """What the last row of a transformer and window said."""

    heard: Heard
    total_meters: int
    as_of: int
    revision: int


def heard(observation: Observation) -> Heard:
    """What an observation says of receipt."""
    return Heard(
        observation.meters_reported,
        observation.actual_meters_reported,
        observation.feeder_id,
        observation.as_of,
    )


def publish(now: Heard, count: MeterCount, before: PublishedReceipt | None, window_end: int) -> PublishedReceipt | None:
    """What is to be published now; None where it is what was published before.

    A transformer of which nothing was heard has the window's end as as_of. as_of never goes back: a consumer keeps the
    row with the greatest.
    """
    as_of = window_end if now.as_of is None else now.as_of
    if before is None:
        return PublishedReceipt(now, count.total_meters, as_of, 0)
    after = PublishedReceipt(now, count.total_meters, max(as_of, before.as_of), before.revision + 1)
    same = (
        after.total_meters == before.total_meters
        and after.as_of == before.as_of
        and now.meters_reported == before.heard.meters_reported
        and now.actual_meters_reported == before.heard.actual_meters_reported
        and now.feeder_id == before.heard.feeder_id
    )
    return None if same else after


def row(transformer_id: str, window_start: int, window_end: int, published: PublishedReceipt) -> ReceiptRow:
    """The row that says so. Rates above 100 are published as they are."""
    now = published.heard
    return ReceiptRow(
        transformer_id=transformer_id,
        feeder_id=now.feeder_id,
        window_start=window_start,
        window_end=window_end,
        meters_reported=now.meters_reported,
        total_meters=published.total_meters,
        receipt_rate_pct=receipt_rate_pct(now.meters_reported, published.total_meters),
        actual_meters_reported=now.actual_meters_reported,
        actual_rate_pct=receipt_rate_pct(now.actual_meters_reported, published.total_meters),
        as_of=published.as_of,
        revision=published.revision,
    )
