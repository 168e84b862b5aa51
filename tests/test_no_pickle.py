"""Nothing typed is ever pickled: every PCollection, state cell and key of the pipeline has a coder of its own."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable, Iterator

import apache_beam as beam
import pytest
from apache_beam.coders import coders as beam_coders
from apache_beam.coders import registry
from apache_beam.pipeline import AppliedPTransform, PipelineVisitor
from apache_beam.pvalue import PCollection
from apache_beam.transforms.userstate import get_dofn_specs, is_stateful_dofn

from ami_beam import meter_counts, records
from ami_beam.coders import MsgspecCoder
from ami_beam.consumers import OPTIONAL_TOPICS
from ami_beam.io.files import ReadReplay
from ami_beam.io.meter_counts_source import ReadMeterCounts, load_version
from ami_beam.io.meter_registry_source import FollowedRegistry
from ami_beam.meter_counts import MeterCountsVersion, pack
from ami_beam.records import MeterCount, RecordBatch
from ami_beam.settings import Settings
from pipelines.operational import Inputs, operational
from pipelines.published import published
from tests.stream import at, read_json, run_pipeline
from transforms.batch_records import BatchRecords

EVERYTHING = Settings(also_publish=tuple(OPTIONAL_TOPICS), customer_id="keep")
PICKLING = (
    # every coder that ends in pickle, dill or cloudpickle, or (FastPrimitives) falls back to it
    beam_coders._PickleCoderBase,
    beam_coders.FastPrimitivesCoder,
    beam_coders.DeterministicFastPrimitivesCoder,
    beam_coders.DeterministicFastPrimitivesCoderV2,
)
BEAMS_OWN = ("/Impulse", "/FlatMap(", "/MaybeReshuffle", "/Map(decode)")
"""What Beam's Create is made of; its elements are bytes until its own Map(decode) gives the declared type."""


def pickling(coder: beam_coders.Coder) -> bool:
    """Whether the coder or any of its components would pickle a value."""
    return isinstance(coder, PICKLING) or any(pickling(part) for part in coder._get_component_coders())


class _Everything(PipelineVisitor):
    def __init__(self) -> None:
        self.collections: dict[str, PCollection] = {}
        self.steps: list[AppliedPTransform] = []

    def visit_transform(self, transform_node: AppliedPTransform) -> None:
        self.steps.append(transform_node)
        for tag, output in transform_node.outputs.items():
            if isinstance(output, PCollection):
                self.collections[f"{transform_node.full_label} [{tag}]"] = output

    def stateful(self) -> Iterator[AppliedPTransform]:
        for step in self.steps:
            if isinstance(step.transform, beam.ParDo) and is_stateful_dofn(step.transform.fn):
                yield step


def walk(pipeline: beam.Pipeline) -> _Everything:
    visitor = _Everything()
    pipeline.visit(visitor)
    return visitor


@pytest.fixture(scope="module")
def unrun() -> Iterator[Callable[[], beam.Pipeline]]:
    """Makes pipelines that nobody runs: Beam removes a pipeline's folder when it was run."""
    made: list[beam.Pipeline] = []

    def make() -> beam.Pipeline:
        made.append(beam.Pipeline())
        return made[-1]

    yield make
    for pipeline in made:
        shutil.rmtree(pipeline.local_tempdir)


@pytest.fixture(scope="module")
def graph(unrun) -> _Everything:
    """The whole operational pipeline up to the bytes that a sink takes."""
    pipeline = unrun()
    reads = pipeline | "Reads" >> beam.Create([], reshuffle=False).with_output_types(RecordBatch)
    events = pipeline | "Events" >> beam.Create([], reshuffle=False).with_output_types(RecordBatch)
    version = pack([MeterCount("T1", 1)], 0)
    counts = pipeline | "Counts" >> beam.Create([version], reshuffle=False).with_output_types(MeterCountsVersion)
    told = [pipeline | name >> beam.Create([], reshuffle=False).with_output_types(RecordBatch) for name in ("O", "W")]
    inputs = Inputs(reads, events, counts, outages=told[0], work=told[1])
    published(operational(inputs, EVERYTHING), "c0f1")
    return walk(pipeline)


