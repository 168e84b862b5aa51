"""What `ami_beam.deadletter` says: tables for people, JSON for programs. Only `show` and repairs quote records."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ami_beam.instants import format_instant
from ami_beam.io.dead_letters import Found
from ami_beam.letter_replay import Ready, Selection, Tally
from ami_beam.record_sets import RecordSet
from ami_beam.repair import JsonObject
from ami_beam.terminal_text import printable

SHORT_BYTES = 4_096
"""So much of an original is shown unless all is asked for."""
_HEX_BYTES = 16
_VALUE_CHARACTERS = 200


@dataclass
class Group:
    """The letters of one topic and reason, each once."""

    letters: int = 0
    used: int = 0
    truncated: int = 0
    no_value: int = 0
    replayed: int = 0
    replayable: int = 0
    """Whole, of a record that was not used, and not replayed yet."""
    first: int | None = None
    last: int | None = None
    """Record times; where there is none, when the letter was set aside."""


@dataclass
class Listing:
    """All that `list` has found."""

    groups: dict[tuple[str, str], Group] = field(default_factory=dict)
    repeated: int = 0
    """Letters that were in the topic before: it is written at least once."""
    unreadable: int = 0


def listing(letters: Iterable[Found], selection: Selection, marked: RecordSet) -> Listing:
    """Counts the selected letters, each once."""
    found = Listing()
    takes = selection.test()
    seen: dict[str, RecordSet] = {}
    for letter, set_aside in letters:
        if not takes(letter, set_aside):
            continue
        if not seen.setdefault(letter.reason, RecordSet()).add(letter.record):
            found.repeated += 1
            continue
        group = found.groups.setdefault((letter.topic, letter.reason), Group())
        group.letters += 1
        group.used += letter.used
        group.truncated += letter.truncated
        group.no_value += letter.value is None
        replayed = letter.record in marked
        group.replayed += replayed
        group.replayable += not (letter.used or letter.truncated or letter.value is None or replayed)
        at = set_aside if letter.record_time is None else letter.record_time
        if at is not None:
            group.first = at if group.first is None else min(group.first, at)
            group.last = at if group.last is None else max(group.last, at)
    return found


def listing_json(found: Listing, where: str) -> dict[str, Any]:
    """Everything, for programs."""
    return {
        "source": where,
        "letters": sum(group.letters for group in found.groups.values()),
        "repeated": found.repeated,
        "unreadable": found.unreadable,
        "groups": [
            {
                "topic": topic,
                "reason": reason,
                "letters": group.letters,
                "replayable": group.replayable,
                "replayed": group.replayed,
                "used": group.used,
                "truncated": group.truncated,
                "no_value": group.no_value,
                "first": _time(group.first),
                "last": _time(group.last),
            }
            for (topic, reason), group in sorted(found.groups.items())
        ],
    }


def listing_text(found: Listing, where: str) -> str:
    """A table, the greatest group first."""
    if not found.groups:
        return f"No letters of that kind in {where}.{_unreadable(found.unreadable)}"
    head = ("topic", "reason", "letters", "replayable", "replayed", "used", "truncated", "first", "last")
    rows = [
        (
            printable(topic),
            printable(reason),
            *(f"{count:,}" for count in (g.letters, g.replayable, g.replayed, g.used, g.truncated)),
            _time(g.first) or "-",
            _time(g.last) or "-",
        )
        for (topic, reason), g in sorted(found.groups.items(), key=lambda each: (-each[1].letters, each[0]))
    ]
    groups = found.groups.values()
    total = sum(group.letters for group in groups)
    lines = _table([head, *rows], right=range(2, 7))
    lines += [
        "",
        f"{_counted(total, 'letter')} in {where}, of which {sum(g.replayable for g in groups):,} can be replayed and"
        f" {sum(g.replayed for g in groups):,} were.{_unreadable(found.unreadable)}",
    ]
    return "\n".join(lines)


def _unreadable(count: int) -> str:
    return f" {_counted(count, 'record')} there cannot be read as letters." if count else ""


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _time(instant: int | None) -> str | None:
    return None if instant is None else format_instant(instant)


def _table(rows: Sequence[Sequence[str]], right: Iterable[int]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    flush = set(right)
    return [
        "  ".join(
            cell.rjust(width) if place in flush else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def shown_json(letters: Sequence[Found], replayed: bool, document: Any) -> dict[str, Any]:
    """The letters of a record, and the record, for programs."""
    letter = letters[0].letter
    return {
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "record_time": _time(letter.record_time),
        "replayed": replayed,
        "letters": [
            {
                "reason": each.letter.reason,
                "detail": each.letter.detail,
                "used": each.letter.used,
                "set_aside": _time(each.set_aside),
            }
            for each in letters
        ],
        "value_b64": None if letter.value is None else base64.b64encode(letter.value).decode(),
        "value_size": letter.value_size,
        "value_sha256": letter.value_sha256,
        "avro": None if document is None else _plain(document),
    }


def shown_text(letters: Sequence[Found], replayed: bool, document: Any, full: bool) -> str:
    """The letters of a record, and the record as text or as hexadecimal digits; nothing in it steers a terminal."""
    letter = letters[0].letter
    lines = [
        f"{printable(str(letter.record))}, record time {_time(letter.record_time) or 'none'}"
        f"{', replayed' if replayed else ''}",
    ]
    for each in letters:
        when = f", set aside at {_time(each.set_aside)}" if each.set_aside is not None else ""
        used = ", used" if each.letter.used else ""
        lines.append(f"  {printable(each.letter.reason)}{used}{when}: {printable(each.letter.detail)}")
    lines.append("")
    if letter.value is None:
        return "\n".join([*lines, "The original has no value."])
    size = f"{len(letter.value):,} bytes"
    if letter.truncated:
        size = f"the first {len(letter.value):,} of {letter.value_size:,} bytes; SHA-256 {letter.value_sha256}"
    lines += [f"The original ({size}), which may hold customer data:", *original_lines(letter.value, full)]
    if document is not None:
        lines += ["", "As Avro:", *map(printable, json.dumps(_plain(document), indent=1).splitlines())]
    return "\n".join(lines)


def original_lines(value: bytes, full: bool) -> list[str]:
    """The bytes as lines of text where they are UTF-8, else of hexadecimal digits."""
    part = value if full else value[:SHORT_BYTES]
    more = [f"… {len(value) - len(part):,} more bytes: --full, or --raw"] if len(part) < len(value) else []
    try:
        # Of a part the last letter may be cut.
        text = (
            part.decode() if part is value else part.decode("utf-8", errors="strict" if _is_whole(part) else "ignore")
        )
        value.decode()
    except UnicodeDecodeError:
        return [*_hex_lines(part), *more]
    return [*map(printable, text.split("\n")), *more]


def _is_whole(part: bytes) -> bool:
    try:
        part.decode()
    except UnicodeDecodeError:
        return False
    return True


def _hex_lines(part: bytes) -> list[str]:
    lines = []
    for place in range(0, len(part), _HEX_BYTES):
        some = part[place : place + _HEX_BYTES]
        text = "".join(chr(each) if 32 <= each < 127 else "." for each in some)
        lines.append(f"{place:08x}  {some.hex(' '):<{_HEX_BYTES * 3 - 1}}  {text}")
    return lines


def _plain(document: Any) -> Any:
    """A document of Avro as JSON can have it."""
    if isinstance(document, dict):
        return {str(name): _plain(each) for name, each in document.items()}
    if isinstance(document, list | tuple):
        return [_plain(each) for each in document]
    if isinstance(document, bytes):
        return document.hex()
    return document if document is None or isinstance(document, str | int | float | bool) else str(document)


@dataclass
class Outcome:
    """What a replay has done, or would do."""

    where: str
    to: str
    """Topics, or a file."""
    done: bool
    """False: nothing was published."""
    tally: Tally
    samples: list[Ready]
    unreadable: int = 0

    @property
    def count(self) -> int:
        """How many records go back in."""
        return self.tally.ready.total()


def outcome_json(found: Outcome) -> dict[str, Any]:
    """Everything, for programs."""
    tally = found.tally
    return {
        "source": found.where,
        "to": found.to,
        "published": found.done,
        "letters_read": tally.read,
        "unreadable": found.unreadable,
        "selected": tally.selected,
        "replayed": found.count,
        "repaired": tally.repaired,
        "forced": tally.forced,
        "left": tally.left.total(),
        "groups": [
            {"topic": topic, "reason": reason, "replayed": count}
            for (topic, reason), count in sorted(tally.ready.items())
        ],
        "left_groups": [
            {
                "topic": topic,
                "reason": reason,
                "cause": cause,
                "letters": count,
                "example": {
                    "record": f"{topic}:{tally.examples[topic, reason, cause].partition}"
                    f":{tally.examples[topic, reason, cause].offset}",
                    "detail": tally.examples[topic, reason, cause].detail,
                },
            }
            for (topic, reason, cause), count in sorted(tally.left.items())
        ],
        "samples": [{"record": str(each.letter.record), "changes": _changes_json(each)} for each in found.samples],
    }


def _changes_json(ready: Ready) -> list[dict[str, Any]]:
    before, after = ready.repaired.before or {}, ready.repaired.after or {}
    changes: list[dict[str, Any]] = []
    for name in _changed(before, after):
        change = {"field": name}
        if name in before:
            change["before"] = before[name]
        if name in after:
            change["after"] = after[name]
        changes.append(change)
    return changes


def _changed(before: JsonObject, after: JsonObject) -> list[str]:
    names = [*before, *(name for name in after if name not in before)]
    return [
        name for name in names if name not in before or name not in after or _text(before[name]) != _text(after[name])
    ]


def _text(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _VALUE_CHARACTERS else text[:_VALUE_CHARACTERS] + "…"


def outcome_text(found: Outcome) -> str:
    """What goes, what stays and why, and of some repairs the fields that they change."""
    tally = found.tally
    verb = "replayed" if found.done else "would be replayed"
    lines = [
        f"Selected: {_counted(tally.selected, 'record')}, of {_counted(tally.read, 'letter')} in {found.where}."
        f"{_unreadable(found.unreadable)}"
    ]
    if tally.ready:
        head = ("topic", "reason", verb)
        rows = [
            (printable(topic), printable(reason), f"{count:,}")
            for (topic, reason), count in sorted(tally.ready.items())
        ]
        lines += ["", *_table([head, *rows], right=[2])]
    if tally.left:
        lines += ["", "These stay:"]
        left = []
        for key, count in sorted(tally.left.items()):
            example = tally.examples[key]
            place = f"{example.topic}:{example.partition}:{example.offset}"
            left.append((*map(printable, key[:2]), f"{count:,}", key[2], printable(f"{place}: {example.detail}")))
        lines += _table([("topic", "reason", "letters", "cause", "for example"), *left], right=[2])
    if found.samples:
        lines += ["", "Repairs, by the fields that they change (this may be customer data):"]
        for each in found.samples:
            lines += [f"  {printable(str(each.letter.record))} {each.letter.reason}", *_sample_lines(each)]
    repaired = f", {tally.repaired:,} of them repaired" if tally.repaired else ""
    forced = f"; {tally.forced:,} of them would be set aside again" if tally.forced else ""
    lines += [
        "",
        f"{_counted(found.count, 'record')} {verb} to {found.to}{repaired}{forced}; {tally.left.total():,} stay.",
    ]
    if not found.done and tally.ready:
        lines.append("Nothing was published: --yes does it.")
    return "\n".join(lines)


def _sample_lines(ready: Ready) -> list[str]:
    before, after = ready.repaired.before, ready.repaired.after
    if before is None or after is None:
        return ["    bytes that are no JSON object became others"]
    return [
        f"    {printable(name)}: {_side(before, name)} → {_side(after, name)}" for name in _changed(before, after)
    ] or ["    other bytes for the same fields"]


def _side(record: JsonObject, name: str) -> str:
    return printable(_text(record[name])) if name in record else "(none)"
