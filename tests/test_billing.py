"""Validated reads, days of meters and consumption of customers: when they are published and how they are revised."""

from __future__ import annotations

import hmac
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ami_beam.codecs.meter_block import MeterColumns, Version, pack, unpack
from ami_beam.customer_ids import CustomerKeyError, load_key, namer
from ami_beam.instants import MICROS_PER_MILLI, MICROS_PER_MINUTE, format_instant
from ami_beam.records import CustomerChanges
from ami_beam.settings import Settings
from tests.stream import HeadEnd, at, read_json
from transforms.customer_days import Customers
from transforms.interval_versions import settled, winners
from transforms.meter_days import DayLogEntry, judged
from transforms.validate_reads import IntervalChanges, day_reads, first_publication, revise

BOTH = ("customer_consumption", "validated_reads")


def head_end(**settings) -> HeadEnd:
    options = {"also_publish": BOTH, "live": True, "customer_id": "keep", "max_disorder": "1h", **settings}
    return HeadEnd(**options)


def go_on(head_end: HeadEnd, clock: str) -> HeadEnd:
    """The head-end is heard at `clock`.

    Time passes in steps, because this runner fires timers of a jump in any order. Late reads are gathered for half an
    hour, half of the disorder: what is long ago is a backlog.
    """
    head_end.backlog_of_reads(clock, read_json(meter_id="M9", customer_id="C9", read_type="EVENT"))
    start = head_end._watermark or at("00:00")
    for minute in range(start - start % MICROS_PER_MINUTE, at(clock) + 1, MICROS_PER_MINUTE):
        for millis in range(5):
            head_end.until(minute + millis * MICROS_PER_MILLI)
    return head_end


