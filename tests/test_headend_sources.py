"""A source's file, the mapping that it describes, and what one request to a head-end can meet."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import formatdate
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ami_beam.codecs.json_events import EventDecoder
from ami_beam.codecs.json_reads import ReadDecoder
from ami_beam.csv_table import TableError
from ami_beam.headend.__main__ import main
from ami_beam.headend.authentication import AuthenticationError
from ami_beam.headend.clocks import Series
from ami_beam.headend.health import METRICS, SourceHealth, as_health, as_prometheus
from ami_beam.headend.http_client import HeadEnd, Page, PageError, Question, Stopping, shown_url
from ami_beam.headend.json_paths import PathError, Place, records_of, value_at
from ami_beam.headend.lookup import LookupFile
from ami_beam.headend.mapping import Mapped, Mapper, Refused
from ami_beam.headend.memory import Generation, Memory
from ami_beam.headend.pacing import CAP_SECONDS, TokenBucket, backoff, retry_after
from ami_beam.headend.paging import Paging, Spot
from ami_beam.headend.sample import mapped_sample
from ami_beam.headend.source_file import Lookup, Source, SourceError, load_source, parse_source
from ami_beam.instants import format_instant
from ami_beam.records import RecordBatch
from ami_beam.settings import Settings
from tests.headend_server import Faults, HeadEndServer, Poison, readings

ROOT = Path(__file__).parent.parent
TEMPLATES = sorted((ROOT / "templates" / "headend").glob("*.toml"))
SECRETS = ("UTILITYAPI_TOKEN", "IEE_CLIENT_SECRET", "ESPI_CLIENT_SECRET", "HES_PASSWORD", "HES_TOKEN")
SOURCE = """
name = "north"
url = "https://hes.example/reads"
records = "data/*"
[paging]
type = "page"
[fields]
meter_id = "meter"
service_point_id = { constant = "SP" }
customer_id = { constant = "C" }
transformer_id = { constant = "TR" }
feeder_id = { constant = "FDR" }
interval_end = "end"
consumption_kwh = { path = "wh", factor = 0.001 }
"""


def source(**changes: str) -> Source:
    """The source with texts replaced."""
    text = SOURCE
    for old, new in changes.items():
        text = text.replace({"url": "https://hes.example/reads", "fields": "[fields]"}.get(old, old), new)
    return parse_source(text, "north.toml")


def mapped(given: Source, *records: dict[str, Any], lookup: Any = None) -> list[Mapped | Refused]:
    places = [Place(record, ({"data": list(records)},)) for record in records]
    return Mapper(given, lookup).map(places, Series(), 1_000_000)


# The file.


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("records =", "record =", "record: no such key; did you mean records"),
        (
            '[paging]\ntype = "page"',
            '[paging]\ntype = "page"\nsizes = 3',
            "sizes in [paging]: no such key; did you mean size",
        ),
        ('type = "page"', 'type = "pages"', "Invalid value 'pages'"),
        ('meter_id = "meter"', 'meter = "meter"', "fields.meter: reads have no such field; did you mean meter_id"),
        ('meter_id = "meter"\n', "", "fields.meter_id: is missing"),
        ('meter_id = "meter"', "meter_id = { }", "has none of them"),
        ('meter_id = "meter"', 'meter_id = { path = "a", constant = "b" }', "has path and constant of them"),
        ('meter_id = "meter"', 'meter_id = { paht = "a" }', "paht in [fields]: no such key; did you mean path"),
        ('meter_id = "meter"', 'meter_id = "a//b"', "has an empty name in it"),
        ('meter_id = "meter"', 'meter_id = { path = "a", factor = 2.0 }', "only energies and voltages have a unit"),
        ('meter_id = "meter"', 'meter_id = { lookup = "a" }', "there is no table to look it up in"),
        ("https://hes.example", "ftp://hes.example", "is no address of an HTTP API"),
        ("/reads", "/reads?k=hunter2", "has parameters in it"),
        ("https://hes.example", "https://me:hunter2@hes.example", "has a login in it"),
        (
            "[fields]",
            '[authentication]\ntype = "token"\ntoken_env = "T"\ntoken_file = "t"\n[fields]',
            "say where the secret is",
        ),
        (
            "[fields]",
            '[authentication]\ntype = "token"\ntoken = "hunter2"\n[fields]',
            "token in [authentication]: no such key",
        ),
        ("[fields]", '[request]\nheaders = { Authorization = "hunter2" }\n[fields]', "is where secrets are"),
        ("[fields]", '[request]\nquery = { api_key = "hunter2" }\n[fields]', "looks like a secret"),
        ("[fields]", '[times]\ntime_zone = "America/Chikago"\n[fields]', "did you mean America/Chicago"),
        ("[fields]", '[times]\nformat = "rfc"\n[fields]', "is no format of times"),
        ("[fields]", '[times]\ninterval_label = "begin"\n[fields]', "fields has no interval_start"),
        ("[fields]", '[times]\ninterval = "15"\n[fields]', "is not a duration in range"),
        ("[fields]", "[request]\nrate = 0\n[fields]", "is no rate"),
        ("[fields]", '[request]\nparameters_in = "body"\n[fields]', "needs a request with a body"),
        ('type = "page"', 'type = "none"', "there is neither paging nor period"),
        ('name = "north"', 'name = "no rth"', "cannot name a source"),
        ('name = "north"', "name = ", "no TOML"),
    ],
)
def test_what_is_wrong_is_said_with_key_and_fix(old: str, new: str, said: str) -> None:
    with pytest.raises(SourceError) as error:
        parse_source(SOURCE.replace(old, new, 1), "north.toml")
    assert said in str(error.value)
    assert str(error.value).startswith("north.toml: ")
    assert "hunter2" not in str(error.value)


def test_secrets_do_not_go_in_the_clear_unless_that_is_wanted() -> None:
    text = SOURCE.replace("https:", "http:").replace(
        "[fields]", '[authentication]\ntype = "token"\ntoken_env = "T"\n[fields]'
    )
    with pytest.raises(SourceError, match="would send secrets in the clear"):
        parse_source(text, "north.toml")
    parse_source(text.replace("[fields]", "[request]\nallow_http = true\n[fields]"), "north.toml")
    parse_source(text.replace("hes.example", "localhost:8080"), "north.toml")


def test_files_are_found_from_the_folder_of_the_source() -> None:
    text = SOURCE.replace("[fields]", '[lookup]\nfile = "meters.csv"\n[fields]')
    found = parse_source(text, "/etc/ami-beam/north.toml").lookup
    assert found is not None
    assert found.file == "/etc/ami-beam/meters.csv"


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_every_example_maps_its_sample(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, "x")
    sample = path.with_suffix(".sample.json")
    assert main([str(path), "--check", f"--sample={sample}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    count = len(list(records_of(msgspec.json.decode(sample.read_bytes()), load_source(path).records)))
    assert len(lines) == count > 1
    assert not any(line.startswith("set aside") for line in lines)
    assert len(set(lines)) == count


def test_the_examples_are_named_in_their_readme() -> None:
    text = (ROOT / "templates" / "headend" / "README.md").read_text()
    assert TEMPLATES
    assert all(f"`{path.name}`" in text for path in TEMPLATES)


# Paths.


def test_records_inside_records_see_what_is_around_them() -> None:
    document = {"zone": "UTC", "meters": [{"id": "a", "reads": [{"v": [1, 2]}, {"v": [3]}]}, {"id": "b", "reads": []}]}
    places = list(records_of(document, "meters/*/reads/*"))
    assert [value_at(place, "v/0") for place in places] == [1, 3]
    assert [value_at(place, "../id") for place in places] == ["a", "a"]
    assert [value_at(place, "/zone") for place in places] == ["UTC", "UTC"]
    assert [value_at(place, "../../zone") for place in places] == ["UTC", "UTC"]
    assert [value_at(places[0], path) for path in ("w", "v/7", "v/x", "../../../zone")] == [None] * 4


@pytest.mark.parametrize(
    ("document", "said"),
    [({}, "there is no /data"), ({"data": {}}, "there is no list at /data"), ([], "there is no /data")],
)
def test_an_answer_of_another_shape_is_no_page(document: Any, said: str) -> None:
    with pytest.raises(PathError, match=said):
        list(records_of(document, "data/*"))


# The mapping.

TIMES = st.integers(0, 4_000_000_000).map(lambda seconds: format_instant(seconds * 1_000_000))
TEXTS = st.text(max_size=5)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | TEXTS | st.decimals() | TIMES,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)


@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "meter": st.text(min_size=1, max_size=4) | ANYTHING,
                "end": TIMES | ANYTHING,
                "wh": st.decimals(-1000, 10_000, places=3) | st.integers(0, 10_000) | ANYTHING,
            },
        ),
        max_size=4,
    )
)
def test_whatever_comes_is_accepted_by_the_pipeline_or_set_aside(records: list[dict[str, Any]]) -> None:
    given_source = source()
    done = mapped(given_source, *records)
    assert len(done) == len(records)
    for each, record in zip(done, records, strict=True):
        if isinstance(each, Refused):
            assert each.reason
            assert each.original == msgspec.json.Encoder(decimal_format="number").encode(record)
            continue
        batch = RecordBatch("reads", [0], [0], [0], [each.value])
        decoder = ReadDecoder(Settings(max_interval_kwh=float("inf"), future_limit=1 << 62))
        (read,), letters = decoder.decode_carefully(batch, None)
        assert not letters
        assert each.key.decode() == read.meter_id


@given(st.integers(-(10**12), 10**12))
def test_units_are_exact(milli_wh: int) -> None:
    (done,) = mapped(source(), {"meter": "M", "end": "2026-03-03T00:15:00Z", "wh": Decimal(milli_wh) / 1000})
    assert isinstance(done, Mapped)
    read = msgspec.json.Decoder(float_hook=Decimal).decode(done.value)
    assert Decimal(str(read["consumption_kwh"])) == Decimal(milli_wh) / 1_000_000
    assert Decimal(str(read["delivered_kwh"])) == max(Decimal(milli_wh), Decimal(0)) / 1_000_000
    assert Decimal(str(read["received_kwh"])) == max(-Decimal(milli_wh), Decimal(0)) / 1_000_000


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({}, "MISSING_FIELD"),
        ({"meter": "M", "end": None, "wh": 1}, "MISSING_FIELD"),
        ({"meter": ["M"], "end": "2026-03-03T00:15:00Z", "wh": 1}, "WRONG_TYPE"),
        ({"meter": "", "end": "2026-03-03T00:15:00Z", "wh": 1}, "EMPTY_ID"),
        ({"meter": "M", "end": "03/03/2026", "wh": 1}, "INVALID_TIMESTAMP"),
        ({"meter": "M", "end": "2026-03-08 02:30", "wh": 1}, "INVALID_TIMESTAMP"),
        ({"meter": "M", "end": "2026-03-03T00:15:00Z", "wh": "1,5"}, "WRONG_TYPE"),
        ({"meter": "M", "end": "2026-03-03T00:15:00Z", "wh": True}, "WRONG_TYPE"),
        ({"meter": "M", "end": "2026-03-03T00:15:00Z", "wh": Decimal("1e400")}, "NUMBER_OUT_OF_RANGE"),
        ({"meter": "M" * 600_000, "end": "2026-03-03T00:15:00Z", "wh": 1}, "TOO_LONG"),
    ],
)
def test_what_cannot_be_mapped_is_set_aside_with_a_reason(record: dict[str, Any], reason: str) -> None:
    given_source = source(fields='[times]\ntime_zone = "America/Chicago"\n[fields]')
    good = {"meter": "M", "end": "2026-03-03T00:15:00Z", "wh": 1}
    before, done, after = mapped(given_source, good, record, {**good, "wh": 2})
    assert isinstance(done, Refused)
    assert done.reason == reason
    assert isinstance(before, Mapped)
    assert isinstance(after, Mapped)


def test_when_it_was_collected_makes_no_record_a_new_one() -> None:
    given_source = source(fields="[fields]\nread_ts = { collected = true }")
    record = {"meter": "M", "end": "2026-03-03T00:15:00Z", "wh": 1}
    mapper, place = Mapper(given_source), Place(record, (record,))
    (first,), (second,) = (mapper.map([place], Series(), at) for at in (10_000_000, 20_000_000))
    assert isinstance(first, Mapped)
    assert isinstance(second, Mapped)
    assert first.value != second.value
    assert first.digest == second.digest


def test_events_are_mapped_and_their_codes_translated() -> None:
    text = (
        'name = "e"\nkind = "events"\nurl = "https://hes.example"\nrecords = "*"\n[paging]\ntype = "page"\n[fields]\n'
        'meter_id = "m"\nevent_code = { path = "t", values = { DOWN = 3840 } }\nevent_ts = '
        '{ path = "s", format = "epoch_ms" }\n'
    )
    done = mapped(
        parse_source(text, "e.toml"), {"m": 7, "t": "DOWN", "s": 1_772_496_900_123}, {"m": 7, "t": "UP", "s": 0}
    )
    assert isinstance(done[0], Mapped)
    batch = RecordBatch("events", [0], [0], [0], [done[0].value])
    ((event,), letters) = EventDecoder(Settings()).decode(batch, None)
    assert (event.meter_id, event.event_code, event.event_ts, letters) == ("7", 3840, 1_772_496_900_123_000, [])
    assert isinstance(done[1], Refused)
    assert done[1].reason == "UNKNOWN_VALUE"


def test_a_lookup_file_is_read_anew_when_it_changes_and_a_bad_one_leaves_the_last(tmp_path: Path) -> None:
    path = tmp_path / "meters.csv"
    lookup = LookupFile(Lookup(file=str(path)))
    with pytest.raises(TableError):
        lookup.rows()
    path.write_text("meter_id,transformer_id\nM,TR-7\n")
    text = SOURCE.replace("[fields]", f'[lookup]\nfile = "{path}"\n[fields]').replace(
        'transformer_id = { constant = "TR" }', 'transformer_id = { lookup = "transformer_id" }'
    )
    record = {"meter": "M", "end": "2026-03-03T00:15:00Z", "wh": 1}
    found, unknown = mapped(parse_source(text, "n.toml"), record, {**record, "meter": "N"}, lookup=lookup.rows())
    assert isinstance(found, Mapped)
    assert b'"transformer_id":"TR-7"' in found.value
    assert isinstance(unknown, Refused)
    assert unknown.reason == "NOT_IN_LOOKUP"
    path.write_text("meter_id,transformer_id\nM,TR-9999\n")
    assert lookup.rows()["M"]["transformer_id"] == "TR-9999"
    path.write_text("nothing\n")
    assert lookup.rows()["M"]["transformer_id"] == "TR-9999"


# Pacing and memory.


def test_no_more_requests_than_allowed_over_any_time() -> None:
    now = [0.0]
    bucket = TokenBucket(2.0, 3, lambda: now[0])
    sent = []
    for _ in range(40):
        now[0] += bucket.delay()
        sent.append(now[0])
    assert sent[:3] == [0.0, 0.0, 0.0]
    assert all(later - earlier >= 1.0 - 1e-9 for earlier, later in zip(sent[2:], sent[4:], strict=False))


def test_back_off_doubles_to_a_bound_and_is_spread() -> None:
    assert [backoff(each, 0.5, lambda low, high: high) for each in (1, 2, 3)] == [0.5, 1.0, 2.0]
    assert backoff(1_000, 1.0, lambda low, high: high) == CAP_SECONDS
    assert len({backoff(5) for _ in range(20)}) > 15


def test_retry_after_as_seconds_and_as_a_date_of_a_wrong_clock() -> None:
    now = 1_780_000_000.0
    assert retry_after({"Retry-After": "7"}, now) == 7.0
    assert retry_after({"Retry-After": formatdate(now + 30, usegmt=True)}, now) == 30.0
    skewed = {"Retry-After": formatdate(now - 570, usegmt=True), "Date": formatdate(now - 600, usegmt=True)}
    assert retry_after(skewed, now) == 30.0
    assert retry_after({"Retry-After": "99999999"}, now) == 3_600.0
    assert [retry_after({"Retry-After": text}, now) for text in ("", "soon", "-5")] == [None] * 3


def test_what_can_come_again_is_remembered_and_the_first_of_it_is_where_reading_back_begins() -> None:
    memory = Memory()
    memory.add(Generation(10, None, {("t", 0): 5, ("t", 1): 2}, [b"a"]))
    memory.add(Generation(20, None, {("t", 0): 9}, [b"b"]))
    memory.add(Generation(5, "here", {("t", 0): 11}, [b"c"]))
    assert memory.first_offsets() == {("t", 0): 5, ("t", 1): 2}
    memory.forget(10, "here")
    assert [each in memory for each in (b"a", b"b", b"c")] == [False, True, True]
    assert memory.first_offsets() == {("t", 0): 9}
    memory.forget(10)
    assert [each in memory for each in (b"a", b"b", b"c")] == [False, True, False]
    assert len(memory) == 1


# One request.


def head_end(server: HeadEndServer, more: str = "", path: str = "/reads") -> HeadEnd:
    request = 'rate = 1000\nburst = 1000\ntimeout = "1s"\nattempts = 2\nbackoff = "50ms"\nmax_page_mb = 1'
    text = SOURCE.replace("https://hes.example/reads", server.url + path)
    text = text.replace("[fields]", f"{more}\n[request]\n{request}\n[fields]")
    return HeadEnd(parse_source(text, "north.toml"), SourceHealth("north", 900.0), threading.Event())


READINGS = readings(2, datetime(2026, 3, 3, tzinfo=UTC), 4)


@pytest.mark.parametrize(
    ("faults", "poison", "reason"),
    [
        (Faults(failing=1.0), Poison(), "HTTP_500"),
        (Faults(half=1.0), Poison(), "INVALID_JSON"),
        (Faults(cut_off=1.0), Poison(), "CUT_OFF"),
        (Faults(slow=1.0, slow_seconds=2.0), Poison(), "TIMEOUT"),
        (Faults(), Poison(lambda query: True), "INVALID_JSON"),
        (Faults(), Poison(lambda query: True, body=b'{"rows": []}'), "WRONG_SHAPE"),
        (Faults(), Poison(lambda query: True, body=b" " * (2 << 20)), "TOO_LONG"),
        (Faults(), Poison(lambda query: True, status=302), "HTTP_302"),
        (Faults(), Poison(lambda query: True, status=400), "HTTP_400"),
        (Faults(), Poison(lambda query: True, body=b"[" * 100_000), "INVALID_JSON"),
    ],
)
def test_a_page_that_cannot_be_read_says_why_after_its_attempts(faults: Faults, poison: Poison, reason: str) -> None:
    with HeadEndServer(READINGS, faults, poison) as server:
        with pytest.raises(PageError) as error:
            head_end(server).page(Question({"page": 1}))
        assert error.value.reason == reason
        assert server.counts["requests"] == 2


def test_a_head_end_that_is_not_there_says_so() -> None:
    with HeadEndServer(READINGS) as server:
        client = head_end(server)
    with pytest.raises(PageError, match="NO_CONNECTION"):
        client.page(Question({"page": 1}))


def test_too_many_requests_is_no_attempt_and_the_clock_of_the_head_end_is_measured() -> None:
    with HeadEndServer(READINGS, Faults(throttled=0.5, skew_seconds=-300.0)) as server:
        client = head_end(server)
        assert [each.value for each in client.page(Question({"page": 1})).records] == [
            {**each, "volts": Decimal("230.1")} for each in READINGS
        ]
        assert server.counts["throttled"] > 0
        skew = next(value for name, _, value in client._health.samples() if name == "clock_skew_seconds")
        assert -302 < skew < -298


LOGINS = {
    "basic": 'type = "basic"\nusername = "adapter"\npassword_env = "HES_SECRET"',
    "token": 'type = "token"\ntoken_env = "HES_SECRET"',
    "parameter": 'type = "token"\ntoken_env = "HES_SECRET"\nparameter = "k"',
    "oauth2": 'type = "oauth2"\ntoken_url = "{url}/token"\nclient_id = "adapter"\nclient_secret_env = "HES_SECRET"',
}


@pytest.mark.parametrize("kind", LOGINS)
def test_logins(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with HeadEndServer(READINGS, secret="s3cret-word") as server:
        more = "[authentication]\n" + LOGINS[kind].replace("{url}", server.url)
        client = head_end(server, more)
        with pytest.raises(AuthenticationError, match="no environment variable HES_SECRET"):
            client.page(Question({"page": 1}))
        monkeypatch.setenv("HES_SECRET", "wrong-word")
        with pytest.raises(AuthenticationError, match="401") as error:
            client.page(Question({"page": 1}))
        assert "wrong-word" not in str(error.value)
        monkeypatch.setenv("HES_SECRET", "s3cret-word")
        page = client.page(Question({"page": 1}))
        assert page.records
        assert "s3cret-word" not in page.url
        # A token that the head-end has forgotten is renewed, once.
        server._tokens.clear()
        assert client.page(Question({"page": 1})).records
        assert server.counts["tokens"] == (3 if kind == "oauth2" else 0)


def test_the_next_page_is_not_fetched_from_another_host() -> None:
    with HeadEndServer(READINGS) as server:
        with pytest.raises(PageError, match="LINK_ELSEWHERE"):
            head_end(server).page(Question(link="https://evil.example/reads?page=2"))
        assert head_end(server).page(Question(link="/reads?page=1")).records


def test_a_token_in_the_next_link_does_not_become_a_position() -> None:
    text = SOURCE.replace('type = "page"', 'type = "link"\nnext = "next"').replace(
        "[fields]", '[authentication]\ntype = "token"\ntoken_env = "T"\nparameter = "k"\n[fields]'
    )
    paging = Paging(parse_source(text, "north.toml"))
    page = Page({"next": "/reads?k=hunter2&at=7"}, [], {}, "")
    assert paging.following(paging.first, page) == Spot(text="/reads?at=7")


def test_waiting_ends_when_the_adapter_has_to() -> None:
    with HeadEndServer(READINGS, Faults(failing=1.0)) as server:
        client = head_end(server)
        client._stop.set()
        began = time.monotonic()
        with pytest.raises(Stopping):
            client.page(Question({"page": 1}))
        assert time.monotonic() - began < 5


def test_addresses_are_shown_without_what_may_be_secret() -> None:
    shown = shown_url("https://me:pw@hes.example/a?from=2026-03-03T00:00:00Z&api_key=hunter2&page=2&x=" + "y" * 80)
    assert shown == "https://hes.example/a?from=2026-03-03T00:00:00Z&api_key=…&page=2&x=…"


# The command and what it tells.


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "SOURCE.toml"),
        (["{source}"], "--bootstrap_servers: is missing"),
        (["{source}", "{source}", "--check"], "another source has it"),
        (["missing.toml", "--check"], "missing.toml: cannot be read"),
        (
            ["{source}", "--bootstrap_servers=b:9092", "--backfill=2026-02-01T00:00:00Z"],
            "--backfill=2026-02-01T00:00:00Z: is no range",
        ),
        (
            ["{source}", "--bootstrap_servers=b:9092", "--backfill=2026-02-01T00:00:00Z/2026-03-01T00:00:00Z"],
            "has no [period]",
        ),
        (["{source}", "--bootstrap_servers=b:9092", "--health=9464"], "--health=9464: is no HOST:PORT"),
        (["{source}", "--bootstrap_servers=b:9092", "--topics=x"], "--topics"),
        (["{source}", "--check", "--sample=missing.json"], "--sample=missing.json"),
    ],
)
def test_a_wrong_command_line_says_what_to_write(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "north.toml"
    path.write_text(SOURCE)
    assert main([word.replace("{source}", str(path)) for word in arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_sample_shows_what_would_be_set_aside() -> None:
    answer = json.dumps({"data": [{"meter": "M", "end": "2026-03-03T00:15:00Z", "wh": 1}, {"meter": "M"}]}).encode()
    good, bad = mapped_sample(source(), answer)
    assert json.loads(good)["consumption_kwh"] == 0.001
    assert bad == "set aside: MISSING_FIELD: consumption_kwh: there is nothing at wh"


def test_metrics_have_help_and_type_and_health_its_reasons() -> None:
    health = SourceHealth("north", 900.0)
    health.requested()
    health.failed_request("HTTP_500")
    health.committed(5, 2, ["WRONG_TYPE", "WRONG_TYPE"], 7)
    assert as_health([health]) == (200, "ok\n")
    health.problem("page", "cannot be read")
    status, text = as_health([health, SourceHealth("south", -1.0)])
    assert status == 503
    assert "north: page: cannot be read\n" in text
    assert "south: stale: nothing has been complete" in text
    lines = as_prometheus([health]).splitlines()
    assert 'ami_headend_setaside_total{source="north",reason="WRONG_TYPE"} 2' in lines
    assert 'ami_headend_healthy{source="north"} 0' in lines
    assert "# TYPE ami_headend_published_total counter" in lines
    operations = (ROOT / "docs" / "operations.md").read_text()
    assert all(f"`ami_headend_{name}`" in operations for name in METRICS)
