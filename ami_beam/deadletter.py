"""`python -m ami_beam.deadletter list|show|replay`: what was set aside, and the way back in."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from confluent_kafka import KafkaException

from ami_beam.beam_options import OptionError
from ami_beam.codecs.dead_letter_reasons import Rejection
from ami_beam.codecs.stored_letters import ReplayMark, StoredLetter, letter_parser
from ami_beam.codecs.writer_schemas import number_of, schemas_of
from ami_beam.command import Stopped, leave, start_logging, stoppable, unbroken
from ami_beam.deadletter_options import Question, ReplayQuestion, question_of
from ami_beam.deadletter_report import (
    Outcome,
    listing,
    listing_json,
    listing_text,
    outcome_json,
    outcome_text,
    shown_json,
    shown_text,
)
from ami_beam.io.dead_letters import (
    FileLetters,
    Found,
    Letters,
    Publication,
    ReplayFailedError,
    ReplayFile,
    ReplayProducer,
    TopicLetters,
    check_marks_topic,
    partitions_of,
    read_marks,
)
from ami_beam.io.files import ReplayError
from ami_beam.io.kafka_period import PeriodError
from ami_beam.io.kafka_preflight import PreflightError, inspect
from ami_beam.io.librdkafka import SettingError
from ami_beam.io.schema_registry import RegistryError
from ami_beam.letter_acceptance import Acceptance, written_by_topic
from ami_beam.letter_replay import CHUNK_RECORDS, LeftLetter, Ready, ReplayRules, Tally, replay
from ami_beam.reconcile_report import ListFile
from ami_beam.record_sets import RecordSet

DONE, SOME_STAY, WRONG, STOPPED = 0, 1, 2, 130
_PROGRESS_SECONDS = 10
_log = logging.getLogger(__name__)


class NotFoundError(RuntimeError):
    """There is no letter of this record; the message says where it was looked for."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 some letters stay, nothing was found or it failed, 2 wrong options, 130 stopped."""
    start_logging()
    with stoppable():
        try:
            question = question_of(sys.argv[1:] if argv is None else argv)
            if question.action == "list":
                return _list(question)
            if question.action == "show":
                return _show(question)
            assert question.replay is not None
            return _replay(question, question.replay)
        except (OptionError, PreflightError, SettingError, RegistryError, ReplayError) as error:
            print(f"ami_beam.deadletter: {error}", file=sys.stderr)
            return WRONG
        except (NotFoundError, ReplayFailedError, PeriodError, KafkaException, OSError) as error:
            print(f"ami_beam.deadletter: {error}", file=sys.stderr)
            return SOME_STAY
        except Stopped:
            _log.info("Stopped.")
            return STOPPED


def _list(question: Question) -> int:
    letters, marked = _letters(question), _marked(question)
    found = listing(letters, question.selection, marked)
    found.unreadable = letters.unreadable
    if question.json:
        print(json.dumps(listing_json(found, question.where), indent=1))
    else:
        print(listing_text(found, question.where))
    return DONE


def _show(question: Question) -> int:
    record = question.show
    assert record is not None
    by_reason: dict[str, Found] = {}
    letters, marked = _letters(question), _marked(question)
    for each in letters:
        if each.letter.record == record:
            by_reason.setdefault(each.letter.reason, each)
    found = list(by_reason.values())
    if not found:
        raise NotFoundError(f"no letter of {record} in {question.where}; the topic may have forgotten it")
    letter = found[0].letter
    if question.raw:
        if letter.value is None:
            raise NotFoundError(f"the original of {record} has no value")
        sys.stdout.buffer.write(letter.value)
        return DONE
    replayed, document = record in marked, _document(letter, question)
    if question.json:
        print(json.dumps(shown_json(found, replayed, document), indent=1))
    else:
        print(shown_text(found, replayed, document, question.full))
    return DONE


def _document(letter: StoredLetter, question: Question) -> Any:
    """What the original says as Avro, where it is read as that."""
    its = schemas_of(written_by_topic(question.inputs, question.formats.inputs()).get(letter.topic))
    if its is None or letter.value is None or letter.truncated:
        return None
    try:
        return its.schema(number_of(letter.value)).document(letter.value)
    except Rejection:
        return None


def _letters(question: Question) -> Letters:
    """The letters; the broker was looked at."""
    parse = letter_parser(question.formats.schemas())
    if question.source == "files":
        return FileLetters(question.file, parse)
    inspect(question.servers, question.config, [question.topic], [], native=True)
    return TopicLetters(question.connection, question.topic, *question.set_aside, parse)


def _marked(question: Question) -> RecordSet:
    """What was replayed; nothing where there is no topic that could say so."""
    if question.source == "files" or question.marks_topic not in partitions_of(
        question.connection, [question.marks_topic]
    ):
        return RecordSet()
    inspect(question.servers, question.config, [question.marks_topic], [], native=True)
    return read_marks(question.connection, question.marks_topic)


