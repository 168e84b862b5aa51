"""The page's web server: static files, questions answered as JSON, and one stream of server-sent events for each page.

Answers are made in threads, so that a long one holds up nobody else. Nothing from a topic is ever part of a header, a
path or HTML: it travels as JSON, and the page sets it as text.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from ami_beam import __version__
from ami_beam.dashboard import alarm_views, map_views
from ami_beam.dashboard.acknowledgements import AckWriter, NotWrittenError
from ami_beam.dashboard.alarm_board import Acknowledgement
from ami_beam.dashboard.health import Health
from ami_beam.dashboard.hub import MOST_COMMENT, Hub
from ami_beam.dashboard.identity import Identity
from ami_beam.dashboard.map_views import MapViews
from ami_beam.dashboard.meter_reads import BusyError, MeterReads, UnreachableError
from ami_beam.dashboard.name_index import NameIndex
from ami_beam.instants import MICROS_PER_HOUR, MICROS_PER_MINUTE, MICROS_PER_SECOND, format_instant, parse_instant

_HEARTBEAT_SECONDS = 2.0
_TICK_SECONDS = 0.5
_SLOW_PAGE_SECONDS = 10.0
_MOST_PAGES = 500
_MOST_BODY = 16_384
_LETTER_MINUTES = 120
_MOST_READ_WINDOWS = 96
_SEARCHED = 20
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "geolocation=(), camera=(), microphone=()",
}
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
Answer = TypeVar("Answer")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_log = logging.getLogger(__name__)


@dataclass
class Site:
    """What requests are answered from."""

    hub: Hub
    health: Health
    identity: Identity
    reads: MeterReads | None = None
    """None: there is no topic of reads."""
    writer: AckWriter | None = None
    """None: nobody can acknowledge."""
    show_customers: bool = False
    maps: MapViews = field(init=False)
    names: Names = field(init=False)
    pages: int = 0
    """Open streams."""
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.maps = MapViews(self.hub.grid)
        self.names = Names(self.hub)


class Names:
    """The names of feeders and transformers, indexed again when there are others, in the thread that asks."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._version = 0
        self._feeders = self._transformers = NameIndex([])

    def search(self, text: str) -> dict[str, Any]:
        grid = self._hub.grid
        with self._hub.lock:
            version = grid.rows_version
            names = None if version == self._version else (list(grid.feeders), list(dict.fromkeys(grid.transformers)))
        if names is not None:
            self._feeders, self._transformers = NameIndex(names[0]), NameIndex(names[1])
            self._version = version
        transformers = self._transformers.find(text, _SEARCHED)
        wanted = text.casefold()
        with self._hub.lock:
            alarms = [
                kept.alarm
                for kept in self._hub.board.alarms()
                if wanted in kept.alarm.entity_id.casefold() or kept.alarm.alarm_id.startswith(wanted)
            ]
            alarms.sort(key=lambda alarm: (alarm.state != "ACTIVE", -alarm.first_window))
            return {
                "feeders": self._feeders.find(text, _SEARCHED),
                "transformers": [
                    {"id": name, "feeder_id": grid.feeder_of(grid.places(name)[0])} for name in transformers
                ],
                "alarms": [
                    {"id": alarm.alarm_id, "type": alarm.alarm_type, "entity_id": alarm.entity_id}
                    for alarm in alarms[:_SEARCHED]
                ],
            }


SITE: web.AppKey[Site] = web.AppKey("site", Site)


def application(site: Site) -> web.Application:
    """The application, for a runner of aiohttp."""
    app = web.Application(middlewares=[_guard], client_max_size=_MOST_BODY)
    app[SITE] = site
    app.add_routes(
        [
            web.get("/", _page),
            web.get("/static/{path:[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)?}", _static),
            web.get("/healthz", _alive),
            web.get("/api/stream", _stream),
            web.get("/api/health", _health),
            web.get("/api/map", _map),
            web.get("/api/cell", _cell),
            web.get("/api/series", _series),
            web.get("/api/transformers/{id}", _transformer),
            web.get("/api/transformers/{id}/reads", _reads),
            web.get("/api/alarms/{id}", _alarm),
            web.post("/api/alarms/{id}/ack", _acknowledge),
            web.get("/api/outages", _outages),
            web.get("/api/letters", _letters),
            web.get("/api/search", _search),
        ]
    )
    app.on_shutdown.append(_close_pages)
    return app