class TestReads:
    def test_a_read_is_published_with_its_window(self):
        stream = head_end().reads("10:16", read_json(delivered_kwh=1.25, consumption_kwh=1.0, received_kwh=0.25))
        (row,) = go_on(stream, "10:21").run().interval("10:15")
        assert (row.service_point_id, row.customer_id, row.transformer_id) == ("S1", "C1", "T1")
        assert (row.interval_start, row.interval_end) == (at("10:00"), at("10:15"))
        assert (row.consumption_kwh, row.delivered_kwh, row.received_kwh) == (1.0, 1.25, 0.25)
        assert (row.quality, row.espi_quality, row.late, row.revised, row.flags) == ("ACTUAL", 14, False, False, [])
        assert (row.as_of, row.revision) == (at("10:16"), 0)

    def test_an_estimate_that_is_replaced_is_a_revision(self):
        stream = head_end().reads("10:16", read_json(estimated_flag=True))
        stream = go_on(stream, "10:30").reads("10:31", read_json(consumption_kwh=2.0, delivered_kwh=2.0))
        first, second = go_on(stream, "11:10").run().interval("10:15")
        assert (first.quality, first.espi_quality, first.late, first.revised) == ("ESTIMATED", 11, False, False)
        assert (second.quality, second.consumption_kwh, second.late, second.revised) == ("ACTUAL", 2.0, True, True)
        assert second.as_of == at("10:31")

    def test_a_late_estimate_does_not_replace_but_shows(self):
        stream = go_on(head_end().reads("10:16", read_json()), "10:30")
        stream.reads("10:31", read_json(consumption_kwh=9.0, estimated_flag=True))
        first, second = go_on(stream, "11:10").run().interval("10:15")
        assert (first.revised, second.revised, second.quality, second.consumption_kwh) == (False, True, "ACTUAL", 1.0)

    def test_a_duplicate_changes_nothing(self):
        stream = go_on(head_end().reads("10:16", read_json(), read_json()), "10:30").reads("10:31", read_json())
        (row,) = go_on(stream, "11:10").run().interval("10:15")
        assert not row.revised

    def test_the_meter_counts_and_not_its_transformer(self):
        stream = head_end().reads("10:16", read_json(), read_json(transformer_id="T2", read_ts="2026-03-03T10:16:00Z"))
        (row,) = go_on(stream, "10:30").run().interval("10:15")
        assert (row.transformer_id, row.revised) == ("T2", False)

    def test_a_window_of_which_only_late_reads_come_is_published(self):
        (row,) = go_on(head_end().reads("12:00", read_json()), "12:40").run().interval("10:15")
        assert (row.late, row.revision) == (True, 0)

    def test_what_is_too_late_for_windows_is_taken_for_billing(self):
        stream = head_end(allowed_lateness="30m").reads("09:00", read_json(end="08:15"))
        published = go_on(stream, "09:40").run()
        (row,) = published.interval("08:15")
        assert row.late
        assert published.summaries == []
        (letter,) = published.dead_letters
        assert (letter.reason, letter.used) == ("TOO_LATE", True)

    def test_what_is_too_late_for_billing_is_set_aside(self):
        stream = head_end(allowed_lateness="30m", billing_lateness="40m").reads("09:00", read_json(end="08:15"))
        published = go_on(stream, "09:30").run()
        assert published.validated == published.customers == []
        assert [letter.used for letter in published.dead_letters] == [False]

    def test_without_a_consumer_nothing_more_is_taken(self):
        stream = head_end(also_publish=(), allowed_lateness="30m").reads("09:00", read_json(end="08:15"))
        published = go_on(stream, "09:30").run()
        assert published.validated == published.customers == []
        assert [letter.used for letter in published.dead_letters] == [False]

    @pytest.mark.parametrize(
        ("fields", "flags", "quality"),
        [
            ({"delivered_kwh": 1e5}, ["IMPLAUSIBLE", "UNBALANCED"], 10),
            ({"delivered_kwh": 1.5}, ["UNBALANCED"], 10),
            ({"consumption_kwh": -1.0, "delivered_kwh": 0.0, "received_kwh": 1.0}, ["NEGATIVE"], 14),
            ({"consumption_kwh": 0.0, "delivered_kwh": 0.0, "received_kwh": 1.0}, [], 14),
            ({"consumption_kwh": 1.0, "delivered_kwh": 0.0}, [], 14),
        ],
    )
    def test_a_read_is_marked(self, fields, flags, quality):
        (row,) = go_on(head_end().reads("10:16", read_json(**fields)), "10:21").run().interval("10:15")
        assert (row.flags, row.espi_quality) == (flags, quality)


