"""JSON of many rows at once from columns: half of what rows and encoding one by one take, where there is one a read.

What is written says the same as `msgspec.json`'s, field by field and with a fraction in every float, though not always
in the same digits: 0.000001 may be there instead of 1e-6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ami_beam.instants import MICROS_PER_MILLI, MICROS_PER_SECOND, format_instant
from ami_beam.read_columns import Flags, Floats, Ints

Parts = list[pa.Array | str]
"""What the JSON of a column's values is put together of: texts by row, and such that all rows share."""

_encode = msgspec.json.encode
_MILLIS = pa.array([format_instant(millis * MICROS_PER_MILLI)[19:] for millis in range(1_000)])
_FRACTION = pa.array(["", ".0"])
_PLAIN_BELOW = 1e9
"""Arrow writes such numbers without an exponent, or with a negative one."""
_FIRST_PRINTABLE, _QUOTE, _BACKSLASH = 0x20, 0x22, 0x5C
"""What of UTF-8 JSON escapes: the bytes below the first, and the two others."""


def json_rows(fields: Mapping[str, Parts]) -> list[bytes]:
    """A JSON object for each row, its fields in this order. At least one column must not be the same in all rows."""
    parts: Parts = []
    text = ""
    for place, (name, values) in enumerate(fields.items()):
        text += f'{"{" if place == 0 else ","}"{name}":'
        for each in values:
            if isinstance(each, str):
                text += each
            else:
                parts += [text, each]
                text = ""
    return pc.binary_join_element_wise(*parts, text + "}", "").cast(pa.binary()).to_pylist()


def always(value: str | float | bool | None) -> Parts:
    """The same in every row."""
    return [_encode(value).decode()]


def texts(values: Sequence[str]) -> Parts:
    """Any texts."""
    column = pa.array(values, pa.string())
    return encoded(values) if _escapes(column) else ['"', column, '"']


def _escapes(column: pa.Array) -> bool:
    """Whether one of them has a character that JSON escapes."""
    data = np.frombuffer(column.buffers()[2] or b"", np.uint8)
    return bool(((data < _FIRST_PRINTABLE) | (data == _QUOTE) | (data == _BACKSLASH)).any())


def encoded(values: Sequence[object]) -> Parts:
    """What is encoded one by one."""
    return [pa.array([_encode(value).decode() for value in values])]


def chosen(places: Ints, values: Sequence[object]) -> Parts:
    """The value at each place."""
    made = [_encode(value).decode() for value in values]
    if (places == places[0]).all():
        return [made[places[0]]]
    return [pa.array(made).take(pa.array(places))]


def integers(values: Ints) -> Parts:
    """Whole numbers."""
    return always(int(values[0])) if (values == values[0]).all() else [pa.array(values).cast(pa.string())]


def floats(values: Floats) -> Parts:
    """Numbers with a fraction, also where it is 0, so that a reader who guesses types guesses one."""
    if not (np.abs(values) < _PLAIN_BELOW).all():  # that is how NaN, which becomes null, is found as well
        return encoded(values.tolist())
    whole: Flags = values == np.trunc(values)
    column = pa.array(values).cast(pa.string())
    return [column, _FRACTION.take(pa.array(whole.astype(np.int8)))] if whole.any() else [column]


def instants(values: Ints) -> Parts:
    """As `format_instant` writes them."""
    if (values == values[0]).all():
        return always(format_instant(int(values[0])))
    seconds, fraction = np.divmod(values, MICROS_PER_SECOND)
    millis, rest = np.divmod(fraction, MICROS_PER_MILLI)
    if rest.any():
        return ['"', pa.array([format_instant(value) for value in values.tolist()]), '"']
    different, places = np.unique(seconds, return_inverse=True)
    names = [format_instant(second * MICROS_PER_SECOND).removesuffix("Z") for second in different.tolist()]
    return ['"', pa.array(names).take(pa.array(places)), _MILLIS.take(pa.array(millis)), '"']
