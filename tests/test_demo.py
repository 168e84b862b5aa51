"""The demonstration shows what comes, says what is missing, and leaves nothing behind however it ends."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ami_beam.codecs.json_outputs import (
    ALARMS_TOPIC,
    DEAD_LETTER_TOPIC,
    EVENT_ALERTS_TOPIC,
    GRID_ALERTS_TOPIC,
    RECEIPT_TOPIC,
    SUMMARY_TOPIC,
    alarm_json,
    alert_json,
    dead_letter_json,
    summary_json,
)
from ami_beam.demo_options import parser
from ami_beam.demo_screen import ALERT_KINDS, Screen, Tally, alarm_line, alert_line, announced_line, kind, missing
from ami_beam.instants import parse_instant
from ami_beam.records import Alarm, Alert, DeadLetter, SummaryRow
from tools.chromium import browser, program

pytestmark = pytest.mark.processes
AT = parse_instant("2026-03-03T10:15:00Z")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def voltage_alert(**changes) -> Alert:
    fields = {
        "alert_id": "a1",
        "alert_source": "VOLTAGE",
        "entity_id": "TR-000002",
        "alert_time": AT,
        "alert_type": "LOW_VOLTAGE",
        "detail_value": 197.04,
        "severity": "WARNING",
        "status": "RAISED",
        "revision": 0,
        "as_of": AT,
        "window_start": AT - 15_000_000,
        "window_end": AT,
        "feeder_id": "FDR-00001",
    }
    return Alert(**{**fields, **changes})


def an_alarm(**changes) -> Alarm:
    fields = {
        "alarm_id": "a1",
        "alarm_type": "LOW_VOLTAGE",
        "entity_id": "TR-000012",
        "feeder_id": "FDR-00001",
        "state": "ACTIVE",
        "severity": "WARNING",
        "first_window": AT,
        "last_window": AT + 30 * 60_000_000,
        "worst_value": 201.5,
        "windows_in_violation": 3,
        "meters_in_violation": 2,
        "worst_meter_id": "MTR-0000098",
        "meters_missing": 0,
        "cause": None,
        "revision": 1,
        "as_of": AT,
    }
    return Alarm(**{**fields, **changes})


def event_alert(code: float | None, description: str, alert_id: str = "e1") -> Alert:
    return voltage_alert(
        alert_id=alert_id,
        alert_source="EVENT",
        entity_id="MTR-0000098",
        alert_type=description,
        detail_value=code,
        event_code=None if code is None else f"{code:g}",
        severity="CRITICAL",
        window_start=None,
        window_end=None,
        feeder_id=None,
    )


def summary(window_end: int) -> bytes:
    start = window_end - 15_000_000
    return summary_json(SummaryRow("TR-1", "F-1", start, window_end, 1, 1, 0, 1, 230, 230, 230, 0, 0, 0, window_end, 0))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("alert", "expected"),
    [
        (
            voltage_alert(),
            "10:15:00  WARNING   LOW_VOLTAGE       RAISED   transformer TR-000002   197.04 V  feeder FDR-00001",
        ),
        (
            voltage_alert(alert_type="LOW_RECEIPT_RATE", alert_source="COMM", detail_value=71.1, status="CLEARED"),
            "10:15:00  WARNING   LOW_RECEIPT_RATE  CLEARED  transformer TR-000002   71.1 % of reads  feeder FDR-00001",
        ),
        (
            voltage_alert(detail_value=None, status="CLEARED", feeder_id=None),
            "10:15:00  WARNING   LOW_VOLTAGE       CLEARED  transformer TR-000002   no value",
        ),
        (
            event_alert(3840, "LAST_GASP"),
            "10:15:00  CRITICAL  LAST_GASP         RAISED   meter MTR-0000098       code 3840",
        ),
        (
            event_alert(2048, "Cover opened"),
            "10:15:00  CRITICAL  TAMPER_DETECTED   RAISED   meter MTR-0000098       code 2048, “Cover opened”",
        ),
    ],
)
def test_alert_is_one_line(alert, expected):
    assert alert_line(alert) == expected


def test_an_alert_says_that_an_alarm_explains_it():
    assert alert_line(voltage_alert(explained_by="a1")).partition("  feeder")[0].endswith(" V, explained by an alarm")


def test_alarm_is_one_line():
    assert alarm_line(an_alarm()) == (
        "10:45:00  ALARM     LOW_VOLTAGE       ACTIVE   transformer TR-000012   201.5 V at worst, 3 windows"
    )
    outage = an_alarm(
        alarm_type="TRANSFORMER_OUTAGE", worst_value=60.0, meters_in_violation=6, meters_total=10, began_at=AT,
        ended_at=AT + 95_000_000, state="CLEARED",
    )  # fmt: skip
    assert alarm_line(outage).endswith("transformer TR-000012   6 of 10 meters, from 10:15:00 to 10:16:35")
    silent = an_alarm(alarm_type="SOURCE_SILENT", entity_id="reads", worst_value=None, began_at=AT, cause="b2")
    assert alarm_line(silent).endswith("ACTIVE   topic of reads          from 10:15:00, explained by another")
    taken_back = an_alarm(state="CLEARED", worst_value=None, windows_in_violation=0)
    assert alarm_line(taken_back).endswith("CLEARED  transformer TR-000012   taken back by late reads")
    assert "\x1b[31;1mALARM" in alarm_line(an_alarm(), colours=True)


def test_an_announced_outage_is_one_line():
    said = {
        "outage_id": "OUT-00000", "kind": "PLANNED", "status": "ACTIVE", "entity_type": "TRANSFORMER",
        "entity_id": "TR-000002", "from": "2026-03-03T10:15:00Z", "to": "2026-03-03T10:16:15Z", "reason": None,
    }  # fmt: skip
    line = announced_line(json.dumps(said).encode())
    assert line == (
        "10:15:00  OMS       PLANNED           ACTIVE   transformer TR-000002   OUT-00000, to 10:16:15"
        " (its alarms are held)"
    )
    said |= {"kind": "KNOWN", "to": None, "outage_id": "O\x1b"}
    assert announced_line(json.dumps(said).encode()).endswith("transformer TR-000002   O\N{REPLACEMENT CHARACTER}")


def test_no_control_character_reaches_the_terminal():
    line = alert_line(event_alert(2048, "\x1b[2Jgone\r\n\x07"), colours=False)
    assert line.isprintable()
    assert "�[2Jgone���" in line


def test_colours_on_a_terminal_only_and_not_with_no_color():
    def shown(out: io.StringIO, environment: dict[str, str]) -> str:
        Screen(out, environment).alert(voltage_alert())
        return out.getvalue()

    plain = alert_line(voltage_alert()) + "\n"
    assert shown(io.StringIO(), {}) == plain
    assert shown(Terminal(), {"NO_COLOR": "1"}) == plain
    assert shown(Terminal(), {"TERM": "dumb"}) == plain
    coloured = shown(Terminal(), {})
    assert "\x1b[33mWARNING \x1b[0m" in coloured
    assert shown(Terminal(), {"NO_COLOR": ""}) == coloured


def test_count_stays_below_the_alerts_on_a_terminal():
    out, tally = Terminal(), Tally()
    screen = Screen(out, {"NO_COLOR": "1"})
    screen.count(tally)
    screen.alert(voltage_alert())
    screen.end_count()
    screen.say("end")
    count = f"\r\x1b[K{tally.line()}"
    assert out.getvalue() == f"{count}\r\x1b[K{alert_line(voltage_alert())}\n{count}\nend\n"


def test_count_in_a_file_is_a_line_now_and_then():
    out, tally = io.StringIO(), Tally()
    screen = Screen(out, {})
    screen.count(tally)
    tally.reads = 1
    screen.count(tally)
    assert out.getvalue() == "-- 0 reads · 0 windows · 0 alerts, 0 of 9 types · 0 alarms · 0 dead letters\n"
    screen.count(tally, force=True)
    assert out.getvalue().endswith("-- 1 reads · 0 windows · 0 alerts, 0 of 9 types · 0 alarms · 0 dead letters\n")


def test_repeated_records_count_once():
    tally = Tally()
    letter = DeadLetter("BAD", "why", "ami.headend.reads", 0, 7, AT, b"x")
    for _ in range(2):
        assert tally.take(SUMMARY_TOPIC, summary(AT)) is None
        assert tally.take(SUMMARY_TOPIC, summary(AT + 15_000_000)) is None
        assert tally.take(RECEIPT_TOPIC, b"{}") is None
        assert tally.take(DEAD_LETTER_TOPIC, dead_letter_json(letter)) is None
        assert tally.take(GRID_ALERTS_TOPIC, alert_json(voltage_alert())) == voltage_alert()
        assert tally.take(ALARMS_TOPIC, alarm_json(an_alarm())) == an_alarm()
    tally.reads = 1234
    assert tally.line() == "1,234 reads · 2 windows · 1 alerts, 1 of 9 types · 1 alarms · 1 dead letters"


def test_events_are_told_by_their_code():
    assert kind(event_alert(3841, "Netz wieder da")) == "POWER_RESTORE"
    assert kind(event_alert(3841, "LAST_GASP")) == "POWER_RESTORE"
    assert kind(event_alert(512, "LAST_GASP")) is None
    assert kind(event_alert(None, "LAST_GASP")) is None
    assert kind(voltage_alert(alert_type="LAST_GASP")) == "LAST_GASP"
    assert kind(voltage_alert(alert_type="other")) is None


def test_missing_names_every_type_that_was_not_seen():
    assert missing([]) == [
        *("LOW_VOLTAGE", "HIGH_VOLTAGE", "LOW_RECEIPT_RATE"),
        *("LAST_GASP (3840)", "POWER_RESTORE (3841)", "OUTAGE_DETECTED (3842)"),
        *("TAMPER_DETECTED (2048)", "REVERSE_ENERGY (2049)", "POWER_QUALITY (1024)"),
    ]
    tally = Tally()
    tally.take(GRID_ALERTS_TOPIC, alert_json(voltage_alert()))
    for code in (3840, 3841, 3842, 2048, 2049):
        tally.take(EVENT_ALERTS_TOPIC, alert_json(event_alert(code, "whatever", str(code))))
    assert missing(tally.seen) == ["HIGH_VOLTAGE", "LOW_RECEIPT_RATE", "POWER_QUALITY (1024)"]
    assert missing(ALERT_KINDS) == []


@pytest.mark.parametrize(
    "wrong", ["--window=7s", "--window=1h", "--window=15", "--meters=99", "--meters=many", "--timeout=soon", "--onc"]
)
def test_wrong_options_are_named(wrong, capsys):
    with pytest.raises(SystemExit) as exit_:
        parser().parse_args([wrong])
    assert exit_.value.code == 2
    assert wrong.partition("=")[0] in capsys.readouterr().err


class Demo:
    """`python -m ami_beam.demo` as a user starts it. Everything it starts carries a mark in its environment."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self._mark = f"AMI_BEAM_TEST_MARK={uuid.uuid4()}"
        self._out = directory / "out"
        self.temporary = directory / "tmp"
        self.temporary.mkdir()
        name, _, value = self._mark.partition("=")
        with self._out.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ami_beam.demo", *arguments],
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, name: value, "TMPDIR": str(self.temporary)},
                start_new_session=True,
                # Tests in the background of a shell have SIGINT ignored, and so would the demonstration.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    def output(self) -> str:
        return self._out.read_text(encoding="utf-8")

    def processes(self) -> dict[int, str]:
        """Command lines of everything that runs with the mark, the demonstration itself included."""
        found = {}
        for directory in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if self._mark.encode() in (directory / "environ").read_bytes().split(b"\0"):
                    found[int(directory.name)] = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found

    def pid_of(self, part: str) -> int:
        """The one process with this in its command line."""
        (pid,) = [pid for pid, command in self.processes().items() if part in command]
        return pid

    def wait_until(self, ready: Callable[[], bool], seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.1)

    def wait_until_running(self) -> None:
        """Broker, head-end, pipeline and Flink are there."""
        modules = ("kafka.Kafka", "ami_beam.simulate", "ami_beam.run", "FlinkJobServerDriver")
        self.wait_until(lambda: all(any(name in each for each in self.processes().values()) for name in modules))

    def assert_nothing_is_left(self, ended: bool = True) -> None:
        """No process, and, when it ended by itself, no file."""
        deadline = time.monotonic() + 10
        # A killed process is still there for a moment.
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert self.processes() == {}
        if ended:
            assert list(self.temporary.iterdir()) == []


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    started: list[Demo] = []

    def start(*arguments: str) -> Demo:
        started.append(Demo(tmp_path, *arguments))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait()


