"""The TOML file that describes a source: what it may say, and the checked value that it becomes.

Unknown keys are refused. Secrets are named by file or environment variable and never written into the file.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import parse_qsl, urlsplit

import msgspec
from msgspec import Struct

from ami_beam.codecs import json_events, json_reads
from ami_beam.headend.json_paths import PathError, check_path
from ami_beam.instants import parse_duration, parse_instant
from ami_beam.local_days import all_zones, is_zone

Kind = Literal["reads", "events"]
Scalar = str | int | float | bool
READ_FIELDS = (*json_reads.REQUIRED, "voltage_v")
EVENT_FIELDS = (*json_events.REQUIRED, "event_desc")
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class SourceError(ValueError):
    """A source that cannot be used: names file, key, what is wrong and what to write."""


class NoAuthentication(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="none", tag_field="type"):
    """Whoever reaches the API may read it."""


class Basic(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="basic", tag_field="type"):
    """User name and password."""

    username: str
    password_file: str | None = None
    password_env: str | None = None


class Token(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="token", tag_field="type"):
    """A token that the utility was given."""

    token_file: str | None = None
    token_env: str | None = None
    header: str = "Authorization"
    scheme: str = "Bearer"
    """Before the token; "" for none."""
    parameter: str | None = None
    """Of the query, where the head-end takes no header."""


class OAuth2(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="oauth2", tag_field="type"):
    """OAuth 2 client credentials (RFC 6749, 4.4)."""

    token_url: str
    client_id: str
    client_secret_file: str | None = None
    client_secret_env: str | None = None
    scope: str | None = None
    credentials_in: Literal["header", "body"] = "header"


class NoPages(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="none", tag_field="type"):
    """One answer has everything that was asked for."""


class Pages(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="page", tag_field="type"):
    """Numbered pages, until one has no records or is not there."""

    parameter: str = "page"
    first: int = 1
    last_repeats: bool = False
    """Whether the head-end gives the last page again for every number behind it."""
    size_parameter: str | None = None
    size: int | None = None


class Offsets(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="offset", tag_field="type"):
    """So many records from a place on, until there are fewer."""

    size: int
    parameter: str = "offset"
    size_parameter: str = "limit"


class Cursors(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="cursor", tag_field="type"):
    """Each answer says what to ask with for the next, and nothing at the end."""

    next: str
    """Path of it in the answer."""
    parameter: str = "cursor"
    size_parameter: str | None = None
    size: int | None = None


class Links(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="link", tag_field="type"):
    """Each answer has the address of the next, and none at the end."""

    next: str | None = None
    """Path of it in the answer; without one the HTTP header Link with rel=next is taken."""


class Request(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the API is asked."""

    method: Literal["GET", "POST"] = "GET"
    parameters_in: Literal["query", "body"] = "query"
    """Where paging and period go. In a JSON body names may be paths: dateRange/start."""
    query: dict[str, Scalar] = {}
    headers: dict[str, str] = {}
    body: dict[str, Any] = {}
    rate: float = 5.0
    """Requests a second, at most."""
    burst: int = 5
    connect_timeout: str = "5s"
    timeout: str = "30s"
    """For a whole answer, however slowly it comes."""
    attempts: int = 5
    """Of a page, before the one after it is tried."""
    backoff: str = "1s"
    """The longest wait after a first failure; it doubles with each further one, up to 5 minutes."""
    max_page_mb: int = 64
    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None
    allow_http: bool = False
    """Whether secrets may go over plain HTTP to another machine."""