class TestCustomers:
    def test_a_month_is_what_has_come_so_far(self):
        stream = head_end().reads("10:16", read_json(), read_json(meter_id="M2", delivered_kwh=0.5, received_kwh=2.0))
        stream = go_on(stream, "10:30").reads("10:31", read_json(end="10:30", delivered_kwh=0.3))
        first, second = go_on(stream, "11:10").run().customer_month()
        assert (first.interval_start, first.interval_end) == (at("10:00"), at("10:15"))
        assert (first.interval_delivered_kwh, first.interval_received_kwh, first.interval_net_kwh) == (1.5, 2.0, -0.5)
        assert (first.day, first.day_delivered_kwh, first.month_delivered_kwh, first.intervals) == (DAY, 1.5, 1.5, 2)
        assert (second.interval_delivered_kwh, second.interval_received_kwh) == (0.3, 0.0)
        assert (second.day_delivered_kwh, second.day_received_kwh, second.day_net_kwh) == (1.8, 2.0, -0.2)
        assert (second.month_delivered_kwh, second.month_net_kwh, second.intervals) == (1.8, -0.2, 3)
        assert (first.as_of, second.as_of) == (at("10:16"), at("10:31"))

    def test_a_replaced_estimate_is_counted_once(self):
        stream = head_end().reads("10:16", read_json(estimated_flag=True, delivered_kwh=5.0))
        stream = go_on(stream, "10:30").reads("10:31", read_json(delivered_kwh=2.0))
        first, second = go_on(stream, "11:10").run().customer_month()
        assert (first.month_delivered_kwh, first.estimated_intervals) == (5.0, 1)
        assert (second.month_delivered_kwh, second.day_delivered_kwh, second.interval_delivered_kwh) == (2.0, 2.0, 2.0)
        assert (second.intervals, second.estimated_intervals) == (1, 0)

    def test_a_late_read_of_an_earlier_interval_leaves_the_last_one(self):
        stream = go_on(head_end().reads("10:31", read_json(end="10:30")), "10:40").reads("10:41", read_json())
        _, second = go_on(stream, "11:10").run().customer_month()
        assert (second.interval_end, second.interval_delivered_kwh, second.day_delivered_kwh) == (at("10:30"), 1.0, 2.0)

    def test_another_customer_takes_a_meter_over(self):
        stream = go_on(head_end().reads("10:16", read_json()), "10:30")
        stream.reads("10:31", read_json(customer_id="C2", read_ts="2026-03-03T10:20:00Z"))
        published = go_on(stream, "11:10").run()
        assert [row.intervals for row in published.customer_month("C1")] == [1, 0]
        assert [row.month_delivered_kwh for row in published.customer_month("C2")] == [1.0]

    def test_an_implausible_energy_is_not_added_up(self):
        published = go_on(head_end().reads("10:16", read_json(delivered_kwh=1e17)), "10:30").run()
        assert published.customers == []

    def test_a_day_comes_when_it_is_over_and_again_when_it_changes(self):
        stream = go_on(head_end().reads("23:46", read_json(end="23:45")), "23:59")
        over = at("23:59") + 30 * MICROS_PER_MINUTE
        for minute in range(at("23:59"), over, MICROS_PER_MINUTE):
            for millis in range(5):
                stream.until(minute + millis * MICROS_PER_MILLI)
        stream.reads(over, read_json(end="22:00"))
        for minute in range(over, over + 100 * MICROS_PER_MINUTE, MICROS_PER_MINUTE):
            for millis in range(5):
                stream.until(minute + millis * MICROS_PER_MILLI)
        published = stream.run()
        first, second = published.customer_day()
        assert (first.delivered_kwh, first.intervals, second.delivered_kwh, second.intervals) == (1.0, 1, 2.0, 2)
        assert [row.intervals_reported for row in published.meter_day()] == [1, 2]

    def test_days_are_those_of_the_time_zone(self):
        published = go_on(head_end(time_zone="Asia/Tokyo").reads("16:16", read_json(end="16:15")), "16:30").run()
        (row,) = published.customer_month()
        assert row.day == "2026-03-04"


class TestDays:
    def test_a_register_is_held_against_the_intervals(self):
        stream = head_end().reads("10:16", read_json(consumption_kwh=1.0))
        daily = {"read_type": "DAILY", "interval_start": "2026-03-03T00:00:00Z", "minutes": 1}
        stream = go_on(stream, "10:30").reads("10:31", read_json(end="10:31", consumption_kwh=1.5, **daily))
        (row,) = go_on(stream, "11:10").run().meter_day()
        assert (row.consumption_kwh, row.register_kwh, row.flags) == (1.0, 1.5, ["GAP", "SUM_MISMATCH"])
        assert (row.intervals_expected, row.missing_minutes, row.first_gap) == (96, 24 * 60 - 15, at("00:00"))

    def test_spikes_stand_out_of_the_third_highest(self):
        reads = [read_json(end=f"{hour:02}:00", consumption_kwh=1.0) for hour in range(1, 12)]
        reads[5] = read_json(end="06:00", consumption_kwh=2.9)
        (row,) = go_on(head_end().reads("11:01", *reads), "11:40").run().meter_day()
        assert (row.spikes, row.first_spike) == (1, at("06:00"))

    def test_half_a_day_without_energy_shows(self):
        reads = [
            read_json(end=f"{hour:02}:{quarter:02}", consumption_kwh=0.0, delivered_kwh=0.0)
            for hour in range(12)
            for quarter in (15, 30, 45)
        ]
        reads += [read_json(end=f"{hour:02}:00", consumption_kwh=0.0, delivered_kwh=0.0) for hour in range(1, 13)]
        (row,) = go_on(head_end().reads("12:01", *reads), "12:40").run().meter_day()
        assert (row.longest_zero_run, row.flags) == (48, ["GAP", "ZERO_RUN"])


