"""Voltage bands, in per cent of nominal, and classes of one per cent.

ANSI C84.1, service voltage, on a base of 120 V: range A is 114 to 126 V, range B 110 to 127 V. EN 50160, supply voltage
variations in low voltage: within 10 % of nominal in normal operation (95 % of a week's ten-minute means), and always
within +10 and -15 %. A window here has the least and the greatest voltage that any meter sent, not ten-minute means.
"""

from __future__ import annotations

from math import floor
from typing import Literal

Ansi = Literal["A", "B", "OUTSIDE"]
En = Literal["NORMAL", "EXTENDED", "OUTSIDE"]

FIRST_CLASS, LAST_CLASS = 85, 115
"""Classes are named by the per cent at which they begin; below the first is 84, from the last on 115."""
CLASSES = LAST_CLASS - FIRST_CLASS
ABOUT_NOTHING = 1e-9
"""Per cent: 103.5 % of 240 V is 103.49999999999999 in floats."""

OUTSIDE_ANSI_A, OUTSIDE_ANSI_B, OUTSIDE_EN_50160 = 1, 2, 4
"""Bits of `outside`."""


def ansi_c84_1(low: float, high: float, nominal: float) -> Ansi:
    """The range that the voltages are in, all in volts."""
    if _within(low, high, nominal, 114 / 120, 126 / 120):
        return "A"
    return "B" if _within(low, high, nominal, 110 / 120, 127 / 120) else "OUTSIDE"


def en_50160(low: float, high: float, nominal: float) -> En:
    """NORMAL within 10 %, EXTENDED within +10 and -15 %."""
    if _within(low, high, nominal, 0.90, 1.10):
        return "NORMAL"
    return "EXTENDED" if _within(low, high, nominal, 0.85, 1.10) else "OUTSIDE"


def _within(low: float, high: float, nominal: float, least: float, greatest: float) -> bool:
    about = nominal * ABOUT_NOTHING / 100
    return low >= nominal * least - about and high <= nominal * greatest + about


def outside(low: float | None, high: float | None, nominal: float) -> int:
    """Of which bands voltages are outside, EN 50160's normal one among them; 0 where there are none."""
    if low is None or high is None:
        return 0
    ansi = ansi_c84_1(low, high, nominal)
    found = OUTSIDE_ANSI_A * (ansi != "A") + OUTSIDE_ANSI_B * (ansi == "OUTSIDE")
    return found + OUTSIDE_EN_50160 * (en_50160(low, high, nominal) != "NORMAL")


def per_cent(volts: float, nominal: float) -> float:
    """Of nominal, two decimals, half up."""
    return floor(volts * 10_000 / nominal + 0.5 + ABOUT_NOTHING) / 100