class _Refused(Exception):
    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@web.middleware
async def _guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    site = request.app[SITE]
    try:
        refusal = site.identity.refusal(request.headers)
        if refusal is not None:
            raise _Refused(403, refusal)
        response = await handler(request)
    except _Refused as refused:
        response = _json({"error": str(refused)}, refused.status)
    except web.HTTPException as error:
        response = _json({"error": error.reason}, error.status)
    except (asyncio.CancelledError, ConnectionResetError):
        raise
    except Exception:
        _log.exception("A question could not be answered: %s", request.path)
        response = _json({"error": "The server failed; its log says why"}, 500)
    if not response.prepared:
        response.headers.update(_HEADERS)
        response.headers.setdefault("Cache-Control", "no-store")
    return response


async def _close_pages(app: web.Application) -> None:
    app[SITE].closing.set()


def _json(document: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(document), status=status, content_type="application/json")


async def _locked(site: Site, make: Callable[[], Answer]) -> Answer:
    """What is made under the hub's lock, in another thread."""

    def locked() -> Answer:
        with site.hub.lock:
            return make()

    return await asyncio.to_thread(locked)


def _found(document: Answer | None, what: str) -> Answer:
    if document is None:
        raise _Refused(404, f"{what} is not known")
    return document


async def _page(request: web.Request) -> web.StreamResponse:
    return _file("index.html")


async def _static(request: web.Request) -> web.StreamResponse:
    return _file(request.match_info["path"])


def _file(name: str) -> web.Response:
    # The pattern of the route lets no ".." through but as a whole name, which is no file.
    path = Path(str(files("ami_beam.dashboard") / "static")) / name
    if path.suffix not in _TYPES or not path.is_file():
        raise _Refused(404, "There is no such file")
    # Asked for again with each visit, so that a new version is there at once.
    return web.Response(
        body=path.read_bytes(), content_type=_TYPES[path.suffix], charset="utf-8", headers={"Cache-Control": "no-cache"}
    )


async def _alive(request: web.Request) -> web.StreamResponse:
    """For a supervisor: 200 while what is shown is of now, or is being read; else 503 and why."""
    document = await asyncio.to_thread(request.app[SITE].health.document, False)
    well = document["status"] in ("ok", "starting")
    return web.Response(text=f"{document['status']}: {document['message']}\n", status=200 if well else 503)


async def _health(request: web.Request) -> web.StreamResponse:
    return _json(await asyncio.to_thread(request.app[SITE].health.document))


async def _map(request: web.Request) -> web.StreamResponse:
    site, query = request.app[SITE], request.query
    metric = query.get("metric", "voltage")
    if metric not in ("voltage", "receipt"):
        raise _Refused(400, "metric is voltage or receipt")
    rows, since, feeder = _integer(query, "rows"), _integer(query, "since"), query.get("feeder")
    document = await _locked(site, lambda: site.maps.map(metric, feeder, rows, since))  # type: ignore[arg-type]
    return _json(_found(document, "This feeder"))


async def _cell(request: web.Request) -> web.StreamResponse:
    site, query = request.app[SITE], request.query
    end = _instant(query.get("window", ""))
    feeder, transformer = query.get("feeder"), query.get("transformer")
    document = await _locked(site, lambda: map_views.cell(site.hub.grid, end, feeder, transformer))
    return _json(_found(document, "This row"))


async def _series(request: web.Request) -> web.StreamResponse:
    site, feeder = request.app[SITE], request.query.get("feeder")
    return _json(_found(await _locked(site, lambda: map_views.series(site.hub.grid, feeder)), "This feeder"))


