"""Which event codes give alerts: `--event_map`, or the six codes of the article."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from ami_beam.io.files import ReplayError, file_lines

EventType = Literal[
    "LAST_GASP", "POWER_RESTORE", "OUTAGE_DETECTED", "TAMPER", "REVERSE_ENERGY", "POWER_QUALITY", "SAG", "SWELL",
    "PHASE_LOSS", "OTHER",
]  # fmt: skip
Severity = Literal["WARNING", "CRITICAL"]
COLUMNS = ("source", "code", "event_type", "severity")
_MAX_CODE = 200
_SHOWN_PROBLEMS = 10


class EventMapError(ValueError):
    """A map that cannot be used: names the file and, for each bad row, line, field, value and fix."""


class EventKind(NamedTuple):
    """What a code means. `name` stands for the description that the head-end did not send."""

    event_type: EventType
    severity: Severity
    name: str


@dataclass(frozen=True)
class EventMap:
    """Codes as texts with their kinds, hashable as part of the rules of a run."""

    kinds: tuple[tuple[str, EventKind], ...]
    takes_texts: bool
    """Whether an event may have its code as a text, where it is one of these."""

    def by_code(self) -> dict[str, EventKind]:
        """For looking codes up, made anew with each call."""
        return dict(self.kinds)

    def texts(self) -> frozenset[str]:
        """The codes that an event may have as a text."""
        return frozenset(code for code, _ in self.kinds) if self.takes_texts else frozenset()


# The six codes of the article that the product was ordered from (design section 5).
ARTICLE = EventMap(
    (
        ("3840", EventKind("LAST_GASP", "CRITICAL", "LAST_GASP")),
        ("3841", EventKind("POWER_RESTORE", "CRITICAL", "POWER_RESTORE")),
        ("3842", EventKind("OUTAGE_DETECTED", "CRITICAL", "OUTAGE_DETECTED")),
        ("2048", EventKind("TAMPER", "WARNING", "TAMPER_DETECTED")),
        ("2049", EventKind("REVERSE_ENERGY", "WARNING", "REVERSE_ENERGY")),
        ("1024", EventKind("POWER_QUALITY", "WARNING", "POWER_QUALITY")),
    ),
    takes_texts=False,
)


def load(path: str) -> EventMap:
    """The map of a CSV file, plain or .gz; lines that begin with # are passed over. Raises EventMapError."""
    try:
        content = b"".join(file_lines(path))
    except ReplayError as error:
        raise EventMapError(str(error)) from None
    except Exception as error:  # each file system has its own exceptions
        raise EventMapError(f"{path}: cannot be read: {error}") from error
    return parse(content, path)


def parse(content: bytes, path: str) -> EventMap:
    """The map in `content`; `path` is for messages. Raises EventMapError with the first problems of all rows."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise EventMapError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from None
    numbered = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line and line[0] != "#"]
    header = next(csv.reader([numbered[0][1]])) if numbered else []
    names = [name.strip() for name in header]
    if missing := [name for name in COLUMNS[1:] if name not in names]:
        columns = ", ".join(COLUMNS)
        raise EventMapError(f"{path}: the first line must name the columns {columns}; {missing[0]} is missing")
    problems: list[str] = []
    kinds: dict[str, EventKind] = {}
    for (number, _), row in zip(numbered[1:], csv.reader(line for _, line in numbered[1:]), strict=False):
        fields = {name: value.strip() for name, value in zip(names, row, strict=False)}
        problem = _problem(fields, kinds)
        if problem:
            problems.append(f"line {number}: {problem}")
        else:
            kind = EventKind(fields["event_type"], fields["severity"], fields["event_type"])  # type: ignore[arg-type]
            kinds[fields["code"]] = kind
    if not problems and not kinds:
        problems.append("there is no row: no event would give an alert")
    if problems:
        more = [f"and {len(problems) - _SHOWN_PROBLEMS} more"] if len(problems) > _SHOWN_PROBLEMS else []
        raise EventMapError("\n  ".join([f"{path}: bad event map", *problems[:_SHOWN_PROBLEMS], *more]))
    return EventMap(tuple(sorted(kinds.items())), takes_texts=True)


def _problem(fields: dict[str, str], known: dict[str, EventKind]) -> str | None:
    code = fields.get("code", "")
    if not code or len(code) > _MAX_CODE:
        return f"code must have 1 to {_MAX_CODE} characters"
    if code in known:
        return f"code {code!r} is in the map already; remove one of them"
    for name, allowed in (("event_type", get_args(EventType)), ("severity", get_args(Severity))):
        if fields.get(name) not in allowed:
            return f"{name}={fields.get(name, '')!r} must be one of {', '.join(allowed)}"
    return None
