"""The operators' screen in a real browser, fed by a real broker."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from ami_beam.codecs.json_outputs import (
    ALARMS_TOPIC,
    DEAD_LETTER_TOPIC,
    EVENT_ALERTS_TOPIC,
    GRID_ALERTS_TOPIC,
    RECEIPT_TOPIC,
    RESULT_TOPICS,
    SUMMARY_TOPIC,
    alarm_json,
    alert_json,
    dead_letter_json,
    receipt_json,
    summary_json,
)
from ami_beam.dashboard.hub import ACK_TOPIC
from ami_beam.instants import format_instant
from ami_beam.local.kafka_broker import KafkaBroker
from ami_beam.records import DeadLetter
from benchmarks.dashboard import interactions, running
from tests.dashboard_rows import ARRIVED, alarm, alert, end_of, receipt, summary
from tests.dashboard_screen import NOW, PROXY, Screen, proxied, read_json, send
from tests.kafka_replay import READS

HOSTILE = "<script>window.hacked = 1</script>"
HOSTILE_ID = "\"'><img src=x onerror=window.hacked=1>\u202e\x1b[31m"
VIEWS = ("#/", "#/map", "#/feeder/F1", "#/transformer/TR-1", "#/alarms", "#/alarm/low", "#/outages", "#/receipt",
         "#/letters", "#/health", "#/none")  # fmt: skip
TOO_WIDE = """() => document.documentElement.scrollWidth <= innerWidth ? [] :
  [...document.querySelectorAll("body *")]
    .filter((each) => each.getBoundingClientRect().right > innerWidth && !each.closest(".scroll table, .map-scroll *"))
    .map((each) => `${each.tagName} ${each.className}: ${each.textContent}`.slice(0, 80)).slice(0, 5)"""
PHONE, DESK, WALL = (360, 740), (1280, 900), (2560, 1440)


@pytest.fixture(scope="module")
def broker() -> Iterator[KafkaBroker]:
    """Its own, because it is stopped."""
    with KafkaBroker() as made:
        made.create_topics([READS, ACK_TOPIC, *RESULT_TOPICS])
        send(made, *grid())
        yield made


@pytest.fixture(scope="module")
def screen(broker: KafkaBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Screen]:
    made = proxied(broker, tmp_path_factory.mktemp("screen"))
    made.wait(lambda: made.ask("api/health")["status"] == "ok" and made.ask("api/health")["windows"] == 12)
    yield made
    made.child.stop()


@pytest.fixture
def open_page(chromium: Browser, screen: Screen) -> Iterator[Callable[..., Page]]:
    """Pages of contexts of their own. A script that fails, and a request that is not the page's own, fail the test."""
    contexts = []
    wrong: list[str] = []

    def make(address: str = "#/", user: str | None = None, size: tuple[int, int] = DESK) -> Page:
        headers = {**PROXY, "X-Forwarded-User": user} if user else {}
        context = chromium.new_context(
            viewport={"width": size[0], "height": size[1]}, extra_http_headers=headers, reduced_motion="reduce"
        )
        contexts.append(context)
        context.set_default_timeout(20_000)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if "Content Security" in said.text else None)
        page.on(
            "request",
            lambda asked: wrong.append(asked.url) if not asked.url.startswith((screen.url, "data:")) else None,
        )
        page.goto(screen.url + address)
        expect(page.locator("#connection")).to_have_attribute("data-status", re.compile("ok|disconnected"))
        return page

    yield make
    for context in contexts:
        context.close()
    assert wrong == []


