"""`python -m ami_beam.graph_steps`: what a running job is updated by: labels of steps, their state, coders, records.

python -m ami_beam.graph_steps           # check: exit code 1 shows what has changed
python -m ami_beam.graph_steps write     # after a change that is meant; CHANGELOG.md then needs the mark that it prints

Dataflow takes over the state of a running job by the labels of its steps, and reads it with the new job's coders. A
savepoint of Flink needs the same coders. So a change of any of them is one that users are told of.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import sys
import tempfile
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import apache_beam as beam
import msgspec
from apache_beam.coders import Coder, registry
from apache_beam.pipeline import AppliedPTransform, PipelineVisitor
from apache_beam.pvalue import PCollection
from apache_beam.transforms.userstate import get_dofn_specs, is_stateful_dofn

from ami_beam.beam_options import OptionError, Parser
from ami_beam.coders import MsgspecCoder
from ami_beam.command import leave
from ami_beam.consumers import OPTIONAL_TOPICS
from ami_beam.io.kafka_preflight import Topic
from ami_beam.io.meter_counts_source import load_version
from ami_beam.io.native_kafka_sink import WriteTopicNatively
from ami_beam.io.native_kafka_source import ReadTopicNatively
from ami_beam.options import validate
from ami_beam.run import build

FILE = Path(__file__).with_name("graph_steps.txt")
GRAPHS = {
    "default options": (),
    "everything": (
        f"--also_publish={','.join(OPTIONAL_TOPICS)}",
        "--customer_id=keep",
        "--oms_outages=ami.oms.outages",
        "--work=ami.work",
    ),
}
_SHARDS = 256
_CONNECTORS = (ReadTopicNatively, WriteTopicNatively)
"""What stands in for Beam's Kafka connector, whose steps are Beam's own."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done or in step, 1 out of step, 2 a wrong option."""
    parser = Parser(
        prog="python -m ami_beam.graph_steps",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", nargs="?", default="check", choices=("check", "write"))
    try:
        action = parser.parse_args(argv).action
    except OptionError as error:
        print(f"ami_beam.graph_steps: {error}", file=sys.stderr)
        return 2
    text = described()
    if action == "write":
        FILE.write_text(text, encoding="utf-8")
        print(f"CHANGELOG.md, in what is unreleased, must tell users how to update, and name {mark(text)}")
        return 0
    written = FILE.read_text(encoding="utf-8")
    if text == written:
        print(f"In step: {mark(text)}.")
        return 0
    print("\n".join(difflib.unified_diff(written.splitlines(), text.splitlines(), FILE.name, "now", lineterm="")))
    print("Jobs that run could not be updated as they are. If that is meant: python -m ami_beam.graph_steps write")
    return 1


def mark(text: str) -> str:
    """What stands for a list in CHANGELOG.md."""
    return f"steps-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def described() -> str:
    """The list of now, line by line; the same for the same code and the same Beam."""
    records: dict[str, type] = {}
    lines = []
    for name, options in GRAPHS.items():
        lines += [f"[{name}]", *_steps(_graph(options), records), ""]
    lines += ["[records]"]
    done: set[str] = set()
    while names := sorted(records.keys() - done):
        for name in names:
            done.add(name)
            lines.append(f"{name}: {', '.join(_fields(records[name], records))}")
    head, body = lines[: lines.index("[records]") + 1], sorted(lines[lines.index("[records]") + 1 :])
    return "\n".join([*head, *body]) + "\n"


def _graph(options: Sequence[str]) -> beam.Pipeline:
    """The graph as Dataflow gets it, but for the connectors: Beam's would need a JVM."""
    with tempfile.NamedTemporaryFile("w", suffix=".csv") as counts:
        counts.write("transformer_id,total_meters\nT1,1\n")
        counts.flush()
        argv = ["--bootstrap_servers=broker:9092", f"--meter_counts={counts.name}", f"--shards={_SHARDS}", *options]
        settings, plan = validate(argv)
        plan = replace(plan, runner="DataflowRunner", kafka_io="native")
        pipeline = beam.Pipeline()
        known = {name: Topic(name, 1, "LogAppendTime", ()) for name in (plan.reads, plan.events)}
        build(pipeline, settings, plan, load_version(counts.name), topics=known)
        return pipeline


class _Steps(PipelineVisitor):
    """Collects steps that do something, and a connector as one."""

    def __init__(self) -> None:
        self.found: list[AppliedPTransform] = []
        self._inside: AppliedPTransform | None = None

    def enter_composite_transform(self, transform_node: AppliedPTransform) -> None:
        if self._inside is None and isinstance(transform_node.transform, _CONNECTORS):
            self._inside = transform_node
            self.found.append(transform_node)

    def leave_composite_transform(self, transform_node: AppliedPTransform) -> None:
        if self._inside is transform_node:
            self._inside = None

    def visit_transform(self, transform_node: AppliedPTransform) -> None:
        if self._inside is None:
            self.found.append(transform_node)


def _steps(pipeline: beam.Pipeline, records: dict[str, type]) -> Iterator[str]:
    visitor = _Steps()
    pipeline.visit(visitor)
    for step in sorted(visitor.found, key=lambda each: str(each.full_label)):
        outputs = [
            f"{tag or 'output'}: {_coder(registry.get_coder(output.element_type), records)}"
            for tag, output in sorted(step.outputs.items(), key=str)
            if isinstance(output, PCollection)
        ]
        yield " → ".join([str(step.full_label), *outputs])
        transform = step.transform
        if isinstance(transform, beam.ParDo) and is_stateful_dofn(transform.fn):
            states, timers = get_dofn_specs(transform.fn)
            for state in sorted(states, key=lambda each: each.name):
                yield f"    {type(state).__name__} {state.name}: {_coder(state.coder, records)}"
            for timer in sorted(timers, key=lambda each: each.name):
                yield f"    timer {timer.name}: {timer.time_domain}"


def _coder(coder: Coder, records: dict[str, type]) -> str:
    if isinstance(coder, MsgspecCoder):
        return _collected(coder.to_type_hint(), records)
    name = type(coder).__name__
    parts = [_coder(part, records) for part in coder._get_component_coders()]
    return f"{name}({', '.join(parts)})" if parts else name


def _fields(record: type, records: dict[str, type]) -> Iterator[str]:
    """Name and type of every field in order: MessagePack has either names or places of them."""
    for field in msgspec.structs.fields(record):
        optional = "" if field.required else "?"
        yield f"{field.encode_name}{optional} {_type(field.type, records)}"


def _collected(record: type, records: dict[str, type]) -> str:
    """The record's name with its module's: steps have records of one name."""
    name = f"{record.__module__.rpartition('.')[2]}.{record.__name__}"
    assert records.setdefault(name, record) is record, f"two records are called {name}"
    return name


def _type(kind: Any, records: dict[str, type]) -> str:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _collected(kind, records)
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        return "|".join(map(repr, arguments))
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return "|".join(_type(each, records) for each in arguments)
    if arguments:
        inner = ", ".join("…" if each is Ellipsis else _type(each, records) for each in arguments)
        return f"{getattr(typing.get_origin(kind), '__name__', kind)}[{inner}]"
    return getattr(kind, "__name__", str(kind))


if __name__ == "__main__":
    leave(main())
