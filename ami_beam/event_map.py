"""Which event codes give alerts: `--event_map`, or the six codes of the article."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from ami_beam import csv_table

EventType = Literal[
    "LAST_GASP", "POWER_RESTORE", "OUTAGE_DETECTED", "TAMPER", "REVERSE_ENERGY", "POWER_QUALITY", "SAG", "SWELL",
    "PHASE_LOSS", "OTHER",
]  # fmt: skip
Severity = Literal["WARNING", "CRITICAL"]
COLUMNS = ("source", "code", "event_type", "severity")
_MAX_CODE = 200


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
    """The map of a CSV file, plain or .gz; lines that begin with # are passed over. Raises TableError."""
    return parse(csv_table.read(path), path)


def parse(content: bytes, path: str) -> EventMap:
    """The map in `content`; `path` is for messages. Raises TableError with the first problems of all rows."""
    kinds: dict[str, EventKind] = {}

    def take(fields: dict[str, str]) -> str | None:
        problem = _problem(fields, kinds)
        if not problem:
            kind = EventKind(fields["event_type"], fields["severity"], fields["event_type"])  # type: ignore[arg-type]
            kinds[fields["code"]] = kind
        return problem

    empty = "there is no row: no event would give an alert"
    csv_table.take_rows(content, path, "event map", (COLUMNS[1:], COLUMNS), take, empty)
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