def grid() -> list[tuple[str, bytes]]:
    """Twelve windows of three feeders with four transformers each, alarms of most kinds, alerts and dead letters."""
    records: list[tuple[str, bytes]] = []
    for number in range(NOW - 11, NOW + 1):
        for feeder in (1, 2, 3):
            for place in range(4):
                name = f"TR-{(feeder - 1) * 4 + place + 1}"
                low = 201.5 if name == "TR-1" and number > NOW - 4 else 224.0 - place
                records.append((SUMMARY_TOPIC, summary_json(summary(name, f"F{feeder}", number, low, 236.0 + feeder))))
                heard = 1 if name == "TR-9" else 5
                records.append((RECEIPT_TOPIC, receipt_json(receipt(name, f"F{feeder}", number, heard, 5))))
    usual = {"first_window": end_of(NOW - 3), "last_window": end_of(NOW), "as_of": end_of(NOW) + ARRIVED}
    outage = {"alarm_type": "TRANSFORMER_OUTAGE", "severity": "CRITICAL", "began_at": end_of(NOW) - 60_000_000}
    for each in (
        alarm("low", "TR-1", **usual),
        alarm("low", "TR-1", **usual, revision=1, worst_value=199.0),
        alarm("child", "TR-9", **usual, alarm_type="LOW_RECEIPT_RATE", feeder_id="F3", cause="group", worst_value=20.0),
        alarm("group", "F3", **usual, alarm_type="COMM_GROUP", feeder_id="F3", worst_value=20.0),
        alarm("out", "TR-5", **usual, **outage, feeder_id="F2", worst_value=60.0, meters_total=5),
        alarm("over", "TR-6", **usual, feeder_id="F2", state="CLEARED"),
        alarm("hostile", HOSTILE_ID, **usual, alarm_type=HOSTILE, feeder_id=HOSTILE_ID),
    ):
        records.append((ALARMS_TOPIC, alarm_json(each)))
    records += [(GRID_ALERTS_TOPIC, alert_json(alert(f"a{n}", "TR-1", n))) for n in range(NOW - 3, NOW + 1)]
    gasp = alert("e1", "M-1", NOW, alert_source="EVENT", alert_type=HOSTILE, window_start=None, window_end=None)
    records.append((EVENT_ALERTS_TOPIC, alert_json(gasp)))
    for offset in range(3):
        letter = DeadLetter("NOT_JSON", HOSTILE, READS, 0, offset, end_of(NOW), b"CUSTOMER-7")
        records.append((DEAD_LETTER_TOPIC, dead_letter_json(letter)))
    return records


def code(page: Page, row: str, number: int) -> str:
    return page.evaluate("([row, window]) => amiBeam.map.code(row, window)", [row, format_instant(end_of(number))])


def wait(found: Callable[[], bool], seconds: float = 20) -> float:
    """Seconds until it was so."""
    began = time.monotonic()
    while not found():
        assert time.monotonic() - began < seconds
        time.sleep(0.05)
    return time.monotonic() - began


def test_a_sag_is_on_the_map_within_five_seconds_of_its_alert(broker, open_page):
    page = open_page("#/map")
    wait(lambda: code(page, "F2", NOW) == "3")
    send(
        broker,
        (SUMMARY_TOPIC, summary_json(summary("TR-7", "F2", NOW, 199.0, 238.0, as_of=1_000_000, revision=1))),
        (GRID_ALERTS_TOPIC, alert_json(alert("sag", "TR-7", NOW))),
    )
    assert wait(lambda: code(page, "F2", NOW) == "1") < 5
    # What stands in the worst order is first.
    wait(lambda: page.evaluate("amiBeam.map.rows()[2]") == "F3", 30)


def test_the_map_by_keyboard(open_page):
    page = open_page("#/map")
    wait(lambda: code(page, "F1", NOW) == "1")
    page.get_by_label("Sort rows by").select_option(label="Name")
    group = page.get_by_role("group", name=re.compile("map", re.IGNORECASE)).first
    group.focus()
    page.keyboard.press("Control+Home")
    page.keyboard.press("End")
    live = page.locator("#map-live")
    expect(live).to_contain_text("F1")
    expect(live).to_contain_text("below")
    page.keyboard.press("ArrowDown")
    expect(live).to_contain_text("F2")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Feeder F1")
    assert page.evaluate("document.activeElement.tagName") == "H1"
    wait(lambda: code(page, "TR-1", NOW) == "1")
    assert code(page, "TR-2", NOW) == "3"
    assert "Feeder F1" in page.title()


def test_a_cell_tells_its_numbers_when_pointed_at(open_page):
    page = open_page("#/feeder/F1")
    wait(lambda: code(page, "TR-1", NOW) == "1")
    page.get_by_label("Sort rows by").select_option(label="Name")
    box = page.locator("#map").bounding_box()
    page.mouse.move(box["x"] + box["width"] - 20, box["y"] + 34)
    tip = page.get_by_role("tooltip")
    expect(tip).to_contain_text("201.5")
    expect(tip).to_contain_text("TR-1")
    page.mouse.click(box["x"] + box["width"] - 20, box["y"] + 34)
    expect(page.get_by_role("heading", level=1)).to_have_text("Transformer TR-1")


def test_the_map_as_a_table_and_with_receipt_rates(open_page):
    page = open_page("#/map")
    page.get_by_label("Metric").select_option(label="Receipt rate")
    wait(lambda: code(page, "F3", NOW) == "2")
    assert code(page, "F1", NOW) == "3"
    page.get_by_label("Filter rows").fill("f3")
    wait(lambda: page.evaluate("amiBeam.map.rows()") == ["F3"])
    page.get_by_role("button", name="Show as table").click()
    row = page.get_by_role("table").get_by_role("row", name=re.compile("F3"))
    expect(row).to_contain_text("80")


