"""Whether the pipeline would take a record now: by its own decoders, before the record is published again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ami_beam.codecs.dead_letter_reasons import Reason, Rejection
from ami_beam.codecs.debezium import change_of
from ami_beam.codecs.input_decoders import announcement_decoder, event_decoder, read_decoder
from ami_beam.codecs.writer_schemas import Changes, Schemas, WriterSchemas, Written, number_of, schemas_of
from ami_beam.records import DeadLetter, RecordBatch
from ami_beam.repair import object_of
from ami_beam.settings import Settings

_Decode = Callable[[RecordBatch, int | None], tuple[Any, list[DeadLetter]]]


@dataclass(frozen=True)
class InputTopics:
    """What the pipeline reads, by the names that letters have."""

    reads: str
    events: str
    outages: str
    work: str

    @property
    def keys(self) -> dict[str, str]:
        """The field that is a record's key, by topic."""
        return {self.reads: "meter_id", self.events: "meter_id", self.outages: "outage_id", self.work: "work_id"}


def written_by_topic(topics: InputTopics, schemas: Schemas) -> dict[str, Written]:
    """How the records of each topic were written."""
    return {
        topics.reads: schemas.reads,
        topics.events: schemas.events,
        topics.outages: schemas.outages,
        topics.work: schemas.work,
    }


class Acceptance:
    """`objections(topic, values, record_times, now)` says of every record why the pipeline would set it aside again.

    None where it would not, and so for reads that billing alone would take. An objection that is `used` is about a part
    of the record. Raises what looking up a schema raises.

    Args:
      settings: the rules of the run.
      topics: what it reads.
      schemas: how its records were written.
    """

    def __init__(self, settings: Settings, topics: InputTopics, schemas: Schemas) -> None:
        self._topics = topics
        self._written = written_by_topic(topics, schemas)
        self._decoders: dict[str, list[_Decode]] = {
            topics.reads: [read_decoder(settings, schemas.reads).decode],
            topics.events: [event_decoder(settings, schemas.events).decode],
            topics.outages: [announcement_decoder(settings, "oms", schemas.outages).decode],
            topics.work: [announcement_decoder(settings, "work", schemas.work).decode],
        }
        if settings.bills:
            late = replace(settings, allowed_lateness=max(settings.billing_lateness, settings.allowed_lateness))
            self._decoders[topics.reads].append(read_decoder(late, schemas.reads).decode)

    def is_avro(self, topic: str) -> bool:
        """Whether records of this topic are read as Avro."""
        return schemas_of(self._written.get(topic)) is not None

    def knows(self, topic: str) -> bool:
        """Whether the pipeline reads it."""
        return topic in self._decoders

    def objections(
        self, topic: str, values: Sequence[bytes], record_times: Sequence[int | None], now: int | None
    ) -> list[DeadLetter | None]:
        """As the class says. `now`: the wall clock where the pipeline runs live."""
        found: list[DeadLetter | None] = [None] * len(values)
        places = list(range(len(values)))
        for number, decode in enumerate(self._decoders[topic]):
            batch = RecordBatch(
                topic, [0] * len(places), places, [record_times[place] for place in places],
                [values[place] for place in places],
            )  # fmt: skip
            if number:
                found = [None if place in places else each for place, each in enumerate(found)]
            for letter in decode(batch, now)[1]:
                found[letter.offset] = letter
            # Billing takes what is too late for the windows.
            too_late = [letter for letter in found if letter is not None and letter.reason == Reason.TOO_LATE.value]
            places = [letter.offset for letter in too_late]
            if not places:
                break
        return found

    def key(self, topic: str, value: bytes) -> bytes | None:
        """The key that a record of this topic has: its meter, outage or work. None where it names none."""
        name = self._topics.keys.get(topic)
        written = self._written.get(topic)
        fields: Any
        if written is None:
            fields = object_of(value)
        else:
            fields = _row_fields(value) if isinstance(written, Changes) else _avro_fields(value, written)
        found = fields.get(name) if fields is not None and name is not None else None
        return found.encode(errors="replace") if isinstance(found, str) and found else None


def _row_fields(value: bytes) -> Any:
    """The row of a change; None where it has none."""
    try:
        return change_of(value).after
    except Rejection:
        return None


def _avro_fields(value: bytes, schemas: WriterSchemas) -> Any:
    try:
        return schemas.schema(number_of(value)).document(value)
    except Rejection:
        return None
