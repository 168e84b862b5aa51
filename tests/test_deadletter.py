"""Dead letters read back, repaired and looked at: nothing is lost, nothing goes twice, nothing steers a terminal."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ami_beam import deadletter, repair
from ami_beam.beam_options import OptionError
from ami_beam.codecs.avro_outputs import AvroValues
from ami_beam.codecs.dead_letter_reasons import Reason
from ami_beam.codecs.json_outputs import DEAD_LETTER_TOPIC, MAX_LETTER_BYTES, dead_letter_json
from ami_beam.codecs.stored_letters import (
    RecordId,
    ReplayMark,
    StoredLetter,
    letter_parser,
    mark_json,
    parse_letter,
    parse_mark,
    parse_record_id,
)
from ami_beam.codecs.writer_schemas import NO_SCHEMAS, KnownSchemas
from ami_beam.deadletter_options import question_of
from ami_beam.deadletter_report import original_lines
from ami_beam.instants import MAX_INSTANT, MICROS_PER_MINUTE, parse_instant
from ami_beam.letter_acceptance import Acceptance, InputTopics
from ami_beam.letter_replay import Cause, LeftLetter, Ready, ReplayRules, Selection, Tally, replay
from ami_beam.record_sets import RecordSet
from ami_beam.records import DeadLetter
from ami_beam.repair import HelperError, Repair, RepairError, expression, from_file, number, renamed, with_zone, without
from ami_beam.schemas import schema_text, subject_of
from ami_beam.settings import Settings

READS, EVENTS, OUTAGES, WORK = "ami.headend.reads", "ami.headend.events", "ami.oms.outages", "ami.work"
TOPICS = InputTopics(READS, EVENTS, OUTAGES, WORK)
END = parse_instant("2026-03-03T00:15:00Z")
READ = {
    "meter_id": "M1", "service_point_id": "S", "customer_id": "C", "transformer_id": "T", "feeder_id": "F",
    "read_type": "INTERVAL", "interval_start": "2026-03-03T00:00:00Z", "interval_end": "2026-03-03T00:15:00Z",
    "consumption_kwh": 0.5, "delivered_kwh": 0.5, "received_kwh": 0.0, "voltage_v": 230.0, "power_quality_code": 0,
    "estimated_flag": False, "read_ts": "2026-03-03T00:15:30Z",
}  # fmt: skip
EVENT = {"meter_id": "M1", "event_code": 3840, "event_ts": "2026-03-03T00:10:00Z"}


def letter(value: Any = READ, offset: int = 0, reason: str = "WRONG_TYPE", **fields: Any) -> StoredLetter:
    made = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
    known: dict[str, Any] = {"topic": READS, "partition": 0, "record_time": END + MICROS_PER_MINUTE, "detail": "wrong"}
    return StoredLetter(reason, offset=offset, value=made, **(known | fields))


def replayed(
    letters: list[StoredLetter], mending: Repair | None = None, marked: RecordSet | None = None, **rules: Any
) -> tuple[list[Ready], list[LeftLetter], Tally]:
    """What goes and what stays."""
    tally, left = Tally(), list[LeftLetter]()
    given_rules = ReplayRules(**{"selection": Selection(), "repair": mending, "live": False} | rules)
    acceptance = Acceptance(Settings(live=given_rules.live), TOPICS, NO_SCHEMAS)
    pairs = [(each, None) for each in letters]
    chunks = replay(pairs, given_rules, acceptance, marked or RecordSet(), tally, lambda: END, left.append)
    return [ready for chunk in chunks for ready in chunk], left, tally


LETTERS = st.builds(
    DeadLetter,
    reason=st.sampled_from([each.value for each in Reason]),
    detail=st.text(),
    topic=st.sampled_from([READS, "other.topic"]),
    partition=st.integers(0, 2**31 - 1),
    offset=st.integers(0, 2**63 - 1),
    record_time=st.none() | st.integers(0, MAX_INSTANT),
    value=st.none() | st.binary(max_size=100),
    used=st.booleans(),
)


class TestReadBack:
    @given(LETTERS)
    def test_a_letter_in_json_is_what_was_written(self, written: DeadLetter) -> None:
        found = parse_letter(dead_letter_json(written))
        assert msgspec.structs.astuple(found) == (*msgspec.structs.astuple(written), None, None)
        assert not found.truncated
        assert parse_record_id(str(found.record)) == parse_record_id(found.record.path) == found.record

    @given(LETTERS)
    def test_a_letter_in_avro_as_well(self, written: DeadLetter) -> None:
        subject = subject_of(DEAD_LETTER_TOPIC)
        parse = letter_parser(KnownSchemas({7: schema_text(subject)}))
        found = parse(AvroValues({DEAD_LETTER_TOPIC: 7})(written))
        assert msgspec.structs.astuple(found) == (*msgspec.structs.astuple(written), None, None)
        assert parse(dead_letter_json(written)) == found

    def test_of_a_long_one_the_end_is_lost_and_it_says_so(self) -> None:
        written = DeadLetter("INVALID_JSON", "", READS, 0, 1, None, b"x" * (MAX_LETTER_BYTES + 1))
        found = parse_letter(dead_letter_json(written))
        assert found.truncated
        assert found.value_size == MAX_LETTER_BYTES + 1
        assert replayed([found])[1][0].cause == Cause.TRUNCATED

    @given(st.builds(ReplayMark, *[st.text(), st.integers(0, 9), st.integers(0, 2**62), st.text()],
                     replayed_at=st.integers(0, MAX_INSTANT), operator=st.text(), repaired=st.booleans()))  # fmt: skip
    def test_a_mark_is_what_was_written(self, mark: ReplayMark) -> None:
        assert parse_mark(mark_json(mark)) == mark

    @pytest.mark.parametrize("text", ["", "a", "a:1", "a:x:1", "a:1:-1", "a b:1:1", "a:1:1:1", ":1:1"])
    def test_what_is_no_id_of_a_record(self, text: str) -> None:
        with pytest.raises(ValueError, match="is no TOPIC:PARTITION:OFFSET"):
            parse_record_id(text)


class TestShown:
    @given(st.binary(max_size=300) | st.text(max_size=100).map(lambda text: text.encode(errors="replace")))
    def test_no_bytes_steer_a_terminal(self, value: bytes) -> None:
        for line in original_lines(value, full=True):
            assert line.isprintable()

    @given(st.text(alphabet="äö\n€x", max_size=3_000))
    def test_a_text_is_shown_as_text_also_where_it_is_cut(self, text: str) -> None:
        lines = original_lines(text.encode(), full=False)
        whole = len(text.encode()) <= 4_096
        assert lines[-1].startswith("… ") is not whole or text.startswith("…")
        shown = "\n".join(lines if whole else lines[:-1])
        assert text.startswith(shown)


class TestRepair:
    def test_the_helpers(self) -> None:
        assert without({"a": 1, "b": 2, "c": 3}, "a", "x", "c") == {"b": 2}
        assert renamed({"a": 1, "b": 2}, "a", "A", "x", "X") == {"A": 1, "b": 2}
        assert [number(each) for each in ("19,7", " 19.70 ", "-3", "1e3", 4, None)] == [19.7, 19.7, -3, 1000.0, 4, None]
        assert with_zone("2026-07-01T02:00:00", "Europe/Berlin") == "2026-07-01T00:00:00Z"
        assert with_zone("2026-07-01T02:00:00Z", "Europe/Berlin") == "2026-07-01T02:00:00Z"
        assert with_zone(None, "Europe/Berlin") is None

    @pytest.mark.parametrize(
        ("call", "says"),
        [
            (lambda: with_zone("2026-10-25T02:30:00", "Europe/Berlin"), "twice"),
            (lambda: with_zone("2026-03-29T02:30:00", "Europe/Berlin"), "never"),
            (lambda: with_zone("2026-03-29T02:30:00", "Nowhere"), "no name of a time zone"),
            (lambda: with_zone("CUST-1", "Europe/Berlin"), "no time"),
            (lambda: number("CUST-1"), "says none"),
            (lambda: renamed({}, "a"), "pairs"),
        ],
    )
    def test_what_the_helpers_refuse_and_they_quote_nothing(self, call: Callable[[], Any], says: str) -> None:
        with pytest.raises(HelperError, match=says) as error:
            call()
        assert "CUST" not in str(error.value)

    @pytest.mark.parametrize(
        ("text", "after"),
        [
            ('record | {"a": record["a"] / 1000}', {"a": 0.5, "b": "x"}),
            ('{name: value for name, value in record.items() if name != "b"}', {"a": 500}),
            ('renamed(record, "b", "c") if letter.reason == "WRONG_TYPE" else None', {"a": 500, "c": "x"}),
            ("None", None),
            ('[f := 2, record | {"a": f}][1]', {"a": 2, "b": "x"}),
            ('record |\n  {"a": 1}', {"a": 1, "b": "x"}),
            ('(lambda r: r | {"a": r["a"] + 1})(record)', {"a": 501, "b": "x"}),
        ],
    )
    def test_an_expression_gives_the_record_that_is_published(self, text: str, after: Any) -> None:
        made = expression(text)(letter({"a": 500, "b": "x"}))
        assert (None if made is None else json.loads(made.value)) == after

    def test_what_is_not_changed_keeps_its_bytes(self) -> None:
        value = b'{"a":  1.0, "\xc3\xa4": 1}'
        made = expression("record | {}")(letter(value))
        assert made is not None
        assert (made.value, made.changed) == (value, False)
        changed = expression('record | {"a": 1}')(letter(value))
        assert changed is not None
        assert (changed.value, changed.changed) == (b'{"a":1,"\xc3\xa4":1}', True)

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("", "is empty"),
            ("record |", "is no Python expression"),
            ("recrod", "there is no recrod"),
            ("open('x')", "there is no open"),
            ("__import__('os')", "there is no __import__"),
            ("record.__class__", "__class__ is not to be used"),
            ("x = 1", "is no Python expression"),
            ("(" * 300 + ")" * 300, "is no Python expression"),
        ],
    )
    def test_a_wrong_expression_is_refused_before_any_letter_is_read(self, text: str, says: str) -> None:
        with pytest.raises(OptionError) as error:
            expression(text)
        assert says in str(error.value)
        assert "with_zone" in str(error.value)

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ('record["missing"]', "KeyError: 'missing'"),
            ('float(record["b"])', "the repair failed: ValueError"),
            ("1", "gave int, and not an object or None"),
            ('{"a": float("nan")}', "is no JSON"),
            ('{"a": letter}', "is no JSON"),
            ('number(record["b"])', "number was given a text that says none"),
        ],
    )
    def test_a_repair_that_does_not_fit_says_why_without_the_record(self, text: str, says: str) -> None:
        with pytest.raises(RepairError) as error:
            expression(text)(letter({"a": 1, "b": "CUST-1"}))
        assert says in str(error.value)
        assert "CUST-1" not in str(error.value)

    def test_an_expression_is_not_handed_what_is_no_object(self) -> None:
        for value in (b"", b"[1]", b"{", b"\xff", b"[" * 100_000):
            with pytest.raises(RepairError, match="--repair_file gets its bytes"):
                expression("record")(letter(value))

    def test_a_file_gets_bytes_and_may_give_some(self, tmp_path: Path) -> None:
        path = tmp_path / "repair.py"
        path.write_text(
            "import json\ndef repair(record, letter):\n"
            "    if record is None:\n        return letter.value + b'}'\n    return record | {'b': number('2')}\n"
        )
        mending = from_file(str(path))
        made = [mending(letter(value)) for value in (b'{"a":1', b'{"a":1}')]
        assert [each and each.value for each in made] == [b'{"a":1}', b'{"a":1,"b":2}']

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("def repair(record, letter) return 1", "line 1"),
            ("x = 1", "has no function repair"),
            ("raise ValueError('no')", "fails when it is loaded: ValueError: no"),
        ],
    )
    def test_a_wrong_file_is_refused(self, tmp_path: Path, text: str, says: str) -> None:
        path = tmp_path / "repair.py"
        path.write_text(text)
        with pytest.raises(OptionError, match=says):
            from_file(str(path))
        with pytest.raises(OptionError, match="No such file"):
            from_file(str(tmp_path / "none.py"))

    def test_a_file_that_fails_names_its_line(self, tmp_path: Path) -> None:
        path = tmp_path / "repair.py"
        path.write_text("def repair(record, letter):\n    return float(record['meter_id'])\n")
        with pytest.raises(RepairError, match=r"the repair failed: ValueError in line 2$"):
            from_file(str(path))(letter())


VALUES = st.one_of(
    st.just(READ),
    st.just(READ | {"consumption_kwh": "0,5"}),
    st.just(READ | {"voltage_v": 4000.0}),
    st.just(EVENT),
    st.none(),
    st.binary(max_size=5),
)
BEHAVIOUR: dict[str, Callable[[Any, StoredLetter], Any]] = {
    "as it is": lambda record, _: record,
    "number": lambda record, _: record | {"consumption_kwh": number(record["consumption_kwh"])},
    "none": lambda record, _: None,
    "bytes": lambda record, each: each.value,
    "fails": lambda record, _: 1 / 0,
    "odd": lambda record, _: [record],
    "by offset": lambda record, each: record if each.offset % 2 else None,
}


@given(
    st.lists(
        st.builds(
            letter, VALUES, st.integers(0, 12), st.sampled_from(["WRONG_TYPE", "IMPLAUSIBLE_VOLTAGE"]),
            used=st.booleans(), topic=st.sampled_from([READS, EVENTS, "other"]),
            record_time=st.none() | st.just(END), value_size=st.sampled_from([None, None, 600_000]),
        ),
        max_size=12,
    ),
    st.sampled_from([None, *BEHAVIOUR]),
    st.sets(st.integers(0, 12), max_size=3),
    st.integers(1, 4),
    st.booleans(),
)  # fmt: skip
def test_every_selected_record_goes_once_or_stays_with_a_reason(
    letters: list[StoredLetter], behaviour: str | None, marked: set[int], chunk: int, force: bool
) -> None:
    """Whatever letters there are and whatever the repair does."""
    known = RecordSet()
    for offset in marked:
        known.add(RecordId(READS, 0, offset))
    mending = None if behaviour is None else Repair(BEHAVIOUR[behaviour], "file")
    ready, left, tally = replayed(letters, mending, known, chunk=chunk, force=force)
    gone = [each.letter.record for each in ready]
    stays = [RecordId(each.topic, each.partition, each.offset) for each in left]
    assert sorted([*gone, *stays]) == sorted({each.record for each in letters})
    assert tally.selected == len(gone) + len(stays)
    assert (tally.ready.total(), tally.left.total(), tally.read) == (len(gone), len(stays), len(letters))
    assert not known_offsets(gone) & marked
    acceptance = Acceptance(Settings(), TOPICS, NO_SCHEMAS)
    for each in ready:
        assert not each.letter.used
        if not force:
            (objection,) = acceptance.objections(each.letter.topic, [each.repaired.value], [each.record_time], None)
            assert objection is None or objection.used


def known_offsets(records: list[RecordId]) -> set[int]:
    return {record.offset for record in records if record.topic == READS}


class TestRules:
    def test_a_used_letter_goes_only_where_its_reason_is_named_and_something_changes(self) -> None:
        used = letter(READ | {"voltage_v": 4000.0}, reason="IMPLAUSIBLE_VOLTAGE", used=True)
        assert replayed([used])[1][0].cause == Cause.USED
        named = {"selection": Selection(reasons=frozenset({"IMPLAUSIBLE_VOLTAGE"}))}
        assert replayed([used], **named)[1][0].cause == Cause.SET_ASIDE_AGAIN
        ready, _, _ = replayed([used], expression('record | {"voltage_v": record["voltage_v"] / 20}'), **named)
        assert json.loads(ready[0].repaired.value)["voltage_v"] == 200.0

    def test_a_record_with_a_used_and_another_letter_goes(self) -> None:
        for letters in ([letter(used=True), letter()], [letter(), letter(used=True)]):
            ready, left, _ = replayed(letters)
            assert (len(ready), len(left)) == (1, 0)

    def test_a_repaired_read_whose_voltage_alone_is_implausible_goes(self) -> None:
        ready, left, _ = replayed([letter(READ | {"voltage_v": 4000.0})])
        assert (len(ready), len(left)) == (1, 0)

    @pytest.mark.parametrize(
        ("topic", "value", "key"),
        [
            (READS, READ, b"M1"),
            (EVENTS, EVENT, b"M1"),
            (
                OUTAGES,
                {"outage_id": "O1", "kind": "KNOWN", "status": "ACTIVE", "entity_type": "FEEDER", "entity_id": "F",
                 "from": "2026-03-03T00:00:00Z"},
                b"O1",
            ),
            (
                WORK,
                {"work_id": "W1", "kind": "TEST", "status": "ACTIVE", "meter_id": "M1", "from": "2026-03-03T00:00:00Z",
                 "to": "2026-03-03T01:00:00Z"},
                b"W1",
            ),
        ],
    )  # fmt: skip
    def test_the_key_is_what_its_topic_is_keyed_by(self, topic: str, value: Any, key: bytes) -> None:
        (ready,), _, _ = replayed([letter(value, topic=topic)])
        assert ready.key == key

    def test_what_has_no_id_has_no_key(self) -> None:
        (ready,), _, tally = replayed([letter(b"{")], force=True)
        assert ready.key is None
        assert tally.forced == 1

    def test_a_meter_is_found_by_its_whole_name_also_in_what_is_no_json(self) -> None:
        takes = Selection(meter="M-1").test()
        names = {b'{"meter_id":"M-1"': True, b"x M-1": True, b"M-10": False, b"XM-1": False, b"": False}
        for value, found in names.items():
            assert takes(letter(value), None) is found

    def test_times_are_of_the_record_or_else_of_the_letter(self) -> None:
        takes = Selection(since=END, until=END + 10).test()
        known = [(END, None), (None, END)]
        others = [(END + 10, None), (END - 1, END), (None, None)]
        for record_time, set_aside, found in [*((*each, True) for each in known), *((*each, False) for each in others)]:
            assert takes(letter(record_time=record_time), set_aside) is found

    def test_a_limit_is_of_records_that_go(self) -> None:
        letters = [letter(READ if offset % 3 else b"{", offset) for offset in range(30)]
        ready, _, _ = replayed(letters, limit=7, chunk=4)
        assert [each.letter.offset for each in ready] == [1, 2, 4, 5, 7, 8, 10]

    def test_live_the_record_time_is_now(self) -> None:
        (ready,), _, _ = replayed([letter(record_time=None)], live=True)
        assert ready.record_time == END
        assert replayed([letter(record_time=None)])[1][0].cause == Cause.NO_RECORD_TIME
        (ready,), _, _ = replayed([letter(record_time=None)], record_time=END + 1)
        assert ready.record_time == END + 1


class TestCommandLine:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        letters = [
            DeadLetter("WRONG_TYPE", "a field", READS, 0, 3, END, json.dumps(READ | {"consumption_kwh": "1"}).encode()),
            DeadLetter("WRONG_TYPE", "a field", READS, 0, 4, END, json.dumps(READ | {"feeder_id": 1}).encode()),
            DeadLetter("INVALID_JSON", "no JSON", EVENTS, 0, 5, END, b"{"),
        ]
        output = tmp_path / "output"
        output.mkdir()
        content = b"".join(dead_letter_json(each) + b"\n" for each in (*letters, letters[0]))
        (output / f"{DEAD_LETTER_TOPIC}.jsonl").write_bytes(content + b"no letter\n")
        return output

    def run(self, folder: Path, *arguments: str) -> int:
        return deadletter.main([arguments[0], "--source=files", f"--output={folder}", *arguments[1:]])

    def test_files_from_the_list_to_the_replay(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.run(folder, "list") == 0
        said = capsys.readouterr().out
        assert "3 letters in" in said
        assert "1 record there cannot be read as letters" in said
        path, left = folder / "r.jsonl.gz", folder / "left.csv"
        mending = '--repair=record | {"consumption_kwh": number(record["consumption_kwh"])}'
        arguments = ["replay", mending, f"--to={path}", f"--left={left}", f"--topic={READS}"]
        assert self.run(folder, *arguments) == 1
        said = capsys.readouterr().out
        assert 'consumption_kwh: "1" → 1' in said
        assert "1 record would be replayed" in said
        assert "WRONG_TYPE: feeder_id must be a non-empty string" in said
        assert not path.exists()
        assert left.read_text().splitlines() == [
            "topic,partition,offset,reason,cause,detail",
            f"{READS},0,4,WRONG_TYPE,set_aside_again,WRONG_TYPE: feeder_id must be a non-empty string.",
        ]
        # The options of a run may be given as they are.
        whole = ["--runner=DirectRunner", "--meter_counts=counts.csv", "--window=15m", "--sink=files", "--yes"]
        assert self.run(folder, *arguments, *whole) == 1
        (line,) = map(json.loads, gzip.decompress(path.read_bytes()).splitlines())
        assert json.loads(base64.b64decode(line.pop("value_b64"))) == READ | {"consumption_kwh": 1}
        assert line == {"ts_ms": END // 1000, "key": "M1", "topic": READS, "partition": 0, "offset": 3}

    def test_the_bytes_of_an_original(self, folder: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
        assert self.run(folder, "show", f"{READS}:0:4", "--raw") == 0
        assert json.loads(capfdbinary.readouterr().out) == READ | {"feeder_id": 1}

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["list", "--source=files", "--output=none"], "--output=none: has no ami.deadletter.jsonl"),
            (["list"], "--bootstrap_servers: is missing"),
            (["list", "--bootstrap_servers=x:1", "--reason=WRONG_TYP"], "did you mean WRONG_TYPE"),
            (["list", "--bootstrap_servers=x:1", "--since=2026-03-03"], "--since=2026-03-03"),
            (
                ["list", "--bootstrap_servers=x:1", "--since=2026-03-03T00:00:00Z", "--until=2026-03-03T00:00:00Z"],
                "is not after --since",
            ),
            (["replay", "--bootstrap_servers=x:1", "--yes", "--dry_run"], "says the contrary of --yes"),
            (["replay", "--bootstrap_servers=x:1", "--repair=record", "--repair_file=x.py"], "--repair is given, too"),
            (["replay", "--bootstrap_servers=x:1", "--to=x.csv"], "is no replay file"),
            (["replay", "--bootstrap_servers=x:1", "--record_time=2026-03-03T00:00:00Z"], "has the time of its pub"),
            (["replay", "--bootstrap_servers=x:1", "--limit=0"], "--limit=0"),
            (["replay", "--bootstrap_servers=x:1", "--max_rate=0"], "--max_rate=0"),
            (["replay", "--bootstrap_servers=x:1", "--operator="], "--operator"),
            (["replay", "--bootstrap_servers=x:1", "--lmit=5"], "did you mean --limit"),
            (["replay", "--bootstrap_servers=x:1", "--left=x.txt"], "is no list that can be written"),
            (
                [
                    "replay",
                    "--bootstrap_servers=x:1",
                    "--reads_format=avro",
                    "--schema_registry=http://x",
                    "--repair=1",
                ],
                "ami.headend.reads is Avro, whose records are replayed as they are",
            ),
            (["show", "x", "--bootstrap_servers=x:1"], "is no TOPIC:PARTITION:OFFSET"),
            ([], "list|show|replay"),
        ],
    )
    def test_a_wrong_option_says_what_is_allowed(self, arguments: list[str], says: str) -> None:
        with pytest.raises(OptionError) as error:
            question_of(arguments)
        assert says in str(error.value)

    def test_a_file_needs_a_file_to_go_to(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.run(folder, "replay", "--yes") == 2
        assert "--to=replay/repaired.jsonl.gz" in capsys.readouterr().err
        assert self.run(folder, "list", "--set_aside_since=2026-03-03T00:00:00Z") == 2
        assert "a file does not say when" in capsys.readouterr().err

    @pytest.mark.parametrize("action", ["list", "show", "replay"])
    def test_help_has_examples(self, action: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            deadletter.main([action, "--help"])
        assert ended.value.code == 0
        assert f"python -m ami_beam.deadletter {action}" in capsys.readouterr().out.split("examples:")[1]


def test_the_expression_of_the_help_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        deadletter.main(["replay", "--help"])
    text = capsys.readouterr().out
    shown = text.split("--repair='")[1].split("'")[0]
    made = expression(shown)(letter({"consumption_kwh": 500, "meter_id": "M"}))
    assert made is not None
    assert json.loads(made.value)["consumption_kwh"] == 0.5
    for name in repair.HELPERS:
        assert name in text
