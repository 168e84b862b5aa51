"""The web server of the operators' screen, asked over HTTP; Kafka is in test_dashboard_kafka.py."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable

import msgspec
import pytest
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given, settings
from hypothesis import strategies as st

from ami_beam.beam_options import OptionError
from ami_beam.codecs.json_outputs import alarm_json, alert_json, dead_letter_json, receipt_json, summary_json
from ami_beam.dashboard import alarm_views, map_views, server
from ami_beam.dashboard.acknowledgements import NotWrittenError
from ami_beam.dashboard.feed import FeedState, TopicState
from ami_beam.dashboard.health import Health
from ami_beam.dashboard.hub import Hub, Record, Topics
from ami_beam.dashboard.identity import SECRET_HEADER, Identity, Proxy, is_loopback, load_secret
from ami_beam.dashboard.map_views import MapViews
from ami_beam.dashboard.options import plan_of
from ami_beam.dashboard.server import Site, application
from ami_beam.instants import MICROS_PER_DAY, MICROS_PER_SECOND, format_instant
from ami_beam.records import Alarm, Alert, DeadLetter, ReceiptRow, SummaryRow
from ami_beam.results import RESULTS
from ami_beam.settings import Settings
from tests.avro_rows import rows as rows_of
from tests.dashboard_rows import ARRIVED, WINDOW, alarm, alert, end_of, receipt, summary
from tests.test_avro_outputs import SCHEMAS, VALUES

TOPICS = Topics("", None, None, None)
WRITERS = {
    SummaryRow: summary_json,
    ReceiptRow: receipt_json,
    Alarm: alarm_json,
    Alert: alert_json,
    DeadLetter: dead_letter_json,
}
SECRET = "x" * 20
PROXY = {SECRET_HEADER: SECRET, "X-Forwarded-User": "ada"}
ACK = {"X-Ami-Beam": "1", "Content-Type": "application/json"}


def hub_of(*values: tuple[str, bytes]) -> Hub:
    hub = Hub(Settings(), TOPICS, MICROS_PER_DAY)
    for place, (topic, value) in enumerate(values):
        hub.take(topic, [Record(value, 0, place, end_of(1) + ARRIVED)])
    hub.make_digests(100)
    return hub


def rows() -> list[tuple[str, bytes]]:
    return [
        ("ami.transformer.summary", summary_json(summary("TR-1", "F1", 1, 200, 230))),
        ("ami.transformer.receipt", receipt_json(receipt("TR-1", "F1", 1, 3, 4))),
        ("ami.alarms", alarm_json(alarm("a1"))),
        ("ami.alerts.grid", alert_json(alert("l1", "TR-1", 1))),
    ]


class Writer:
    """Takes acknowledgements as the broker does, or not."""

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails
        self.written = []

    def write(self, said):
        if self.fails:
            raise NotWrittenError("The acknowledgement could not be written: no broker has answered")
        self.written.append(said)


def served(
    ask: Callable[[TestClient], Awaitable[None]],
    hub: Hub | None = None,
    identity: Identity | None = None,
    writer: Writer | None = None,
    feed: FeedState | None = None,
    clock: Callable[[], float] = time.time,
) -> None:
    async def run() -> None:
        used = hub or hub_of(*rows())
        state = feed or FeedState(connected=True, caught_up=True)
        site = Site(used, Health(used, state, clock=clock), identity or Identity(None), writer=writer)
        async with TestClient(TestServer(application(site))) as client:
            await ask(client)

    asyncio.run(run())


async def document(client: TestClient, path: str, status: int = 200, **others):
    async with client.get(path, **others) as response:
        assert response.status == status, await response.text()
        assert response.headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        return await response.json()


def test_every_question_is_answered():
    async def ask(client):
        found = await document(client, "/api/map")
        assert found["columns"] == {format_instant(end_of(1)): "1"}
        assert (await document(client, "/api/map?metric=receipt&feeder=F1"))["rows"][0]["id"] == "TR-1"
        window = format_instant(end_of(1))
        assert (await document(client, f"/api/cell?window={window}&feeder=F1"))["worst"] == "TR-1"
        assert (await document(client, f"/api/cell?window={window}&transformer=TR-1"))["min_voltage_v"] == 200.0
        assert (await document(client, "/api/series"))["below"] == [1]
        told = await document(client, "/api/transformers/TR-1")
        assert (len(told["alarms"]), len(told["alerts"]), told["low_voltage_v"]) == (1, 1, 207.0)
        assert (await document(client, "/api/alarms/a1"))["alerts"][0]["id"] == "l1"
        assert (await document(client, "/api/search?q=tr"))["alarms"][0]["id"] == "a1"
        assert (await document(client, "/api/outages"))["active"] == []
        assert (await document(client, "/api/letters"))["total"] == 0
        assert (await document(client, "/api/health"))["delays"]["p50"] == 300.0

    served(ask)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/map?metric=colour", 400),
        ("/api/map?rows=x", 400),
        ("/api/map?rows=١", 400),
        ("/api/map?feeder=F9", 404),
        ("/api/cell?window=yesterday", 400),
        ("/api/cell?window=2026-03-03T00:15:00Z&feeder=F9", 404),
        ("/api/cell?window=2026-03-03T00:15:00Z", 404),
        ("/api/series?feeder=F9", 404),
        ("/api/transformers/TR-9", 404),
        ("/api/transformers/TR-1/reads", 404),
        ("/api/alarms/none", 404),
        ("/api/none", 404),
        ("/static/none.js", 404),
        ("/static/../server.py", 404),
        ("/static/%2e%2e/server.py", 404),
        ("/static/..%2fserver.py", 404),
        ("/static/__init__.py", 404),
    ],
)
def test_a_wrong_question_is_answered_in_words(path, status):
    async def ask(client):
        found = await document(client, path, status)
        assert found["error"]

    served(ask)


def test_names_from_topics_travel_as_data():
    """Whatever they hold: they are found again by a path, and nothing of them is anything but JSON."""
    name = "<script>alert(1)</script>/../%2F?&#\r\n\u2028"
    hub = hub_of(("ami.transformer.summary", summary_json(summary(name, name, 1, 200, 230))))

    async def ask(client):
        from urllib.parse import quote

        told = await document(client, f"/api/transformers/{quote(name, safe='')}")
        assert told["id"] == name
        found = await document(client, "/api/map?feeder=" + quote(name, safe=""))
        assert found["rows"][0]["id"] == name
        async with client.get("/api/map") as response:
            assert response.content_type == "application/json"

    served(ask, hub)


def test_a_page_of_another_name_is_not_served():
    """Whose owner points it at this machine, to ask us things in the browser of who visits it."""

    async def ask(client):
        await document(client, "/api/health", 403, headers={"Host": "evil.example.org:8088"})
        await document(client, "/api/health", 403, headers={"Host": ""})
        await document(client, "/api/health", headers={"Host": "Grid.Example.ORG:443"})
        await document(client, "/api/health", headers={"Host": "[::1]:8088"})

    served(ask, identity=Identity(None, ("grid.example.org",)))


def test_where_others_reach_the_port_only_the_proxy_is_answered():
    async def ask(client):
        await document(client, "/api/health", 403)
        await document(client, "/api/health", 403, headers={SECRET_HEADER: "wrong", "X-Forwarded-User": "ada"})
        await document(client, "/api/health", headers=PROXY)

    served(ask, identity=Identity(Proxy(SECRET, "X-Forwarded-User"), (), True))


def test_acknowledging_needs_a_user_whom_the_proxy_vouches_for():
    hub, writer = hub_of(*rows()), Writer()

    async def ask(client):
        path, body = "/api/alarms/a1/ack", {"comment": " crew is there "}
        for headers, status in (
            (ACK, 401),
            (ACK | {"X-Forwarded-User": "mallory"}, 401),
            (ACK | PROXY | {SECRET_HEADER: "guess"}, 401),
            (ACK | {SECRET_HEADER: SECRET}, 401),
            (PROXY | {"Content-Type": "application/json"}, 403),
            (ACK | PROXY | {"Content-Type": "text/plain"}, 403),
        ):
            async with client.post(path, data=json.dumps(body), headers=headers) as response:
                assert response.status == status, headers
        assert writer.written == []
        async with client.post(path, data=json.dumps(body), headers=ACK | PROXY) as response:
            assert response.status == 201
            assert (await response.json())["user"] == "ada"
        (said,) = writer.written
        assert (said.alarm_id, said.user, said.comment) == ("a1", "ada", "crew is there")
        assert (await document(client, "/api/alarms/a1"))["alarm"]["ack"]["comment"] == "crew is there"
        for data, status in (("no", 400), ('{"comment": 5}', 400), (json.dumps({"comment": "x" * 501}), 413)):
            async with client.post(path, data=data, headers=ACK | PROXY) as response:
                assert response.status == status
        async with client.post(path, data=b"x" * 100_000, headers=ACK | PROXY) as response:
            assert response.status == 413
        async with client.post("/api/alarms/none/ack", data="{}", headers=ACK | PROXY) as response:
            assert response.status == 404

    served(ask, hub, Identity(Proxy(SECRET, "X-Forwarded-User")), writer)


def test_an_acknowledgement_that_no_broker_took_is_none():
    async def ask(client):
        async with client.post("/api/alarms/a1/ack", data="{}", headers=ACK | PROXY) as response:
            assert response.status == 503
            assert "no broker" in (await response.json())["error"]
        assert (await document(client, "/api/alarms/a1"))["alarm"]["ack"] is None

    served(ask, identity=Identity(Proxy(SECRET, "X-Forwarded-User")), writer=Writer(fails=True))


def test_without_a_login_nobody_can_acknowledge():
    async def ask(client):
        async with client.post("/api/alarms/a1/ack", data="{}", headers=ACK | PROXY) as response:
            assert response.status == 403
        async for event, told in events(client):
            if event == "hello":
                assert (told["user"], told["can_acknowledge"]) == (None, False)
                break

    served(ask)


async def events(client: TestClient, headers=None):
    async with client.get("/api/stream", headers=headers) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        event = ""
        async for line in response.content:
            if line.startswith(b"event: "):
                event = line[7:].decode().strip()
            elif line.startswith(b"data: "):
                yield event, json.loads(line[6:])


def test_a_page_is_told_everything_and_then_what_changes():
    hub = hub_of(*rows())

    async def ask(client):
        seen = []
        async for event, told in events(client, PROXY):
            seen.append(event)
            if event == "hello":
                assert (told["user"], told["can_acknowledge"]) == ("ada", True)
            elif event == "health":
                assert told["status"] == "stale"
            elif event == "alarms" and told["full"]:
                assert [each["id"] for each in told["alarms"]] == ["a1"]
            elif event == "changed" and seen.count("changed") == 1:
                changed = told
                hub.take("ami.alarms", [Record(alarm_json(alarm("a2", cause="a1")), 0, 9, end_of(1))])
                hub.take(
                    "ami.transformer.summary",
                    [Record(summary_json(summary("TR-1", "F1", 2, 225, 230)), 0, 9, end_of(2))],
                )
                hub.make_digests()
            elif event == "alarms":
                assert {each["id"] for each in told["alarms"]} == {"a1", "a2"}
                assert {each["id"]: each["explains"] for each in told["alarms"]} == {"a1": 1, "a2": 0}
            elif event == "changed":
                assert told["map"] != changed["map"]
                break
        assert seen[:2] == ["hello", "health"]

    served(ask, hub, Identity(Proxy(SECRET, "X-Forwarded-User")), Writer())


def test_streams_end_when_the_server_does():
    """And do not keep it from ending."""
    ended = []

    async def ask(client):
        async def listen():
            async for _ in events(client):
                pass
            ended.append(True)

        listening = asyncio.create_task(listen())
        await asyncio.sleep(0.2)
        began = time.monotonic()
        await client.server.close()
        await asyncio.wait_for(listening, 5)
        assert time.monotonic() - began < 5

    served(ask)
    assert ended == [True]


def test_so_many_pages_and_no_more(monkeypatch):
    monkeypatch.setattr(server, "_MOST_PAGES", 0)

    async def ask(client):
        await document(client, "/api/stream", 503)

    served(ask)


@pytest.mark.parametrize(
    ("feed", "age", "status"),
    [
        (FeedState(connected=True, caught_up=True), ARRIVED, "ok"),
        (FeedState(connected=True, caught_up=True), 4 * WINDOW, "stale"),
        (FeedState(connected=False, caught_up=True, problem="down"), ARRIVED, "disconnected"),
        (FeedState(connected=True, caught_up=False), ARRIVED, "starting"),
        (FeedState(connected=True, caught_up=True, topics={"t": TopicState(problem="missing")}), ARRIVED, "starting"),
    ],
)
def test_how_it_is_is_said(feed, age, status):
    now = (end_of(1) + age) / MICROS_PER_SECOND

    async def ask(client):
        found = await document(client, "/api/health")
        assert found["status"] == status
        assert found["window_age_seconds"] == age / MICROS_PER_SECOND
        async with client.get("/healthz") as response:
            assert response.status == (200 if status in ("ok", "starting") else 503)

    served(ask, feed=feed, clock=lambda: now)


def test_what_the_job_goes_by_decides_when_results_are_stale():
    """Windows of 15 seconds are stale after a minute and a half and not after half an hour."""
    rules = {"window": "15s", "collection_delay": "5s", "low_voltage_pct": 95.0, "nominal_voltage": 240.0}
    config = json.dumps({"config_id": "c", "version": "1", "started": "2026-03-03T00:00:00Z", "rules": rules})
    hub = hub_of(*rows(), ("ami.config", config.encode()))
    assert (hub.grid.thresholds.low_voltage_pct, hub.grid.thresholds.nominal_voltage) == (95.0, 240.0)
    older = config.replace("03T00", "02T00").replace("95.0", "80.0")
    hub.take("ami.config", [Record(older.encode(), 0, 0, 0)])
    assert hub.grid.thresholds.low_voltage_pct == 95.0
    now = end_of(1) / MICROS_PER_SECOND
    for age, status in ((79, "ok"), (81, "stale")):
        found = Health(hub, FeedState(connected=True, caught_up=True), clock=lambda at=now + age: at).document()
        assert found["status"] == status


def test_records_that_are_none_of_ours_are_counted_and_stop_nothing():
    garbage = [b"", b"\xff", b"{}", b"[]", b"null", b'{"transformer_id": 5}', b"\0\0\0\0\1x", None]
    hub = hub_of(*((topic, value) for topic in (*TOPICS.of_rows(), *TOPICS.whole()) for value in garbage), *rows())
    assert set(hub.unreadable.values()) == {len(garbage)}
    feed = FeedState(connected=True, caught_up=True, topics={"ami.alarms": TopicState()})
    (topic,) = Health(hub, feed).document()["topics"]
    assert topic["problem"] == "8 records could not be read"
    assert hub.board.get("a1") is not None


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("--host=0.0.0.0", "--host"),
        ("--port=70000", "--port"),
        ("--history=30d", "--history"),
        ("--history=soon", "--history"),
        ("--flink=here", "--flink"),
        ("--user_header=a:b", "--user_header"),
        ("--public_host=https://x", "--public_host"),
        ("--acknowledgements=a/b", "--acknowledgements"),
        ("--proxy_secret_file=/nonexistent/secret", "--proxy_secret_file"),
        ("--source=files --reads=/nonexistent", "--reads"),
        ("--windw=15m", "--windw"),
    ],
)
def test_a_wrong_option_is_named(words, names):
    with pytest.raises(OptionError) as caught:
        plan_of(["--bootstrap_servers=localhost:9092", *words.split()])
    assert str(caught.value).startswith(names)


def test_options_have_safe_defaults(tmp_path):
    plan = plan_of(["--bootstrap_servers=localhost:9092"])
    assert (plan.host, plan.identity.proxy, plan.show_customers, plan.given_counts) == ("127.0.0.1", None, False, False)
    assert plan.topics.reads == "ami.headend.reads"
    secret = tmp_path / "secret"
    secret.write_text(SECRET + "\n")
    plan = plan_of(["--bootstrap_servers=x:1", "--host=0.0.0.0", f"--proxy_secret_file={secret}", "--no_reads"])
    assert plan.identity.everyone_by_proxy
    assert plan.topics.reads is None


def test_a_secret_that_could_be_guessed_is_refused(tmp_path):
    for content in (b"short", b"\xff" * 30, b""):
        path = tmp_path / "secret"
        path.write_bytes(content)
        with pytest.raises(OptionError, match="--proxy_secret_file"):
            load_secret(str(path))


def test_which_addresses_are_of_this_machine_only():
    assert all(is_loopback(host) for host in ("localhost", "127.0.0.1", "127.1.2.3", "::1"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "grid.example.org"))


@given(data=st.data())
@settings(max_examples=60)
def test_rows_with_anything_in_their_fields_stop_nothing(data):
    """In JSON and in Avro: whatever a topic holds, all questions are answered, and in JSON."""
    kinds = [each for each in RESULTS if each.topic in (*TOPICS.of_rows(), *TOPICS.whole())]
    drawn = [(each.topic, data.draw(rows_of(each))) for each in data.draw(st.lists(st.sampled_from(kinds), max_size=6))]
    hub = Hub(Settings(), TOPICS, MICROS_PER_DAY, SCHEMAS)
    for topic, row in drawn:
        for value in (WRITERS[type(row)](row), VALUES(row)):
            hub.take(topic, [Record(value, 0, 0, end_of(1))])
    assert not hub.unreadable
    while hub.make_digests():
        pass
    hub.forget()
    views = MapViews(hub.grid)
    for metric in ("voltage", "receipt"):
        told = [views.map(metric, None, None, None), *(views.map(metric, feeder, 0, 0) for feeder in hub.grid.feeders)]
        assert all(len(each["now"]) == len(each["rows"]) for each in told)
        json.loads(msgspec.json.encode(told))
    end = max(hub.grid.windows, default=0)
    for document in (
        map_views.series(hub.grid, None),
        *(map_views.cell(hub.grid, end, feeder, None) for feeder in hub.grid.feeders),
        *(map_views.cell(hub.grid, end, None, name) for name in hub.grid.transformers),
        *(map_views.transformer(hub.grid, name) for name in hub.grid.transformers),
        alarm_views.stream_document(hub.board, None),
        alarm_views.outages_document(hub.board),
        *(alarm_views.detail_document(hub.board, kept.alarm.alarm_id) for kept in hub.board.alarms()),
        server.letters_document(hub, end_of(1)),
        Health(hub, FeedState(connected=True, caught_up=True)).document(),
    ):
        json.loads(msgspec.json.encode(document))