def sag_is_on_the_map_within_five_seconds(once: Demo) -> None:
    """Of its alert in the topic, in a browser: the feeder of the first low voltage has a cell that says so."""
    once.wait_until(lambda: "screen is at http" in once.output())
    (url,) = re.findall(r"screen is at (http://127\.0\.0\.1:\d+/)", once.output())
    below = "(feeder) => amiBeam.map.windows().some((end) => '16'.includes(amiBeam.map.code(feeder, end)))"
    with browser() as made:
        page = made.new_page()
        page.goto(f"{url}#/map")
        alert = re.compile(r"LOW_VOLTAGE +RAISED .* feeder (\S+)")
        once.wait_until(lambda: alert.search(once.output()) is not None, 240)
        seen = time.monotonic()
        feeder = alert.search(once.output())[1]
        once.wait_until(lambda: page.evaluate(below, feeder), 60)
        assert time.monotonic() - seen < 5


@LINUX
def test_once_ends_by_itself_when_every_alert_type_was_seen(demo):
    # The same timetable as with the default of 15 s, in a third of the time.
    once = demo("--once", "--window=5s", "--timeout=5m", "--dashboard_port=0")
    if program() is not None:
        sag_is_on_the_map_within_five_seconds(once)
    code = once.process.wait(420)
    output = once.output()
    assert code == 0, output
    for name in ALERT_KINDS:
        assert f"  {name} " in output
    assert "9 of 9 types" in output
    assert "Every alert type was seen" in output
    assert "Traceback" not in output
    once.assert_nothing_is_left()