async def _transformer(request: web.Request) -> web.StreamResponse:
    site, identity = request.app[SITE], request.match_info["id"]

    def make() -> dict[str, Any] | None:
        document = map_views.transformer(site.hub.grid, identity)
        board = site.hub.board
        alarms, alerts = board.of_entities([identity]), board.alerts_of(identity)
        if document is None and not alarms and not alerts:
            return None
        document = document or {"id": identity, "feeders": [], "windows": []}
        document["alarms"] = [alarm_views.alarm_document(each, board) for each in alarms[: alarm_views.MOST_EXPLAINED]]
        document["alerts"] = [alarm_views.alert_document(each) for each in alerts[-alarm_views.MOST_ALERTS :]]
        return document

    return _json(_found(await _locked(site, make), "This transformer"))


async def _reads(request: web.Request) -> web.StreamResponse:
    site, identity = request.app[SITE], request.match_info["id"]
    if site.reads is None:
        raise _Refused(404, "The topic of reads is not read by this page; see --reads")
    count = _integer(request.query, "windows") or 4
    if not 1 <= count <= _MOST_READ_WINDOWS:
        raise _Refused(400, f"windows is 1 to {_MOST_READ_WINDOWS}")
    with site.hub.lock:
        grid = site.hub.grid
        end = max(grid.windows, default=None)
        length = grid.window_length
        known = bool(grid.places(identity))
    if not known or end is None or length is None:
        raise _Refused(404, "This transformer is not known")
    try:
        # The read of a window in which nothing was published yet may be there, too.
        return _json(await asyncio.to_thread(site.reads.find, identity, end - count * length, end + length))
    except BusyError as error:
        raise _Refused(429, str(error)) from None
    except UnreachableError as error:
        raise _Refused(503, str(error)) from None


async def _alarm(request: web.Request) -> web.StreamResponse:
    site, identity = request.app[SITE], request.match_info["id"]
    document = await _locked(site, lambda: alarm_views.detail_document(site.hub.board, identity))
    return _json(_found(document, "This alarm"))


async def _outages(request: web.Request) -> web.StreamResponse:
    site = request.app[SITE]
    return _json(await _locked(site, lambda: alarm_views.outages_document(site.hub.board)))


async def _letters(request: web.Request) -> web.StreamResponse:
    site = request.app[SITE]
    return _json(await _locked(site, lambda: letters_document(site.hub, int(time.time() * MICROS_PER_SECOND))))


async def _search(request: web.Request) -> web.StreamResponse:
    text = request.query.get("q", "").strip()[:200]
    if not text:
        return _json({"feeders": [], "transformers": [], "alarms": []})
    return _json(await asyncio.to_thread(request.app[SITE].names.search, text))


class _Said(msgspec.Struct):
    comment: str = ""


