"""Beam's own expansion service, which turns `ReadTopic` and `WriteTopic` into Java's steps: one for a whole graph."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

from apache_beam.io.kafka import default_io_expansion_service
from apache_beam.options.pipeline_options import CrossLanguageOptions, PipelineOptions
from apache_beam.utils.subprocess_server import JavaHelper, JavaJarServer

from ami_beam.local.process import StartError


@contextlib.contextmanager
def beams_expansion(arguments: Sequence[str]) -> Iterator[Any]:
    """What to give as `expansion_service=` while the block lasts; its JVM ends with the block, however that ends.

    Left to itself, Beam starts a JVM for every step, and ends each with a second of waiting. Here it is started once.
    What the service gives is the same. Its jar is fetched by Beam, unless `--beam_services` names one, or the address
    of a service that runs.

    Args:
      arguments: the pipeline options of the command line.
    Raises StartError when it cannot be had.
    """
    options = PipelineOptions(list(arguments)).view_as(CrossLanguageOptions)
    with JavaJarServer.beam_services(options.beam_services):
        if options.use_transform_service or shutil.which(JavaHelper.get_java()) is None:
            # Beam has a service in a container for this, and names what is missing where it cannot have that either.
            yield None
            return
        with contextlib.ExitStack() as running:
            try:
                service = running.enter_context(default_io_expansion_service())
            except RuntimeError as error:
                raise StartError(
                    f"Beam's expansion service for Kafka did not start: {error}. --beam_services can name its jar, or"
                    " the address of one that runs"
                ) from error
            yield service
