"""Dead letters read back from their topic or file, and records published again, each exactly once."""

from __future__ import annotations

import gzip
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Protocol, Self, cast

import msgspec
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient

from ami_beam.codecs.stored_letters import RecordId, ReplayMark, StoredLetter, mark_json, parse_mark
from ami_beam.instants import MICROS_PER_MILLI, format_instant
from ami_beam.io.files import file_lines
from ami_beam.io.kafka_errors import FENCED
from ami_beam.io.kafka_period import read_period
from ami_beam.io.kafka_preflight import GROUP_PREFIX, TIMEOUT_SECONDS, PreflightError
from ami_beam.io.librdkafka import librdkafka
from ami_beam.record_sets import RecordSet

_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, ValueError, LookupError, TypeError, AttributeError)
_COMMIT_SECONDS = 60.0
_TRANSACTION_SECONDS = 20.0
"""After these the broker ends what a killed replay has left open: so long readers of the topic wait behind it."""
Parse = Callable[[bytes | str], StoredLetter]


class ReplayFailedError(RuntimeError):
    """Records could not be published: says why, and what became of them."""


class Found(NamedTuple):
    """A letter, and when it was set aside (microseconds; None where the file does not say)."""

    letter: StoredLetter
    set_aside: int | None


class Letters(Protocol):
    """Where letters are. `unreadable` counts what is none of ours, so far."""

    unreadable: int

    def __iter__(self) -> Iterator[Found]: ...


class FileLetters:
    """The letters of a result folder's file, in its order."""

    def __init__(self, path: str, parse: Parse) -> None:
        self.unreadable = 0
        self._path = path
        self._parse = parse

    def __iter__(self) -> Iterator[Found]:
        for line in file_lines(self._path):
            try:
                yield Found(self._parse(line), None)
            except _UNREADABLE:
                self.unreadable += 1


class TopicLetters:
    """The letters of a topic to its end as it is now. Raises what `read_period` raises.

    Args:
      begin, end: when they were set aside, in microseconds; None is the topic's own.
    """

    def __init__(self, config: Mapping[str, str], topic: str, begin: int | None, end: int | None, parse: Parse) -> None:
        self.unreadable = 0
        self._where = config, topic, begin, end
        self._parse = parse

    def __iter__(self) -> Iterator[Found]:
        for message in read_period(*self._where):
            try:
                letter = self._parse(message.value() or b"")
            except _UNREADABLE:
                self.unreadable += 1
                continue
            kind, ts_ms = message.timestamp()
            yield Found(letter, None if kind == TIMESTAMP_NOT_AVAILABLE else ts_ms * MICROS_PER_MILLI)


def partitions_of(config: Mapping[str, str], topics: Sequence[str]) -> dict[str, int]:
    """How many partitions these topics have, those that there are. Raises KafkaException."""
    admin = AdminClient(librdkafka(config))
    known = admin.list_topics(timeout=TIMEOUT_SECONDS).topics
    return {topic: len(known[topic].partitions) for topic in topics if topic in known and known[topic].error is None}


def check_marks_topic(partitions: Mapping[str, int], topic: str, servers: str) -> None:
    """Raises PreflightError where the topic of marks is missing: it has to be a compacted one."""
    if topic not in partitions:
        raise PreflightError(
            f"Kafka at {servers} has no topic {topic}, which remembers what was replayed, or does not show it. Create"
            f" it: kafka-topics.sh --bootstrap-server {servers} --create --partitions 1 --topic {topic}"
            " --config cleanup.policy=compact"
        )


def read_marks(config: Mapping[str, str], topic: str) -> RecordSet:
    """All records that were published again, by transactions that were committed."""
    marked = RecordSet()
    for message in read_period({**config, "isolation.level": "read_committed"}, topic, None, None):
        try:
            marked.add(parse_mark(message.value() or b"").record)
        except _UNREADABLE:
            continue
    return marked


class Publication(NamedTuple):
    """A record to be published again."""

    topic: str
    partition: int | None
    """None leaves it to the key."""
    key: bytes | None
    value: bytes
    record_time: int | None
    """Of a file; a topic's records have the time of their publication."""
    mark: ReplayMark

    @property
    def headers(self) -> list[tuple[str, str | bytes | None]]:
        """They say that it is a replay, of what, and by whom."""
        mark = self.mark
        return [
            ("ami-replayed-from", mark.record.path),
            ("ami-replayed-reason", mark.reason),
            ("ami-replayed-at", format_instant(mark.replayed_at)),
            ("ami-replayed-by", mark.operator),
            ("ami-repaired", "true" if mark.repaired else "false"),
        ]


