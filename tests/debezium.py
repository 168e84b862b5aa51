"""Changes as Debezium's connector for PostgreSQL writes them, around rows of any bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

SOURCE = (
    b'"source":{"version":"3.6.1.Final","connector":"postgresql","name":"headend","ts_ms":1772540150123,"snapshot":'
    b'"false","db":"headend","sequence":"[\\"24023128\\",\\"24023136\\"]","ts_us":1772540150123456,"ts_ns":'
    b'1772540150123456000,"schema":"public","table":"reads","txId":555,"lsn":24023136,"xmin":null},'
    b'"transaction":null,'
)
TIMES = b'"ts_ms":1772540150500,"ts_us":1772540150500123,"ts_ns":1772540150500123456'
COLUMNS: Mapping[str, Mapping[str, Any]] = {
    **{
        name: {"type": "string", "optional": False}
        for name in ("meter_id", "service_point_id", "customer_id", "transformer_id", "feeder_id", "read_type")
    },
    **{
        name: {"type": "string", "optional": False, "name": "io.debezium.time.ZonedTimestamp", "version": 1}
        for name in ("interval_start", "interval_end", "read_ts")
    },
    **{
        name: {"type": "double", "optional": True}
        for name in ("consumption_kwh", "delivered_kwh", "received_kwh", "voltage_v")
    },
    "power_quality_code": {"type": "int32", "optional": False},
    "estimated_flag": {"type": "boolean", "optional": False},
    "event_ts": {"type": "int64", "optional": False, "name": "io.debezium.time.MicroTimestamp", "version": 1},
    "event_code": {"type": "int32", "optional": False},
    "event_desc": {"type": "string", "optional": True},
}
"""Of a table of reads or of events, as Kafka Connect describes them."""


def decimal_column(scale: int) -> dict[str, Any]:
    """Of `decimal.handling.mode=precise` for numeric(p, scale)."""
    parameters = {"scale": str(scale), "connect.decimal.precision": "12"}
    name = "org.apache.kafka.connect.data.Decimal"
    return {"type": "bytes", "optional": True, "name": name, "version": 1, "parameters": parameters}


def time_column(meaning: str) -> dict[str, Any]:
    """Of a timestamp that is a number."""
    name = meaning if "." in meaning else f"io.debezium.time.{meaning}"
    return {"type": "int64", "optional": False, "name": name, "version": 1}


def change(after: bytes | None, op: str = "c", before: bytes = b"null") -> bytes:
    """A change without a schema; without `after` where that is None."""
    row = b"" if after is None else b'"after":' + after + b","
    return b'{"before":' + before + b"," + row + SOURCE + b'"op":"' + op.encode() + b'",' + TIMES + b"}"


def head(columns: Mapping[str, Mapping[str, Any]] | None = None) -> bytes:
    """The schema that stands before a change, with columns that replace others by their names."""
    fields = [{**column, "field": name} for name, column in {**COLUMNS, **(columns or {})}.items()]
    row = {"type": "struct", "fields": fields, "optional": True, "name": "headend.public.reads.Value"}
    source = {
        "type": "struct",
        "fields": [{"type": "string", "optional": False, "field": "version"}],
        "field": "source",
    }
    images = [{**row, "field": "before"}, {**row, "field": "after"}, source]
    schema = {"type": "struct", "fields": [*images, {"type": "string", "optional": False, "field": "op"}]}
    return b'{"schema":' + json.dumps(schema, separators=(",", ":")).encode() + b',"payload":'


def with_schema(payload: bytes, columns: Mapping[str, Mapping[str, Any]] | None = None) -> bytes:
    """A change with its schema."""
    return head(columns) + payload + b"}"