def _replay(question: Question, asked: ReplayQuestion) -> int:
    outcome = Outcome(question.where, _target(question, asked), asked.yes, Tally(), [])
    with ExitStack() as stack:
        left = None if asked.left is None else stack.enter_context(ListFile(asked.left, LeftLetter))
        sink: ReplayProducer | ReplayFile | None = None
        letters = _letters(question)
        if asked.yes and asked.to is None:
            partitions = _checked_topics(question)
            # Before the marks are read: from now on nobody else adds any.
            sink = stack.enter_context(ReplayProducer(question.connection, question.marks_topic))
        elif asked.yes and asked.to is not None:
            partitions = {}
            sink = stack.enter_context(ReplayFile(asked.to))
        else:
            partitions = {}
        marked = _marked(question)
        rules = ReplayRules(
            question.selection,
            asked.repair,
            asked.again,
            asked.force,
            asked.limit,
            asked.to is None,
            asked.record_time,
            max(1, min(CHUNK_RECORDS, int(asked.max_rate))),
        )
        acceptance = Acceptance(question.settings, question.inputs, question.formats.inputs())
        chunks = replay(
            letters,
            rules,
            acceptance,
            marked,
            outcome.tally,
            _now,
            lambda each: left.write([each]) if left is not None else None,
        )
        published = 0
        try:
            for chunk in _paced(chunks, asked, outcome.tally, throttled=sink is not None and asked.to is None):
                _one_topic(asked, outcome.tally)
                _sample(chunk, outcome.samples, asked.samples)
                if sink is not None:
                    records = [_publication(each, asked, question, partitions) for each in chunk]
                    with unbroken():
                        sink.publish(records)
                        published += len(chunk)
        except Stopped:
            if asked.to is None:
                _log.info("%s records were replayed; run the command again to go on.", f"{published:,}")
            raise
        outcome.unreadable = letters.unreadable
    print(json.dumps(outcome_json(outcome), indent=1) if question.json else outcome_text(outcome))
    return SOME_STAY if outcome.tally.left else DONE


def _sample(chunk: Sequence[Ready], samples: list[Ready], most: int) -> None:
    """Adds repairs of topics and reasons that have none yet."""
    known = {(each.letter.topic, each.letter.reason) for each in samples}
    for each in chunk:
        kind = (each.letter.topic, each.letter.reason)
        if each.repaired.changed and len(samples) < most and kind not in known:
            known.add(kind)
            samples.append(each)


def _target(question: Question, asked: ReplayQuestion) -> str:
    return "the topics that they came from" if asked.to is None else str(asked.to)


def _now() -> int:
    return time.time_ns() // 1_000


def _one_topic(asked: ReplayQuestion, tally: Tally) -> None:
    """A replay file is of one topic, because it is handed to one option."""
    topics = sorted({topic for topic, _ in tally.ready})
    if asked.to is not None and len(topics) > 1:
        problem = f"would hold records of {' and '.join(topics)}, and a file is of one topic"
        raise OptionError("--to", str(asked.to), problem, "one of them in --topic", f"--topic={topics[0]}")


def _checked_topics(question: Question) -> dict[str, int]:
    """How many partitions the input topics have, those that there are. Raises PreflightError."""
    inputs, topics = question.inputs, question.selection.topics
    partitions = partitions_of(
        question.connection,
        [inputs.reads, inputs.events, inputs.outages, inputs.work, *(topics or ()), question.marks_topic],
    )
    check_marks_topic(partitions, question.marks_topic, question.servers)
    # Who may not write to the others, which few have, learns it when there is a letter of theirs.
    outputs = [topic for topic in (inputs.reads, inputs.events) if topic in partitions] if topics is None else topics
    inspect(
        question.servers,
        question.config,
        [],
        [*outputs, question.marks_topic],
        read_back=[question.marks_topic],
    )
    return partitions


def _publication(ready: Ready, asked: ReplayQuestion, question: Question, partitions: dict[str, int]) -> Publication:
    letter = ready.letter
    mark = ReplayMark(
        letter.topic, letter.partition, letter.offset, letter.reason, _now(), asked.operator, ready.repaired.changed
    )
    # Where its meter's other records are, whatever the head-end chooses partitions by.
    partition = letter.partition if letter.partition < partitions.get(letter.topic, 0) else None
    return Publication(letter.topic, partition, ready.key, ready.repaired.value, ready.record_time, mark)


def _paced(
    chunks: Iterator[list[Ready]], asked: ReplayQuestion, tally: Tally, throttled: bool
) -> Iterator[list[Ready]]:
    """The chunks, not faster than is allowed, with a word on how far it is."""
    begun = told = time.monotonic()
    count = 0
    for chunk in chunks:
        if throttled and (early := count / asked.max_rate - (time.monotonic() - begun)) > 0:
            time.sleep(early)
        yield chunk
        count += len(chunk)
        now = time.monotonic()
        if now > told + _PROGRESS_SECONDS:
            told = now
            _log.info(
                "%s letters read, %s records %s, %s stay.",
                *(f"{tally.read:,}", f"{count:,}", "replayed" if asked.yes else "would go", f"{tally.left.total():,}"),
            )


if __name__ == "__main__":
    leave(main())
