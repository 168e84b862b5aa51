"""Loss-control alarms: tamper that repeats and reverse energy where no producer is registered, in any order."""

from __future__ import annotations

import base64
import csv
import gzip
import json
import pickle
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from msgspec.structs import replace

from ami_beam.beam_options import OptionError
from ami_beam.csv_table import TableError
from ami_beam.instants import MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_MINUTE, format_instant, parse_instant
from ami_beam.io import producers_source
from ami_beam.io.producers_source import FollowedProducers
from ami_beam.options import validate
from ami_beam.producers import parse
from ami_beam.records import Alarm, Event, GroupInput, MeterPlaces
from ami_beam.settings import Settings
from tests.replays import EVENTS, READS, SIMBENCH, exported, needs_simbench, replay_with
from tests.stream import HeadEnd, at, read_json
from tests.test_explain import explain
from transforms.locate_events import FOLLOW, KeptMeters, PowerNews, follow_meters, locate
from transforms.loss_control import KeptLosses, LossNews, meter_group, take_news
from transforms.loss_episodes import TOGETHER, loss_alarm, loss_episodes
from transforms.loss_events import REVERSE_ENERGY_UNREGISTERED, TAMPER_REPEATED, LossEvent, _LossEventsDoFn
from transforms.publish_alarms import KeptGroup, forget_group, update_group
from transforms.published_alarms import group_of

TAMPER, REVERSE_ENERGY = 2048, 2049
DAY = 1_772_496_000_000_000
HOUR = MICROS_PER_HOUR


def spans(heard: dict[float, float], least: int) -> list[tuple[float, float, int]]:
    """Episodes of events {hour: hours until it arrived}: hours of the first and the last event, and how many."""
    found = loss_episodes({DAY + int(at * HOUR): DAY + int((at + late) * HOUR) for at, late in heard.items()}, least)
    return [((e.times[0] - DAY) / HOUR, (e.times[-1] - DAY) / HOUR, len(e.times)) for e in found]


class TestEpisodes:
    def test_so_many_within_a_day_open_one(self):
        assert spans({0: 0, 12: 0}, 3) == []
        assert spans({0: 0, 12: 0, 24: 0}, 3) == [(0, 24, 3)]
        assert spans({0: 0, 12: 0, 24.1: 0}, 3) == []
        # The first is no part of it.
        assert spans({0: 0, 12: 0, 24.1: 0, 30: 0}, 3) == [(12, 30, 3)]
        assert spans({5: 0}, 1) == [(5, 5, 1)]

    def test_it_goes_on_while_events_come_within_a_day(self):
        assert spans({0: 0, 24: 0, 48: 0}, 1) == [(0, 48, 3)]
        assert spans({0: 0, 24.1: 0, 48.1: 0}, 1) == [(0, 0, 1), (24.1, 48.1, 2)]
        assert spans({0: 0, 1: 0, 2: 0, 26: 0, 51: 0}, 3) == [(0, 26, 4)]

    def test_a_late_event_opens_none_and_counts_in_an_open_one(self):
        assert spans({0: 1, 1: 0, 2: 0}, 3) == [(0, 2, 3)]
        assert spans({0: 1.1, 1: 0, 2: 0}, 3) == []
        assert spans({0: 0, 1: 0, 2: 0, 20: 5, 40: 0}, 3) == [(0, 40, 5)]
        # What came before it is no part of it.
        assert spans({0: 2, 1: 0, 2: 0, 3: 0}, 3) == [(1, 3, 3)]


events = st.builds(
    lambda kind, meter, hour, late: LossEvent(meter, kind, DAY + hour * HOUR, DAY + int((hour + late) * HOUR)),
    kind=st.sampled_from([TAMPER_REPEATED, REVERSE_ENERGY_UNREGISTERED]),
    meter=st.sampled_from(["M1", "M2"]),
    hour=st.integers(0, 240),
    late=st.sampled_from([0, 0.5, 1, 1.5, 23]),
)


