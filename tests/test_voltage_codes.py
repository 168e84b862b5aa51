"""Codes of voltages and receipt rates: at the limits, beside them, and of groups."""

from __future__ import annotations

import numpy as np
import pytest

from ami_beam.settings import Settings
from ami_beam.voltage_codes import NO_ROW, Thresholds, receipt_codes, voltage_codes, worst_of

NAN = float("nan")


def test_the_thresholds_are_those_of_a_run_and_half_way_to_them():
    found, settings = Thresholds(), Settings()
    for name in ("nominal_voltage", "low_voltage_pct", "high_voltage_pct", "min_receipt_rate_pct"):
        assert getattr(found, name) == getattr(settings, name)
    assert (found.near_low_pct, found.near_high_pct, found.near_receipt_pct) == (95, 105, 90)


@pytest.mark.parametrize(
    ("least", "greatest", "code"),
    [
        (NAN, NAN, 0),
        (89.9999, 100, 1),
        (90, 100, 2),
        (94.9999, 100, 2),
        (95, 105, 3),
        (100, 105.0001, 4),
        (100, 110, 4),
        (100, 110.0001, 5),
        (89, 111, 6),
        (94, 106, 2),
        (94, 111, 5),
        (0, 0, 1),
    ],
)  # fmt: skip
def test_a_voltage_at_a_limit_is_within_it(least, greatest, code):
    found = voltage_codes([least, least], [greatest, greatest], [True, False], Thresholds())
    assert (found.dtype, found.tolist()) == (np.uint8, [code, NO_ROW])


def test_a_voltage_at_its_limit_in_volts_is_at_it_in_per_cent():
    """Whatever floating point makes of it: alerts compare volts."""
    nominal = np.arange(100, 400, 0.1)
    for pct in (88.3, 90, 93.1, 94):
        at = nominal * pct / 100 * 100 / nominal
        assert set(voltage_codes(at, at, np.ones(at.shape, bool), Thresholds(low_voltage_pct=pct)).tolist()) == {2}
        beyond = at - 1e-6
        assert set(voltage_codes(beyond, at, np.ones(at.shape, bool), Thresholds(low_voltage_pct=pct)).tolist()) == {1}


def test_shapes_are_kept():
    shape = (3, 4)
    assert voltage_codes(np.full(shape, 100), np.full(shape, 100), np.ones(shape), Thresholds()).shape == shape


@pytest.mark.parametrize(
    ("heard", "total", "code"),
    [
        (0, 10, 0),
        (7, 10, 1),
        (8, 10, 2),
        (89, 100, 2),
        (9, 10, 3),
        (11, 10, 3),
        (0, 0, NO_ROW),
        (1, 0, NO_ROW),
        (7995, 10_000, 2),  # 79.95 is published as 80.0
        (7994, 10_000, 1),
    ],
)  # fmt: skip
def test_a_rate_is_judged_as_it_is_published(heard, total, code):
    found = receipt_codes([heard, heard], [total, total], [True, False], Thresholds())
    assert (found.dtype, found.tolist()) == (np.uint8, [code, NO_ROW])


@pytest.mark.parametrize(
    ("kind", "members", "code"),
    [
        ("voltage", [3, 3, 2], 2),
        ("voltage", [3, 4], 4),
        ("voltage", [4, 2], 2),
        ("voltage", [2, 4, 1], 1),
        ("voltage", [2, 5, 0], 5),
        ("voltage", [1, 5], 6),
        ("voltage", [6, 3], 6),
        ("voltage", [0, 3], 3),
        ("voltage", [0, 0, NO_ROW], 0),
        ("voltage", [NO_ROW], NO_ROW),
        ("voltage", [], NO_ROW),
        ("receipt", [3, 2], 2),
        ("receipt", [3, 3], 3),
        ("receipt", [3, 0], 1),
        ("receipt", [2, 1, 3], 1),
        ("receipt", [0, NO_ROW], 0),
        ("receipt", [NO_ROW], NO_ROW),
    ],
)  # fmt: skip
def test_a_group_is_as_bad_as_its_worst_member(kind, members, code):
    # The first group is of others, one member is of none, and the third group has no member.
    codes = np.array([3, *members, 1], np.uint8)
    found = worst_of(codes, [0, *[1] * len(members), -1], 3, kind)
    assert (found.dtype, found.tolist()) == (np.uint8, [3, code, NO_ROW])