def test_filters_of_alarms(open_page):
    page = open_page("#/alarms")
    table = page.get_by_role("table", name="Alarms")
    body = table.locator("tbody tr")
    expect(body).to_have_count(4)
    expect(page.get_by_text("1 hidden that another explains")).to_be_visible()
    page.get_by_label("Also those that another explains").check()
    expect(body).to_have_count(5)
    page.get_by_label("Severity").select_option(label="Critical")
    expect(body).to_have_count(1)
    expect(body).to_contain_text("Transformer outage")
    page.get_by_label("Severity").select_option(label="All")
    page.get_by_label("Type").select_option(label="Low voltage")
    page.get_by_label("State").select_option(label="All")
    expect(body).to_have_count(2)
    page.get_by_role("combobox", name="Feeder", exact=True).fill("F2")
    expect(body).to_have_count(1)
    # The address has them: it can be sent to somebody.
    again = open_page(page.url[page.url.index("#") :])
    expect(again.get_by_role("table", name="Alarms").locator("tbody tr")).to_have_count(1)


def test_an_alarm_with_its_revisions_its_cause_and_its_alerts(open_page):
    page = open_page("#/alarm/low")
    expect(page.get_by_role("heading", level=1)).to_contain_text("TR-1")
    expect(page.get_by_role("table", name=re.compile("Revisions"))).to_contain_text("199")
    page.get_by_role("button", name="Show the alerts of its windows").click()
    expect(page.get_by_role("table", name="Alerts").locator("tbody tr")).to_have_count(4)
    page = open_page("#/alarm/child")
    page.get_by_role("main").get_by_role("link", name=re.compile("Meters silent together")).first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("F3")
    expect(page.get_by_role("table", name="Alarms that it explains")).to_contain_text("TR-9")


def test_who_is_known_acknowledges_and_others_see_it(open_page):
    nobody, ada = open_page("#/alarm/out"), open_page("#/alarm/out", user="ada <b>")
    expect(ada.locator("#user")).to_contain_text("ada <b>")
    ada.get_by_label("Comment").fill("crew is there <i>now</i>")
    ada.get_by_role("button", name="Acknowledge").click()
    expect(ada.get_by_role("main")).to_contain_text("ada <b>")
    expect(nobody.get_by_role("main")).to_contain_text("crew is there <i>now</i>")
    expect(nobody.get_by_role("button", name="Acknowledge")).to_have_count(0)
    expect(nobody.get_by_label("Comment")).to_have_count(0)
    nobody.goto(nobody.url.replace("#/alarm/out", "#/alarms"))
    row = nobody.get_by_role("table", name="Alarms").get_by_role("row", name=re.compile("TR-5"))
    expect(row).to_contain_text("ada <b>")


def test_what_comes_from_a_topic_is_text(open_page):
    """An alarm's type, a name, the detail of a dead letter: nothing in them is ever run, or steers the page."""
    page = open_page("#/alarms")
    expect(page.get_by_role("table", name="Alarms")).to_contain_text(HOSTILE)
    page.get_by_role("table", name="Alarms").get_by_role("link", name=re.compile("script")).first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("img src=x")
    page.goto(page.url[: page.url.index("#")] + "#/letters")
    expect(page.get_by_role("main")).to_contain_text(HOSTILE)
    assert "CUSTOMER-7" not in page.content()
    page.get_by_role("searchbox", name=re.compile("Find")).or_(page.get_by_role("combobox")).first.fill("img src")
    expect(page.get_by_role("option").first).to_contain_text("script")
    assert page.evaluate("window.hacked") is None
    assert page.locator("main img, main script").count() == 0


def test_search_leads_to_what_was_found(open_page):
    page = open_page()
    box = page.locator("#search-input")
    box.fill("tr-1")
    expect(page.get_by_role("option")).not_to_have_count(0)
    box.press("ArrowDown")
    box.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile("TR-1"))


def test_a_transformers_page_and_its_meters_reads(broker, open_page):
    send(broker, (READS, read_json("TR-1", "M-77", end_of(NOW))), (READS, read_json("TR-2", "M-78", end_of(NOW))))
    page = open_page("#/transformer/TR-1")
    main = page.get_by_role("main")
    expect(main).to_contain_text("207")
    expect(page.locator(".uplot")).to_have_count(3)
    page.get_by_role("button", name="Load its meters' reads").or_(
        page.get_by_role("button", name=re.compile("Load its"))
    ).first.click()
    reads = page.get_by_role("table", name="Reads")
    expect(reads).to_contain_text("M-77")
    expect(reads).not_to_contain_text("M-78")
    assert "CUSTOMER-7" not in page.content()


