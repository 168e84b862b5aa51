"""Rows of every kind in `RESULTS`, made by hypothesis."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from ami_beam.codecs.json_outputs import EVENT_ALERTS_TOPIC
from ami_beam.instants import MAX_INSTANT, MIN_INSTANT
from ami_beam.results import Field, Kind, Result

_INT64 = st.integers(-(2**63), 2**63 - 1)
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
_VALUES: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.TEXT: _TEXT,
    Kind.INTEGER: _INT64 | st.integers(0, 300),
    Kind.NUMBER: st.floats(allow_nan=False, allow_infinity=False),
    Kind.CONDITION: st.booleans(),
    Kind.INSTANT: st.integers(MIN_INSTANT, MAX_INSTANT),
    Kind.BYTES: st.binary(max_size=300),
    Kind.TEXTS: st.lists(_TEXT, max_size=3),
    Kind.INTEGERS: st.lists(_INT64, max_size=3),
}


def rows(result: Result) -> st.SearchStrategy[Any]:
    """Rows of this kind with anything in their fields."""
    fields = [field for field in result.fields if field.name not in ("value_size", "value_sha256")]
    return st.builds(result.row_type, **{_name(field): _value(result, field) for field in fields})


def _name(field: Field) -> str:
    return field.name.removesuffix("_b64")


def _value(result: Result, field: Field) -> st.SearchStrategy[Any]:
    # Alerts go by their source to one topic or the other.
    if field.name == "alert_source":
        return st.just("EVENT") if result.topic == EVENT_ALERTS_TOPIC else st.sampled_from(["COMM", "VOLTAGE"])
    hint = get_type_hints(result.row_type)[_name(field)]
    value = st.sampled_from(get_args(hint)) if get_origin(hint) is Literal else _VALUES[field.kind]
    return st.none() | value if field.optional else value