DAY = "2026-03-03"
_versions = st.lists(
    st.builds(
        lambda meter, end, stamp, actual, arrival, kwh, customer, start: Version(
            f"M{meter}", at("10:15") - end, at("10:20") + stamp, actual, at("10:18") + arrival * MICROS_PER_MINUTE, 0,
            arrival, "S", f"C{customer}", "T", at("10:00") - start * 11 * 60 * MICROS_PER_MINUTE, kwh, kwh, 0.0,
        ),
        st.integers(0, 2), st.integers(0, 1), st.integers(0, 1), st.booleans(), st.integers(0, 9),
        st.sampled_from([0.5, 1.0]), st.integers(0, 1), st.integers(0, 1),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda version: version.offset,
)  # fmt: skip


def columns(versions: list[Version]) -> MeterColumns:
    of = dict(zip(Version._fields, zip(*versions, strict=True), strict=True))
    texts = [list(of[name]) for name in ("meter_id", "service_point_id", "customer_id", "transformer_id")]
    names = ("interval_start", "interval_end", "read_ts", "record_time", "partition", "offset")
    kwh = [np.array(of[name], np.float64) for name in ("consumption_kwh", "delivered_kwh", "received_kwh")]
    return MeterColumns(*texts, *(np.array(of[name], np.int64) for name in names), *kwh, ~np.array(of["actual"], bool))


class TestAnyOrder:
    @given(_versions)
    def test_blocks_give_back_what_was_packed(self, versions):
        there = columns(versions)
        assert unpack([pack(there)]).versions() == versions

    @given(_versions, st.integers(0, 2**32), st.integers(1, 4))
    def test_the_end_is_the_same_however_reads_come(self, versions, seed, parts):
        """What is published last of each interval, and what customers and meters have in the end."""
        luck = random.Random(seed)
        luck.shuffle(versions)
        cuts = sorted(luck.randrange(len(versions) + 1) for _ in range(parts))
        pieces = [versions[a:b] for a, b in zip([0, *cuts], [*cuts, len(versions)], strict=True) if a < b]
        # Some are read twice, as after a failure.
        pieces += [luck.sample(versions, luck.randrange(1, len(versions) + 1)) for _ in range(luck.randrange(2))]
        settings = Settings(also_publish=BOTH, shards=1)
        first = columns(pieces[0])
        every = [first_publication(first)]
        earlier = None
        for piece in pieces[1:]:
            earlier, changes = revise(first, earlier, [pack(columns(piece))], at("10:20"))
            every.append(changes)
        told: dict[tuple, tuple] = {}
        for changes in every:
            for place, version in enumerate(changes.now.versions()):
                key, revision = version[:2], int(changes.revisions[place])
                assert revision == (told[key][1] + 1 if key in told else 0)
                told[key] = (version, revision, bool(changes.revised[place]))
        by_key: dict[tuple, list[Version]] = {}
        for version in versions:
            by_key.setdefault(version[:2], []).append(version)
        for key, each in by_key.items():
            winner, revised = settled(each)
            assert (told[key][0][2:4], told[key][0][7:], told[key][2]) == (winner[2:4], winner[7:], revised)
        counting = [settled(each)[0] for each in by_key.values()]
        self.check_customers(every, counting, settings)
        self.check_days(every, counting, settings, luck)

    def check_customers(self, every: list[IntervalChanges], counting: list[Version], settings: Settings) -> None:
        from transforms.validate_reads import customer_changes

        days: dict[str, list[CustomerChanges]] = {}
        for changes in every:
            for (_, day), news in customer_changes(changes, settings):
                days.setdefault(day, []).append(news)
        expected: dict[tuple, list[float]] = {}
        for version in counting:
            day = format_instant(version.interval_start)[:10]
            expected.setdefault((day, version.customer_id), []).append(version.delivered_kwh)
        found = {}
        for day, news in days.items():
            at_once, one_by_one = Customers(None), Customers(None)
            at_once.add(news)
            for each in news:
                one_by_one.add([each])
                one_by_one = Customers(one_by_one.kept())
            rows = {row.customer_id: row for row in at_once.rows(day, np.arange(len(at_once)))}
            again = {row.customer_id: row for row in one_by_one.rows(day, np.arange(len(one_by_one)))}
            assert rows == again
            found |= {(day, name): row for name, row in rows.items()}
        assert {key: (row.delivered_kwh, row.intervals) for key, row in found.items()} == {
            key: (sum(each), len(each)) for key, each in expected.items()
        }

    def check_days(self, every, counting, settings, luck) -> None:
        days: dict[str, list[DayLogEntry]] = {}
        for changes in every:
            for day, news in day_reads(changes, settings):
                days.setdefault(day, []).append(DayLogEntry(reads=news))
        expected: dict[tuple, list[float]] = {}
        for version in counting:
            day = format_instant(version.interval_start)[:10]
            expected.setdefault((day, version.meter_id), []).append(version.consumption_kwh)
        for day, entries in days.items():
            cut = luck.randrange(len(entries) + 1)
            first, last = [], entries
            told = {}
            if cut:
                kept, rows = judged(entries[:cut], {}, day, settings)
                told, first, last = {row.meter_id: row for row in rows}, [kept], entries[cut:]
            _, rows = judged([*first, *last], told, day, settings)
            told |= {row.meter_id: row for row in rows}
            for meter, row in told.items():
                each = expected.get((day, meter), [])
                assert (row.intervals_reported, row.consumption_kwh) == (len(each), sum(each)), (day, meter)

    @given(_versions)
    def test_winners_of_a_window_are_those_of_the_definition(self, versions):
        chosen, revised = winners(columns(versions))
        places = range(len(versions)) if chosen is None else chosen.tolist()
        found = {versions[p][:2]: (versions[p], bool(r)) for p, r in zip(places, revised.tolist(), strict=True)}
        by_key: dict[tuple, list[Version]] = {}
        for version in versions:
            by_key.setdefault(version[:2], []).append(version)
        assert found == {key: settled(each) for key, each in by_key.items()}


class TestNames:
    def test_a_hash_is_that_of_rfc_2104(self, tmp_path: Path):
        for key in (b"0123456789abcdef", b"k" * 100):
            file = tmp_path / "key"
            file.write_bytes(key + b"\n")
            (found,) = namer("hmac", str(file))(["CUST-Ä"])
            assert found == hmac.digest(key, "CUST-Ä".encode(), "sha256").hex()[:32]

    def test_a_key_that_can_be_guessed_is_refused(self, tmp_path: Path):
        (tmp_path / "key").write_text("short\n")
        with pytest.raises(CustomerKeyError, match="5 bytes"):
            load_key(str(tmp_path / "key"))
        with pytest.raises(CustomerKeyError, match="cannot be read"):
            load_key(str(tmp_path / "none"))

    def test_rows_have_the_hash_or_nothing(self, tmp_path: Path):
        key = tmp_path / "key"
        key.write_text("0123456789abcdef")
        stream = head_end(customer_id="hmac", customer_key_file=str(key)).reads("10:16", read_json())
        published = go_on(stream, "10:30").run()
        hashed = hmac.digest(b"0123456789abcdef", b"C1", "sha256").hex()[:32]
        assert [row.customer_id for row in published.interval("10:15")] == [hashed]
        assert [row.month_delivered_kwh for row in published.customer_month(hashed)] == [1.0]
        stream = head_end(customer_id="drop", also_publish=("validated_reads",)).reads("10:16", read_json())
        assert [row.customer_id for row in go_on(stream, "10:30").run().interval("10:15")] == [None]
