"""Where a run reads announced outages and work from: the beginning, and nothing waits for them."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.io.kafka import ReadFromKafka
from apache_beam.pipeline import AppliedPTransform, PipelineVisitor

from ami_beam.io.kafka import NO_TIME, ReadTopic
from ami_beam.io.kafka_preflight import Topic, report
from ami_beam.io.native_kafka_source import ReadTopicNatively
from ami_beam.meter_counts import pack
from ami_beam.options import validate
from ami_beam.records import MeterCount
from ami_beam.run import build

NAMES = ("ami.headend.reads", "ami.headend.events", "ami.oms.outages", "crew.work")
TOPICS = {name: Topic(name, 1, "CreateTime", (0,)) for name in NAMES}


class _Sources(PipelineVisitor):
    def __init__(self) -> None:
        self.found: dict[str, ReadTopicNatively] = {}
        self.labels: set[str] = set()

    def enter_composite_transform(self, transform_node: AppliedPTransform) -> None:
        self.labels.add(transform_node.full_label)
        if isinstance(transform_node.transform, ReadTopicNatively):
            self.found[transform_node.full_label] = transform_node.transform


def sources(folder: Path, *options: str) -> _Sources:
    counts = folder / "counts.csv"
    counts.write_text("transformer_id,total_meters\nT1,2\n")
    settings, plan = validate(["--bootstrap_servers=broker:9092", f"--meter_counts={counts}", *options])
    pipeline = beam.Pipeline()
    build(pipeline, settings, plan, pack([MeterCount("T1", 2)], 0), None, TOPICS)
    visitor = _Sources()
    pipeline.visit(visitor)
    # Beam removes a pipeline's folder when it was run.
    shutil.rmtree(pipeline.local_tempdir)
    return visitor


def test_natively_from_the_oldest_record_on_whatever_the_start(tmp_path: Path) -> None:
    found = sources(tmp_path, "--oms_outages=ami.oms.outages", "--work=crew.work").found
    starts = {label: {(each.topic, each.start, each.keeps_time) for each in of._sources} for label, of in found.items()}
    assert starts["Outages"] == {("ami.oms.outages", "earliest", False)}
    assert starts["Work"] == {("crew.work", "earliest", False)}
    assert starts["Reads"] == {("ami.headend.reads", "latest", True)}


def test_one_of_them_and_none(tmp_path: Path) -> None:
    labels = sources(tmp_path, "--work=crew.work").labels
    assert {"Work", "DecodeWork", "LatestAnnouncements"} <= labels
    assert not {"Outages", "DecodeOutages"} & labels
    labels = sources(tmp_path).labels
    assert not {"Outages", "Work", "DecodeOutages", "DecodeWork", "LatestAnnouncements"} & labels


def test_with_beam_the_watermark_is_the_clock_s() -> None:
    assert ReadFromKafka.processing_time_policy == NO_TIME
    source = ReadTopic("ami.oms.outages", {"bootstrap.servers": "broker:9092"}, "earliest", NO_TIME)
    assert (source._config["auto.offset.reset"], source._policy) == ("earliest", NO_TIME)


def test_an_empty_topic_of_them_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        report(TOPICS.values(), NAMES[2:])
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [message.split(" have ")[0] for message in warned] == [f"Partitions 0 of {name}" for name in NAMES[:2]]
