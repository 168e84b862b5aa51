"""What Avro costs beside JSON: microseconds of CPU time a row or a read, without a pipeline around them."""

from __future__ import annotations

import io
import json
import tempfile
import time
from collections.abc import Callable
from typing import Any

import fastavro
from msgspec.structs import asdict

from ami_beam.codecs import json_outputs
from ami_beam.codecs.avro_outputs import AvroValues
from ami_beam.codecs.avro_reads import AvroReadDecoder
from ami_beam.codecs.billing_batches import validated_batch
from ami_beam.codecs.json_reads import ReadDecoder
from ami_beam.codecs.writer_schemas import KnownSchemas, head
from ami_beam.instants import MICROS_PER_MINUTE, MICROS_PER_SECOND, format_instant
from ami_beam.io.avro_files import write_file
from ami_beam.records import ReceiptRow, RecordBatch, SummaryRow, ValidatedRead
from ami_beam.results import RESULTS
from ami_beam.schemas import schema_text, subject_of
from ami_beam.settings import Settings

ROWS, BATCH, REPEATS = 20_000, 5_000, 5
START = 1_772_496_000_000_000
END = START + 15 * MICROS_PER_MINUTE
READS_SUBJECT = "ami.headend.reads-value"


def best(work: Callable[[], Any], count: int) -> float:
    """Microseconds for one of `count`, of the quickest of several times."""
    spent = []
    for _ in range(REPEATS):
        begin = time.process_time()
        work()
        spent.append(time.process_time() - begin)
    return min(spent) / count * MICROS_PER_SECOND


def by_fastavro(topic: str) -> Callable[[Any], bytes]:
    """How a row is encoded without code of ours."""
    schema = fastavro.parse_schema(json.loads(schema_text(subject_of(topic))))
    beginning = head(1)
    kinds: dict[type, dict[str, str]] = {
        result.row_type: dict([result.kind]) if result.kind else {} for result in RESULTS if result.topic == topic
    }

    def encode(row: Any) -> bytes:
        stream = io.BytesIO()
        stream.write(beginning)
        fastavro.schemaless_writer(stream, schema, asdict(row) | kinds[type(row)])
        return stream.getvalue()

    return encode


def summary(number: int) -> SummaryRow:
    return SummaryRow(
        f"TR-LV{number % 500}.{number}", f"MV1.101-Feeder{number % 20}", START, END, 8.6763 + number, 8.6763, 0.0, 22,
        241.038144, 229.53, 243.18, 0, 0, 0, END + number * 1_000, 0, 0, 0, 22,
    )  # fmt: skip


def receipt(number: int) -> ReceiptRow:
    return ReceiptRow(
        f"TR-LV{number % 500}.{number}", f"MV1.101-Feeder{number % 20}", START, END, 22, 23, 95.7, 21, 91.3,
        END + number * 1_000, 0,
    )  # fmt: skip


def validated(number: int) -> ValidatedRead:
    return ValidatedRead(
        f"MTR-{number:06}", f"SP-{number:07}", f"{number:032x}", f"TR-LV{number % 500}", START, END, 0.0197 + number,
        0.0197, 0.0, "ACTUAL", 14, False, False, [], END + number, END + number * 1_000, 0,
    )  # fmt: skip


def sent(number: int) -> dict[str, Any]:
    return {
        "meter_id": f"MTR-{number:06}", "service_point_id": f"SP-{number:07}", "customer_id": f"CUST-{number:07}",
        "transformer_id": f"TR-LV{number % 500}", "feeder_id": f"MV1.101-Feeder{number % 20}",
        "read_type": "INTERVAL", "interval_start": START, "interval_end": END, "consumption_kwh": 0.0197,
        "delivered_kwh": 0.0197, "received_kwh": 0.0, "voltage_v": 230.0 + number % 100 / 10, "power_quality_code": 0,
        "estimated_flag": False, "read_ts": END + number % 600 * MICROS_PER_SECOND,
    }  # fmt: skip