class TestGraph:
    def test_the_walk_sees_every_step(self, graph):
        labels = " ".join(graph.collections)
        for step in (
            "DecodeReads", "DecodeEvents", "PackReads", "GatherLateReads", "WindowStatistics", "SummaryRows",
            "JoinMeterCounts", "DueWindows", "ExpandDueWindows", "JudgeWindows",
            "AlarmEpisodes", "CollectionGroups", "PublishAlarms", "ExplainAlerts", "DecodeOutages", "DecodeWork",
            "LatestAnnouncements", "EventAlerts", "AllAlerts", "AllDeadLetters", "DeadLetterJson",
        ):  # fmt: skip
            assert step in labels

    def test_no_collection_is_pickled(self, graph):
        found = {
            label: registry.get_coder(collection.element_type)
            for label, collection in graph.collections.items()
            if not any(part in label for part in BEAMS_OWN)
        }
        assert len(found) > 20
        assert {label: coder for label, coder in found.items() if pickling(coder)} == {}

    def test_beams_own_steps_carry_bytes_or_a_declared_type(self, graph):
        for label, collection in graph.collections.items():
            if any(part in label for part in BEAMS_OWN):
                assert not pickling(registry.get_coder(collection.element_type)), label

    def test_no_coder_of_the_submitted_graph_pickles(self, unrun):
        """What a runner gets: also the coders of state, timers and side inputs."""
        pipeline = unrun()
        batches = [
            pipeline | name >> beam.Create([], reshuffle=False).with_output_types(RecordBatch) for name in "abcd"
        ]
        version = pack([MeterCount("T1", 1)], 0)
        counts = pipeline | beam.Create([version], reshuffle=False).with_output_types(MeterCountsVersion)
        registered = FollowedRegistry("registry.csv")
        inputs = Inputs(*batches[:2], counts, outages=batches[2], work=batches[3], registry=registered)
        published(operational(inputs, EVERYTHING), "c0f1")
        proto, context = pipeline.to_runner_api(return_context=True)
        found = {name: context.coders.get_by_id(name) for name in proto.components.coders}
        assert len(found) > 15
        assert {name: coder for name, coder in found.items() if pickling(coder)} == {}

    def test_no_state_is_pickled(self, graph):
        cells = 0
        for step in graph.stateful():
            states, _ = get_dofn_specs(step.transform.fn)
            for state in states:
                assert state.coder is not None, (step.full_label, state.name)
                assert not pickling(state.coder), (step.full_label, state.name)
                cells += 1
        assert cells >= 5

    def test_keys_of_stateful_steps_are_deterministic(self, graph):
        """Equal keys must have equal bytes, or one transformer's state would live in two places."""
        steps = list(graph.stateful())
        assert len(steps) >= 5
        for step in steps:
            (collection,) = step.inputs
            coder = registry.get_coder(collection.element_type)
            assert coder.is_kv_coder(), step.full_label
            assert coder.key_coder().is_deterministic(), step.full_label


class TestSources:
    def test_a_source_gives_typed_batches_and_counts(self, tmp_path, unrun):
        (tmp_path / "reads.jsonl").write_text("")
        (tmp_path / "counts.csv").write_text("transformer_id,total_meters\nT1,1\n")
        pipeline = unrun()
        replayed = pipeline | "Replay" >> ReadReplay(str(tmp_path / "reads.jsonl"), "ami.headend.reads")
        counts = pipeline | "Counts" >> ReadMeterCounts(load_version(str(tmp_path / "counts.csv")), follow=None)
        gathered = pipeline | beam.Create([1], reshuffle=False) | BatchRecords()
        assert [collection.element_type for collection in (replayed, gathered)] == [RecordBatch] * 2
        assert counts.element_type is MeterCountsVersion


def test_what_would_be_pickled_is_found():
    class NotRegistered:
        pass

    assert pickling(registry.get_coder(NotRegistered))
    assert pickling(registry.get_coder(tuple[str, NotRegistered]))
    assert pickling(registry.get_coder(list[NotRegistered]))
    assert pickling(registry.get_coder(beam.typehints.Any))
    assert not pickling(registry.get_coder(beam.typehints.Tuple[str, beam.typehints.List[records.Read]]))


def record_types() -> list[type]:
    return [
        kind
        for module in (records, meter_counts)
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if kind.__module__ == module.__name__ and isinstance(registry.get_coder(kind), MsgspecCoder)
    ]


def test_a_run_works_with_records_that_cannot_be_pickled(monkeypatch):
    """The runner encodes what crosses its stages; a record that got to pickle there would end the run."""

    def refuse(self):
        raise AssertionError(f"{type(self).__name__} was pickled")

    kinds = record_types()
    assert len(kinds) >= 14
    for kind in kinds:
        monkeypatch.setattr(kind, "__reduce__", refuse, raising=False)
    values = [read_json(), read_json(meter_id="M2", voltage_v=200.0), None, read_json(end="10:30"), b"{}"]
    times = [at("10:16"), at("10:17"), at("10:18"), at("10:36"), at("10:40")]
    reads = RecordBatch("ami.headend.reads", [0] * 5, list(range(5)), times, values)
    event = b'{"meter_id": "M1", "event_code": 2048, "event_ts": "2026-03-03T10:14:00Z"}'
    events = RecordBatch("ami.headend.events", [0], [0], [at("10:16")], [event])
    result = run_pipeline(
        beam.Create([reads], reshuffle=False).with_output_types(RecordBatch),
        [MeterCount("T1", 2), MeterCount("SILENT", 1)],
        Settings(shards=7),
        runner="FnApiRunner",
        events=beam.Create([events], reshuffle=False).with_output_types(RecordBatch),
    )
    assert len(result.summaries) == 2
    assert {row.transformer_id for row in result.receipts} == {"T1", "SILENT"}
    assert {alert.alert_source for alert in result.alerts} == {"COMM", "VOLTAGE", "EVENT"}
    assert len(result.dead_letters) == 2