@LINUX
def test_once_gives_up_and_says_what_is_missing(demo):
    once = demo("--once", "--timeout=1s")
    assert once.process.wait(120) == 1
    assert f"Not seen within 1s: {', '.join(missing([]))}" in once.output()
    once.assert_nothing_is_left()


@LINUX
def test_sigterm_stops_everything(demo):
    live = demo()
    live.wait_until_running()
    live.process.send_signal(signal.SIGTERM)
    assert live.process.wait(60) == 0, live.output()
    assert live.output().endswith("Everything has stopped.\n")
    live.assert_nothing_is_left()


@LINUX
def test_second_ctrl_c_does_not_wait(demo):
    live = demo()
    live.wait_until_running()
    # A pipeline that does not stop.
    os.kill(live.pid_of("-m ami_beam.run "), signal.SIGSTOP)
    live.process.send_signal(signal.SIGINT)
    # Two that come together, as from a terminal and from make, are one.
    live.process.send_signal(signal.SIGINT)
    time.sleep(2)
    assert live.process.poll() is None
    live.process.send_signal(signal.SIGINT)
    assert live.process.wait(25) == 1
    live.assert_nothing_is_left()


@LINUX
def test_death_of_a_child_is_an_error_that_names_it(demo):
    live = demo()
    live.wait_until(lambda: "Starting the pipeline" in live.output())
    os.kill(live.pid_of("-m ami_beam.simulate "), signal.SIGKILL)
    assert live.process.wait(60) == 1
    assert "ami_beam.demo: the head-end ended with code -9:" in live.output()
    live.assert_nothing_is_left()