def batches(values: list[bytes | None]) -> list[RecordBatch]:
    return [
        RecordBatch("r", [0] * BATCH, list(range(BATCH)), [END + MICROS_PER_MINUTE] * BATCH, values[at : at + BATCH])
        for at in range(0, len(values), BATCH)
    ]


def report_rows() -> None:
    print("rows, µs each: JSON, Avro, Avro by fastavro; bytes each in JSON, Avro")
    values = AvroValues({result.topic: 1 for result in RESULTS})
    for name, make, as_json, topic in (
        ("summary", summary, json_outputs.summary_json, json_outputs.SUMMARY_TOPIC),
        ("receipt", receipt, json_outputs.receipt_json, json_outputs.RECEIPT_TOPIC),
    ):
        rows = [make(number) for number in range(ROWS)]
        costs = [
            best(lambda encode=encode: list(map(encode, rows)), ROWS)  # type: ignore[misc]  # noqa: B023
            for encode in (as_json, values, by_fastavro(topic))
        ]
        assert values(rows[7]) == by_fastavro(topic)(rows[7])
        print(
            f"  {name}: {', '.join(f'{cost:.1f}' for cost in costs)}; {len(as_json(rows[7]))}, {len(values(rows[7]))}"
        )
    batch = validated_batch([validated(number) for number in range(ROWS)])
    by_others = by_fastavro("ami.reads.validated")
    costs = [
        best(lambda: json_outputs.validated_records(batch), ROWS),
        best(lambda: json_outputs.validated_records(batch, values), ROWS),
        best(lambda: json_outputs.validated_records(batch, by_others), ROWS),
    ]
    sizes = [len(json_outputs.validated_records(batch, each).values[7]) for each in (None, values)]
    print(f"  validated read, with its key: {', '.join(f'{cost:.1f}' for cost in costs)}; {sizes[0]}, {sizes[1]}")
    schema = fastavro.parse_schema(json.loads(schema_text("validated_read")))
    with tempfile.TemporaryDirectory() as folder:
        print(f"  validated read into a file: {best(lambda: write_file(folder, batch.reads, schema), ROWS):.1f}")


def report_reads() -> None:
    text = schema_text(READS_SUBJECT)
    schema, rows = fastavro.parse_schema(json.loads(text)), [sent(number) for number in range(ROWS)]
    avro: list[bytes | None] = []
    for row in rows:
        stream = io.BytesIO()
        fastavro.schemaless_writer(stream, schema, row)
        avro.append(head(1) + stream.getvalue())
    times = ("interval_start", "interval_end", "read_ts")
    texts: list[bytes | None] = [
        json.dumps(row | {name: format_instant(row[name]) for name in times}, separators=(",", ":")).encode()
        for row in rows
    ]
    settings, schemas = Settings(), KnownSchemas({1: text})
    of_json, of_avro = ReadDecoder(settings), AvroReadDecoder(settings, schemas)
    written = schemas.schema(1)
    assert of_json.decode(batches(texts)[0], None)[0] == of_avro.decode(batches(avro)[0], None)[0]
    costs = {
        "JSON": best(lambda: [of_json.decode(batch, None) for batch in batches(texts)], ROWS),
        "Avro": best(lambda: [of_avro.decode(batch, None) for batch in batches(avro)], ROWS),
        "Avro by fastavro, fields only": best(lambda: [written.document(value or b"") for value in avro], ROWS),
    }
    # One bad record costs its chunk of 250 its speed: here every chunk has one.
    spoilt = [b"" if place % 250 == 0 else value for place, value in enumerate(avro)]
    costs["Avro with a bad record in every 250"] = best(
        lambda: [of_avro.decode(batch, None) for batch in batches(spoilt)], ROWS
    )
    print("reads from bytes to accepted columns, µs each")
    for name, cost in costs.items():
        print(f"  {name}: {cost:.2f}")
    print(f"  bytes: {len(texts[7] or b'')} in JSON, {len(avro[7] or b'')} in Avro")


if __name__ == "__main__":
    report_rows()
    report_reads()
