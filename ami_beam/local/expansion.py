"""Beam's expansion service with KafkaIO from the locked jars: nothing is fetched that a lock does not name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ami_beam.local import flink_cluster, jars, java, process

_HEAP = "512m"
_START_SECONDS = 120.0
_ATTEMPTS = 3


@contextlib.contextmanager
def locked_expansion() -> Iterator[str]:
    """The address for `expansion_service=`; its JVM starts and ends with the block, however that ends.

    Steps that it expands run in Beam's Java container, and bring the jars of the lock `kafka_io` along, and ours, in
    which Kafka's clients find `amibeam.SecretManagerConfigProvider`. Raises JarError when one of the jars cannot be had,
    StartError when the service does not start.
    """
    directory = process.TemporaryDirectory("ami-beam-expansion-")
    try:
        child, address = _start(directory.path)
        try:
            yield address
        finally:
            child.stop()
    finally:
        directory.remove()


def _start(directory: Path) -> tuple[process.ChildProcess, str]:
    files = [*jars.fetch("kafka_io"), jars.PATCHES]
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
