"""Beam's own expansion service runs once for a graph, and not any longer than the graph is built."""

from __future__ import annotations

import json
import os
import zipfile
from contextlib import suppress
from pathlib import Path

import apache_beam as beam
import pytest

from ami_beam.io.kafka import ReadTopic, WriteTopic
from ami_beam.io.kafka_expansion import beams_expansion
from ami_beam.local import jars, java
from ami_beam.local.process import StartError, free_ports
from ami_beam.records import KeyedRecords
from tests.kafka_replay import children

pytestmark = pytest.mark.processes
SERVERS = {"bootstrap.servers": "127.0.0.1:9092"}
TARGET = "sdks:java:io:expansion-service:shadowJar"


@pytest.fixture
def jar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What Beam would fetch as one jar of 400 MB: a jar that names ours."""
    path = tmp_path / "expansion.jar"
    with zipfile.ZipFile(path, "w") as file:
        named = " ".join(each.as_uri() for each in jars.fetch("flink"))
        line = f"Class-Path: {named}"
        # A line of a manifest has 72 bytes at most, and goes on behind a space.
        folded = "\n ".join(line[at : at + 70] for at in range(0, len(line), 70))
        main = "Main-Class: org.apache.beam.sdk.expansion.service.ExpansionService"
        file.writestr("META-INF/MANIFEST.MF", f"Manifest-Version: 1.0\n{main}\n{folded}\n")
    monkeypatch.setenv("JAVA_HOME", str(java.find_java().parents[1]))
    return path


def named(service: Path | str) -> list[str]:
    return [f"--beam_services={json.dumps({TARGET: str(service)})}"]


def running(jar: Path) -> list[int]:
    return children(os.getpid(), str(jar))


def build(pipeline: beam.Pipeline, expansion_service: object) -> None:
    reads = pipeline | "Reads" >> ReadTopic("reads", SERVERS, "earliest", "CreateTime", expansion_service)
    _ = pipeline | "Events" >> ReadTopic("events", SERVERS, 0, "LogAppendTime", expansion_service)
    rows = reads | beam.Map(lambda batch: KeyedRecords([], [])).with_output_types(KeyedRecords)
    _ = rows | "Rows" >> WriteTopic("rows", SERVERS, expansion_service)


def test_one_serves_every_step_and_ends_when_building_fails(jar: Path) -> None:
    pipeline = beam.Pipeline()
    with suppress(ZeroDivisionError), beams_expansion(named(jar)) as service:
        started = running(jar)
        assert len(started) == 1
        build(pipeline, service)
        assert running(jar) == started
        raise ZeroDivisionError
    assert running(jar) == []
    labels = [each.unique_name for each in pipeline.to_runner_api().components.transforms.values()]
    assert {"Reads/ReadFromKafka", "Events/ReadFromKafka", "Rows/WriteToKafka"} < set(labels)


def test_without_a_jar_the_option_is_named(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    nowhere = f"http://127.0.0.1:{port}/expansion.jar"
    with pytest.raises(StartError, match="--beam_services"), beams_expansion(named(nowhere)):
        pass