class Period(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The API is asked for ranges of time."""

    begin: str
    """Names of the parameters."""
    end: str
    format: str = "iso"
    """iso, epoch_s, epoch_ms or a pattern of strftime, in the source's clock."""
    chunk: str = "1d"
    """The longest range that is asked for at once."""
    start: str = "now"
    """Where the first poll begins: now, or a time."""


class Times(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How times without a zone are meant, and what the time of an interval is."""

    time_zone: str = "UTC"
    dst: Literal["utc", "local", "standard"] = "local"
    interval_label: Literal["end", "begin"] = "end"
    interval: str = "15m"
    format: str = "iso"
    dst_flag: str | None = None
    """Path of a field that says whether a time is in daylight saving time."""
    order: Literal["ascending", "descending"] = "ascending"
    """Of a meter's records in an answer."""


class Lookup(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A CSV file that knows of meters what the head-end does not."""

    file: str
    key: str = "meter_id"
    """The field whose value is looked for, and the column that it is looked for in."""


class FieldRule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the value of one field comes from: one of path, constant, lookup and collected."""

    path: str | None = None
    constant: Scalar | None = None
    lookup: str | None = None
    """A column of the lookup file."""
    collected: bool = False
    """The time at which the answer came."""
    factor: float | None = None
    """What a number is multiplied by: 0.001 for Wh."""
    values: dict[str, Scalar] | None = None
    """What each of the head-end's values stands for."""
    default: Scalar | None = None
    """Where there is no value, or one that `values` does not have."""
    format: str | None = None
    prefix: str = ""


class _File(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file, as it is written."""

    name: str
    url: str
    records: str
    fields: dict[str, str | FieldRule]
    kind: Kind = "reads"
    topic: str | None = None
    every: str = "1m"
    look_back: str = "1h"
    authentication: NoAuthentication | Basic | Token | OAuth2 = NoAuthentication()
    request: Request = Request()
    paging: NoPages | Pages | Offsets | Cursors | Links = NoPages()
    period: Period | None = None
    times: Times = Times()
    lookup: Lookup | None = None


Authentication = NoAuthentication | Basic | Token | OAuth2
Paging = NoPages | Pages | Offsets | Cursors | Links


class AskedPeriod(Struct, frozen=True):
    """Ranges of time, checked; durations in microseconds."""

    begin: str
    end: str
    format: str
    chunk: int
    start: int | None
    """None: now."""


class Source(Struct, frozen=True):
    """A checked source; durations in microseconds."""

    path: str
    name: str
    kind: Kind
    topic: str | None
    url: str
    records: str
    fields: dict[str, FieldRule]
    every: int
    look_back: int
    authentication: Authentication
    request: Request
    connect_timeout: int
    timeout: int
    backoff: int
    paging: Paging
    period: AskedPeriod | None
    times: Times
    interval: int
    lookup: Lookup | None


def load_source(path: str | Path) -> Source:
    """The source that a file describes. Raises SourceError."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: cannot be read: {error}") from None
    return parse_source(text, str(path))


def parse_source(text: str, path: str) -> Source:
    """The source that a TOML text describes; `path` is its name in messages, and paths in it begin at its folder."""
    try:
        written = msgspec.convert(tomllib.loads(text), _File)
    except tomllib.TOMLDecodeError as error:
        raise SourceError(f"{path}: no TOML: {error}") from None
    except msgspec.ValidationError as error:
        raise SourceError(f"{path}: {_explained(str(error))}") from None
    check = _Checks(path)
    check.name(written.name)
    check.addresses(written)
    fields = check.fields(written)
    check.paging(written.paging, written.period)
    check.times(written.times)
    request = written.request
    if not 0 < request.rate <= 10_000 or request.burst < 1:
        check.fail("request.rate", request.rate, "is no rate of requests a second", "above 0, and burst 1 or more")
    if not 1 <= request.attempts <= 100:
        check.fail("request.attempts", request.attempts, "is no number of attempts", "1 to 100")
    if not 1 <= request.max_page_mb <= 1024:
        check.fail("request.max_page_mb", request.max_page_mb, "is no size of a page", "1 to 1024 megabytes")
    if request.parameters_in == "body" and request.method != "POST":
        check.fail("request.parameters_in", "body", "needs a request with a body", 'method = "POST"')
    return Source(
        path=path,
        name=written.name,
        kind=written.kind,
        topic=written.topic,
        url=written.url,
        records=check.path("records", written.records),
        fields=fields,
        every=check.duration("every", written.every, least=100_000),
        look_back=check.duration("look_back", written.look_back, least=0),
        authentication=_from_folder(written.authentication, path),
        request=_from_folder(request, path),
        connect_timeout=check.duration("request.connect_timeout", request.connect_timeout),
        timeout=check.duration("request.timeout", request.timeout),
        backoff=check.duration("request.backoff", request.backoff),
        paging=written.paging,
        period=check.period(written.period),
        times=written.times,
        interval=check.duration("times.interval", written.times.interval),
        lookup=None if written.lookup is None else _from_folder(written.lookup, path),
    )


_Table = TypeVar("_Table", bound=Struct)


def _from_folder(table: _Table, path: str) -> _Table:
    """The table with its files found from the folder of the source's file, and not from where the command runs."""
    folder = Path(path).parent
    files = {
        name: str(folder / value)
        for name in table.__struct_fields__
        if (name == "file" or name.endswith("_file")) and (value := getattr(table, name)) is not None
    }
    return msgspec.structs.replace(table, **files)


_KEYS: dict[str, type[Struct]] = {
    "": _File, "request": Request, "period": Period, "times": Times, "lookup": Lookup,
}  # fmt: skip


def _explained(message: str) -> str:
    """msgspec's words, and for an unknown key what was probably meant."""
    match = re.fullmatch(r"Object contains unknown field `([^`]*)`(?: - at `\$\.?([^`]*)`)?", message)
    if match is None:
        return message.replace("Object missing required field", "a key is missing:").replace("`$.", "`")
    key, place = match[1], (match[2] or "").removesuffix("[...]")
    tables: list[type[Struct]] = [_KEYS[place]] if place in _KEYS else []
    if place == "fields":
        tables = [FieldRule]
    if place == "authentication":
        tables = [NoAuthentication, Basic, Token, OAuth2]
    if place == "paging":
        tables = [NoPages, Pages, Offsets, Cursors, Links]
    known = [name for table in tables for name in table.__struct_fields__]
    near = difflib.get_close_matches(key, known, 1)
    where = f" in [{place}]" if place else ""
    hint = f"; did you mean {near[0]}" if near else ""
    return f"{key}{where}: no such key{hint}. Allowed: {', '.join(dict.fromkeys(known)) or 'see docs/ingestion.md'}"


class _Checks:
    """The checks of single keys. Each returns a value or raises SourceError."""

    def __init__(self, path: str) -> None:
        self._path = path

    def fail(self, key: str, value: object, problem: str, allowed: str) -> Any:
        shown = "" if value is None else f" = {value!r}"
        raise SourceError(f"{self._path}: {key}{shown}: {problem}. Allowed: {allowed}.")

    def name(self, name: str) -> None:
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,100}", name):
            self.fail("name", name, "cannot name a source", "letters, digits, '.', '_' and '-'")

    def duration(self, key: str, text: str, least: int = 1_000) -> int:
        try:
            duration = parse_duration(text)
        except ValueError:
            duration = -1
        if not least <= duration <= 3_660 * 86_400_000_000:
            self.fail(key, text, "is not a duration in range", "a whole number and one of ms, s, m, h, d: 15m")
        return duration

    def path(self, key: str, path: str) -> str:
        try:
            check_path(path)
        except PathError as error:
            self.fail(key, path, str(error), "names with / between them, * for every element: data/*/readings/*")
        return path

    def addresses(self, written: _File) -> None:
        authentication = written.authentication
        addresses = {"url": written.url}
        if isinstance(authentication, OAuth2):
            addresses["authentication.token_url"] = authentication.token_url
        for key, url in addresses.items():
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                self.fail(key, _without_login(url), "is no address of an HTTP API", "https://host/path")
            if parts.username is not None or parts.password is not None:
                self.fail(key, _without_login(url), "has a login in it", "an address without one, and [authentication]")
            plain = parts.scheme == "http" and parts.hostname not in _LOOPBACK
            if plain and not isinstance(authentication, NoAuthentication) and not written.request.allow_http:
                self.fail(
                    key,
                    url,
                    "would send secrets in the clear",
                    "https, or allow_http = true in [request] if it must be",
                )
        for header in written.request.headers:
            if header.lower() in ("authorization", "proxy-authorization", "cookie", "x-api-key"):
                self.fail(
                    f"request.headers.{header}", None, "is where secrets are", "[authentication], with its header"
                )
        if parse_qsl(urlsplit(written.url).query):
            self.fail("url", written.url.partition("?")[0] + "?…", "has parameters in it", "them in [request] query")
        for table, names in (("query", written.request.query), ("body", written.request.body)):
            for name in names:
                if re.search(r"(?i)password|secret|token|api_?key|^key$|^sig(nature)?$", name):
                    key = f"request.{table}.{name}"
                    self.fail(
                        key, None, "looks like a secret", "[authentication], which can send it in header or parameter"
                    )
        for name, kinds in (("password", Basic), ("token", Token), ("client_secret", OAuth2)):
            if isinstance(authentication, kinds):
                given = [getattr(authentication, f"{name}_file"), getattr(authentication, f"{name}_env")]
                if (given[0] is None) == (given[1] is None):
                    key = f"authentication.{name}_file"
                    self.fail(key, None, "say where the secret is", f"one of {name}_file and {name}_env")

    def fields(self, written: _File) -> dict[str, FieldRule]:
        known = READ_FIELDS if written.kind == "reads" else EVENT_FIELDS
        rules: dict[str, FieldRule] = {}
        for name, rule in written.fields.items():
            key = f"fields.{name}"
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"; did you mean {near[0]}" if near else ""
                self.fail(key, None, f"{written.kind} have no such field{hint}", ", ".join(known))
            rule = FieldRule(path=rule) if isinstance(rule, str) else rule
            given = [
                each
                for each, there in (
                    ("path", rule.path is not None),
                    ("constant", rule.constant is not None),
                    ("lookup", rule.lookup is not None),
                    ("collected", rule.collected),
                )
                if there
            ]
            if len(given) != 1:
                self.fail(
                    key,
                    None,
                    f"has {' and '.join(given) or 'none'} of them",
                    "one of path, constant, lookup, collected",
                )
            if rule.path is not None:
                self.path(f"{key}.path", rule.path)
            if rule.lookup is not None and written.lookup is None:
                self.fail(key, None, "there is no table to look it up in", '[lookup] with file = "meters.csv"')
            if rule.format is not None:
                self.format(f"{key}.format", rule.format)
            if rule.factor is not None and not name.endswith(("_kwh", "_v")):
                self.fail(f"{key}.factor", rule.factor, "only energies and voltages have a unit", "leave it out")
            rules[name] = rule
        needed = {"meter_id", "event_code", "event_ts"} if written.kind == "events" else {
            "meter_id", "service_point_id", "customer_id", "transformer_id", "feeder_id",
        }  # fmt: skip
        for name in sorted(needed - rules.keys()):
            self.fail(f"fields.{name}", None, "is missing", 'a path, or { constant = "…" } where the head-end has none')
        if written.kind == "reads":
            if not {"interval_start", "interval_end"} & rules.keys():
                self.fail("fields.interval_end", None, "is missing", "interval_end or interval_start, or both")
            if not {"consumption_kwh", "delivered_kwh"} & rules.keys():
                self.fail("fields.consumption_kwh", None, "is missing", "consumption_kwh, or delivered_kwh, or both")
            label = written.times.interval_label
            given_time = "interval_start" if label == "begin" else "interval_end"
            if given_time not in rules:
                self.fail(
                    "times.interval_label",
                    label,
                    f"but fields has no {given_time}",
                    f"{given_time}, or the other label",
                )
        if written.lookup is not None and written.lookup.key not in rules:
            self.fail("lookup.key", written.lookup.key, "is no field that is mapped", ", ".join(rules))
        return rules

    def format(self, key: str, form: str) -> None:
        if form not in ("iso", "epoch_s", "epoch_ms") and "%" not in form:
            self.fail(key, form, "is no format of times", "iso, epoch_s, epoch_ms, or a pattern such as %m/%d/%Y %H:%M")

    def paging(self, paging: Paging, period: Period | None) -> None:
        if isinstance(paging, Cursors | Links) and paging.next is not None:
            self.path("paging.next", paging.next)
        size = getattr(paging, "size", None)
        if size is not None and size < 1:
            self.fail("paging.size", size, "is no number of records", "1 or more")
        if isinstance(paging, NoPages) and period is None:
            self.fail("paging", None, "there is neither paging nor period", "[period], [paging], or both")

    def times(self, times: Times) -> None:
        if not is_zone(times.time_zone):
            near = difflib.get_close_matches(times.time_zone, all_zones(), 1)
            hint = f"; did you mean {near[0]}" if near else ""
            self.fail("times.time_zone", times.time_zone, f"is no time zone{hint}", "a name of the IANA data base")
        self.format("times.format", times.format)
        if times.dst_flag is not None:
            self.path("times.dst_flag", times.dst_flag)

    def period(self, period: Period | None) -> AskedPeriod | None:
        if period is None:
            return None
        self.format("period.format", period.format)
        start = None
        if period.start != "now":
            try:
                start = parse_instant(period.start)
            except ValueError as error:
                self.fail("period.start", period.start, str(error), "now, or a time such as 2026-03-01T00:00:00Z")
        chunk = self.duration("period.chunk", period.chunk, least=1_000_000)
        return AskedPeriod(period.begin, period.end, period.format, chunk, start)


def _without_login(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//…@", url)
