"""A source at work, in a thread of its own: round after round, and what is done when one fails."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

import requests
from confluent_kafka import KafkaException

from ami_beam.csv_table import TableError
from ami_beam.headend.authentication import AuthenticationError
from ami_beam.headend.health import SourceHealth
from ami_beam.headend.http_client import HeadEnd, PageError, Stopping
from ami_beam.headend.pacing import backoff
from ami_beam.headend.poll import BackfillRange, Finished, Poller, Stuck
from ami_beam.headend.positions import PositionError
from ami_beam.headend.publisher import Fenced, Publisher
from ami_beam.headend.source_file import Source
from ami_beam.instants import format_instant

_PROBLEMS: tuple[tuple[type[Exception], str], ...] = ((AuthenticationError, "authentication"), (TableError, "lookup"))
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What one worker does."""

    source: Source
    topic: str
    once: bool
    backfill: BackfillRange | None

    @property
    def key(self) -> str:
        """Of its position and its transactions; a back-fill has its own, so that it runs beside the live poll."""
        if self.backfill is None:
            return self.source.name
        begin, end = map(format_instant, self.backfill)
        return f"{self.source.name}.backfill.{begin}.{end}"


class SourceWorker(threading.Thread):
    """Works until it is stopped, is done, or cannot go on; `failure` says why then."""

    def __init__(self, job: Job, config: Mapping[str, str], health: SourceHealth, stop: threading.Event) -> None:
        super().__init__(name=job.key, daemon=True)
        self._job = job
        self._config = config
        self._health = health
        self._stop_event = stop
        self._publisher: Publisher | None = None
        self.failure: str | None = None

    @property
    def must_be_waited_for(self) -> bool:
        """Whether a transaction is in flight. A request that is can be left behind."""
        return self.is_alive() and self._publisher is not None and self._publisher.busy

    def run(self) -> None:
        try:
            self._work()
        except Stopping:
            pass
        except Finished:
            _log.info("%s: the back-fill is complete.", self._job.source.name)
        except (Fenced, PositionError) as error:
            self.failure = str(error)
        except KafkaException as error:
            self.failure = f"Kafka refuses: {error.args[0].str()}"
        except Exception as error:
            _log.exception("%s: a fault in the adapter", self._job.source.name)
            self.failure = f"{type(error).__name__}: {error}"

    def _work(self) -> None:
        job = self._job
        head_end = HeadEnd(job.source, self._health, self._stop_event)
        publisher = Publisher(self._config, job.source.name, job.key, job.topic, self._health, self._stop_event)
        self._publisher = publisher
        try:
            poller = Poller(job.source, head_end, publisher, self._health, job.backfill)
            poller.start()
            self._rounds(poller, head_end)
        finally:
            publisher.close()
            head_end.close()

    def _rounds(self, poller: Poller, head_end: HeadEnd) -> None:
        failures = 0
        while True:
            began = time.monotonic()
            problem = self._round(poller)
            if problem is None:
                failures = 0
                if self._job.once:
                    return
                head_end.wait(max(0.0, self._job.source.every / 1e6 - (time.monotonic() - began)))
                continue
            if self._job.once:
                self.failure = problem
                return
            failures += 1
            head_end.wait(backoff(failures, self._job.source.backoff / 1e6))

    def _round(self, poller: Poller) -> str | None:
        """What stands against the round; None where it is complete."""
        try:
            poller.round()
        except (AuthenticationError, requests.RequestException, Stuck, PageError, TableError) as error:
            kind = next((kind for cause, kind in _PROBLEMS if isinstance(error, cause)), "page")
            self._health.problem(kind, str(error))
            return str(error)
        for _, kind in _PROBLEMS:
            self._health.solved(kind)
        self._health.solved("page")
        self._health.succeeded()
        return None
