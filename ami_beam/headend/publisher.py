"""Records and the source's position in one Kafka transaction: both are there for a read_committed consumer, or neither.

A second instance of the same source ends the first one's transaction and takes its place; the first one is refused from
then on, and ends.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from ami_beam.headend.health import SourceHealth
from ami_beam.headend.http_client import Stopping
from ami_beam.headend.mapping import DIGEST_BYTES, Mapped
from ami_beam.headend.memory import Generation, Memory
from ami_beam.headend.pacing import backoff
from ami_beam.headend.positions import VERSION, Cursor, Position, decode_cursor, encode_cursor
from ami_beam.headend.set_aside import SetAside, encode_set_aside
from ami_beam.headend.topics import CURSORS_TOPIC, SET_ASIDE_TOPIC, Offsets, offsets_at, read_to_end
from ami_beam.instants import format_instant
from ami_beam.io.kafka_errors import FENCED
from ami_beam.io.librdkafka import librdkafka

SOURCE_HEADER = "ami-headend-source"
DIGEST_HEADER = "ami-headend-digest"
TRANSACTION_PREFIX = "ami-headend-"
_TRANSACTION_SECONDS = 60
_CALL_SECONDS = 5.0
"""How long a call to the broker may take before it is looked whether the adapter has to end."""
_STOP_SECONDS = 5.0
"""How long a transaction in flight may still take once the adapter has to end."""
_log = logging.getLogger(__name__)


class Fenced(RuntimeError):
    """Another instance publishes for this source now."""


class Publisher:
    """Publishes for one source, or for one back-fill of it.

    Args:
      config: client settings with bootstrap.servers, by the names of Kafka's Java client.
      source: name of the source, in the headers of its records.
      key: of its position in the cursors topic, and of its transactions.
      topic: of its records.
    """

    def __init__(
        self,
        config: Mapping[str, str],
        source: str,
        key: str,
        topic: str,
        health: SourceHealth,
        stop: threading.Event,
    ) -> None:
        self._config = dict(config)
        self._source = source
        self._key = key
        self._topic = topic
        self._health = health
        self._stop = stop
        self._sequence = 0
        self.busy = False
        """Whether a transaction is in flight."""
        self.memory = Memory()
        self._producer = Producer(
            {
                "linger.ms": 5,
                "compression.type": "lz4",
                "partitioner": "murmur2_random",
                **librdkafka(config),
                "transactional.id": TRANSACTION_PREFIX + key,
                "transaction.timeout.ms": _TRANSACTION_SECONDS * 1_000,
                "enable.idempotence": True,
                "acks": "all",
            }
        )

    def start(self) -> Cursor | None:
        """Ends what an earlier instance has left open, and gives the last committed position; None where none is."""
        self._patiently(lambda: self._producer.init_transactions(_CALL_SECONDS))
        last = self.last_cursor(self._key)
        self._sequence = 0 if last is None else last.sequence
        return last

    def last_cursor(self, key: str) -> Cursor | None:
        """The last committed position of a source, or of a back-fill."""
        last: Cursor | None = None
        for message in read_to_end(self._config, CURSORS_TOPIC, None, self._check_stop):
            value = message.value()
            if value is not None and message.key() == key.encode():
                cursor = decode_cursor(value)
                if last is None or cursor.sequence > last.sequence:
                    last = cursor
        return last

    def read_back(self, starts: Mapping[str, Offsets], generation: Generation, each: Callable[[Message], bool]) -> None:
        """Remember this source's committed records of these topics from these offsets on.

        Args:
          each: called with every one of them; False leaves it out.
        """
        for topic, offsets in starts.items():
            for message in read_to_end(self._config, topic, offsets, self._check_stop):
                headers = dict(message.headers() or ())
                digest = headers.get(DIGEST_HEADER)
                if headers.get(SOURCE_HEADER) != self._source.encode() or not isinstance(digest, bytes):
                    continue
                if len(digest) == DIGEST_BYTES and each(message):
                    _note(generation, message)
                    generation.digests.append(digest)
        self.memory.add(generation)

    def offsets_since(self, instant: int) -> dict[str, Offsets]:
        """Where the records since an instant begin, in the topics that it publishes to."""
        return {topic: offsets_at(self._config, topic, instant) for topic in (self._topic, SET_ASIDE_TOPIC)}

    def commit(
        self,
        records: Sequence[Mapped],
        aside: Sequence[tuple[SetAside, bytes]],
        position: Position,
        generation: Generation,
        repeated: int = 0,
    ) -> None:
        """Publish all of it, or nothing. Returns when it is committed; tries for as long as that takes.

        Raises Fenced, and Stopping, after which nothing of it was published.

        Args:
          aside: with the digests of what they are about.
          generation: its latest and position; the rest is filled in.
          repeated: how many records were left out because they are there already.
        """
        attempt = 0
        self.busy = True
        try:
            while not self._committed(records, aside, position, generation):
                attempt += 1
                if self._stop.wait(backoff(attempt)):
                    raise Stopping
        finally:
            self.busy = False
        self._health.solved("kafka")
        self._sequence += 1
        self.memory.add(generation)
        reasons = [each.reason for each, _ in aside]
        self._health.committed(len(records), repeated, reasons, len(self.memory))

    def close(self) -> None:
        """What is not committed is given up. Returns within seconds."""
        # There may be none; and what cannot be reached ends it when its time is up.
        with contextlib.suppress(KafkaException):
            self._producer.abort_transaction(_CALL_SECONDS)

    def _committed(
        self,
        records: Sequence[Mapped],
        aside: Sequence[tuple[SetAside, bytes]],
        position: Position,
        generation: Generation,
    ) -> bool:
        """False where the transaction had to be given up, so that it can be done again."""
        try:
            self._transaction(records, aside, position, generation)
        except KafkaException as error:
            self._recover(error)
            self._health.problem("kafka", f"a transaction was given up, and is tried again: {error.args[0].str()}")
            return False
        return True

    def _transaction(
        self,
        records: Sequence[Mapped],
        aside: Sequence[tuple[SetAside, bytes]],
        position: Position,
        generation: Generation,
    ) -> None:
        generation.digests = [each.digest for each in records] + [digest for _, digest in aside]
        generation.first_offsets = {}

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is None:
                _note(generation, message)

        self._producer.begin_transaction()
        for record in records:
            self._produce(self._topic, record.key, record.value, record.digest, delivered)
        for each, digest in aside:
            self._produce(SET_ASIDE_TOPIC, self._source.encode(), encode_set_aside(each), digest, delivered)
        stopped: float | None = None
        began = time.monotonic()
        while self._producer.flush(0.5):
            if time.monotonic() > began + _CALL_SECONDS:
                self._health.problem("broker", "records wait for it, and are not delivered")
            # A few seconds are left for it when the adapter has to end.
            if self._stop.is_set():
                stopped = stopped or time.monotonic()
                if time.monotonic() > stopped + _STOP_SECONDS:
                    raise Stopping
        remembered: dict[str, dict[str, int]] = {}
        for (topic, partition), offset in self.memory.first_offsets([generation]).items():
            remembered.setdefault(topic, {})[str(partition)] = offset
        now = format_instant(time.time_ns() // 1_000)
        cursor = Cursor(VERSION, self._key, self._sequence + 1, position, remembered, now)
        self._producer.produce(CURSORS_TOPIC, encode_cursor(cursor), self._key.encode())
        self._patiently(lambda: self._producer.commit_transaction(_CALL_SECONDS))

    def _produce(self, topic: str, key: bytes, value: bytes, digest: bytes, delivered: Any) -> None:
        headers: list[tuple[str, str | bytes | None]] = [
            (SOURCE_HEADER, self._source.encode()),
            (DIGEST_HEADER, digest),
        ]
        while True:
            try:
                self._producer.produce(topic, value, key, headers=headers, on_delivery=delivered)
                return
            except BufferError:
                self._producer.poll(0.1)
                if self._stop.is_set():
                    raise Stopping from None

    def _patiently(self, call: Callable[[], Any]) -> None:
        """Repeat a call that the client says may be repeated. A commit so repeated is the same commit."""
        stopped: float | None = None
        while True:
            try:
                call()
                self._health.solved("broker")
                return
            except KafkaException as error:
                if not error.args[0].retriable():
                    raise self._as_fenced(error) from None
                self._health.problem("broker", f"no answer: {error.args[0].str()}")
            if self._stop.is_set():
                stopped = stopped or time.monotonic()
                if time.monotonic() > stopped + _STOP_SECONDS:
                    raise Stopping

    def _recover(self, error: KafkaException) -> None:
        """After an error in a transaction: nothing of it will be seen. Raises Fenced where another one is there.

        All else is tried again, with a reason for /healthz: who takes a permission away may give it back.
        """
        failure = error.args[0]
        fenced = self._as_fenced(error)
        if failure.fatal() or isinstance(fenced, Fenced):
            raise fenced from None
        self._health.aborted()
        self._patiently(lambda: self._producer.abort_transaction(_CALL_SECONDS))

    def _as_fenced(self, error: KafkaException) -> Exception:
        failure = error.args[0]
        # Of a client that has been fenced once, every call says "fatal" and repeats why.
        again = failure.fatal() and re.search(r"fenced|epoch", failure.str(), re.IGNORECASE)
        if again or failure.code() in FENCED:
            return Fenced(
                f"another instance publishes for {self._key} now, and this one ends (or the broker has ended its"
                f" transaction, which took too long: start it again): {failure.str()}"
            )
        return error

    def _check_stop(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Stopping


def _note(generation: Generation, message: Message) -> None:
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    place = topic, partition
    generation.first_offsets[place] = min(offset, generation.first_offsets.get(place, offset))