class ReplayProducer:
    """Publishes records and their marks in transactions: a consumer that reads what is committed sees both or neither.

    There is one a topic of marks: a later one ends what an earlier one has left open, and shuts it out. So whoever
    reads the marks after `with` has begun knows all that was ever replayed.

    Args:
      config: client settings with bootstrap.servers, as the Kafka client of Java has them.
      marks_topic: where marks go.
    """

    def __init__(self, config: Mapping[str, str], marks_topic: str) -> None:
        self._marks_topic = marks_topic
        self._failure: KafkaError | None = None
        self._producer = Producer(
            {
                "linger.ms": 5,
                "partitioner": "murmur2_random",
                **librdkafka(config),
                "transactional.id": f"{GROUP_PREFIX}{marks_topic}",
                "transaction.timeout.ms": int(_TRANSACTION_SECONDS * 1000),
                "on_delivery": self._delivered,
            }
        )

    def __enter__(self) -> Self:
        try:
            self._producer.init_transactions(_COMMIT_SECONDS)
        except KafkaException as error:
            raise ReplayFailedError(f"No transaction can be begun: {_reason(error)}. Nothing was published") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._producer.purge()
        self._producer.flush(1)

    def publish(self, records: Sequence[Publication]) -> None:
        """All of them, or none. Raises ReplayFailedError."""
        producer = self._producer
        self._failure = None
        try:
            producer.begin_transaction()
            for record in records:
                to = {} if record.partition is None else {"partition": record.partition}
                self._produce(record.topic, record.value, record.key, headers=record.headers, **to)
                mark = record.mark
                self._produce(self._marks_topic, mark_json(mark), mark.record.path.encode())
            self._commit()
        except KafkaException as error:
            raise self._given_up(error) from None
        except BaseException:
            # Stopped by a signal, such as while the queue is full.
            self._abort()
            raise

    def _produce(self, topic: str, value: bytes, key: bytes | None, **others: object) -> None:
        while True:
            try:
                self._producer.produce(topic, value, key, **others)  # type: ignore[arg-type]
                return
            except BufferError:
                self._producer.poll(0.1)

    def _commit(self) -> None:
        until = time.monotonic() + _COMMIT_SECONDS
        while True:
            try:
                self._producer.commit_transaction(_COMMIT_SECONDS)
                return
            except KafkaException as error:
                if not error.args[0].retriable() or time.monotonic() > until:
                    raise

    def _given_up(self, error: KafkaException) -> ReplayFailedError:
        if error.args[0].code() in FENCED:
            return ReplayFailedError(
                "Another replay has begun, and this one is shut out; of its last records none went"
            )
        reason = _reason(KafkaException(self._failure)) if self._failure is not None else _reason(error)
        self._abort()
        return ReplayFailedError(
            f"Kafka took the last records not, or did not say so: {reason}. Run the command again: it knows what was"
            " published"
        )

    def _abort(self) -> None:
        try:
            self._producer.abort_transaction(_COMMIT_SECONDS)
        except KafkaException:
            # The broker does it when the time of the transaction is over, or the next replay begins.
            return

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None and self._failure is None:
            self._failure = error


def _reason(error: KafkaException) -> str:
    said: KafkaError = error.args[0]
    denied = said.code() in (
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    )
    return said.str() + (" (the ACLs of a replay are in SECURITY.md)" if denied else "")


class _Line(msgspec.Struct):
    """msgspec writes bytes as base64."""

    ts_ms: int | None
    key: str | None
    value_b64: bytes
    topic: str
    partition: int
    offset: int


class ReplayFile:
    """A new file of records as `--source=files` reads it, plain or .gz: there once `with` has ended well with any."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}")
        self._file: BinaryIO | None = None
        self._count = 0
        self._encode = msgspec.json.Encoder().encode

    def __enter__(self) -> Self:
        opened = gzip.open(self._temporary, "wb") if self._path.suffix == ".gz" else self._temporary.open("wb")
        self._file = cast(BinaryIO, opened)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        self._file.close()
        if kind is None and self._count:
            os.replace(self._temporary, self._path)
        else:
            self._temporary.unlink(missing_ok=True)

    def publish(self, records: Sequence[Publication]) -> None:
        """Append them, under the partitions and offsets that the originals had."""
        assert self._file is not None
        self._count += len(records)
        for record in records:
            at: RecordId = record.mark.record
            time_ms = None if record.record_time is None else record.record_time // MICROS_PER_MILLI
            key = None if record.key is None else record.key.decode(errors="replace")
            line = _Line(time_ms, key, record.value, at.topic, at.partition, at.offset)
            self._file.write(self._encode(line) + b"\n")
