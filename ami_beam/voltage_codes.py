"""What a picture shows of a window: how a voltage lies to its limits, and a receipt rate to its minimum, as codes.

Pure and for whole arrays: a screen or a report classifies all transformers of a window at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ami_beam.settings import Settings

SILENT, BELOW, NEAR_LOW, NORMAL, NEAR_HIGH, ABOVE, BOTH = range(7)
"""Codes of voltage. SILENT: there is a row, and no voltage in it."""
UNHEARD, TOO_FEW, NEAR_TOO_FEW, ENOUGH = range(4)
"""Codes of receipt. UNHEARD: no meter was heard."""
NO_ROW = 255
"""Of both."""

Codes = NDArray[np.uint8]

_CODES = 7
"""So many of voltage; of receipt there are fewer."""
_ABOUT_NOTHING = 1e-9
"""Per cent: volts become per cent in floating point, and a voltage at its limit has to stay there."""


@dataclass(frozen=True)
class Thresholds:
    """Limits in per cent of nominal, and of the meters. The defaults are those of `Settings`."""

    nominal_voltage: float = Settings.nominal_voltage
    """Volts, of transformers without their own."""
    low_voltage_pct: float = Settings.low_voltage_pct
    high_voltage_pct: float = Settings.high_voltage_pct
    min_receipt_rate_pct: float = Settings.min_receipt_rate_pct

    @property
    def near_low_pct(self) -> float:
        """Half way from nominal to the low limit."""
        return (100 + self.low_voltage_pct) / 2

    @property
    def near_high_pct(self) -> float:
        """Half way from nominal to the high limit."""
        return (100 + self.high_voltage_pct) / 2

    @property
    def near_receipt_pct(self) -> float:
        """Half way from all meters to the least receipt rate."""
        return (100 + self.min_receipt_rate_pct) / 2


def voltage_codes(min_pct: ArrayLike, max_pct: ArrayLike, present: ArrayLike, thresholds: Thresholds) -> Codes:
    """A code for each window of a transformer; all arrays have one shape, and so has the answer.

    A voltage at its limit is within it, as for alerts. What is near both limits is NEAR_LOW.

    Args:
      min_pct: the least voltage in per cent of nominal, NaN where none was measured. As float64: a voltage just beyond
        its limit is at it in float32.
      max_pct: likewise, the greatest.
      present: whether there is a row at all.
      thresholds: of the run that published the rows.
    """
    least, greatest = np.asarray(min_pct, np.float64), np.asarray(max_pct, np.float64)
    below = least < thresholds.low_voltage_pct - _ABOUT_NOTHING
    above = greatest > thresholds.high_voltage_pct + _ABOUT_NOTHING
    near_low = least < thresholds.near_low_pct - _ABOUT_NOTHING
    near_high = greatest > thresholds.near_high_pct + _ABOUT_NOTHING
    silent = np.isnan(least) & np.isnan(greatest)
    return np.select(
        [~np.asarray(present, bool), silent, below & above, below, above, near_low, near_high],
        [np.uint8(code) for code in (NO_ROW, SILENT, BOTH, BELOW, ABOVE, NEAR_LOW, NEAR_HIGH)],
        np.uint8(NORMAL),
    )


def receipt_codes(heard: ArrayLike, total: ArrayLike, present: ArrayLike, thresholds: Thresholds) -> Codes:
    """A code for each window of a transformer, or of a feeder with the sums of its transformers; one shape as above.

    Judges the rate as it is published: rounded to one decimal, half up. NO_ROW, too, where no meter is expected.

    Args:
      heard: meters that reported, whole numbers; `total`: all there are.
      present: whether there is a row at all.
    """
    meters, expected = np.asarray(heard, np.int64), np.asarray(total, np.int64)
    counts = np.asarray(present, bool) & (expected > 0)
    divisor = np.maximum(expected, 1)
    rate = (2000 * meters + divisor) // (2 * divisor) / 10
    return np.select(
        [~counts, meters <= 0, rate < thresholds.min_receipt_rate_pct, rate < thresholds.near_receipt_pct],
        [np.uint8(code) for code in (NO_ROW, UNHEARD, TOO_FEW, NEAR_TOO_FEW)],
        np.uint8(ENOUGH),
    )


def worst_of(codes: Codes, group_index: ArrayLike, groups: int, kind: Literal["voltage", "receipt"]) -> Codes:
    """The code of each group of one window, of shape (groups,).

    Voltage: beyond a limit before near it before NORMAL, BOTH where members are beyond either, NEAR_LOW before
    NEAR_HIGH. Receipt: the lowest rate, so one member that is UNHEARD makes its group TOO_FEW. SILENT or UNHEARD only
    where all members with a row are; NO_ROW where none has one.

    Args:
      codes: of the members, one axis.
      group_index: of each member, from 0; negative for one of no group.
      groups: how many there are.
    """
    index = np.asarray(group_index)
    seen = np.zeros((groups, _CODES + 1), bool)
    grouped = index >= 0
    seen[index[grouped], np.minimum(codes, _CODES)[grouped]] = True
    if kind == "receipt":
        others = seen[:, [TOO_FEW, NEAR_TOO_FEW, ENOUGH]].any(axis=1)
        rules = [
            (seen[:, TOO_FEW] | (seen[:, UNHEARD] & others), TOO_FEW),
            (seen[:, NEAR_TOO_FEW], NEAR_TOO_FEW),
            (seen[:, ENOUGH], ENOUGH),
            (seen[:, UNHEARD], UNHEARD),
        ]
    else:
        rules = [
            (seen[:, BOTH] | (seen[:, BELOW] & seen[:, ABOVE]), BOTH),
            *((seen[:, code], code) for code in (BELOW, ABOVE, NEAR_LOW, NEAR_HIGH, NORMAL, SILENT)),
        ]
    return np.select([holds for holds, _ in rules], [np.uint8(code) for _, code in rules], np.uint8(NO_ROW))