def test_dead_letters_and_the_pipeline(open_page):
    page = open_page("#/letters")
    row = page.get_by_role("row", name=re.compile("NOT_JSON"))
    expect(row).to_contain_text("3")
    expect(row).to_contain_text(f"{READS}/0/2")
    page = open_page("#/health")
    main = page.get_by_role("main")
    expect(main).to_contain_text(SUMMARY_TOPIC)
    expect(main).to_contain_text("99")


def test_late_revisions_are_shown_as_revisions(broker, screen, open_page):
    page = open_page("#/transformer/TR-12")
    expect(page.get_by_role("main")).to_contain_text("No window was revised")
    later = summary("TR-12", "F3", NOW - 5, 200.0, 240.0, as_of=9_000_000, revision=1)
    send(broker, (SUMMARY_TOPIC, summary_json(later)))
    expect(page.get_by_role("main")).to_contain_text("revised after they were first published")
    expect(page.get_by_role("main")).not_to_contain_text("No window was revised")
    revised = screen.ask("api/map?feeder=F3")
    assert revised["revised"][format_instant(end_of(NOW - 5))] == [3]


@pytest.mark.parametrize("address", VIEWS)
def test_no_serious_fault_of_accessibility(open_page, address):
    page = open_page(address, user="ada")
    page.wait_for_timeout(500)
    found = Axe().run(page)
    serious = [each for each in found.response["violations"] if each["impact"] in ("serious", "critical")]
    assert not serious, json.dumps(
        [(each["id"], [node["html"] for node in each["nodes"]][:3]) for each in serious], indent=1
    )


def test_both_themes_can_be_read(open_page):
    page = open_page("#/alarms")
    for _ in range(3):
        page.get_by_role("button", name=re.compile("Theme")).click()
        found = Axe().run(page)
        assert not [each["id"] for each in found.response["violations"] if each["id"] == "color-contrast"]


@pytest.mark.parametrize("size", [PHONE, DESK, WALL], ids=["phone", "desk", "wall"])
def test_no_view_is_wider_than_the_screen(open_page, size):
    page = open_page(size=size)
    for address in VIEWS:
        page.goto(page.url.partition("#")[0] + address)
        page.wait_for_timeout(200)
        assert page.evaluate(TOO_WIDE) == [], address


def test_it_goes_on_by_itself_and_says_what_is_wrong(broker, screen, open_page):
    """A restart of the broker, and then of the server: the page is never loaded again."""
    page = open_page("#/map")
    page.evaluate("window.mark = 1")
    status = page.locator("html")
    broker.stop_node(0, signal.SIGKILL)
    expect(status).to_have_attribute("data-status", "disconnected", timeout=60_000)
    expect(page.locator("#connection")).to_contain_text("Kafka does not answer")
    assert code(page, "F1", NOW) == "1"
    broker.start_node(0)
    send(broker, (SUMMARY_TOPIC, summary_json(summary("TR-12", "F3", NOW, 199.0, 240.0, as_of=2_000_000, revision=1))))
    wait(lambda: code(page, "F3", NOW) == "1", 60)
    expect(status).to_have_attribute("data-status", "ok", timeout=60_000)
    # A server that hangs, and closes no connection.
    screen.child.signal(signal.SIGSTOP)
    expect(status).to_have_attribute("data-status", "lost", timeout=30_000)
    screen.child.signal(signal.SIGCONT)
    expect(status).to_have_attribute("data-status", "ok", timeout=60_000)
    assert page.evaluate("window.mark") == 1


def test_stale_results_are_said(broker, chromium, tmp_path: Path):
    screen = Screen(broker, tmp_path, "--stale_after=1s")
    try:
        page: Any = chromium.new_page()
        page.goto(screen.url)
        expect(page.locator("html")).to_have_attribute("data-status", "stale", timeout=60_000)
        expect(page.locator("#connection")).to_contain_text("no new results")
        page.close()
    finally:
        screen.child.stop()


def test_half_a_million_transformers_stay_responsive(chromium):
    """What the page does by itself within 200 ms, what it asks the server for within a second; benchmarks.dashboard
    measures a day of them."""
    with running(500_000, 2, 0) as server:
        took = {name: median for name, (median, _) in interactions(chromium, server.url, 500_000)}
    own = ("move the cursor down", "move it a page down", "filter rows", "drawing of the map alone")
    assert {name: took[name] for name in own if took[name] > 200} == {}
    asked = ("open a feeder", "open a transformer", "go back to the map", "search, which waits 150 ms for more")
    assert {name: took[name] for name in asked if took[name] > 1_000} == {}
