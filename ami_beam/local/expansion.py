"""Beam's expansion service with KafkaIO from the locked jars: nothing is fetched that a lock does not name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability import artifact_service

from ami_beam.local import flink_cluster, jars, java, process

_HEAP = "512m"
_START_SECONDS = 120.0
_ATTEMPTS = 3


@contextlib.contextmanager
def locked_expansion() -> Iterator[str]:
    """The address for `expansion_service=`; its JVM starts and ends with the block, however that ends.

    Steps that it expands run in Beam's Java container, and bring the jars of the lock `kafka_io` along, and ours, in
    which Kafka's clients find `amibeam.SecretManagerConfigProvider`. Raises JarError when one of the jars cannot be
    had, StartError when the service does not start.
    """
    files = [*jars.fetch("kafka_io"), jars.PATCHES]
    directory = process.TemporaryDirectory("ami-beam-expansion-")
    try:
        child, address = _start(files, directory.path)
        try:
            with _taken_where_they_are(files):
                yield address
        finally:
            child.stop()
    finally:
        directory.remove()


def _start(files: Sequence[Path], directory: Path) -> tuple[process.ChildProcess, str]:
    class_path = os.pathsep.join(map(str, files))
    for attempt in range(1, _ATTEMPTS + 1):
        (port,) = process.free_ports(1)
        command = [
            *flink_cluster.jvm(class_path, directory, [f"-Xmx{_HEAP}", java.LIGHT]),
            *("org.apache.beam.sdk.expansion.service.ExpansionService", str(port)),
            f"--filesToStage={','.join(map(str, files))}",
        ]
        child = process.ChildProcess("the expansion service", command, directory / f"expansion-{attempt}.log")
        try:
            child.wait_until(lambda port=port: process.is_listening(port), _START_SECONDS)  # type: ignore[misc]
        except process.StartError as error:
            # Another process took the port between the choice and the start.
            if attempt == _ATTEMPTS or "Address already in use" not in str(error):
                raise
        else:
            return child, f"127.0.0.1:{port}"
    raise AssertionError("unreachable")


@contextlib.contextmanager
def _taken_where_they_are(files: Sequence[Path]) -> Iterator[None]:
    """Beam fetches a copy of every jar for every step, though they lie beside it: 1.6 GB for a graph of ours."""
    known, fetch = set(map(str, files)), artifact_service.store_artifact

    def take(artifact: Any, service: Any, folder: Any) -> Any:
        if artifact.type_urn == common_urns.artifact_types.FILE.urn:
            payload = beam_runner_api_pb2.ArtifactFilePayload.FromString(artifact.type_payload)
            if payload.path in known:
                return artifact
        return fetch(artifact, service, folder)

    artifact_service.store_artifact = take
    try:
        yield
    finally:
        artifact_service.store_artifact = fetch
