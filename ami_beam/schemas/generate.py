"""Makes the Avro schemas of what record types and the contract of inputs say.

A topic with several kinds of rows has one record type: the field that tells the kinds apart, what all of them have, and
null for what a row's kind does not have. ksqlDB, Kafka Connect's sinks and Flink SQL take such a topic for a table; a
union of records they take for a struct of structs, or not at all.
"""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterable
from functools import cache
from typing import Any

import msgspec

from ami_beam import records
from ami_beam.input_topics import EVENTS_TOPIC, OUTAGES_TOPIC, READS_TOPIC, WORK_TOPIC
from ami_beam.results import RESULTS, Kind, Result
from ami_beam.schemas import FILE_TABLES, NAMESPACE, result_topics, subject_of

Schema = dict[str, Any]
_INSTANT = {"type": "long", "logicalType": "timestamp-micros"}
_TYPES: dict[Kind, Any] = {
    Kind.TEXT: "string",
    Kind.INTEGER: "long",
    Kind.NUMBER: "double",
    Kind.CONDITION: "boolean",
    Kind.INSTANT: _INSTANT,
    Kind.BYTES: "bytes",
    Kind.TEXTS: {"type": "array", "items": "string"},
    Kind.INTEGERS: {"type": "array", "items": "long"},
}
_READ: tuple[tuple[str, Any], ...] = (
    ("meter_id", "string"),
    ("service_point_id", "string"),
    ("customer_id", "string"),
    ("transformer_id", "string"),
    ("feeder_id", "string"),
    ("read_type", "string"),
    ("interval_start", _INSTANT),
    ("interval_end", _INSTANT),
    ("consumption_kwh", "double"),
    ("delivered_kwh", "double"),
    ("received_kwh", "double"),
    ("voltage_v", ["null", "double"]),
    ("power_quality_code", "long"),
    ("estimated_flag", "boolean"),
    ("read_ts", _INSTANT),
)
_EVENT: tuple[tuple[str, Any], ...] = (
    ("meter_id", "string"),
    ("event_code", ["long", "string"]),
    ("event_ts", _INSTANT),
    ("event_desc", ["null", "string"]),
)
_OUTAGE: tuple[tuple[str, Any], ...] = (
    ("outage_id", "string"),
    ("kind", "string"),
    ("status", "string"),
    ("entity_type", "string"),
    ("entity_id", "string"),
    ("from", _INSTANT),
    ("to", ["null", _INSTANT]),
    ("reason", ["null", "string"]),
)
_WORK: tuple[tuple[str, Any], ...] = (
    ("work_id", "string"),
    ("kind", "string"),
    ("status", "string"),
    ("meter_id", "string"),
    ("transformer_id", ["null", "string"]),
    ("from", _INSTANT),
    ("to", _INSTANT),
    ("reason", ["null", "string"]),
)


def all_schemas() -> dict[str, Schema]:
    """Every schema by the name of its file."""
    made = {subject_of(topic): topic_schema(topic) for topic in result_topics()}
    made |= {result.table: row_schema(result) for result in RESULTS if result.table in FILE_TABLES}
    made[subject_of(READS_TOPIC)] = _input("HeadendRead", _READ, "A read as the head-end sends it.")
    made[subject_of(EVENTS_TOPIC)] = _input("HeadendEvent", _EVENT, "A meter event as the head-end sends it.")
    made[subject_of(OUTAGES_TOPIC)] = _input("AnnouncedOutage", _OUTAGE, "An outage that the OMS announces or knows.")
    made[subject_of(WORK_TOPIC)] = _input("AnnouncedWork", _WORK, "Work at a meter, which explains what it does then.")
    return made


def as_text(schema: Schema) -> str:
    """The content of a file."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def topic_schema(topic: str) -> Schema:
    """The schema of a topic's values. Raises ValueError where kinds of rows differ in what a field of a name is."""
    results = [result for result in RESULTS if result.topic == topic]
    name = _camel(topic.removeprefix(f"{NAMESPACE}."))
    docs = " ".join(_docs()[result.row_type.__name__][""] for result in results)
    if results[0].kind is None:
        (result,) = results
        return _schema(name, docs, _fields(result))
    kinds = [result.kind for result in results if result.kind is not None]
    (discriminator,) = {kind[0] for kind in kinds}
    words = ", ".join(kind[1] for kind in kinds)
    merged: dict[str, Schema] = {}
    for result in results:
        for field in _fields(result):
            known = merged.setdefault(field["name"], field)
            if _own_type(known) != _own_type(field):
                raise ValueError(f"{topic}: {field['name']} is of two types")
            everywhere = all(field["name"] in each.row_type.__struct_fields__ for each in results)
            merged[field["name"]] = known if everywhere and not _is_nullable(field) else _nullable(known)
    first = {"name": discriminator, "type": "string", "doc": f"Which kind of row this is: {words}."}
    return _schema(name, docs, [first, *merged.values()])


def row_schema(result: Result) -> Schema:
    """The schema of one kind of row."""
    return _schema(_camel(result.table), _docs()[result.row_type.__name__][""], _fields(result))


def _input(name: str, fields: Iterable[tuple[str, Any]], doc: str) -> Schema:
    made = [{"name": each, "type": kind} for each, kind in fields]
    return _schema(name, doc, [_nullable(field) if _is_nullable(field) else field for field in made])


def _schema(name: str, doc: str, fields: Iterable[Schema]) -> Schema:
    return {"type": "record", "name": name, "namespace": NAMESPACE, "doc": doc, "fields": list(fields)}


def _fields(result: Result) -> list[Schema]:
    docs = _docs()[result.row_type.__name__]
    # What was added to a row later: a reader of now makes it of a row of before.
    defaults = {field.name: field.default for field in msgspec.structs.fields(result.row_type)}
    made = []
    for field in result.fields:
        # Of what is base64 in JSON these are the bytes themselves.
        name = field.name.removesuffix("_b64")
        doc = {"doc": docs[name]} if name in docs else {}
        default = {"default": defaults[name]} if type(defaults.get(name)) is int else {}
        plain = {"name": name, "type": _TYPES[field.kind], **default, **doc}
        made.append(_nullable(plain) if field.optional else plain)
    return made


def _nullable(field: Schema) -> Schema:
    """The field where it may be null, which it then is by default."""
    kind = field["type"] if _is_nullable(field) else ["null", field["type"]]
    return {"name": field["name"], "type": kind, "default": None, **({"doc": field["doc"]} if "doc" in field else {})}


def _is_nullable(field: Schema) -> bool:
    return isinstance(field["type"], list) and field["type"][0] == "null"


def _own_type(field: Schema) -> Any:
    return field["type"][1] if _is_nullable(field) else field["type"]


def _camel(name: str) -> str:
    return "".join(word.capitalize() for word in name.replace("_", ".").split("."))


@cache
def _docs() -> dict[str, dict[str, str]]:
    """What the docstrings of the record types say, by type and by field; of the type itself under the empty name."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(records)).body:
        if isinstance(node, ast.ClassDef):
            docs = found[node.name] = {"": _line(ast.get_docstring(node) or "")}
            for before, after in zip(node.body, node.body[1:], strict=False):
                if isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name) and _is_text(after):
                    docs[before.target.id] = _line(ast.literal_eval(after.value))  # type: ignore[attr-defined]
    return found


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _line(doc: str) -> str:
    return " ".join(doc.split())