def expected(told: Iterable[LossEvent], read_to: int, settings: Settings) -> dict[str, Alarm]:
    """By the definition: everything at once."""
    heard: dict[tuple[str, str], dict[int, int]] = defaultdict(dict)
    for event in told:
        times = heard[event.alarm_type, event.meter_id]
        times[event.at] = min(event.record_time, times.get(event.at, event.record_time))
    found = {}
    for (alarm_type, meter_id), times in heard.items():
        for episode in loss_episodes(times, settings.tamper_events if alarm_type == TAMPER_REPEATED else 1):
            alarm = loss_alarm(alarm_type, meter_id, episode, None, read_to, settings.window)
            found[alarm.alarm_id] = alarm
    return found


class Told:
    """What consumers of the topic know, by the step that publishes."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._groups: dict[str, KeptGroup] = defaultdict(KeptGroup)
        self.alarms: dict[str, Alarm] = {}

    def take(self, found: dict, watermark: int) -> None:
        for meter_id, alarms in found.items():
            key, group = meter_group(meter_id), self._groups[meter_id]
            for alarm in update_group(key, group, [GroupInput(alarms)], watermark, self._settings):
                self.alarms[alarm.alarm_id] = replace(alarm)
        for group in self._groups.values():
            forget_group(group, watermark, self._settings)

    def standing(self) -> dict[str, Alarm]:
        """Without those taken back, revisions and times of publication."""
        for alarm in self.alarms.values():
            alarm.revision = 0
        return {name: alarm for name, alarm in self.alarms.items() if alarm.windows_in_violation}


SHORT = Settings(live=True, allowed_lateness=2 * HOUR, max_disorder=HOUR, tamper_events=2)


@examples(deadline=None)
@given(
    st.lists(events, max_size=14), st.randoms(use_true_random=False), st.integers(1, 3),
    st.sampled_from([Settings(live=True), SHORT]),
)  # fmt: skip
def test_any_order_of_arrival_gives_the_same_alarms(told, random, most, settings):
    told = [each for each in told if each.record_time - each.at <= settings.allowed_lateness]
    arriving = list(told)
    random.shuffle(arriving)
    kept, topic, looks = KeptLosses(), Told(settings), set()
    while arriving:
        # The watermark is never ahead of what is still to come.
        kept.read_to = max(kept.read_to, min(each.record_time for each in arriving))
        news = [LossNews(each, each.record_time) for each in arriving[:most]]
        del arriving[:most]
        found, again = take_news(kept, news, settings)
        topic.take(found, kept.read_to)
        looks |= again
    while looks:
        kept.read_to = max(kept.read_to, min(looks))
        looks = {each for each in looks if each > kept.read_to}
        found, again = take_news(kept, [], settings)
        topic.take(found, kept.read_to)
        looks |= again
    assert kept.heard == {}
    wanted = expected(told, DAY + 1_000 * MICROS_PER_DAY, settings)
    standing = topic.standing()
    assert {alarm.state for alarm in standing.values()} <= {"CLEARED"}
    for name, alarm in standing.items():
        # What is told never goes back in as_of, also where the alarm was open for longer once.
        assert alarm.as_of >= wanted[name].as_of
        alarm.as_of = wanted[name].as_of
    assert standing == wanted


@examples(deadline=None)
@given(st.lists(events, max_size=14), st.randoms(use_true_random=False), st.integers(0, 300))
def test_a_replay_gives_the_state_of_the_greatest_record_time(told, random, hour):
    settings = Settings(live=False)
    news = [*(LossNews(each, each.record_time) for each in told), LossNews(None, DAY + hour * HOUR)]
    random.shuffle(news)
    kept = KeptLosses()
    found, again = take_news(kept, news, settings)
    read_to = max(each.at for each in news)
    alarms = [alarm for several in found.values() for each in several for alarm in each.alarms]
    assert {alarm.alarm_id: alarm for alarm in alarms} == expected(told, read_to, settings)
    assert (kept.read_to, again) == (read_to, set())
    assert {alarm.state for alarm in alarms if alarm.last_window + TOGETHER + settings.window <= read_to} <= {"CLEARED"}


def test_what_a_failed_attempt_left_in_the_topic_is_set_right():
    (episode,) = loss_episodes({DAY: DAY}, 1)
    alarm = loss_alarm(TAMPER_REPEATED, "M1", episode, "F1", DAY, Settings().window)
    # By whom the meter's alarms are published, whatever its feeder is.
    assert group_of(alarm) == meter_group("M1")
    news = GroupInput(published=[alarm])
    (told,) = update_group(meter_group("M1"), KeptGroup(), [news], DAY, Settings(live=True))
    assert (told.alarm_id, told.state, told.windows_in_violation) == (alarm.alarm_id, "CLEARED", 0)


def event_json(meter_id: str, instant: int, code: int = TAMPER) -> bytes:
    return json.dumps({"meter_id": meter_id, "event_code": code, "event_ts": format_instant(instant)}).encode()


@pytest.mark.parametrize(("late", "counts"), [(25, False), (24, True), (-24, True), (-25, False)])
def test_what_came_much_too_late_or_from_a_clock_far_ahead_counts_for_nothing(late, counts):
    event = Event("M1", TAMPER, None, DAY, DAY + late * HOUR, 0, 0)
    assert bool(list(_LossEventsDoFn(Settings(), None).process(event))) == counts
    # Nobody knows who is a producer.
    assert not list(_LossEventsDoFn(Settings(), None).process(replace(event, event_code=REVERSE_ENERGY)))


def told(head_end: HeadEnd, meter_id: str, *times: str | int, code: int = TAMPER) -> None:
    """Events that arrive a few seconds after they happened."""
    for each in times:
        instant = at(each) if isinstance(each, str) else each
        head_end.events(instant + 5_000_000, event_json(meter_id, instant, code))


NEXT_DAY = at("00:00") + MICROS_PER_DAY


class TestStream:
    def test_they_open_grow_and_are_over_by_themselves(self):
        head_end = HeadEnd(live=True, producers=frozenset({"P1"}))
        head_end.reads("10:00", read_json(end="10:00"))
        told(head_end, "M1", "10:02")
        head_end.events("10:03", event_json("M1", at("10:02")))
        told(head_end, "P1", "10:04", code=REVERSE_ENERGY)
        told(head_end, "M2", "10:05", code=REVERSE_ENERGY)
        told(head_end, "M1", "11:00", "14:30")
        # Late, and part of what is open.
        head_end.events("16:00", event_json("M1", at("14:10")))
        published = head_end.until(NEXT_DAY + 16 * MICROS_PER_HOUR).run()
        tamper = published.alarm(TAMPER_REPEATED, "10:15", "M1")
        assert [(each.state, each.worst_value) for each in tamper] == [("ACTIVE", 3), ("ACTIVE", 4), ("CLEARED", 4)]
        assert [each.as_of for each in tamper] == [
            at("14:30") + 5_000_000, at("16:00"), at("14:30") + MICROS_PER_DAY,
        ]  # fmt: skip
        last = tamper[-1]
        assert (last.began_at, last.ended_at) == (at("10:02"), at("14:30") + MICROS_PER_DAY)
        assert (last.last_window, last.windows_in_violation) == (at("14:30"), 4)
        assert (last.severity, last.worst_meter_id) == ("WARNING", "M1")
        # Where the meter hangs is known from its reads; of M2 there is none.
        assert {each.feeder_id for each in tamper} == {"F1"}
        reverse = published.alarm(REVERSE_ENERGY_UNREGISTERED, "10:15", "M2")
        assert [(each.state, each.worst_value) for each in reverse] == [("ACTIVE", 1), ("CLEARED", 1)]
        assert {each.feeder_id for each in reverse} == {None}
        assert {each.entity_id for each in published.alarms} == {"M1", "M2"}

    @pytest.mark.parametrize(("hours", "state"), [(23, "ACTIVE"), (24, "CLEARED")])
    def test_a_replay_gives_the_end_by_how_far_it_has_read(self, hours, state):
        head_end = HeadEnd(tamper_events=2)
        head_end.reads("10:00", read_json(end="10:00"))
        told(head_end, "M1", "10:02", "10:30")
        told(head_end, "M2", "10:31", code=REVERSE_ENERGY)
        later = at("10:30") + hours * MICROS_PER_HOUR
        published = head_end.reads(later, read_json(end="10:30")).run()
        # This runner's timers do not wait for those of the step before; those of replays do.
        alarm = published.alarm(TAMPER_REPEATED, "10:15", "M1")[-1]
        assert (alarm.state, alarm.worst_value, alarm.feeder_id) == (state, 2, "F1")
        assert {each.entity_id for each in published.alarms} <= {"M1", "T1"}


def places(window_end: int, feeder_id: str, *meters: str) -> PowerNews:
    return PowerNews(MeterPlaces(window_end, list(meters), ["T1"] * len(meters), {"T1": feeder_id}), [])


def asked(meter_id: str, at: int) -> PowerNews:
    return PowerNews(None, [], LossEvent(meter_id, TAMPER_REPEATED, at, at))


@examples(deadline=None)
@given(st.permutations([places(1, "F1", "M1"), places(2, "F2", "M1", "M2"), asked("M1", 5), asked("M3", 5)]))
def test_the_feeder_is_that_of_the_latest_window_in_any_order(news):
    kept, told = KeptMeters(), {}
    for each in news:
        locate(kept, [each])
        for found in follow_meters(kept, [each], Settings()):
            told[found.meter_id] = found.feeder_id
    assert told == {"M1": "F2"}
    assert set(kept.followed) == {"M1", "M3"}
    # Who asks later is told again, and who did not ask is told nothing.
    assert [each.feeder_id for each in follow_meters(kept, [asked("M1", 6), asked("M2", 6)], Settings())] == [
        "F2",
        "F2",
    ]
    locate(kept, [places(3, "F1", "M1", "M2", "M3", "M4")])
    assert {each.meter_id for each in follow_meters(kept, [], Settings())} == {"M1", "M2", "M3"}
    assert kept.followed["M1"].until == 6 + FOLLOW


def refusal(text: str) -> str:
    with pytest.raises(TableError) as caught:
        parse(text.encode(), "producers.csv")
    return str(caught.value)


class TestProducers:
    def test_the_column_is_what_counts(self):
        text = "\ufeff# of the registry\nname, meter_id \nA,M1\nB, M2 \n# no more\nC,M1\n"
        assert parse(text.encode(), "producers.csv") == {"M1", "M2"}

    def test_what_is_wrong_is_named_with_its_line_and_fix(self):
        said = refusal("meter_id,name\nM1,A\n,B\n")
        assert said.startswith("producers.csv: bad file of producers")
        assert "line 3: meter_id is empty; name a meter, or remove the line" in said
        assert "the first line must name the column meter_id; meter_id is missing" in refusal("meter\nM1\n")
        assert "there is no row" in refusal("meter_id\n")

    def test_the_option_names_file_and_line(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.chdir(tmp_path)
        Path("transformer_meter_count.csv").write_text("transformer_id,total_meters\nT1,2\n")
        Path("producers.csv.gz").write_bytes(gzip.compress(b"meter_id\nM1\n"))
        Path("bad.csv").write_text("meter_id,name\n,B\n")
        assert validate(["--bootstrap_servers=b:1", "--producers=producers.csv.gz"])[1].producers == "producers.csv.gz"
        assert validate(["--bootstrap_servers=b:1"])[1].producers is None
        with pytest.raises(OptionError, match="line 2: meter_id is empty"):
            validate(["--bootstrap_servers=b:1", "--producers=bad.csv"])

    def test_workers_follow_the_file_and_keep_the_last_good_version(self, tmp_path: Path):
        path = tmp_path / "producers.csv"
        path.write_text("meter_id\n" + "".join(f"M{number}\n" for number in range(10_000)))
        sent = pickle.dumps(FollowedProducers(str(path), 0))
        assert len(sent) < 1_000
        followed = pickle.loads(sent)
        assert "M9999" in followed
        assert "N1" not in followed
        path.write_text("meter_id\nN1\n")
        assert "N1" in followed
        assert "M9999" not in followed
        path.write_text("meter_id\n,\n")
        assert "N1" in followed
        path.unlink()
        assert "N1" in followed
        # Without any good version nobody is taken for no producer.
        producers_source._versions.clear()
        with pytest.raises(TableError):
            _ = "N1" in followed

    def test_a_replay_looks_once(self, tmp_path: Path):
        path = tmp_path / "producers.csv"
        path.write_text("meter_id\nM1\n")
        followed = FollowedProducers(str(path))
        assert "M1" in followed
        path.write_text("meter_id\nM2\n")
        assert "M1" in followed


@needs_simbench
def test_a_replay_of_files_has_them_and_explains_them(tmp_path_factory: pytest.TempPathFactory):
    """Against what the events say, counted here; half of the meters with reverse energy are producers."""
    happened: dict[int, dict[str, set[int]]] = {TAMPER: defaultdict(set), REVERSE_ENERGY: defaultdict(set)}
    for row in exported(EVENTS):
        try:
            value = json.loads(base64.b64decode(row["value_b64"]))
            instant = parse_instant(value["event_ts"])
            code = value["event_code"]
            if code in happened and 0 <= row["ts_ms"] * 1_000 - instant <= 50 * MICROS_PER_MINUTE:
                happened[code][value["meter_id"]].add(instant)
        except (ValueError, TypeError, KeyError):
            continue
    feeding = sorted(happened[REVERSE_ENERGY])
    producers = tmp_path_factory.mktemp("producers") / "producers.csv"
    producers.write_text("meter_id\n" + "".join(f"{meter}\n" for meter in feeding[::2]))
    done = replay_with("--tamper_events=1", f"--producers={producers}")
    with (SIMBENCH / "meter_registry.csv").open() as registry:
        feeders = {row["meter_id"]: row["feeder_id"] for row in csv.DictReader(registry)}
    alarms = [
        row for row in done.rows("ami.alarms") if row["alarm_type"] in (TAMPER_REPEATED, REVERSE_ENERGY_UNREGISTERED)
    ]
    assert Counter(row["alarm_type"] for row in alarms) == {
        TAMPER_REPEATED: len(happened[TAMPER]),
        REVERSE_ENERGY_UNREGISTERED: len(feeding[1::2]),
    }
    for row in alarms:
        times = happened[TAMPER if row["alarm_type"] == TAMPER_REPEATED else REVERSE_ENERGY][row["entity_id"]]
        assert row["began_at"] == format_instant(min(times))
        assert row["worst_value"] >= len(times)
        assert (row["feeder_id"], row["revision"]) == (feeders[row["entity_id"]], 0)
    where = ("--source=files", f"--reads={READS}", f"--events={EVENTS}", f"--output={done.output}")
    alarm = max(alarms, key=lambda row: (row["worst_value"], row["alarm_id"]))
    shown = json.loads(explain(alarm["alarm_id"], *where, "--json").stdout)
    assert len({event["event_ts"] for event in shown["events"]}) == alarm["worst_value"]
    text = explain(alarm["alarm_id"], *where).stdout
    assert f"{alarm['alarm_type']} on meter {alarm['entity_id']}" in text
    assert "What it said:" in text