async def _acknowledge(request: web.Request) -> web.StreamResponse:
    site, identity = request.app[SITE], request.match_info["id"]
    # A page of another origin can send neither of them without asking first, which nobody answers.
    if request.headers.get("X-Ami-Beam") != "1" or request.content_type != "application/json":
        raise _Refused(403, "Content-Type: application/json and X-Ami-Beam: 1 are needed")
    if site.writer is None:
        raise _Refused(403, "Nobody can acknowledge here: there is no login; see --proxy_secret_file")
    user = site.identity.user(request.headers)
    if user is None:
        raise _Refused(401, "Who you are is not known: log in through the reverse proxy")
    try:
        comment = msgspec.json.decode(await request.read(), type=_Said).comment.strip()
    except msgspec.MsgspecError:
        raise _Refused(400, 'The body is {"comment": "…"}') from None
    except web.HTTPRequestEntityTooLarge:
        raise _Refused(413, f"A comment has at most {MOST_COMMENT} characters") from None
    if len(comment) > MOST_COMMENT:
        raise _Refused(413, f"A comment has at most {MOST_COMMENT} characters")
    with site.hub.lock:
        if site.hub.board.get(identity) is None:
            raise _Refused(404, "This alarm is not known")
    now = int(time.time() * MICROS_PER_SECOND)
    said = Acknowledgement(identity, user, now // 1000 * 1000, comment)
    try:
        await asyncio.to_thread(site.writer.write, said)
    except NotWrittenError as error:
        raise _Refused(503, str(error)) from None
    with site.hub.lock:
        site.hub.board.acknowledge(said)
    _log.info("Alarm %s was acknowledged", identity)
    return _json(alarm_views.acknowledgement_document(said), 201)


async def _stream(request: web.Request) -> web.StreamResponse:
    site = request.app[SITE]
    if site.pages >= _MOST_PAGES:
        raise _Refused(503, f"{_MOST_PAGES} pages are open already")
    response = web.StreamResponse(
        headers={
            **_HEADERS,
            "Content-Type": "text/event-stream; charset=utf-8",
            "Cache-Control": "no-store",
            # A proxy that gathers what it passes on would show everything late.
            "X-Accel-Buffering": "no",
        }
    )
    site.pages += 1
    try:
        await response.prepare(request)
        await _send_all(site, response, site.identity.user(request.headers))
    except (ConnectionError, TimeoutError):
        pass  # the page has gone, or does not take anything any more
    finally:
        site.pages -= 1
    return response


async def _send_all(site: Site, response: web.StreamResponse, user: str | None) -> None:
    async def send(event: str, document: Any) -> None:
        data = b"event: %s\ndata: %s\n\n" % (event.encode(), msgspec.json.encode(document))
        async with asyncio.timeout(_SLOW_PAGE_SECONDS):
            await response.write(data)

    with site.hub.lock:
        window = site.hub.window or site.hub.grid.window_length
    await send("hello", hello_document(site, user, window))
    health_at = alarms_version = -1.0
    versions: dict[str, int] | None = None
    while not site.closing.is_set():
        now = time.monotonic()
        if now >= health_at + _HEARTBEAT_SECONDS:
            health_at = now
            await send("health", await asyncio.to_thread(site.health.document, False))
        with site.hub.lock:
            board_version = site.hub.board.version
        if board_version != alarms_version:
            since = None if alarms_version < 0 else int(alarms_version)
            told = partial(alarm_views.stream_document, site.hub.board, since)
            await send("alarms", await _locked(site, told))
            alarms_version = board_version
        current = await _locked(site, lambda: _versions(site))
        if current != versions:
            versions = current
            await send("changed", versions)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(site.closing.wait(), _TICK_SECONDS)


def _versions(site: Site) -> dict[str, int]:
    hub = site.hub
    return {
        "map": site.maps.map_version(),
        "letters": hub.letters.version,
        "announced": hub.board.announced_version + hub.board.version,
    }


def hello_document(site: Site, user: str | None, window: int | None) -> dict[str, Any]:
    """What a page is told first."""
    return {
        "server_id": site.hub.server_id,
        "user": user,
        "can_acknowledge": user is not None and site.writer is not None,
        "show_customers": site.show_customers,
        "window_seconds": None if window is None else window / MICROS_PER_SECOND,
        "version": __version__,
        "history_hours": site.hub.history / MICROS_PER_HOUR,
        "types": alarm_views.WORDS,
    }


def letters_document(hub: Hub, now: int) -> dict[str, Any]:
    """Dead letters by reason in the last two hours. Whoever calls holds the lock. `now`: microseconds."""
    letters = hub.letters
    last = max(letters.newest, now // MICROS_PER_MINUTE * MICROS_PER_MINUTE)
    minutes = [last - (_LETTER_MINUTES - 1 - place) * MICROS_PER_MINUTE for place in range(_LETTER_MINUTES)]
    return {
        "version": letters.version,
        "minutes": [format_instant(minute) for minute in minutes],
        "step_seconds": 60,
        "total": letters.total,
        "reasons": [
            {
                "reason": each.name,
                "total": each.total,
                "used": each.used,
                "counts": [each.minutes.get(minute, 0) for minute in minutes],
                "last": None if each.last is None else msgspec.to_builtins(each.last),
            }
            for each in letters.reasons()
        ],
    }


def _integer(query: Any, name: str) -> int | None:
    text = query.get(name)
    if text is None or text == "":
        return None
    if not text.isdecimal() or not text.isascii() or len(text) > 18:
        raise _Refused(400, f"{name} is a whole number")
    return int(text)


def _instant(text: str) -> int:
    try:
        return parse_instant(text)
    except ValueError:
        raise _Refused(400, "window is a time such as 2026-03-03T10:15:00Z") from None
