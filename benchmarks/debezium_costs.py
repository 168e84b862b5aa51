"""What the envelope of Debezium costs: CPU seconds per million reads from bytes to accepted columns."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

from ami_beam.codecs.debezium_reads import DebeziumReadDecoder
from ami_beam.codecs.json_reads import ReadDecoder
from ami_beam.instants import format_instant
from ami_beam.settings import Settings
from benchmarks.avro_costs import ROWS, batches, best, sent
from tests.debezium import change, decimal_column, time_column, with_schema

TIMES = ("interval_start", "interval_end", "read_ts")
NUMBERS = ("consumption_kwh", "delivered_kwh", "received_kwh", "voltage_v")
DECIMALS = {name: decimal_column(4) for name in NUMBERS}
MICROS = {name: time_column("MicroTimestamp") for name in TIMES}


def row(number: int, times: bool = False, numbers: str = "double") -> bytes:
    """A row as the connector writes it, with timestamps as numbers, and decimals as it is set to."""
    fields: dict[str, Any] = sent(number)
    if not times:
        fields |= {name: format_instant(fields[name]) for name in TIMES}
    for name in NUMBERS if numbers != "double" else ():
        unscaled = round(fields[name] * 10_000)
        octets = unscaled.to_bytes((unscaled.bit_length() + 8) // 8, "big", signed=True)
        fields[name] = f"{fields[name]:.4f}" if numbers == "string" else b64encode(octets).decode()
    return json.dumps(fields, separators=(",", ":")).encode()


def main() -> None:
    plain: list[bytes | None] = [row(number) for number in range(ROWS)]
    rows = range(ROWS)
    forms: dict[str, list[bytes | None]] = {
        "changes, numbers and texts with a zone": [change(row(n)) for n in rows],
        "changes, decimals as texts": [change(row(n, numbers="string")) for n in rows],
        "with schemas, numbers and texts with a zone": [with_schema(change(row(n))) for n in rows],
        "with schemas, decimals as bytes, timestamps as numbers": [
            with_schema(change(row(n, True, "precise")), DECIMALS | MICROS) for n in rows
        ],
        "changes, one in 250 a delete": [change(row(n), "d" if n % 250 == 0 else "c") for n in rows],
        "changes, all of them deletes": [change(b"null", "d", row(n)) for n in rows],
    }
    decoder = ReadDecoder(Settings())
    expected = decoder.decode(batches(plain)[0], None)
    cost = best(lambda: [decoder.decode(batch, None) for batch in batches(plain)], ROWS)
    print("CPU seconds per million reads, bytes each")
    print(f"  plain JSON: {cost:.2f}, {len(plain[7] or b'')}")
    for name, values in forms.items():
        decoder = DebeziumReadDecoder(Settings())
        if "delete" not in name:
            assert decoder.decode(batches(values)[0], None) == expected
        cost = best(lambda: [decoder.decode(batch, None) for batch in batches(values)], ROWS)  # noqa: B023
        print(f"  {name}: {cost:.2f}, {len(values[7] or b'')}")


if __name__ == "__main__":
    main()
